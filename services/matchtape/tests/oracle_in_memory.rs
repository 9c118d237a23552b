//! Both data sets through their importers into a tape in memory: every count, hash, bar, book and checkpoint of
//! `expected.json`.

mod oracle;
#[path = "../../../distribution/market/tests/common/mod.rs"]
mod tape;

use std::path::Path;

use matchtape::import::dbn::{self, DbnSource};
use matchtape::import::sse::{self, SseSource};
use matchtape::import::{Directory, Input, Item, OnError, Source};
use tape::Tape;

fn tape_of(mut source: impl Source) -> (Tape, matchtape::import::Tally) {
    let mut tape = Tape::new();
    while let Some(item) = source.next().unwrap() {
        match item {
            Item::DayBegins(_) => {}
            Item::Definition(event) => tape.push(&event),
            Item::Records(events) => events.iter().for_each(|event| tape.push(event)),
        }
    }
    assert_eq!(source.progress().done, source.progress().total);
    (tape, source.tally().clone())
}

fn agree(expected: &serde_json::Value, found: &serde_json::Value, left_out: &[&str]) {
    let mut differences = Vec::new();
    oracle::compare("", expected, found, left_out, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_shanghai_day_is_what_the_oracle_says() {
    let Some(data) = oracle::data() else { return };
    let folder = data.join("sse_l2_20230711");
    let expected = oracle::expected(&folder);
    let options = sse::Options { instruments: Vec::new(), on_error: OnError::Stop, id: None };
    let open = |names: [&str; 2]| {
        let files = names.map(|name| Input::open(&folder.join(name)).unwrap());
        SseSource::open(files.into(), Directory::new(), &options, &mut |_| {}).unwrap()
    };
    let source = open(["orders.csv.gz", "trades.csv.gz"]);
    assert_eq!(source.id(), open(["trades.csv.gz", "orders.csv.gz"]).id());
    let (tape, tally) = tape_of(source);
    let mut oracle = oracle::sse::Oracle::new(&expected);
    tape.each(|event| oracle.apply(event));
    let described = ["/format", "/files", "/date", "/timezone", "/price_unit", "/qty_unit"];
    agree(&expected, &oracle.finish(), &described);
    assert_eq!((tally.records, tally.back_in_time, tally.malformed), (111_426, 2449, 0));
}

fn dbn_tape(file: &Path) -> (Tape, matchtape::import::SourceId) {
    let options = dbn::Options { instruments: Vec::new(), on_error: OnError::Stop, id: None };
    let source = DbnSource::open(Input::open(file).unwrap(), Directory::new(), &options).unwrap();
    let id = source.id();
    let (tape, tally) = tape_of(source);
    assert_eq!((tally.records, tally.malformed, tally.groups_cut, tally.back_in_time), (68_792, 0, 0, 0));
    (tape, id)
}

#[test]
fn the_cme_day_is_what_the_oracle_says() {
    let Some(data) = oracle::data() else { return };
    let folder = data.join("cme_mbo_esh4_20231225");
    let expected = oracle::expected(&folder);
    let (tape, id) = dbn_tape(&folder.join("esh4-glbx-mdp3-20231225.mbo.dbn"));
    let mut oracle = oracle::dbn::Oracle::new(&expected);
    tape.each(|event| oracle.apply(event));
    agree(&expected, &oracle.finish(), &["/format", "/file", "/metadata"]);

    let (compressed, same_id) = dbn_tape(&folder.join("esh4-glbx-mdp3-20231225.mbo.dbn.zst"));
    assert_eq!(id, same_id, "compressed or not, it is the same source");
    let (mut plain, mut other) = (Vec::new(), Vec::new());
    tape.each(|event| plain.extend_from_slice(event.bytes()));
    compressed.each(|event| other.extend_from_slice(event.bytes()));
    assert!(plain == other);
}
