//! The head of a DBN file: which data set and schema, and which symbol an instrument number means on which day.
//!
//! ```text
//! "DBN"  u8 version  u32 length of what follows
//! char[16] dataset  u16 schema  u64 start  u64 end  u64 limit
//! version 1:  u64 record count  u8 stype_in  u8 stype_out  u8 ts_out  47 reserved         symbols have 22 bytes
//! from 2 on:  u8 stype_in  u8 stype_out  u8 ts_out  u16 bytes of a symbol  53 reserved
//! u32 length of a schema definition, the definition
//! symbols, partial, not found: each u32 count, then that many symbols
//! mappings: u32 count, then each: symbol, u32 intervals, each: u32 first day, u32 day after the last, symbol
//! ```
//!
//! Days are decimal numbers YYYYMMDD. Every length is checked against the bytes there are.

use matchtape_client::time::days_of;

use super::record::MBO_BYTES;
use crate::import::{ImportError, Input, Place, Problem};

const PRELUDE_BYTES: usize = 8;
const FIXED_BYTES: usize = 100;
/// Far above any real file's; refused before anything is allocated.
const METADATA_BYTES_MAX: usize = 256 << 20;
const SCHEMA_MBO: u16 = 0;
const SCHEMA_MIXED: u16 = u16::MAX;
const VERSIONS: std::ops::RangeInclusive<u8> = 1..=3;
const NS_PER_DAY: i64 = 86_400_000_000_000;

/// What a file says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The layout's version.
    pub version: u8,
    /// The data set, such as `GLBX.MDP3`.
    pub dataset: String,
    /// Whether each record is followed by its sending time.
    pub ts_out: bool,
    mappings: Vec<Mapping>,
}

/// On some days a number means a symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    instrument_id: u32,
    symbol: String,
    /// Days since 1970.
    first_day: i64,
    /// The day after the last.
    end_day: i64,
}

