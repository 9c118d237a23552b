//! Every view that is kept in snapshots, on random tapes of every kind of event: saved, restored and continued is folded
//! from the start; the same tape gives the same bytes; no damage to a section does more than be refused or be another
//! state. And the folds against plain ones.

mod common;

use std::collections::BTreeMap;
use std::convert::Infallible;

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use proptest::prelude::*;

const DAY_NS: i64 = 86_400_000_000_000;

/// Any event: few instruments, orders, keys and accounts, so that they meet again; now and then extremes.
fn any_event() -> impl Strategy<Value = Event> {
    let price = prop_oneof![
        20 => (1i64..30).prop_map(|step| Price::from_units(step * 250_000_000)),
        1 => Just(Price::NONE),
        1 => any::<i64>().prop_map(Price::from_units),
    ];
    let quantity =
        prop_oneof![20 => (0u64..6).prop_map(whole), 1 => any::<u64>().prop_map(Quantity::from_units)];
    let small = (1u64..12, 1u64..12, any::<bool>(), 0u32..4, 0i64..5 * DAY_NS, 1u64..80);
    (0u8..30, price, quantity, small).prop_map(
        |(what, price, quantity, (id, other, flag, instrument, time, at))| {
            let (order_id, trade_id) = (OrderId(id), TradeId(other));
            let side = if flag { Side::Buy } else { Side::Sell };
            let key = vec![b'k'; 1 + (id % 5) as usize];
            let account = AccountId(id);
            let body: Body = match what {
                0..=4 => OrderAccepted { order_id, side, price, quantity, ..Default::default() }.into(),
                5 | 6 => OrderCancelled { order_id, quantity, ..Default::default() }.into(),
                7 => OrderReplaced { order_id, side, price, quantity, ..Default::default() }.into(),
                8..=14 => TradeMatched {
                    trade_id,
                    buy_order_id: order_id,
                    price,
                    quantity,
                    aggressor: side,
                    ..Default::default()
                }
                .into(),
                15..=17 => {
                    let trade_sequence = if flag { Sequence(at) } else { Sequence::ZERO };
                    TradeBusted { trade_id, price, quantity, trade_sequence, ..Default::default() }.into()
                }
                18 => SessionOpened { trading_day: 20_260_100 + id as u32, session: 1, ..Default::default() }
                    .into(),
                19 => {
                    InstrumentDefined { symbol: Text::new(&format!("I{id}")).unwrap(), ..Default::default() }
                        .into()
                }
                20 => TradingStatusChanged { status: TradingStatus::Halted, ..Default::default() }.into(),
                21 if id == 1 => BookCleared::default().into(),
                21 | 22 => StateDeleted::new(&key).unwrap().into(),
                23..=25 => StateSet::new(&key, &vec![id as u8; other as usize * 7]).unwrap().into(),
                26 => AccountOpened { account, name: Text::new("ä-account").unwrap(), ..Default::default() }
                    .into(),
                27 => {
                    AccountChanged { account, status: AccountStatus::Suspended, ..Default::default() }.into()
                }
                28 => PositionChanged { account, change: 1, position: time, ..Default::default() }.into(),
                _ => OrderExecuted { order_id, quantity, ..Default::default() }.into(),
            };
            Event::new(InstrumentId(instrument), ProducerSequence(1), EventTime(time), body)
        },
    )
}

