//! Events as Parquet files, one per kind, for pandas, polars, DuckDB and the like.
//!
//! Columns and their types follow from the kind (`columns.rs`): identifiers are unsigned integers, times are nanoseconds
//! in UTC, prices and quantities exact decimals, names of a closed set are dictionary-encoded strings. Nothing is a float.
//!
//! An export is one pass over the answer to a [`Query`], in flat memory: a kind's rows are buffered up to a bound, then
//! written as one row group. Files are written under `NAME.new`, synced, and get their names when all of them are whole; then
//! `manifest.json`, which lists them with their hashes, so a directory that has one holds a complete export.
//!
//! Uses Parquet's own column writers without Arrow, which would triple what there is to build.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use matchtape_schemas::{EventRef, FrameFlags, InstrumentId, Kind, Sequence};
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use serde::Serialize;

use super::columns::{self, Columns, Value};
use crate::disk::{Access, Caching, Disk, DiskError, DiskFile};
use crate::read::{Direction, Query, ReadError, Reader};
use crate::sstable::new_path;

/// Version of the columns, in every file's metadata and in the manifest. A change of name or type is a new one.
pub const SCHEMA_VERSION: u32 = 1;

/// The list of an export's files.
pub const MANIFEST: &str = "manifest.json";

/// Rows of one kind that are in memory at most, and so in a row group.
const ROWS_MAX: usize = 64 << 10;
/// Bytes of one kind's buffered values at most; only keyed state can have so many.
const BUFFER_BYTES_MAX: usize = 16 << 20;
/// A caller hears of progress, and may stop, every so many events.
const PROGRESS_EVENTS: u64 = 16 << 10;
/// 9 bytes hold every decimal of 21 digits; a quantity has 20.
const DECIMAL_BYTES: usize = 9;

/// Where and in which way events are exported.
#[derive(Debug)]
pub struct ParquetTarget<'a> {
    /// Where the files go; usually not the data directory.
    pub disk: &'a dyn Disk,
    /// The directory in it; it must exist, and must be empty but for what an interrupted export left behind.
    pub directory: &'a Path,
}

/// What an export has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParquetProgress {
    /// Events written.
    pub events: u64,
    /// The last of them.
    pub sequence: Sequence,
}

/// What an export wrote; also the contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParquetManifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The tape, in hexadecimal.
    pub tape: String,
    /// The first position that was asked for; the first kept, if none was.
    pub from: u64,
    /// The last position that was asked for; what was visible, if none was.
    pub through: u64,
    /// Events in all files.
    pub events: u64,
    /// By kind.
    pub files: Vec<ParquetFile>,
}

/// One file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParquetFile {
    /// Its name in the export's directory.
    pub file: String,
    /// What its rows are.
    pub kind: &'static str,
    /// How many there are.
    pub rows: u64,
    /// The position of the first.
    pub first_sequence: u64,
    /// The position of the last.
    pub last_sequence: u64,
    /// The file's length.
    pub bytes: u64,
    /// BLAKE3 over the file.
    pub blake3: String,
}

/// Why an export did not come to its end. Nothing of it is left behind, unless the disk refused even that.
#[derive(Debug, thiserror::Error)]
pub enum ParquetExportError {
    /// The tape could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The target refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The directory has something in it.
    #[error("{} is not empty: it has {found}", directory.display())]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// Some entry of it.
        found: String,
    },
    /// The encoder refused what it was given.
    #[error("encoding Parquet: {0}")]
    Encode(#[from] ParquetError),
    /// The caller said so.
    #[error("stopped after {events} events")]
    Stopped {
        /// How many had been written.
        events: u64,
    },
}

/// Writes the answer to `query`, forwards. `symbol` tells what an instrument is called.
pub fn export(
    reader: &Reader,
    query: &Query,
    symbol: &dyn Fn(InstrumentId) -> Option<String>,
    target: &ParquetTarget<'_>,
    progress: &mut dyn FnMut(ParquetProgress) -> ControlFlow<()>,
) -> Result<ParquetManifest, ParquetExportError> {
    check_empty(target)?;
    let through = query.through.min(reader.visible());
    let query = Query { direction: Direction::Forward, through, ..query.clone() };
    let mut export = Export { target, tape: format!("{:016x}", reader.tape().0), files: BTreeMap::new() };
    let outcome = export.run(reader, &query, symbol, progress);
    if outcome.is_err() {
        export.remove_leftovers();
    }
    outcome
}

