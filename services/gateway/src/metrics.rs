//! What the gateway counts about itself, and how numbers are written.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ws::CloseReason;

/// Counters since the start. Relaxed everywhere: each is looked at alone.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections_opened: AtomicU64,
    pub(crate) connections_closed: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) messages_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) switches_to_log: AtomicU64,
    pub(crate) conflations: AtomicU64,
    pub(crate) http_requests: AtomicU64,
    pub(crate) events_published: AtomicU64,
    closes: [AtomicU64; CloseReason::ALL.len()],
}

impl Metrics {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    pub(crate) fn closed_for(&self, reason: CloseReason) {
        let place = CloseReason::ALL.iter().position(|other| *other == reason).expect("ALL has every reason");
        Self::count(&self.closes[place]);
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        for (name, help, value) in [
            ("connections_opened", "WebSocket connections accepted.", &self.connections_opened),
            ("connections_closed", "WebSocket connections ended, for any reason.", &self.connections_closed),
            ("connections_refused", "WebSocket connections refused at the limit.", &self.connections_refused),
            ("messages_sent", "WebSocket messages sent.", &self.messages_sent),
            ("bytes_sent", "Bytes of WebSocket messages sent.", &self.bytes_sent),
            ("messages_received", "WebSocket messages received.", &self.messages_received),
            (
                "switches_to_log",
                "Subscriptions that fell behind and were served from the log.",
                &self.switches_to_log,
            ),
            (
                "conflations",
                "Book changes merged or replaced by a snapshot for a slow client.",
                &self.conflations,
            ),
            ("http_requests", "HTTP requests under /v1.", &self.http_requests),
            ("events_published", "Events put onto the tape for producers outside.", &self.events_published),
        ] {
            out.counter(&format!("matchtape_gateway_{name}_total"), help, value.load(Relaxed));
        }
        let name = "matchtape_gateway_closes_total";
        out.family(name, "counter", "Connections the gateway closed, by reason.");
        for (reason, count) in CloseReason::ALL.iter().zip(&self.closes) {
            out.sample(name, &[("reason", reason.name())], count.load(Relaxed));
        }
    }
}

/// Numbers in the Prometheus text format.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

impl Exposition {
    /// What the samples that follow are of.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.text, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    pub(crate) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_choose_cannot_break_a_line() {
        let mut out = Exposition::default();
        out.gauge("plain", "Help.", 1);
        out.sample("named", &[("kind", "consumer"), ("name", "a\"b\\c\nd")], 2);
        let expected = "# HELP plain Help.\n# TYPE plain gauge\nplain 1\nnamed{kind=\"consumer\",name=\"a\\\"b\\\\c\\nd\"} 2\n";
        assert_eq!(out.into_text(), expected);
    }
}
