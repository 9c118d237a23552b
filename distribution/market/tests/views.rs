//! Instruments, trades, candles and order states.

mod common;

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::Side::{Buy, Sell};
use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;

const MINUTE: i64 = 60_000_000_000;

fn defined(id: u32, symbol: &str, venue_instrument_id: u64) -> Event {
    let symbol = Text::new(symbol).unwrap();
    of(
        at(
            Event::new(
                INSTRUMENT,
                ProducerSequence(1),
                EventTime(1),
                InstrumentDefined { symbol, venue_instrument_id, ..Default::default() },
            ),
            1,
        ),
        id,
    )
}

fn status(id: u32, status: TradingStatus) -> Event {
    of(
        Event::new(
            INSTRUMENT,
            ProducerSequence(1),
            EventTime(1),
            TradingStatusChanged { status, ..Default::default() },
        ),
        id,
    )
}

fn instruments_of(events: &[Event]) -> Instruments {
    let mut instruments = Instruments::new();
    Tape::of(events).each(|event| instruments.apply(event));
    let mut section = Vec::new();
    instruments.save(&mut section);
    let mut restored = Instruments::new();
    restored.restore(&section).unwrap();
    for instrument in instruments.iter() {
        assert_eq!(restored.get(instrument.id), Some(instrument));
        let symbol = instrument.definition.symbol.as_str().into_owned();
        assert_eq!(restored.by_symbol(&symbol), instruments.by_symbol(&symbol), "{symbol}");
    }
    assert!(Instruments::new().restore(&section[..section.len() - 1]).is_err());
    instruments
}

#[test]
fn instruments_are_found_by_symbol_venue_number_and_id() {
    let instruments =
        instruments_of(&[defined(3, "ESH4", 17077), defined(4, "17", 9), status(4, TradingStatus::Halted)]);
    let found = |text: &str| instruments.find(text).map(|instrument| instrument.id.get());
    assert_eq!(
        (found("ESH4"), found("17077"), found("3"), found("17"), found("9")),
        (Some(3), Some(3), Some(3), Some(4), Some(4))
    );
    assert_eq!((found("ESM4"), found("99999999999")), (None, None));
    let four = instruments.get(InstrumentId(4)).unwrap();
    assert_eq!(
        (four.status, four.status_at, four.defined_at),
        (TradingStatus::Halted, Sequence(3), Sequence(2))
    );
}

#[test]
fn a_symbol_belongs_to_the_last_instrument_defined_under_it() {
    let two = [defined(1, "X", 0), defined(2, "X", 0)];
    assert_eq!(instruments_of(&two).by_symbol("X").unwrap().id, InstrumentId(2));
    let renamed = instruments_of(&[&two[..], &[defined(2, "Y", 0)]].concat());
    assert_eq!(renamed.by_symbol("X").unwrap().id, InstrumentId(1));
    assert_eq!(renamed.by_symbol("Y").unwrap().id, InstrumentId(2));
    let all = instruments_of(&[&two[..], &[defined(2, "Y", 0), defined(1, "Z", 0)]].concat());
    assert!(all.by_symbol("X").is_none());
}

fn summary(candle: &Candle) -> (i64, String) {
    let summary = &candle.summary;
    let text = format!(
        "{} {} {} {} {} {} {}",
        summary.open,
        summary.high,
        summary.low,
        summary.close,
        summary.volume,
        summary.notional,
        summary.trades
    );
    (candle.start.get(), text)
}

#[test]
fn candles_gather_trades_by_event_time_also_late_ones() {
    let tape = Tape::of(&[
        at(traded(1, 2, "10.5", 4), 1),
        at(traded(1, 2, "11", 1), MINUTE - 1),
        at(traded(1, 2, "12", 2), MINUTE),
        at(traded(1, 2, "9.25", 1), 30),
        at(reports_only(traded(1, 2, "13", 1)), -1),
        of(at(traded(1, 2, "99", 1), 1), 8),
    ]);
    let mut candles = Candles::live(INSTRUMENT, MINUTE);
    tape.each(|event| {
        candles.apply(event);
    });
    let rows: Vec<_> = candles.iter().map(summary).collect();
    assert_eq!(
        rows,
        [
            (-MINUTE, "13 13 13 13 1 13 1".to_owned()),
            (0, "10.5 11 9.25 9.25 6 62.25 3".to_owned()),
            (MINUTE, "12 12 12 12 2 24 1".to_owned()),
        ]
    );
    candles.forget_before(EventTime(0));
    assert_eq!(candles.iter().count(), 2);
}

