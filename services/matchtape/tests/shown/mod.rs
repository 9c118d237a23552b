//! What the directory of a running node shows.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_schemas::Sequence;
use matchtape_storage::{ReadOnlyOptions, ReadOnlyStore, RealDisk};

/// Waits until the directory shows this event. It shows what has something behind it, which the last event has when the log
/// has been idle for a moment.
pub fn until_shown(tape: &Path, sequence: Sequence) {
    let begun = Instant::now();
    loop {
        let disk = Arc::new(RealDisk::open(tape).unwrap());
        let store = ReadOnlyStore::open(disk, ReadOnlyOptions::default()).unwrap();
        let visible = store.reader().visible();
        if visible >= sequence {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{sequence} is not shown, {visible} is");
        std::thread::sleep(Duration::from_millis(5));
    }
}
