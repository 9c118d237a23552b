//! Which column of a file is which: told by the heading, so their order is free.

/// The columns of an order file.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderColumns {
    pub(super) order_type: usize,
    pub(super) price: usize,
    pub(super) quantity: usize,
    pub(super) side: usize,
    pub(super) order: usize,
}

/// The columns of a trade file.
#[derive(Clone, Copy, Debug)]
pub(super) struct TradeColumns {
    pub(super) index: usize,
    pub(super) buy: usize,
    pub(super) sell: usize,
    pub(super) aggressor: usize,
    pub(super) price: usize,
    pub(super) quantity: usize,
}

/// The columns that only one kind of file has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own {
    Orders(OrderColumns),
    Trades(TradeColumns),
}

/// The columns of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    pub(super) date: usize,
    pub(super) time: usize,
    pub(super) name: usize,
    pub(super) received: usize,
    pub(super) channel: usize,
    pub(super) sequence: usize,
    pub(super) symbol: usize,
    pub(super) own: Own,
    /// How many there are.
    pub(super) count: usize,
}

impl Columns {
    /// The columns that a heading names, or the first one it lacks.
    pub(super) fn of(heading: &csv::ByteRecord) -> Result<Self, &'static str> {
        let place = |name: &'static str| {
            heading.iter().position(|column| column.trim_ascii() == name.as_bytes()).ok_or(name)
        };
        let own = if place("TradeIndex").is_ok() {
            Own::Trades(TradeColumns {
                index: place("TradeIndex")?,
                buy: place("TradeBuyNo")?,
                sell: place("TradeSellNo")?,
                aggressor: place("TradeBSFlag")?,
                price: place("TradePrice")?,
                quantity: place("TradeQty")?,
            })
        } else {
            Own::Orders(OrderColumns {
                order_type: place("OrderType")?,
                price: place("OrderPrice")?,
                quantity: place("OrderQty")?,
                side: place("OrderBSFlag")?,
                order: place("OrderNO")?,
            })
        };
        Ok(Self {
            date: place("MDDate")?,
            time: place("MDTime")?,
            name: place("Symbol")?,
            received: place("ReceiveDateTime")?,
            channel: place("ChannelNo")?,
            sequence: place("ApplSeqNum")?,
            symbol: place("SecurityID")?,
            own,
            count: heading.len(),
        })
    }
}
