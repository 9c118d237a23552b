//! A tape in memory, an exchange to trade on, and random commands for it.
#![allow(dead_code, reason = "each test file uses its part")]

use matchtape_examples::engine::{
    Command, Engine, EngineOptions, NewOrder, RestingOrder, SelfTrade, Session,
};
use matchtape_schemas::event::{
    AccountOpened, AccountStatus, InstrumentDefined, OrderType, Side, TimeInForce, TradingStatus,
    encode_event,
};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use proptest::prelude::*;
use rkyv::util::AlignedVec;

pub const NOW: EventTime = EventTime(1_700_000_000_000_000_000);
pub const ACME: InstrumentId = InstrumentId(1);

/// Frames in memory, as a node would have written them.
pub struct Tape {
    pub producer: ProducerId,
    head: Head,
    frames: Vec<AlignedVec<16>>,
}

impl Tape {
    pub fn new(producer: ProducerId) -> Self {
        let head = Head { epoch: Epoch::FIRST, ..Head::empty(TapeId(7)) };
        Self { producer, head, frames: Vec::new() }
    }

    /// Appends whole groups, each in a frame of its own, or several if it is large; returns the first new frame's number.
    pub fn append(&mut self, events: &[Event]) -> usize {
        let first_new = self.frames.len();
        let mut frame = AlignedVec::<16>::new();
        frame.resize(FRAME_BYTES_MAX, 0);
        for group in events.chunk_by(|event, _| !event.flags.contains(EventFlags::LAST_OF_GROUP)) {
            let mut left = group;
            while !left.is_empty() {
                left = self.append_frame(left, &mut frame);
            }
        }
        first_new
    }

    fn append_frame<'e>(&mut self, events: &'e [Event], frame: &mut AlignedVec<16>) -> &'e [Event] {
        let mut writer = FrameWriter::new(frame, &self.head);
        let mut encoded = AlignedVec::<16>::new();
        let written = events.iter().take_while(|event| {
            encoded.resize(event.encoded_len(), 0);
            encode_event(event, self.producer, &mut encoded);
            writer.push(&encoded)
        });
        let written = written.count();
        let info = writer.finish(&mut self.head, AcceptedTime(NOW.get()), FrameFlags::NONE);
        let mut exact = AlignedVec::with_capacity(info.length as usize);
        exact.extend_from_slice(&frame[..info.length as usize]);
        self.frames.push(exact);
        &events[written..]
    }

    pub fn frames_from(&self, first: usize) -> impl Iterator<Item = Frame<'_>> {
        self.frames[first..].iter().map(|frame| Frame::decode(frame).expect("frames written here are sound"))
    }

    pub fn events_from(&self, first: usize) -> impl Iterator<Item = EventRef<'_>> {
        self.frames_from(first).flat_map(|frame| frame.events())
    }

    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.events_from(0)
    }
}

/// Prices in cents, quantities in whole shares; accounts 1 to 4, of which 4 may not trade.
pub fn exchange(self_trade: SelfTrade, instruments: u32) -> (Engine, Vec<Event>) {
    let mut engine = Engine::new(EngineOptions { self_trade, ..EngineOptions::default() });
    let mut out = Vec::new();
    engine.open_session(Session { trading_day: 20_231_114, number: 0 }, NOW, &mut out).unwrap();
    for id in 1..=4 {
        let status = if id == 4 { AccountStatus::Suspended } else { AccountStatus::Active };
        let account = AccountOpened { account: AccountId(id), status, ..Default::default() };
        engine.open_account(account, NOW, &mut out).unwrap();
    }
    for id in 1..=instruments {
        let definition = InstrumentDefined {
            symbol: Text::new(&format!("ACME{id}")).unwrap(),
            price_increment: cents(1),
            quantity_increment: shares(1),
            ..Default::default()
        };
        assert_eq!(engine.define_instrument(definition, NOW, &mut out), Ok(InstrumentId(id)));
        engine.set_status(InstrumentId(id), TradingStatus::Continuous, NOW, &mut out).unwrap();
    }
    (engine, out)
}

pub fn cents(cents: i64) -> Price {
    Price::from_units(cents * 10_000_000)
}

pub fn shares(shares: u64) -> Quantity {
    Quantity::from_whole(shares).unwrap()
}

pub fn limit(account: u64, side: Side, price: i64, quantity: u64) -> NewOrder {
    NewOrder {
        instrument: ACME,
        account: AccountId(account),
        client_order_id: Default::default(),
        side,
        order_type: OrderType::Limit,
        time_in_force: TimeInForce::GoodTillCancel,
        price: cents(price),
        quantity: shares(quantity),
    }
}

