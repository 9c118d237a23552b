//! Updates as an asynchronous stream.
#![cfg(feature = "tokio")]

mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream as _;
use matchtape_bus::{BusConfig, BusName, BusPublisher, BusService, WakeUp};
use matchtape_schemas::{Epoch, Head, Sequence};
use matchtape_subscription::{
    BusLive, Filter, Historical, HistoricalOptions, RealTime, RealTimeOptions, Start, Subscription,
    SubscriptionError, Update, UpdateStream,
};
use support::{Log, TAPE, all_at, trades_frame, trades_through};

#[tokio::test]
async fn a_slow_asynchronous_reader_gets_a_whole_range_and_its_end() {
    let (frames, _) = trades_through(5000);
    let log = Log::new(frames);
    let open = move || {
        let filter = Filter::instruments([matchtape_schemas::InstrumentId(1)]);
        let options = HistoricalOptions { start: Start::Beginning, filter, ..HistoricalOptions::default() };
        Historical::open(log, options)
    };
    let mut stream = UpdateStream::spawn("history", None, 2, open).expect("open");
    let mut got = Vec::new();
    let mut ended = false;
    // As a `Stream`, which any library of adaptors takes.
    while let Some(update) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
        let update = update.expect("read");
        match update.as_update() {
            Update::Events(events) => got.extend(events.iter().map(|event| event.sequence().get())),
            Update::Ended { next } => ended = next == Sequence(5001),
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert!(ended);
    assert_eq!(got, (1..=5000).filter(|n| n % 4 == 0).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_cannot_be_opened_is_an_error_at_once_and_what_breaks_later_ends_the_stream() {
    let (frames, _) = trades_through(5000);
    let log = Log::new(frames);
    log.change(|kept| kept.first_kept = Sequence(100));
    let start = |start| HistoricalOptions { start, ..HistoricalOptions::default() };
    let (gone, cut) = (log.clone(), log.clone());
    let error =
        UpdateStream::spawn("gone", None, 2, move || Historical::open(gone, start(Start::At(Sequence(99)))));
    assert!(matches!(error, Err(SubscriptionError::History(_))));
    let mut stream =
        UpdateStream::spawn("cut", None, 1, move || Historical::open(cut, start(Start::Beginning)))
            .expect("open");
    assert!(stream.recv().await.expect("an update").is_ok());
    // Retention overtakes the reader.
    log.change(|kept| kept.first_kept = Sequence(5000));
    let mut last = None;
    while let Some(update) = stream.recv().await {
        assert!(last.is_none(), "nothing after an error");
        last = update.err();
    }
    assert!(matches!(last, Some(SubscriptionError::History(_))), "{last:?}");
}

/// A reader that is broken.
struct Panics;

impl Subscription for Panics {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        panic!("as a broken reader would")
    }

    fn update(&self) -> Update<'_> {
        unreachable!("it never has one")
    }

    fn wait(&mut self, _: Duration) -> Result<(), SubscriptionError> {
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn position(&self) -> Sequence {
        Sequence::FIRST
    }
}

#[tokio::test]
async fn a_reading_thread_that_panics_is_an_error_and_not_an_end() {
    let mut stream = UpdateStream::spawn("panics", None, 1, || Ok(Panics)).expect("open");
    match stream.recv().await {
        Some(Err(SubscriptionError::Thread(why))) => assert_eq!(why.to_string(), "it panicked"),
        other => panic!("{other:?}"),
    }
    assert!(stream.recv().await.is_none());
}

/// Tells where it is opened and read.
struct Where(std::sync::mpsc::Sender<Vec<usize>>);

/// The cores that the calling thread may run on.
fn cores() -> Vec<usize> {
    let cores = rustix::thread::sched_getaffinity(None).expect("affinity");
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).collect()
}

impl Subscription for Where {
    fn advance(&mut self) -> Result<bool, SubscriptionError> {
        // The test may have heard enough.
        let _ = self.0.send(cores());
        Ok(false)
    }

    fn update(&self) -> Update<'_> {
        unreachable!("there is none")
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SubscriptionError> {
        std::thread::sleep(timeout);
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn position(&self) -> Sequence {
        Sequence::FIRST
    }
}

#[test]
fn a_reading_thread_is_bound_to_its_core_before_it_opens_and_one_that_is_not_there_is_refused() {
    let (ours, patience) = (cores(), Duration::from_secs(60));
    let last = *ours.last().expect("a core");
    for (asked, expected) in [(Some(last), vec![last]), (None, ours.clone())] {
        let (sender, heard) = std::sync::mpsc::channel();
        let open = move || {
            sender.send(cores()).expect("the test listens");
            Ok(Where(sender))
        };
        let stream = UpdateStream::spawn("bound", asked, 1, open).expect("open");
        for when in ["opening", "reading"] {
            assert_eq!(
                heard.recv_timeout(patience).expect("it runs"),
                expected,
                "{when}, asked for {asked:?}"
            );
        }
        drop(stream);
    }
    let open = || -> Result<Where, SubscriptionError> { panic!("opened without its core") };
    let error = UpdateStream::spawn("bound", Some(1 << 20), 1, open).expect_err("no such core").to_string();
    assert!(error.contains(&format!("none of those this process may use: {}", ours[0])), "{error}");
}

#[tokio::test]
async fn live_events_reach_an_asynchronous_reader_and_dropping_it_frees_its_place() {
    let root = tempfile::tempdir().expect("tempdir");
    let name =
        BusName::with_root(&format!("stream-{}", std::process::id()), TAPE, root.path()).expect("name");
    let mut head = Head { epoch: Epoch::FIRST, ..Head::empty(TAPE) };
    let config = BusConfig { subscribers_max: 1, subscribers_spare: 0, ..BusConfig::default() };
    let mut publisher = BusPublisher::open(&name, BusService::Live, &config, &head).expect("publisher");
    let log = Log::new(Vec::new());
    // More readers, one after the other, than there are places.
    for _ in 0..3 {
        let (history, bus) = (log.clone(), name.clone());
        let open = move || {
            let live = BusLive::new(&bus, BusService::Live, WakeUp::Event, Duration::ZERO);
            RealTime::open(history, live, RealTimeOptions::default())
        };
        let mut stream = UpdateStream::spawn("live", None, 16, open).expect("open");
        // It attaches on its own thread, as soon as the place of the reader before is free.
        while publisher.heartbeat(&all_at(head.last_sequence)) == 0 {
            tokio::task::yield_now().await;
        }
        let first = head.last_sequence.next();
        for _ in 0..3 {
            let frame = trades_frame(&mut head);
            log.change(|kept| {
                kept.frames.push(frame.clone());
                kept.visible = head.last_sequence;
            });
            publisher.publish(frame.bytes(), &all_at(head.last_sequence)).expect("publish");
        }
        let mut next = first;
        while next <= head.last_sequence {
            let update = stream.recv().await.expect("goes on").expect("read");
            if let Update::Events(events) = update.as_update() {
                assert_eq!(events.first(), next);
                assert_eq!(events.iter().count(), 10);
                next = events.last().next();
            }
        }
        drop(stream);
        while publisher.heartbeat(&all_at(head.last_sequence)) > 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(publisher);
    support::forget_id_counter(&name);
}
