//! The historical tier: exact ranges, filters, pace, seeks.

mod support;

use std::time::Duration;

use matchtape_schemas::{AccountId, Epoch, EventTime, InstrumentId, KindMask, OrderId, Sequence, Watermarks};
use matchtape_subscription::{
    Clock, End, Filter, HeartbeatAlarm, Historical, HistoricalOptions, History, HistoryError, Instruments,
    Pace, Silence, Start, Subscription, SubscriptionError, Update,
};
use support::{Log, ManualClock, OwnedFrame, event, frames, group, trade, trades_through};

/// A trade every millisecond from 1 to 100, ten to a frame.
fn log() -> Log {
    Log::new(trades_through(100).0)
}

fn all(start: Start, end: End, filter: Filter) -> Vec<u64> {
    let options = HistoricalOptions { start, end, filter, ..HistoricalOptions::default() };
    read(&mut Historical::open(log(), options).expect("open"))
}

/// The sequences shown until the range has ended.
fn read<S: Subscription>(reader: &mut S) -> Vec<u64> {
    let mut sequences = Vec::new();
    let mut covered = None;
    loop {
        match reader.poll().expect("poll").expect("all of it is there") {
            Update::Events(events) => {
                assert!(covered.is_none_or(|last| events.first() > last));
                covered = Some(events.last());
                sequences.extend(events.iter().map(|event| event.sequence().get()));
            }
            Update::Ended { next } => {
                assert!(covered.is_none_or(|last| next > last));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(reader.poll().expect("poll").is_none(), "ended once");
    sequences
}

fn range(first: u64, last: u64) -> Vec<u64> {
    (first..=last).collect()
}

#[test]
fn ranges_are_exact_by_sequence_and_by_time() {
    let everything = Filter::default;
    assert_eq!(all(Start::Beginning, End::Visible, everything()), range(1, 100));
    assert_eq!(all(Start::At(Sequence(15)), End::Through(Sequence(37)), everything()), range(15, 37));
    let ms = |ms: i64| EventTime(ms * 1_000_000);
    assert_eq!(all(Start::Time(ms(20)), End::Before(ms(30)), everything()), range(20, 29));
    assert_eq!(all(Start::Time(ms(95)), End::Before(ms(1000)), everything()), range(95, 100));
    assert_eq!(all(Start::Time(ms(1000)), End::Visible, everything()), range(1, 0));
    assert_eq!(all(Start::New, End::Visible, everything()), range(1, 0));
}

#[test]
fn filters_pass_kinds_instruments_orders_and_accounts() {
    let start = Start::Beginning;
    let wanted = |filter: Filter| all(start, End::Visible, filter);
    let which =
        |wanted: fn(u64) -> bool| range(1, 100).into_iter().filter(|n| wanted(*n)).collect::<Vec<_>>();
    assert_eq!(wanted(Filter::kinds(KindMask::TRADES)), range(1, 100));
    assert_eq!(wanted(Filter::kinds(KindMask::ORDERS)), range(1, 0));
    let two = Filter::instruments([InstrumentId(3), InstrumentId(1), InstrumentId(3)]);
    assert_eq!(two.instruments, Instruments::Only(vec![InstrumentId(1), InstrumentId(3)]));
    assert_eq!(wanted(two), which(|n| n % 4 == 0 || n % 4 == 2));
    assert_eq!(wanted(Filter { order: Some(OrderId(7)), ..Filter::default() }), which(|n| n % 10 == 7));
    assert_eq!(wanted(Filter { account: Some(AccountId(2)), ..Filter::default() }), which(|n| n % 3 == 2));
    let both = Filter { account: Some(AccountId(2)), order: Some(OrderId(7)), ..Filter::default() };
    assert_eq!(wanted(both), which(|n| n % 3 == 2 && n % 10 == 7));
}

#[test]
fn what_is_not_kept_is_an_error_and_what_is_not_there_yet_is_waited_for() {
    let (frames, _) = trades_through(30);
    let log = Log::new(frames);
    log.change(|kept| (kept.visible, kept.first_kept) = (Sequence(20), Sequence(11)));
    let open = |start, end| {
        let options = HistoricalOptions { start, end, ..HistoricalOptions::default() };
        Historical::open_with_clock(log.clone(), options, ManualClock::default())
    };
    let Err(error) = open(Start::At(Sequence(10)), End::Visible) else { panic!("it is gone") };
    assert!(matches!(
        error,
        SubscriptionError::History(HistoryError::BelowRetention {
            asked: Sequence(10),
            first_kept: Sequence(11)
        })
    ));
    assert_eq!(read(&mut open(Start::Beginning, End::Visible).expect("open")), range(11, 20));
    // The end lies beyond what is visible: it does not say that it is complete.
    let mut reader = open(Start::Beginning, End::Through(Sequence(25))).expect("open");
    assert!(matches!(reader.poll().expect("poll"), Some(Update::Events(_))));
    let alive = reader.next(Duration::from_secs(1)).expect("read").expect("a sign of life");
    assert!(matches!(alive, Update::Heartbeat { watermarks, .. } if watermarks.visible == Sequence(20)));
    log.change(|kept| kept.visible = Sequence(30));
    assert_eq!(read(&mut reader), range(21, 25));
}

#[test]
fn the_pace_is_the_tapes_own_times_the_factor_and_keeps_groups_together() {
    let ms = |ms: i64| ms * 1_000_000;
    let groups = [
        vec![event(1, ms(1000), trade(1))],
        group(vec![event(1, ms(1010), trade(2)), event(1, ms(1500), trade(3))]),
        vec![event(1, ms(900), trade(4))],
        vec![event(1, ms(1600), trade(5))],
        vec![event(1, ms(3600), trade(6))],
    ];
    for limit in [1, 2, 9] {
        let mut head = matchtape_schemas::Head::empty(support::TAPE);
        let log = Log::new(frames(&mut head, &groups, || limit));
        let clock = ManualClock::default();
        clock.pass(Duration::from_secs(5));
        let options = HistoricalOptions {
            start: Start::Beginning,
            pace: Pace::Times(2.0),
            ..HistoricalOptions::default()
        };
        let mut reader = Historical::open_with_clock(log, options, clock.clone()).expect("open");
        let mut shown = Vec::new();
        loop {
            match reader.poll().expect("poll") {
                Some(Update::Events(events)) => {
                    let at = (clock_ms(&clock) - 5000) as u64;
                    shown.extend(events.iter().map(|event| (event.sequence().get(), at)));
                }
                Some(Update::Heartbeat { .. }) => {}
                Some(Update::Ended { .. }) => break,
                Some(other) => panic!("{other:?}"),
                None => reader.wait(Duration::from_secs(60)).expect("wait"),
            }
        }
        // The group comes when it began; the late event with those around it.
        assert_eq!(shown, [(1, 0), (2, 5), (3, 5), (4, 250), (5, 300), (6, 1300)], "{limit} to a frame");
    }
}

fn clock_ms(clock: &ManualClock) -> u128 {
    matchtape_subscription::Clock::now(clock).as_millis()
}

/// What a reader says until its range has ended, or for so long; every word of it in time for an alarm of three intervals.
fn said<C: Clock>(
    reader: &mut Historical<impl History, C>,
    clock: &ManualClock,
    limit: Duration,
) -> Vec<(u128, String)> {
    let mut alarm = HeartbeatAlarm::new(INTERVAL, clock.now());
    let until = clock.now() + limit;
    let mut said = Vec::new();
    while clock.now() < until {
        let what = match reader.poll().expect("poll") {
            Some(Update::Events(events)) => format!("events {} to {}", events.first(), events.last()),
            Some(Update::Heartbeat { epoch, watermarks: at }) => {
                let Watermarks { accepted, written, durable, replicated, visible } = at;
                format!("epoch {epoch}: {accepted} {written} {durable} {replicated} {visible}")
            }
            Some(Update::Ended { .. }) => "ended".into(),
            Some(other) => panic!("{other:?}"),
            None => {
                reader.wait(Duration::from_secs(60)).expect("wait");
                assert_eq!(alarm.check(clock.now()), None, "silent until {:?}", clock.now());
                continue;
            }
        };
        alarm.heard(clock.now());
        said.push((clock_ms(clock), what));
        if said.last().expect("said").1 == "ended" {
            // Whoever reads no longer is silent, and that is noticed.
            clock.pass(3 * INTERVAL - Duration::from_millis(1));
            assert_eq!(alarm.check(clock.now()), None);
            clock.pass(Duration::from_millis(1));
            assert_eq!(alarm.check(clock.now()), Some(Silence::Raised(3)));
            break;
        }
    }
    said
}

const INTERVAL: Duration = Duration::from_millis(100);

#[test]
fn a_slow_replay_gives_signs_of_life_with_all_watermarks_while_nothing_is_due() {
    let ms = |ms: i64| ms * 1_000_000;
    let groups = [vec![event(1, ms(0), trade(1))], vec![event(1, ms(1050), trade(2))]];
    let log = Log::new(frames(&mut matchtape_schemas::Head::empty(support::TAPE), &groups, || 1));
    let at = |at: [u64; 5]| {
        let [accepted, written, durable, replicated, visible] = at.map(Sequence);
        Some(Watermarks { accepted, written, durable, replicated, visible })
    };
    log.change(|kept| (kept.epoch, kept.watermarks) = (Epoch(7), at([9, 8, 7, 6, 2])));
    let (start, pace) = (Start::Beginning, Pace::Times(1.0));
    let options =
        HistoricalOptions { start, pace, heartbeat_interval: INTERVAL, ..HistoricalOptions::default() };
    let clock = ManualClock::default();
    let mut reader = Historical::open_with_clock(log.clone(), options, clock.clone()).expect("open");
    let mut expected = vec![(0, "events 1 to 1".to_owned())];
    expected.extend((1..=10).map(|beat| (100 * beat, "epoch 7: 9 8 7 6 2".to_owned())));
    expected.extend([(1050, "events 2 to 2".into()), (1050, "ended".into())]);
    assert_eq!(said(&mut reader, &clock, Duration::from_secs(2)), expected);
    assert!(reader.poll().expect("poll").is_none(), "a range that has ended says nothing more");

    // So does one that waits for what is not visible yet, and tells how far the tape is.
    let end = End::Through(Sequence(3));
    let options = HistoricalOptions { start, end, ..HistoricalOptions::default() };
    let clock = ManualClock::default();
    let mut reader = Historical::open_with_clock(log.clone(), options, clock.clone()).expect("open");
    let waited = said(&mut reader, &clock, 3 * INTERVAL + Duration::from_millis(1));
    assert!(
        waited.ends_with(&[(200, "epoch 7: 9 8 7 6 2".into()), (300, "epoch 7: 9 8 7 6 2".into())]),
        "{waited:?}"
    );
    log.change(|kept| kept.watermarks = at([9, 9, 9, 9, 2]));
    let waited = said(&mut reader, &clock, Duration::from_millis(1));
    assert_eq!(waited, [(400, "epoch 7: 9 9 9 9 2".into())]);
    let options = HistoricalOptions { heartbeat_interval: Duration::ZERO, ..HistoricalOptions::default() };
    assert!(matches!(
        Historical::open(log, options),
        Err(SubscriptionError::BadOption { what: "the heartbeat interval", .. })
    ));
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
        self.1.pass(Duration::from_millis(40));
        self.0.frame_at(from)
    }

    fn first_at_time(&mut self, time: EventTime) -> Result<Option<Sequence>, HistoryError> {
        self.0.first_at_time(time)
    }
}

#[test]
fn a_reader_that_finds_nothing_it_looks_for_gives_signs_of_life_while_it_looks() {
    let clock = ManualClock::default();
    let filter = Filter { order: Some(OrderId(77)), ..Filter::default() };
    let options = HistoricalOptions { start: Start::Beginning, filter, ..HistoricalOptions::default() };
    let slow = Slow(log(), clock.clone());
    let mut reader = Historical::open_with_clock(slow, options, clock.clone()).expect("open");
    let said = said(&mut reader, &clock, Duration::from_secs(10));
    let alive: Vec<u128> = said.iter().map(|(at, _)| *at).collect();
    assert_eq!(alive, [120, 240, 360, 400], "ten frames at 40 ms each: {said:?}");
}

#[test]
fn a_paced_reader_can_seek_pause_and_change_its_pace() {
    let clock = ManualClock::default();
    let options =
        HistoricalOptions { start: Start::Beginning, pace: Pace::Times(1.0), ..HistoricalOptions::default() };
    let mut reader = Historical::open_with_clock(log(), options, clock.clone()).expect("open");
    let next = |reader: &mut Historical<Log, ManualClock>| match reader.poll().expect("poll") {
        Some(Update::Events(events)) => Some((events.first().get(), events.last().get())),
        None => None,
        other => panic!("{other:?}"),
    };
    let ms = Duration::from_millis;
    assert_eq!(next(&mut reader), Some((1, 1)));
    assert_eq!((next(&mut reader), reader.due()), (None, Some(ms(1))));
    clock.pass(ms(3));
    assert_eq!((next(&mut reader), next(&mut reader)), (Some((2, 4)), None));
    // Backwards, into the middle of a frame.
    reader.seek(Start::At(Sequence(3))).expect("seek");
    assert_eq!((next(&mut reader), next(&mut reader)), (Some((3, 3)), None));
    // A pause of a minute, and then on from here.
    clock.pass(ms(60_000));
    reader.set_pace(Pace::Times(0.5)).expect("pace");
    assert_eq!((next(&mut reader), next(&mut reader)), (Some((4, 4)), None));
    clock.pass(ms(3));
    assert_eq!((next(&mut reader), next(&mut reader)), (Some((5, 5)), None));
    reader.seek(Start::Time(EventTime(90_000_000))).expect("seek");
    reader.set_pace(Pace::AsFastAsPossible).expect("pace");
    assert_eq!(read(&mut reader), range(90, 100));
    // After the end, back again.
    reader.seek(Start::At(Sequence(99))).expect("seek");
    assert_eq!(read(&mut reader), range(99, 100));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            reader.set_pace(Pace::Times(bad)),
            Err(SubscriptionError::BadOption { what: "the pace", .. })
        ));
    }
}
