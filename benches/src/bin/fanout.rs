//! What one frame costs its publisher at 1, 4, 16 and 64 subscribers: the bus, bare iceoryx2, and an experiment in which
//! the cost does not grow.
//!
//!     cargo run --release -p matchtape-benches --bin fanout -- --frames 20000
//!
//! The subscribers' ports are real; they read between two frames on the publisher's own thread, so that what is timed is
//! the call and nothing that runs beside it on few cores. `stopped` are those that never read: every buffer overflows.
//!
//! The experiment: ONE slice of shared memory, loaned and sent once over an iceoryx2 service (whose history of one hands it
//! to whoever joins), and used as a ring of stamped slots from then on. The publisher writes a frame once, for all; a reader
//! that is lapped finds another stamp than it expects. What it gives up beside the bus: wake-ups, memory that belongs to
//! the reader while it reads (a frame may be overwritten under it, so it has to copy or sum and look at the stamp again),
//! and iceoryx2's own accounting of who holds what.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Instant;

use clap::Parser;
use hdrhistogram::Histogram;
use matchtape_benches::frames::{
    Bare, BareSizes, Frames, TAPE, Unit, at, bare, send_bare, sum_words, unit_bytes,
};
use matchtape_benches::{Format, Report, microseconds, nanoseconds};
use matchtape_bus::{
    BusConfig, BusName, BusPublisher, BusService, BusSubscriber, Delivery, SubscriberOptions, WakeUp,
};

const EVENTS: u64 = 32;
/// Header and 32 events.
const FRAME_BYTES: usize = 96 + 32 * 128;
const BUFFER: usize = 8;
const COUNTS: [usize; 4] = [1, 4, 16, 64];

#[derive(Parser, Clone)]
struct Options {
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// How many frames each number is taken from.
    #[arg(long, default_value_t = 20_000)]
    frames: u64,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    let root = tempfile::tempdir()?;
    let name = BusName::with_root("bench", TAPE, root.path())?;
    let mut report = Report::new("fanout", root.path());
    report.guarantee(
        "frames of 32 events of 128 bytes; readers sum every 8-byte word, and the sums are compared",
    );
    report.guarantee(
        "bus: readers check every frame; bare and ring: nothing beyond the sum (and the ring's stamp)",
    );
    for reading in [true, false] {
        let state = if reading { "reading" } else { "stopped" };
        for count in COUNTS {
            let bare = measure_bare(&name, count, reading, options.frames)?;
            let ring = measure_ring(&name, count, reading, options.frames)?;
            for wake_up in [WakeUp::BusyPoll, WakeUp::Event] {
                let bus = measure_bus(&name, count, reading, wake_up, options.frames)?;
                let what = format!("bus, {count} {state}, {wake_up:?}");
                rows(&mut report, &what, &bus, Some(("bare iceoryx2", &bare)));
            }
            rows(
                &mut report,
                &format!("ring in shared memory, {count} {state}"),
                &ring,
                Some(("bare iceoryx2", &bare)),
            );
        }
    }
    report.print(options.format);
    Ok(())
}

fn rows(report: &mut Report, what: &str, ours: &Histogram<u64>, beside: Option<(&str, &Histogram<u64>)>) {
    for (name, quantile) in [("P50", 0.5), ("P99", 0.99), ("P99.9", 0.999)] {
        let row = report.row(format!("{what}: publish {name}"), microseconds(ours, quantile), "us");
        if let Some((what, beside)) = beside {
            row.beside(what, microseconds(beside, quantile));
        }
    }
}

