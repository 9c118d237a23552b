//! All consumers of a node: making, finding, ending them; and the recorder's thread.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape_consumer::keys::{self, Part};
use matchtape_consumer::{
    Advisory, Change, ConsumerName, ConsumerStore, DecodeError, Definition, DefinitionError, DeliverPolicy,
    Machine, MachineInfo, MemberId, MemberName, Parked, State, StoreFailure, Want, decode_parked,
    encode_parked,
};
use matchtape_schemas::{AcceptedTime, Epoch, InstrumentId, Sequence, Stage, Watermarks};
use matchtape_storage::{Direction, Disk, EventStore, Query, Reader, ScrubOptions, StoreGauge};
use parking_lot::{Mutex, RwLock};

use super::ConsumersOptions;
use super::error::ConsumerError;
use super::handle::{ConsumerHandle, Recorded, block_on};
use super::one::{One, last_of};
use super::recorder::{Recorder, Round, Stop};
use super::system::SystemTape;
use crate::node::NodeError;
use crate::publisher::{Intake, wall_clock};
use crate::stages::StageReached;

/// Most consumers of one tape.
const CONSUMERS_MAX: usize = 1000;

/// What the consumers need of the node.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) name: String,
    pub(crate) options: ConsumersOptions,
    /// How the files below `system/` are read again.
    pub(crate) scrub: ScrubOptions,
    pub(crate) reader: Reader,
    pub(crate) intake: Arc<Intake>,
    pub(crate) epoch: Epoch,
    /// The last event recovered.
    pub(crate) head: Sequence,
    /// For pins. Never held for longer: the node takes it apart when it closes.
    pub(crate) store: Weak<EventStore>,
    /// Drawn at random by each opening of the node.
    pub(crate) incarnation: u64,
}

/// A consumer, as it stands.
#[derive(Clone, Debug)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: ConsumerName,
    /// What was asked for.
    pub definition: Definition,
    /// How it stands.
    pub machine: MachineInfo,
    /// The last visible event, which its `next` follows at most by one.
    pub visible: Sequence,
    /// The latest advisories, with the time of each in ns since 1970 UTC.
    pub advisories: Vec<(AcceptedTime, Advisory)>,
}

/// The durable consumers of a node. Clones are the same; it works until the node is closed.
#[derive(Clone)]
pub struct Consumers {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) parts: Parts,
    pub(super) recorder: Arc<Recorder>,
    origin: Instant,
    wall_origin: AcceptedTime,
    by_name: RwLock<BTreeMap<ConsumerName, Arc<One>>>,
    /// Held while a consumer is made, changed or deleted: one at a time.
    thread: Mutex<Thread>,
    /// The system tape's store, once there is one.
    system: Arc<OnceLock<StoreGauge>>,
    /// All is to end: the recorder no longer waits for room on a full disk.
    stopping: Arc<AtomicBool>,
}

enum Thread {
    /// There has never been a consumer, and there is no system tape.
    NotStarted,
    Running(JoinHandle<SystemTape>),
    Stopped,
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn visible(&self, sequence: Sequence) -> StageReached {
        StageReached::new(Arc::clone(&self.parts.intake.stages), sequence, Stage::Visible)
    }

    fn find(&self, name: &ConsumerName) -> Result<Arc<One>, ConsumerError> {
        let found = self.by_name.read().get(name).cloned();
        found.ok_or_else(|| ConsumerError::Unknown(name.clone()))
    }

    fn all(&self) -> Vec<Arc<One>> {
        self.by_name.read().values().cloned().collect()
    }

    fn machine(&self, definition: Definition, state: &State, parked: Vec<Parked>) -> Machine {
        Machine::new(definition, state, parked, self.wall_origin, MemberId(self.parts.incarnation))
    }

    fn one(&self, name: ConsumerName, machine: Machine) -> Arc<One> {
        let needed_from = machine.needed_from();
        let one = One::new(name, machine, self.parts.reader.clone(), &self.recorder);
        one.pin(&self.parts.store, needed_from);
        Arc::new(one)
    }
}

impl Consumers {
    /// How far their tape has come.
    pub fn watermarks(&self) -> Watermarks {
        self.shared.parts.intake.watermarks()
    }

