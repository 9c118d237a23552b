//! One event of every kind with every field filled, and any event at all.
#![allow(dead_code, reason = "each test file uses its part")]

use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use proptest::prelude::*;

/// One event of every kind, by number; every field has a value that shows where it lies.
pub fn one_of_each() -> Vec<Event> {
    let (order_id, new_order_id) = (OrderId(0x1111_2222_3333_4444), OrderId(0x1111_2222_3333_4445));
    let (account, trade_id) = (AccountId(0xACC0), TradeId(0x7AAD_E000_0000_0001));
    let (price, quantity) = (Price::from_units(15_930_000_000), Quantity::from_units(300_000_000_000));
    let (venue_sequence, receive_time) = (VenueSequence(186_445), ReceiveTime(1_689_038_100_280_000_001));
    let client_order_id = Text::new("client-order-id-of-exactly-forty-bytes-x").unwrap();
    let (send_delay_ns, side) = (-12_345, Side::Sell);
    let bodies: Vec<Body> = vec![
        OrderAccepted {
            order_id,
            price,
            quantity,
            account,
            venue_sequence,
            receive_time,
            client_order_id,
            send_delay_ns,
            side,
            order_type: OrderType::Market,
            time_in_force: TimeInForce::FillOrKill,
            ..Default::default()
        }
        .into(),
        OrderRejected {
            order_id,
            price,
            quantity,
            account,
            venue_sequence,
            receive_time,
            client_order_id,
            send_delay_ns,
            side,
            reason: RejectReason::Duplicate,
            ..Default::default()
        }
        .into(),
        OrderReplaced {
            order_id,
            new_order_id,
            price,
            quantity,
            account,
            venue_sequence,
            receive_time,
            client_order_id,
            send_delay_ns,
            side,
            ..Default::default()
        }
        .into(),
        OrderCancelled {
            order_id,
            price,
            quantity,
            account,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            reason: CancelReason::SelfTrade,
            ..Default::default()
        }
        .into(),
        OrderExecuted {
            order_id,
            trade_id,
            price,
            quantity,
            leaves_quantity: Quantity::from_units(1),
            account,
            venue_sequence,
            receive_time,
            send_delay_ns,
            side,
            liquidity: Liquidity::Taker,
            ..Default::default()
        }
        .into(),
        TradeMatched {
            trade_id,
            buy_order_id: order_id,
            sell_order_id: new_order_id,
            price,
            quantity,
            buy_account: account,
            sell_account: AccountId(0xACC1),
            venue_sequence,
            receive_time,
            send_delay_ns,
            aggressor: side,
            ..Default::default()
        }
        .into(),
        TradeBusted {
            trade_id,
            price,
            quantity,
            trade_sequence: Sequence(42),
            venue_sequence,
            receive_time,
            send_delay_ns,
            ..Default::default()
        }
        .into(),
        InstrumentDefined {
            symbol: Text::new("605580.SH").unwrap(),
            name: Text::new("恒盛能源").unwrap(),
            venue_instrument_id: 605_580,
            price_increment: Price::from_units(10_000_000),
            quantity_increment: Quantity::from_units(1_000_000_000),
            expires: EventTime(1_710_000_000_000_000_000),
            currency: Text::new("CNY").unwrap(),
            venue: Text::new("XSHG").unwrap(),
            publisher: 7,
            channel: 1,
            class: InstrumentClass::Equity,
            ..Default::default()
        }
        .into(),
        TradingStatusChanged {
            venue_sequence,
            receive_time,
            send_delay_ns,
            status: TradingStatus::Halted,
            ..Default::default()
        }
        .into(),
        BookCleared { venue_sequence, receive_time, send_delay_ns, ..Default::default() }.into(),
        SessionOpened { trading_day: 20_230_711, session: 1, ..Default::default() }.into(),
        SessionClosed { trading_day: 20_230_711, session: 2, ..Default::default() }.into(),
        AccountOpened {
            account,
            name: Text::new("ACME-7").unwrap(),
            participant_name: Text::new("ACME Securities").unwrap(),
            participant: ParticipantId(9),
            status: AccountStatus::ReduceOnly,
            ..Default::default()
        }
        .into(),
        AccountChanged { account, status: AccountStatus::Suspended, ..Default::default() }.into(),
        PositionChanged { account, change: -5, position: i64::MIN, ..Default::default() }.into(),
        StateSet::new(b"fees/maker", b"0.0002").unwrap().into(),
        StateDeleted::new(b"fees/maker").unwrap().into(),
        EpochStarted {
            epoch: Epoch(2),
            previous_epoch: Epoch(1),
            previous_last_sequence: Sequence(17),
            previous_checksum: 0xDEAD_BEEF,
            writer_incarnation: 0x0123_4567_89AB_CDEF,
            node: Text::new("node-a").unwrap(),
            previous_segment_root: std::array::from_fn(|at| at as u8),
        }
        .into(),
        EpochEnded { epoch: Epoch(2), ..Default::default() }.into(),
        TimeAdvanced { accepted_time: AcceptedTime(1_689_038_100_280_000_002), ..Default::default() }.into(),
    ];
    assert_eq!(bodies.iter().map(Body::kind).collect::<Vec<_>>(), Kind::ALL);
    bodies
        .into_iter()
        .zip(1..)
        .map(|(body, number)| Event {
            instrument: InstrumentId(0xA0B0_C0D0),
            producer_sequence: ProducerSequence(number),
            event_time: EventTime(1_689_038_100_280_000_000 + number as i64),
            flags: EventFlags::LAST_OF_GROUP.with(EventFlags::REPORTS_ONLY),
            venue_flags: 0x82,
            body,
        })
        .collect()
}

