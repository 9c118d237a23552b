//! What the producers of the process tests publish: event `number` of a producer is the same whenever and wherever it is
//! made, so that whoever receives it can say whether it is what was sent.
#![allow(dead_code, reason = "each program uses its own part")]

use matchtape_schemas::event::{
    Event, OrderAccepted, OrderCancelled, Side, StateSet, TradeMatched, encode_event,
};
use matchtape_schemas::{
    AccountId, Body, EventFlags, EventTime, InstrumentId, OrderId, Price, ProducerId, ProducerSequence,
    Quantity, TradeId,
};
use rkyv::util::AlignedVec;

/// Those who publish in the node's process.
pub const INSIDE: [ProducerId; 2] = [ProducerId(1), ProducerId(2)];
/// Who publishes from a process of its own.
pub const OUTSIDE: ProducerId = ProducerId(3);
pub const PRODUCERS: [ProducerId; 3] = [INSIDE[0], INSIDE[1], OUTSIDE];

/// When the first event happened, ns; long ago, so that nothing but these events moves the tape's time.
const BEGIN_NS: i64 = 1_700_000_000_000_000_000;

/// Repeatable chance (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Whether a producer's event `number` ends its group: groups of one to four events, and once in a while one of six
/// hundred, which no frame holds.
pub fn ends_group(number: u64) -> bool {
    match (number - 1) % 2000 {
        at @ 1000..1600 => at == 1599,
        at => matches!(at % 10, 0 | 1 | 4 | 5 | 9),
    }
}

/// A producer's event `number`, from 1.
pub fn event(producer: ProducerId, number: u64) -> Event {
    let mut random = Random(number << 8 | u64::from(producer.0));
    random.next();
    // Five events a millisecond; now and then seconds without any, and events that come late.
    let mut time_ns = BEGIN_NS + number as i64 * 200_000 + (number / 3000) as i64 * 3_000_000_000;
    if random.one_in(13) {
        time_ns -= random.below(400_000_000) as i64;
    }
    let instrument = InstrumentId(1 + random.below(20) as u32);
    let price = Price::from_units(random.below(1 << 40) as i64);
    let quantity = Quantity::from_units(random.below(1 << 40));
    let account = AccountId(random.below(100));
    let body: Body = match random.below(50) {
        0..20 => {
            let side = if random.one_in(2) { Side::Buy } else { Side::Sell };
            OrderAccepted { order_id: OrderId(number), price, quantity, account, side, ..Default::default() }
                .into()
        }
        20..35 => {
            OrderCancelled { order_id: OrderId(random.below(number + 1)), account, ..Default::default() }
                .into()
        }
        35..49 => TradeMatched {
            trade_id: TradeId(number),
            price,
            quantity,
            buy_account: account,
            ..Default::default()
        }
        .into(),
        _ => {
            let length = if random.one_in(30) { random.below(20_000) } else { random.below(300) } as usize;
            let value: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            StateSet::new(&number.to_le_bytes(), &value).expect("within limits").into()
        }
    };
    let mut event = Event::new(instrument, ProducerSequence(number), EventTime(time_ns), body);
    if !ends_group(number) {
        event.flags = EventFlags::NONE;
    }
    event
}

/// The bytes it has on the tape, but for the mark of late events.
pub fn bytes(producer: ProducerId, number: u64) -> AlignedVec<16> {
    let event = event(producer, number);
    let mut bytes = AlignedVec::new();
    bytes.resize(event.encoded_len(), 0);
    encode_event(&event, producer, &mut bytes);
    bytes
}

/// The group that begins with a producer's event `number`.
pub fn group(producer: ProducerId, number: u64) -> Vec<Event> {
    let mut events = vec![event(producer, number)];
    let mut last = number;
    while !ends_group(last) {
        last += 1;
        events.push(event(producer, last));
    }
    events
}
