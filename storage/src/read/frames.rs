//! Bulk reading: whole frames, byte for byte, across tables and memory.

use std::sync::Arc;

use matchtape_schemas::Sequence;

use super::ReadError;
use super::view::Shared;
use crate::chunk::{Chunk, FrameHandle};
use crate::sstable::Caller;

/// Frames in order. It does not end: when it has given everything visible it says `None`, and goes on later.
#[derive(Debug)]
pub struct FrameCursor {
    shared: Arc<Shared>,
    next: Sequence,
    current: Option<(Arc<Chunk>, usize)>,
    /// Compressed bytes of the block being read.
    buffer: Vec<u8>,
}

impl FrameCursor {
    pub(super) fn new(shared: Arc<Shared>, from: Sequence) -> Self {
        Self { shared, next: from, current: None, buffer: Vec::new() }
    }

    /// The first event that the next frame is to hold.
    pub fn position(&self) -> Sequence {
        self.next
    }

    /// The next frame; `None` if there is none that is wholly visible now.
    pub fn next_frame(&mut self) -> Result<Option<FrameHandle>, ReadError> {
        let visible = self.shared.visible.get();
        if self.next > visible {
            return Ok(None);
        }
        let (chunk, number) = match self.current.take() {
            Some((chunk, number)) if number < chunk.frames().len() => (chunk, number),
            Some(_) | None => {
                let view = self.shared.view();
                let first_kept = view.first_kept();
                if self.next < first_kept {
                    return Err(ReadError::BelowRetention { asked: self.next, first_kept });
                }
                let chunk = view.chunk_holding(self.next, Caller::Scan, &mut self.buffer)?;
                let number = chunk.frame_holding(self.next);
                (chunk, number)
            }
        };
        let last = chunk.frames()[number].header.last_sequence();
        if last > visible {
            // Inside a group larger than a frame whose end is not visible yet.
            self.current = Some((chunk, number));
            return Ok(None);
        }
        let frame = FrameHandle { chunk: Arc::clone(&chunk), number: number as u32 };
        self.next = last.next();
        self.current = Some((chunk, number + 1));
        Ok(Some(frame))
    }
}