/// Any event: every kind, with random header fields and random text where a kind has some.
pub fn any_event() -> impl Strategy<Value = Event> {
    let body = prop_oneof![
        8 => (0..Kind::ALL.len()).prop_map(|index| one_of_each()[index].body.clone()),
        4 => (any::<u64>(), any::<i64>(), any::<u64>(), any::<i32>()).prop_map(|(order_id, price, quantity, delay)| {
            OrderCancelled {
                order_id: OrderId(order_id),
                price: Price::from_units(price),
                quantity: Quantity::from_units(quantity),
                send_delay_ns: delay,
                ..Default::default()
            }
            .into()
        }),
        1 => (prop::collection::vec(any::<u8>(), 1..=128), prop::collection::vec(any::<u8>(), 0..2000))
            .prop_map(|(key, value)| StateSet::new(&key, &value).unwrap().into()),
    ];
    (any::<u32>(), any::<u64>(), any::<i64>(), 0u8..16, any::<u8>(), body).prop_map(
        |(instrument, number, event_time, flags, venue_flags, body)| Event {
            instrument: InstrumentId(instrument),
            producer_sequence: ProducerSequence(number),
            event_time: EventTime(event_time),
            flags: EventFlags::from_bits(flags).unwrap(),
            venue_flags,
            body,
        },
    )
}

/// Memory at a multiple of 16.
pub struct Aligned {
    words: Vec<u128>,
    length: usize,
}

impl Aligned {
    pub fn zeroed(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(16)], length }
    }

    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.bytes_mut().copy_from_slice(bytes);
        copy
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the vector owns at least `length` initialised bytes, and u8 has no invalid values.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the exclusive borrow of self covers the vector.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), self.length) }
    }
}

/// An event's bytes.
pub fn encoded(event: &Event, producer: ProducerId) -> Aligned {
    let mut out = Aligned::zeroed(event.encoded_len());
    encode_event(event, producer, out.bytes_mut());
    out
}

/// A frame of these events after `head`.
pub fn framed(events: &[Event], head: &mut Head, flags: FrameFlags) -> Aligned {
    let mut out = Aligned::zeroed(limits::FRAME_BYTES_MAX);
    let mut writer = FrameWriter::new(out.bytes_mut(), head);
    for event in events {
        assert!(writer.push(encoded(event, ProducerId(3)).bytes()));
    }
    let info = writer.finish(head, AcceptedTime(1_700_000_000_000_000_000), flags);
    out.length = info.length as usize;
    out
}
