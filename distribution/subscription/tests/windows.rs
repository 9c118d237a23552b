//! The delayed tier's windows: compared with a plain retelling of their rules, and with themselves however the tape is
//! framed, joined or resumed.

mod support;

use std::time::Duration;

use matchtape_schemas::event::{StateSet, TimeAdvanced};
use matchtape_schemas::{Epoch, Event, EventFlags, Head, InstrumentId, Kind, KindMask, Sequence};
use matchtape_subscription::{
    Batch, BatchBuf, BatchError, Delayed, DelayedOptions, End, Filter, HistoryError, OpenWindow, PART_BYTES,
    Pace, Start, Subscription, SubscriptionError, TapePoint, Update, WindowCursor, WindowStart, Windows,
};
use support::{
    Log, OwnedFrame, Random, TAPE, cancellation, event, frames, group, schedules, trade, trades_through,
};

const WIDTH: i64 = 100;

fn head() -> Head {
    Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) }
}

/// Groups whose times wander, jump ahead, fall behind, and cross edges in the middle.
fn random_groups(random: &mut Random, count: usize) -> Vec<Vec<Event>> {
    let mut time = random.below(1000) as i64 - 500;
    let mut groups = Vec::new();
    let mut number = 0;
    for _ in 0..count {
        let events = if random.one_in(8) { 1 + random.below(40) } else { 1 + random.below(3) };
        if random.one_in(10) {
            time += random.below(1000) as i64;
        }
        if random.one_in(6) {
            groups.push(vec![event(0, time, TimeAdvanced::default())]);
            continue;
        }
        let events = (0..events).map(|_| {
            number += 1;
            if random.one_in(4) {
                time += random.below(60) as i64;
            }
            let at = if random.one_in(8) { time - random.below(500) as i64 } else { time };
            let body = if random.one_in(3) { cancellation(number) } else { trade(number) };
            event(1 + random.below(3) as u32, at, body)
        });
        groups.push(group(events.collect()));
    }
    groups
}

fn random_frames(random: &mut Random, groups: &[Vec<Event>]) -> Vec<OwnedFrame> {
    let greatest = 1 + random.below(60);
    frames(&mut head(), groups, || 1 + random.below(greatest) as usize)
}

fn random_filter(random: &mut Random) -> Filter {
    match random.below(4) {
        0 => Filter::kinds(KindMask::TRADES),
        1 => Filter::instruments([InstrumentId(2)]),
        _ => Filter::default(),
    }
}

fn push_all(windows: &mut Windows, frames: &[OwnedFrame]) -> Vec<BatchBuf> {
    for frame in frames {
        let frame = frame.frame();
        if frame.last_sequence() >= windows.next() {
            windows.push(&frame, windows.next(), frame.last_sequence());
        }
    }
    std::iter::from_fn(|| windows.pop()).collect()
}

fn cut(frames: &[OwnedFrame], filter: &Filter) -> Vec<BatchBuf> {
    push_all(&mut Windows::new(WIDTH, filter.clone(), TapePoint::BEGINNING), frames)
}

/// What a batch says, in plain values: window, last window, empty, positions covered, events and which of them are late.
type Told = (i64, i64, bool, u64, u64, Vec<u64>, u32);

fn told(batch: &Batch<'_>) -> Told {
    let last_window = batch.window() + batch.windows() as i64 - 1;
    let events = batch.events().map(|event| event.sequence().get()).collect();
    (
        batch.window(),
        last_window,
        batch.is_empty(),
        batch.first().get(),
        batch.last().get(),
        events,
        batch.late(),
    )
}

