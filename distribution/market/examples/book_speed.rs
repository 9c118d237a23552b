//! How fast books take in events: `cargo run --release -p matchtape-market --example book_speed [EVENTS]`.
//!
//! One instrument with about 10,000 resting orders around a price that wanders, as a futures book has them: 40 % new
//! orders, 40 % cancels, 15 % replacements, 5 % trades. Events are folded from frames, checked beforehand.

use std::time::Instant;

use matchtape_market::Books;
use matchtape_schemas::event::{
    Event, OrderAccepted, OrderCancelled, OrderReplaced, Side, TradeMatched, encode_event,
};
use matchtape_schemas::limits::FRAME_BYTES_MAX;
use matchtape_schemas::{
    AcceptedTime, Body, EventTime, Frame, FrameFlags, FrameWriter, Head, InstrumentId, OrderId, Price,
    ProducerId, ProducerSequence, Quantity, TapeId,
};

/// SplitMix64: the same flow every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

const RESTING: usize = 10_000;
const TICK: i64 = 250_000_000;

struct Flow {
    random: Random,
    resting: Vec<(OrderId, Side)>,
    next_id: u64,
    middle: i64,
}

impl Flow {
    fn next(&mut self) -> Body {
        self.middle += self.random.below(3) as i64 - 1;
        let what = if self.resting.len() < RESTING { 0 } else { self.random.below(100) };
        // Most action is near the best price: the distance is the least of three draws.
        let away = (0..3).map(|_| self.random.below(200)).min().unwrap_or(0) as i64;
        let quantity = Quantity::from_whole(1 + self.random.below(50)).expect("small");
        let place = self.random.below(self.resting.len().max(1) as u64) as usize;
        let price = |side, middle: i64| {
            Price::from_units(TICK * (20_000 + middle + if side == Side::Buy { -1 - away } else { 1 + away }))
        };
        match what {
            0..40 => {
                self.next_id += 1;
                let side = if self.random.below(2) == 0 { Side::Buy } else { Side::Sell };
                let order_id = OrderId(6_412_777_000_000 + self.next_id);
                self.resting.push((order_id, side));
                let price = price(side, self.middle);
                OrderAccepted { order_id, side, price, quantity, ..OrderAccepted::default() }.into()
            }
            40..80 => {
                let (order_id, side) = self.resting.swap_remove(place);
                let quantity = Quantity::from_whole(1000).expect("small");
                OrderCancelled { order_id, side, quantity, ..OrderCancelled::default() }.into()
            }
            80..95 => {
                let (order_id, side) = self.resting[place];
                let price = price(side, self.middle);
                OrderReplaced {
                    order_id,
                    new_order_id: order_id,
                    side,
                    price,
                    quantity,
                    ..OrderReplaced::default()
                }
                .into()
            }
            _ => {
                let (order_id, side) = self.resting[place];
                let (buy_order_id, sell_order_id) =
                    if side == Side::Buy { (order_id, OrderId(0)) } else { (OrderId(0), order_id) };
                let quantity = Quantity::from_whole(1).expect("small");
                TradeMatched { buy_order_id, sell_order_id, quantity, ..TradeMatched::default() }.into()
            }
        }
    }
}

#[repr(align(16))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read as bytes")] [u8; 16]);

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: `Line` is 16 plain bytes without padding, and every byte is a valid one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 16) }
}

fn frames(events: u64) -> Vec<Vec<Line>> {
    let mut flow = Flow { random: Random(7), resting: Vec::new(), next_id: 0, middle: 0 };
    let (mut head, mut frames, mut written) = (Head::empty(TapeId(1)), Vec::new(), 0);
    let mut buffer = vec![Line([0; 16]); FRAME_BYTES_MAX / 16];
    let mut encoded = [Line([0; 16]); 16];
    while written < events {
        let mut writer = FrameWriter::new(bytes_mut(&mut buffer), &head);
        while writer.room() >= 256 && written < events {
            let event = Event::new(
                InstrumentId(1),
                ProducerSequence(written),
                EventTime(written as i64),
                flow.next(),
            );
            let out = &mut bytes_mut(&mut encoded)[..event.encoded_len()];
            encode_event(&event, ProducerId(1), out);
            assert!(writer.push(out));
            written += 1;
        }
        let info = writer.finish(&mut head, AcceptedTime(1), FrameFlags::NONE);
        frames.push(buffer[..info.length as usize / 16].to_vec());
    }
    frames
}

fn main() {
    let events =
        std::env::args().nth(1).map_or(5_000_000, |count| count.parse().expect("a number of events"));
    let frames = frames(events);
    for watched in [false, true] {
        let mut books = Books::new();
        if watched {
            books.watch();
        }
        let (begun, mut levels) = (Instant::now(), 0);
        for frame in &frames {
            // SAFETY: `FrameWriter` made these frames above, at the same alignment.
            let frame = unsafe { Frame::assume_checked(bytes(frame)) };
            for event in frame.events() {
                books.apply(&event);
                if watched {
                    levels += books.take_changes().iter().map(|change| change.levels.len()).sum::<usize>();
                }
            }
        }
        let took = begun.elapsed();
        let book = books.get(InstrumentId(1)).expect("has events");
        let totals = book.totals();
        println!(
            "{}: {:.1} M events/s ({:.0} ns each), {} orders at {} levels at the end, {levels} level changes",
            if watched { "with level changes" } else { "books alone" },
            events as f64 / took.as_secs_f64() / 1e6,
            took.as_nanos() as f64 / events as f64,
            totals.bids.orders + totals.asks.orders,
            totals.bid_levels + totals.ask_levels,
        );
    }
}
