//! What the fuzz target `import` does: any bytes as a file of either format never make an importer panic, and ordinals only rise.

use matchtape::import::dbn::{self, DbnSource};
use matchtape::import::sse::{self, SseSource};
use matchtape::import::{Directory, Input, Item, OnError, Source};

/// Imports these bytes as either format; returns how many events they make.
pub fn survive(bytes: &[u8]) -> usize {
    let mut events = 0;
    for on_error in [OnError::Stop, OnError::Skip] {
        let input = || Input::of_bytes("fuzz", bytes.to_vec());
        if let Ok(file) = input() {
            let options = dbn::Options { instruments: Vec::new(), on_error, id: None };
            if let Ok(source) = DbnSource::open(file, Directory::new(), &options) {
                events += drain(source);
            }
        }
        if let Ok(file) = input() {
            let options = sse::Options { instruments: Vec::new(), on_error, id: None };
            if let Ok(source) = SseSource::open(vec![file], Directory::new(), &options, &mut |_| {}) {
                events += drain(source);
            }
        }
    }
    events
}

fn drain(mut source: impl Source) -> usize {
    let (mut last, mut count) = (0, 0);
    while let Ok(Some(item)) = source.next() {
        if let Item::Records(events) = item {
            for event in events {
                assert!(event.producer_sequence.get() > last);
                last = event.producer_sequence.get();
                count += 1;
            }
        }
    }
    count
}