/// The rules, retold: first the windows every group closes and enters, then the messages.
fn oracle(frames: &[OwnedFrame], filter: &Filter) -> Vec<Told> {
    let mut messages = Vec::new();
    let mut open: Option<(i64, u64, Vec<u64>, u32)> = None;
    let (mut running, mut begins) = (i64::MIN, true);
    let mut close = |open: &mut Option<(i64, u64, Vec<u64>, u32)>, reached: i64, before: u64| {
        let Some((window, first, events, late)) = open.take() else {
            *open = Some((reached, before + 1, Vec::new(), 0));
            return;
        };
        if reached <= window {
            *open = Some((window, first, events, late));
            return;
        }
        let (mut empty_from, mut first) = (window, first);
        if !events.is_empty() {
            messages.push((window, window, false, first, before, events, late));
            (empty_from, first) = (window + 1, before + 1);
        }
        if empty_from < reached {
            messages.push((empty_from, reached - 1, true, first, before, Vec::new(), 0));
        }
        *open = Some((reached, before + 1, Vec::new(), 0));
    };
    for frame in frames {
        for event in frame.frame().events() {
            let (sequence, time) = (event.sequence().get(), event.event_time().get());
            running = running.max(time);
            if begins {
                close(&mut open, running.div_euclid(WIDTH), sequence - 1);
            }
            let (window, _, events, late) = open.as_mut().expect("opened above");
            if event.kind() != Kind::TimeAdvanced && filter.matches(&event) {
                events.push(sequence);
                if time < *window * WIDTH {
                    *late += 1;
                    assert!(event.flags().contains(EventFlags::LATE));
                }
            }
            begins = event.ends_group();
            if begins {
                close(&mut open, running.div_euclid(WIDTH), sequence);
            }
        }
    }
    messages
}

#[test]
fn windows_follow_their_rules_and_do_not_depend_on_framing() {
    for seed in 0..schedules(1000) {
        let mut random = Random(seed);
        let groups = random_groups(&mut random, 80);
        let filter = random_filter(&mut random);
        let one = random_frames(&mut random, &groups);
        let batches = cut(&one, &filter);
        let expected = oracle(&one, &filter);
        assert!(batches.iter().map(|batch| told(&batch.batch())).eq(expected), "seed {seed}");
        for _ in 0..3 {
            let other = random_frames(&mut random, &groups);
            assert!(cut(&other, &filter) == batches, "seed {seed}: framing shows");
        }
        let mut covered = 0;
        for batch in &batches {
            let batch = Batch::decode(batch.batch().bytes()).expect("sound");
            assert_eq!(batch.first().get(), covered + 1, "seed {seed}");
            covered = batch.last().get();
            for event in batch.events() {
                let frame = one.iter().find(|frame| frame.frame().last_sequence() >= event.sequence());
                let original = frame.and_then(|frame| frame.frame().event(event.sequence())).expect("there");
                assert_eq!(event.bytes(), original.bytes(), "seed {seed}");
                assert_eq!(event.epoch(), Epoch::FIRST);
            }
        }
    }
}

#[test]
fn whoever_joins_anywhere_gets_the_same_batches_from_the_first_whole_window_on() {
    for seed in 0..schedules(200) {
        let mut random = Random(seed);
        let groups = random_groups(&mut random, 60);
        let filter = random_filter(&mut random);
        let frames = random_frames(&mut random, &groups);
        let all = cut(&frames, &filter);
        let mut log = Log::new(frames.clone());
        let last = frames.last().expect("frames").frame().last_sequence();
        for _ in 0..20 {
            let next = Sequence(1 + random.below(last.get()));
            let point = TapePoint::before(&mut log, next).expect("kept").expect("on the tape");
            let got = push_all(&mut Windows::new(WIDTH, filter.clone(), point), &frames);
            assert!(all.ends_with(&got), "seed {seed}, joined at {next}: other batches");
            let missing = &all[..all.len() - got.len()];
            let joined_in = point.running.get().div_euclid(WIDTH);
            if let Some(first) = got.first() {
                let batch = first.batch();
                assert!(
                    next == Sequence::FIRST || batch.window() > joined_in,
                    "seed {seed}, {next}: {batch:?}"
                );
            }
            // Of later windows only the empty ones that were passed together with the end of the one joined in.
            let later: Vec<_> = missing.iter().filter(|batch| batch.batch().window() > joined_in).collect();
            assert!(
                later.len() <= 1 && later.iter().all(|batch| batch.batch().is_empty()),
                "seed {seed}, {next}"
            );
        }
    }
}

#[test]
fn whoever_resumes_after_a_batch_gets_exactly_the_ones_that_followed() {
    for seed in 0..schedules(200) {
        let mut random = Random(seed);
        let groups = random_groups(&mut random, 60);
        let filter = random_filter(&mut random);
        let frames = random_frames(&mut random, &groups);
        let all = cut(&frames, &filter);
        let mut log = Log::new(frames.clone());
        for (index, batch) in all.iter().enumerate() {
            let cursor = batch.batch().cursor();
            let point = TapePoint::before(&mut log, cursor.last.next()).expect("kept").expect("on the tape");
            let mut windows = Windows::resume(WIDTH, filter.clone(), &cursor, point);
            assert!(push_all(&mut windows, &frames) == all[index + 1..], "seed {seed}, after {batch:?}");
        }
    }
}

