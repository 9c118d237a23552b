//! What most queries have in common: the tape, the selection, the output.

use std::io::{BufWriter, Stdout, stdout};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use matchtape_client::{Output, busts_between};
use matchtape_market::{Busts, Instruments};
use matchtape_schemas::{EventTime, InstrumentId, Sequence};
use matchtape_storage::{Direction, Query, ReadOnlyStore, Reader};

use crate::cli::error::CliError;
use crate::cli::position::Position;
use crate::cli::{FormatArg, store};
use crate::server::Server;

/// Where to read and how to write.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("tape").args(["data", "server"])))]
pub(in crate::cli) struct Common {
    /// The tape's directory
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) data: Option<PathBuf>,
    /// Instead: the gateway of a running node, as http://127.0.0.1:7474; it shows nothing private [default: MATCHTAPE_SERVER, if set]
    #[arg(long, value_name = "URL")]
    pub(in crate::cli) server: Option<String>,
    /// How rows are written [default: table on a terminal, else ndjson]
    #[arg(long, value_enum)]
    pub(in crate::cli) format: Option<FormatArg>,
}

/// Which part of the tape.
#[derive(Args, Debug)]
pub(super) struct Range {
    /// From this sequence or event time on
    #[arg(long, value_name = "POSITION")]
    pub(super) from: Option<Position>,
    /// Up to this sequence or event time, inclusive
    #[arg(long, value_name = "POSITION")]
    pub(super) to: Option<Position>,
}

/// How many rows, and which first.
#[derive(Args, Debug)]
pub(super) struct Page {
    /// At most so many rows
    #[arg(long, value_name = "COUNT")]
    pub(super) limit: Option<u64>,
    /// The last first
    #[arg(long)]
    pub(super) reverse: bool,
}

/// Where an answer goes on that was given in part.
#[derive(Args, Debug)]
pub(super) struct Cursor {
    /// Go on where an answer with --limit ended: what it said after "next: --cursor", with the same filters
    #[arg(long, value_name = "CURSOR")]
    pub(super) cursor: Option<String>,
}

impl Cursor {
    /// Tells where the answer goes on.
    pub(super) fn announce(next: Option<impl std::fmt::Display>) {
        if let Some(next) = next {
            eprintln!("next: --cursor {next}");
        }
    }
}

/// The gateway that a flag names, or else the environment.
pub(in crate::cli) fn server(flag: Option<&str>) -> Result<Server, CliError> {
    let address =
        flag.map(str::to_owned).or_else(|| std::env::var("MATCHTAPE_SERVER").ok()).ok_or_else(|| {
            CliError::Usage(
                "where is the tape? --data names its directory, --server or MATCHTAPE_SERVER a gateway"
                    .to_owned(),
            )
        })?;
    Ok(Server::new(&address)?)
}

/// Where a question goes.
pub(in crate::cli) enum Place {
    /// To the tape itself.
    Data(Box<Session>),
    /// To a gateway.
    Server(Server),
}

impl Common {
    pub(in crate::cli) fn open(&self) -> Result<Place, CliError> {
        match (&self.data, &self.server) {
            (Some(data), _) => Ok(Place::Data(Box::new(Session::open(data)?))),
            (None, flag) => Ok(Place::Server(server(flag.as_deref())?)),
        }
    }

    pub(in crate::cli) fn output(&self) -> Output<BufWriter<Stdout>> {
        let out = BufWriter::with_capacity(64 * 1024, stdout());
        Output::new(out, FormatArg::or_default(self.format))
    }
}

impl Range {
    /// Refuses a range that is empty as it is written: an empty answer to it would look like one about the tape.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let backwards = match (self.from, self.to) {
            (Some(Position::Sequence(from)), Some(Position::Sequence(to))) => from > to,
            (Some(Position::Time(from)), Some(Position::Time(to))) => from > to,
            _ => false,
        };
        match backwards {
            true => Err(CliError::Usage("--from lies behind --to".to_owned())),
            false => Ok(()),
        }
    }

    pub(super) fn apply(&self, query: &mut Query) {
        match self.from {
            Some(Position::Sequence(from)) => query.from = from,
            Some(Position::Time(from)) => query.event_time_from = from,
            None => {}
        }
        match self.to {
            Some(Position::Sequence(through)) => query.through = through,
            Some(Position::Time(through)) => query.event_time_through = through,
            None => {}
        }
    }
}

impl Page {
    pub(super) fn direction(&self) -> Direction {
        if self.reverse { Direction::Backward } else { Direction::Forward }
    }
}

/// An open store and its instruments.
pub(in crate::cli) struct Session {
    pub(in crate::cli) reader: Reader,
    pub(in crate::cli) instruments: Instruments,
    _store: ReadOnlyStore,
}

impl Session {
    fn open(data: &Path) -> Result<Self, CliError> {
        let store = store::open(data)?;
        let reader = store.reader();
        let instruments = store::instruments(&reader)?;
        Ok(Self { reader, instruments, _store: store })
    }

    /// The id of the instrument that a person names.
    pub(in crate::cli) fn instrument(&self, text: &str) -> Result<InstrumentId, CliError> {
        store::find(&self.instruments, text).map(|instrument| instrument.id)
    }

    pub(in crate::cli) fn symbol(&self, id: InstrumentId) -> Option<String> {
        self.instruments.get(id).map(|instrument| instrument.definition.symbol.to_string())
    }

    /// What the instrument is called, or its id.
    pub(in crate::cli) fn name(&self, id: InstrumentId) -> String {
        self.symbol(id).unwrap_or_else(|| id.to_string())
    }

    /// Trades that were taken back, of one instrument or of all, as far as the tape tells now.
    pub(in crate::cli) fn busts(&self, instrument: Option<InstrumentId>) -> Result<Busts, CliError> {
        Ok(busts_between(&self.reader, instrument, Sequence::ZERO, Sequence::MAX)?)
    }

    /// The position that an instrument's state is asked for: not beyond the end.
    pub(in crate::cli) fn position(
        &self,
        at: Position,
        instrument: InstrumentId,
    ) -> Result<Sequence, CliError> {
        match at {
            Position::Sequence(sequence) => self.sequence(sequence),
            Position::Time(EventTime(ns)) => Ok(self.reader.prefix_through(instrument, EventTime(ns))?),
        }
    }

    /// A position that state is asked for: not beyond the end.
    pub(in crate::cli) fn sequence(&self, sequence: Sequence) -> Result<Sequence, CliError> {
        let visible = self.reader.visible();
        if sequence > visible {
            return Err(CliError::with_advice(
                format_args!("sequence {sequence} is beyond the end of the tape, {visible}"),
                "--at end is the state now",
            ));
        }
        Ok(sequence)
    }
}
