//! One consumer: its machine, its place on the tape, and who waits for it.

use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use matchtape_consumer::{
    AckError, Acked, ConsumerFilter, ConsumerName, Definition, Delivered, Machine, MemberId, Want,
};
use matchtape_schemas::{InstrumentId, Sequence};
use matchtape_storage::{
    Direction, EventHandle, EventStore, FrameCursor, FrameHandle, Pin, PinError, PinKind, Query, ReadError,
    Reader,
};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;

use super::error::ConsumerError;
use super::handle::{Delivery, Item};
use super::recorder::Recorder;
use super::waiters::{Ticket, Waiters};

/// Frames looked at, or instruments looked up, before others get their turn: a filter that nothing passes, or a search of
/// the whole tape, must not hold the lock all the while.
const FRAMES_PER_TURN: usize = 32;

/// See the module.
pub(super) struct One {
    pub(super) name: ConsumerName,
    recorder: Arc<Recorder>,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) machine: Machine,
    feed: Feed,
    /// Keeps on the tape what it may still have to read.
    pin: Option<Pin>,
    waiting: Waiters,
    /// How often waiters were woken: whoever looked before and waits after has missed none.
    wakes: u64,
    /// Nothing is done any more, and why.
    ended: Option<ConsumerError>,
}

/// What was found, or what to wait for.
pub(super) enum Tried {
    Items(Vec<Item>),
    Nothing(Pause),
}

/// Until when looking again is of no use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) wakes: u64,
    pub(super) until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// This event is visible.
    Visible(Sequence),
    /// The next round of the recorder has ended.
    Recorded,
    /// Somebody acknowledges, or time passes.
    Woken,
    /// Others had their turn.
    Turn,
}

/// What is done to a delivered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Ack,
    Nak(Duration),
    InProgress,
    Term,
}

impl One {
    pub(super) fn new(
        name: ConsumerName,
        machine: Machine,
        reader: Reader,
        recorder: &Arc<Recorder>,
    ) -> Self {
        let feed = Feed { reader, cursor: None, frame: None, initial: None };
        let inner = Inner { machine, feed, pin: None, waiting: Waiters::default(), wakes: 0, ended: None };
        Self { name, recorder: Arc::clone(recorder), inner: Mutex::new(inner) }
    }

