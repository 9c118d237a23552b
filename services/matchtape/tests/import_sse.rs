//! The Shanghai importer on small files that go wrong in one way each.

use std::fmt::Write as _;

use flate2::write::GzEncoder;
use matchtape::import::sse::{self, Options, SseSource};
use matchtape::import::{Directory, ImportError, Input, Item, OnError, Place, Source, SourceId};
use matchtape_schemas::event::Side;
use matchtape_schemas::*;
use proptest::prelude::*;

const ORDERS: &str = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,ReceiveDateTime,OrderIndex,OrderType,OrderPrice,OrderQty,OrderBSFlag,ChannelNo,ApplSeqNum,OrderNO,SecurityID\n";
const TRADES: &str = "MDDate,MDTime,SecurityType,SecuritySubType,SecurityIDSource,Symbol,TradingPhaseCode,TradeIndex,TradeBuyNo,TradeSellNo,TradeType,TradeBSFlag,TradePrice,TradeQty,TradeMoney,ReceiveDateTime,NumTrades,ChannelNo,ApplSeqNum,SecurityID\n";

/// An order line: time, type, price, quantity, side, channel, sequence, order number, symbol.
#[expect(clippy::too_many_arguments, reason = "one per column that the tests vary")]
fn order(
    time: &str,
    kind: u32,
    price: &str,
    quantity: &str,
    side: u32,
    channel: u32,
    sequence: u64,
    number: u64,
    symbol: &str,
) -> String {
    format!(
        "2023.07.11,{time},2,02001,101,恒盛能源,2023.07.11T09:25:21.401,1,{kind},{price},{quantity},{side},{channel},{sequence},{number},{symbol}\n"
    )
}

fn insert(sequence: u64, number: u64) -> String {
    order("09:30:00.000", 2, "15.929999999999999", "300", 1, 1, sequence, number, "605580.SH")
}

fn trade(sequence: u64, buy: u64, sell: u64, flag: u32) -> String {
    format!(
        "2023.07.11,09:30:01.010,2,02001,101,恒盛能源,,77,{buy},{sell},0,{flag},14.56,200,2912,2023.07.11T09:30:01.276,0,1,{sequence},605580.SH\n"
    )
}

fn options(on_error: OnError) -> Options {
    Options { instruments: Vec::new(), on_error, id: None }
}

fn open(files: &[(&str, &str)], options: &Options) -> Result<SseSource, ImportError> {
    let files =
        files.iter().map(|(name, text)| Input::of_bytes(name, text.as_bytes().to_vec()).unwrap()).collect();
    SseSource::open(files, Directory::new(), options, &mut |_| {})
}

/// Everything a source hands out, and how it ended.
fn drain(source: &mut SseSource) -> (Vec<Event>, Vec<Event>, Option<ImportError>) {
    let (mut definitions, mut records) = (Vec::new(), Vec::new());
    loop {
        match source.next() {
            Ok(Some(Item::DayBegins(_))) => {}
            Ok(Some(Item::Definition(event))) => definitions.push(event),
            Ok(Some(Item::Records(events))) => records.extend(events),
            Ok(None) => return (definitions, records, None),
            Err(error) => return (definitions, records, Some(error)),
        }
    }
}

