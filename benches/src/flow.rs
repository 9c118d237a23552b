//! Order flow as an exchange has it: makers, clients and takers on a matching engine, which is what compresses like a real feed.

use matchtape_examples::engine::{Engine, EngineOptions, Flow, FlowOptions, Session};
use matchtape_schemas::{Event, EventTime, ProducerId};

/// Under which number it publishes.
pub const PRODUCER: ProducerId = EngineOptions::DEFAULT.producer;

/// A seeded exchange that trades on, group by group.
pub struct OrderFlow {
    engine: Engine,
    flow: Flow,
    now: i64,
}

impl OrderFlow {
    /// The exchange before its first order, and the groups that set it up.
    ///
    /// # Panics
    /// Never: the plan is a constant.
    pub fn new() -> (Self, Vec<Event>) {
        let mut engine = Engine::default();
        let now = 1_700_000_000_000_000_000;
        let day = Session { trading_day: 20_231_114, number: 0 };
        let mut begun = Vec::new();
        Flow::set_up(&mut engine, day, EventTime(now), &mut begun).expect("the plan suits the engine");
        let flow = Flow::new(FlowOptions::default(), &engine);
        (Self { engine, flow, now }, begun)
    }

    /// Somebody does something: its group is put into `out`.
    pub fn next(&mut self, out: &mut Vec<Event>) {
        out.clear();
        self.flow.step(&mut self.engine, EventTime(self.now), out);
        self.now += self.flow.pause_ns(out.len()) as i64;
    }
}