/// The sealed segments wholly within `from..=through`, as first and last event: where the tape itself says that a segment
/// ends, so they are the same on every replica, and known also of segments that the log has let go of. Reads everything
/// in between. The first may have begun before the first event that is kept.
pub fn sealed_segments(
    reader: &Reader,
    from: Sequence,
    through: Sequence,
) -> Result<Vec<(Sequence, Sequence)>, ReadError> {
    let from = from.max(reader.first_kept());
    let mut frames = reader.frames(from)?;
    let mut segments = Vec::new();
    let mut first = None;
    while let Some(frame) = frames.next_frame()? {
        let frame = frame.frame();
        let header = frame.header();
        if header.last_sequence() > through {
            break;
        }
        // A range that begins inside a segment leaves that one out, unless nothing before it is kept.
        if first.is_none() && (header.first_sequence == reader.first_kept() || from == header.first_sequence)
        {
            first = Some(header.first_sequence);
        }
        if header.flags.contains(FrameFlags::ENDS_SEGMENT) {
            segments.extend(first.map(|first| (first, header.last_sequence())));
            first = Some(header.last_sequence().next());
        }
    }
    Ok(segments)
}

fn check_empty(target: &ParquetTarget<'_>) -> Result<(), ParquetExportError> {
    for entry in target.disk.list(target.directory)? {
        if !entry.name.ends_with(".new") {
            return Err(ParquetExportError::NotEmpty {
                directory: target.directory.to_path_buf(),
                found: entry.name,
            });
        }
    }
    Ok(())
}

struct Export<'a> {
    target: &'a ParquetTarget<'a>,
    tape: String,
    files: BTreeMap<Kind, KindFile>,
}

impl Export<'_> {
    fn run(
        &mut self,
        reader: &Reader,
        query: &Query,
        symbol: &dyn Fn(InstrumentId) -> Option<String>,
        progress: &mut dyn FnMut(ParquetProgress) -> ControlFlow<()>,
    ) -> Result<ParquetManifest, ParquetExportError> {
        let from = if query.from == Sequence::ZERO { reader.first_kept() } else { query.from };
        let mut symbols: BTreeMap<InstrumentId, Option<String>> = BTreeMap::new();
        let mut events = 0;
        for event in reader.query(query)? {
            let event = event?;
            let event = event.event();
            let instrument = event.instrument();
            let name = symbols.entry(instrument).or_insert_with(|| symbol(instrument));
            let file = match self.files.entry(event.kind()) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(KindFile::create(self.target, event.kind())?)
                }
            };
            file.add(&event, name.as_deref())?;
            events += 1;
            if events % PROGRESS_EVENTS == 0
                && progress(ParquetProgress { events, sequence: event.sequence() }).is_break()
            {
                return Err(ParquetExportError::Stopped { events });
            }
        }
        let mut manifest = ParquetManifest {
            schema_version: SCHEMA_VERSION,
            tape: self.tape.clone(),
            from: from.0,
            through: query.through.0,
            events,
            files: Vec::new(),
        };
        for file in self.files.values_mut() {
            manifest.files.push(file.finish(&manifest)?);
        }
        self.install(&manifest)?;
        Ok(manifest)
    }

    /// All files get their names, and then there is a manifest.
    fn install(&self, manifest: &ParquetManifest) -> Result<(), ParquetExportError> {
        let (disk, directory) = (self.target.disk, self.target.directory);
        for file in &manifest.files {
            let path = directory.join(&file.file);
            disk.rename(&new_path(&path), &path)?;
        }
        disk.sync_directory(directory)?;
        let mut text = serde_json::to_vec_pretty(manifest).expect("plain values become JSON");
        text.push(b'\n');
        let path = directory.join(MANIFEST);
        let file = create(disk, &new_path(&path))?;
        file.write_at(&text, 0)?;
        file.sync_all()?;
        disk.rename(&new_path(&path), &path)?;
        disk.sync_directory(directory)?;
        Ok(())
    }

    /// What was written is of no use without the rest. A refusal is not reported: there is an earlier error to report.
    fn remove_leftovers(&self) {
        let manifest = self.target.directory.join(MANIFEST);
        let _ = self.target.disk.remove(&manifest);
        let _ = self.target.disk.remove(&new_path(&manifest));
        for kind in self.files.keys() {
            let path = self.target.directory.join(file_name(*kind));
            let _ = self.target.disk.remove(&new_path(&path));
            let _ = self.target.disk.remove(&path);
        }
        let _ = self.target.disk.sync_directory(self.target.directory);
    }
}

