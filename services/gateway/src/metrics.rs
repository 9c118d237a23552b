//! What the gateway counts about itself.

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

    /// In the Prometheus text format.
    pub(crate) fn write(&self, out: &mut String) {
        let mut line = |name: &str, help: &str, value: &AtomicU64| {
            out.push_str(&format!(
                "# HELP matchtape_gateway_{name}_total {help}\n# TYPE matchtape_gateway_{name}_total counter\n\
                 matchtape_gateway_{name}_total {}\n",
                value.load(Relaxed)
            ));
        };
        line("connections_opened", "WebSocket connections accepted.", &self.connections_opened);
        line("connections_closed", "WebSocket connections ended, for any reason.", &self.connections_closed);
        line("connections_refused", "WebSocket connections refused at the limit.", &self.connections_refused);
        line("messages_sent", "WebSocket messages sent.", &self.messages_sent);
        line("bytes_sent", "Bytes of WebSocket messages sent.", &self.bytes_sent);
        line("messages_received", "WebSocket messages received.", &self.messages_received);
        line(
            "switches_to_log",
            "Subscriptions that fell behind and were served from the log.",
            &self.switches_to_log,
        );
        line(
            "conflations",
            "Book changes merged or replaced by a snapshot for a slow client.",
            &self.conflations,
        );
        line("http_requests", "HTTP requests under /v1.", &self.http_requests);
        line("events_published", "Events put onto the tape for producers outside.", &self.events_published);
        out.push_str(
            "# HELP matchtape_gateway_closes_total Connections the gateway closed, by reason.\n\
             # TYPE matchtape_gateway_closes_total counter\n",
        );
        for (reason, count) in CloseReason::ALL.iter().zip(&self.closes) {
            out.push_str(&format!(
                "matchtape_gateway_closes_total{{reason=\"{}\"}} {}\n",
                reason.name(),
                count.load(Relaxed)
            ));
        }
    }
}
