//! Frames whose every event says where it belongs.
#![allow(dead_code, reason = "each program uses its own part")]

use matchtape_schemas::event::{OrderCancelled, TradeMatched, encode_event};
use matchtape_schemas::{
    AcceptedTime, Body, BodyRef, Epoch, Event, EventTime, Frame, FrameFlags, FrameWriter, Head, InstrumentId,
    ProducerId, ProducerSequence, Sequence, TapeId, TradeId, Watermarks,
};

pub const TAPE: TapeId = TapeId(42);

/// Writes the frames of a tape, one after the other.
pub struct Tape {
    pub head: Head,
    memory: Vec<u128>,
    event: Vec<u128>,
}

impl Tape {
    pub fn new() -> Self {
        Self::after(0, 1)
    }

    /// Continues after `last` in `epoch`.
    pub fn after(last: u64, epoch: u64) -> Self {
        let head = Head { last_sequence: Sequence(last), epoch: Epoch(epoch), ..Head::empty(TAPE) };
        Self { head, memory: vec![0; 4096], event: vec![0; 16] }
    }

    /// The next frame, of `count` trades.
    pub fn trades(&mut self, count: u64) -> &[u8] {
        self.frame(count, |sequence| {
            TradeMatched { trade_id: TradeId(sequence), ..TradeMatched::default() }.into()
        })
    }

    /// The next frame, of `count` cancellations.
    pub fn cancellations(&mut self, count: u64) -> &[u8] {
        self.frame(count, |_| OrderCancelled::default().into())
    }

    fn frame(&mut self, count: u64, body: impl Fn(u64) -> Body) -> &[u8] {
        let first = self.head.last_sequence.get() + 1;
        let mut writer = FrameWriter::new(bytes_mut(&mut self.memory), &self.head);
        for sequence in first..first + count {
            let event = Event::new(InstrumentId(1), ProducerSequence(sequence), EventTime(1), body(sequence));
            let out = &mut bytes_mut(&mut self.event)[..event.encoded_len()];
            encode_event(&event, ProducerId(1), out);
            assert!(writer.push(out), "the frame is full");
        }
        let length = writer.finish(&mut self.head, AcceptedTime(1), FrameFlags::NONE).length as usize;
        &bytes(&self.memory)[..length]
    }

    /// Everything accepted so far has reached every stage.
    pub fn watermarks(&self) -> Watermarks {
        all_at(self.head.last_sequence)
    }
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

fn bytes(words: &[u128]) -> &[u8] {
    // SAFETY: any 16 bytes of a `u128` are readable as bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

fn bytes_mut(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: as above, and any bytes make a `u128`.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

/// Checks that every trade of the frame is the one its position calls for.
pub fn check_trades(frame: &Frame<'_>) {
    for event in frame.events() {
        match event.body() {
            BodyRef::TradeMatched(trade) => assert_eq!(trade.trade_id.get().get(), event.sequence().get()),
            other => panic!("{other:?}"),
        }
    }
}