fn file_name(kind: Kind) -> String {
    format!("{}.parquet", kind.name())
}

/// A new file; what an interrupted export left of that name goes.
fn create(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
    match disk.remove(path) {
        Ok(()) => {}
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error),
    }
    disk.open(path, Access::CreateNew, Caching::Buffered)
}

/// One file being written.
struct KindFile {
    kind: Kind,
    file: Arc<dyn DiskFile>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// `None` once it was finished. The encoder writes into memory, which is emptied into the file after each row group.
    encoder: Option<SerializedFileWriter<Vec<u8>>>,
    buffer: Buffer,
    rows: u64,
    first: Sequence,
    last: Sequence,
}

impl KindFile {
    fn create(target: &ParquetTarget<'_>, kind: Kind) -> Result<Self, ParquetExportError> {
        let file = create(target.disk, &new_path(&target.directory.join(file_name(kind))))?;
        let buffer = Buffer::of(kind);
        let schema = Arc::new(parse_message_type(&buffer.schema(kind))?);
        let encoder = SerializedFileWriter::new(Vec::new(), schema, buffer.properties())?;
        let (hasher, encoder) = (blake3::Hasher::new(), Some(encoder));
        let (first, last) = (Sequence::ZERO, Sequence::ZERO);
        Ok(Self { kind, file, hasher, bytes: 0, encoder, buffer, rows: 0, first, last })
    }

    fn add(&mut self, event: &EventRef<'_>, symbol: Option<&str>) -> Result<(), ParquetExportError> {
        self.buffer.next = 0;
        columns::of_event(event, symbol, &mut self.buffer);
        self.buffer.rows += 1;
        if self.rows == 0 {
            self.first = event.sequence();
        }
        self.last = event.sequence();
        self.rows += 1;
        if self.buffer.rows >= ROWS_MAX || self.buffer.bytes >= BUFFER_BYTES_MAX {
            self.write_row_group()?;
        }
        Ok(())
    }

