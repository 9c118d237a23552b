//! One subscription's items read from the log, piece by piece, in the same text as live ones.

use matchtape_client::as_of::{self, AsOfError};
use matchtape_market::Books;
use matchtape_schemas::{EventRef, InstrumentId, KindMask, Sequence};
use matchtape_storage::{FrameCursor, FrameHandle, Reader};

use crate::encode::{MBO_KINDS, Symbols, book_delta, mbo_item, tape_item, trade_item};
use crate::feed::{Channel, Depth, View, span, with_last_of_instrument};
use crate::ws::Messages;

/// Text of one piece: enough to be worth a trip to another thread, little enough for many clients.
const PIECE_BYTES: usize = 256 * 1024;
/// Frames of one piece, also when nothing in them is wanted: a few milliseconds.
const PIECE_FRAMES: usize = 128;

/// Which instruments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All, also those defined later.
    All,
    /// These, sorted.
    Only(Vec<InstrumentId>),
}

impl Filter {
    pub(crate) fn matches(&self, instrument: InstrumentId) -> bool {
        match self {
            Self::All => true,
            Self::Only(instruments) => instruments.binary_search(&instrument).is_ok(),
        }
    }

    pub(crate) fn instruments(&self) -> &[InstrumentId] {
        match self {
            Self::All => &[],
            Self::Only(instruments) => instruments,
        }
    }
}

/// What a subscription wants.
#[derive(Clone, Debug)]
pub(crate) struct Wants {
    pub(crate) channel: Channel,
    pub(crate) filter: Filter,
    /// For the book channel.
    pub(crate) depth: Depth,
}

impl Wants {
    pub(crate) fn views(&self) -> Vec<(InstrumentId, Depth)> {
        match self.channel {
            Channel::Book => self.filter.instruments().iter().map(|id| (*id, self.depth)).collect(),
            Channel::Trades | Channel::Mbo | Channel::Tape => Vec::new(),
        }
    }

    fn kinds(&self) -> KindMask {
        match self.channel {
            Channel::Trades => KindMask::TRADES,
            Channel::Book | Channel::Mbo => MBO_KINDS,
            Channel::Tape => KindMask::ALL,
        }
    }
}

/// Books as they were.
pub(crate) struct Past {
    pub(crate) books: Books,
    /// Of which position.
    pub(crate) sequence: Sequence,
}

impl Past {
    /// The books of some instruments after the event at `sequence`, which ends a group and is visible.
    pub(crate) fn of(
        reader: &Reader,
        instruments: &[InstrumentId],
        sequence: Sequence,
    ) -> Result<Self, AsOfError> {
        Ok(Self { books: as_of::books(reader, instruments, sequence)?, sequence })
    }
}

/// A subscription's reading of the log.
pub(crate) struct Replay {
    wants: Wants,
    cursor: FrameCursor,
    /// Everything up to here was delivered.
    position: Sequence,
    /// Frames read of a group that has no end yet.
    open_group: Vec<FrameHandle>,
    books: Option<BookReplay>,
}

struct BookReplay {
    books: Books,
    views: Vec<(InstrumentId, View)>,
}

impl Replay {
    /// Reads on after `position`. For the book channel that is a group's end, and `past` the books as of then.
    pub(crate) fn open(
        reader: &Reader,
        wants: Wants,
        position: Sequence,
        past: Option<Past>,
    ) -> Result<Self, AsOfError> {
        let books = match wants.channel {
            Channel::Book => {
                let past = match past {
                    Some(past) => past,
                    None => Past::of(reader, wants.filter.instruments(), position)?,
                };
                Some(BookReplay::new(past, &wants))
            }
            Channel::Trades | Channel::Mbo | Channel::Tape => None,
        };
        Ok(Self { wants, cursor: reader.frames(position.next())?, position, open_group: Vec::new(), books })
    }

    pub(crate) fn position(&self) -> Sequence {
        self.position
    }

    /// Reads the next piece. Nothing new: the position stays.
    pub(crate) fn read(
        &mut self,
        symbols: &Symbols,
        out: &mut Messages,
    ) -> Result<(), matchtape_storage::ReadError> {
        let mut frames_read = 0;
        while frames_read < PIECE_FRAMES && out.bytes() < PIECE_BYTES {
            let frames = self.next_frames()?;
            if frames.is_empty() {
                return Ok(());
            }
            frames_read += frames.len();
            let wanted =
                frames.iter().any(|frame| self.wants.kinds().intersects(frame.frame().header().kinds));
            if wanted {
                self.take_in(&frames, symbols, out);
            }
            self.position = frames[frames.len() - 1].frame().last_sequence();
        }
        Ok(())
    }

    /// The next frame, or as many as it takes to reach the end of a group; empty when there is no such end yet.
    fn next_frames(&mut self) -> Result<Vec<FrameHandle>, matchtape_storage::ReadError> {
        while let Some(frame) = self.cursor.next_frame()? {
            let ends_group = frame.frame().header().ends_group();
            self.open_group.push(frame);
            if ends_group {
                return Ok(std::mem::take(&mut self.open_group));
            }
        }
        Ok(Vec::new())
    }

    fn take_in(&mut self, frames: &[FrameHandle], symbols: &Symbols, out: &mut Messages) {
        let position = self.position;
        let mut group: Vec<EventRef<'_>> = Vec::new();
        for frame in frames {
            for event in frame.frame().events().filter(|event| event.sequence() > position) {
                group.push(event);
                if event.ends_group() {
                    take_in_group(&self.wants, self.books.as_mut(), &group, symbols, out);
                    group.clear();
                }
            }
        }
    }
}

fn take_in_group(
    wants: &Wants,
    books: Option<&mut BookReplay>,
    group: &[EventRef<'_>],
    symbols: &Symbols,
    out: &mut Messages,
) {
    let wanted = |event: &&EventRef<'_>| wants.filter.matches(event.instrument());
    match wants.channel {
        Channel::Trades => {
            for event in group.iter().filter(wanted) {
                out.push(event.sequence(), |text| trade_item(text, event, symbols));
            }
        }
        Channel::Tape => {
            for event in group.iter().filter(wanted) {
                out.push(event.sequence(), |text| {
                    tape_item(text, event, symbols);
                    true
                });
            }
        }
        Channel::Mbo => {
            for (event, last) in with_last_of_instrument(group).filter(|(event, _)| wanted(event)) {
                out.push(event.sequence(), |text| mbo_item(text, event, symbols, last));
            }
        }
        Channel::Book => {
            let replay = books.expect("a replay of books has books");
            group.iter().filter(wanted).for_each(|event| replay.books.apply(event));
            replay.push_changes(group, symbols, out);
        }
    }
}

impl BookReplay {
    fn new(past: Past, wants: &Wants) -> Self {
        let Past { mut books, sequence } = past;
        books.watch();
        let view = |id: &InstrumentId| (*id, View::open(*id, wants.depth, books.get(*id), sequence));
        let views = wants.filter.instruments().iter().map(view).collect();
        Self { books, views }
    }

    fn push_changes(&mut self, group: &[EventRef<'_>], symbols: &Symbols, out: &mut Messages) {
        for change in self.books.take_changes() {
            let view = self.views.iter_mut().find(|(instrument, _)| *instrument == change.instrument);
            let (Some((_, view)), Some(book)) = (view, self.books.get(change.instrument)) else { continue };
            if let Some(delta) = view.advance(book, &change, span(group)) {
                out.push(delta.sequence, |text| {
                    book_delta(text, &delta, symbols, 1);
                    true
                });
            }
        }
    }
}