fn measure_bus(
    name: &BusName,
    count: usize,
    reading: bool,
    wake_up: WakeUp,
    frames: u64,
) -> Result<Histogram<u64>, Failure> {
    let config = BusConfig {
        subscribers_max: count,
        subscribers_spare: 0,
        publishers_spare: 0,
        buffer_samples: BUFFER,
        borrowed_samples: 2,
        frame_bytes_max: FRAME_BYTES,
        wake_up,
        ..BusConfig::default()
    };
    let mut source = Frames::new(EVENTS);
    let mut publisher = BusPublisher::open(name, BusService::Live, &config, &source.head)?;
    let options = SubscriberOptions { wake_up, ..SubscriberOptions::default() };
    let open = || BusSubscriber::open(name, BusService::Live, &options);
    let mut subscribers: Vec<_> = (0..count).map(|_| open()).collect::<Result<_, _>>()?;
    publisher.heartbeat(&at(source.head.last_sequence));
    let (mut costs, mut expected, mut sums) = (nanoseconds(), 0_u64, vec![0_u64; count]);
    for _ in 0..frames {
        let frame = source.next_frame();
        expected = expected.wrapping_add(sum_words(&frame));
        let start = Instant::now();
        publisher.publish(&frame, &at(source.head.last_sequence))?;
        costs.saturating_record(start.elapsed().as_nanos() as u64);
        if reading {
            for (subscriber, sum) in subscribers.iter_mut().zip(&mut sums) {
                while let Some(delivery) = subscriber.poll()? {
                    if let Delivery::Frame(frame) = delivery {
                        *sum = sum.wrapping_add(sum_words(frame.bytes()));
                    }
                }
            }
        }
    }
    assert!(!reading || sums.iter().all(|sum| *sum == expected), "some word did not arrive as sent");
    Ok(costs)
}

fn measure_bare(name: &BusName, count: usize, reading: bool, frames: u64) -> Result<Histogram<u64>, Failure> {
    let sizes = BareSizes { subscribers: count, buffer: BUFFER, history: 0 };
    let (service, _node) = bare(name, "fanout", sizes)?;
    let publisher =
        service.publisher_builder().initial_max_slice_len(FRAME_BYTES / 16).max_loaned_samples(1).create()?;
    let create = || service.subscriber_builder().create();
    let subscribers: Vec<_> = (0..count).map(|_| create()).collect::<Result<_, _>>()?;
    let mut source = Frames::new(EVENTS);
    let (mut costs, mut expected, mut sums) = (nanoseconds(), 0_u64, vec![0_u64; count]);
    for _ in 0..frames {
        let frame = source.next_frame();
        expected = expected.wrapping_add(sum_words(&frame));
        let start = Instant::now();
        send_bare(&publisher, &frame)?;
        costs.saturating_record(start.elapsed().as_nanos() as u64);
        if reading {
            for (subscriber, sum) in subscribers.iter().zip(&mut sums) {
                while let Some(sample) = subscriber.receive()? {
                    *sum = sum.wrapping_add(sum_words(unit_bytes(sample.payload())));
                }
            }
        }
    }
    assert!(!reading || sums.iter().all(|sum| *sum == expected), "some word did not arrive as sent");
    Ok(costs)
}

/// Slots of the ring, and the words of one: its stamp, the length in words, then the frame.
const SLOTS: usize = 64;
const SLOT_WORDS: usize = 2 + FRAME_BYTES / 8;

/// The ring in one sample's memory. Every word is an atomic, so that a reader that is lapped reads words that were
/// written, and finds out by the stamp that they are not of one frame.
#[derive(Clone, Copy)]
struct Ring<'a>(&'a [AtomicU64]);

impl<'a> Ring<'a> {
    fn new(units: &'a [Unit]) -> Self {
        // SAFETY: atomics have the size and alignment of the words they stand for (units are aligned to 16). The sample
        // outlives the ring: the publisher never loans again and history keeps it, and each reader holds it. From when it
        // was sent, everybody reaches this memory through these atomics alone.
        Self(unsafe { std::slice::from_raw_parts(units.as_ptr().cast::<AtomicU64>(), units.len() * 2) })
    }