#[test]
fn candles_of_every_interval_from_a_second_to_a_day_cut_at_their_own_edges_and_add_up() {
    const SECOND: i64 = 1_000_000_000;
    let intervals = [1, 5, 60, 300, 900, 3_600, 14_400, 86_400].map(|seconds| seconds * SECOND);
    // Trades around every edge of two days, one of them before 1970, and at odd times.
    let mut times: Vec<i64> = Vec::new();
    for interval in intervals {
        for edge in [-interval, 0, interval, 2 * interval, 7 * interval] {
            times.extend([edge - 1, edge, edge + 1, edge + interval / 3]);
        }
    }
    times.sort_unstable();
    let price = |n: usize| format!("{}.{:02}", 10 + n * 7 % 13, n * 31 % 100);
    let trades: Vec<Event> = times
        .iter()
        .enumerate()
        .map(|(n, time)| at(traded(1, 2, &price(n), 1 + n as u64 % 4), *time))
        .collect();
    let tape = Tape::of(&trades);
    for interval in intervals {
        let mut candles = Candles::live(INSTRUMENT, interval);
        tape.each(|event| {
            candles.apply(event);
        });
        let mut counted = 0;
        for candle in candles.iter() {
            let (start, end) = (candle.start.get(), candle.start.get() + interval);
            assert_eq!(start.rem_euclid(interval), 0, "{interval}");
            // Its own trades folded by themselves: what any finer candles of it add up to.
            let mut own = TradeSummary::default();
            let mut count = 0;
            tape.each(|event| {
                if let Some(trade) = matchtape_market::Trade::of(event)
                    && (start..end).contains(&trade.event_time.get())
                {
                    own.add(trade.price, trade.quantity, trade.aggressor);
                    count += 1;
                }
            });
            assert_eq!(candle.summary, own, "{interval} at {start}");
            assert!(count > 0, "no candle without a trade");
            counted += count;
        }
        assert_eq!(counted, times.len(), "{interval}: each trade is in one candle");
    }
}

fn bust(trade_id: u64, trade_sequence: u64) -> Event {
    let bust = TradeBusted {
        trade_id: TradeId(trade_id),
        trade_sequence: Sequence(trade_sequence),
        ..Default::default()
    };
    Event::new(INSTRUMENT, ProducerSequence(1), EventTime(5 * MINUTE), bust)
}

fn numbered(mut event: Event, trade_id: u64) -> Event {
    let Body::TradeMatched(trade) = &mut event.body else { unreachable!() };
    trade.trade_id = TradeId(trade_id);
    event
}

#[test]
fn a_busted_trade_leaves_its_candle_as_if_it_had_never_been_there() {
    let tape = Tape::of(&[
        numbered(at(traded(1, 2, "10", 1), 1), 501),
        numbered(at(traded(1, 2, "15", 1), 2), 502),
        numbered(at(traded(1, 2, "11", 1), 3), 503),
        numbered(at(traded(1, 2, "20", 1), MINUTE), 504),
        bust(502, 0),
        bust(0, 3),
        bust(0, 4),
        bust(9, 0),
    ]);
    let mut live = Candles::live(INSTRUMENT, MINUTE);
    tape.each(|event| {
        live.apply(event);
    });
    let mut history = Candles::without(INSTRUMENT, MINUTE, busts(&tape));
    tape.each(|event| {
        history.apply(event);
    });
    let expected = vec![(0, "10 10 10 10 1 10 1".to_owned())];
    assert_eq!(live.iter().map(summary).collect::<Vec<_>>(), expected);
    assert_eq!(history.iter().map(summary).collect::<Vec<_>>(), expected);
    assert_eq!(live.busts_of_unknown(), 1);
}

