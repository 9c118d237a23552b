//! An order flow that makes lively books: makers quoting in layers around a wandering fair value, clients whose orders
//! rest here and there, takers, and bursts in which everybody wants the same side.
//!
//! A pure function of its seed and of the engine it looks at: the same seed gives the same commands, and so the same
//! events. What it has to know of a rebuilt engine it reads from the engine's books.

use matchtape_schemas::event::{OrderType, Side, TimeInForce, TradingStatus};
use matchtape_schemas::{AccountId, Body, Event, EventTime, InstrumentId, OrderId, Price, Quantity};

use super::command::{Command, NewOrder};
use super::plan::{CLIENTS, MAKERS, MARKETS, MarketPlan, accounts, text};
use super::random::Random;
use super::trading::opposite;
use super::{Engine, OperatorError, Session};

/// Quotes of a maker on one side of one instrument.
const LAYERS: u64 = 8;
/// Resting client orders that an instrument hovers around.
const CLIENT_ORDERS: u64 = 120;
/// A calm step begins a burst once in so many.
const CALM_STEPS: u64 = 1_200;
/// A burst has this many steps on average.
const BURST_STEPS: i64 = 200;

/// What an order flow is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Where its chance begins.
    pub seed: u64,
    /// Events in a second, on average: a fifth of them come in bursts at five times this rate.
    pub events_per_second: u64,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self { seed: 1, events_per_second: 2_000 }
    }
}

/// The traders of the invented exchange.
#[derive(Clone, Debug)]
pub struct Flow {
    options: FlowOptions,
    random: Random,
    markets: Vec<FlowMarket>,
    burst: Option<Burst>,
    /// Where the order just sent will be remembered if it comes to rest.
    sent: Sent,
}

#[derive(Clone, Debug)]
struct FlowMarket {
    plan: &'static MarketPlan,
    instrument: InstrumentId,
    /// What the makers think it is worth, in thousandths of a tick.
    fair: i64,
    /// Where the fair value is drawn to, in thousandths of a tick; it wanders much slower.
    anchor: i64,
    /// The makers' quotes by maker, side and layer; zero or an order that is gone: to be quoted anew.
    quotes: Vec<OrderId>,
    /// Clients' orders, among them some that are gone.
    clients: Vec<(OrderId, AccountId)>,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    market: usize,
    side: Side,
    steps_left: i64,
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    Nothing,
    Quote { market: usize, place: usize },
    Client { market: usize },
}

impl Flow {
    /// An order flow for an engine that [`set_up`](Self::set_up) has prepared, also one that has traded before.
    pub fn new(options: FlowOptions, engine: &Engine) -> Self {
        // A flow that carries on a tape must not repeat the chance that began it.
        let mut random = Random::new(options.seed ^ engine.last_producer_sequence().get().rotate_left(32));
        let markets = MARKETS
            .iter()
            .zip(1..)
            .map(|(plan, id)| FlowMarket::new(plan, InstrumentId(id), engine, &mut random))
            .collect();
        Self { options, random, markets, burst: None, sent: Sent::Nothing }
    }

    /// Defines the instruments and opens the accounts that the engine does not have yet, and opens trading. Appends one
    /// group for each.
    pub fn set_up(
        engine: &mut Engine,
        session: Session,
        now: EventTime,
        out: &mut Vec<Event>,
    ) -> Result<(), OperatorError> {
        if engine.session().is_some_and(|open| open != session) {
            engine.close_session(now, out)?;
        }
        if engine.session().is_none() {
            engine.open_session(session, now, out)?;
        }
        for account in accounts() {
            if engine.account(account.account).is_none() {
                engine.open_account(account, now, out)?;
            }
        }
        for (plan, id) in MARKETS.iter().zip(1..) {
            let instrument = InstrumentId(id);
            if engine.market(instrument).is_none() {
                engine.define_instrument(plan.definition(), now, out)?;
            }
            if engine.market(instrument).is_none_or(|market| market.status != TradingStatus::Continuous) {
                engine.set_status(instrument, TradingStatus::Continuous, now, out)?;
            }
        }
        Ok(())
    }

    /// Has somebody do something: appends one group to `out`.
    pub fn step(&mut self, engine: &mut Engine, now: EventTime, out: &mut Vec<Event>) {
        let before = out.len();
        let command = self.next(engine);
        engine.execute(&command, now, out);
        self.observe(engine, &out[before..]);
    }

