//! The store that commands read from, and its instruments.

use std::path::Path;
use std::sync::Arc;

use matchtape_client::as_of;
use matchtape_market::{Instrument, Instruments};
use matchtape_storage::{OpenError, ReadOnlyOptions, ReadOnlyStore, Reader, RealDisk};

use super::error::CliError;

/// Opens a data directory for reading: takes no lock, repairs nothing, works beside a running writer.
pub(super) fn open(directory: &Path) -> Result<ReadOnlyStore, CliError> {
    let disk = RealDisk::open(directory).map_err(|error| {
        CliError::with_advice(error, "--data names the directory that `matchtape import` or a node writes to")
    })?;
    let options = ReadOnlyOptions {
        cold: super::cold::of(directory)?,
        open_tables_max: super::open_files::tables_max(),
        ..ReadOnlyOptions::default()
    };
    ReadOnlyStore::open(Arc::new(disk), options).map_err(|error| open_error(directory, &error))
}

/// An error of opening a store, and what to do about it.
pub(super) fn open_error(directory: &Path, error: &OpenError) -> CliError {
    let advice = match error {
        OpenError::Lock(_) => "one process at a time may write; queries work beside it",
        OpenError::NoStore => "--data names the directory that `matchtape import` or a node writes to",
        OpenError::Disk(_) => "check the directory, its permissions and the space left on the device",
        OpenError::Tape { .. } => "the directory belongs to another tape",
        OpenError::Table(matchtape_storage::TableError::Version(_)) => {
            "use the release that has written the directory; nothing was changed"
        }
        OpenError::Table(matchtape_storage::TableError::Feature(_)) => {
            "nothing was changed; this build lacks what the directory was written with"
        }
        OpenError::Table(_)
        | OpenError::Wal(_)
        | OpenError::ManifestMissing { .. }
        | OpenError::LogMissing { .. }
        | OpenError::ChangeLost { .. }
        | OpenError::LogGap { .. }
        | OpenError::Diverged { .. } => {
            "nothing was changed; `matchtape salvage` with the same --data tells what could be saved, and \
             `matchtape restore` makes a store from a backup"
        }
        OpenError::HistoryGone { .. } => {
            "no snapshot has its state any more: open it with the projections it had, or `matchtape restore` a backup"
        }
        OpenError::Projection(_) | OpenError::Read(_) | OpenError::Flush(_) => {
            "nothing was changed; keep a copy of the directory before trying anything else"
        }
    };
    CliError::with_advice(format_args!("{}: {error}", directory.display()), advice)
}

/// The instruments of the tape as they are now.
pub(super) fn instruments(reader: &Reader) -> Result<Instruments, CliError> {
    Ok(as_of::instruments(reader, reader.visible())?)
}

/// The instrument that a person means.
pub(super) fn find<'a>(instruments: &'a Instruments, text: &str) -> Result<&'a Instrument, CliError> {
    const SHOWN: usize = 20;
    instruments.find(text).ok_or_else(|| {
        let symbols: Vec<String> = instruments
            .iter()
            .take(SHOWN)
            .map(|instrument| instrument.definition.symbol.to_string())
            .collect();
        let more = if instruments.len() > SHOWN {
            format!(", and {} more", instruments.len() - SHOWN)
        } else {
            String::new()
        };
        let advice = if symbols.is_empty() {
            "the tape defines no instrument".to_owned()
        } else {
            format!("the tape has {}{more}", symbols.join(", "))
        };
        CliError::with_advice(format_args!("no instrument {text:?} on this tape"), advice)
    })
}