#[test]
fn a_group_is_never_split_over_two_windows() {
    // The match begins in window 0 and ends in window 2; its neighbour begins there.
    let groups = [
        group(vec![event(1, 50, trade(1)), event(1, 99, trade(2)), event(1, 250, trade(3))]),
        vec![event(1, 260, trade(4))],
        vec![event(1, 300, trade(5))],
    ];
    let frames = frames(&mut head(), &groups, || 1);
    let batches = cut(&frames, &Filter::default());
    let told: Vec<Told> = batches.iter().map(|batch| told(&batch.batch())).collect();
    let expected = [
        (0, 0, false, 1, 3, vec![1, 2, 3], 0),
        (1, 1, true, 4, 3, vec![], 0),
        (2, 2, false, 4, 4, vec![4], 0),
    ];
    assert_eq!(told, expected);
    // It closed with its last event, not with the next group.
    let mut windows = Windows::new(WIDTH, Filter::default(), TapePoint::BEGINNING);
    assert_eq!(push_all(&mut windows, &frames[..2]).len(), 0);
    assert_eq!(push_all(&mut windows, &frames[2..3]).len(), 2);
}

#[test]
fn a_late_event_goes_into_the_open_window_and_is_counted_as_late() {
    let groups = [
        vec![event(1, 10, trade(1))],
        vec![event(1, 150, trade(2))],
        vec![event(1, 20, trade(3))],
        vec![event(1, 140, trade(4))],
        vec![event(1, 200, trade(5))],
    ];
    let batches = cut(&frames(&mut head(), &groups, || 9), &Filter::default());
    let told: Vec<Told> = batches.iter().map(|batch| told(&batch.batch())).collect();
    // The fourth is behind the second, but not behind the window.
    assert_eq!(told, [(0, 0, false, 1, 1, vec![1], 0), (1, 1, false, 2, 4, vec![2, 3, 4], 1)]);
}

#[test]
fn time_advanced_closes_the_windows_of_an_idle_tape() {
    let idle = |time| vec![event(0, time, TimeAdvanced::default())];
    let groups =
        [vec![event(1, 10, trade(1))], idle(110), idle(210), idle(950), vec![event(1, 960, trade(2))]];
    let frames = frames(&mut head(), &groups, || 1);
    let mut windows = Windows::new(WIDTH, Filter::default(), TapePoint::BEGINNING);
    let told = |windows: &mut Windows, frame: usize| {
        let batches = push_all(windows, &frames[frame..=frame]);
        batches.iter().map(|batch| told(&batch.batch())).collect::<Vec<Told>>()
    };
    assert_eq!(told(&mut windows, 0), []);
    assert_eq!(told(&mut windows, 1), [(0, 0, false, 1, 1, vec![1], 0)]);
    assert_eq!(told(&mut windows, 2), [(1, 1, true, 2, 2, vec![], 0)]);
    assert_eq!(told(&mut windows, 3), [(2, 8, true, 3, 3, vec![], 0)]);
    assert_eq!(told(&mut windows, 4), []);
}

#[test]
fn a_huge_window_comes_in_parts_and_can_be_resumed_between_them() {
    let state = |n: u64| StateSet::new(b"key", &[n as u8; 40_000]).expect("within limits");
    let mut groups: Vec<Vec<Event>> = (0..300).map(|n| vec![event(1, 10, state(n))]).collect();
    groups.push(vec![event(1, 100, trade(1))]);
    let frames = frames(&mut head(), &groups, || 1);
    let batches = cut(&frames, &Filter::default());
    assert_eq!(batches.len(), 3);
    let parts: Vec<(u32, bool)> =
        batches.iter().map(|batch| (batch.batch().part(), batch.batch().is_last_part())).collect();
    assert_eq!(parts, [(0, false), (1, false), (2, true)]);
    let bytes = batches[0].batch().bytes().len();
    assert!((PART_BYTES..PART_BYTES + 50_000).contains(&bytes), "{bytes}");
    assert_eq!(batches.iter().map(|batch| batch.batch().count()).sum::<u32>(), 300);
    let mut log = Log::new(frames.clone());
    for (index, batch) in batches.iter().enumerate() {
        let cursor = batch.batch().cursor();
        let point = TapePoint::before(&mut log, cursor.last.next()).expect("kept").expect("on the tape");
        let mut windows = Windows::resume(WIDTH, Filter::default(), &cursor, point);
        assert!(push_all(&mut windows, &frames) == batches[index + 1..]);
    }
}