/// What a test asks of an engine.
#[derive(Clone, Debug)]
pub enum Action {
    Trader(Command),
    /// Moves one of the resting orders by ticks and shares, or cancels it where nothing would be left.
    Amend {
        pick: prop::sample::Index,
        ticks: i64,
        shares: i64,
    },
    Status(InstrumentId, TradingStatus),
    NewDay,
}

impl Action {
    /// Performs it; appends at least one whole group, or nothing where an operator's wish makes no sense.
    pub fn perform(&self, engine: &mut Engine, now: EventTime, out: &mut Vec<Event>) {
        match self {
            Self::Trader(command) => engine.execute(command, now, out),
            Self::Amend { pick, ticks, shares } => {
                let resting: Vec<(InstrumentId, RestingOrder)> = engine
                    .instruments()
                    .flat_map(|(id, ..)| [(id, Side::Buy), (id, Side::Sell)])
                    .flat_map(|(id, side)| engine.orders(id, side).map(move |order| (id, *order)))
                    .collect();
                if resting.is_empty() {
                    return;
                }
                let (instrument, order) = *pick.get(&resting);
                let (account, order_id) = (order.account, order.id);
                let price = Price::from_units(order.price.units() + cents(*ticks).units());
                let left = order.quantity.units() as i64 + shares * decimal::UNITS_PER_ONE;
                let command = match u64::try_from(left) {
                    Ok(left) if left > 0 => {
                        let quantity = Quantity::from_units(left);
                        Command::Replace { instrument, account, order_id, price, quantity }
                    }
                    _ => Command::Cancel { instrument, account, order_id },
                };
                engine.execute(&command, now, out);
            }
            Self::Status(instrument, status) => {
                let _ = engine.set_status(*instrument, *status, now, out);
            }
            Self::NewDay => {
                let Session { trading_day, number } = engine.session().unwrap();
                engine.close_session(now, out).unwrap();
                engine.open_session(Session { trading_day: trading_day + 1, number }, now, out).unwrap();
            }
        }
    }
}

fn any_account() -> impl Strategy<Value = AccountId> {
    prop_oneof![20 => 1..4u64, 1 => 4..6u64].prop_map(AccountId)
}

fn any_price() -> impl Strategy<Value = Price> {
    prop_oneof![40 => (95..=105i64).prop_map(cents), 1 => Just(Price::from_units(1)), 1 => Just(Price::NONE)]
}

fn any_quantity() -> impl Strategy<Value = Quantity> {
    prop_oneof![40 => (1..=8u64).prop_map(shares), 1 => Just(Quantity::ZERO), 1 => Just(Quantity::from_units(7))]
}

/// Any action on an exchange with this many instruments; most are sensible, and prices are close, so most orders meet.
pub fn any_action(instruments: u32) -> impl Strategy<Value = Action> {
    let instrument =
        prop_oneof![60 => 1..=instruments, 1 => Just(0), 1 => Just(instruments + 1)].prop_map(InstrumentId);
    let order = (
        instrument.clone(),
        any_account(),
        prop_oneof![20 => Just(Side::Buy), 20 => Just(Side::Sell), 1 => Just(Side::None)],
        prop_oneof![6 => Just(OrderType::Limit), 1 => Just(OrderType::Market)],
        prop::sample::select(TimeInForce::ALL),
        any_price(),
        any_quantity(),
    );
    let order = order.prop_map(|(instrument, account, side, order_type, time_in_force, price, quantity)| {
        Command::New(NewOrder {
            instrument,
            account,
            client_order_id: Text::new(&format!("{price}")).unwrap(),
            side,
            order_type,
            time_in_force,
            price,
            quantity,
        })
    });
    // Order numbers count up from 1, so small numbers are often those of resting orders.
    let order_id = (1..60u64).prop_map(OrderId);
    let cancel = (instrument.clone(), any_account(), order_id.clone())
        .prop_map(|(instrument, account, order_id)| Command::Cancel { instrument, account, order_id });
    let replace = (instrument.clone(), any_account(), order_id, any_price(), any_quantity()).prop_map(
        |(instrument, account, order_id, price, quantity)| Command::Replace {
            instrument,
            account,
            order_id,
            price,
            quantity,
        },
    );
    prop_oneof![
        60 => order.prop_map(Action::Trader),
        8 => cancel.prop_map(Action::Trader),
        8 => replace.prop_map(Action::Trader),
        25 => (any::<prop::sample::Index>(), -2..=2i64, -3..=2i64)
            .prop_map(|(pick, ticks, shares)| Action::Amend { pick, ticks, shares }),
        1 => (instrument, prop::sample::select(TradingStatus::ALL)).prop_map(|(id, status)| Action::Status(id, status)),
        2 => (1..=instruments).prop_map(|id| Action::Status(InstrumentId(id), TradingStatus::Continuous)),
        1 => Just(Action::NewDay),
    ]
}