fn sequences(events: &[Event]) -> Vec<u64> {
    events
        .iter()
        .map(|event| match &event.body {
            Body::OrderAccepted(order) => order.venue_sequence.get(),
            Body::OrderCancelled(order) => order.venue_sequence.get(),
            Body::TradeMatched(trade) => trade.venue_sequence.get(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn ordinals(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.producer_sequence.get()).collect()
}

#[test]
fn a_line_becomes_an_event_with_everything_it_says() {
    let orders = format!(
        "{ORDERS}{}{}",
        insert(5, 1329),
        order("09:30:02.500", 10, "15.93", "300", 1, 1, 8, 1329, "605580.SH")
    );
    let trades = format!("{TRADES}{}", trade(6, 1329, 99, 2));
    let (definitions, records, error) =
        drain(&mut open(&[("t", &trades), ("o", &orders)], &options(OnError::Stop)).unwrap());
    assert!(error.is_none());
    let [definition] = &definitions[..] else { panic!("{definitions:?}") };
    let Body::InstrumentDefined(instrument) = &definition.body else { panic!() };
    assert_eq!(
        (instrument.symbol.to_string(), instrument.name.to_string()),
        ("605580.SH".into(), "恒盛能源".into())
    );
    assert_eq!((instrument.venue_instrument_id, instrument.channel), (605_580, 1));
    assert_eq!((definition.instrument, definition.producer_sequence), (InstrumentId(1), ProducerSequence(1)));
    assert_eq!(definition.event_time, EventTime(1_689_039_000_000_000_000));
    assert!(
        records
            .iter()
            .all(|event| event.flags == EventFlags::LAST_OF_GROUP && event.instrument == InstrumentId(1))
    );
    let Body::OrderAccepted(accepted) = &records[0].body else { panic!() };
    assert_eq!(records[0].event_time, EventTime(1_689_039_000_000_000_000));
    assert_eq!((accepted.order_id, accepted.side), (OrderId(1329), Side::Buy));
    assert_eq!((accepted.price, accepted.quantity), ("15.93".parse().unwrap(), "300".parse().unwrap()));
    assert_eq!(accepted.receive_time, ReceiveTime(1_689_038_721_401_000_000));
    let Body::TradeMatched(traded) = &records[1].body else { panic!() };
    assert_eq!(
        (traded.buy_order_id, traded.sell_order_id, traded.trade_id),
        (OrderId(1329), OrderId(99), TradeId(77))
    );
    assert_eq!((traded.aggressor, traded.price), (Side::Sell, "14.56".parse().unwrap()));
    let Body::OrderCancelled(cancelled) = &records[2].body else { panic!() };
    assert_eq!((cancelled.order_id, cancelled.quantity), (OrderId(1329), "300".parse().unwrap()));
    assert_eq!((sequences(&records), ordinals(&records)), (vec![5, 6, 8], vec![1, 2, 3]));
}

#[test]
fn files_are_merged_by_channel_and_sequence_and_time_may_go_back() {
    let orders = format!(
        "{ORDERS}{}{}{}{}",
        insert(30, 1),
        insert(40, 2),
        order("09:15:00.000", 2, "5", "100", 2, 1, 10, 3, "600761.SH"),
        order("09:15:00.000", 2, "5", "100", 2, 2, 1, 4, "600761.SH"),
    );
    let trades = format!("{TRADES}{}{}", trade(20, 9, 1, 0), trade(35, 1, 3, 1));
    let mut source = open(&[("o", &orders), ("t", &trades)], &options(OnError::Stop)).unwrap();
    let (definitions, records, _) = drain(&mut source);
    assert_eq!(sequences(&records), [10, 20, 30, 35, 40, 1]);
    assert_eq!(definitions.iter().map(|event| event.instrument.get()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(source.tally().back_in_time, 3);
}

#[test]
fn a_filter_keeps_the_ordinals_of_the_source() {
    let other = |sequence| order("09:15:00.000", 2, "5", "100", 2, 1, sequence, sequence, "600761.SH");
    let orders = format!("{ORDERS}{}{}{}{}", other(1), insert(2, 2), other(3), insert(4, 4));
    let only = |symbol: &str| Options { instruments: vec![symbol.to_owned()], ..options(OnError::Stop) };
    let mut source = open(&[("o", &orders)], &only("605580.SH")).unwrap();
    let (definitions, records, _) = drain(&mut source);
    assert_eq!((sequences(&records), ordinals(&records)), (vec![2, 4], vec![2, 4]));
    assert_eq!((definitions.len(), ordinals(&definitions)), (1, vec![2]));
    assert_eq!((source.tally().records, source.tally().filtered), (4, 2));
    let all = open(&[("o", &orders)], &options(OnError::Stop)).unwrap();
    assert_eq!(all.id(), source.id(), "the source is the same whatever is asked of it");
}

#[test]
fn instruments_keep_the_ids_they_have_on_the_tape() {
    let orders =
        format!("{ORDERS}{}{}", insert(1, 1), order("09:15:00.000", 2, "5", "100", 2, 1, 2, 2, "600761.SH"));
    let input = || vec![Input::of_bytes("o", orders.clone().into_bytes()).unwrap()];
    let (first, ..) =
        drain(&mut SseSource::open(input(), Directory::new(), &options(OnError::Stop), &mut |_| {}).unwrap());
    let mut directory = Directory::new();
    let Body::InstrumentDefined(second) = &first[1].body else { panic!() };
    assert_eq!(directory.get_or_add(second), InstrumentId(1));
    let (again, ..) =
        drain(&mut SseSource::open(input(), directory, &options(OnError::Stop), &mut |_| {}).unwrap());
    assert_eq!(again.iter().map(|event| event.instrument.get()).collect::<Vec<_>>(), [2, 1]);
}

/// Every way a line can be wrong: the line, the field named, what is said to be found.
fn malformed() -> Vec<(String, &'static str, &'static str)> {
    let good = insert(2, 2);
    vec![
        (good.replace("15.929999999999999", "15.9x"), "OrderPrice", "\"15.9x\""),
        (good.replace("15.929999999999999", "-1"), "OrderPrice", "\"-1\""),
        (good.replace("15.929999999999999", "0"), "OrderPrice", "\"0\""),
        (good.replace("15.929999999999999", "NaN"), "OrderPrice", "\"NaN\""),
        (good.replace(",300,", ",0,"), "OrderQty", "\"0\""),
        (good.replace(",300,", ",300.5,"), "OrderQty", "\"300.5\""),
        (good.replace(",300,1,", ",300,3,"), "OrderBSFlag", "\"3\""),
        (good.replace("401,1,2,", "401,1,7,"), "OrderType", "\"7\""),
        (good.replace("09:30:00.000", "25:30:00.000"), "MDTime", "\"25:30:00.000\""),
        (good.replace("2023.07.11,", "2023.02.30,"), "MDDate", "\"2023.02.30\""),
        (good.replace("T09:25:21.401", " 09:25:21.401"), "ReceiveDateTime", "\"2023.07.11 09:25:21.401\""),
        (good.replace(",1,2,2,605", ",4294967296,2,2,605"), "ChannelNo", "\"4294967296\""),
        (good.replace(",1,2,2,605", ",1,two,2,605"), "ApplSeqNum", "\"two\""),
        (good.replace("605580.SH", ""), "SecurityID", "\"\""),
        (good.replace(",605580.SH", ""), "the number of fields", "\"15\""),
        (good.replace("605580.SH", "605580.SH,x"), "the number of fields", "\"17\""),
        (good.replace("605580.SH", &"9".repeat(41)), "SecurityID", ""),
        (good.replace("\n", " \n"), "", ""),
    ]
}

#[test]
fn a_malformed_line_stops_the_import_and_names_file_line_and_field() {
    for (line, field, found) in malformed() {
        let orders = format!("{ORDERS}{}{line}{}", insert(1, 1), insert(3, 3));
        let mut source = open(&[("dir/orders.csv", &orders)], &options(OnError::Stop)).unwrap();
        let (_, records, error) = drain(&mut source);
        if field.is_empty() {
            // A space after the symbol is another symbol, not an error.
            assert!(error.is_none());
            continue;
        }
        let Some(ImportError::Malformed(problem)) = error else { panic!("{line}") };
        assert_eq!(
            (problem.file.to_str().unwrap(), problem.place),
            ("dir/orders.csv", Place::Line(3)),
            "{problem}"
        );
        assert_eq!(problem.field, field);
        assert!(problem.found.contains(found), "{problem}");
        assert!(problem.to_string().starts_with("dir/orders.csv, line 3: "), "{problem}");
        assert_eq!(sequences(&records), [1], "what came before is handed out");
        assert!(matches!(source.next(), Ok(Some(_)) | Ok(None)), "and nothing panics after it");
    }
}

#[test]
fn with_skip_malformed_lines_are_counted_and_listed_and_keep_their_ordinal() {
    for (line, field, _) in malformed().into_iter().filter(|(_, field, _)| !field.is_empty()) {
        let orders = format!("{ORDERS}{}{line}{}", insert(1, 1), insert(3, 3));
        let mut source = open(&[("o", &orders)], &options(OnError::Skip)).unwrap();
        let (_, records, error) = drain(&mut source);
        assert!(error.is_none());
        assert_eq!((sequences(&records), ordinals(&records)), (vec![1, 3], vec![1, 3]), "{line}");
        let tally = source.tally();
        assert_eq!((tally.records, tally.malformed, tally.problems.len()), (3, 1, 1));
        assert_eq!(tally.problems[0].field, field);
    }
    let mut many = ORDERS.to_owned();
    (0..50).for_each(|_| many.push_str("nonsense\n"));
    let mut source = open(&[("o", &many)], &options(OnError::Skip)).unwrap();
    assert!(drain(&mut source).1.is_empty());
    assert_eq!((source.tally().malformed, source.tally().problems.len()), (50, 20));
    let far_too_many = format!("{ORDERS}{}", "nonsense\n".repeat(sse::MALFORMED_MAX + 1));
    let Err(ImportError::Files(said)) = open(&[("o", &far_too_many)], &options(OnError::Skip)) else {
        panic!()
    };
    assert!(said.starts_with("o: more than 100000 malformed lines"), "{said}");
}

#[test]
fn a_heading_that_lacks_a_column_is_refused() {
    let lacking = ORDERS.replace("OrderPrice", "Price");
    let Err(ImportError::Malformed(problem)) = open(&[("o", &lacking)], &options(OnError::Skip)) else {
        panic!()
    };
    assert_eq!((problem.place, problem.expected.as_str()), (Place::Line(1), "a column OrderPrice"));
    assert!(matches!(open(&[("o", "")], &options(OnError::Skip)), Err(ImportError::Malformed(_))));
    assert!(matches!(open(&[], &options(OnError::Skip)), Err(ImportError::Files(_))));
}

#[test]
fn columns_may_come_in_any_order_and_lines_may_end_in_cr_lf() {
    let orders = "SecurityID,OrderNO,ApplSeqNum,ChannelNo,OrderBSFlag,OrderQty,OrderPrice,OrderType,ReceiveDateTime,Symbol,MDTime,MDDate\r\n605580.SH,7,2,1,2,100,14.92,2,2023.07.11T09:25:21.401,x,09:30:00.000,2023.07.11\r\n";
    let (_, records, error) = drain(&mut open(&[("o", orders)], &options(OnError::Stop)).unwrap());
    assert!(error.is_none());
    let Body::OrderAccepted(order) = &records[0].body else { panic!() };
    assert_eq!((order.order_id, order.side), (OrderId(7), Side::Sell));
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_cut_off_gzip_file_is_an_error_that_names_it() {
    let mut text = ORDERS.to_owned();
    (1..2000).for_each(|sequence| write!(text, "{}", insert(sequence, sequence * 7919 % 100_003)).unwrap());
    let whole = gzip(&text);
    let open = |bytes: Vec<u8>| {
        SseSource::open(
            vec![Input::of_bytes("cut.gz", bytes).unwrap()],
            Directory::new(),
            &options(OnError::Skip),
            &mut |_| {},
        )
    };
    assert_eq!(drain(&mut open(whole.clone()).unwrap()).1.len(), 1999);
    let two_members = [gzip(ORDERS), gzip(&text[ORDERS.len()..])].concat();
    assert_eq!(drain(&mut open(two_members).unwrap()).1.len(), 1999);
    let Err(ImportError::Input(error)) = open(whole[..whole.len() / 2].to_vec()) else { panic!() };
    assert!(error.to_string().starts_with("cut.gz: "), "{error}");
}

#[test]
fn a_source_is_known_by_how_it_begins_not_by_its_name() {
    let id = |name: &str, text: &str| open(&[(name, text)], &options(OnError::Stop)).unwrap().id();
    let day = format!("{ORDERS}{}", insert(1, 1));
    let grown = format!("{day}{}", insert(2, 2));
    let another = format!("{ORDERS}{}", insert(2, 1));
    assert_eq!(id("a", &day), id("b", &day));
    assert_eq!(id("a", &day), id("a", &grown));
    assert_ne!(id("a", &day), id("a", &another));
    let SourceId { records, definitions } = id("a", &day);
    assert!(records.get() > 0 && records.get() < 1 << 31 && definitions.get() == records.get() | 1 << 31);
}

#[test]
fn what_is_there_twice_is_left_out_and_the_source_is_the_one_it_is_without() {
    let malformed = insert(2, 2).replace(",300,", ",0,");
    let orders = format!("{ORDERS}{}{malformed}{}", insert(1, 1), insert(3, 3));
    let trades = format!("{TRADES}{}", trade(4, 1, 9, 1));
    let once = &mut open(&[("o", &orders), ("t", &trades)], &options(OnError::Skip)).unwrap();
    let (_, expected, _) = drain(once);
    assert_eq!((sequences(&expected), ordinals(&expected)), (vec![1, 3, 4], vec![1, 3, 4]));

    let doubled = format!("{ORDERS}{}{malformed}{}{}", insert(1, 1), insert(3, 3), insert(3, 3));
    let compressed = Input::of_bytes("o.gz", gzip(&orders)).unwrap();
    let file = |name: &str, text: &str| Input::of_bytes(name, text.as_bytes().to_vec()).unwrap();
    for (files, repeated) in [
        (vec![file("o", &orders), file("o", &orders), file("t", &trades)], 3),
        (vec![compressed, file("t", &trades), file("o", &orders)], 3),
        (vec![file("t", &trades), file("t", &trades), file("o", &doubled)], 2),
    ] {
        let mut source =
            SseSource::open(files, Directory::new(), &options(OnError::Skip), &mut |_| {}).unwrap();
        assert_eq!(drain(&mut source).1, expected);
        assert_eq!(source.id(), once.id());
        let tally = source.tally();
        assert_eq!((tally.records, tally.malformed, tally.repeated), (4, 1, repeated));
    }

    let other = insert(3, 3).replace(",300,", ",400,");
    let other_orders = format!("{ORDERS}{other}");
    for (name, text) in [("p", &other_orders), ("u", &format!("{TRADES}{}", trade(3, 1, 9, 1)))] {
        let Err(error) = open(&[("o", &orders), (name, text)], &options(OnError::Skip)) else { panic!() };
        assert_eq!(
            error.to_string(),
            format!("o, line 4 and {name}, line 2: two different records with ApplSeqNum 3 of channel 1")
        );
    }
}

fn consume(files: Vec<Vec<u8>>) {
    for on_error in [OnError::Stop, OnError::Skip] {
        let inputs: Result<Vec<Input>, _> =
            files.iter().map(|bytes| Input::of_bytes("fuzz", bytes.clone())).collect();
        if let Ok(inputs) = inputs
            && let Ok(mut source) = SseSource::open(inputs, Directory::new(), &options(on_error), &mut |_| {})
        {
            let (_, records, _) = drain(&mut source);
            assert!(ordinals(&records).windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_importer_panic(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..3)) {
        consume(files);
    }

    #[test]
    fn no_damage_to_a_real_file_makes_the_importer_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        compressed: bool,
    ) {
        let orders = format!("{ORDERS}{}{}{}", insert(1, 1), insert(3, 3), order("09:30:02.500", 10, "15.93", "300", 1, 1, 8, 3, "605580.SH"));
        let mut bytes = if compressed { gzip(&orders) } else { orders.into_bytes() };
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        consume(vec![bytes, format!("{TRADES}{}", trade(2, 1, 9, 1)).into_bytes()]);
    }
}
