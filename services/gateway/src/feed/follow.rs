//! The market thread: reads what became visible, folds it, waits for more.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use matchtape_client::{busted_trade, settle};
use matchtape_market::{Bust, Found};
use matchtape_schemas::{Kind, KindMask, Projection, Sequence, Watermarks};
use matchtape_storage::{FrameCursor, FrameHandle, ReadError, Reader};
use tokio::sync::watch;

use super::state::{Feed, Folded};
use crate::config::Limits;

/// Frames folded while the market's lock is held once: about a millisecond.
const STEP_FRAMES: usize = 8;

/// The running market thread.
pub(crate) struct Follower {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// The feed could not start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// The tape could not be read.
    #[error("the feed cannot start: {0}")]
    Read(#[from] ReadError),
    /// The tape's beginning is gone and no snapshot has the books.
    #[error(
        "the feed cannot start: the tape is kept from sequence {first_kept} on and no snapshot has the section \
         \"{section}\"; register the market projections with the store, or restore an older snapshot"
    )]
    NoSnapshot {
        /// The first event there is.
        first_kept: Sequence,
        /// What is missing.
        section: &'static str,
    },
    /// No thread.
    #[error("the feed's thread cannot start: {0}")]
    Thread(std::io::Error),
}

impl Follower {
    /// Restores the market from the newest snapshot and follows the tape from there. Must be called in a runtime.
    pub(crate) fn start(
        reader: Reader,
        tail: watch::Receiver<Watermarks>,
        limits: &Limits,
    ) -> Result<(Self, Arc<Feed>), StartError> {
        let feed = Arc::new(Feed::new(restore(&reader)?, limits));
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Handle::current();
        let followed = feed.clone();
        let run = move || {
            // A panic has to reach the clients too: silence would look like an idle tape.
            let followed_through =
                catch_unwind(AssertUnwindSafe(|| follow(&followed, &reader, tail, stopped, &runtime)));
            match followed_through {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the feed stops");
                    followed.fail(&error.to_string());
                }
                Err(panic) => {
                    followed.fail("the feed's thread panicked");
                    resume_unwind(panic);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("matchtape-market".to_owned())
            .spawn(run)
            .map_err(StartError::Thread)?;
        Ok((Self { stop, thread: Some(thread) }, feed))
    }

    /// Stops following and waits for the thread.
    pub(crate) fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic was reported to everybody when it happened.
            let _ = thread.join();
        }
    }
}

/// The market as of the newest snapshot, or the empty one before the first event.
fn restore(reader: &Reader) -> Result<Folded, StartError> {
    let mut folded = Folded::empty();
    let mut missing = folded.books.name();
    if let Some(snapshot) = reader.snapshot_before(reader.visible())? {
        let Folded { books, instruments, tickers, .. } = &mut folded;
        let mut restored = true;
        for projection in [books as &mut dyn Projection, instruments, tickers] {
            let done = match snapshot.restore(projection) {
                Some(Ok(())) => true,
                Some(Err(error)) => {
                    tracing::warn!(%error, "a snapshot section is not used");
                    false
                }
                None => false,
            };
            if !done {
                missing = projection.name();
                restored = false;
            }
        }
        if restored {
            settle(reader, &mut folded.tickers, snapshot.sequence())?;
            return Ok(Folded { position: snapshot.sequence(), ..folded });
        }
    }
    let first_kept = reader.first_kept();
    if first_kept > Sequence::FIRST {
        return Err(StartError::NoSnapshot { first_kept, section: missing });
    }
    Ok(Folded::empty())
}

fn follow(
    feed: &Feed,
    reader: &Reader,
    mut tail: watch::Receiver<Watermarks>,
    mut stopped: watch::Receiver<bool>,
    runtime: &tokio::runtime::Handle,
) -> Result<(), ReadError> {
    let position = feed.head().borrow().position;
    let mut cursor = reader.frames(position.next())?;
    let mut frames = Vec::with_capacity(STEP_FRAMES);
    let mut goes_on = true;
    loop {
        while read_step(&mut cursor, &mut frames)? {
            // Read before the market's lock is taken: nobody waits for the disk.
            feed.fold(&frames, &busted(reader, &frames));
            frames.clear();
            if *stopped.borrow() {
                return Ok(());
            }
        }
        if !goes_on {
            feed.end();
            return Ok(());
        }
        goes_on = runtime.block_on(async {
            tokio::select! {
                // An error: the node is gone. What it made visible before is still read, above.
                changed = tail.changed() => changed.is_ok(),
                _ = stopped.wait_for(|stop| *stop) => false,
            }
        });
    }
}

/// What the trades were that these frames take back, by the position of the bust. The books go on without one that cannot be
/// read, and its ticker says so.
fn busted(reader: &Reader, frames: &[FrameHandle]) -> Vec<(Sequence, Found)> {
    let mut busted = Vec::new();
    let kinds = KindMask::of(&[Kind::TradeBusted]);
    for frame in frames.iter().filter(|frame| kinds.intersects(frame.frame().header().kinds)) {
        for bust in frame.frame().events().filter_map(|event| Bust::of(&event)) {
            let found = busted_trade(reader, &bust).unwrap_or_else(|error| {
                tracing::warn!(bust = %bust.at, %error, "the trade that was taken back cannot be read: its ticker counts it");
                Found::Unreadable
            });
            busted.push((bust.at, found));
        }
    }
    busted
}

/// Adds frames up to the end of a group; `false` when there is none to take in now. Frames of a group that has no end
/// yet stay for the next time.
fn read_step(cursor: &mut FrameCursor, frames: &mut Vec<FrameHandle>) -> Result<bool, ReadError> {
    while let Some(frame) = cursor.next_frame()? {
        let ends_group = frame.frame().header().ends_group();
        frames.push(frame);
        if ends_group && frames.len() >= STEP_FRAMES {
            break;
        }
    }
    Ok(frames.last().is_some_and(|last| last.frame().header().ends_group()))
}
