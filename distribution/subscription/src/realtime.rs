//! The real-time tier: every event once, in order, from the bus as far as it goes and from the log where it does not. The bus
//! gives signs of life; while the log is read and nothing of it is to be shown, this reader gives them.
//!
//! Only acts out what [`Handover`] decides.

use std::time::Duration;

use matchtape_schemas::{Epoch, Frame, KindMask, Sequence, Stage, Watermarks};

use crate::backoff::Backoff;
use crate::clock::{Clock, HeartbeatAlarm, Silence, SystemClock};
use crate::filter::Filter;
use crate::handover::{Handover, LiveFrame, Verdict, Want};
use crate::history::{FrameHandle, History};
use crate::live::{Live, LiveDelivery};
use crate::subscription::{Start, Subscription, SubscriptionError};
use crate::update::{Events, Notice, Span, Update};

/// How to read in real time.
#[derive(Clone, Debug)]
pub struct RealTimeOptions {
    /// Where to begin.
    pub start: Start,
    /// What to show.
    pub filter: Filter,
    /// How often the publisher sends a sign of life, until the bus says it. Three missed ones raise the alarm. So often comes
    /// one, too, while the log is read and nothing of it passes the filter.
    pub heartbeat_interval: Duration,
}

impl Default for RealTimeOptions {
    fn default() -> Self {
        Self { start: Start::New, filter: Filter::default(), heartbeat_interval: Duration::from_millis(100) }
    }
}

/// Frames looked at per call when the filter passes none of them, so that a call returns in bounded time.
const STEPS_MAX: u32 = 256;

/// How often the log is looked at while the bus holds what comes next: it is about to be there.
const LOG_WAIT: Duration = Duration::from_millis(1);

/// A real-time reader; speculative where `L` shows accepted events.
#[derive(Debug)]
pub struct RealTime<H: History, L: Live, C: Clock = SystemClock> {
    // First, so that it is dropped before the ports whose memory it is in.
    held: Option<Held<H::Frame, L::Frame>>,
    history: H,
    live: L,
    clock: C,
    filter: Filter,
    handover: Handover,
    alarm: HeartbeatAlarm,
    heartbeat_interval: Duration,
    /// When attaching to the bus is tried again; `None` once attached.
    attach_at: Option<Duration>,
    /// How long the log is left alone while there is no bus.
    backoff: Backoff,
    /// Since when the log is awaited to reach what the bus holds.
    awaiting_since: Option<Duration>,
    /// Something came since the alarm was last looked at.
    heard: bool,
    /// Since when the log has been read without anything to be shown.
    quiet_since: Option<Duration>,
    /// The last sign of life that was given, or the term that has begun since.
    said: (Epoch, Watermarks),
    /// The last call stopped early: there is more to do at once.
    busy: bool,
    notice: Option<Notice>,
}

/// A frame that is shown, or waits until the notices before it have been.
#[derive(Debug)]
struct Held<A, B> {
    frame: FrameOf<A, B>,
    span: Span,
    shown: bool,
}

#[derive(Debug)]
enum FrameOf<A, B> {
    Log(A),
    Live(B),
}

impl<A: FrameHandle, B: FrameHandle> FrameOf<A, B> {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Log(handle) => handle.frame(),
            Self::Live(handle) => handle.frame(),
        }
    }
}

enum Step {
    Done,
    Nothing,
}

impl<H: History, L: Live> RealTime<H, L> {
    /// A reader of `history` and `live`, which must be those of the same tape.
    pub fn open(history: H, live: L, options: RealTimeOptions) -> Result<Self, SubscriptionError> {
        Self::open_with_clock(history, live, options, SystemClock::default())
    }
}

impl<H: History, L: Live, C: Clock> RealTime<H, L, C> {
    /// As [`RealTime::open`], living by `clock`.
    pub fn open_with_clock(
        mut history: H,
        mut live: L,
        options: RealTimeOptions,
        clock: C,
    ) -> Result<Self, SubscriptionError> {
        let RealTimeOptions { start, filter, heartbeat_interval } = options;
        if heartbeat_interval.is_zero() {
            return Err(SubscriptionError::BadOption {
                what: "the heartbeat interval",
                value: "zero".into(),
            });
        }
        let next = start.resolve(&mut history)?;
        // The bus passes over unwanted frames unseen. That is safe for what is visible; of accepted ones this reader has
        // to see the term, for a frame of a lost term is not a reason to move on.
        let skipped = live.stage() == Stage::Visible && filter.kinds != KindMask::ALL;
        live.set_kinds(if skipped { filter.kinds } else { KindMask::ALL });
        let mut handover = Handover::new(next, live.stage(), skipped);
        let visible = history.visible();
        if next > visible.next() {
            handover.notify(Notice::Ahead { next, visible });
        }
        let now = clock.now();
        Ok(Self {
            handover,
            alarm: HeartbeatAlarm::new(heartbeat_interval, now),
            attach_at: Some(now),
            backoff: Backoff::NEW,
            awaiting_since: None,
            heard: false,
            quiet_since: None,
            said: (Epoch(0), Watermarks::default()),
            busy: true,
            notice: None,
            held: None,
            history,
            live,
            clock,
            filter,
            heartbeat_interval,
        })
    }