fn saved(projection: &dyn Projection) -> Vec<u8> {
    let mut bytes = Vec::new();
    projection.save(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn saved_restored_and_continued_equals_folded_from_the_start_for_every_view(
        events in prop::collection::vec(any_event(), 0..200),
        cut in 0u64..200,
    ) {
        let tape = Tape::of(&events);
        for place in 0..projections().len() {
            let (mut whole, mut again, mut first) =
                (projections().remove(place), projections().remove(place), projections().remove(place));
            tape.each(|event| {
                whole.apply(event);
                again.apply(event);
                if event.sequence() <= Sequence(cut) {
                    first.apply(event);
                }
            });
            prop_assert_eq!(saved(&*whole), saved(&*again), "{} twice", whole.name());
            let section = saved(&*first);
            // Into one that had another state before.
            let mut second = again;
            second.restore(&section).unwrap();
            prop_assert_eq!(&saved(&*second), &section, "{}", whole.name());
            tape.each(|event| {
                if event.sequence() > Sequence(cut) {
                    second.apply(event);
                }
            });
            prop_assert_eq!(saved(&*second), saved(&*whole), "{}", whole.name());
        }
    }

    #[test]
    fn a_damaged_section_is_refused_or_is_another_state_and_never_more(
        events in prop::collection::vec(any_event(), 1..60),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 40),
        after in prop::collection::vec(any_event(), 20),
    ) {
        let (tape, after) = (Tape::of(&events), Tape::of(&after));
        for place in 0..projections().len() {
            let mut projection = projections().remove(place);
            tape.each(|event| projection.apply(event));
            let section = saved(&*projection);
            for length in 0..section.len() {
                prop_assert!(projection.restore(&section[..length]).is_err(), "{} cut at {length}", projection.name());
            }
            prop_assert_eq!(&saved(&*projection), &section, "a refused section changes nothing");
            let longer = [&section[..], &[0]].concat();
            prop_assert!(projection.restore(&longer).is_err());
            for (at, byte) in &damages {
                let mut damaged = section.clone();
                let at = at.index(damaged.len());
                damaged[at] ^= byte;
                let mut other = projections().remove(place);
                if other.restore(&damaged).is_ok() {
                    prop_assert_eq!(&saved(&*other), &damaged, "what was taken in is what is given out");
                    after.each(|event| other.apply(event));
                }
            }
        }
    }

    #[test]
    fn keyed_state_is_the_last_value_of_each_key(events in prop::collection::vec(any_event(), 0..150)) {
        let mut state = KeyedState::new();
        let mut plain: BTreeMap<Vec<u8>, (Vec<u8>, Sequence)> = BTreeMap::new();
        Tape::of(&events).each(|event| {
            state.apply(event);
            match event.body() {
                BodyRef::StateSet(set) => drop(plain.insert(set.key.to_vec(), (set.value.to_vec(), event.sequence()))),
                BodyRef::StateDeleted(deleted) => drop(plain.remove(deleted.key())),
                _ => {}
            }
        });
        let all: Vec<_> = state.range(b"", b"", None).map(|(key, value)| (key.to_vec(), (value.value.to_vec(), value.set_at))).collect();
        prop_assert_eq!(all, plain.clone().into_iter().collect::<Vec<_>>());
        for (prefix, from, to) in [("kk", "", None), ("", "kk", Some("kkkk")), ("kkk", "kkkk", None), ("k", "", Some("k")), ("x", "", None)] {
            let found: Vec<_> = state.range(prefix.as_bytes(), from.as_bytes(), to.map(str::as_bytes)).map(|(key, _)| key.to_vec()).collect();
            let wanted = |key: &&Vec<u8>| key.starts_with(prefix.as_bytes()) && key.as_slice() >= from.as_bytes() && to.is_none_or(|to| key.as_slice() < to.as_bytes());
            prop_assert_eq!(found, plain.keys().filter(wanted).cloned().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_ticker_is_the_summary_of_the_trades_of_its_session(
        events in prop::collection::vec(any_event(), 0..200),
        with_busts: bool,
    ) {
        let events: Vec<Event> = events
            .into_iter()
            .filter(|event| with_busts || event.body.kind() != Kind::TradeBusted)
            .collect();
        let (mut tickers, mut plain) = (Tickers::new(), BTreeMap::<InstrumentId, Plain>::new());
        let (mut at_once, mut venue) = (Tickers::new(), None);
        let tape = Tape::of(&events);
        let look_up = |bust: &Bust| Ok::<_, Infallible>(meant(&tape, bust));
        tape.each(|event| {
            tickers.apply(event);
            at_once.apply(event);
            if let Some(bust) = Bust::of(event) {
                let Ok(()) = at_once.settle(&bust, look_up);
                at_once.settled(Sequence::FIRST);
            }
            plain_fold(&mut plain, &mut venue, event);
        });
        // Those that the fold left undecided, all at once after a restart.
        let section = saved(&tickers);
        tickers.restore(&section).unwrap();
        if let Some(from) = tickers.undecided_from() {
            tape.each(|event| {
                if let Some(bust) = Bust::of(event).filter(|bust| bust.at >= from) {
                    let Ok(()) = tickers.settle(&bust, look_up);
                }
            });
            tickers.settled(Sequence::FIRST);
        }
        prop_assert_eq!(tickers.iter().collect::<Vec<_>>(), at_once.iter().collect::<Vec<_>>());
        let found: Vec<InstrumentId> = tickers.iter().map(|ticker| ticker.instrument).collect();
        prop_assert_eq!(found, plain.keys().copied().collect::<Vec<_>>());
        for (instrument, expected) in &plain {
            let ticker = tickers.get(*instrument).unwrap();
            let mut summary = TradeSummary::default();
            expected.counted().for_each(|trade| summary.add(trade.price, trade.quantity, trade.aggressor));
            prop_assert!(!ticker.misses_busts);
            prop_assert_eq!(ticker.busted, expected.busted.len() as u64, "{}", instrument);
            if expected.trades.len() > RECENT && with_busts {
                let sums = |of: &TradeSummary| (of.trades, of.volume, of.buy_volume, of.sell_volume);
                prop_assert_eq!(sums(&ticker.summary), sums(&summary), "{}", instrument);
                // A sum that ever came to its end cannot be taken back.
                let notional = |trade: &Trade| trade.price.times(trade.quantity).map_or(0, |of| of.units().unsigned_abs());
                if expected.trades.iter().all(|trade| notional(trade) < 1 << 110) {
                    prop_assert_eq!(ticker.summary.notional, summary.notional, "{}", instrument);
                }
            } else {
                prop_assert_eq!(&ticker.summary, &summary, "{}", instrument);
            }
            if !with_busts {
                prop_assert_eq!(ticker.last().map(|last| last.sequence), expected.all.last().map(|trade| trade.sequence));
                prop_assert_eq!(ticker.previous_close, expected.previous_close);
            }
        }
    }
}

/// The trade that a bust means, as a reader of the whole tape finds it.
fn meant(tape: &Tape, bust: &Bust) -> Found {
    let mut found = Found::NotSince(Sequence::FIRST);
    tape.each(|event| {
        let trade = Trade::of(event).filter(|trade| trade.instrument == bust.instrument);
        if let Some(trade) = trade.filter(|trade| bust.may_mean(trade.sequence, trade.trade_id)) {
            found = Found::Trade(trade);
        }
    });
    found
}

/// One instrument's session in the plainest way.
#[derive(Default)]
struct Plain {
    day: Option<i64>,
    scheduled: bool,
    all: Vec<Trade>,
    trades: Vec<Trade>,
    busted: Vec<Sequence>,
    previous_close: Price,
}

impl Plain {
    fn begin(&mut self) {
        if let Some(last) = self.all.last() {
            self.previous_close = last.price;
        }
        self.trades.clear();
        self.busted.clear();
    }

    fn counted(&self) -> impl Iterator<Item = &Trade> {
        self.trades.iter().filter(|trade| !self.busted.contains(&trade.sequence))
    }
}

fn new_plain(venue: Option<u32>) -> Plain {
    Plain { previous_close: Price::NONE, scheduled: venue.is_some(), ..Plain::default() }
}

fn plain_fold(plain: &mut BTreeMap<InstrumentId, Plain>, venue: &mut Option<u32>, event: &EventRef<'_>) {
    let instrument = event.instrument();
    if let Some(trade) = Trade::of(event) {
        let one = plain.entry(instrument).or_insert_with(|| new_plain(*venue));
        let day = trade.event_time.get().div_euclid(DAY_NS);
        if !one.scheduled && one.day.is_none_or(|known| day > known) {
            one.begin();
            one.day = Some(day);
        }
        one.trades.push(trade);
        one.all.push(trade);
    } else if let BodyRef::SessionOpened(opened) = event.body() {
        let begin = |one: &mut Plain| {
            one.begin();
            one.scheduled = true;
        };
        if instrument == InstrumentId(0) {
            *venue = Some(opened.trading_day.to_native());
            plain.values_mut().for_each(begin);
        } else {
            begin(plain.entry(instrument).or_insert_with(|| new_plain(*venue)));
        }
    } else if let BodyRef::TradeBusted(bust) = event.body() {
        let Some(one) = plain.get_mut(&instrument) else { return };
        let (at, id) = (bust.trade_sequence.get(), bust.trade_id.get());
        // By number: the newest of all. By position: that one. Each once.
        let is_it = |trade: &&Trade| {
            if at == Sequence::ZERO { trade.trade_id == id && id != TradeId(0) } else { trade.sequence == at }
        };
        let found = one.all.iter().rfind(is_it).map(|trade| trade.sequence);
        let counts = one.counted().any(|trade| Some(trade.sequence) == found);
        one.busted.extend(found.filter(|_| counts));
    }
}

#[test]
fn a_bust_takes_a_trade_out_of_a_long_session_and_counts_once() {
    let trade = |id: u64, at: &str, quantity: u64| {
        let body = TradeMatched {
            trade_id: TradeId(id),
            price: price(at),
            quantity: whole(quantity),
            aggressor: Side::Buy,
            ..Default::default()
        };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
    };
    let bust = |sequence: u64, id: u64, at: &str, quantity: u64| {
        let body = TradeBusted {
            trade_id: TradeId(id),
            trade_sequence: Sequence(sequence),
            price: price(at),
            quantity: whole(quantity),
            ..Default::default()
        };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
    };
    let mut events: Vec<Event> = (1..=20).map(|id| trade(id, &format!("{}", 100 + id), 2)).collect();
    let folded = |events: &[Event]| {
        let (mut tickers, tape) = (Tickers::new(), Tape::of(events));
        tape.each(|event| tickers.apply(event));
        let undecided = tickers.undecided_from();
        tape.each(|event| {
            if let Some(bust) = Bust::of(event) {
                let Ok(()) = tickers.settle(&bust, |bust| Ok::<_, Infallible>(meant(&tape, bust)));
            }
        });
        tickers.settled(Sequence::FIRST);
        (tickers.get(INSTRUMENT).unwrap().clone(), undecided)
    };
    let (before, _) = folded(&events);
    assert_eq!((before.summary.trades, before.summary.volume.to_string()), (20, "40".to_owned()));
    // The last one, by its number, twice; old ones by position and by number, each twice: what the busts say of them is wrong.
    events.extend([bust(0, 20, "120", 2), bust(0, 20, "120", 2)]);
    events.extend([bust(3, 0, "1", 7), bust(3, 0, "1", 7), bust(0, 5, "1", 0), bust(0, 5, "1", 0)]);
    // None of them a trade: what comes later, a bust, and a number that nobody had.
    events.extend([bust(700, 0, "103", 2), bust(21, 0, "103", 2), bust(0, 99, "103", 2)]);
    let (after, undecided) = folded(&events);
    assert_eq!(undecided, Some(Sequence(23)), "the third is the first that the fold cannot decide");
    let summary = after.summary;
    assert_eq!((summary.trades, summary.volume.to_string(), after.busted), (17, "34".to_owned(), 3));
    assert_eq!((summary.buy_volume, summary.sell_volume), (summary.volume, Volume::ZERO));
    assert_eq!((summary.close, after.last().unwrap().price), (price("119"), price("119")));
    assert_eq!(summary.high, price("120"), "of a long session the extremes stay as traded");
    let notional: u64 = (1..=19).filter(|id| ![3, 5].contains(id)).map(|id| (100 + id) * 2).sum();
    assert_eq!(summary.notional.to_string(), notional.to_string());
}

#[test]
fn a_ticker_says_that_busts_are_missing_where_their_trades_are_not_kept() {
    let trade = |id: u64| {
        let body = TradeMatched {
            trade_id: TradeId(id),
            price: price("5"),
            quantity: whole(1),
            ..Default::default()
        };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
    };
    let bust = |sequence: u64, id: u64| {
        let body =
            TradeBusted { trade_id: TradeId(id), trade_sequence: Sequence(sequence), ..Default::default() };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
    };
    for (bust, found, missed) in [
        (bust(3, 0), Found::NotSince(Sequence(10)), true),
        (bust(3, 0), Found::NotSince(Sequence(2)), false),
        (bust(0, 3), Found::NotSince(Sequence(10)), true),
        (bust(0, 3), Found::NotSince(Sequence::FIRST), false),
        (bust(0, 3), Found::Unreadable, true),
    ] {
        let mut tape = Tape::of(&(1..=20).map(trade).collect::<Vec<_>>());
        tape.push(&bust);
        let mut tickers = Tickers::new();
        tape.each(|event| {
            tickers.apply(event);
            if let Some(bust) = Bust::of(event) {
                let Ok(()) = tickers.settle(&bust, |_| Ok::<_, Infallible>(found));
                tickers.settled(Sequence::FIRST);
            }
        });
        let ticker = tickers.get(INSTRUMENT).unwrap();
        assert_eq!((ticker.misses_busts, ticker.busted, ticker.summary.trades), (missed, 0, 20));
    }
    // The bust itself is not kept any more.
    let mut tape = Tape::of(&(1..=20).map(trade).collect::<Vec<_>>());
    tape.push(&bust(3, 0));
    for (kept_from, missed) in [(21, false), (22, true)] {
        let mut tickers = Tickers::new();
        tape.each(|event| tickers.apply(event));
        tickers.settled(Sequence(kept_from));
        assert_eq!(tickers.get(INSTRUMENT).unwrap().misses_busts, missed);
        // Another session has nothing to miss.
        let mut opened = Tape::of(&[]);
        (0..21).for_each(|id| opened.push(&trade(id)));
        opened.push(&Event::new(
            INSTRUMENT,
            ProducerSequence(1),
            EventTime(1),
            SessionOpened { trading_day: 20_260_105, ..Default::default() },
        ));
        opened.each(|event| tickers.apply(event));
        assert!(!tickers.get(INSTRUMENT).unwrap().misses_busts);
    }
}

#[test]
fn accounts_are_what_the_last_events_said() {
    let about = |instrument: u32, body: Body| {
        Event::new(InstrumentId(instrument), ProducerSequence(1), EventTime(1), body)
    };
    let account = AccountId(9);
    let position = |position: i64| PositionChanged { account, change: 1, position, ..Default::default() };
    let events = [
        about(7, position(5).into()),
        about(0, AccountOpened { account, name: Text::new("nine").unwrap(), ..Default::default() }.into()),
        about(0, position(-70).into()),
        about(7, position(-3).into()),
        about(0, AccountChanged { account, status: AccountStatus::ReduceOnly, ..Default::default() }.into()),
    ];
    let mut accounts = Accounts::new();
    Tape::of(&events).each(|event| accounts.apply(event));
    let found = accounts.get(account).unwrap();
    assert_eq!((found.name.to_string(), found.status), ("nine".to_owned(), AccountStatus::ReduceOnly));
    assert_eq!((found.opened_at, found.changed_at), (Sequence(2), Sequence(5)));
    let positions: Vec<_> =
        found.positions.iter().map(|(id, at)| (id.get(), at.units, at.changed_at.get())).collect();
    assert_eq!(positions, [(0, -70, 3), (7, -3, 4)]);
}