    /// Takes up the consumers that the data directory has, and returns when what recovery changed of them is recorded.
    pub(crate) fn open(parts: Parts) -> Result<Self, NodeError> {
        let (origin, wall_origin) = (Instant::now(), wall_clock());
        let system = SystemTape::open(&parts.disk, &parts.name, &parts.options, parts.scrub)?;
        let shared = Shared {
            parts,
            recorder: Arc::new(Recorder::new()),
            origin,
            wall_origin,
            by_name: RwLock::default(),
            thread: Mutex::new(Thread::NotStarted),
            system: Arc::default(),
            stopping: Arc::default(),
        };
        let this = Self { shared: Arc::new(shared) };
        if let Some(mut system) = system {
            let failed = |failure: StoreFailure| ConsumerError::Recording(Arc::new(failure));
            let kept = system.load().map_err(failed)?;
            let mut found: BTreeMap<ConsumerName, [Option<Vec<u8>>; 3]> = BTreeMap::new();
            for one in kept {
                if let Some((name, part)) = keys::read(&one.key) {
                    found.entry(name).or_default()[part as usize] = Some(one.value);
                }
            }
            let mut pulled_back = false;
            for (name, parts) in found {
                let (machine, back) = this.recover(&name, parts)?;
                pulled_back |= back;
                let one = this.shared.one(name.clone(), machine);
                this.shared.by_name.write().insert(name, one);
            }
            if pulled_back {
                // Before anything is appended: once the tape is as long again, the record could not be told from a sound
                // one. And not by the recorder, which waits while the disk is full: then the node does not open.
                let mut rounds = Rounds { shared: Arc::clone(&this.shared), in_flight: Vec::new() };
                let groups = rounds.collect(false);
                system.write_at_open(&groups)?;
                rounds.recorded();
            }
            this.start(&mut this.shared.thread.lock(), system)?;
        }
        Ok(this)
    }

    /// A consumer out of its records; and whether its record was ahead of the tape.
    fn recover(
        &self,
        name: &ConsumerName,
        parts: [Option<Vec<u8>>; 3],
    ) -> Result<(Machine, bool), ConsumerError> {
        let [definition, state, parked] = parts;
        let missing = |what| DecodeError { what, at: 0, problem: format!("consumer {name} has none") };
        let definition = Definition::decode(&definition.ok_or_else(|| missing("definition"))?)?;
        let state = State::decode(&state.ok_or_else(|| missing("state"))?)?;
        let parked = parked.map_or(Ok(Vec::new()), |bytes| decode_parked(&bytes))?;
        let mut machine = self.shared.machine(definition, &state, parked);
        let head = self.shared.parts.head;
        let mut pulled_back = machine.pull_back(head, Duration::ZERO);
        let last = machine.next().previous();
        let known = self.known_through(last, state.epoch);
        if known < last {
            pulled_back |= machine.pull_back(known, Duration::ZERO);
        }
        if pulled_back {
            tracing::warn!(
                consumer = %name, recorded = %state.next, epoch = %state.epoch, %head,
                "the tape's end was lost after this consumer's record; it goes on behind what is left"
            );
        }
        Ok((machine, pulled_back))
    }

    /// The last position up to this one that a record of an epoch can have meant: what a later term put on the tape came
    /// after the record, so where it stands below `through` it took the place of events that were lost.
    fn known_through(&self, through: Sequence, epoch: Epoch) -> Sequence {
        let reader = &self.shared.parts.reader;
        // What cannot be read, kept no more or damaged, says nothing here; whoever is to be given it will be told.
        let is_later = |sequence: Sequence| matches!(reader.event(sequence), Ok(Some(event)) if event.event().epoch() > epoch);
        if !is_later(through) {
            return through;
        }
        // Terms only rise along the tape.
        let (mut known, mut later) = (reader.first_kept().max(Sequence::FIRST).previous(), through);
        while known.next() < later {
            let middle = Sequence(known.get() + (later.get() - known.get()) / 2);
            if is_later(middle) { later = middle } else { known = middle }
        }
        known
    }

    /// Where the gauge of the system tape's store is, or will be.
    pub(crate) fn system_gauge(&self) -> Arc<OnceLock<StoreGauge>> {
        Arc::clone(&self.shared.system)
    }