#[test]
fn damaged_batches_are_refused() {
    let groups = [vec![event(1, 10, trade(1)), event(1, 11, trade(2))], vec![event(1, 150, trade(3))]];
    let batches = cut(&frames(&mut head(), &groups, || 9), &Filter::default());
    let good = batches[0].batch().bytes().to_vec();
    let mut memory: rkyv::util::AlignedVec<16> = rkyv::util::AlignedVec::new();
    memory.extend_from_slice(&good);
    Batch::decode(&memory).expect("sound");
    assert!(matches!(Batch::decode(&memory[..64]), Err(BatchError::Length { .. })));
    assert!(matches!(Batch::decode(&memory[..good.len() - 16]), Err(BatchError::Length { .. })));
    // Every field that is bounded: magic, version, flags, width, window, position, count, length, reserved, the run's
    // position, count and length, an event's tag.
    for at in [0, 4, 7, 23, 39, 47, 60, 64, 69, 72, 76, 87, 104, 108, 80 + 32 + 4] {
        memory[at] ^= 0x80;
        assert!(Batch::decode(&memory).is_err(), "byte {at}");
        memory[at] ^= 0x80;
    }
    Batch::decode(&memory).expect("sound again");
}

fn collect<S: Subscription>(mut reader: S) -> Vec<BatchBuf> {
    let mut batches = Vec::new();
    loop {
        match reader.next(Duration::from_secs(10)).expect("read").expect("in time") {
            Update::Window(batch) => batches.push(BatchBuf::copy(&batch)),
            Update::Ended { .. } => return batches,
            other => panic!("{other:?}"),
        }
    }
}

fn options(start: WindowStart) -> DelayedOptions {
    DelayedOptions { start, ..DelayedOptions::default() }
}

#[test]
fn a_replay_begins_by_sequence_by_time_and_after_a_batch() {
    let (frames, _) = trades_through(1000);
    let log = Log::new(frames);
    let replay = |start| {
        let reader = Delayed::replay(log.clone(), &options(start), End::Visible, Pace::AsFastAsPossible);
        collect(reader.expect("open"))
    };
    // A trade every millisecond from 1 to 1000: windows 0 to 9 are closed.
    let all = replay(WindowStart::From(Start::Beginning));
    let counts: Vec<(i64, u32)> = all.iter().map(|b| (b.batch().window(), b.batch().count())).collect();
    let mut expected: Vec<(i64, u32)> = (0..10).map(|window| (window, 100)).collect();
    expected[0].1 = 99;
    assert_eq!(counts, expected);
    assert!(replay(WindowStart::From(Start::At(Sequence(150)))) == all[2..]);
    // The event at 500 ms opens window 5.
    assert!(replay(WindowStart::From(Start::Time(matchtape_schemas::EventTime(500_000_000)))) == all[5..]);
    assert!(replay(WindowStart::From(Start::New)).is_empty());
    for (index, batch) in all.iter().enumerate() {
        assert!(replay(WindowStart::After(batch.batch().cursor())) == all[index + 1..]);
    }
}

