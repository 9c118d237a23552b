//! Rows of every kind, in every format.

#[path = "../../../schemas/tests/common/mod.rs"]
mod common;

use matchtape_client::{CandleRow, EventRow, Format, LevelRow, Output, Row, TradeRow};
use matchtape_market::{Candles, Level, Trade, Volume};
use matchtape_schemas::event::Side;
use matchtape_schemas::*;
use proptest::prelude::*;

fn with_each(events: &[Event], mut visit: impl FnMut(&EventRef<'_>)) {
    let mut head = Head::empty(TapeId(1));
    for event in events {
        let frame = common::framed(std::slice::from_ref(event), &mut head, FrameFlags::NONE);
        Frame::decode(frame.bytes()).unwrap().events().for_each(|event| visit(&event));
    }
}

fn rows(events: &[Event], row: fn(&EventRef<'_>, Option<&str>) -> EventRow) -> Vec<EventRow> {
    let mut rows = Vec::new();
    with_each(events, |event| rows.push(row(event, Some("ESH4"))));
    rows
}

fn written<R: Row>(format: Format, rows: &[R]) -> String {
    let mut output = Output::new(Vec::new(), format);
    rows.iter().for_each(|row| output.write(row).unwrap());
    String::from_utf8(output.finish::<R>().unwrap()).unwrap()
}

#[test]
fn every_kind_reads_back_from_its_json() {
    let rows = rows(&common::one_of_each(), EventRow::new);
    assert_eq!(rows.iter().map(|row| row.kind).collect::<Vec<_>>(), Kind::ALL);
    for (row, line) in rows.iter().zip(written(Format::Ndjson, &rows).lines()) {
        assert_eq!(&serde_json::from_str::<EventRow>(line).unwrap(), row, "{line}");
    }
}

#[test]
fn json_has_the_agreed_names_and_types_and_omits_what_is_absent() {
    let rows = rows(&common::one_of_each(), EventRow::new);
    let json = serde_json::to_string(&rows[5]).unwrap();
    assert_eq!(
        json,
        concat!(
            r#"{"sequence":6,"epoch":0,"event_time":"1689038100280000006","kind":"trade_matched","instrument":"ESH4","#,
            r#""price":"15.93","quantity":"300","trade_id":"8839967934202773505","#,
            r#""buy_order_id":"1229801703532086340","sell_order_id":"1229801703532086341","aggressor":"sell","#,
            r#""venue_sequence":"186445","accepted_time":"1700000000000000000","#,
            r#""receive_time":"1689038100280000001","send_delay_ns":"-12345","producer":"3","#,
            r#""producer_sequence":"6","flags":"last_of_group|reports_only","venue_flags":"130","#,
            r#""instrument_id":"2695938256","buy_account":"44224","sell_account":"44225"}"#
        )
    );
}

#[test]
fn a_public_row_shows_nothing_private() {
    let secrets = ["44224", "44225", "client-order-id", "ACME", "9223372036", "fees", "node-a", "duplicate"];
    let (private, public) =
        (rows(&common::one_of_each(), EventRow::new), rows(&common::one_of_each(), EventRow::public));
    let private = written(Format::Ndjson, &private);
    for secret in secrets {
        assert!(private.contains(secret), "{secret} is there to be hidden");
    }
    let text = written(Format::Ndjson, &public) + &written(Format::Csv, &public);
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(public.iter().map(|row| row.sequence.get()).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
}

#[test]
fn csv_has_every_column_and_quotes_what_needs_it() {
    let mut rows = rows(&common::one_of_each()[..1], EventRow::new);
    rows[0].client_order_id = Some("a,\"b\"\nc".to_owned());
    let text = written(Format::Csv, &rows);
    let (heading, line) = text.split_once('\n').unwrap();
    assert_eq!(heading, EventRow::COLUMNS.join(","));
    assert!(heading.starts_with(
        "sequence,epoch,event_time,kind,instrument,order_id,side,price,quantity,trade_id,buy_order_id,sell_order_id,aggressor,venue_sequence,"
    ));
    assert!(line.starts_with(
        "1,0,1689038100280000001,order_accepted,ESH4,1229801703532086340,sell,15.93,300,,,,,186445,"
    ));
    assert!(line.contains(",\"a,\"\"b\"\"\nc\","), "{line}");
    assert_eq!(line.replace("a,\"\"b", "").matches(',').count() + 1, EventRow::COLUMNS.len());
    assert_eq!(written::<LevelRow>(Format::Csv, &[]), "side,price,quantity,orders\n");
    assert_eq!(written::<LevelRow>(Format::Ndjson, &[]), "");
}

#[test]
fn a_table_is_aligned_across_pages() {
    let level = |price: i64, orders| Level {
        price: Price::from_units(price * 1_000_000_000),
        quantity: Volume::from_units(2_500_000_000),
        orders,
    };
    let levels: Vec<LevelRow> = (0..250)
        .map(|at| LevelRow::new(if at < 3 { Side::Buy } else { Side::Sell }, &level(10 - at, 1)))
        .collect();
    let text = written(Format::Table, &levels);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 251);
    assert_eq!(lines[0], "side  price  quantity  orders");
    assert_eq!(lines[1], "buy      10       2.5       1");
    assert_eq!(lines[250], "sell   -239       2.5       1");
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let mut rows = rows(&common::one_of_each()[..1], EventRow::new);
    rows[0].instrument = Some("a\u{1b}[2Jb".to_owned());
    let text = written(Format::Table, &rows);
    assert!(text.contains("a\\u{1b}[2Jb") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("2023-07-11T01:15:00.280000001Z"));
}

#[test]
fn trades_and_candles_read_back_from_their_json() {
    let events = &common::one_of_each()[5..6];
    let mut candles = Candles::live(events[0].instrument, 60_000_000_000);
    with_each(events, |event| {
        candles.apply(event);
        let trade = TradeRow::new(&Trade::of(event).unwrap(), "ESH4", true);
        assert_eq!(serde_json::from_str::<TradeRow>(&serde_json::to_string(&trade).unwrap()).unwrap(), trade);
    });
    let candle = CandleRow::new(candles.iter().next().unwrap());
    let json = serde_json::to_string(&candle).unwrap();
    assert_eq!(serde_json::from_str::<CandleRow>(&json).unwrap(), candle);
    assert!(json.starts_with(
        r#"{"start":"1689038100000000000","open":"15.93","high":"15.93","low":"15.93","close":"15.93","volume":"300","notional":"4779","trades":1,"#
    ));
}

proptest! {
    #[test]
    fn any_event_is_a_row_in_every_format(event in common::any_event()) {
        // Group ends are the frame's affair here.
        let event = Event { flags: event.flags.with(EventFlags::LAST_OF_GROUP), ..event };
        let rows = rows(&[event], EventRow::new);
        let json = serde_json::to_string(&rows[0]).unwrap();
        prop_assert_eq!(&serde_json::from_str::<EventRow>(&json).unwrap(), &rows[0]);
        written(Format::Csv, &rows);
        written(Format::Table, &rows);
    }
}