    fn start(&self, thread: &mut Thread, mut system: SystemTape) -> Result<(), NodeError> {
        let shared = Arc::clone(&self.shared);
        let gauge = system.gauge();
        system.until(&self.shared.stopping);
        let running = std::thread::Builder::new().name("consumers".into()).spawn(move || {
            let interval = shared.parts.options.record_interval;
            let recorder = Arc::clone(&shared.recorder);
            recorder.run(system, &mut Rounds { shared, in_flight: Vec::new() }, interval)
        })?;
        *thread = Thread::Running(running);
        let _ = self.shared.system.set(gauge);
        Ok(())
    }

    /// Makes a consumer; returns when it is durable. Again with the same definition, it changes nothing.
    pub fn add(&self, name: &ConsumerName, definition: Definition) -> Result<ConsumerInfo, ConsumerError> {
        let definition = definition.checked()?;
        let mut thread = self.shared.thread.lock();
        if let Ok(one) = self.shared.find(name) {
            let inner = one.lock()?;
            if *inner.machine.definition() != definition {
                return Err(ConsumerError::Exists(name.clone()));
            }
            return Ok(self.describe(&one, &inner));
        }
        let count = self.shared.by_name.read().len();
        if count >= CONSUMERS_MAX {
            return Err(ConsumerError::TooMany(count));
        }
        match &*thread {
            Thread::Running(_) => {}
            Thread::Stopped => return Err(ConsumerError::Closed),
            Thread::NotStarted => {
                let parts = &self.shared.parts;
                let failed = |error: NodeError| match is_full_disk(&error) {
                    true => ConsumerError::NoSpace,
                    false => ConsumerError::Recording(Arc::new(StoreFailure(Box::new(error)))),
                };
                let system = SystemTape::create(&parts.disk, &parts.name, &parts.options, parts.scrub)
                    .map_err(failed)?;
                self.start(&mut thread, system).map_err(failed)?;
            }
        }
        let (first, initial_through) = self.begin(&definition)?;
        let epoch = self.shared.parts.epoch;
        let state = State::beginning(epoch, first, initial_through);
        let bytes = definition.encode();
        let mut machine = self.shared.machine(definition, &state, Vec::new());
        let (state, _) = machine.record(epoch, self.shared.now());
        let changes = vec![
            Change::Set { key: keys::key(name, Part::Definition), value: bytes },
            Change::Set { key: keys::key(name, Part::State), value: state.encode() },
        ];
        self.write(changes)?;
        machine.recorded(state.reserved_through);
        let one = self.shared.one(name.clone(), machine);
        let info = self.describe(&one, &*one.lock()?);
        self.shared.by_name.write().insert(name.clone(), Arc::clone(&one));
        // Whoever ended all others before it was among them has said so before.
        if let Err(error) = self.shared.recorder.check() {
            one.end(error.clone());
            return Err(error);
        }
        Ok(info)
    }

    /// Changes what may be changed of a consumer's definition; returns when that is durable.
    pub fn update(&self, name: &ConsumerName, definition: Definition) -> Result<ConsumerInfo, ConsumerError> {
        let definition = definition.checked()?;
        let _one_at_a_time = self.shared.thread.lock();
        let one = self.shared.find(name)?;
        let value = definition.encode();
        one.update(definition)?;
        self.write(vec![Change::Set { key: keys::key(name, Part::Definition), value }])?;
        Ok(self.describe(&one, &*one.lock()?))
    }

    /// Ends a consumer and forgets it; returns when that is durable.
    pub fn delete(&self, name: &ConsumerName) -> Result<(), ConsumerError> {
        let _one_at_a_time = self.shared.thread.lock();
        let one = self.shared.find(name)?;
        self.shared.recorder.check()?;
        self.shared.by_name.write().remove(name);
        one.end(ConsumerError::Deleted(name.clone()));
        let delete = |part| Change::Delete { key: keys::key(name, part) };
        self.write(Part::EVERY.map(delete).into())
    }

    /// Every consumer, by name.
    pub fn list(&self) -> Vec<ConsumerInfo> {
        let all = self.shared.all();
        all.iter().filter_map(|one| Some(self.describe(one, &*one.lock().ok()?))).collect()
    }

    /// One consumer.
    pub fn info(&self, name: &ConsumerName) -> Result<ConsumerInfo, ConsumerError> {
        let one = self.shared.find(name)?;
        let inner = one.lock()?;
        Ok(self.describe(&one, &inner))
    }

