//! How fast is the log on this machine? Commit throughput, the latency of a single durable event beside the device's own
//! sync, and the rate at which recovery checks it.
//!
//! ```text
//! cargo run --release -p matchtape-storage --example wal_speed -- DIRECTORY [SECONDS [COMMIT_KIB]]
//! ```
//!
//! Throughput: one thread frames 128-byte events as fast as the log takes them, for SECONDS (default 10); every event is
//! synced before it counts. Latency: a closed loop of one event at a time, after an equal loop of bare writes and syncs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use matchtape_schemas::event::{OrderAccepted, encode_event};
use matchtape_schemas::{
    AcceptedTime, Event, EventTime, FrameFlags, FrameWriter, Head, InstrumentId, ProducerId,
    ProducerSequence, Sequence, TapeId,
};
use matchtape_storage::wal::{
    self, AppendError, CommitObserver, Committed, GroupCommit, GroupCommitOptions, WalConfig, WalError,
    WalReader, WhenFull, WriteBackend,
};
use matchtape_storage::{Access, AlignedBytes, Caching, Disk, RealDisk};

const FRAME_BYTES: usize = 64 << 10;

#[derive(Clone, Default)]
struct Progress {
    durable: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
}

impl CommitObserver for Progress {
    fn committed(&mut self, committed: &Committed) {
        self.commits.fetch_add(1, Ordering::Relaxed);
        // Release: pairs with the Acquire of the loop that waits for it.
        self.durable.store(committed.durable.0, Ordering::Release);
    }

    fn durable(&mut self, durable: Sequence) {
        self.durable.store(durable.0, Ordering::Release);
    }

    fn failed(&mut self, error: &Arc<WalError>) {
        eprintln!("the log failed: {error}");
    }
}

fn event(sequence: u64) -> Event {
    let body = OrderAccepted { order_id: sequence.into(), ..OrderAccepted::default() };
    Event::new(InstrumentId(1), ProducerSequence(sequence), EventTime(sequence as i64), body)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("usage: wal_speed DIRECTORY [SECONDS]"));
    let seconds = arguments.next().map_or(10, |text| text.parse().expect("SECONDS is a number"));
    let commit_bytes =
        arguments.next().map_or(1 << 20, |text| 1024 * text.parse::<usize>().expect("a number of KiB"));
    println!("device, 4 KiB buffered write + fdatasync: {}", device_sync(&directory, Caching::Buffered));
    println!("device, 4 KiB O_DIRECT|O_DSYNC write:     {}", device_sync(&directory, Caching::DirectSync));
    for backend in [WriteBackend::Buffered, WriteBackend::Direct] {
        let config = WalConfig { backend, commit_bytes, ..WalConfig::new(TapeId(1)) };
        let root = tempdir_in(&directory);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::create(&root).expect("the directory can be created"));
        let caching = if backend == WriteBackend::Direct { Caching::DirectSync } else { Caching::Buffered };
        let rate = device_rate(&*disk, caching, commit_bytes);
        println!("device, {backend:?} writes of one buffer, each synced: {rate:.2} GB/s");
        println!("{backend:?}, one durable event at a time: {}", latency(&disk, &config));
        throughput(&disk, &config, Duration::from_secs(seconds));
        recovery(&disk, &config);
        std::fs::remove_dir_all(&root).expect("removed");
    }
}

fn tempdir_in(directory: &Path) -> PathBuf {
    directory.join(format!("wal-speed-{}", std::process::id()))
}

fn summary(mut nanoseconds: Vec<u64>) -> String {
    nanoseconds.sort_unstable();
    let at = |percent: usize| nanoseconds[(nanoseconds.len() - 1) * percent / 1000] as f64 / 1000.0;
    format!("P50 {:.1} us, P99 {:.1} us, P99.9 {:.1} us (n={})", at(500), at(990), at(999), nanoseconds.len())
}

fn device_sync(directory: &Path, caching: Caching) -> String {
    let root = tempdir_in(directory);
    let disk = RealDisk::create(&root).expect("the directory can be created");
    let file = disk.open(Path::new("probe"), Access::CreateNew, caching).expect("created");
    file.allocate_zeroed(64 << 20).expect("allocated");
    file.sync_all().expect("synced");
    let block = AlignedBytes::zeroed(4096);
    let taken = (0..5000_u64).map(|index| {
        let start = Instant::now();
        file.write_at(&block, index * 4096).expect("written");
        if caching == Caching::Buffered {
            file.sync_data().expect("synced");
        }
        start.elapsed().as_nanos() as u64
    });
    let text = summary(taken.collect());
    std::fs::remove_dir_all(&root).expect("removed");
    text
}

