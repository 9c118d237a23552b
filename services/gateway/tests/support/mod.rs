//! A real node in a temporary directory, a gateway in front of it, and clients that speak its protocol.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod client;
pub mod http;
pub mod judge;

use std::net::SocketAddr;

use matchtape_gateway::{Gateway, GatewayConfig, GatewayHandle, Limits, TapeHandle};
use matchtape_market::{Book, Books, book_checksum};
use matchtape_node::{Node, NodeOptions, PublishError, Publisher};
use matchtape_schemas::event::*;
use matchtape_schemas::text::Text;
use matchtape_schemas::*;
use tokio::sync::watch;

/// What must never reach a public feed.
pub const SECRET_ACCOUNT: u64 = 777_123_456_789;
pub const SECRET_CLIENT_ORDER: &str = "secret-client-order";

/// Loopback, any port.
pub fn config(limits: Limits) -> GatewayConfig {
    GatewayConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), limits, ..Default::default() }
}

/// Limits that no client of a test meets unless the test is about them.
pub fn generous() -> Limits {
    Limits {
        inbound_per_second: 100_000,
        inbound_burst: 100_000,
        subscriptions_max: 10_000,
        conflate_above: usize::MAX,
        ..Limits::default()
    }
}

/// A node, its one producer, and a flow of orders that depends on nothing but its seed.
pub struct Tape {
    /// Beside every node of it.
    pub judge: judge::Judge,
    pub node: Node,
    pub publisher: Publisher,
    folder: tempfile::TempDir,
    random: u64,
    number: u64,
    time: i64,
    orders: Vec<(InstrumentId, OrderId, Side, Price, u64)>,
    order_ids: u64,
    /// Whether the node keeps the market in its snapshots.
    keeps_market: bool,
}

pub const INSTRUMENTS: [(InstrumentId, &str); 2] = [(InstrumentId(7), "ALFA"), (InstrumentId(8), "BETA")];

impl Tape {
    pub fn open() -> Self {
        Self::open_in(judge::Judge::new(), tempfile::tempdir().unwrap(), true)
    }

    /// On a node that keeps nothing of the market in its snapshots.
    pub fn bare() -> Self {
        Self::open_in(judge::Judge::new(), tempfile::tempdir().unwrap(), false)
    }

    fn open_in(mut judge: judge::Judge, folder: tempfile::TempDir, keeps_market: bool) -> Self {
        let projections: Vec<Box<dyn Projection>> =
            if keeps_market { matchtape_market::projections() } else { Vec::new() };
        let mut options = NodeOptions { bus: judge.bus(), ..NodeOptions::default() };
        // Retention cuts between tables: merged meanwhile, small as they are, they would leave it nowhere to cut.
        options.store.compaction.small_event_table_bytes = 0;
        options.store.compaction.level0_tables = 1000;
        let node = Node::open(&folder.path().join("data"), options, projections).unwrap();
        judge.watch(&folder.path().join("data"));
        let publisher = node.publisher(ProducerId(1)).unwrap();
        let number = publisher.last().map_or(0, |last| last.get());
        Self {
            judge,
            node,
            publisher,
            folder,
            random: 0x9E37_79B9_7F4A_7C15,
            number,
            time: 1_700_000_000_000_000_000,
            orders: Vec::new(),
            order_ids: 0,
            keeps_market,
        }
    }

    /// Closes the node in order and opens it again.
    pub fn reopen(self) -> Self {
        self.reopen_with(|_, _| {})
    }

    /// Closes the node in order, does something to its directory, and opens it again. Nobody judges what comes of that.
    pub fn reopen_after(self, act: impl FnOnce(&std::path::Path)) -> Self {
        self.reopen_with(|judge, data| {
            judge.end();
            act(data);
        })
    }

    fn reopen_with(self, act: impl FnOnce(&mut judge::Judge, &std::path::Path)) -> Self {
        let Self {
            mut judge, node, publisher, folder, random, time, orders, order_ids, keeps_market, ..
        } = self;
        drop(publisher);
        judge.joins();
        node.close().unwrap();
        act(&mut judge, &folder.path().join("data"));
        Self { random, time, orders, order_ids, ..Self::open_in(judge, folder, keeps_market) }
    }

    /// A gateway on this node.
    pub async fn gateway(&self, limits: Limits) -> GatewayHandle {
        self.gateway_with_tail(limits).await.0
    }

    /// A gateway, and the task that passes watermarks on to it.
    pub async fn gateway_with_tail(&self, limits: Limits) -> (GatewayHandle, tokio::task::JoinHandle<()>) {
        let progress = self.node.progress();
        let (sender, tail) = watch::channel(progress.watermarks());
        let follow = tokio::spawn(async move {
            loop {
                let seen = sender.borrow().visible;
                if progress.wait_async(seen.next(), Stage::Visible).await.is_err() {
                    sender.send_replace(progress.watermarks());
                    return;
                }
                sender.send_replace(progress.watermarks());
            }
        });
        let consumers = Some(self.node.consumers());
        let (sealer, holds) = (Some(self.node.sealer()), Some(self.node.holds()));
        let tape = TapeHandle { consumers, sealer, holds, ..TapeHandle::shown(self.node.reader(), tail) };
        (Gateway::start(config(limits), tape).await.unwrap(), follow)
    }

