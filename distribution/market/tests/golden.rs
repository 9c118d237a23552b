//! Snapshot sections that every later release must still read, and those that this one writes.
//!
//! `golden/NAME_vVERSION.hex` is the section of one small tape, 16 bytes a line. A layout that changes makes this test
//! fail: it needs a new version, a new file, and the old one still read, for a tape from which retention has dropped the
//! beginning cannot be folded anew. To write the files of a *new* layout:
//! `GOLDEN_WRITE=1 cargo test -p matchtape-market --test golden`.

mod common;

use std::path::PathBuf;

use common::*;
use matchtape_market::*;
use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;

fn path(name: &str, version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}_v{version}.hex"))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
        .collect()
}

fn golden(name: &str, version: u32) -> Vec<u8> {
    let text = std::fs::read_to_string(path(name, version)).unwrap();
    let lines = text.lines();
    lines
        .flat_map(|line| {
            (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).unwrap())
        })
        .collect()
}

fn saved(projection: &dyn Projection) -> Vec<u8> {
    let mut bytes = Vec::new();
    projection.save(&mut bytes);
    bytes
}

fn about(instrument: u32, time: i64, body: impl Into<Body>) -> Event {
    Event::new(InstrumentId(instrument), ProducerSequence(1), EventTime(time), body)
}

fn trade(id: u64, at: &str, aggressor: Side) -> TradeMatched {
    TradeMatched {
        trade_id: TradeId(id),
        price: price(at),
        quantity: whole(id),
        aggressor,
        ..Default::default()
    }
}

fn bust(id: u64, sequence: u64) -> TradeBusted {
    TradeBusted { trade_id: TradeId(id), trade_sequence: Sequence(sequence), ..Default::default() }
}

/// Something of every view, and of everything that a ticker can hold.
fn tape() -> Vec<Event> {
    let account = AccountId(9);
    let mut events = vec![
        about(0, 1, SessionOpened { trading_day: 20_260_105, session: 2, ..Default::default() }),
        about(
            7,
            2,
            InstrumentDefined {
                symbol: Text::new("SEVEN").unwrap(),
                currency: Text::new("EUR").unwrap(),
                price_increment: price("0.01"),
                quantity_increment: whole(1),
                ..Default::default()
            },
        ),
        about(7, 3, TradingStatusChanged { status: TradingStatus::Halted, ..Default::default() }),
        about(0, 4, AccountOpened { account, name: Text::new("nine").unwrap(), ..Default::default() }),
        about(7, 5, PositionChanged { account, change: -3, position: -3, ..Default::default() }),
        about(0, 6, StateSet::new(b"key", b"value").unwrap()),
        accepted(1, Side::Buy, "99.98", 5),
        accepted(2, Side::Sell, "100.03", 7),
        // From here on positions 9 to 20: more than are remembered one by one.
        about(7, 9, trade(40, "100.01", Side::Buy)),
    ];
    for id in 41..=51 {
        events.push(about(7, id as i64, trade(id, &format!("100.{id}"), Side::Sell)));
    }
    // Taken back: the newest by its number, one by its position, one that is too old to be remembered.
    events.extend([about(7, 60, bust(51, 0)), about(7, 61, bust(0, 16)), about(7, 62, bust(0, 10))]);
    // An instrument in the next session, and one that was never traded in.
    events.push(about(8, 63, trade(52, "0.5", Side::None)));
    events.push(about(8, 64, SessionOpened { trading_day: 20_260_106, session: 0, ..Default::default() }));
    events.push(about(9, 65, SessionOpened { trading_day: 20_260_106, session: 0, ..Default::default() }));
    events
}

#[test]
fn the_sections_of_this_release_are_read_and_written_to_the_byte() {
    let tape = Tape::of(&tape());
    for mut projection in projections() {
        let empty = saved(&*projection);
        tape.each(|event| projection.apply(event));
        let (name, written) = (projection.name(), saved(&*projection));
        assert!(written.len() > empty.len(), "{name}: the tape has something of it");
        let file = path(name, projection.version());
        if std::env::var_os("GOLDEN_WRITE").is_some() && !file.exists() {
            std::fs::write(&file, to_hex(&written)).unwrap();
        }
        let golden = golden(name, projection.version());
        assert_eq!(to_hex(&written), to_hex(&golden), "{name}");
        projection.restore(&empty).unwrap();
        projection.restore(&golden).unwrap();
        assert_eq!(saved(&*projection), golden, "{name}");
    }
}