    /// The consumer, while it is one.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Inner>, ConsumerError> {
        let inner = self.inner.lock();
        match &inner.ended {
            None => Ok(inner),
            Some(error) => Err(error.clone()),
        }
    }

    /// Keeps the tape from `from` on, and nothing before it. A pin that held back too much was broken: then what is left is
    /// kept, and what is gone shows when it is read.
    pub(super) fn pin(&self, store: &Weak<EventStore>, from: Sequence) {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() || inner.pin.as_ref().is_some_and(|pin| pin.advance(from).is_ok()) {
            return;
        }
        if inner.pin.take().is_some() {
            // What is open on the tape would keep files that are to go, for as long as nobody reads on.
            (inner.feed.cursor, inner.feed.frame, inner.feed.initial) = (None, None, None);
        }
        let Some(store) = store.upgrade() else { return };
        let set = |from| store.pin(PinKind::Consumer, self.name.as_str(), from);
        let pinned = match set(from) {
            Err(PinError::BelowRetention { first_kept, .. }) => set(first_kept),
            other => other,
        };
        match pinned {
            Ok(pin) => inner.pin = Some(pin),
            Err(error) => tracing::warn!(consumer = %self.name, %error, "its events are not kept for it"),
        }
    }

    /// Ends it. The first reason stays.
    pub(super) fn end(&self, why: ConsumerError) {
        let mut inner = self.inner.lock();
        inner.pin = None;
        inner.ended.get_or_insert(why);
        inner.wake();
    }

    /// Does something to the machine, and tells whom it concerns. `others`: someone may be given something now.
    pub(super) fn change<T>(
        &self,
        others: bool,
        act: impl FnOnce(&mut Machine) -> T,
    ) -> Result<T, ConsumerError> {
        let mut inner = self.lock()?;
        let done = act(&mut inner.machine);
        if others {
            inner.wake();
        }
        self.recorder.touched(inner.machine.is_changed(), inner.machine.quiet_until());
        Ok(done)
    }

    /// A member elsewhere asks for more, and says which answer was the last to arrive. Returns the number of the one that
    /// begins.
    pub(super) fn ask(&self, member: MemberId, received: u64, now: Duration) -> Result<u64, ConsumerError> {
        let asked = self.change(true, |machine| {
            machine.tick(now);
            machine.ask(member, received, now)
        });
        asked??.ok_or(ConsumerError::NotAttached)
    }

    /// What there is for a member's answer, at most `max`, without waiting.
    pub(super) fn fetch(
        &self,
        member: MemberId,
        answer: u64,
        max: usize,
        now: Duration,
    ) -> Result<Tried, ConsumerError> {
        let mut guard = self.lock()?;
        let inner = &mut *guard;
        let mut others = inner.machine.tick(now);
        if !inner.machine.heard(member, now) {
            return Err(ConsumerError::NotAttached);
        }
        if !inner.machine.is_answer(member, answer) {
            return Err(ConsumerError::Superseded);
        }
        let mut fetch = Fetching { member, now, max, items: Vec::new(), held: false };
        let outcome = fetch.run(&mut inner.machine, &mut inner.feed);
        others |= fetch.held;
        if others {
            inner.wake();
        }
        self.recorder.touched(inner.machine.is_changed(), inner.machine.quiet_until());
        match outcome {
            // What came before a failed read is delivered; the failure comes again.
            _ if !fetch.items.is_empty() => Ok(Tried::Items(fetch.items)),
            Ok(until) => Ok(Tried::Nothing(Pause { wakes: inner.wakes, until })),
            Err(error) => Err(error),
        }
    }

    /// Becomes what is asked for now, if an existing consumer may.
    pub(super) fn update(&self, definition: Definition) -> Result<(), ConsumerError> {
        let mut inner = self.lock()?;
        let inner = &mut *inner;
        inner.machine.update(definition)?;
        // It was made with the filter there was.
        inner.feed.initial = None;
        inner.wake();
        self.recorder.touched(inner.machine.is_changed(), inner.machine.quiet_until());
        Ok(())
    }

    /// Whether somebody was woken since; else `waker` is woken with the next ones, until its ticket is given back.
    pub(super) fn woken(&self, pause: Pause, ticket: &mut Option<Ticket>, waker: &Waker) -> bool {
        let mut inner = self.inner.lock();
        if inner.wakes != pause.wakes || inner.ended.is_some() {
            return true;
        }
        inner.waiting.wait(ticket, waker);
        false
    }

    /// Whoever had this ticket waits no longer.
    pub(super) fn leave(&self, ticket: Ticket) {
        self.inner.lock().waiting.leave(ticket);
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.inner.lock().waiting.len()
    }

    /// Does something to delivered events, in order, up to the first that fails. Whoever says so is alive.
    pub(super) fn settle(
        &self,
        verb: Verb,
        sequences: &[Sequence],
        member: MemberId,
        now: Duration,
    ) -> Result<Acked, ConsumerError> {
        let mut inner = self.lock()?;
        let inner = &mut *inner;
        inner.machine.heard(member, now);
        let mut settled = 0;
        let mut outcome = Ok(());
        for sequence in sequences {
            let one = inner.apply(verb, *sequence, now);
            match one {
                Ok(acked) => settled += acked.settled,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        inner.wake();
        self.recorder.touched(inner.machine.is_changed(), inner.machine.quiet_until());
        outcome.map(|()| Acked { settled })
    }
}

impl Inner {
    pub(super) fn wake(&mut self) {
        self.wakes += 1;
        self.waiting.wake();
    }

    fn apply(&mut self, verb: Verb, sequence: Sequence, now: Duration) -> Result<Acked, ConsumerError> {
        let machine = &mut self.machine;
        let acked = match verb {
            Verb::Ack => machine.ack(sequence),
            Verb::Nak(delay) => machine.nak(sequence, delay, now),
            Verb::InProgress => machine.in_progress(sequence, now),
            Verb::Term => machine.term(sequence, now),
        }?;
        // Settled before, or never this consumer's: the machine keeps no list of what it passed over, the tape does.
        let cumulative = verb == Verb::Ack && machine.definition().ack == matchtape_consumer::AckPolicy::All;
        if acked.settled == 0 && !cumulative && !self.feed.is_of(machine, sequence)? {
            return Err(AckError::NeverDelivered { sequence }.into());
        }
        Ok(acked)
    }
}

/// Where a consumer reads the tape.
struct Feed {
    reader: Reader,
    /// Goes on where the last frame ended.
    cursor: Option<FrameCursor>,
    /// The frame that is being delivered.
    frame: Option<FrameHandle>,
    /// The last event of each instrument through `initial_through`, while they are delivered.
    initial: Option<Initial>,
}

/// The last event of each instrument that passes the filter. Where instruments are named, the index finds them; else the
/// tape is gone through once. A little with each turn: it may be long.
enum Initial {
    Search {
        frames: FrameCursor,
        last: FxHashMap<InstrumentId, Sequence>,
    },
    LookUp {
        looked_up: usize,
        found: Vec<Sequence>,
    },
    /// In order.
    Known(Vec<Sequence>),
}

struct Fetching {
    member: MemberId,
    now: Duration,
    max: usize,
    items: Vec<Item>,
    /// Something was held for another member.
    held: bool,
}

impl Fetching {
    fn run(&mut self, machine: &mut Machine, feed: &mut Feed) -> Result<Until, ConsumerError> {
        let mut turns = FRAMES_PER_TURN;
        loop {
            while let Some(advisory) = machine.tell(self.member) {
                self.items.push(Item::Advisory(advisory));
            }
            let room = self.max.saturating_sub(self.items.len());
            if room == 0 || turns == 0 {
                return Ok(Until::Turn);
            }
            let due = machine.due(self.member, self.now, room);
            if !due.is_empty() {
                for sequence in due {
                    if !self.again(machine, feed, sequence)? {
                        return Ok(Until::Visible(sequence));
                    }
                }
                continue;
            }
            match machine.want() {
                Want::Full | Want::Order => return Ok(Until::Woken),
                Want::Record => return Ok(Until::Recorded),
                Want::Events(next) => {
                    if !self.go_on(machine, feed, next)? {
                        return Ok(Until::Visible(machine.next()));
                    }
                    turns -= 1;
                }
            }
        }
    }

    fn deliver(&mut self, delivered: Delivered, event: EventHandle) {
        self.items.push(Item::Delivery(Delivery { delivered, event }));
    }

    /// Delivers an event again, once it is read: one that cannot be was not delivered. `false`: it is not visible again yet,
    /// and neither is what comes after it.
    fn again(
        &mut self,
        machine: &mut Machine,
        feed: &Feed,
        sequence: Sequence,
    ) -> Result<bool, ConsumerError> {
        match feed.reader.event(sequence) {
            Ok(Some(event)) => {
                let delivered = machine.redeliver(self.member, sequence, self.now);
                self.deliver(delivered, event);
            }
            Ok(None) => return Ok(false),
            Err(ReadError::BelowRetention { .. }) => machine.lose_pending(sequence, self.now),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Takes from the tape what comes at `next` and after; `false`: there is nothing visible.
    fn go_on(
        &mut self,
        machine: &mut Machine,
        feed: &mut Feed,
        next: Sequence,
    ) -> Result<bool, ConsumerError> {
        if next <= machine.initial_through() {
            return self.initial(machine, feed, next);
        }
        let frame = match feed.frame_at(next) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(false),
            Err(ReadError::BelowRetention { first_kept, .. }) => {
                machine.keep_from(first_kept, self.now);
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        let last = frame.frame().last_sequence();
        if !machine.definition().filter.kinds.intersects(frame.header().kinds) {
            machine.pass(last);
            return Ok(true);
        }
        let mut sequence = next;
        while sequence <= last {
            if self.items.len() >= self.max || !machine.may_take(sequence) {
                machine.pass(sequence.previous());
                return Ok(true);
            }
            let event = frame.event(sequence).expect("it is in the frame");
            let seen = event.event();
            if machine.definition().filter.matches(&seen) {
                let instrument = seen.instrument();
                self.take(machine, event, instrument);
            }
            sequence = sequence.next();
        }
        machine.pass(last);
        Ok(true)
    }

    fn take(&mut self, machine: &mut Machine, event: EventHandle, instrument: InstrumentId) {
        match machine.take(self.member, event.sequence(), instrument, self.now) {
            Some(delivered) => self.deliver(delivered, event),
            None => self.held = true,
        }
    }

    /// Takes the next of the last events of each instrument.
    fn initial(
        &mut self,
        machine: &mut Machine,
        feed: &mut Feed,
        next: Sequence,
    ) -> Result<bool, ConsumerError> {
        let through = machine.initial_through();
        let initial = match feed.initial.take() {
            Some(initial) => initial,
            None => Initial::begin(&feed.reader, &machine.definition().filter)?,
        };
        // After a failed read it begins anew.
        let initial =
            feed.initial.insert(initial.go_on(&feed.reader, &machine.definition().filter, through)?);
        let Initial::Known(list) = initial else { return Ok(true) };
        let place = list.partition_point(|sequence| *sequence < next);
        let Some(sequence) = list.get(place).copied() else {
            feed.initial = None;
            machine.pass(through);
            return Ok(true);
        };
        if machine.room().1 < sequence {
            // What lies between is not wanted; recording that makes room for the event itself.
            machine.pass(sequence.previous());
            return Ok(true);
        }
        match feed.reader.event(sequence) {
            Ok(Some(event)) => {
                let instrument = event.event().instrument();
                self.take(machine, event, instrument);
            }
            Ok(None) => return Ok(false),
            Err(ReadError::BelowRetention { first_kept, .. }) => machine.keep_from(first_kept, self.now),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

impl Feed {
    fn frame_at(&mut self, next: Sequence) -> Result<Option<&FrameHandle>, ReadError> {
        let holds = |frame: &FrameHandle| {
            let header = frame.header();
            header.first_sequence <= next && next <= header.last_sequence()
        };
        if !self.frame.as_ref().is_some_and(holds) {
            let mut cursor = match self.cursor.take() {
                Some(cursor) if cursor.position() == next => cursor,
                _ => self.reader.frames(next)?,
            };
            self.frame = cursor.next_frame()?;
            self.cursor = Some(cursor);
        }
        Ok(self.frame.as_ref())
    }

    /// Whether an event behind the cursor is one of this consumer's; one that is no longer kept may be.
    fn is_of(&self, machine: &Machine, sequence: Sequence) -> Result<bool, ConsumerError> {
        match self.reader.event(sequence) {
            Ok(event) => Ok(event.is_some_and(|event| machine.definition().filter.matches(&event.event()))),
            Err(ReadError::BelowRetention { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Initial {
    fn begin(reader: &Reader, filter: &ConsumerFilter) -> Result<Self, ReadError> {
        if filter.instruments.is_empty() {
            return Ok(Self::Search { frames: reader.frames(Sequence::ZERO)?, last: FxHashMap::default() });
        }
        Ok(Self::LookUp { looked_up: 0, found: Vec::new() })
    }

    /// By one frame, or one instrument.
    fn go_on(
        self,
        reader: &Reader,
        filter: &ConsumerFilter,
        through: Sequence,
    ) -> Result<Self, ConsumerError> {
        let found = match self {
            Self::Search { mut frames, mut last } => match frames.next_frame()? {
                Some(frame) if frame.header().first_sequence <= through => {
                    if filter.kinds.intersects(frame.header().kinds) {
                        let events = frame.frame().events();
                        for event in events.take_while(|event| event.sequence() <= through) {
                            if event.instrument() != InstrumentId(0) && filter.matches(&event) {
                                last.insert(event.instrument(), event.sequence());
                            }
                        }
                    }
                    return Ok(Self::Search { frames, last });
                }
                Some(_) | None => last.into_values().collect(),
            },
            Self::LookUp { looked_up, mut found } => match filter.instruments.get(looked_up) {
                Some(instrument) => {
                    found.extend(last_of(reader, filter.kinds, *instrument, through)?);
                    return Ok(Self::LookUp { looked_up: looked_up + 1, found });
                }
                None => found,
            },
            known @ Self::Known(_) => return Ok(known),
        };
        let mut list: Vec<Sequence> = found;
        list.sort_unstable();
        Ok(Self::Known(list))
    }
}

/// The last event of an instrument and some kinds, through a position.
pub(super) fn last_of(
    reader: &Reader,
    kinds: matchtape_schemas::KindMask,
    instrument: InstrumentId,
    through: Sequence,
) -> Result<Option<Sequence>, ConsumerError> {
    let query = Query {
        through,
        instrument: Some(instrument),
        kinds,
        direction: Direction::Backward,
        limit: Some(1),
        ..Query::default()
    };
    Ok(reader.query(&query)?.next().transpose()?.map(|event| event.sequence()))
}