    /// The events a consumer has set aside, by sequence.
    pub fn parked(&self, name: &ConsumerName) -> Result<Vec<Parked>, ConsumerError> {
        Ok(self.shared.find(name)?.lock()?.machine.parked().copied().collect())
    }

    /// Takes events back from those set aside, all or the one given, to be delivered again. Returns how many.
    pub fn unpark(&self, name: &ConsumerName, only: Option<Sequence>) -> Result<u32, ConsumerError> {
        let now = self.shared.now();
        self.shared.find(name)?.change(true, |machine| machine.unpark(only, now))
    }

    /// Gives up events that were set aside, all or the one given. Returns how many.
    pub fn discard(&self, name: &ConsumerName, only: Option<Sequence>) -> Result<u32, ConsumerError> {
        let now = self.shared.now();
        self.shared.find(name)?.change(true, |machine| machine.discard(only, now))
    }

    /// Attaches a member of this process: it is there until its handle is dropped. A member of the same name is replaced.
    pub fn attach(&self, name: &ConsumerName, member: &MemberName) -> Result<ConsumerHandle, ConsumerError> {
        self.attach_as(name, member, false)
    }

    /// Attaches a member elsewhere: it is given up when nothing is heard of it for the definition's `member_timeout`. Its
    /// requests find it by [`session`](Self::session).
    pub fn attach_remote(
        &self,
        name: &ConsumerName,
        member: &MemberName,
    ) -> Result<ConsumerHandle, ConsumerError> {
        self.attach_as(name, member, true)
    }

    fn attach_as(
        &self,
        name: &ConsumerName,
        member: &MemberName,
        remote: bool,
    ) -> Result<ConsumerHandle, ConsumerError> {
        let one = self.shared.find(name)?;
        let now = self.shared.now();
        let id = one.change(true, |machine| machine.attach(member, remote, now))??;
        Ok(ConsumerHandle::new(Arc::clone(&self.shared), one, id, remote))
    }

    /// The handle of a member elsewhere. Whether it is (still) attached shows when it fetches.
    pub fn session(&self, name: &ConsumerName, member: MemberId) -> Result<ConsumerHandle, ConsumerError> {
        let one = self.shared.find(name)?;
        Ok(ConsumerHandle::new(Arc::clone(&self.shared), one, member, true))
    }

    fn describe(&self, one: &One, inner: &super::one::Inner) -> ConsumerInfo {
        ConsumerInfo {
            name: one.name.clone(),
            definition: inner.machine.definition().clone(),
            machine: inner.machine.info(),
            visible: self.shared.parts.reader.visible(),
            advisories: inner.machine.advisories().cloned().collect(),
        }
    }

    /// Makes changes durable.
    fn write(&self, changes: Vec<Change>) -> Result<(), ConsumerError> {
        let recorded = Recorded::with(&self.shared.recorder, Some(changes));
        block_on(recorded, None).expect("there is no deadline")
    }

    /// The first position, and through which only the last event of each instrument is wanted.
    fn begin(&self, definition: &Definition) -> Result<(Sequence, Sequence), ConsumerError> {
        let reader = &self.shared.parts.reader;
        let visible = reader.visible();
        let first_kept = reader.first_kept().max(Sequence::FIRST);
        let at = |first| Ok((first, Sequence::ZERO));
        match definition.deliver {
            DeliverPolicy::All => at(first_kept),
            DeliverPolicy::New => at(visible.next()),
            DeliverPolicy::LastPerInstrument if visible < first_kept => at(first_kept),
            DeliverPolicy::LastPerInstrument => Ok((first_kept, visible)),
            DeliverPolicy::ByStartSequence(asked) => {
                let asked = asked.max(Sequence::FIRST);
                if asked < first_kept {
                    return Err(ConsumerError::BelowRetention { asked, first_kept });
                }
                at(asked)
            }
            DeliverPolicy::ByStartTime(time) => {
                let query =
                    Query { event_time_from: time, through: visible, limit: Some(1), ..Query::default() };
                let found = reader.query(&query)?.next().transpose()?;
                at(found.map_or(visible.next(), |event| event.sequence()))
            }
            DeliverPolicy::Last => {
                let filter = &definition.filter;
                let mut last = None;
                if filter.instruments.is_empty() {
                    let query = Query {
                        through: visible,
                        kinds: filter.kinds,
                        direction: Direction::Backward,
                        limit: Some(1),
                        ..Query::default()
                    };
                    last = reader.query(&query)?.next().transpose()?.map(|event| event.sequence());
                }
                for instrument in &filter.instruments {
                    if *instrument == InstrumentId(0) {
                        let problem =
                            "instrument 0 is no instrument; its last event cannot be looked up".into();
                        return Err(DefinitionError { field: "instruments", problem }.into());
                    }
                    last = last.max(last_of(reader, filter.kinds, *instrument, visible)?);
                }
                at(last.unwrap_or(visible.next()))
            }
        }
    }