/// Decides what the fold left undecided, with the whole tape at hand.
fn settle(tickers: &mut Tickers, tape: &Tape) {
    tape.each(|event| {
        let Some(bust) = Bust::of(event) else { return };
        let look_up = |bust: &Bust| {
            let mut found = Found::NotSince(Sequence::FIRST);
            tape.each(|event| {
                let trade = Trade::of(event).filter(|trade| trade.instrument == bust.instrument);
                if let Some(trade) = trade.filter(|trade| bust.may_mean(trade.sequence, trade.trade_id)) {
                    found = Found::Trade(trade);
                }
            });
            Ok::<_, std::convert::Infallible>(found)
        };
        let Ok(()) = tickers.settle(&bust, look_up);
    });
    tickers.settled(Sequence::FIRST);
}

#[test]
fn tickers_of_earlier_versions_are_read_and_go_on() {
    for version in [1, 2] {
        tickers_of_version(version);
    }
}

fn tickers_of_version(version: u32) {
    let section = golden("tickers", version);
    let (mut old, mut new) = (Tickers::new(), Tickers::new());
    old.restore_older(version, &section).expect("a layout that is read").unwrap();
    let mut tape = Tape::of(&tape());
    tape.each(|event| new.apply(event));
    // The one that is too old to be remembered was taken at its word then, and those that were not taken at all are looked up.
    assert_eq!(old.undecided_from(), Some(Sequence(1)));
    assert_eq!(new.undecided_from(), Some(Sequence(23)));
    settle(&mut old, &tape);
    settle(&mut new, &tape);
    // All that there is to see is the same, but for what that bust did not say.
    let seen = |tickers: &Tickers| -> Vec<_> {
        let seen = |ticker: &Ticker| {
            let &Ticker { instrument, session, mut summary, previous_close, busted, changed_at, .. } = ticker;
            if instrument == INSTRUMENT {
                let (sell_volume, notional) = (&mut summary.sell_volume, &mut summary.notional);
                (summary.volume, *sell_volume, *notional) = (Volume::ZERO, Volume::ZERO, Notional::default());
            }
            (instrument, session, summary, previous_close, busted, changed_at, ticker.last().copied())
        };
        tickers.iter().map(seen).collect()
    };
    assert_eq!(seen(&old), seen(&new));
    assert_eq!(old.get(INSTRUMENT).unwrap().busted, 3, "something was taken back");
    assert_ne!(saved(&old), section, "it is saved as of now");

    // What was taken back is taken back no second time, and what comes then is as ever.
    let after =
        [about(7, 70, bust(0, 16)), about(7, 71, bust(0, 10)), about(7, 72, trade(60, "101", Side::Buy))];
    let at = tape.len();
    after.iter().for_each(|event| tape.push(event));
    tape.each(|event| {
        if event.sequence() > Sequence(at) {
            old.apply(event);
            new.apply(event);
        }
    });
    settle(&mut old, &tape);
    settle(&mut new, &tape);
    assert_eq!(seen(&old), seen(&new));
    assert_eq!(
        (new.get(INSTRUMENT).unwrap().busted, new.get(INSTRUMENT).unwrap().last().unwrap().price),
        (3, price("101"))
    );
    let mut again = Tickers::new();
    again.restore(&saved(&old)).unwrap();
    assert_eq!(saved(&again), saved(&old));

    // As checked as any section, and no other layout is read.
    for length in 0..section.len() {
        let refused =
            Tickers::new().restore_older(version, &section[..length]).expect("a layout that is read");
        assert!(refused.is_err(), "cut at {length}");
    }
    assert!(Tickers::new().restore(&section).is_err());
    for version in [0, 3, 4] {
        assert!(Tickers::new().restore_older(version, &section).is_none());
    }
    for projection in &mut projections() {
        assert!(projection.restore_older(0, &section).is_none(), "{}", projection.name());
    }
}