/// What the device alone takes, with the log's own pattern: whole buffers into zeros, each synced.
fn device_rate(disk: &dyn Disk, caching: Caching, bytes: usize) -> f64 {
    const TOTAL: u64 = 512 << 20;
    let path = Path::new("probe");
    let file = disk.open(path, Access::CreateNew, caching).expect("created");
    file.allocate_zeroed(TOTAL).expect("allocated");
    file.sync_all().expect("synced");
    let buffer = AlignedBytes::zeroed(bytes);
    let start = Instant::now();
    let count = TOTAL / bytes as u64;
    for index in 0..count {
        file.write_at(&buffer, index * bytes as u64).expect("written");
        if caching == Caching::Buffered {
            file.sync_data().expect("synced");
        }
    }
    let rate = (count * bytes as u64) as f64 / start.elapsed().as_secs_f64() / 1e9;
    disk.remove(path).expect("removed");
    rate
}

/// Frames of as many events as fit `bytes`, appended behind `head`.
fn append(log: &GroupCommit, head: &mut Head, bytes: usize) -> Result<(), AppendError> {
    let flags = if log.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
    log.append(bytes, |space| {
        let mut encoded = AlignedEvent([0; 128]);
        let mut writer = FrameWriter::new(&mut space[..bytes], head);
        let first = head.last_sequence.0 + 1;
        encode_event(&event(first), ProducerId(1), &mut encoded.0);
        while writer.push(&encoded.0) {
            // Only what differs from event to event: encoding is the publisher's cost, not the log's.
            let sequence = first + u64::from(writer.count());
            encoded.0[16..24].copy_from_slice(&sequence.to_le_bytes());
            encoded.0[24..32].copy_from_slice(&sequence.to_le_bytes());
        }
        writer.finish(head, AcceptedTime(first as i64), flags)
    })
    .map(|_| ())
}

#[repr(align(16))]
struct AlignedEvent([u8; 128]);

fn latency(disk: &Arc<dyn Disk>, config: &WalConfig) -> String {
    let opened = wal::open(Arc::clone(disk), config.clone()).expect("opened");
    let mut head = opened.head;
    let progress = Progress::default();
    let log = GroupCommit::start(opened.writer, progress.clone(), GroupCommitOptions::default());
    let taken = (0..5000).map(|_| {
        let start = Instant::now();
        append(&log, &mut head, 96 + 128).expect("appended");
        while progress.durable.load(Ordering::Acquire) < head.last_sequence.0 {
            std::hint::spin_loop();
        }
        start.elapsed().as_nanos() as u64
    });
    let text = summary(taken.collect());
    log.close().expect("closed");
    text
}

fn throughput(disk: &Arc<dyn Disk>, config: &WalConfig, limit: Duration) {
    let opened = wal::open(Arc::clone(disk), config.clone()).expect("opened");
    let mut head = opened.head;
    let first = head.last_sequence.0;
    let progress = Progress::default();
    let options = GroupCommitOptions { when_full: WhenFull::Wait, ..GroupCommitOptions::default() };
    let log = GroupCommit::start(opened.writer, progress.clone(), options);
    let start = Instant::now();
    while start.elapsed() < limit {
        append(&log, &mut head, FRAME_BYTES).expect("appended");
    }
    while progress.durable.load(Ordering::Acquire) < head.last_sequence.0 {
        std::thread::yield_now();
    }
    let taken = start.elapsed().as_secs_f64();
    let events = (head.last_sequence.0 - first) as f64;
    let commits = progress.commits.load(Ordering::Relaxed);
    println!(
        "{:?}, batches of 128-byte events, every batch synced: {:.2} M events/s, {:.2} GB/s, {:.1} s, {commits} commits, {} segments",
        config.backend,
        events / taken / 1e6,
        events * 128.0 / taken / 1e9,
        taken,
        log.segments().list().len(),
    );
    log.close().expect("closed");
}

fn recovery(disk: &Arc<dyn Disk>, config: &WalConfig) {
    let start = Instant::now();
    let opened = wal::open(Arc::clone(disk), config.clone()).expect("opened");
    let taken = start.elapsed();
    let checked = opened.report.scanned_bytes as f64;
    println!("{:?}, reopened in {taken:.2?}: {}", config.backend, opened.report);
    println!(
        "  open segment: {:.2} GB/s including the look behind its end",
        checked / taken.as_secs_f64() / 1e9
    );
    let reader = WalReader::new(Arc::clone(disk), config.clone(), opened.segments.clone());
    let last = opened.segments.list().len().saturating_sub(8);
    let from = opened.segments.list()[last].first_sequence();
    for pass in ["device or cache", "cache"] {
        let start = Instant::now();
        let mut frames = reader.frames(from, opened.head.last_sequence).expect("frames");
        let (mut bytes, mut events) = (0_u64, 0_u64);
        while let Some(frame) = frames.next_frame().expect("a frame") {
            bytes += frame.frame.bytes().len() as u64;
            events += u64::from(frame.frame.header().count);
        }
        let taken = start.elapsed().as_secs_f64();
        println!(
            "  frames of the last 8 segments ({pass}): {:.2} GB/s, {:.1} M events/s, {bytes} bytes",
            bytes as f64 / taken / 1e9,
            events as f64 / taken / 1e6,
        );
    }
}