/// The trades of a tape that its busts took back.
fn busts(tape: &Tape) -> Busts {
    let mut trades = Vec::new();
    let mut busts = Busts::new();
    tape.each(|event| {
        trades.extend(Trade::of(event));
        let newest = |bust: &Bust| -> Result<Option<Sequence>, std::convert::Infallible> {
            let found = trades.iter().rfind(|trade| bust.may_mean(trade.sequence, trade.trade_id));
            Ok(found.map(|trade| trade.sequence))
        };
        if let Some(bust) = Bust::of(event) {
            busts.add(&bust, newest).unwrap();
        }
    });
    busts
}

#[test]
fn a_bust_by_a_number_that_is_used_again_takes_back_the_newest_trade_before_it() {
    let tape = Tape::of(&[
        numbered(at(traded(1, 2, "10", 1), 1), 7),
        numbered(at(traded(1, 2, "11", 1), MINUTE), 7),
        // Late, so the newest of the tape is not in the newest candle.
        numbered(at(traded(1, 2, "12", 1), 2), 7),
        bust(7, 0),
        // Again, by its number and by its position: the older trades of the number are not meant.
        bust(7, 0),
        bust(0, 4),
        numbered(at(traded(1, 2, "13", 1), MINUTE + 1), 7),
    ]);
    let bust =
        Bust { at: Sequence(4), instrument: INSTRUMENT, trade_sequence: Sequence(0), trade_id: TradeId(7) };
    assert_eq!([3, 4, 5].map(|at| bust.may_mean(Sequence(at), TradeId(7))), [true, false, false]);
    let (mut live, mut tickers) = (Candles::live(INSTRUMENT, MINUTE), Tickers::new());
    let mut history = Candles::without(INSTRUMENT, MINUTE, busts(&tape));
    tape.each(|event| {
        live.apply(event);
        history.apply(event);
        tickers.apply(event);
    });
    let expected = vec![(0, "10 10 10 10 1 10 1".to_owned()), (MINUTE, "11 13 11 13 2 24 2".to_owned())];
    assert_eq!(live.iter().map(summary).collect::<Vec<_>>(), expected);
    assert_eq!(history.iter().map(summary).collect::<Vec<_>>(), expected);
    let ticker = tickers.get(INSTRUMENT).unwrap();
    assert_eq!((ticker.busted, ticker.summary.trades), (1, 3));
    assert_eq!((ticker.summary.open, ticker.summary.high), (price("10"), price("13")));
}

#[test]
fn summaries_split_the_volume_by_aggressor_and_skip_missing_prices() {
    let mut summary = TradeSummary::default();
    summary.add(price("10"), whole(1), Buy);
    summary.add(Price::NONE, whole(2), Sell);
    summary.add(price("-2"), whole(4), Side::None);
    let volumes = [summary.volume, summary.buy_volume, summary.sell_volume].map(|volume| volume.to_string());
    assert_eq!(volumes, ["7", "1", "2"]);
    assert_eq!((summary.low, summary.high, summary.close), (price("-2"), price("10"), price("-2")));
    assert_eq!((summary.notional.to_string(), summary.trades), ("2".to_owned(), 3));
}

fn states_of(events: &[Event]) -> Vec<String> {
    let mut states = OrderStates::new();
    Tape::of(events).each(|event| states.apply(event));
    let text = |state: &OrderState| {
        format!(
            "{} {} {} left {} executed {} cancelled {} {}",
            state.order_id,
            state.side,
            state.price,
            state.left,
            state.executed,
            state.cancelled,
            state.status.name()
        )
    };
    states.iter().map(text).collect()
}

