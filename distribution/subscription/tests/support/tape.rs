//! Tapes to read: groups of events, cut into frames in any lawful way.
#![allow(dead_code, reason = "each program uses its own part")]

use matchtape_schemas::event::{OrderCancelled, TradeMatched, encode_event};
use matchtape_schemas::{
    AcceptedTime, AccountId, Body, Epoch, Event, EventFlags, EventTime, Frame, FrameFlags, FrameWriter, Head,
    InstrumentId, OrderId, ProducerId, ProducerSequence, Sequence, TapeId, TradeId, Watermarks,
};
use rkyv::util::AlignedVec;
use std::sync::Arc;

pub const TAPE: TapeId = TapeId(42);

/// Repeatable chance (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A frame in memory.
#[derive(Clone)]
pub struct OwnedFrame(Arc<AlignedVec<16>>);

impl OwnedFrame {
    pub fn new(bytes: AlignedVec<16>) -> Self {
        Self(Arc::new(bytes))
    }

    pub fn frame(&self) -> Frame<'_> {
        Frame::decode(&self.0).expect("written here")
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Writes `events` as one frame after `head`.
pub fn write_frame(head: &mut Head, events: &[Event]) -> OwnedFrame {
    let bytes: usize = 96 + events.iter().map(Event::encoded_len).sum::<usize>();
    let mut memory: AlignedVec<16> = AlignedVec::with_capacity(bytes);
    memory.resize(bytes, 0);
    let mut writer = FrameWriter::new(&mut memory, head);
    for event in events {
        let mut one: AlignedVec<16> = AlignedVec::with_capacity(event.encoded_len());
        one.resize(event.encoded_len(), 0);
        encode_event(event, ProducerId(1), &mut one);
        assert!(writer.push(&one), "the frame is full");
    }
    writer.finish(head, AcceptedTime(1), FrameFlags::NONE);
    OwnedFrame(Arc::new(memory))
}

/// Cuts groups into frames of at most `limit` events chosen anew for each: a frame ends with a group, or lies inside
/// one.
pub fn frames(head: &mut Head, groups: &[Vec<Event>], mut limit: impl FnMut() -> usize) -> Vec<OwnedFrame> {
    let mut frames = Vec::new();
    let mut pending: Vec<Event> = Vec::new();
    let mut room = limit();
    for group in groups {
        if group.len() > room && !pending.is_empty() {
            frames.push(write_frame(head, &std::mem::take(&mut pending)));
            room = limit();
        }
        if group.len() > room {
            for part in group.chunks(room) {
                frames.push(write_frame(head, part));
            }
            room = limit();
        } else {
            room -= group.len();
            pending.extend(group.iter().cloned());
            if room == 0 {
                frames.push(write_frame(head, &std::mem::take(&mut pending)));
                room = limit();
            }
        }
    }
    if !pending.is_empty() {
        frames.push(write_frame(head, &pending));
    }
    frames
}

/// An event of `body` at `time`; the last of its group unless told otherwise.
pub fn event(instrument: u32, time: i64, body: impl Into<Body>) -> Event {
    Event::new(InstrumentId(instrument), ProducerSequence(1), EventTime(time), body)
}

/// Makes the events one group.
pub fn group(mut events: Vec<Event>) -> Vec<Event> {
    let last = events.len() - 1;
    for event in &mut events[..last] {
        event.flags = event.flags.without(EventFlags::LAST_OF_GROUP);
    }
    events
}

pub fn trade(number: u64) -> Body {
    TradeMatched {
        trade_id: TradeId(number),
        buy_order_id: OrderId(number % 10),
        sell_account: AccountId(number % 3),
        ..TradeMatched::default()
    }
    .into()
}

pub fn cancellation(number: u64) -> Body {
    OrderCancelled { order_id: OrderId(number), ..OrderCancelled::default() }.into()
}

/// A tape that is the same wherever it is made: frame n holds ten trades, numbered by their sequence, one millisecond
/// apart.
pub fn trades_frame(head: &mut Head) -> OwnedFrame {
    let first = head.last_sequence.get() + 1;
    let events: Vec<Event> =
        (first..first + 10).map(|n| event(1 + (n % 4) as u32, n as i64 * 1_000_000, trade(n))).collect();
    write_frame(head, &events)
}

/// The frames of that tape through `last`, in one epoch.
pub fn trades_through(last: u64) -> (Vec<OwnedFrame>, Head) {
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) };
    let mut frames = Vec::new();
    while head.last_sequence < Sequence(last) {
        frames.push(trades_frame(&mut head));
    }
    (frames, head)
}

pub fn all_at(sequence: Sequence) -> Watermarks {
    Watermarks {
        accepted: sequence,
        written: sequence,
        durable: sequence,
        replicated: sequence,
        visible: sequence,
    }
}
