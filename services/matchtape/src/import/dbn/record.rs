//! One mbo record: 56 bytes, little-endian (8 more where the file carries sending times).

use matchtape_schemas::Price;
use matchtape_schemas::event::Side;

use super::price_of;

/// The header that every record of every schema begins with.
pub(super) const HEADER_BYTES: usize = 16;
/// An mbo record.
pub(super) const MBO_BYTES: usize = 56;
const RTYPE_MBO: u8 = 0xA0;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Add,
    Cancel,
    Modify,
    Clear,
    Trade,
    Fill,
    Nothing,
}

/// A record's fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mbo {
    pub(super) publisher_id: u16,
    pub(super) instrument_id: u32,
    pub(super) ts_event: i64,
    pub(super) order_id: u64,
    pub(super) price: Price,
    pub(super) size: u32,
    pub(super) flags: u8,
    pub(super) channel_id: u8,
    pub(super) action: Action,
    pub(super) side: Side,
    pub(super) ts_recv: i64,
    pub(super) ts_in_delta: i32,
    pub(super) sequence: u32,
}

/// A field that holds something else than it should.
#[derive(Debug)]
pub(super) struct Wrong {
    /// From the start of the record.
    pub(super) offset: usize,
    pub(super) field: &'static str,
    pub(super) found: String,
    pub(super) expected: String,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the record has its size")
}

impl Mbo {
    /// The fields of a record of at least [`HEADER_BYTES`]; `None` for a record of another schema.
    pub(super) fn parse(bytes: &[u8], expected_bytes: usize) -> Result<Option<Self>, Wrong> {
        if bytes[1] != RTYPE_MBO {
            return Ok(None);
        }
        let wrong = |offset, field, found: String, expected: &str| {
            Err(Wrong { offset, field, found, expected: expected.to_owned() })
        };
        if bytes.len() != expected_bytes {
            let expected = format!("{} words of 4 bytes", expected_bytes / 4);
            return wrong(0, "length", bytes[0].to_string(), &expected);
        }
        let character = |at: usize| format!("{:?}", char::from(bytes[at]));
        let action = match bytes[38] {
            b'A' => Action::Add,
            b'C' => Action::Cancel,
            b'M' => Action::Modify,
            b'R' => Action::Clear,
            b'T' => Action::Trade,
            b'F' => Action::Fill,
            b'N' => Action::Nothing,
            _ => return wrong(38, "action", character(38), "one of A C M R T F N"),
        };
        let side = match bytes[39] {
            b'B' => Side::Buy,
            b'A' => Side::Sell,
            b'N' => Side::None,
            _ => return wrong(39, "side", character(39), "one of B A N"),
        };
        let time = |at| u64::from_le_bytes(array(bytes, at));
        let Ok(ts_event) = i64::try_from(time(8)) else {
            return wrong(8, "ts_event", time(8).to_string(), "nanoseconds since 1970 below 2^63");
        };
        // All bits set is "undefined", which a receive time may be.
        let ts_recv = match (time(40), i64::try_from(time(40))) {
            (u64::MAX, _) => 0,
            (_, Ok(ts_recv)) => ts_recv,
            (other, Err(_)) => {
                return wrong(40, "ts_recv", other.to_string(), "nanoseconds since 1970 below 2^63");
            }
        };
        Ok(Some(Self {
            publisher_id: u16::from_le_bytes(array(bytes, 2)),
            instrument_id: u32::from_le_bytes(array(bytes, 4)),
            ts_event,
            order_id: u64::from_le_bytes(array(bytes, 16)),
            price: price_of(i64::from_le_bytes(array(bytes, 24))),
            size: u32::from_le_bytes(array(bytes, 32)),
            flags: bytes[36],
            channel_id: bytes[37],
            action,
            side,
            ts_recv,
            ts_in_delta: i32::from_le_bytes(array(bytes, 48)),
            sequence: u32::from_le_bytes(array(bytes, 52)),
        }))
    }
}