    /// The live side, for its counters.
    pub fn live(&self) -> &L {
        &self.live
    }

    /// The log, for what lies before the events shown.
    pub(crate) fn history_mut(&mut self) -> &mut H {
        &mut self.history
    }

    /// A sign of life to be given while the log is read: the term and how far each stage is. `None` where the bus gives them, or
    /// is known to be silent: then only the bus ends that.
    pub(crate) fn sign_of_reading(&mut self) -> Option<(Epoch, Watermarks)> {
        if self.is_live() || self.alarm.is_raised() {
            return None;
        }
        let (epoch, watermarks) = self.history.progress();
        Some(self.say(epoch, watermarks))
    }

    /// A sign of life as it is given: log and bus know of the tape at different times, so either may be behind what was said
    /// after the other. What was durable lasts, and within a term what readers were given.
    fn say(&mut self, epoch: Epoch, watermarks: Watermarks) -> (Epoch, Watermarks) {
        let (said_epoch, said) = self.said;
        let lasting = if epoch > said_epoch { said.durable } else { said.durable.max(said.visible) };
        let known = |stage| watermarks.get(stage).max(said.get(stage).min(lasting));
        let watermarks = Watermarks {
            accepted: known(Stage::Accepted),
            written: known(Stage::Written),
            durable: known(Stage::Durable),
            replicated: known(Stage::Replicated),
            visible: known(Stage::Visible),
        };
        self.said = (epoch.max(said_epoch), watermarks);
        self.said
    }

    fn take_notice(&mut self) -> Option<Notice> {
        let mut notice = self.handover.take_notice()?;
        match &mut notice {
            Notice::Heartbeat { epoch, watermarks } => (*epoch, *watermarks) = self.say(*epoch, *watermarks),
            // Of what the term before it had said, only what was durable is known to be there.
            Notice::PublisherRestarted { epoch } => {
                let durable = self.said.1.durable;
                self.said.1 = Watermarks {
                    accepted: durable,
                    written: durable,
                    durable,
                    replicated: self.said.1.replicated.min(durable),
                    visible: self.said.1.visible.min(durable),
                };
                self.said.0 = *epoch;
            }
            _ => {}
        }
        Some(notice)
    }

