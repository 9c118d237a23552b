//! The store that commands read from, and its instruments.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use matchtape_client::as_of;
use matchtape_client::time::rfc3339;
use matchtape_market::{Instrument, Instruments};
use matchtape_storage::{LockError, OpenError, ReadOnlyOptions, ReadOnlyStore, Reader, RealDisk};

use super::error::CliError;

/// What to do where there is no store.
pub(super) const NO_STORE: &str = "it has to be the directory that `matchtape import` or a node writes to";

/// What to do where a node is at work. Its address is known where the environment names it.
fn beside_a_writer() -> String {
    let known = std::env::var("MATCHTAPE_SERVER").ok().filter(|address| !address.is_empty());
    let address = known.unwrap_or_else(|| {
        "URL, which it prints after \"page\" (http://127.0.0.1:7474 unless `gateway.listen` says otherwise)".into()
    });
    format!(
        "one process at a time may write; queries work beside it, and `import`, `state`, `seal` and `hold` go through a running node \
         with --server {address}; anything else needs it stopped"
    )
}

/// What to do where it is the system that refuses, whatever was being done: the store is as sound as it was.
pub(super) fn system_advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            match error.kind() {
                ErrorKind::PermissionDenied => {
                    return Some("run it as the user that the directory belongs to");
                }
                ErrorKind::ReadOnlyFilesystem => {
                    return Some("the file system is mounted read-only: commands that only read work on it");
                }
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    return Some(
                        "make room on the device and run it again; nothing that was durable is lost",
                    );
                }
                _ => {}
            }
        }
        cause = error.source();
    }
    None
}

/// Opens a data directory for reading: takes no lock, repairs nothing, works beside a running writer.
pub(super) fn open(directory: &Path) -> Result<ReadOnlyStore, CliError> {
    let disk = disk(directory)?;
    let options = ReadOnlyOptions {
        cold: super::cold::of(directory)?,
        open_tables_max: super::open_files::tables_max(),
        ..ReadOnlyOptions::default()
    };
    ReadOnlyStore::open(Arc::new(disk), options).map_err(|error| open_error(directory, &error))
}

/// The directory of a store, which has to be there.
pub(super) fn disk(directory: &Path) -> Result<RealDisk, CliError> {
    RealDisk::open(directory)
        .map_err(|error| CliError::with_advice(&error, system_advice(&error).unwrap_or(NO_STORE)))
}

/// An error of opening a store, and what to do about it.
pub(super) fn open_error(directory: &Path, error: &OpenError) -> CliError {
    let message = format_args!("{}: {error}", directory.display());
    if let Some(advice) = system_advice(error) {
        return CliError::with_advice(message, advice);
    }
    if let OpenError::Lock(LockError::Held { holder: Some(holder), .. }) = error {
        let since = rfc3339(i64::try_from(holder.started_ns).unwrap_or(i64::MAX));
        return CliError::with_advice(
            format_args!("{}: process {} writes there, since {since}", directory.display(), holder.pid),
            beside_a_writer(),
        );
    }
    let advice = match error {
        OpenError::Lock(LockError::Held { .. }) => return CliError::with_advice(message, beside_a_writer()),
        OpenError::NoStore => NO_STORE,
        OpenError::Disk(_) | OpenError::Lock(LockError::Disk(_)) => {
            "check the directory, its permissions and the space left on the device"
        }
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
    CliError::with_advice(message, advice)
}

/// The instruments of the tape as they are now, as far as anything tells of them: events can be shown without their names.
pub(super) fn instruments(reader: &Reader) -> Result<Instruments, CliError> {
    Ok(as_of::named_instruments(reader, reader.visible())?)
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

#[cfg(test)]
mod tests {
    use matchtape_storage::wal::WalError;
    use matchtape_storage::{DiskError, Operation, TableError};

    use super::*;

    #[test]
    fn what_the_system_refuses_is_not_taken_for_damage() {
        let disk = |kind: ErrorKind| DiskError::new(Operation::Open, Path::new("manifest"), kind);
        let told = |error: OpenError| format!("{:?}", open_error(Path::new("tape"), &error));
        for (kind, words) in [
            (ErrorKind::PermissionDenied, "as the user"),
            (ErrorKind::ReadOnlyFilesystem, "read-only"),
            (ErrorKind::StorageFull, "make room"),
        ] {
            for error in [
                OpenError::Disk(disk(kind)),
                OpenError::Table(TableError::Disk(disk(kind))),
                OpenError::Wal(Box::new(WalError::Disk(disk(kind)))),
                OpenError::Lock(LockError::Disk(disk(kind))),
            ] {
                let said = told(error);
                assert!(said.contains(words) && !said.contains("salvage"), "{said}");
            }
        }
        let missing = told(OpenError::Table(TableError::Disk(disk(ErrorKind::NotFound))));
        assert!(missing.contains("salvage"), "{missing}");
    }
}