    fn slot(self, number: u64) -> &'a [AtomicU64] {
        let at = (number as usize % SLOTS) * SLOT_WORDS;
        &self.0[at..at + SLOT_WORDS]
    }

    /// Frame `number`, from 1. Odd stamp: being written.
    fn write(self, number: u64, frame: &[u8]) {
        let slot = self.slot(number);
        slot[0].store(number * 2 - 1, Ordering::Relaxed);
        // Release: no word below is seen before the odd stamp. Pairs with the Acquire fence in `read`.
        fence(Ordering::Release);
        slot[1].store(frame.len() as u64 / 8, Ordering::Relaxed);
        for (word, chunk) in slot[2..].iter().zip(frame.chunks_exact(8)) {
            word.store(u64::from_le_bytes(chunk.try_into().expect("eight bytes")), Ordering::Relaxed);
        }
        // Release: pairs with the first Acquire in `read`.
        slot[0].store(number * 2, Ordering::Release);
    }

    /// The sum of frame `number`'s words; `None`: not there yet; `Err`: overwritten.
    fn read(self, number: u64) -> Result<Option<u64>, ()> {
        let slot = self.slot(number);
        let stamp = slot[0].load(Ordering::Acquire);
        if stamp < number * 2 {
            return Ok(None);
        }
        let length = (slot[1].load(Ordering::Relaxed) as usize).min(SLOT_WORDS - 2);
        let sum = slot[2..2 + length]
            .iter()
            .fold(0, |sum: u64, word| sum.wrapping_add(word.load(Ordering::Relaxed)));
        // Acquire: the stamp is looked at after the words. Pairs with the Release fence in `write`.
        fence(Ordering::Acquire);
        if stamp == number * 2 && slot[0].load(Ordering::Relaxed) == stamp { Ok(Some(sum)) } else { Err(()) }
    }
}

fn measure_ring(name: &BusName, count: usize, reading: bool, frames: u64) -> Result<Histogram<u64>, Failure> {
    let sizes = BareSizes { subscribers: count, buffer: 1, history: 1 };
    let (service, _node): (Bare, _) = bare(name, "ring", sizes)?;
    let units = SLOTS * SLOT_WORDS / 2;
    let publisher =
        service.publisher_builder().initial_max_slice_len(units).max_loaned_samples(1).create()?;
    let sample = publisher.loan_slice_uninit(units)?;
    let mut sample = sample.write_from_fn(|_| Unit([0; 2]));
    let (start, length) = (sample.payload_mut().as_ptr(), sample.payload().len());
    sample.send()?;
    // SAFETY: see `Ring::new`; the memory stays where it is, for history keeps the sample and nothing is loaned again.
    let writer = Ring::new(unsafe { std::slice::from_raw_parts(start, length) });
    let create = || service.subscriber_builder().create();
    let subscribers: Vec<_> = (0..count).map(|_| create()).collect::<Result<_, _>>()?;
    // They are connected, and handed the one sample there is.
    iceoryx2::port::update_connections::UpdateConnections::update_connections(&publisher)?;
    let mut held = Vec::new();
    for subscriber in &subscribers {
        held.push(subscriber.receive()?.ok_or("the ring was not handed to who joined late")?);
    }
    let readers: Vec<Ring<'_>> = held.iter().map(|sample| Ring::new(sample.payload())).collect();
    let mut source = Frames::new(EVENTS);
    let (mut costs, mut expected, mut sums) = (nanoseconds(), 0_u64, vec![0_u64; count]);
    for number in 1..=frames {
        let frame = source.next_frame();
        expected = expected.wrapping_add(sum_words(&frame));
        let start = Instant::now();
        writer.write(number, &frame);
        costs.saturating_record(start.elapsed().as_nanos() as u64);
        if reading {
            for (reader, sum) in readers.iter().zip(&mut sums) {
                let read = reader.read(number).map_err(|()| "lapped while nobody writes")?;
                *sum = sum.wrapping_add(read.ok_or("a frame that was written is there")?);
            }
        }
    }
    assert!(!reading || sums.iter().all(|sum| *sum == expected), "some word did not arrive as sent");
    // Who never read finds out that it was lapped.
    assert!(reading || frames <= SLOTS as u64 || readers.iter().all(|reader| reader.read(1).is_err()));
    Ok(costs)
}
