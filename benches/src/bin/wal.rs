//! Events into the write-ahead log in batches, and the scan that recovery makes of it.
//!
//!     cargo run --release -p matchtape-benches --bin wal -- --seconds 10 --data /some/disk
//!
//! Writes up to a few tens of gigabytes below `--data` and removes them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use matchtape_benches::{Options, Report, device, tape};
use matchtape_schemas::event::encode_event;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{AcceptedTime, Epoch, FrameFlags, FrameWriter, Head, ProducerId, Sequence, TapeId};
use matchtape_storage::wal::{
    self, CommitObserver, Committed, GroupCommit, GroupCommitOptions, WalConfig, WalError, WhenFull,
    WriteBackend,
};
use matchtape_storage::{AlignedBytes, RealDisk};

/// How long a log runs until it has files to use again.
const RUNNING_IN: Duration = Duration::from_secs(3);

/// How many of the last segments are scanned, at most, and how often.
const SCANNED_SEGMENTS: usize = 12;
const SCANS: usize = 5;

fn middle(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

struct Count(Arc<AtomicU64>);

impl CommitObserver for Count {
    fn committed(&mut self, committed: &Committed) {
        self.0.store(committed.durable.get(), Ordering::Release);
    }

    fn durable(&mut self, durable: Sequence) {
        self.0.store(durable.get(), Ordering::Release);
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        panic!("{error}");
    }
}

fn main() {
    let options = Options::parse();
    let folder = options.folder();
    let mut report = Report::new("wal", folder.path());
    report.guarantee("events of 128 bytes in frames of up to 64 KiB, chained and checksummed (CRC-32); every batch is synced");

    // Encoded once: this measures framing, log and device, not the making of events.
    let mut encoded = AlignedBytes::zeroed(4096 * tape::EVENT_BYTES);
    for (number, out) in encoded.chunks_exact_mut(tape::EVENT_BYTES).enumerate() {
        encode_event(&tape::order(number as u64 + 1, 16), ProducerId(1), out);
    }
    for (backend, running_in, name) in [
        (WriteBackend::Buffered, Duration::ZERO, "buffered + fdatasync, a new log"),
        (WriteBackend::Direct, Duration::ZERO, "O_DIRECT | O_DSYNC, a new log"),
        (WriteBackend::Direct, RUNNING_IN, "O_DIRECT | O_DSYNC, files used again"),
    ] {
        let bytes = device::sync_throughput(folder.path(), 1 << 20, options.duration());
        let directory = folder.path().join(format!("{backend:?}-{}", running_in.as_secs()));
        let disk = || Arc::new(RealDisk::create(&directory).expect("a folder"));
        let config = WalConfig { backend, ..WalConfig::new(TapeId(7)) };
        let opened = wal::open(disk(), config.clone()).expect("an empty log");
        let durable = Arc::new(AtomicU64::new(0));
        let releaser = (!running_in.is_zero()).then(|| opened.writer.releaser());
        let mut head = Head { epoch: Epoch(1), ..opened.head };
        let log = GroupCommit::start(
            opened.writer,
            Count(Arc::clone(&durable)),
            GroupCommitOptions { when_full: WhenFull::Wait, ..GroupCommitOptions::default() },
        );
        let mut events = encoded.chunks_exact(tape::EVENT_BYTES).cycle();
        let (mut start, mut before) = (Instant::now(), 0);
        std::thread::scope(|scope| {
            let done = Arc::new(AtomicBool::new(false));
            let (releasing, durable) = (Arc::clone(&done), Arc::clone(&durable));
            // What a store does after a flush.
            let releases = releaser.map(|releaser| {
                scope.spawn(move || {
                    while !releasing.load(Ordering::Acquire) {
                        releaser.release(Sequence(durable.load(Ordering::Acquire)), 1).expect("released");
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                })
            });
            loop {
                if before == 0 && start.elapsed() >= running_in {
                    (start, before) = (Instant::now(), head.last_sequence.get().max(1));
                }
                if before > 0 && start.elapsed() >= options.duration() {
                    break;
                }
                let ends_segment = log.wants_segment_end();
                log.append(FRAME_BYTES_MAX, |out| {
                    let mut writer = FrameWriter::new(out, &head);
                    while writer.room() >= tape::EVENT_BYTES {
                        writer.push(events.next().expect("endless"));
                    }
                    let flags = if ends_segment { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
                    writer.finish(&mut head, AcceptedTime(1), flags)
                })
                .expect("a log that takes frames");
            }
            log.close().expect("a disk that syncs");
            done.store(true, Ordering::Release);
            drop(releases);
        });
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(durable.load(Ordering::Acquire), head.last_sequence.get(), "everything is durable");
        let count = (head.last_sequence.get() - before) as f64;
        report
            .row(format!("{name}: events into the log"), count / seconds, "events/s")
            .beside("bytes/s of 1 MiB writes, each synced, in events", bytes / tape::EVENT_BYTES as f64)
            .goal(">= 10 000 000");

        let start = Instant::now();
        let reopened = wal::open(disk(), config.clone()).expect("the log just written");
        report.row(format!("{name}: open after a clean close"), start.elapsed().as_secs_f64() * 1e3, "ms");
        // What recovery reads when nothing is indexed yet: every segment, every check. In turn with a program that reads
        // the same files and looks at nothing: what the device gives differs from one second to the next.
        let reader = wal::WalReader::new(disk(), config.clone(), reopened.segments);
        let segments: Vec<_> = reader.segments().list().into_iter().rev().take(SCANNED_SEGMENTS).collect();
        let first = segments.last().expect("a log has a segment").begins.last_sequence.next();
        let paths: Vec<_> =
            segments.iter().map(|segment| directory.join(segment.number.path(&config.directory))).collect();
        for cached in [false, true] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..SCANS {
                let forget = || {
                    if !cached {
                        device::forget_cached(&directory)
                    }
                };
                forget();
                theirs.push(device::read_throughput(paths.iter().rev().map(|path| path.as_path())));
                forget();
                let (start, mut read, mut seen) = (Instant::now(), 0u64, 0u64);
                let mut frames =
                    reader.frames(first, reopened.head.last_sequence).expect("a log with events");
                while let Some(frame) = frames.next_frame().expect("an undamaged log") {
                    read += frame.bytes().len() as u64;
                    seen += u64::from(frame.header().count);
                }
                ours.push(read as f64 / start.elapsed().as_secs_f64());
                assert_eq!(seen, reopened.head.last_sequence.get() + 1 - first.get());
            }
            let (from, plainly) = match cached {
                true => ("from the page cache", "the same files read there and not looked at"),
                false => ("nothing in the page cache", "the same files read and not looked at"),
            };
            report
                .row(
                    format!("{name}: recovery scan, every frame and event checked, {from}"),
                    middle(&mut ours) / 1e9,
                    "GB/s",
                )
                .beside(plainly, middle(&mut theirs) / 1e9)
                .goal(">= 2 GB/s");
        }
        drop(reader);
        drop(reopened.writer);
        std::fs::remove_dir_all(&directory).expect("our own folder");
    }
    report.print(options.format);
}
