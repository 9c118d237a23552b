//! The rules of the hand-over, one by one. Random schedules of them are in `schedules.rs`.

#[path = "support/sim.rs"]
mod sim;
mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use matchtape_schemas::{Epoch, EventTime, OrderId, Sequence, Stage, Watermarks};
use matchtape_subscription::{
    Clock, Delayed, DelayedOptions, End, Filter, Handover, HandoverError, History, HistoryError, LiveFrame,
    Pace, RealTime, RealTimeOptions, Start, Subscription, SubscriptionError, Update, Verdict, Want,
    WindowStart,
};
use sim::{Buffer, Sample, SimLive, What};
use support::{Log, ManualClock, OwnedFrame, all_at, trades_through};

fn live(first: u64, last: u64, epoch: u64) -> LiveFrame {
    LiveFrame {
        epoch: Epoch(epoch),
        first_new: Sequence(first),
        last: Sequence(last),
        checksum: last,
        watermarks: all_at(Sequence(last)),
    }
}

#[test]
fn overlap_is_skipped_until_live_and_an_error_afterwards() {
    let mut handover = Handover::new(Sequence(15), Stage::Visible, false);
    assert_eq!(handover.want(), Want::Log);
    handover.log_exhausted();
    assert_eq!(handover.want(), Want::Live);
    assert_eq!(handover.live_frame(&live(1, 10, 1)), Ok(Verdict::Skip));
    assert!(!handover.is_live());
    // Also inside a frame.
    assert_eq!(handover.live_frame(&live(11, 20, 1)), Ok(Verdict::Deliver(Sequence(15))));
    assert!(handover.is_live());
    assert_eq!(
        handover.live_frame(&live(11, 20, 1)),
        Err(HandoverError::WentBack {
            first: Sequence(11),
            last: Sequence(20),
            epoch: Epoch(1),
            delivered: Sequence(20)
        })
    );
}

#[test]
fn events_that_are_skipped_without_a_word_are_an_error_never_delivered() {
    let mut handover = Handover::new(Sequence(1), Stage::Visible, false);
    handover.log_exhausted();
    assert_eq!(
        handover.live_frame(&live(5, 9, 1)),
        Err(HandoverError::Hole { expected: Sequence(1), first: Sequence(5), last: Sequence(9) })
    );
    let (frames, _) = trades_through(20);
    let mut handover = Handover::new(Sequence(1), Stage::Visible, false);
    assert_eq!(
        handover.log_frame(frames[1].frame().header()),
        Err(HandoverError::Hole { expected: Sequence(1), first: Sequence(11), last: Sequence(20) })
    );
}

#[test]
fn after_a_gap_the_log_is_read_until_it_reaches_what_the_bus_holds() {
    let (frames, _) = trades_through(30);
    let mut handover = Handover::new(Sequence(1), Stage::Visible, false);
    handover.log_exhausted();
    handover.gap(Sequence(1), Sequence(16));
    for frame in &frames[..2] {
        assert_eq!(handover.want(), Want::Log);
        // It may take a while until the log shows what was published.
        handover.log_exhausted();
        assert_eq!(handover.want(), Want::Log);
        let first = frame.frame().first_sequence();
        assert_eq!(handover.log_frame(frame.frame().header()), Ok(Verdict::Deliver(first)));
    }
    assert_eq!((handover.want(), handover.next()), (Want::Live, Sequence(21)));
}

struct Bus {
    log: Log,
    clock: ManualClock,
    buffer: Rc<RefCell<Buffer>>,
    frames: Vec<OwnedFrame>,
}

impl Bus {
    /// A tape of a hundred events, of which twenty are visible.
    fn new() -> Self {
        let (frames, _) = trades_through(100);
        let log = Log::new(frames.clone());
        log.change(|kept| kept.visible = Sequence(20));
        Self { log, clock: ManualClock::default(), buffer: Rc::default(), frames }
    }

    fn reader(&self, start: Start) -> Result<RealTime<Log, SimLive, ManualClock>, SubscriptionError> {
        let live = SimLive::new(Rc::clone(&self.buffer), self.clock.clone(), Stage::Visible);
        let options = RealTimeOptions { start, ..RealTimeOptions::default() };
        RealTime::open_with_clock(self.log.clone(), live, options, self.clock.clone())
    }

    fn send(&self, what: What, first: u64, visible: u64) {
        let (epoch, first, watermarks) = (Epoch::FIRST, Sequence(first), all_at(Sequence(visible)));
        self.buffer.borrow_mut().samples.push_back(Sample { what, incarnation: 1, epoch, first, watermarks });
    }

    /// Makes the frame that ends with `last` visible and publishes it.
    fn publish(&self, last: u64) {
        self.log.change(|kept| kept.visible = Sequence(last));
        let frame = self.frames[(last / 10 - 1) as usize].clone();
        self.send(What::Frame(frame), last - 9, last);
    }
}

