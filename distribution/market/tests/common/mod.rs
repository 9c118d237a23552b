//! Small tapes in memory.
#![allow(dead_code, reason = "each test file uses its part")]

use matchtape_schemas::event::*;
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::*;

/// Sixteen aligned bytes, so that frames lie where they must.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line([u8; 16]);

/// Events in frames, one frame per event: what a fold is given.
pub struct Tape {
    frames: Vec<Vec<Line>>,
    head: Head,
    buffer: Vec<Line>,
}

fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: `Line` is 16 plain bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: as in `bytes`; any byte is a valid byte.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

impl Tape {
    pub fn new() -> Self {
        let buffer = vec![Line([0; 16]); FRAME_BYTES_MAX / 16];
        Self { frames: Vec::new(), head: Head::empty(TapeId(1)), buffer }
    }

    pub fn of(events: &[Event]) -> Self {
        let mut tape = Self::new();
        events.iter().for_each(|event| tape.push(event));
        tape
    }

    pub fn push(&mut self, event: &Event) {
        let mut encoded = vec![Line([0; 16]); event.encoded_len() / 16];
        encode_event(event, ProducerId(1), bytes_mut(&mut encoded));
        let mut writer = FrameWriter::new(bytes_mut(&mut self.buffer), &self.head);
        assert!(writer.push(bytes(&encoded)));
        let info = writer.finish(&mut self.head, AcceptedTime(1), FrameFlags::NONE);
        self.frames.push(self.buffer[..info.length as usize / 16].to_vec());
    }

    pub fn len(&self) -> u64 {
        self.frames.len() as u64
    }

    pub fn each(&self, mut visit: impl FnMut(&EventRef<'_>)) {
        for frame in &self.frames {
            Frame::decode(bytes(frame)).unwrap().events().for_each(|event| visit(&event));
        }
    }
}

pub const INSTRUMENT: InstrumentId = InstrumentId(7);

pub fn price(text: &str) -> Price {
    text.parse().unwrap()
}

pub fn whole(quantity: u64) -> Quantity {
    Quantity::from_whole(quantity).unwrap()
}

fn event(body: impl Into<Body>) -> Event {
    Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
}

pub fn accepted(id: u64, side: Side, at: &str, quantity: u64) -> Event {
    event(OrderAccepted {
        order_id: OrderId(id),
        side,
        price: price(at),
        quantity: whole(quantity),
        ..Default::default()
    })
}

pub fn market_order(id: u64, side: Side, quantity: u64) -> Event {
    event(OrderAccepted {
        order_id: OrderId(id),
        side,
        order_type: OrderType::Market,
        quantity: whole(quantity),
        ..Default::default()
    })
}

pub fn replaced(id: u64, new: u64, side: Side, at: &str, quantity: u64) -> Event {
    event(OrderReplaced {
        order_id: OrderId(id),
        new_order_id: OrderId(new),
        side,
        price: price(at),
        quantity: whole(quantity),
        ..Default::default()
    })
}

pub fn cancelled(id: u64, quantity: u64) -> Event {
    event(OrderCancelled { order_id: OrderId(id), quantity: whole(quantity), ..Default::default() })
}

pub fn executed(id: u64, quantity: u64) -> Event {
    event(OrderExecuted { order_id: OrderId(id), quantity: whole(quantity), ..Default::default() })
}

pub fn traded(buy: u64, sell: u64, at: &str, quantity: u64) -> Event {
    event(TradeMatched {
        buy_order_id: OrderId(buy),
        sell_order_id: OrderId(sell),
        price: price(at),
        quantity: whole(quantity),
        ..Default::default()
    })
}

pub fn cleared() -> Event {
    event(BookCleared::default())
}

pub fn reports_only(mut event: Event) -> Event {
    event.flags = event.flags.with(EventFlags::REPORTS_ONLY);
    event
}

pub fn at(mut event: Event, time: i64) -> Event {
    event.event_time = EventTime(time);
    event
}

pub fn of(mut event: Event, instrument: u32) -> Event {
    event.instrument = InstrumentId(instrument);
    event
}
