//! The cold tier: event tables that have moved to an object store and are read from there, block by block.
//!
//! ```text
//! table in `tables/` -> object -> read back, size and hash compared -> manifest edit, synced -> local file removed
//! table dropped by retention: manifest edit, synced -> last reader gone -> object removed -> manifest edit
//! ```
//!
//! Only event tables move: they are the bulk, they never change, and what is asked of old events is mostly a scan. Index tables,
//! snapshots and the manifest stay on the local disk, so a question about an order touches the cold tier only for the
//! blocks that hold its events. A block comes through the same checks and the same cache as one from the local disk.
//!
//! `choose` decides which tables move, `push` moves them, `file` reads them. This module knows no cloud and no runtime: the
//! stores behind [`ColdStore`] are blocking; the one for real object stores is in `object_store.rs`, behind a feature.

mod file;
mod push;

use std::io::Read;
use std::time::Duration;

pub(crate) use self::file::open as open_object;
pub use self::push::{ColdMove, ColdPolicy, ColdProgress, ColdPushError, ColdReport, ColdStep};
pub(crate) use self::push::{choose, collect, push};

/// The longest key of an object, in bytes.
pub const COLD_KEY_BYTES_MAX: usize = 255;

/// A place for immutable objects. Blocking; any number of threads may use it at once.
pub trait ColdStore: Send + Sync + std::fmt::Debug {
    /// Where it is, for messages: usually its URL.
    fn place(&self) -> &str;

    /// How failures that may pass are met.
    fn patience(&self) -> Patience {
        Patience::default()
    }

    /// Stores the `bytes` bytes of `source` under `key`, all of them or nothing; what had the key is replaced. When it
    /// returns, the object outlives power loss.
    fn put(&self, key: &str, source: &mut dyn Read, bytes: u64) -> Result<(), ColdError>;

    /// Reads from `offset` until `buffer` is full or the object ends; returns the bytes read.
    fn get_range(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize, ColdError>;

    /// The object's length in bytes.
    fn head(&self, key: &str) -> Result<u64, ColdError>;

    /// Removes the object; one that is not there is no error.
    fn delete(&self, key: &str) -> Result<(), ColdError>;
}

/// How often something is tried that may go better the next time. The pause after an attempt is four times the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// At least one.
    pub attempts: u32,
    /// Between the first attempt and the second.
    pub first_pause: Duration,
}

impl Default for Patience {
    /// Four attempts within 2.1 s.
    fn default() -> Self {
        Self { attempts: 4, first_pause: Duration::from_millis(100) }
    }
}

impl Patience {
    /// Tries until it goes well, or until the failure cannot pass, or until all attempts are made.
    fn attempt<T>(
        self,
        pause: &dyn Fn(Duration),
        mut attempt: impl FnMut() -> Result<T, ColdError>,
    ) -> Result<T, ColdError> {
        let mut wait = self.first_pause;
        for _ in 1..self.attempts {
            match attempt() {
                Err(error) if error.may_pass() => {
                    pause(wait);
                    wait *= 4;
                }
                outcome => return outcome,
            }
        }
        attempt()
    }
}

/// Does something with a store, as patiently as the store asks for.
fn patiently<T>(
    store: &dyn ColdStore,
    attempt: impl FnMut() -> Result<T, ColdError>,
) -> Result<T, ColdError> {
    store.patience().attempt(&std::thread::sleep, attempt)
}

/// Why an object could not be stored, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ColdError {
    /// There is no object of this key.
    #[error("{place} has no object {key}")]
    Missing {
        /// The store.
        place: String,
        /// The object.
        key: String,
    },
    /// The tape has objects in a cold tier, and nobody has said where that is.
    #[error("{key} is in the cold tier, and no cold tier is configured")]
    NotConfigured {
        /// The object.
        key: String,
    },
    /// The store did not answer, or refused.
    #[error("{place}: cannot {operation} {key}: {source}")]
    Failed {
        /// The store.
        place: String,
        /// What was tried.
        operation: &'static str,
        /// The object.
        key: String,
        /// The answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ColdError {
    /// Whether another attempt could go better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::NotConfigured { .. } => false,
            Self::Failed { .. } => true,
        }
    }
}

/// An event table in the cold tier, as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColdObject {
    /// The table's file number.
    pub number: u64,
    /// The object's length: the file's.
    pub bytes: u64,
    /// BLAKE3 over it.
    pub hash: [u8; 32],
    /// Under which key; never the whole address, so that a store can be moved or mirrored.
    pub key: String,
}

impl ColdObject {
    /// Whether the fields are such as [`push`] writes: a key that cannot lead out of its place.
    pub(crate) fn is_possible(&self) -> bool {
        let part = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        self.key.len() <= COLD_KEY_BYTES_MAX && self.key.split('/').all(part)
    }
}

/// The cold tier of a store that has none: whatever is asked of it names the object and what is missing.
#[derive(Debug)]
pub(crate) struct NoCold;

impl NoCold {
    fn refuse<T>(key: &str) -> Result<T, ColdError> {
        Err(ColdError::NotConfigured { key: key.to_owned() })
    }
}

impl ColdStore for NoCold {
    fn place(&self) -> &str {
        "cold"
    }

    fn put(&self, key: &str, _: &mut dyn Read, _: u64) -> Result<(), ColdError> {
        Self::refuse(key)
    }

    fn get_range(&self, key: &str, _: u64, _: &mut [u8]) -> Result<usize, ColdError> {
        Self::refuse(key)
    }

    fn head(&self, key: &str) -> Result<u64, ColdError> {
        Self::refuse(key)
    }

    fn delete(&self, key: &str) -> Result<(), ColdError> {
        Self::refuse(key)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn failed() -> ColdError {
        let (place, key) = ("x".to_owned(), "y".to_owned());
        ColdError::Failed { place, operation: "read", key, source: "busy".into() }
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_a_bounded_number_of_times_with_growing_pauses() {
        let pauses = RefCell::new(Vec::new());
        let tried = Cell::new(0);
        let pause = |wait: Duration| pauses.borrow_mut().push(wait.as_millis());
        let outcome: Result<(), ColdError> = Patience::default().attempt(&pause, || {
            tried.set(tried.get() + 1);
            Err(failed())
        });
        assert!(matches!(outcome, Err(ColdError::Failed { .. })));
        assert_eq!((tried.get(), pauses.take()), (4, vec![100, 400, 1600]));
    }

    #[test]
    fn a_failure_that_passes_is_not_noticed_and_one_that_cannot_pass_is_not_tried_again() {
        let tried = Cell::new(0);
        let third = Patience::default().attempt(&|_| {}, || {
            tried.set(tried.get() + 1);
            if tried.get() < 3 { Err(failed()) } else { Ok(7) }
        });
        assert_eq!(third.ok(), Some(7));
        tried.set(0);
        let missing: Result<(), ColdError> = Patience::default().attempt(&|_| panic!("no pause"), || {
            tried.set(tried.get() + 1);
            Err(ColdError::Missing { place: "x".to_owned(), key: "y".to_owned() })
        });
        assert!(missing.is_err());
        assert_eq!(tried.get(), 1);
    }

    #[test]
    fn a_key_that_could_lead_elsewhere_is_impossible() {
        let object = |key: &str| ColdObject { number: 1, bytes: 1, hash: [0; 32], key: key.to_owned() };
        assert!(object("00000000000000ab/0000000000000001-0011223344556677.events").is_possible());
        for key in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "a\\b", "a\0", "ä"] {
            assert!(!object(key).is_possible(), "{key:?}");
        }
        assert!(!object(&"a".repeat(256)).is_possible());
    }
}
