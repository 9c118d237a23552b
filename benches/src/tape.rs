//! The events benchmarks write: orders as an exchange has them, 128 bytes each, header included.

use matchtape_schemas::event::{ClientOrderId, Event, OrderAccepted, Side};
use matchtape_schemas::{AccountId, EventTime, InstrumentId, OrderId, Price, ProducerSequence, Quantity};

/// Bytes of every event made here.
pub const EVENT_BYTES: usize = 128;

/// The `number`-th event: one of `instruments` instruments, a new order each time.
pub fn order(number: u64, instruments: u32) -> Event {
    let body = OrderAccepted {
        order_id: OrderId(number),
        price: Price::from_units(4_800_000_000_000 + (number % 512) as i64 * 250_000_000),
        quantity: Quantity::from_units((number % 9 + 1) * 1_000_000_000),
        account: AccountId(number % 1000),
        client_order_id: ClientOrderId::default(),
        side: if number.is_multiple_of(2) { Side::Buy } else { Side::Sell },
        ..OrderAccepted::default()
    };
    let instrument = InstrumentId((number % u64::from(instruments)) as u32 + 1);
    Event::new(
        instrument,
        ProducerSequence(number),
        EventTime(1_700_000_000_000_000_000 + number as i64),
        body,
    )
}
