//! A served node that keeps little: old tables go while it runs, and what is asked of the rest is answered as before.

mod shared_memory;
mod watched;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use matchtape::server::{Server, ServerError};
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::{InstrumentDefined, OrderAccepted, Side, StateSet};
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use watched::Bus;

/// A day's events, and a table of their own for them.
fn day(tape: &Path, first: bool) {
    let node = Node::open(tape, NodeOptions::default(), matchtape_market::projections()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let mut number = publisher.last().map_or(0, |last| last.get());
    let mut publish = |instrument: u32, body: Body| {
        number += 1;
        let (instrument, time) = (InstrumentId(instrument), EventTime(number as i64));
        publisher.publish(&Event::new(instrument, ProducerSequence(number), time, body)).unwrap().sequence()
    };
    if first {
        publish(0, StateSet::new(b"limits/alpha", b"1000").unwrap().into());
        let symbol = Text::new("ALFA").unwrap();
        publish(1, InstrumentDefined { symbol, ..InstrumentDefined::default() }.into());
    }
    let mut last = Sequence::ZERO;
    for order in 1..=100 {
        let order = OrderId(if first { order } else { order + 1000 });
        let (price, quantity) = (Price::from_units(100), Quantity::from_units(3));
        let body =
            OrderAccepted { order_id: order, side: Side::Buy, price, quantity, ..OrderAccepted::default() };
        last = publish(1, body.into());
    }
    drop(publisher);
    node.wait(last, Stage::Visible).unwrap();
    // Closing flushes.
    node.close().unwrap();
}

struct Served {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
    server: Server,
    bus: Bus,
}

impl Served {
    fn start(tape: &Path, settings: &[(&str, &str)]) -> Self {
        let mut bus = Bus::new("retention");
        let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(["serve", "--data", tape.to_str().unwrap(), "--listen", "127.0.0.1:0"])
            .envs(bus.settings())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let page = out.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("page ")?.to_owned()));
        // What is dropped meanwhile may be where it would have begun.
        bus.watch_from(tape, "new");
        Self { child, said, server: Server::new(&page.expect("it says where its page is")).unwrap(), bus }
    }

    fn waits_until_it_says(&mut self, words: &str) -> String {
        let said = self.said.by_ref().map_while(Result::ok).find(|line| line.contains(words));
        said.unwrap_or_else(|| panic!("it ended without saying {words:?}"))
    }

    fn answers(&self) -> [Value; 2] {
        let state = self.server.state("/v1/state/limits/alpha", &[]).unwrap();
        let depth = [("instrument", "ALFA".to_owned()), ("depth", "5".to_owned())];
        let book: Value = self.server.object("/v1/book", &depth).unwrap();
        [String::from_utf8(state).unwrap().into(), book]
    }

    fn stop(mut self) {
        self.bus.ends_clean();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    /// After a test that failed; one that was stopped is gone.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_node_drops_what_it_was_told_not_to_keep_and_still_knows_its_state() {
    let folder = tempfile::tempdir().unwrap();
    // Fewer tables than compaction makes one of.
    for first in [true, false, false] {
        day(folder.path(), first);
    }
    let events = [("from", "1".to_owned()), ("limit", "1".to_owned())];

    // A day between two looks, and no rule: all is there, and stopping does not wait for the next look.
    let served = Served::start(folder.path(), &[("MATCHTAPE_RETENTION__INTERVAL_SECONDS", "86400")]);
    let before = served.answers();
    assert_eq!(before[1]["bids"].as_array().map(Vec::len), Some(1), "{}", before[1]);
    let page: Value = served.server.object("/v1/events", &events).unwrap();
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1), "{page}");
    served.stop();

    let settings = [("MATCHTAPE_RETENTION__INTERVAL_SECONDS", "1"), ("MATCHTAPE_RETENTION__KEEP_BYTES", "1")];
    let mut served = Served::start(folder.path(), &settings);
    let said = served.waits_until_it_says("are dropped");
    assert!(said.contains("in 1s sequences 1 to") && said.contains("the whole tape"), "{said}");
    served.waits_until_it_says("dropped");
    let said = served.waits_until_it_says("the tape begins at sequence");
    assert!(said.contains("(before: 1)"), "{said}");
    let refused = served.server.object::<Value>("/v1/events", &events).unwrap_err();
    assert!(
        matches!(&refused, ServerError::Refused { status: 410, error, .. } if error == "below_retention"),
        "{refused}"
    );
    assert_eq!(served.answers(), before);
    served.stop();
}