#[test]
fn order_states_follow_each_order_to_its_end() {
    let states = states_of(&[
        accepted(1, Buy, "10", 5),
        accepted(2, Sell, "11", 4),
        accepted(3, Sell, "12", 3),
        accepted(4, Sell, "13", 3),
        traded(1, 99, "10", 2),
        cancelled(1, 3),
        executed(2, 4),
        replaced(3, 30, Sell, "12.5", 1),
        accepted(1, Sell, "14", 1),
        cleared(),
        accepted(5, Sell, "15", 1),
    ]);
    assert_eq!(
        states,
        [
            "1 buy 10 left 0 executed 2 cancelled 3 cancelled",
            "2 sell 11 left 0 executed 4 cancelled 0 filled",
            "30 sell 12.5 left 0 executed 0 cancelled 1 cleared",
            "4 sell 13 left 0 executed 0 cancelled 3 cleared",
            "1 sell 14 left 0 executed 0 cancelled 1 cleared",
            "5 sell 15 left 1 executed 0 cancelled 0 open",
        ]
    );
}

#[test]
fn an_execution_reported_by_one_event_and_carried_out_by_another_counts_once() {
    let states = states_of(&[
        accepted(1, Buy, "10", 5),
        accepted(2, Buy, "10", 5),
        accepted(3, Buy, "10", 5),
        reports_only(executed(1, 5)),
        cancelled(1, 5),
        reports_only(executed(2, 2)),
        replaced(2, 2, Buy, "10", 3),
        cancelled(2, 3),
        reports_only(traded(3, 9, "10", 5)),
    ]);
    assert_eq!(
        states,
        [
            "1 buy 10 left 0 executed 5 cancelled 0 filled",
            "2 buy 10 left 0 executed 2 cancelled 3 cancelled",
            "3 buy 10 left 5 executed 0 cancelled 0 open",
        ]
    );
}

#[test]
fn a_refused_change_leaves_the_order_and_a_refused_order_is_rejected() {
    let rejected = |id| {
        let refusal =
            OrderRejected { order_id: OrderId(id), side: Buy, price: price("1"), ..Default::default() };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), refusal)
    };
    assert_eq!(
        states_of(&[accepted(1, Buy, "10", 5), rejected(1), rejected(2)]),
        ["1 buy 10 left 5 executed 0 cancelled 0 open", "2 buy 1 left 0 executed 0 cancelled 0 rejected",]
    );
}

#[test]
fn a_refused_change_of_an_order_that_is_gone_hides_nothing() {
    let rejected = |id| {
        let body = OrderRejected { order_id: OrderId(id), price: price("1"), ..Default::default() };
        Event::new(INSTRUMENT, ProducerSequence(1), EventTime(1), body)
    };
    let filled = [accepted(1, Buy, "10", 5), accepted(2, Sell, "10", 5), traded(1, 2, "10", 5)];
    for late in [rejected(1), rejected(2)] {
        assert_eq!(
            states_of(&[&filled[..], &[late]].concat()),
            [
                "1 buy 10 left 0 executed 5 cancelled 0 filled",
                "2 sell 10 left 0 executed 5 cancelled 0 filled"
            ]
        );
    }
    let cancelled = [accepted(1, Buy, "10", 5), cancelled(1, 5), rejected(1)];
    assert_eq!(states_of(&cancelled), ["1 buy 10 left 0 executed 0 cancelled 5 cancelled"]);
    // Of orders without a number, and of a number that was only ever refused, each is one of its own.
    assert_eq!(states_of(&[rejected(0), rejected(0), rejected(4), rejected(4)]).len(), 4);
}

#[test]
fn dropping_orders_that_are_done_changes_nothing_about_the_others() {
    let events = [
        accepted(1, Buy, "10", 5),
        accepted(2, Buy, "9", 5),
        replaced(2, 3, Buy, "9", 4),
        cancelled(1, 5),
        accepted(1, Sell, "11", 6),
        accepted(2, Sell, "12", 6),
        cancelled(3, 1),
        cancelled(2, 2),
        cancelled(1, 6),
        cancelled(3, 3),
    ];
    let (mut all, mut few) = (OrderStates::new(), OrderStates::new());
    Tape::of(&events).each(|event| {
        all.apply(event);
        few.apply(event);
        few.retain(|state| state.status == OrderStatus::Open);
        let open: Vec<_> = all.iter().filter(|state| state.status == OrderStatus::Open).collect();
        assert_eq!(few.iter().collect::<Vec<_>>(), open);
    });
    assert_eq!((all.len(), few.len()), (4, 1));
}