impl Metadata {
    /// Reads the head of a file; also returns its bytes as they are.
    pub fn read(input: &mut Input) -> Result<(Self, Vec<u8>), ImportError> {
        let file = input.file().to_owned();
        let wrong = |at: usize, field, found: String, expected: String| {
            ImportError::Malformed(Problem::new(&file, Place::Byte(at as u64), field, found, expected))
        };
        let mut raw = vec![0; PRELUDE_BYTES];
        let count = input.read_up_to(&mut raw)?;
        if count < PRELUDE_BYTES || raw[..3] != *b"DBN" {
            let found = format!("{:?}", String::from_utf8_lossy(&raw[..count.min(4)]));
            return Err(wrong(0, "the file's head", found, "\"DBN\", a version and a length".to_owned()));
        }
        let version = raw[3];
        if !VERSIONS.contains(&version) {
            let expected = format!("{} to {}", VERSIONS.start(), VERSIONS.end());
            return Err(wrong(3, "version", version.to_string(), expected));
        }
        let length = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]) as usize;
        if !(FIXED_BYTES..=METADATA_BYTES_MAX).contains(&length) {
            let expected = format!("{FIXED_BYTES} to {METADATA_BYTES_MAX} bytes");
            return Err(wrong(4, "metadata length", length.to_string(), expected));
        }
        // Grows as the content comes: a damaged length allocates nothing that is not there.
        let mut chunk = [0; 64 * 1024];
        while raw.len() < PRELUDE_BYTES + length {
            let want = (PRELUDE_BYTES + length - raw.len()).min(chunk.len());
            let count = input.read_up_to(&mut chunk[..want])?;
            raw.extend_from_slice(&chunk[..count]);
            if count < want {
                let found = format!("{} bytes", raw.len() - PRELUDE_BYTES);
                return Err(wrong(PRELUDE_BYTES, "metadata", found, format!("{length} bytes")));
            }
        }
        let mut reader = Reader { bytes: &raw, at: PRELUDE_BYTES };
        let metadata = Self::parse(version, &mut reader)
            .map_err(|(at, field, found, expected)| wrong(at, field, found, expected))?;
        Ok((metadata, raw))
    }

    fn parse(version: u8, reader: &mut Reader<'_>) -> Result<Self, Wrong> {
        let dataset = reader.text(16, "dataset")?;
        let schema_at = reader.at;
        let schema = reader.u16("schema")?;
        if !matches!(schema, SCHEMA_MBO | SCHEMA_MIXED) {
            return Err((schema_at, "schema", schema.to_string(), format!("{SCHEMA_MBO} (mbo)")));
        }
        reader.take(24, "start, end and limit")?;
        if version == 1 {
            reader.take(8, "record count")?;
        }
        reader.take(2, "symbol types")?;
        let ts_out = reader.take(1, "ts_out")?[0] != 0;
        let symbol_bytes = if version == 1 {
            reader.take(47, "reserved bytes")?;
            22
        } else {
            let bytes = usize::from(reader.u16("bytes of a symbol")?);
            reader.take(53, "reserved bytes")?;
            bytes
        };
        if symbol_bytes == 0 {
            return Err((reader.at, "bytes of a symbol", "0".to_owned(), "at least 1".to_owned()));
        }
        let definition = reader.u32("schema definition length")? as usize;
        reader.take(definition, "schema definition")?;
        for field in ["symbols", "partial symbols", "symbols not found"] {
            let count = reader.count(symbol_bytes, field)?;
            reader.take(count * symbol_bytes, field)?;
        }
        let mut mappings = Vec::new();
        for _ in 0..reader.count(symbol_bytes + 4, "symbol mappings")? {
            let symbol = reader.text(symbol_bytes, "symbol")?;
            for _ in 0..reader.count(8 + symbol_bytes, "intervals of a mapping")? {
                let (first_day, end_day) = (reader.day("first day")?, reader.day("end day")?);
                // An empty symbol means: not mapped on these days. Another kind of symbol is not a number.
                if let Ok(instrument_id) = reader.text(symbol_bytes, "mapped number")?.parse() {
                    mappings.push(Mapping { instrument_id, symbol: symbol.clone(), first_day, end_day });
                }
            }
        }
        Ok(Self { version, dataset, ts_out, mappings })
    }

    /// The size of an mbo record in this file.
    pub fn record_bytes(&self) -> usize {
        if self.ts_out { MBO_BYTES + 8 } else { MBO_BYTES }
    }

    /// What an instrument is called at a time.
    pub fn symbol_of(&self, instrument_id: u32, time_ns: i64) -> Option<&str> {
        let day = time_ns.div_euclid(NS_PER_DAY);
        let found = self.mappings.iter().find(|mapping| {
            mapping.instrument_id == instrument_id
                && (mapping.first_day..mapping.end_day).contains(&day)
                && !mapping.symbol.is_empty()
        });
        found.map(|mapping| mapping.symbol.as_str())
    }
}

/// Where, which field, what was found, what was expected.
type Wrong = (usize, &'static str, String, String);

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], Wrong> {
        let left = self.bytes.len() - self.at;
        if count > left {
            return Err((self.at, field, format!("{left} bytes"), format!("{count} bytes")));
        }
        self.at += count;
        Ok(&self.bytes[self.at - count..self.at])
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, Wrong> {
        let bytes = self.take(2, field)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, Wrong> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A count of things of which each takes at least `bytes_each`.
    fn count(&mut self, bytes_each: usize, field: &'static str) -> Result<usize, Wrong> {
        let at = self.at;
        let count = self.u32(field)? as usize;
        let most = (self.bytes.len() - self.at) / bytes_each;
        if count > most {
            return Err((at, field, count.to_string(), format!("at most {most}, which is what fits")));
        }
        Ok(count)
    }

    /// Text that ends at its first zero byte.
    fn text(&mut self, bytes: usize, field: &'static str) -> Result<String, Wrong> {
        let at = self.at;
        let field_bytes = self.take(bytes, field)?;
        let text = field_bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        match std::str::from_utf8(text) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => {
                Err((at, field, format!("{:?}", String::from_utf8_lossy(text)), "text in UTF-8".to_owned()))
            }
        }
    }

    /// A day YYYYMMDD as days since 1970.
    fn day(&mut self, field: &'static str) -> Result<i64, Wrong> {
        let at = self.at;
        let number = i64::from(self.u32(field)?);
        days_of(number / 10_000, number / 100 % 100, number % 100)
            .ok_or_else(|| (at, field, number.to_string(), "a day YYYYMMDD".to_owned()))
    }
}