    fn write_row_group(&mut self) -> Result<(), ParquetExportError> {
        if self.buffer.rows == 0 {
            return Ok(());
        }
        let encoder = self.encoder.as_mut().expect("rows come before the end");
        let mut group = encoder.next_row_group()?;
        for column in &mut self.buffer.columns {
            let mut writer = group.next_column()?.expect("the schema has a column for each");
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        encoder.flush().expect("memory takes everything");
        let encoded = std::mem::take(encoder.inner_mut());
        (self.buffer.rows, self.buffer.bytes) = (0, 0);
        self.write(&encoded)
    }

    fn write(&mut self, encoded: &[u8]) -> Result<(), ParquetExportError> {
        self.hasher.update(encoded);
        self.file.write_at(encoded, self.bytes)?;
        self.bytes += encoded.len() as u64;
        Ok(())
    }

    fn finish(&mut self, manifest: &ParquetManifest) -> Result<ParquetFile, ParquetExportError> {
        self.write_row_group()?;
        let mut encoder = self.encoder.take().expect("a file is finished once");
        for (key, value) in [
            ("matchtape.schema_version", manifest.schema_version.to_string()),
            ("matchtape.tape", manifest.tape.clone()),
            ("matchtape.kind", self.kind.name().to_owned()),
            ("matchtape.from", manifest.from.to_string()),
            ("matchtape.through", manifest.through.to_string()),
        ] {
            encoder.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let rest = encoder.into_inner()?;
        self.write(&rest)?;
        self.file.sync_all()?;
        Ok(ParquetFile {
            file: file_name(self.kind),
            kind: self.kind.name(),
            rows: self.rows,
            first_sequence: self.first.0,
            last_sequence: self.last.0,
            bytes: self.bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
        })
    }
}

/// The rows of a kind that are not written yet, column by column.
struct Buffer {
    columns: Vec<Column>,
    /// The column that the next value belongs to.
    next: usize,
    rows: usize,
    bytes: usize,
}

struct Column {
    name: &'static str,
    /// As in the textual form of Parquet schemas: repetition, physical type, name, annotation.
    declaration: String,
    encoding: ColumnEncoding,
    values: Values,
    /// Of a nullable column, for each row: 1 if there is a value.
    levels: Option<Vec<i16>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ColumnEncoding {
    /// Few different values: each once, then their numbers.
    Dictionary,
    /// Numbers that are close to the one before.
    Delta,
    /// As they are.
    Plain,
}

enum Values {
    I32(Vec<i32>),
    I64(Vec<i64>),
    Flag(Vec<bool>),
    /// Big-endian two's complement, [`DECIMAL_BYTES`] each.
    Decimal(Vec<u8>),
    /// All bytes in a row, and where each value ends.
    Bytes(Vec<u8>, Vec<usize>),
}

impl Column {
    fn new(name: &'static str, value: Value<'_>) -> Self {
        use ColumnEncoding::{Delta, Dictionary, Plain};
        let running = matches!(name, "sequence" | "producer_sequence" | "venue_sequence");
        let number = if running { Delta } else { Dictionary };
        let decimal = format!("FIXED_LEN_BYTE_ARRAY ({DECIMAL_BYTES}) {name}");
        let (nullable, declaration, encoding, values) = match value {
            Value::U64(_) => {
                (false, format!("INT64 {name} (INTEGER(64,false))"), number, Values::I64(vec![]))
            }
            Value::U32(_) => {
                (false, format!("INT32 {name} (INTEGER(32,false))"), number, Values::I32(vec![]))
            }
            Value::U16(_) => {
                (false, format!("INT32 {name} (INTEGER(16,false))"), number, Values::I32(vec![]))
            }
            Value::U8(_) => (false, format!("INT32 {name} (INTEGER(8,false))"), number, Values::I32(vec![])),
            Value::I32(_) => (false, format!("INT32 {name} (INTEGER(32,true))"), Plain, Values::I32(vec![])),
            Value::Time(_) => {
                (true, format!("INT64 {name} (TIMESTAMP(NANOS,true))"), Delta, Values::I64(vec![]))
            }
            Value::Signed(_) => (true, decimal + " (DECIMAL(19,9))", Dictionary, Values::Decimal(vec![])),
            Value::Unsigned(_) => (false, decimal + " (DECIMAL(20,9))", Dictionary, Values::Decimal(vec![])),
            Value::Choice(_) => {
                (false, format!("BYTE_ARRAY {name} (STRING)"), Dictionary, Values::Bytes(vec![], vec![]))
            }
            Value::Text(_) => {
                (true, format!("BYTE_ARRAY {name} (STRING)"), Dictionary, Values::Bytes(vec![], vec![]))
            }
            Value::Bytes(_) => (false, format!("BYTE_ARRAY {name}"), Plain, Values::Bytes(vec![], vec![])),
            Value::Flag(_) => (false, format!("BOOLEAN {name}"), Plain, Values::Flag(vec![])),
        };
        let repetition = if nullable { "OPTIONAL" } else { "REQUIRED" };
        let declaration = format!("{repetition} {declaration};");
        Self { name, declaration, encoding, values, levels: nullable.then(Vec::new) }
    }

    /// Adds a value; returns about how many bytes of memory it takes.
    fn push(&mut self, value: Value<'_>) -> usize {
        let present = match value {
            Value::Time(value) | Value::Signed(value) => value.is_some(),
            Value::Text(value) => value.is_some(),
            _ => true,
        };
        if let Some(levels) = &mut self.levels {
            levels.push(i16::from(present));
        }
        match (&mut self.values, value) {
            // Unsigned numbers are stored as the signed ones of the same bits; the annotation says which they are.
            (Values::I64(all), Value::U64(value)) => all.push(value as i64),
            (Values::I32(all), Value::U32(value)) => all.push(value as i32),
            (Values::I32(all), Value::U16(value)) => all.push(i32::from(value)),
            (Values::I32(all), Value::U8(value)) => all.push(i32::from(value)),
            (Values::I32(all), Value::I32(value)) => all.push(value),
            (Values::I64(all), Value::Time(value)) => all.extend(value),
            (Values::Flag(all), Value::Flag(value)) => all.push(value),
            (Values::Decimal(all), Value::Signed(value)) => {
                if let Some(value) = value {
                    all.extend_from_slice(&decimal(i128::from(value)));
                }
            }
            (Values::Decimal(all), Value::Unsigned(value)) => {
                all.extend_from_slice(&decimal(i128::from(value)));
            }
            (Values::Bytes(all, ends), Value::Choice(value)) => {
                return push_bytes(all, ends, value.as_bytes());
            }
            (Values::Bytes(all, ends), Value::Text(value)) => {
                return value.map_or(2, |value| push_bytes(all, ends, value.as_bytes()));
            }
            (Values::Bytes(all, ends), Value::Bytes(value)) => return push_bytes(all, ends, value),
            (_, value) => unreachable!("column {} was declared otherwise than {value:?}", self.name),
        }
        8
    }

    /// Hands the buffered values over and forgets them.
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = self.levels.as_deref();
        match &mut self.values {
            Values::I32(all) => {
                writer.typed::<Int32Type>().write_batch(all, levels, None)?;
                all.clear();
            }
            Values::I64(all) => {
                writer.typed::<Int64Type>().write_batch(all, levels, None)?;
                all.clear();
            }
            Values::Flag(all) => {
                writer.typed::<BoolType>().write_batch(all, levels, None)?;
                all.clear();
            }
            Values::Decimal(all) => {
                let count = all.len() / DECIMAL_BYTES;
                let whole = ByteArray::from(std::mem::take(all));
                let slices = (0..count)
                    .map(|row| FixedLenByteArray::from(whole.slice(row * DECIMAL_BYTES, DECIMAL_BYTES)));
                let slices: Vec<FixedLenByteArray> = slices.collect();
                writer.typed::<FixedLenByteArrayType>().write_batch(&slices, levels, None)?;
            }
            Values::Bytes(all, ends) => {
                let whole = ByteArray::from(std::mem::take(all));
                let mut start = 0;
                let slices = ends.drain(..).map(|end| {
                    let slice = whole.slice(start, end - start);
                    start = end;
                    slice
                });
                let slices: Vec<ByteArray> = slices.collect();
                writer.typed::<ByteArrayType>().write_batch(&slices, levels, None)?;
            }
        }
        if let Some(levels) = &mut self.levels {
            levels.clear();
        }
        Ok(())
    }
}

fn push_bytes(all: &mut Vec<u8>, ends: &mut Vec<usize>, value: &[u8]) -> usize {
    all.extend_from_slice(value);
    ends.push(all.len());
    value.len() + 8
}

fn decimal(units: i128) -> [u8; DECIMAL_BYTES] {
    let bytes = units.to_be_bytes();
    bytes[16 - DECIMAL_BYTES..].try_into().expect("the last bytes of 16")
}

impl Buffer {
    fn of(kind: Kind) -> Self {
        struct Declare(Vec<Column>);
        impl Columns for Declare {
            fn put(&mut self, name: &'static str, value: Value<'_>) {
                self.0.push(Column::new(name, value));
            }
        }
        let mut declare = Declare(Vec::new());
        columns::of_kind(kind, &mut declare);
        Self { columns: declare.0, next: 0, rows: 0, bytes: 0 }
    }

    fn schema(&self, kind: Kind) -> String {
        let mut text = format!("message {} {{\n", kind.name());
        for column in &self.columns {
            text.push_str(&column.declaration);
            text.push('\n');
        }
        text.push('}');
        text
    }

    fn properties(&self) -> WriterPropertiesPtr {
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("matchtape ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::LZ4_RAW);
        for column in &self.columns {
            let path = ColumnPath::from(column.name);
            properties = match column.encoding {
                ColumnEncoding::Dictionary => properties.set_column_dictionary_enabled(path, true),
                ColumnEncoding::Plain => properties.set_column_dictionary_enabled(path, false),
                ColumnEncoding::Delta => properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
            };
        }
        Arc::new(properties.build())
    }
}

impl Columns for Buffer {
    fn put(&mut self, name: &'static str, value: Value<'_>) {
        let column = &mut self.columns[self.next];
        debug_assert_eq!(column.name, name, "columns come in the order they were declared in");
        self.next += 1;
        self.bytes += column.push(value);
    }
}