    /// Records where every consumer is and ends all. Members are told that the node is closed.
    pub(crate) fn close(&self) -> Result<(), NodeError> {
        match self.stop(Stop::InOrder) {
            Some(system) => system.close(),
            None => Ok(()),
        }
    }

    /// Ends all as a crash would.
    pub(crate) fn abandon(&self) {
        drop(self.stop(Stop::AtOnce));
    }

    fn stop(&self, how: Stop) -> Option<SystemTape> {
        // Before the lock: whoever makes a consumer holds it, and may be waiting for the recorder.
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.recorder.stop(how);
        let thread = std::mem::replace(&mut *self.shared.thread.lock(), Thread::Stopped);
        let Thread::Running(thread) = thread else { return None };
        match thread.join() {
            Ok(system) => Some(system),
            Err(panic) if !std::thread::panicking() => std::panic::resume_unwind(panic),
            Err(_) => None,
        }
    }
}

/// Whether there was no room for what was to be written.
fn is_full_disk(error: &NodeError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    let mut kinds = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    kinds.any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// The recorder's view of the consumers.
struct Rounds {
    shared: Arc<Shared>,
    /// What the round that is being written allows, once it is durable.
    in_flight: Vec<InFlight>,
}

/// A record that is being written.
struct InFlight {
    one: Arc<One>,
    reserved_through: Sequence,
    needed_from: Sequence,
}

impl Round for Rounds {
    fn now(&self) -> Duration {
        self.shared.now()
    }

    fn tick(&mut self) -> Option<Duration> {
        let now = self.shared.now();
        let mut soonest = None;
        for one in self.shared.all() {
            let Ok(mut inner) = one.lock() else { continue };
            if inner.machine.tick(now) {
                inner.wake();
            }
            soonest = soonest.into_iter().chain(inner.machine.quiet_until()).min();
        }
        soonest
    }

    fn collect(&mut self, last: bool) -> Vec<Vec<Change>> {
        let epoch = self.shared.parts.epoch;
        let now = self.shared.now();
        let mut groups = Vec::new();
        for one in self.shared.all() {
            let Ok(mut inner) = one.lock() else { continue };
            let machine = &mut inner.machine;
            let (state, parked_too) = if last {
                machine.record_last(epoch, now)
            } else if machine.is_changed() || machine.want() == Want::Record {
                machine.record(epoch, now)
            } else {
                continue;
            };
            let set = |part, value| Change::Set { key: keys::key(&one.name, part), value };
            let mut group = vec![set(Part::State, state.encode())];
            if parked_too {
                group.push(set(Part::Parked, encode_parked(machine.parked())));
            }
            groups.push(group);
            let needed_from = machine.needed_from();
            drop(inner);
            if last {
                // What is acknowledged from here on could not be recorded, so it is refused.
                one.end(ConsumerError::Closed);
            }
            let reserved_through = state.reserved_through;
            self.in_flight.push(InFlight { one, reserved_through, needed_from });
        }
        groups
    }

    fn recorded(&mut self) {
        for InFlight { one, reserved_through, needed_from } in self.in_flight.drain(..) {
            // Only now: a crash before would have found the earlier record, and what that one needs.
            one.pin(&self.shared.parts.store, needed_from);
            if let Ok(mut inner) = one.lock() {
                inner.machine.recorded(reserved_through);
                inner.wake();
            }
        }
    }

    fn ended(&mut self) {
        let why = self.shared.recorder.check().err().unwrap_or(ConsumerError::Closed);
        if let ConsumerError::Recording(_) = why {
            self.shared.parts.intake.ended_parts.note("consumers", &why);
        }
        for one in self.shared.all() {
            one.end(why.clone());
        }
    }
}