    /// What somebody asks next, given the books as they are. [`observe`](Self::observe) has to be told the answer.
    pub fn next(&mut self, engine: &Engine) -> Command {
        self.sent = Sent::Nothing;
        let market = self.choose_market();
        self.markets[market].drift(&mut self.random, self.burst.filter(|burst| burst.market == market));
        let bursting = self.burst.is_some_and(|burst| burst.market == market);
        let (quoting, taking) = if bursting { (350, 450) } else { (570, 110) };
        let turn = self.random.below(1000);
        let command = if turn < quoting {
            self.quote(market, engine)
        } else if turn < quoting + taking {
            self.take(market, engine)
        } else {
            None
        };
        command.unwrap_or_else(|| self.client(market, engine))
    }

    /// Learns what became of the last command: its group.
    pub fn observe(&mut self, engine: &Engine, group: &[Event]) {
        let Some(Body::OrderAccepted(accepted)) = group.first().map(|event| &event.body) else { return };
        let id = accepted.order_id;
        let rests = |market: &FlowMarket| engine.order(market.instrument, id).is_some();
        match self.sent {
            Sent::Nothing => {}
            Sent::Quote { market, place } => self.markets[market].quotes[place] = id,
            Sent::Client { market } => {
                if rests(&self.markets[market]) {
                    self.markets[market].clients.push((id, accepted.account));
                }
            }
        }
    }

    /// How long after a group of so many events the next command comes, in ns.
    pub fn pause_ns(&mut self, events: usize) -> u64 {
        let mean = events as u64 * 1_000_000_000 / self.options.events_per_second.max(1);
        // A fifth of the events at 5 times the rate and the rest at 5/6 of it: together, the rate.
        let mean = if self.burst.is_some() { mean / 5 } else { mean * 6 / 5 };
        self.random.below(2 * mean + 1)
    }

    fn choose_market(&mut self) -> usize {
        match &mut self.burst {
            Some(burst) => {
                burst.steps_left -= 1;
                let market = burst.market;
                if burst.steps_left <= 0 {
                    self.burst = None;
                }
                if self.random.chance(700) {
                    return market;
                }
            }
            None if self.random.below(CALM_STEPS) == 0 => {
                self.burst = Some(Burst {
                    market: self.random.weighted(MARKETS.iter().map(|plan| plan.activity)),
                    side: self.either_side(),
                    steps_left: self.random.between(BURST_STEPS / 2, BURST_STEPS * 3 / 2),
                });
            }
            None => {}
        }
        self.random.weighted(MARKETS.iter().map(|plan| plan.activity))
    }

    fn either_side(&mut self) -> Side {
        if self.random.chance(500) { Side::Buy } else { Side::Sell }
    }

    /// A maker brings one of its quotes to where it should be; nothing if the one looked at is good enough.
    fn quote(&mut self, market: usize, engine: &Engine) -> Option<Command> {
        let (random, here) = (&mut self.random, &self.markets[market]);
        let plan = here.plan;
        // Quotes near the price are looked at more often than those behind.
        let layer = random.below(LAYERS).min(random.below(LAYERS)) as i64;
        let maker = random.below(MAKERS);
        let side = if random.chance(500) { Side::Buy } else { Side::Sell };
        let place = FlowMarket::quote_place(maker, side, layer as u64);
        let away =
            plan.half_spread + maker as i64 * plan.gap / 2 + layer * plan.gap + random.between(0, plan.gap);
        let ticks = here.not_crossing(side, here.fair_ticks() - sign(side) * away, engine);
        let steps = plan.lot * (2 + 2 * layer + random.between(0, 4));
        let (price, quantity, account) = (plan.price(ticks), plan.quantity(steps), AccountId(maker + 1));
        let order_id = here.quotes[place];
        if let Some(order) = engine.order(here.instrument, order_id) {
            let off = (plan.ticks(order.price) - ticks).abs();
            if off <= plan.gap / 2 && order.quantity.units() * 2 > quantity.units() {
                return None;
            }
            return Some(Command::Replace {
                instrument: here.instrument,
                account,
                order_id,
                price,
                quantity,
            });
        }
        self.sent = Sent::Quote { market, place };
        Some(self.new_order(
            market,
            engine,
            account,
            side,
            Terms::limit(price, TimeInForce::GoodTillCancel),
            quantity,
        ))
    }