    /// The log was read, and nothing of it is to be shown.
    fn passed_quietly(&mut self) {
        let now = self.clock.now();
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) < self.heartbeat_interval {
            return;
        }
        self.quiet_since = Some(now);
        if let Some((epoch, watermarks)) = self.sign_of_reading() {
            self.handover.notify(Notice::Heartbeat { epoch, watermarks });
        }
    }

    /// Whether events come from the bus at the moment.
    pub fn is_live(&self) -> bool {
        self.handover.is_live()
    }

    fn step(&mut self) -> Result<Step, SubscriptionError> {
        match self.handover.want() {
            Want::Log => self.read_log(),
            Want::Live => self.poll_live(),
        }
    }

    fn read_log(&mut self) -> Result<Step, SubscriptionError> {
        let next = self.handover.next();
        if self.quiet_since.is_none() {
            self.quiet_since = Some(self.clock.now());
        }
        if let Some(handle) = self.history.frame_at(next)? {
            self.awaiting_since = None;
            self.backoff = Backoff::NEW;
            // Catching up is no silence. Once the alarm is raised, only the bus can end it.
            self.heard |= !self.alarm.is_raised();
            let header = *handle.frame().header();
            if let Verdict::Deliver(first) = self.handover.log_frame(&header)? {
                let span = Span::of_log(first, header.last_sequence());
                self.hold(FrameOf::Log(handle), span);
                if self.held.is_some() {
                    self.quiet_since = None;
                } else {
                    self.passed_quietly();
                }
            }
        } else if let Some(attach_at) = self.attach_at {
            let now = self.clock.now();
            if now < attach_at {
                return Ok(Step::Nothing);
            }
            if !self.live.attach(next)? {
                self.attach_at = Some(now + self.heartbeat_interval);
                return Ok(Step::Nothing);
            }
            // The log once more: what became visible since it ended was published before this reader was known.
            self.attach_at = None;
            if let Some(interval) = self.live.heartbeat_interval().filter(|it| *it != self.heartbeat_interval)
            {
                self.heartbeat_interval = interval;
                self.alarm = HeartbeatAlarm::new(interval, now);
            }
            return Ok(Step::Done);
        } else {
            self.handover.log_exhausted();
            if self.handover.want() == Want::Log {
                return self.await_log();
            }
        }
        if self.handover.want() == Want::Live {
            self.live.seek(self.handover.next());
        }
        Ok(Step::Done)
    }

    /// The bus holds a frame that the log has not reached. What is visible it will reach; but a frame that was only
    /// accepted may have been lost with its term, and nothing behind it would be seen: so after a while it is let go.
    fn await_log(&mut self) -> Result<Step, SubscriptionError> {
        let now = self.clock.now();
        let since = *self.awaiting_since.get_or_insert(now);
        if self.live.stage() == Stage::Visible || now.saturating_sub(since) < self.heartbeat_interval {
            return Ok(Step::Nothing);
        }
        self.awaiting_since = None;
        loop {
            // At this position every frame counts as passed.
            self.live.seek(Sequence::MAX);
            match self.live.poll()? {
                None => break,
                Some(LiveDelivery::Retract { epoch, first, last }) => {
                    self.handover.retract(epoch, first, last);
                }
                Some(LiveDelivery::PublisherRestarted { epoch }) => {
                    self.handover.restarted(epoch, self.live.certain())
                }
                Some(LiveDelivery::Heartbeat { .. }) => self.heard = true,
                Some(LiveDelivery::Frame { .. } | LiveDelivery::Gap { .. }) => {}
            }
        }
        self.handover.read_on();
        Ok(Step::Done)
    }

    fn poll_live(&mut self) -> Result<Step, SubscriptionError> {
        let Some(delivery) = self.live.poll()? else {
            if let Some(position) = self.live.position() {
                self.handover.passed_over(position);
            }
            return Ok(Step::Nothing);
        };
        self.heard = true;
        self.quiet_since = None;
        match delivery {
            LiveDelivery::Frame { frame, first_new, watermarks } => {
                let header = *frame.frame().header();
                let last = header.last_sequence();
                let input =
                    LiveFrame { epoch: header.epoch, first_new, last, checksum: header.checksum, watermarks };
                match self.handover.live_frame(&input)? {
                    Verdict::Deliver(first) => {
                        let visible = last <= watermarks.visible || self.live.stage() == Stage::Visible;
                        let stage = if visible { Stage::Visible } else { Stage::Accepted };
                        let span = Span { first, last, stage, watermarks: Some(watermarks) };
                        self.hold(FrameOf::Live(frame), span);
                    }
                    Verdict::Skip => self.live.seek(self.handover.next()),
                }
            }
            LiveDelivery::Heartbeat { epoch, watermarks } => {
                self.handover.heartbeat(epoch, &watermarks, self.live.position());
            }
            LiveDelivery::Gap { expected, found } => self.handover.gap(expected, found),
            LiveDelivery::Retract { epoch, first, last } => {
                self.handover.retract(epoch, first, last);
                self.live.seek(self.handover.next());
            }
            LiveDelivery::PublisherRestarted { epoch } => self.handover.restarted(epoch, self.live.certain()),
        }
        Ok(Step::Done)
    }

    fn hold(&mut self, frame: FrameOf<H::Frame, L::Frame>, span: Span) {
        if Events::new(frame.frame(), span, &self.filter).any() {
            self.held = Some(Held { frame, span, shown: false });
        }
    }

    /// Whether silence has something to say.
    fn listen(&mut self) {
        let now = self.clock.now();
        if std::mem::take(&mut self.heard) {
            self.alarm.heard(now);
        }
        match self.alarm.check(now) {
            None => return,
            Some(Silence::Raised(missed)) => self.handover.notify(Notice::Alarm { missed }),
            Some(Silence::Continues) => {}
        }
        self.handover.silent();
        self.busy = true;
    }
}

impl<H: History, L: Live, C: Clock> Subscription for RealTime<H, L, C> {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        self.busy = false;
        for _ in 0..STEPS_MAX {
            self.notice = self.take_notice();
            if self.notice.is_some() {
                return Ok(true);
            }
            if let Some(held) = &mut self.held
                && !held.shown
            {
                held.shown = true;
                return Ok(true);
            }
            // Its place in the bus is given back before the next one is taken.
            self.held = None;
            if let Step::Nothing = self.step()? {
                self.listen();
                self.notice = self.take_notice();
                return Ok(self.notice.is_some());
            }
        }
        self.busy = true;
        Ok(false)
    }

    fn update(&self) -> Update<'_> {
        match (&self.notice, &self.held) {
            (Some(notice), _) => notice.update(),
            (None, Some(held)) => Update::Events(Events::new(held.frame.frame(), held.span, &self.filter)),
            (None, None) => panic!("update() is for after advance() has returned true"),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SubscriptionError> {
        if self.busy {
            return Ok(());
        }
        match self.handover.want() {
            Want::Log if self.attach_at.is_some() => self.clock.sleep(timeout.min(self.backoff.pause())),
            Want::Log => self.clock.sleep(timeout.min(LOG_WAIT)),
            // No longer than until the alarm may have to be raised.
            Want::Live => self.live.wait(timeout.min(self.heartbeat_interval))?,
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn position(&self) -> Sequence {
        match &self.held {
            Some(held) if !held.shown => held.span.first,
            _ => self.handover.next(),
        }
    }
}
