//! The engine's state as a snapshot section, so that a restart need not read the whole tape.
//!
//! Section `engine`, version 1: six little-endian words, then frames of the fewest events that lead to the same engine
//! (definitions, accounts, the session, and every resting order as if it had just been accepted).
//!
//! ```text
//! 0  u64 producer             8  u64 last producer sequence
//! 16 u64 last order id        24 u64 last trade id
//! 32 i64 greatest event time  40 u64 event that could not be taken in, zero for none
//! ```

use matchtape_schemas::event::{
    AccountOpened, OrderAccepted, SessionOpened, Side, TradingStatusChanged, encode_event,
};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{
    AcceptedTime, Body, Epoch, Event, EventRef, EventTime, Frame, FrameFlags, FrameHeader, FrameWriter, Head,
    InstrumentId, OrderId, ProducerId, ProducerSequence, Projection, ProjectionError, Sequence, TapeId,
    TradeId,
};
use rkyv::util::AlignedVec;

use super::group::Numbers;
use super::{Engine, EngineOptions, RebuildError};

const NAME: &str = "engine";
const VERSION: u32 = 1;
const WORDS_BYTES: usize = 48;

/// An engine folded along with the tape and kept in its snapshots.
#[derive(Clone, Debug, Default)]
pub struct EngineProjection {
    engine: Engine,
    refusal: Option<RebuildError>,
}

impl EngineProjection {
    /// The section's name.
    pub const NAME: &'static str = NAME;

    /// An engine that has said nothing yet.
    pub fn new(options: EngineOptions) -> Self {
        Self { engine: Engine::new(options), refusal: None }
    }

    /// The engine as of the last event applied, or why the tape is not one that it wrote.
    pub fn into_engine(self) -> Result<Engine, RebuildError> {
        match self.refusal {
            None => Ok(self.engine),
            Some(refusal) => Err(refusal),
        }
    }
}

impl Projection for EngineProjection {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u32 {
        VERSION
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        if self.refusal.is_none() {
            self.refusal = self.engine.apply(event).err();
        }
    }

    fn save(&self, out: &mut Vec<u8>) {
        let Numbers { producer_sequence, order_id, trade_id, event_time } = self.engine.numbers;
        let producer = self.engine.options.producer;
        let refused_at = self.refusal.as_ref().map_or(0, |refusal| refusal.sequence.get());
        for word in [u64::from(producer.get()), producer_sequence.get(), order_id.get(), trade_id.get()] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&event_time.get().to_le_bytes());
        out.extend_from_slice(&refused_at.to_le_bytes());
        if refused_at == 0 {
            save_events(&self.engine.shortest_history(), producer, out);
        }
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let error = |at: usize, what: String| ProjectionError { section: NAME, at, what };
        if section.len() < WORDS_BYTES {
            return Err(error(0, format!("{} bytes, at least {WORDS_BYTES} expected", section.len())));
        }
        let (words, frames) = section.split_at(WORDS_BYTES);
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("8 bytes"));
        let options = self.engine.options;
        if word(0) != u64::from(options.producer.get()) {
            return Err(error(0, format!("the engine of producer {}, not {}", word(0), options.producer)));
        }
        let mut restored = Engine::new(options);
        let mut at = 0;
        while at < frames.len() {
            let wrong = |what: String| error(WORDS_BYTES + at, what);
            let length =
                FrameHeader::peek(&frames[at..]).map_err(|why| wrong(why.to_string()))?.length as usize;
            let mut aligned = AlignedVec::<16>::with_capacity(length);
            aligned.extend_from_slice(&frames[at..frames.len().min(at + length)]);
            let frame = Frame::decode(&aligned).map_err(|why| wrong(why.to_string()))?;
            for event in frame.events() {
                restored.apply(&event).map_err(|why| wrong(why.to_string()))?;
            }
            at += length;
        }
        restored.numbers = Numbers {
            producer_sequence: ProducerSequence(word(8)),
            order_id: OrderId(word(16)),
            trade_id: TradeId(word(24)),
            event_time: EventTime(word(32) as i64),
        };
        self.refusal = (word(40) != 0).then(|| RebuildError {
            sequence: Sequence(word(40)),
            what: "this engine did not write it; rebuild from the tape to see why".into(),
        });
        self.engine = restored;
        Ok(())
    }
}

fn save_events(events: &[Event], producer: ProducerId, out: &mut Vec<u8>) {
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TapeId(0)) };
    let mut frame = AlignedVec::<16>::new();
    frame.resize(FRAME_BYTES_MAX, 0);
    let mut encoded = AlignedVec::<16>::new();
    let mut left = events;
    while !left.is_empty() {
        let mut writer = FrameWriter::new(&mut frame, &head);
        let fit = left.iter().take_while(|event| {
            encoded.resize(event.encoded_len(), 0);
            encode_event(event, producer, &mut encoded);
            writer.push(&encoded)
        });
        let fit = fit.count();
        let info = writer.finish(&mut head, AcceptedTime(0), FrameFlags::NONE);
        out.extend_from_slice(&frame[..info.length as usize]);
        left = &left[fit..];
    }
}

impl Engine {
    /// Events after which a new engine has these instruments, accounts, session and orders; each is a group.
    fn shortest_history(&self) -> Vec<Event> {
        debug_assert!(self.arriving.is_none(), "snapshots are taken at group ends");
        let mut events = Vec::new();
        let mut say = |instrument: InstrumentId, body: Body| {
            events.push(Event::new(instrument, ProducerSequence(0), EventTime(0), body));
        };
        if let Some(session) = self.session {
            let opened = SessionOpened {
                trading_day: session.trading_day,
                session: session.number,
                ..Default::default()
            };
            say(InstrumentId(0), opened.into());
        }
        let mut accounts: Vec<_> = self.accounts.iter().collect();
        accounts.sort_unstable();
        for (account, status) in accounts {
            let opened = AccountOpened { account: *account, status: *status, ..Default::default() };
            say(InstrumentId(0), opened.into());
        }
        for (instrument, definition, status) in self.instruments() {
            say(instrument, definition.clone().into());
            say(instrument, TradingStatusChanged { status, ..Default::default() }.into());
            for order in [Side::Buy, Side::Sell].into_iter().flat_map(|side| self.orders(instrument, side)) {
                let accepted = OrderAccepted {
                    order_id: order.id,
                    price: order.price,
                    quantity: order.quantity,
                    account: order.account,
                    side: order.side,
                    time_in_force: order.time_in_force,
                    ..Default::default()
                };
                say(instrument, accepted.into());
            }
        }
        events
    }
}
