//! One line of an order or trade file.

use matchtape_schemas::event::Side;
use matchtape_schemas::{Price, Quantity};

use super::columns::{Columns, Own};
use super::decimal;
use crate::import::{ImportError, Input, Place, Problem};

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Insert {
        side: Side,
        price: Price,
        quantity: Quantity,
        order: u64,
    },
    Cancel {
        side: Side,
        price: Price,
        quantity: Quantity,
        order: u64,
    },
    Trade {
        aggressor: Side,
        price: Price,
        quantity: Quantity,
        index: u64,
        buy: u64,
        sell: u64,
    },
    /// Which of the problems, and of the line as it stands.
    Malformed {
        problem: u32,
        checksum: u32,
    },
}

/// A line whose every field of interest was understood.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) channel: u32,
    pub(super) sequence: u64,
    pub(super) event_time: i64,
    pub(super) receive_time: i64,
    pub(super) symbol: &'a str,
    pub(super) name: &'a str,
    pub(super) what: What,
}

/// The lines of one file.
pub(super) struct Lines {
    reader: csv::Reader<Input>,
    columns: Columns,
    record: csv::ByteRecord,
}

impl Lines {
    /// Reads the heading.
    pub(super) fn new(file: Input) -> Result<Self, ImportError> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(false)
            .buffer_capacity(256 * 1024)
            .from_reader(file);
        let mut record = csv::ByteRecord::new();
        let path = reader.get_ref().file().to_owned();
        let malformed = |field, found: String, expected: &str| {
            ImportError::Malformed(Problem::new(&path, Place::Line(1), field, found, expected))
        };
        let some =
            reader.read_byte_record(&mut record).map_err(|error| input_error(reader.get_ref(), error))?;
        if !some {
            return Err(malformed("the heading", "missing".to_owned(), "the names of the columns"));
        }
        let columns = Columns::of(&record).map_err(|column| {
            let found = String::from_utf8_lossy(record.as_slice()).chars().take(80).collect::<String>();
            malformed("the heading", format!("{found:?}"), &format!("a column {column}"))
        })?;
        Ok(Self { reader, columns, record })
    }

    /// Reads the next line; `false` at the end of the file.
    pub(super) fn advance(&mut self) -> Result<bool, ImportError> {
        self.reader
            .read_byte_record(&mut self.record)
            .map_err(|error| input_error(self.reader.get_ref(), error))
    }

    /// The number of the last line read, from 1.
    pub(super) fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    /// The last line read, its fields one after the other.
    pub(super) fn raw(&self) -> Vec<u8> {
        self.record.iter().flat_map(|field| field.iter().chain(b",")).copied().collect()
    }

    /// Bytes of the file read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.get_ref().progress().done
    }

    fn problem(&self, field: &'static str, found: &[u8], expected: &str) -> Problem {
        let found: String = String::from_utf8_lossy(found).chars().take(80).collect();
        let file = self.reader.get_ref().file();
        Problem::new(file, Place::Line(self.line()), field, format!("{found:?}"), expected)
    }

    /// What the last line read says.
    pub(super) fn parse(&self) -> Result<Line<'_>, Problem> {
        let columns = &self.columns;
        if self.record.len() != columns.count {
            let found = self.record.len().to_string();
            let expected = format!("{} as in the heading", columns.count);
            return Err(self.problem("the number of fields", found.as_bytes(), &expected));
        }
        let field = |column: usize| &self.record[column];
        let number = |column, name| {
            decimal::number(field(column)).ok_or_else(|| self.problem(name, field(column), "a whole number"))
        };
        let price = |column, name| {
            decimal::price(field(column))
                .filter(|price| *price > Price::ZERO)
                .ok_or_else(|| self.problem(name, field(column), "a decimal number above zero"))
        };
        let quantity = |column, name| {
            decimal::quantity(field(column))
                .filter(|quantity| !quantity.is_zero())
                .ok_or_else(|| self.problem(name, field(column), "a whole number of shares above zero"))
        };
        let text = |column, name| {
            std::str::from_utf8(field(column))
                .ok()
                .filter(|text| !text.is_empty())
                .ok_or_else(|| self.problem(name, field(column), "text in UTF-8"))
        };

        let channel = number(columns.channel, "ChannelNo")?;
        let channel = u32::try_from(channel)
            .map_err(|_| self.problem("ChannelNo", field(columns.channel), "a number below 2^32"))?;
        let sequence = number(columns.sequence, "ApplSeqNum")?;
        let days = decimal::date(field(columns.date))
            .ok_or_else(|| self.problem("MDDate", field(columns.date), "a date YYYY.MM.DD"))?;
        let event_time = decimal::time_of_day(field(columns.time))
            .and_then(|time| decimal::utc_ns(days, time))
            .ok_or_else(|| self.problem("MDTime", field(columns.time), "a time HH:MM:SS.mmm"))?;
        let receive_time = decimal::date_and_time(field(columns.received)).ok_or_else(|| {
            self.problem("ReceiveDateTime", field(columns.received), "a time YYYY.MM.DDTHH:MM:SS.mmm")
        })?;
        let (symbol, name) = (text(columns.symbol, "SecurityID")?, text(columns.name, "Symbol")?);
        let what = match columns.own {
            Own::Orders(own) => {
                let (price, quantity) =
                    (price(own.price, "OrderPrice")?, quantity(own.quantity, "OrderQty")?);
                let order = number(own.order, "OrderNO")?;
                let side = match field(own.side) {
                    b"1" => Side::Buy,
                    b"2" => Side::Sell,
                    other => return Err(self.problem("OrderBSFlag", other, "1 (buy) or 2 (sell)")),
                };
                match field(own.order_type) {
                    b"2" => What::Insert { side, price, quantity, order },
                    b"10" => What::Cancel { side, price, quantity, order },
                    other => return Err(self.problem("OrderType", other, "2 (insert) or 10 (cancel)")),
                }
            }
            Own::Trades(own) => What::Trade {
                price: price(own.price, "TradePrice")?,
                quantity: quantity(own.quantity, "TradeQty")?,
                index: number(own.index, "TradeIndex")?,
                buy: number(own.buy, "TradeBuyNo")?,
                sell: number(own.sell, "TradeSellNo")?,
                aggressor: match field(own.aggressor) {
                    b"0" => Side::None,
                    b"1" => Side::Buy,
                    b"2" => Side::Sell,
                    other => {
                        return Err(self.problem(
                            "TradeBSFlag",
                            other,
                            "0 (auction), 1 (buyer) or 2 (seller)",
                        ));
                    }
                },
            },
        };
        Ok(Line { channel, sequence, event_time, receive_time, symbol, name, what })
    }
}

fn input_error(input: &Input, error: csv::Error) -> ImportError {
    ImportError::Input(input.error(std::io::Error::other(error)))
}
