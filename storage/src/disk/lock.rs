//! One process owns a data directory; a second one is told who.

use std::fmt;
use std::path::PathBuf;

use super::DiskError;

/// Who holds a lock, as written into the lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Its process id.
    pub pid: u32,
    /// When it took the lock, nanoseconds since the Unix epoch.
    pub started_ns: u64,
}

impl LockHolder {
    pub(super) fn encode(&self) -> String {
        format!("pid {}\nstarted_ns {}\n", self.pid, self.started_ns)
    }

    /// `None` if the text is not one that `encode` wrote: the holder may be between taking the lock and writing it.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.strip_prefix("pid ")?.parse().ok()?;
        let started_ns = lines.next()?.strip_prefix("started_ns ")?.parse().ok()?;
        Some(Self { pid, started_ns })
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} since {} ns", self.pid, self.started_ns)
    }
}

/// A held lock; dropping it lets go.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, holds it.
    #[error("{} is held by {}", path.display(), holder.as_ref().map_or_else(|| "a process that has not written its name yet".to_owned(), LockHolder::to_string))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Who, if the holder has already written it.
        holder: Option<LockHolder>,
    },
    /// The lock file could not be opened, locked or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_survives_its_own_encoding_and_nothing_else_decodes() {
        let holder = LockHolder { pid: 4711, started_ns: 1_700_000_000_000_000_001 };
        assert_eq!(LockHolder::decode(&holder.encode()), Some(holder));
        for text in ["", "pid 1", "pid x\nstarted_ns 1\n", "started_ns 1\npid 1\n"] {
            assert_eq!(LockHolder::decode(text), None, "{text:?}");
        }
    }
}