    /// A client trades at once; nothing if nobody stands on the other side.
    fn take(&mut self, market: usize, engine: &Engine) -> Option<Command> {
        let burst = self.burst.filter(|burst| burst.market == market);
        let side = burst.map_or_else(|| self.markets[market].mispriced(engine), |burst| Some(burst.side));
        let side = side.unwrap_or_else(|| self.either_side());
        let (random, here) = (&mut self.random, &self.markets[market]);
        let plan = here.plan;
        let best = plan.ticks(engine.best(here.instrument, opposite(side))?);
        let reach = plan.gap * random.between(0, 3);
        let price = plan.price(best + sign(side) * reach);
        let steps = (plan.lot * random.between(1, 5)) << random.halving(4);
        let terms = match random.below(100) {
            0..50 => Terms::limit(price, TimeInForce::ImmediateOrCancel),
            50..70 => Terms::MARKET,
            70..76 => Terms::limit(price, TimeInForce::FillOrKill),
            _ => {
                self.sent = Sent::Client { market };
                Terms::limit(price, TimeInForce::GoodTillCancel)
            }
        };
        let account = self.some_client();
        Some(self.new_order(market, engine, account, side, terms, plan.quantity(steps)))
    }

    /// A client places, moves or cancels an order of its own.
    fn client(&mut self, market: usize, engine: &Engine) -> Command {
        let standing = self.markets[market].clients.len() as u64;
        if self.random.below(2 * CLIENT_ORDERS) < standing
            && let Some(command) = self.change_of_mind(market, engine)
        {
            return command;
        }
        let side = self.either_side();
        let (random, here) = (&mut self.random, &self.markets[market]);
        let plan = here.plan;
        let ticks = here.client_price(side, random, engine);
        let odd = if random.chance(200) { random.between(0, plan.lot - 1) } else { 0 };
        let quantity = plan.quantity(plan.lot * random.between(1, 10) + odd);
        let time_in_force = if random.chance(300) { TimeInForce::Day } else { TimeInForce::GoodTillCancel };
        self.sent = Sent::Client { market };
        let account = self.some_client();
        self.new_order(
            market,
            engine,
            account,
            side,
            Terms::limit(plan.price(ticks), time_in_force),
            quantity,
        )
    }

    /// A client cancels or moves one of its orders; nothing if none is left. Sometimes it comes too late, and is refused.
    fn change_of_mind(&mut self, market: usize, engine: &Engine) -> Option<Command> {
        let (random, here) = (&mut self.random, &mut self.markets[market]);
        let instrument = here.instrument;
        while !here.clients.is_empty() {
            let at = random.below(here.clients.len() as u64) as usize;
            let (order_id, account) = here.clients[at];
            let cancel = Command::Cancel { instrument, account, order_id };
            let Some(order) = engine.order(instrument, order_id) else {
                here.clients.swap_remove(at);
                if random.chance(50) {
                    return Some(cancel);
                }
                continue;
            };
            if !random.chance(250) {
                return Some(cancel);
            }
            let (price, quantity) = if random.chance(400) {
                // Half of it, in its place.
                let steps = order.quantity.units() / here.plan.step;
                (order.price, here.plan.quantity(steps.div_ceil(2) as i64))
            } else {
                (here.plan.price(here.client_price(order.side, random, engine)), order.quantity)
            };
            return Some(Command::Replace { instrument, account, order_id, price, quantity });
        }
        None
    }

    fn some_client(&mut self) -> AccountId {
        AccountId(MAKERS + 1 + self.random.below(CLIENTS))
    }

    fn new_order(
        &self,
        market: usize,
        engine: &Engine,
        account: AccountId,
        side: Side,
        terms: Terms,
        quantity: Quantity,
    ) -> Command {
        Command::New(NewOrder {
            instrument: self.markets[market].instrument,
            account,
            client_order_id: text(&format!("{account}-{}", engine.last_producer_sequence().get() + 1)),
            side,
            order_type: terms.order_type,
            time_in_force: terms.time_in_force,
            price: terms.price,
            quantity,
        })
    }
}

/// How an order is priced and how long it stays.
struct Terms {
    order_type: OrderType,
    time_in_force: TimeInForce,
    price: Price,
}

impl Terms {
    const MARKET: Self = Self {
        order_type: OrderType::Market,
        time_in_force: TimeInForce::ImmediateOrCancel,
        price: Price::NONE,
    };

