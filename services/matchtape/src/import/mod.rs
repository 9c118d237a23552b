//! Importers: files of exchanges become events, in the venue's order, in the venue's groups.
//!
//! An importer never touches a tape. It is a [`Source`] that hands out [`Item`]s; `load` publishes them.
//!
//! # Numbers, and why a second run adds nothing
//!
//! A source is two producers. The records' producer numbers its events with the ordinal of the record in the source, from
//! 1, counting what is skipped or filtered too. The definitions' producer numbers the instruments in the order in which
//! they first occur, again counting all. Both are pure functions of the files, so a repeated event has the number it had
//! the first time, and the publisher answers `Already`.
//!
//! Which producers these are follows from the beginning of the source's content ([`SourceId`]), not from file names:
//! another day's file is another producer, a file that has grown since goes on where it ended, and the same records
//! compressed or not are the same source. Numbers alone do not say whose records they number, so where a source begins, `load`
//! asks the tape: for its first record where its producer is known, and else for events of the same instrument that another
//! source put where this one begins or later, for then these are most likely the same records.
//!
//! # Trading days
//!
//! A feed of day orders does not say that they go. Before the first record of a day, and only then, `load` closes the venue's
//! last day before it that the tape has (`days`): a `BookCleared` of each of its instruments and a `SessionClosed`. Not at the end of
//! a day's own files: whether these have grown to their end nobody knows before another day's are there, and the closing
//! book is to be seen until then.
//!
//! Read in this order: `input` (files), `directory` (instrument ids), `sse/` and `dbn/` (the formats), `target` (a node
//! here or elsewhere), `load`, `days`.

mod days;
pub mod dbn;
mod directory;
mod input;
mod load;
pub mod sse;
mod target;

use std::fmt;
use std::path::{Path, PathBuf};

use matchtape_client::time::rfc3339;
use matchtape_schemas::{Event, EventTime, ProducerId, ProducerSequence};

pub use self::directory::Directory;
pub use self::input::{Input, InputError};
pub use self::load::{LoadError, Loaded, Overlap, Watch, load};
pub use self::target::{NodeTarget, Recorded, ServerTarget, Target};

/// Events that an importer hands out together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An instrument, before its first record. Published by [`SourceId::definitions`].
    Definition(Event),
    /// The next record is the first of a day on which none of the orders are good that were before it: what closes the venue's
    /// day before goes onto the tape first.
    DayBegins(DayBegins),
    /// The records of one of the venue's groups. Published by [`SourceId::records`].
    Records(Vec<Event>),
}

/// A trading day of a venue whose orders are good for the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayBegins {
    /// As its instruments' definitions have it.
    pub venue: &'static str,
    /// Its midnight.
    pub begins: EventTime,
    /// How far the venue's clocks are ahead of UTC.
    pub utc_offset_ns: i64,
    /// Its first record.
    pub record: ProducerSequence,
}

impl DayBegins {
    /// The venue's day of a time, as the decimal number YYYYMMDD.
    pub fn day_of(&self, time: EventTime) -> u32 {
        let date = rfc3339(time.get().saturating_add(self.utc_offset_ns));
        let digits = date.bytes().take("YYYY-MM-DD".len()).filter(u8::is_ascii_digit);
        digits.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'))
    }
}

/// Files of one format as events.
pub trait Source {
    /// What comes next; `None` at the end.
    fn next(&mut self) -> Result<Option<Item>, ImportError>;

    /// The producers.
    fn id(&self) -> SourceId;

    /// How far it has come.
    fn progress(&self) -> Progress;

    /// What was seen so far.
    fn tally(&self) -> &Tally;
}

/// The two producers of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId {
    /// Of the records: 1 to 2^31 - 1.
    pub records: ProducerId,
    /// Of the definitions: the same with the highest bit set.
    pub definitions: ProducerId,
}

impl SourceId {
    const DEFINITIONS: u32 = 1 << 31;

    /// The producers that go with a source's beginning: CRC-32 over the format's name and the parts, each after its
    /// length.
    pub fn of_content(format: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for part in [format.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self::of_number((hasher.finalize() & !Self::DEFINITIONS).max(1))
    }

    /// The producers of a number from 1 to 2^31 - 1.
    ///
    /// # Panics
    /// If the number is none of these.
    pub fn of_number(number: u32) -> Self {
        assert!((1..Self::DEFINITIONS).contains(&number), "{number} is not the number of a source");
        Self { records: ProducerId(number), definitions: ProducerId(number | Self::DEFINITIONS) }
    }
}

/// How far an importer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done so far, in the units of `total`: bytes of the files, or records.
    pub done: u64,
    /// All there is.
    pub total: u64,
}

/// What to do about a malformed line or record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// End with an error; what came before it is imported.
    Stop,
    /// Leave it out, count it and list it.
    Skip,
}

/// What an importer saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records read, whatever became of them.
    pub records: u64,
    /// Records that are in the source more than once, the first of each not counted. They are no part of `records`.
    pub repeated: u64,
    /// Records of instruments that were not asked for.
    pub filtered: u64,
    /// Well-formed records that say nothing a tape holds.
    pub without_event: u64,
    /// Malformed ones left out.
    pub malformed: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
    /// Records older than one before them.
    pub back_in_time: u64,
    /// Groups that were ended because they grew beyond [`GROUP_EVENTS_MAX`], or by the end of the file.
    pub groups_cut: u64,
}

/// Problems that are listed; the rest is only counted.
pub const PROBLEMS_LISTED: usize = 20;

/// More events of one group than this are cut into groups: a group is held in memory and by the ring.
pub const GROUP_EVENTS_MAX: usize = 1 << 16;

impl Tally {
    /// Counts a malformed record, or ends the import with it.
    fn malformed(&mut self, problem: Problem, on_error: OnError) -> Result<(), ImportError> {
        if on_error == OnError::Stop {
            return Err(ImportError::Malformed(problem));
        }
        self.malformed += 1;
        if self.problems.len() < PROBLEMS_LISTED {
            self.problems.push(problem);
        }
        Ok(())
    }
}

/// Where something is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Line, from 1.
    Line(u64),
    /// Byte of the uncompressed content, from 0.
    Byte(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Byte(byte) => write!(f, "byte {byte}"),
        }
    }
}

/// A line or record that is not what its format says.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{file}, {place}: {field} is {found}, expected {expected}", file = file.display())]
pub struct Problem {
    /// In which file.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// Which field.
    pub field: &'static str,
    /// What stands there.
    pub found: String,
    /// What should.
    pub expected: String,
}

impl Problem {
    fn new(
        file: &Path,
        place: Place,
        field: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self { file: file.to_owned(), place, field, found: found.into(), expected: expected.into() }
    }
}

/// Why an import ended early.
#[derive(thiserror::Error, Debug)]
pub enum ImportError {
    /// A file that cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// A line or record that is not what its format says, or the head of a file.
    #[error(transparent)]
    Malformed(Problem),
    /// Different records with the number of one.
    #[error("{0}")]
    Repeated(String),
    /// Files that do not go together or are too much.
    #[error("{0}")]
    Files(String),
}
