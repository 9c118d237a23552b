//! A live exchange on a node: the order flow drives the engine, and every group goes onto the tape.
//!
//! The tape is all that the exchange keeps: opened on data it wrote before, it rebuilds the engine and carries on with
//! the next order, trade and event number.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use matchtape_client::time::rfc3339;
use matchtape_node::{PublishError, Published, Publisher, WaitError};
use matchtape_schemas::{
    Event, EventFlags, EventTime, Kind, KindMask, ProducerSequence, Projection, ProjectionError, Sequence,
};
use matchtape_storage::{Query, ReadError, Reader};

use crate::engine::{
    Engine, EngineOptions, EngineProjection, Flow, FlowOptions, OperatorError, RebuildError, Session,
};

/// How long at most until a stop is noticed.
const NAP: Duration = Duration::from_millis(10);
/// An exchange that is this late (a suspended machine, a stalled disk) does not catch up.
const LATE_MAX: Duration = Duration::from_millis(200);

/// What the exchange is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// The engine; its producer is the publisher's, whatever this says.
    pub engine: EngineOptions,
    /// Seed and rate.
    pub flow: FlowOptions,
    /// How long to run; `None`: until stopped.
    pub duration: Option<Duration>,
}

/// What an exchange did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoReport {
    /// Groups published.
    pub groups: u64,
    /// Events published.
    pub events: u64,
    /// How often the ring was full.
    pub waits: u64,
    /// The last event published, zero for none. It is accepted; whoever needs it durable waits for that.
    pub last: Sequence,
}

/// Why an exchange could not start or go on.
#[derive(thiserror::Error, Debug)]
pub enum DemoError {
    /// The tape cannot be read.
    #[error("cannot read the tape: {0}")]
    Read(#[from] ReadError),
    /// A snapshot's section is not the engine's.
    #[error("the snapshot of the engine: {0}")]
    Snapshot(#[from] ProjectionError),
    /// The tape is not one of this exchange.
    #[error("this tape was not written by the demonstration: {0}")]
    Rebuild(#[from] RebuildError),
    /// The exchange has never been on this tape, and its instruments' ids belong to others there.
    #[error("this tape has the instruments of somebody else, and none of this exchange's events")]
    OtherTape,
    /// What the engine was rebuilt from is not all that it said.
    #[error("the engine is rebuilt through its event {rebuilt}, but the tape has it through {published:?}")]
    Behind {
        /// The engine's last event.
        rebuilt: ProducerSequence,
        /// The publisher's.
        published: Option<ProducerSequence>,
    },
    /// The exchange contradicts itself.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The node does not take events.
    #[error("cannot publish: {0}")]
    Publish(#[from] PublishError),
    /// The node stopped while it was waited for.
    #[error("cannot publish: {0}")]
    Wait(#[from] WaitError),
}

/// A running exchange.
pub struct Demo {
    publisher: Publisher,
    engine: Engine,
    flow: Flow,
    duration: Option<Duration>,
    report: DemoReport,
}

/// The engine that wrote the tape behind `reader`: from the newest snapshot that has it, then from the events after.
pub fn recover(reader: &Reader, options: EngineOptions) -> Result<Engine, DemoError> {
    let mut projection = EngineProjection::new(options);
    let mut next = Sequence::FIRST;
    if let Some(snapshot) = reader.snapshot_before(Sequence::MAX)?
        && let Some(outcome) = snapshot.restore(&mut projection)
    {
        outcome?;
        next = snapshot.sequence().next();
    }
    let mut frames = reader.frames(next)?;
    while let Some(frame) = frames.next_frame()? {
        // A cursor gives whole frames, also the one that `next` lies in.
        for event in frame.frame().events().filter(|event| event.sequence() >= next) {
            projection.apply(&event);
        }
    }
    Ok(projection.into_engine()?)
}

fn has_instruments(reader: &Reader) -> Result<bool, ReadError> {
    let definitions = KindMask::of(&[Kind::InstrumentDefined]);
    let one = Query { kinds: definitions, limit: Some(1), ..Query::default() };
    Ok(reader.query(&one)?.next().transpose()?.is_some())
}

impl Demo {
    /// Rebuilds the engine from what the tape shows and opens trading, on a new tape as on an old one.
    pub fn open(publisher: Publisher, reader: &Reader, options: DemoOptions) -> Result<Self, DemoError> {
        let engine = EngineOptions { producer: publisher.producer(), ..options.engine };
        let engine = recover(reader, engine)?;
        let published = publisher.last();
        if published.unwrap_or_default() != engine.last_producer_sequence() {
            return Err(DemoError::Behind { rebuilt: engine.last_producer_sequence(), published });
        }
        if published.is_none() && has_instruments(reader)? {
            return Err(DemoError::OtherTape);
        }
        let report = DemoReport { groups: 0, events: 0, waits: 0, last: Sequence::ZERO };
        let flow = Flow::new(options.flow, &engine);
        Ok(Self { publisher, engine, flow, duration: options.duration, report })
    }

    /// The engine as it is now.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Trades at the rate asked for until `stop` is set or the duration is over.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<DemoReport, DemoError> {
        let start = Instant::now();
        let mut group = Vec::new();
        Flow::set_up(&mut self.engine, session_of(wall_clock()), wall_clock(), &mut group)?;
        self.publish(&group)?;
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) && self.duration.is_none_or(|limit| start.elapsed() < limit) {
            let now = Instant::now();
            if due > now {
                std::thread::park_timeout((due - now).min(NAP));
                continue;
            }
            if now - due > LATE_MAX {
                due = now;
            }
            group.clear();
            self.flow.step(&mut self.engine, wall_clock(), &mut group);
            self.publish(&group)?;
            due += Duration::from_nanos(self.flow.pause_ns(group.len()));
        }
        Ok(self.report)
    }

    /// Puts whole groups onto the tape, waiting for room where there is none.
    fn publish(&mut self, events: &[Event]) -> Result<(), DemoError> {
        for group in events.chunk_by(|event, _| !event.flags.contains(EventFlags::LAST_OF_GROUP)) {
            let published = loop {
                match self.publisher.publish_group(group) {
                    Ok(published) => break published,
                    Err(PublishError::WouldBlock) => {
                        self.report.waits += 1;
                        self.publisher.wait_for_room(group.len())?;
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            debug_assert!(matches!(published, Published::New { .. }), "the engine never repeats a number");
            self.report.groups += 1;
            self.report.events += group.len() as u64;
            self.report.last = published.sequence();
        }
        Ok(())
    }
}

fn wall_clock() -> EventTime {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX))
}

/// The one session of the day, in UTC.
fn session_of(now: EventTime) -> Session {
    let date = rfc3339(now.get());
    let digits = date.bytes().take(10).filter(u8::is_ascii_digit);
    Session { trading_day: digits.fold(0, |day, digit| day * 10 + u32::from(digit - b'0')), number: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trading_day_is_the_date_in_utc() {
        let day = |seconds: i64| session_of(EventTime(seconds * 1_000_000_000)).trading_day;
        assert_eq!(day(0), 19_700_101);
        assert_eq!(day(951_782_399), 20_000_228);
        assert_eq!(day(951_782_400), 20_000_229);
        assert_eq!(day(1_700_000_000), 20_231_114);
        assert_eq!(day(1_704_067_199), 20_231_231);
        assert_eq!(day(1_704_067_200), 20_240_101);
    }
}
