//! The bus as a subscription needs it: attached as soon as it exists, damaged samples left to the log.

use std::time::{Duration, Instant};

use matchtape_bus::{
    BusError, BusFrame, BusName, BusService, BusSubscriber, Delivery, SubscriberCounters, SubscriberOptions,
    WakeUp,
};
use matchtape_schemas::{Epoch, KindMask, Sequence, Stage, Watermarks};

use crate::history::FrameHandle;

/// A source of live frames. It finds gaps by itself: see [`LiveDelivery::Gap`].
pub trait Live {
    /// A frame of it.
    type Frame: FrameHandle;

    /// The stage at which it shows events.
    fn stage(&self) -> Stage;

    /// From now on, frames without one of these kinds may be passed over.
    fn set_kinds(&mut self, kinds: KindMask);

    /// Tries to begin at `next`; `false` when there is nothing to attach to yet.
    fn attach(&mut self, next: Sequence) -> Result<bool, BusError>;

    /// How often a sign of life comes, where the source says it once attached.
    fn heartbeat_interval(&self) -> Option<Duration> {
        None
    }

    /// Goes on at `next`.
    fn seek(&mut self, next: Sequence);

    /// The position after everything that was delivered or passed over.
    fn position(&self) -> Option<Sequence>;

    /// Through where what was delivered cannot vanish any more, as far as the bus knows.
    fn certain(&self) -> Sequence {
        Sequence::ZERO
    }

    /// What there is, without waiting.
    fn poll(&mut self) -> Result<Option<LiveDelivery<Self::Frame>>, BusError>;

    /// Returns when there may be something, or after `timeout`.
    fn wait(&mut self, timeout: Duration) -> Result<(), BusError>;
}

/// What comes from a [`Live`].
#[derive(Debug)]
pub enum LiveDelivery<F> {
    /// A frame that continues what came before.
    Frame {
        /// The frame.
        frame: F,
        /// Its first event that was not delivered before.
        first_new: Sequence,
        /// How far each stage was.
        watermarks: Watermarks,
    },
    /// A sign of life.
    Heartbeat {
        /// The publisher's term.
        epoch: Epoch,
        /// How far each stage is.
        watermarks: Watermarks,
    },
    /// `expected..found` did not arrive. The source goes on at `found` unless told otherwise, and holds it.
    Gap {
        /// What should have come.
        expected: Sequence,
        /// What comes next.
        found: Sequence,
    },
    /// These will never be visible. The source goes on at `first`.
    Retract {
        /// Their term.
        epoch: Epoch,
        /// The first.
        first: Sequence,
        /// The last that was delivered.
        last: Sequence,
    },
    /// Another publisher has taken over.
    PublisherRestarted {
        /// Its term.
        epoch: Epoch,
    },
}

/// How soon a reader that sleeps looks again where the publisher wakes nobody.
const NAP: Duration = Duration::from_millis(1);

/// The bus of a tape. Belongs to one thread, as its port does.
#[derive(Debug)]
pub struct BusLive {
    name: BusName,
    service: BusService,
    options: SubscriberOptions,
    subscriber: Option<BusSubscriber>,
    /// It was to sleep, on a bus without wake-ups.
    naps: bool,
}

impl BusLive {
    /// To be attached when first needed; the publisher need not be there yet. `wake_up` and `spin` are those of
    /// [`SubscriberOptions`]; how the publisher is configured need not be known: where it wakes nobody, one that is to sleep
    /// naps, and is up to a millisecond later.
    #[must_use]
    pub fn new(name: &BusName, service: BusService, wake_up: WakeUp, spin: Duration) -> Self {
        let options = SubscriberOptions { wake_up, spin, ..SubscriberOptions::default() };
        Self { name: name.clone(), service, options, subscriber: None, naps: false }
    }

    /// What the port has seen, once attached.
    #[must_use]
    pub fn counters(&self) -> SubscriberCounters {
        self.subscriber.as_ref().map(BusSubscriber::counters).unwrap_or_default()
    }
}

impl Live for BusLive {
    type Frame = BusFrame;

    fn stage(&self) -> Stage {
        match self.service {
            BusService::Live => Stage::Visible,
            BusService::Speculative => Stage::Accepted,
        }
    }

    fn set_kinds(&mut self, kinds: KindMask) {
        self.options.kinds = kinds;
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.set_kinds(kinds);
        }
    }

    fn attach(&mut self, next: Sequence) -> Result<bool, BusError> {
        let options = SubscriberOptions { next: Some(next), ..self.options };
        let mut opened = BusSubscriber::open(&self.name, self.service, &options);
        self.naps = matches!(opened, Err(BusError::NoWakeUps { .. }));
        if self.naps {
            let options = SubscriberOptions { wake_up: WakeUp::BusyPoll, ..options };
            opened = BusSubscriber::open(&self.name, self.service, &options);
        }
        match opened {
            Ok(subscriber) => {
                self.subscriber = Some(subscriber);
                Ok(true)
            }
            Err(BusError::NotFound { .. } | BusError::Busy { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn heartbeat_interval(&self) -> Option<Duration> {
        self.subscriber.as_ref().map(BusSubscriber::heartbeat_interval)
    }

    fn seek(&mut self, next: Sequence) {
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.seek(next);
        }
    }

    fn position(&self) -> Option<Sequence> {
        self.subscriber.as_ref().and_then(BusSubscriber::next)
    }

    fn poll(&mut self) -> Result<Option<LiveDelivery<BusFrame>>, BusError> {
        let Some(subscriber) = &mut self.subscriber else { return Ok(None) };
        let delivery = loop {
            match subscriber.poll() {
                Ok(delivery) => break delivery,
                // The sample was dropped and counted; the next one shows the gap, and the log fills it.
                Err(BusError::BadSample(_) | BusError::EpochWentBack { .. }) => {}
                Err(error) => return Err(error),
            }
        };
        Ok(delivery.map(|delivery| match delivery {
            Delivery::Frame(frame) => {
                LiveDelivery::Frame { first_new: frame.first_new(), watermarks: frame.watermarks(), frame }
            }
            Delivery::Heartbeat { epoch, watermarks } => LiveDelivery::Heartbeat { epoch, watermarks },
            Delivery::Gap { expected, found } => LiveDelivery::Gap { expected, found },
            Delivery::Retract { epoch, first, last } => LiveDelivery::Retract { epoch, first, last },
            Delivery::PublisherRestarted { epoch } => LiveDelivery::PublisherRestarted { epoch },
        }))
    }

    fn certain(&self) -> Sequence {
        self.subscriber.as_ref().map_or(Sequence::ZERO, BusSubscriber::certain)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), BusError> {
        let Some(subscriber) = &mut self.subscriber else { return Ok(()) };
        if !self.naps {
            subscriber.wait(timeout)?;
            return Ok(());
        }
        let begun = Instant::now();
        let mut looking = self.options.spin.min(timeout);
        while !subscriber.wait(looking)? {
            let left = timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(NAP));
            looking = Duration::ZERO;
        }
        Ok(())
    }
}
