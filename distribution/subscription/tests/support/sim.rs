//! A bus that behaves as the real one promises to: it keeps the freshest samples, reports exact gaps, and meets
//! restarted publishers. It loses what it is told to lose.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use matchtape_bus::BusError;
use matchtape_schemas::{Epoch, KindMask, Sequence, Stage, Watermarks};
use matchtape_subscription::{Live, LiveDelivery};

use crate::support::{ManualClock, OwnedFrame};

#[derive(Clone)]
pub enum What {
    Frame(OwnedFrame),
    Heartbeat,
    /// Through this one, from `first`.
    Retract(Sequence),
}

#[derive(Clone)]
pub struct Sample {
    pub what: What,
    pub incarnation: u64,
    pub epoch: Epoch,
    pub first: Sequence,
    pub watermarks: Watermarks,
}

/// The subscriber's buffer.
#[derive(Default)]
pub struct Buffer {
    pub samples: VecDeque<Sample>,
    pub attached: bool,
    pub exists: bool,
}

pub struct SimLive {
    pub buffer: Rc<RefCell<Buffer>>,
    pub clock: ManualClock,
    pub stage: Stage,
    pub kinds: KindMask,
    held: Option<Sample>,
    retract: Option<LiveDelivery<OwnedFrame>>,
    next: Option<Sequence>,
    incarnation: u64,
    epoch: Epoch,
    visible: Sequence,
}

impl SimLive {
    pub fn new(buffer: Rc<RefCell<Buffer>>, clock: ManualClock, stage: Stage) -> Self {
        Self {
            buffer,
            clock,
            stage,
            kinds: KindMask::ALL,
            held: None,
            retract: None,
            next: None,
            incarnation: 0,
            epoch: Epoch(0),
            visible: Sequence::ZERO,
        }
    }

    fn examine(&mut self, sample: Sample) -> Option<LiveDelivery<OwnedFrame>> {
        if sample.incarnation < self.incarnation {
            return None;
        }
        if sample.incarnation > self.incarnation {
            let first_ever = self.incarnation == 0;
            self.incarnation = sample.incarnation;
            let previous = std::mem::replace(&mut self.epoch, sample.epoch);
            if !first_ever {
                let (first, next) = (self.visible.next(), self.next.expect("attached"));
                if self.stage == Stage::Accepted && next > first {
                    self.next = Some(first);
                    let last = next.previous();
                    self.retract = Some(LiveDelivery::Retract { epoch: previous, first, last });
                }
                let epoch = sample.epoch;
                self.held = Some(sample);
                return Some(LiveDelivery::PublisherRestarted { epoch });
            }
        }
        self.visible = self.visible.max(sample.watermarks.visible);
        let (next, first) = (self.next.expect("attached"), sample.first);
        if let What::Retract(last) = sample.what {
            if next <= first {
                return None;
            }
            self.next = Some(first);
            let last = last.min(next.previous());
            return Some(LiveDelivery::Retract { epoch: sample.epoch, first, last });
        }
        assert!(sample.epoch >= self.epoch, "the schedule sends no old epochs");
        self.epoch = sample.epoch;
        if first > next {
            self.next = Some(first);
            self.held = Some(sample);
            return Some(LiveDelivery::Gap { expected: next, found: first });
        }
        match sample.what {
            What::Frame(frame) => {
                let last = frame.frame().last_sequence();
                if last < next {
                    return None;
                }
                self.next = Some(last.next());
                if !frame.frame().header().kinds.intersects(self.kinds) {
                    return None;
                }
                let first_new = next.max(first);
                Some(LiveDelivery::Frame { frame, first_new, watermarks: sample.watermarks })
            }
            What::Heartbeat => {
                let (epoch, watermarks) = (sample.epoch, sample.watermarks);
                Some(LiveDelivery::Heartbeat { epoch, watermarks })
            }
            What::Retract(_) => None,
        }
    }
}

impl Live for SimLive {
    type Frame = OwnedFrame;

    fn stage(&self) -> Stage {
        self.stage
    }

    fn set_kinds(&mut self, kinds: KindMask) {
        self.kinds = kinds;
    }

    fn attach(&mut self, next: Sequence) -> Result<bool, BusError> {
        let mut buffer = self.buffer.borrow_mut();
        buffer.attached = buffer.exists;
        self.next = Some(next);
        Ok(buffer.attached)
    }

    fn seek(&mut self, next: Sequence) {
        self.next = Some(next);
    }

    fn position(&self) -> Option<Sequence> {
        self.next
    }

    fn poll(&mut self) -> Result<Option<LiveDelivery<OwnedFrame>>, BusError> {
        if let Some(retract) = self.retract.take() {
            return Ok(Some(retract));
        }
        loop {
            let taken = self.held.take().or_else(|| self.buffer.borrow_mut().samples.pop_front());
            let Some(sample) = taken else { return Ok(None) };
            if let Some(delivery) = self.examine(sample) {
                return Ok(Some(delivery));
            }
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), BusError> {
        if self.held.is_none() && self.retract.is_none() && self.buffer.borrow().samples.is_empty() {
            self.clock.pass(timeout);
        }
        Ok(())
    }
}