/// What comes now, in short words.
fn drain(reader: &mut RealTime<Log, SimLive, ManualClock>) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(update) = reader.poll().expect("poll") {
        words.push(word(&update));
    }
    words
}

fn word(update: &Update<'_>) -> String {
    match *update {
        Update::Events(events) => format!("{}-{}", events.first(), events.last()),
        Update::LiveJoined { next } => format!("joined {next}"),
        Update::LiveLeft { next, .. } => format!("left {next}"),
        Update::Lagging { behind } => format!("lagging {behind}"),
        Update::CaughtUp { next } => format!("caught up {next}"),
        Update::Heartbeat { watermarks, .. } => format!("heartbeat {}", watermarks.visible),
        Update::Alarm { missed } => format!("alarm {missed}"),
        Update::Ahead { next, visible } => format!("{next} is ahead of {visible}"),
        Update::PublisherRestarted { epoch } => format!("restarted {epoch}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn history_then_live_then_lagging_then_caught_up() {
    let bus = Bus::new();
    bus.buffer.borrow_mut().exists = true;
    let mut reader = bus.reader(Start::Beginning).expect("open");
    assert_eq!(drain(&mut reader), ["1-10", "11-20"]);
    bus.publish(30);
    assert_eq!(drain(&mut reader), ["joined 21", "21-30"]);
    bus.send(What::Heartbeat, 31, 30);
    assert_eq!(drain(&mut reader), ["heartbeat 30"]);
    bus.publish(40);
    bus.publish(50);
    bus.buffer.borrow_mut().samples.clear();
    bus.publish(60);
    let expected = ["lagging 20", "left 31", "31-40", "41-50", "joined 51", "caught up 51", "51-60"];
    // The log is read only as far as it must be, or a frame further.
    assert_eq!(drain(&mut reader), expected);
    assert_eq!(reader.position(), Sequence(61));
}

#[test]
fn a_reader_starts_at_what_is_new_at_a_sequence_and_waits_for_what_is_ahead() {
    let bus = Bus::new();
    bus.buffer.borrow_mut().exists = true;
    let mut new = bus.reader(Start::New).expect("open");
    assert_eq!(drain(&mut new), Vec::<String>::new());
    bus.publish(30);
    assert_eq!(drain(&mut new), ["joined 21", "21-30"]);
    assert_eq!(drain(&mut bus.reader(Start::At(Sequence(25))).expect("open")), ["25-30"]);
    let mut ahead = bus.reader(Start::At(Sequence(45))).expect("open");
    assert_eq!(drain(&mut ahead), ["45 is ahead of 30"]);
    bus.publish(40);
    assert_eq!(drain(&mut ahead), Vec::<String>::new());
    bus.publish(50);
    assert_eq!(drain(&mut ahead), ["joined 45", "45-50"]);
    bus.log.change(|kept| kept.first_kept = Sequence(31));
    assert!(matches!(
        bus.reader(Start::At(Sequence(30))).map(|_| ()),
        Err(SubscriptionError::History(HistoryError::BelowRetention {
            asked: Sequence(30),
            first_kept: Sequence(31)
        }))
    ));
}

#[test]
fn three_missed_heartbeats_raise_the_alarm_once_and_the_log_is_followed_meanwhile() {
    let bus = Bus::new();
    bus.buffer.borrow_mut().exists = true;
    let mut reader = bus.reader(Start::New).expect("open");
    drain(&mut reader);
    bus.send(What::Heartbeat, 21, 20);
    assert_eq!(drain(&mut reader), ["joined 21", "heartbeat 20"]);
    drain(&mut reader);
    bus.clock.pass(Duration::from_millis(299));
    assert_eq!(drain(&mut reader), Vec::<String>::new());
    bus.clock.pass(Duration::from_millis(1));
    assert_eq!(drain(&mut reader), ["alarm 3", "left 21"]);
    // The node goes on, only the bus does not reach this reader.
    bus.log.change(|kept| kept.visible = Sequence(40));
    bus.clock.pass(Duration::from_millis(100));
    drain(&mut reader);
    assert_eq!(drain(&mut reader), ["21-30", "31-40"]);
    bus.clock.pass(Duration::from_millis(400));
    assert_eq!(drain(&mut reader), Vec::<String>::new(), "raised once");
    bus.publish(50);
    // A wake-up and a look at the log may come first; the events come once.
    let words = drain(&mut reader);
    assert!(words.ends_with(&["joined 41".into(), "41-50".into()]) || words == ["41-50"], "{words:?}");
    bus.send(What::Heartbeat, 51, 50);
    drain(&mut reader);
    bus.clock.pass(Duration::from_millis(300));
    assert_eq!(drain(&mut reader)[0], "alarm 3", "and raised again");
}

#[test]
fn without_a_bus_the_log_is_followed_until_there_is_one() {
    let bus = Bus::new();
    let mut reader = bus.reader(Start::Beginning).expect("open");
    assert_eq!(drain(&mut reader), ["1-10", "11-20"]);
    bus.log.change(|kept| kept.visible = Sequence(30));
    assert_eq!(drain(&mut reader), ["21-30"]);
    bus.clock.pass(Duration::from_millis(100));
    bus.buffer.borrow_mut().exists = true;
    assert_eq!(drain(&mut reader), Vec::<String>::new());
    bus.publish(40);
    assert_eq!(drain(&mut reader), ["joined 31", "31-40"]);
}

/// A log whose every frame takes its time, as one that is far away.
struct Slow(Log, ManualClock);

impl History for Slow {
    type Frame = OwnedFrame;

    fn visible(&self) -> Sequence {
        self.0.visible()
    }

    fn progress(&self) -> (Epoch, Watermarks) {
        self.0.progress()
    }

    fn first_kept(&self) -> Sequence {
        self.0.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<OwnedFrame>, HistoryError> {
        let frame = self.0.frame_at(from)?;
        if frame.is_some() {
            self.1.pass(Duration::from_millis(40));
        }
        Ok(frame)
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.0.first_at_time(time)
    }
}

/// What comes until nothing does, but for `waits` times, and when.
fn timed(reader: &mut impl Subscription, clock: &ManualClock) -> Vec<(u128, String)> {
    let (mut said, mut waits) = (Vec::new(), 0);
    while waits < 2 {
        match reader.poll().expect("poll") {
            Some(update) => said.push((clock.now().as_millis(), word(&update))),
            None => waits += 1,
        }
    }
    said
}

#[test]
fn who_finds_nothing_to_show_in_the_log_gives_signs_of_life_until_the_bus_does_or_is_known_to_be_silent() {
    let bus = Bus::new();
    let at = |visible| bus.log.change(|kept| kept.visible = Sequence(visible));
    at(60);
    let live = SimLive::new(Rc::clone(&bus.buffer), bus.clock.clone(), Stage::Visible);
    let nothing = Filter { order: Some(OrderId(77)), ..Filter::default() };
    let options = RealTimeOptions { start: Start::Beginning, filter: nothing, ..RealTimeOptions::default() };
    let slow = Slow(bus.log.clone(), bus.clock.clone());
    let mut reader = RealTime::open_with_clock(slow, live, options, bus.clock.clone()).expect("open");
    let beat = |ms, visible: u64| (ms, format!("heartbeat {visible}"));
    assert_eq!(timed(&mut reader, &bus.clock), [beat(120, 60), beat(240, 60)], "six frames at 40 ms each");
    bus.clock.pass(Duration::from_millis(100));
    bus.buffer.borrow_mut().exists = true;
    assert_eq!(timed(&mut reader, &bus.clock), []);
    bus.send(What::Heartbeat, 61, 60);
    assert_eq!(timed(&mut reader, &bus.clock), [(340, "joined 61".to_owned()), beat(340, 60)]);
    // One that lay in the bus while the log was read knows less than was said of that.
    bus.send(What::Heartbeat, 61, 55);
    assert_eq!(timed(&mut reader, &bus.clock), [beat(340, 60)]);

    // What the bus has said is known, though the log's own part knows less.
    bus.publish(70);
    bus.buffer.borrow_mut().samples.clear();
    bus.publish(100);
    bus.log.change(|kept| kept.watermarks = Some(all_at(Sequence(50))));
    let said = timed(&mut reader, &bus.clock);
    assert_eq!(said[..2], [(340, "lagging 30".to_owned()), (340, "left 61".to_owned())]);
    assert_eq!(said[2], beat(460, 60));
    assert!(said[3].1.starts_with("joined"), "{said:?}");

    // Where nothing is heard for too long, only the bus says that it is there again.
    let (frames, _) = trades_through(200);
    bus.log.change(|kept| (kept.frames, kept.watermarks) = (frames, None));
    bus.clock.pass(Duration::from_millis(300));
    at(200);
    let said = timed(&mut reader, &bus.clock);
    assert_eq!(said.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>(), ["alarm 3", "left 101"]);
    assert!(bus.clock.now() >= Duration::from_millis(340 + 300 + 400), "ten frames were read");
}

#[test]
fn who_finds_no_window_to_show_gives_signs_of_life_live_and_in_a_replay() {
    let bus = Bus::new();
    bus.log.change(|kept| kept.visible = Sequence(90));
    let filter = Filter { order: Some(OrderId(77)), ..Filter::default() };
    let options =
        DelayedOptions { start: WindowStart::From(Start::Beginning), filter, ..DelayedOptions::default() };
    let beats = |times: [u128; 2]| times.map(|ms| (ms, "heartbeat 90".to_owned())).to_vec();

    let live = SimLive::new(Rc::clone(&bus.buffer), bus.clock.clone(), Stage::Visible);
    let slow = Slow(bus.log.clone(), bus.clock.clone());
    let mut reader = Delayed::live_with_clock(slow, live, &options, bus.clock.clone()).expect("open");
    assert_eq!(timed(&mut reader, &bus.clock), beats([160, 280]));

    let clock = ManualClock::default();
    let slow = Slow(bus.log.clone(), clock.clone());
    let (end, pace) = (End::Visible, Pace::AsFastAsPossible);
    let mut reader = Delayed::replay_with_clock(slow, &options, end, pace, clock.clone()).expect("open");
    let said = timed(&mut reader, &clock);
    assert!(said.starts_with(&beats([160, 280])), "{said:?}");
}

/// A log that counts how often it is looked at.
struct Looked(Log, Rc<std::cell::Cell<u64>>);

impl matchtape_subscription::History for Looked {
    type Frame = OwnedFrame;

    fn visible(&self) -> Sequence {
        self.0.visible()
    }

    fn progress(&self) -> (Epoch, matchtape_schemas::Watermarks) {
        self.0.progress()
    }

    fn first_kept(&self) -> Sequence {
        self.0.first_kept()
    }

    fn frame_at(&mut self, from: Sequence) -> Result<Option<OwnedFrame>, HistoryError> {
        self.1.set(self.1.get() + 1);
        self.0.frame_at(from)
    }

    fn first_at_time(
        &mut self,
        time: matchtape_schemas::EventTime,
    ) -> Result<Option<Sequence>, HistoryError> {
        self.0.first_at_time(time)
    }
}

#[test]
fn an_idle_log_without_a_bus_is_left_alone_and_looked_at_closely_once_it_flows() {
    use matchtape_subscription::Clock as _;
    let (frames, _) = trades_through(40);
    let log = Log::new(frames);
    log.change(|kept| kept.visible = Sequence::ZERO);
    let (clock, looks) = (ManualClock::default(), Rc::default());
    let live = SimLive::new(Rc::default(), clock.clone(), Stage::Visible);
    let options = RealTimeOptions { start: Start::Beginning, ..RealTimeOptions::default() };
    let history = Looked(log.clone(), Rc::clone(&looks));
    let mut reader = RealTime::open_with_clock(history, live, options, clock.clone()).expect("open");
    let begun = clock.now();
    while clock.now() - begun < Duration::from_secs(10) {
        // The alarm that nobody publishes is all there is to say.
        assert!(!matches!(reader.next(Duration::from_secs(1)).expect("next"), Some(Update::Events(_))));
    }
    assert!(looks.get() < 250, "{} looks in ten idle seconds", looks.get());
    // What comes is seen within the longest pause, and what follows it within a millisecond.
    let mut seen = 0;
    while Sequence(seen) < log.change(|kept| kept.frames.last().expect("frames").frame().last_sequence()) {
        log.change(|kept| {
            let next =
                kept.frames.iter().map(|frame| frame.frame().last_sequence()).find(|last| last.get() > seen);
            kept.visible = next.expect("more");
        });
        let came = clock.now();
        loop {
            if let Some(Update::Events(events)) = reader.next(Duration::from_secs(1)).expect("next") {
                let allowed = if seen == 0 { 100 } else { 1 };
                assert!(clock.now() - came <= Duration::from_millis(allowed), "{:?}", clock.now() - came);
                seen = events.iter().last().expect("events").sequence().get();
                break;
            }
        }
    }
}

#[test]
fn what_a_restarted_node_has_recovered_is_not_taken_back() {
    for survived in [8, 5] {
        let mut handover = Handover::new(Sequence(1), Stage::Accepted, false);
        handover.log_exhausted();
        let accepted = LiveFrame { watermarks: all_at(Sequence(3)), ..live(1, 8, 1) };
        assert_eq!(handover.live_frame(&accepted), Ok(Verdict::Deliver(Sequence(1))));
        // As the bus reports it: what has survived, and the retraction of the rest.
        handover.restarted(Epoch(2), Sequence(survived));
        if survived < 8 {
            handover.retract(Epoch(1), Sequence(survived + 1), Sequence(8));
        }
        let verdict = handover.live_frame(&live(survived + 1, survived + 2, 2));
        assert_eq!(verdict, Ok(Verdict::Deliver(Sequence(survived + 1))));
        assert_eq!(handover.next(), Sequence(survived + 3));
    }
}
