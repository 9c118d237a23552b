//! The user header of every sample: who sent it, where it belongs on the tape, how far each stage is.
//!
//! It lives in memory another process writes, so nothing in it is believed before [`SampleHeader::check`] and,
//! for frames, before it has been compared with the frame's own header.

use iceoryx2::prelude::ZeroCopySend;
use matchtape_schemas::{Epoch, Sequence, TapeId, Watermarks};

use crate::error::BadSample;

/// The layout below. Another version is another bus: it is also an attribute of the service, compared on opening.
pub(crate) const FORMAT_VERSION: u32 = 3;

const KIND_FRAME: u32 = 1;
const KIND_HEARTBEAT: u32 = 2;
const KIND_RETRACT: u32 = 3;

/// What a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleKind {
    Frame,
    Heartbeat,
    Retract,
}

/// What precedes the payload of every sample.
///
/// `first_sequence` and `count` by kind: a frame's events; for a heartbeat the next sequence this service will carry
/// and zero; for a retraction the events taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ZeroCopySend)]
#[type_name("matchtape::bus::SampleHeader")]
#[repr(C)]
pub(crate) struct SampleHeader {
    pub format_version: u32,
    pub kind: u32,
    pub tape: u64,
    pub epoch: u64,
    /// One per opened publisher, greater for a later one: see `incarnation()` in publisher.rs.
    pub incarnation: u64,
    pub first_sequence: u64,
    pub count: u64,
    /// The frame's mask of event kinds.
    pub kinds: u64,
    /// Bytes of the payload that are the frame; the rest of the last block is zero.
    pub length: u64,
    pub accepted: u64,
    pub written: u64,
    pub durable: u64,
    pub replicated: u64,
    pub visible: u64,
    /// Where the tape ended when this publisher was opened, and the checksum of its frame there: by these a subscriber of
    /// its predecessor knows what of its events has survived.
    pub recovered: u64,
    pub recovered_checksum: u64,
}

const _: () = assert!(size_of::<SampleHeader>() == 120, "no padding, and the format version changes with it");

impl SampleKind {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Frame => KIND_FRAME,
            Self::Heartbeat => KIND_HEARTBEAT,
            Self::Retract => KIND_RETRACT,
        }
    }
}

impl SampleHeader {
    pub(crate) fn set_watermarks(&mut self, watermarks: &Watermarks) {
        self.accepted = watermarks.accepted.get();
        self.written = watermarks.written.get();
        self.durable = watermarks.durable.get();
        self.replicated = watermarks.replicated.get();
        self.visible = watermarks.visible.get();
    }

    pub(crate) fn watermarks(&self) -> Watermarks {
        Watermarks {
            accepted: Sequence(self.accepted),
            written: Sequence(self.written),
            durable: Sequence(self.durable),
            replicated: Sequence(self.replicated),
            visible: Sequence(self.visible),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    pub(crate) fn first(&self) -> Sequence {
        Sequence(self.first_sequence)
    }

    /// The position after this sample's events. Only meaningful after [`Self::check`], which rules out overflow.
    pub(crate) fn end(&self) -> Sequence {
        Sequence(self.first_sequence + self.count)
    }

    /// Whether this is a sample of `tape` in a form this code knows, with `payload_bytes` of payload.
    pub(crate) fn check(&self, tape: TapeId, payload_bytes: usize) -> Result<SampleKind, BadSample> {
        if self.format_version != FORMAT_VERSION {
            return Err(BadSample::FormatVersion { found: self.format_version, expected: FORMAT_VERSION });
        }
        if self.tape != tape.get() {
            return Err(BadSample::Tape { found: TapeId(self.tape), expected: tape });
        }
        if self.first_sequence == 0 || self.first_sequence.checked_add(self.count).is_none() {
            return Err(BadSample::Range { first: self.first_sequence, count: self.count });
        }
        if self.length > payload_bytes as u64 {
            return Err(BadSample::Length { claimed: self.length, payload: payload_bytes });
        }
        let (kind, has_events, has_payload) = match self.kind {
            KIND_FRAME => (SampleKind::Frame, true, true),
            KIND_HEARTBEAT => (SampleKind::Heartbeat, false, false),
            KIND_RETRACT => (SampleKind::Retract, true, false),
            found => return Err(BadSample::Kind { found }),
        };
        if (self.count != 0) != has_events {
            return Err(BadSample::Range { first: self.first_sequence, count: self.count });
        }
        if (self.length != 0) != has_payload {
            return Err(BadSample::Length { claimed: self.length, payload: payload_bytes });
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> SampleHeader {
        SampleHeader {
            format_version: FORMAT_VERSION,
            kind: KIND_FRAME,
            tape: 7,
            epoch: 1,
            incarnation: 1,
            first_sequence: 5,
            count: 2,
            length: 160,
            ..SampleHeader::default()
        }
    }

    #[test]
    fn every_field_that_is_used_is_checked_first() {
        assert_eq!(frame().check(TapeId(7), 160), Ok(SampleKind::Frame));
        let heartbeat = SampleHeader { kind: KIND_HEARTBEAT, count: 0, length: 0, ..frame() };
        assert_eq!(heartbeat.check(TapeId(7), 0), Ok(SampleKind::Heartbeat));
        let retract = SampleHeader { kind: KIND_RETRACT, length: 0, ..frame() };
        assert_eq!(retract.check(TapeId(7), 0), Ok(SampleKind::Retract));

        let bad = [
            SampleHeader { format_version: 1, ..frame() },
            SampleHeader { tape: 8, ..frame() },
            SampleHeader { kind: 4, ..frame() },
            SampleHeader { first_sequence: 0, ..frame() },
            SampleHeader { count: 0, ..frame() },
            SampleHeader { count: u64::MAX, ..frame() },
            SampleHeader { length: 161, ..frame() },
            SampleHeader { length: 0, ..frame() },
            SampleHeader { count: 1, ..heartbeat },
            SampleHeader { length: 16, ..heartbeat },
            SampleHeader { count: 0, ..retract },
        ];
        for header in bad {
            assert!(header.check(TapeId(7), 160).is_err(), "{header:?}");
        }
    }

    #[test]
    fn watermarks_survive_the_header() {
        let watermarks = Watermarks {
            accepted: Sequence(5),
            written: Sequence(4),
            durable: Sequence(3),
            replicated: Sequence(2),
            visible: Sequence(1),
        };
        let mut header = SampleHeader::default();
        header.set_watermarks(&watermarks);
        assert_eq!(header.watermarks(), watermarks);
    }
}