    fn chance(&mut self, below: u64) -> u64 {
        // xorshift64*
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
    }

    fn event(&mut self, instrument: InstrumentId, body: impl Into<Body>) -> Event {
        self.number += 1;
        self.time += 1_000_000;
        Event::new(instrument, ProducerSequence(self.number), EventTime(self.time), body)
    }

    /// Publishes one event and waits until it is visible.
    pub fn say(&mut self, instrument: InstrumentId, body: impl Into<Body>) -> Sequence {
        let event = self.event(instrument, body);
        let sequence = self.put(&[event]);
        self.visible(sequence);
        sequence
    }

    /// A trade that happened some time before the last event.
    pub fn late_trade(&mut self, instrument: InstrumentId, ago_ns: i64) -> Sequence {
        let price = Price::from_units(10_000_000_000);
        let trade = TradeMatched { price, quantity: Quantity::from_whole(3).unwrap(), ..Default::default() };
        let mut event = self.event(instrument, trade);
        event.event_time = EventTime(event.event_time.get() - ago_ns);
        self.put(&[event])
    }

    /// Publishes a group and returns its last position.
    pub fn put(&mut self, group: &[Event]) -> Sequence {
        loop {
            match self.publisher.publish_group(group) {
                Ok(published) => return published.sequence(),
                Err(PublishError::WouldBlock) => self.publisher.wait_for_room(group.len()).unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Introduces both instruments and an account.
    pub fn define(&mut self) -> Sequence {
        for (id, symbol) in INSTRUMENTS {
            let definition = InstrumentDefined {
                symbol: Text::new(symbol).unwrap(),
                name: Text::new("An instrument \"quoted\"").unwrap(),
                price_increment: Price::from_units(10_000_000),
                quantity_increment: Quantity::from_whole(1).unwrap(),
                currency: Text::new("EUR").unwrap(),
                venue: Text::new("XTST").unwrap(),
                class: InstrumentClass::Equity,
                ..Default::default()
            };
            let event = self.event(id, definition);
            self.put(&[event]);
        }
        let account = AccountOpened {
            account: AccountId(SECRET_ACCOUNT),
            name: Text::new("secret-account").unwrap(),
            participant_name: Text::new("secret-firm").unwrap(),
            ..Default::default()
        };
        let position = PositionChanged {
            account: AccountId(SECRET_ACCOUNT),
            change: 5,
            position: 5,
            ..Default::default()
        };
        let state = StateSet::new(b"secret-key", b"secret-value").unwrap();
        let group = [self.event(InstrumentId(0), account), self.event(InstrumentId(7), position)];
        self.put(&group);
        let event = self.event(InstrumentId(0), state);
        self.put(&[event])
    }

    fn accepted(&mut self, instrument: InstrumentId) -> Event {
        self.order_ids += 1;
        let order_id = OrderId(9_000_000_000_000_000_000 + self.order_ids);
        let side = if self.chance(2) == 0 { Side::Buy } else { Side::Sell };
        let away = self.chance(15) as i64;
        let cents = if side == Side::Buy { 1_000 - away } else { 1_001 + away };
        let price = Price::from_units(cents * 10_000_000);
        let quantity = 1 + self.chance(50);
        self.orders.push((instrument, order_id, side, price, quantity));
        self.event(
            instrument,
            OrderAccepted {
                order_id,
                side,
                price,
                quantity: Quantity::from_whole(quantity).unwrap(),
                account: AccountId(SECRET_ACCOUNT),
                client_order_id: Text::new(SECRET_CLIENT_ORDER).unwrap(),
                ..Default::default()
            },
        )
    }

    fn removed(&mut self, place: usize) -> Event {
        let (instrument, order_id, side, price, quantity) = self.orders.swap_remove(place);
        self.event(
            instrument,
            OrderCancelled {
                order_id,
                side,
                price,
                quantity: Quantity::from_whole(quantity).unwrap(),
                account: AccountId(SECRET_ACCOUNT),
                ..Default::default()
            },
        )
    }

    /// The next group of the flow: an order, a cancel, a trade with its two fills, or a rejection.
    pub fn next_group(&mut self) -> Vec<Event> {
        let instrument = INSTRUMENTS[self.chance(2) as usize].0;
        let choice = self.chance(10);
        if self.orders.len() < 4 || choice < 5 {
            return vec![self.accepted(instrument)];
        }
        let place = self.chance(self.orders.len() as u64) as usize;
        if choice < 7 {
            return vec![self.removed(place)];
        }
        if choice == 7 {
            let (instrument, order_id, side, price, _) = self.orders[place];
            let rejected = OrderRejected {
                order_id,
                side,
                price,
                account: AccountId(SECRET_ACCOUNT),
                client_order_id: Text::new(SECRET_CLIENT_ORDER).unwrap(),
                ..Default::default()
            };
            return vec![self.event(instrument, rejected)];
        }
        self.trade(place)
    }

    /// All of a resting order is taken by one that never rested.
    fn trade(&mut self, place: usize) -> Vec<Event> {
        let (instrument, order_id, side, price, quantity) = self.orders.swap_remove(place);
        self.order_ids += 1;
        let (taker, quantity) = (OrderId(self.order_ids), Quantity::from_whole(quantity).unwrap());
        let aggressor = if side == Side::Buy { Side::Sell } else { Side::Buy };
        let (buy, sell) = if side == Side::Buy { (order_id, taker) } else { (taker, order_id) };
        let trade = TradeMatched {
            trade_id: TradeId(self.order_ids),
            buy_order_id: buy,
            sell_order_id: sell,
            price,
            quantity,
            buy_account: AccountId(SECRET_ACCOUNT),
            sell_account: AccountId(SECRET_ACCOUNT),
            aggressor,
            ..Default::default()
        };
        let fill = |order_id, side, liquidity| OrderExecuted {
            order_id,
            trade_id: trade.trade_id,
            price,
            quantity,
            side,
            liquidity,
            account: AccountId(SECRET_ACCOUNT),
            ..Default::default()
        };
        let fills = [fill(order_id, side, Liquidity::Maker), fill(taker, aggressor, Liquidity::Taker)];
        let mut group = vec![self.event(instrument, trade)];
        for fill in fills {
            let mut event = self.event(instrument, fill);
            event.flags = event.flags.with(EventFlags::REPORTS_ONLY);
            group.push(event);
        }
        group
    }

    /// Orders that belong together, as many as asked for.
    pub fn large_group(&mut self, events: usize) -> Vec<Event> {
        (0..events).map(|at| self.accepted(INSTRUMENTS[at % 2].0)).collect()
    }

    /// Publishes a number of groups; returns the last position.
    pub fn flow(&mut self, groups: usize) -> Sequence {
        let mut last = Sequence::ZERO;
        for _ in 0..groups {
            let group = self.next_group();
            last = self.put(&group);
        }
        last
    }

    /// Waits until readers may be given an event.
    pub fn visible(&self, sequence: Sequence) {
        self.node.wait(sequence, Stage::Visible).unwrap();
    }

    /// Every event through a position.
    pub fn events(&self) -> Vec<Recorded> {
        let mut frames = self.node.reader().frames(Sequence::ZERO).unwrap();
        let mut events = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            events.extend(frame.frame().events().map(|event| Recorded {
                sequence: event.sequence(),
                kind: event.kind(),
                instrument: event.instrument(),
                ends_group: event.ends_group(),
                time: event.event_time(),
            }));
        }
        events
    }

    /// The book after the event at a position, folded from the first event.
    pub fn book_at(&self, instrument: InstrumentId, sequence: Sequence) -> Book {
        let mut book = Book::new();
        let mut frames = self.node.reader().frames(Sequence::ZERO).unwrap();
        while let Some(frame) = frames.next_frame().unwrap() {
            for event in frame.frame().events() {
                if event.instrument() == instrument && event.sequence() <= sequence {
                    book.apply(&event);
                }
            }
        }
        book
    }
}

/// What the tests compare events by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub sequence: Sequence,
    pub kind: Kind,
    pub instrument: InstrumentId,
    pub ends_group: bool,
    pub time: EventTime,
}

/// A book's levels as a feed shows them: price, quantity, orders.
pub type Levels = Vec<(String, String, u64)>;

/// The best levels of a side.
pub fn levels(book: &Book, side: Side, depth: usize) -> Levels {
    let row = |level: matchtape_market::Level| {
        (level.price.to_string(), level.quantity.to_string(), u64::from(level.orders))
    };
    book.levels(side).take(if depth == 0 { usize::MAX } else { depth }).map(row).collect()
}

/// Follows a tape event by event and remembers each group end's books: what every feed has to agree with.
pub struct Oracle {
    /// By position of a group's end and instrument: both sides in full, and the checksum.
    pub books: std::collections::BTreeMap<(Sequence, InstrumentId), (Levels, Levels, u32)>,
}

impl Oracle {
    pub fn of(tape: &Tape) -> Self {
        let mut frames = tape.node.reader().frames(Sequence::ZERO).unwrap();
        let mut books = Books::new();
        let mut seen = std::collections::BTreeMap::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            for event in frame.frame().events() {
                books.apply(&event);
                if !event.ends_group() {
                    continue;
                }
                for (instrument, _) in INSTRUMENTS {
                    let empty = Book::new();
                    let book = books.get(instrument).unwrap_or(&empty);
                    let whole =
                        (levels(book, Side::Buy, 0), levels(book, Side::Sell, 0), book_checksum(book));
                    seen.insert((event.sequence(), instrument), whole);
                }
            }
        }
        Self { books: seen }
    }
}
