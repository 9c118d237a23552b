//! Which trades of a real store were taken back.

use matchtape_client::busts_between;
use matchtape_market::Trade;
use matchtape_node::{Node, NodeOptions};
use matchtape_schemas::event::{Event, TradeBusted, TradeMatched};
use matchtape_schemas::{
    Body, EventTime, InstrumentId, Kind, KindMask, ProducerId, ProducerSequence, Sequence, Stage, TradeId,
};
use matchtape_storage::Query;

#[test]
fn a_number_that_is_used_again_means_the_newest_trade_before_the_bust_and_only_of_its_instrument() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(folder.path(), NodeOptions::default(), Vec::new()).unwrap();
    let mut publisher = node.publisher(ProducerId(1)).unwrap();
    let trade = |number| TradeMatched { trade_id: TradeId(number), ..Default::default() }.into();
    let bust = |number, at| {
        let bust =
            TradeBusted { trade_id: TradeId(number), trade_sequence: Sequence(at), ..Default::default() };
        Body::from(bust)
    };
    // The epoch's start is at 1.
    let events: [(u32, Body); 10] = [
        (1, trade(7)), // 2
        (2, trade(7)), // 3
        (1, trade(7)), // 4: taken back by its number
        (1, trade(8)), // 5: taken back by its position
        (2, trade(9)), // 6
        (1, bust(7, 0)),
        (1, trade(7)), // 8
        (1, bust(0, 5)),
        (1, bust(9, 0)), // of another instrument's number
        (1, bust(0, 0)), // of nothing
    ];
    let mut last = Sequence::ZERO;
    for (number, (instrument, body)) in events.into_iter().enumerate() {
        let number = ProducerSequence(number as u64 + 1);
        let event = Event::new(InstrumentId(instrument), number, EventTime(1), body);
        last = publisher.publish(&event).unwrap().sequence();
    }
    node.wait(last, Stage::Visible).unwrap();
    let reader = node.reader();
    let taken_back = |instrument: Option<u32>, from: u64, through: u64| -> Vec<u64> {
        let (from, through) = (Sequence(from), Sequence(through));
        let busts = busts_between(&reader, instrument.map(InstrumentId), from, through).unwrap();
        let trades = Query { kinds: KindMask::of(&[Kind::TradeMatched]), ..Query::default() };
        let trades = reader.query(&trades).unwrap().map(|event| Trade::of(&event.unwrap().event()).unwrap());
        trades.filter(|trade| busts.contains(trade)).map(|trade| trade.sequence.get()).collect()
    };
    assert_eq!(taken_back(None, 0, u64::MAX), [4, 5]);
    assert_eq!(taken_back(Some(1), 0, u64::MAX), [4, 5]);
    assert_eq!(taken_back(Some(2), 0, u64::MAX), [0; 0]);
    assert_eq!(taken_back(None, 0, 7), [4], "as of then");
    // Its trade lies before the range, and nothing else of that number is meant.
    assert_eq!(taken_back(None, 5, u64::MAX), [5]);
    assert_eq!(taken_back(None, 7, u64::MAX), [5], "by position wherever that is");
    drop(publisher);
    node.close().unwrap();
}