/// Of all windows, the events: what several readers in turn were given, or one.
fn events_by_window(batches: &[BatchBuf]) -> Vec<(i64, u64)> {
    let of = |batch: &BatchBuf| {
        let batch = batch.batch();
        batch.events().map(|event| (batch.window(), event.sequence().get())).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn a_replay_that_gives_its_open_window_leaves_nothing_out_and_whoever_continues_gets_the_rest() {
    for seed in 0..schedules(200) {
        let mut random = Random(seed);
        let groups = random_groups(&mut random, 60);
        let filter = random_filter(&mut random);
        let frames = random_frames(&mut random, &groups);
        let log = Log::new(frames.clone());
        let replay = |start, end, open_window| {
            let width = Duration::from_nanos(WIDTH as u64);
            let options = DelayedOptions { filter: filter.clone(), width, open_window, ..options(start) };
            collect(Delayed::replay(log.clone(), &options, end, Pace::AsFastAsPossible).expect("open"))
        };
        let beginning = WindowStart::From(Start::Beginning);
        let whole = replay(beginning, End::Visible, OpenWindow::AsPart);
        let shown: Vec<u64> = frames
            .iter()
            .flat_map(|frame| frame.frame().events().map(|event| (event.kind(), event)).collect::<Vec<_>>())
            .filter(|(kind, event)| *kind != Kind::TimeAdvanced && filter.matches(event))
            .map(|(_, event)| event.sequence().get())
            .collect();
        let given: Vec<u64> = events_by_window(&whole).into_iter().map(|(_, sequence)| sequence).collect();
        assert_eq!(given, shown, "seed {seed}");
        let closed = replay(beginning, End::Visible, OpenWindow::LeaveOut);
        assert!(whole.starts_with(&closed) && whole.len() <= closed.len() + 1, "seed {seed}");

        // Ended at the end of any group, and continued by its cursor.
        let ends: Vec<Sequence> = groups
            .iter()
            .scan(0, |last, group| {
                *last += group.len() as u64;
                Some(Sequence(*last))
            })
            .collect();
        let end = ends[random.below(ends.len() as u64) as usize];
        let mut parts = replay(beginning, End::Through(end), OpenWindow::AsPart);
        let Some(last) = parts.last().map(|batch| batch.batch().cursor()) else { continue };
        assert_eq!(last.to_string().parse(), Ok(last));
        parts.extend(replay(WindowStart::After(last), End::Visible, OpenWindow::AsPart));
        assert_eq!(events_by_window(&parts), events_by_window(&whole), "seed {seed}, through {end}");
    }
}

#[test]
fn a_cursor_is_refused_where_no_window_of_the_tape_ended() {
    let (frames, _) = trades_through(1000);
    let log = Log::new(frames);
    let replay = |text: &str| {
        let start = WindowStart::After(text.parse().expect("a cursor"));
        let mut reader = Delayed::replay(log.clone(), &options(start), End::Visible, Pace::AsFastAsPossible)?;
        reader.advance()
    };
    // A trade every millisecond from 1 on: window 3 ends with event 399.
    assert!(replay("399/3").expect("it ended there"));
    assert!(replay("398/3/1").expect("a part may"));
    for text in
        ["398/3", "399/4", "399/9", "399/4/1", "399/3/0", "399/9223372036854775807", "399/9000000000000"]
    {
        let error = replay(text).expect_err(text).to_string();
        assert!(error.contains("no batch of this tape ends there"), "{text}: {error}");
    }
    for text in
        ["", "399", "399/", "/3", "399/3/", "399/3/1/1", "x/3", "-1/3", "18446744073709551615/3", "399/3/-1"]
    {
        let error = text.parse::<WindowCursor>().expect_err(text).to_string();
        assert!(error.contains("LAST/WINDOW"), "{text}: {error}");
    }
    assert_eq!("7/-3/2".parse(), Ok(WindowCursor { window: -3, next_part: Some(2), last: Sequence(7) }));
}

#[test]
fn a_replay_says_what_is_not_kept_and_what_is_not_there_yet() {
    let (frames, _) = trades_through(1000);
    let log = Log::new(frames);
    let open = |start| {
        Delayed::replay(log.clone(), &options(start), End::Visible, Pace::AsFastAsPossible).map(collect)
    };
    let all = open(WindowStart::From(Start::Beginning)).expect("open");
    log.change(|kept| kept.first_kept = Sequence(301));
    // Windows 3 and 4: the time before event 301 is gone, so the first provably whole window is the fourth.
    assert!(open(WindowStart::From(Start::Beginning)).expect("open") == all[4..]);
    assert!(matches!(
        open(WindowStart::After(all[1].batch().cursor())),
        Err(SubscriptionError::History(HistoryError::BelowRetention { first_kept: Sequence(301), .. }))
    ));
    assert!(matches!(
        open(WindowStart::From(Start::At(Sequence(300)))),
        Err(SubscriptionError::History(HistoryError::BelowRetention { .. }))
    ));
    let cursor = WindowCursor { window: 9, next_part: None, last: Sequence(1001) };
    assert!(matches!(
        open(WindowStart::After(cursor)),
        Err(SubscriptionError::AheadOfTape { asked: Sequence(1002), visible: Sequence(1000) })
    ));
}
