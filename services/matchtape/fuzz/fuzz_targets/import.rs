//! Any bytes as a file of either format: the importers never panic, and ordinals only rise.
//!
//!     RUSTC_BOOTSTRAP=1 cargo fuzz run import -- -max_total_time=600      (in services/matchtape/)
#![no_main]

use libfuzzer_sys::fuzz_target;
use matchtape::import::dbn::{self, DbnSource};
use matchtape::import::sse::{self, SseSource};
use matchtape::import::{Directory, Input, Item, OnError, Source};

fuzz_target!(|bytes: &[u8]| {
    for on_error in [OnError::Stop, OnError::Skip] {
        let input = || Input::of_bytes("fuzz", bytes.to_vec());
        if let Ok(file) = input() {
            let options = dbn::Options { instruments: Vec::new(), on_error, id: None };
            if let Ok(source) = DbnSource::open(file, Directory::new(), &options) {
                drain(source);
            }
        }
        if let Ok(file) = input() {
            let options = sse::Options { instruments: Vec::new(), on_error, id: None };
            if let Ok(source) = SseSource::open(vec![file], Directory::new(), &options, &mut |_| {}) {
                drain(source);
            }
        }
    }
});

fn drain(mut source: impl Source) {
    let mut last = 0;
    while let Ok(Some(item)) = source.next() {
        if let Item::Records(events) = item {
            for event in events {
                assert!(event.producer_sequence.get() > last);
                last = event.producer_sequence.get();
            }
        }
    }
}
