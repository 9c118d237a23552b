//! Cleaning up behind processes that were killed: their slots, queues and segments.
//!
//! Any process of the bus may run this; one per machine and namespace is enough, more do no harm. It never runs on a
//! publisher's or subscriber's thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeCleanupFailure, NodeState};
use iceoryx2::prelude::{CallbackProgression, ipc};

use crate::error::BusError;
use crate::name::BusName;
use crate::presence;

/// iceoryx2 lets one thread of a process clean at a time, and one process at a node. How long to wait for the others.
const OTHERS_CLEANING_MAX: Duration = Duration::from_secs(1);

/// What one pass has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Dead participants whose remains were removed.
    pub removed: u64,
    /// Dead participants whose remains could not be removed (permissions, another version); tried again next time.
    pub failed: u64,
    /// Files that were nobody's any more, of a namespace that nobody was in.
    pub abandoned: u64,
}

/// A thread that removes the remains of killed participants, at once and then at every interval, until dropped.
#[derive(Debug)]
pub struct Liveness {
    removed: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Liveness {
    /// Starts it for everything in the namespace of `name`. One second is a good interval: until then a killed
    /// process keeps its slot, for which the spare slots are there.
    pub fn start(name: &BusName, interval: Duration) -> Result<Self, BusError> {
        let config = name.iceoryx_config()?;
        let name = name.clone();
        let (removed, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stop, stopped) = mpsc::channel::<()>();
        let counters = (Arc::clone(&removed), Arc::clone(&failed));
        let thread = std::thread::Builder::new()
            .name("bus-liveness".into())
            .spawn(move || {
                loop {
                    let cleaned = clean(&name, &config);
                    counters.0.fetch_add(cleaned.removed, Ordering::Relaxed);
                    counters.1.fetch_add(cleaned.failed, Ordering::Relaxed);
                    if stopped.recv_timeout(interval) != Err(mpsc::RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })
            .map_err(|error| BusError::Internal {
                doing: "starting the liveness thread",
                cause: error.to_string(),
            })?;
        Ok(Self { removed, failed, stop: Some(stop), thread: Some(thread) })
    }

    /// Everything since the start.
    #[must_use]
    pub fn cleaned(&self) -> Cleaned {
        Cleaned {
            removed: self.removed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            // Its own process is there.
            abandoned: 0,
        }
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed; there is nothing to add while dropping.
            let _ = thread.join();
        }
    }
}

/// One pass, on the calling thread: never a publisher's. Where nobody is in the namespace then, in no process, it takes along all
/// that is left there.
pub fn clean_dead_participants(name: &BusName) -> Result<Cleaned, BusError> {
    let cleaned = clean(name, &name.iceoryx_config()?);
    Ok(Cleaned { abandoned: presence::remove_abandoned(name)?, ..cleaned })
}

fn clean(name: &BusName, config: &Config) -> Cleaned {
    let mut cleaned = Cleaned::default();
    // Before: cleaning up could wait for one of them for ever. And what is left of a dead node's, of the last pass.
    presence::remove_half_made(name, config);
    let listed = Node::<ipc::Service>::list(config, |node| {
        if let NodeState::Dead(dead) = node {
            match dead.blocking_remove_stale_resources(OTHERS_CLEANING_MAX) {
                Ok(()) => cleaned.removed += 1,
                // Somebody else is at it.
                Err(
                    NodeCleanupFailure::ResourcesAlreadyCleanedUp
                    | NodeCleanupFailure::AnotherInstanceIsCleaningUpTheNode,
                ) => (),
                Err(
                    NodeCleanupFailure::Interrupt
                    | NodeCleanupFailure::InternalError
                    | NodeCleanupFailure::InsufficientPermissions
                    | NodeCleanupFailure::VersionMismatch,
                ) => cleaned.failed += 1,
            }
        }
        CallbackProgression::Continue
    });
    if listed.is_err() {
        cleaned.failed += 1;
    }
    cleaned
}