    fn limit(price: Price, time_in_force: TimeInForce) -> Self {
        Self { order_type: OrderType::Limit, time_in_force, price }
    }
}

/// In which direction a side's better prices lie.
fn sign(side: Side) -> i64 {
    if side == Side::Buy { 1 } else { -1 }
}

impl FlowMarket {
    fn new(
        plan: &'static MarketPlan,
        instrument: InstrumentId,
        engine: &Engine,
        random: &mut Random,
    ) -> Self {
        let mid = match [Side::Buy, Side::Sell].map(|side| engine.best(instrument, side)) {
            [Some(bid), Some(offer)] => (plan.ticks(bid) + plan.ticks(offer)) * 500,
            _ => plan.start * 1000 + random.between(-plan.swing, plan.swing),
        };
        let mut market = Self {
            plan,
            instrument,
            fair: mid,
            anchor: mid,
            quotes: vec![OrderId(0); (MAKERS * 2 * LAYERS) as usize],
            clients: Vec::new(),
        };
        for side in [Side::Buy, Side::Sell] {
            for order in engine.orders(instrument, side) {
                market.adopt(side, order.account, order.id);
            }
        }
        market
    }

    /// Remembers an order that rests already: quotes come best first, so each takes its maker's next layer.
    fn adopt(&mut self, side: Side, account: AccountId, id: OrderId) {
        let maker = account.get().wrapping_sub(1);
        let free = (0..LAYERS)
            .filter(|_| maker < MAKERS)
            .map(|layer| Self::quote_place(maker, side, layer))
            .find(|place| self.quotes[*place] == OrderId(0));
        match free {
            Some(place) => self.quotes[place] = id,
            None => self.clients.push((id, account)),
        }
    }

    fn quote_place(maker: u64, side: Side, layer: u64) -> usize {
        ((maker * 2 + u64::from(side == Side::Sell)) * LAYERS + layer) as usize
    }

    fn fair_ticks(&self) -> i64 {
        (self.fair + 500).div_euclid(1000)
    }

    /// Lets the fair value wander, drawn to the anchor and, in a burst, pushed.
    fn drift(&mut self, random: &mut Random, burst: Option<Burst>) {
        let swing = self.plan.swing;
        // Four even numbers make a bell; their sum is as wide as one normal step of a bit more than `swing`.
        let step: i64 = (0..4).map(|_| random.between(-swing, swing)).sum();
        let push = burst.map_or(0, |burst| sign(burst.side) * swing / 3);
        self.fair += step + push + (self.anchor - self.fair) / 8192;
        let start = self.plan.start * 1000;
        self.anchor += random.between(-swing, swing) / 8 + (self.fair - self.anchor) / 16_384;
        self.anchor = self.anchor.clamp(start - start / 10, start + start / 10);
        self.fair = self.fair.clamp(start / 2, start * 2);
    }

    /// The price or, where it would trade, the best that does not.
    fn not_crossing(&self, side: Side, ticks: i64, engine: &Engine) -> i64 {
        match engine.best(self.instrument, opposite(side)) {
            Some(other) if side == Side::Buy => ticks.min(self.plan.ticks(other) - 1),
            Some(other) => ticks.max(self.plan.ticks(other) + 1),
            None => ticks,
        }
    }

    /// On which side there is money to be made: an offer below the fair value, a bid above it.
    fn mispriced(&self, engine: &Engine) -> Option<Side> {
        [Side::Buy, Side::Sell].into_iter().find(|side| {
            let best = engine.best(self.instrument, opposite(*side)).map(|price| self.plan.ticks(price));
            best.is_some_and(|best| (self.fair_ticks() - best) * sign(*side) > 0)
        })
    }

    /// Where a client's resting order goes: mostly near the best of its side, sometimes far behind, sometimes before it.
    fn client_price(&self, side: Side, random: &mut Random, engine: &Engine) -> i64 {
        let best = engine.best(self.instrument, side).map(|price| self.plan.ticks(price));
        let best = best.unwrap_or_else(|| self.fair_ticks() - sign(side) * self.plan.half_spread);
        let behind = match random.below(100) {
            0..12 => -random.between(1, self.plan.half_spread),
            12..90 => self.plan.gap * i64::from(random.halving(5)) + random.between(0, 3 * self.plan.gap),
            _ => self.plan.gap * random.between(10, 40),
        };
        self.not_crossing(side, best - sign(side) * behind, engine)
    }
}
