//! A segment file: its name, its header, its sealed footer. `ON_DISK.md` draws them.
//!
//! The header is written, and synced, only after the segment before it was sealed and synced; so the mere existence of a
//! header proves everything before it. It carries the tape's [`Head`], so that a segment can be read alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use matchtape_schemas::{AcceptedTime, Epoch, EventTime, Head, KindMask, Sequence, TapeId};

use super::block::hex;
use super::bytes::{array, checksums, i64_at, put, seal, u16_at, u64_at};
use crate::disk::BLOCK_BYTES;

/// The header's and the footer's meaningful bytes; the rest of their block is zero. Within one sector, so that a
/// device that writes sectors whole never tears them.
pub(super) const SEAL_BYTES: usize = 256;
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"MTSEGMNT";
pub(super) const FOOTER_MAGIC: [u8; 8] = *b"MTFOOTER";
const SPARE_MAGIC: [u8; 8] = *b"MTSPARE\0";
/// Said by a header and by a spare's mark: the file was a segment before.
const FLAG_RECYCLED: u8 = 1;
pub(super) const SEGMENT_VERSION: u16 = 1;
/// Where the first commit block starts.
pub(super) const SEGMENT_START: u64 = BLOCK_BYTES as u64;

const _: () = assert!(SEAL_BYTES <= 512);

/// The random identity of one segment file: every commit block in it repeats it, so that no bytes of another file, or of
/// an earlier life of this one, can pass for its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentId(pub(crate) [u8; 16]);

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// The deployment a tape belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterId(pub u64);

/// The place of a segment in the chain, from 1; also its file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The first segment of every log.
    pub const FIRST: Self = Self(1);

    /// The segment after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The file's path below the log's directory.
    pub fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:012}.wal", self.0))
    }

    /// Where a segment is prepared, before it takes its name.
    pub(super) fn preparing_path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:012}.wal.new", self.0))
    }

    /// What a released segment's file is called while it waits for being used again.
    pub(super) fn free_path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:012}.wal.free", self.0))
    }

    /// The number a file name states; `None` for other files.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".wal")?;
        if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok()?;
        (number > 0).then_some(Self(number))
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// BLAKE3 over the bytes of all frames of a segment, in order, and nothing else: equal on every replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentRoot(pub [u8; 32]);

impl SegmentRoot {
    /// What the first segment of a log names as the root before it.
    pub const NONE: Self = Self([0; 32]);
}

/// From 64 hexadecimal digits, as it is displayed.
impl FromStr for SegmentRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut root = [0; 32];
        let digits = text.as_bytes();
        let wrong = || format!("{text:?} is not a root: 64 hexadecimal digits");
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(wrong());
        }
        for (byte, pair) in root.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).expect("digits");
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(root))
    }
}

impl fmt::Display for SegmentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SegmentRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first block of a segment, as native values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub id: SegmentId,
    pub cluster: ClusterId,
    pub number: SegmentNumber,
    /// Where the tape stood when the segment began: its first event is the one after.
    pub head: Head,
    pub previous_root: SegmentRoot,
    pub previous_id: SegmentId,
    pub incarnation: u64,
    /// The file was a segment before: behind this segment's blocks stand blocks of an earlier life, which mean nothing.
    pub recycled: bool,
}

/// The first block of a prepared segment: its presence proves that the segment was not begun, whatever stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpareMark {
    pub number: SegmentNumber,
    pub recycled: bool,
}

impl SpareMark {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..SEAL_BYTES];
        out.fill(0);
        put(out, 0, &SPARE_MAGIC);
        put(out, 8, &SEGMENT_VERSION.to_le_bytes());
        put(out, 16, &self.number.0.to_le_bytes());
        out[24] = if self.recycled { FLAG_RECYCLED } else { 0 };
        seal(out);
    }

    /// `None`: another kind of block, or a damaged mark.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = open_seal(bytes, &SPARE_MAGIC, "mark of a prepared segment", 25).ok()?;
        let recycled = flag(bytes[24])?;
        Some(Self { number: SegmentNumber(u64_at(bytes, 16)), recycled })
    }
}

fn flag(byte: u8) -> Option<bool> {
    (byte & !FLAG_RECYCLED == 0).then_some(byte == FLAG_RECYCLED)
}

/// The last block of a sealed segment, as native values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub id: SegmentId,
    pub first_sequence: Sequence,
    /// Where the tape stood when the segment ended; the tape itself is the header's.
    pub head: Head,
    pub totals: SegmentTotals,
    pub root: SegmentRoot,
}

/// What a segment's frames add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentTotals {
    /// Commit blocks, idle ones included.
    pub commits: u64,
    /// Frames.
    pub frames: u64,
    /// Events.
    pub events: u64,
    /// Bytes of all frames.
    pub frame_bytes: u64,
    /// The smallest event time, `i64::MAX` without events.
    pub min_event_time: EventTime,
    /// The greatest event time of this segment's events, `i64::MIN` without events.
    pub max_event_time: EventTime,
    /// The accepted time of the first frame, zero without frames.
    pub first_accepted_time: AcceptedTime,
    /// The kinds inside.
    pub kinds: KindMask,
}

/// Why bytes are not the header or footer they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SealError {
    Damaged { part: &'static str, expected: String, found: String },
    Version(u16),
}

impl SegmentHeader {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..SEAL_BYTES];
        out.fill(0);
        put(out, 0, &SEGMENT_MAGIC);
        put(out, 8, &SEGMENT_VERSION.to_le_bytes());
        put(out, 16, &self.id.0);
        put(out, 32, &self.cluster.0.to_le_bytes());
        put(out, 40, &self.head.tape.0.to_le_bytes());
        put(out, 48, &self.number.0.to_le_bytes());
        put(out, 56, &self.head.epoch.0.to_le_bytes());
        put(out, 64, &self.head.last_sequence.next().0.to_le_bytes());
        put(out, 72, &self.previous_root.0);
        put(out, 104, &self.previous_id.0);
        put(out, 120, &self.incarnation.to_le_bytes());
        put(out, 128, &self.head.checksum.to_le_bytes());
        put(out, 136, &self.head.accepted_time.0.to_le_bytes());
        put(out, 144, &self.head.max_event_time.0.to_le_bytes());
        out[152] = if self.recycled { FLAG_RECYCLED } else { 0 };
        seal(out);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let bytes = open_seal(bytes, &SEGMENT_MAGIC, "segment header", 153)?;
        let first_sequence = u64_at(bytes, 64);
        let number = u64_at(bytes, 48);
        if first_sequence == 0 || number == 0 {
            let found = format!("segment {number} from sequence {first_sequence}");
            return Err(damaged("segment header", "numbers from 1".to_owned(), found));
        }
        let Some(recycled) = flag(bytes[152]) else {
            return Err(damaged("segment header", "flags 0 or 1".to_owned(), bytes[152].to_string()));
        };
        Ok(Self {
            id: SegmentId(array(bytes, 16)),
            cluster: ClusterId(u64_at(bytes, 32)),
            number: SegmentNumber(number),
            head: Head {
                tape: TapeId(u64_at(bytes, 40)),
                epoch: Epoch(u64_at(bytes, 56)),
                last_sequence: Sequence(first_sequence - 1),
                checksum: u64_at(bytes, 128),
                accepted_time: AcceptedTime(i64_at(bytes, 136)),
                max_event_time: EventTime(i64_at(bytes, 144)),
            },
            previous_root: SegmentRoot(array(bytes, 72)),
            previous_id: SegmentId(array(bytes, 104)),
            incarnation: u64_at(bytes, 120),
            recycled,
        })
    }
}

impl Footer {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..SEAL_BYTES];
        out.fill(0);
        put(out, 0, &FOOTER_MAGIC);
        put(out, 8, &SEGMENT_VERSION.to_le_bytes());
        put(out, 16, &self.id.0);
        put(out, 32, &self.first_sequence.0.to_le_bytes());
        put(out, 40, &self.head.last_sequence.0.to_le_bytes());
        put(out, 48, &self.head.tape.0.to_le_bytes());
        put(out, 56, &self.head.epoch.0.to_le_bytes());
        put(out, 64, &self.head.checksum.to_le_bytes());
        put(out, 72, &self.head.accepted_time.0.to_le_bytes());
        put(out, 80, &self.head.max_event_time.0.to_le_bytes());
        put(out, 88, &self.totals.commits.to_le_bytes());
        put(out, 96, &self.totals.frames.to_le_bytes());
        put(out, 104, &self.totals.events.to_le_bytes());
        put(out, 112, &self.totals.frame_bytes.to_le_bytes());
        put(out, 120, &self.totals.min_event_time.0.to_le_bytes());
        put(out, 128, &self.totals.max_event_time.0.to_le_bytes());
        put(out, 136, &self.totals.first_accepted_time.0.to_le_bytes());
        put(out, 144, &self.totals.kinds.0.to_le_bytes());
        put(out, 152, &self.root.0);
        seal(out);
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        let bytes = open_seal(bytes, &FOOTER_MAGIC, "segment footer", 184)?;
        let footer = Self {
            id: SegmentId(array(bytes, 16)),
            first_sequence: Sequence(u64_at(bytes, 32)),
            head: Head {
                tape: TapeId(u64_at(bytes, 48)),
                epoch: Epoch(u64_at(bytes, 56)),
                last_sequence: Sequence(u64_at(bytes, 40)),
                checksum: u64_at(bytes, 64),
                accepted_time: AcceptedTime(i64_at(bytes, 72)),
                max_event_time: EventTime(i64_at(bytes, 80)),
            },
            totals: SegmentTotals {
                commits: u64_at(bytes, 88),
                frames: u64_at(bytes, 96),
                events: u64_at(bytes, 104),
                frame_bytes: u64_at(bytes, 112),
                min_event_time: EventTime(i64_at(bytes, 120)),
                max_event_time: EventTime(i64_at(bytes, 128)),
                first_accepted_time: AcceptedTime(i64_at(bytes, 136)),
                kinds: KindMask(u64_at(bytes, 144)),
            },
            root: SegmentRoot(array(bytes, 152)),
        };
        let (first, last) = (footer.first_sequence.0, footer.head.last_sequence.0);
        if first == 0 || last < first || last - first != footer.totals.events.wrapping_sub(1) {
            let expected = "as many events as sequences".to_owned();
            return Err(damaged(
                "segment footer",
                expected,
                format!("{first}..={last}, {}", footer.totals.events),
            ));
        }
        Ok(footer)
    }
}

fn damaged(part: &'static str, expected: String, found: String) -> SealError {
    SealError::Damaged { part, expected, found }
}

/// Checks what header and footer have in common; `used` is where their fields end.
fn open_seal<'a>(
    bytes: &'a [u8],
    magic: &[u8; 8],
    part: &'static str,
    used: usize,
) -> Result<&'a [u8], SealError> {
    if bytes.len() < SEAL_BYTES {
        return Err(damaged(part, format!("{SEAL_BYTES} bytes"), format!("{} bytes", bytes.len())));
    }
    let bytes = &bytes[..SEAL_BYTES];
    if bytes[..8] != *magic {
        return Err(damaged(part, format!("magic {}", hex(magic)), hex(&bytes[..8])));
    }
    let (stated, computed) = checksums(bytes);
    if stated != computed {
        return Err(damaged(part, format!("checksum {stated:08x}"), format!("{computed:08x}")));
    }
    let version = u16_at(bytes, 8);
    if version != SEGMENT_VERSION {
        return Err(SealError::Version(version));
    }
    if bytes[10..16].iter().chain(&bytes[used..SEAL_BYTES - 4]).any(|byte| *byte != 0) {
        return Err(damaged(part, "zeros in reserved bytes".to_owned(), "other bytes".to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn headers()(
            ids: [[u8; 16]; 2], root: [u8; 32], numbers: [u64; 6], first in 1_u64..u64::MAX, number in 1_u64..u64::MAX,
            times: [i64; 2],
        ) -> SegmentHeader {
            SegmentHeader {
                id: SegmentId(ids[0]),
                cluster: ClusterId(numbers[0]),
                number: SegmentNumber(number),
                head: Head {
                    tape: TapeId(numbers[1]),
                    epoch: Epoch(numbers[2]),
                    last_sequence: Sequence(first - 1),
                    checksum: numbers[3],
                    accepted_time: AcceptedTime(times[0]),
                    max_event_time: EventTime(times[1]),
                },
                previous_root: SegmentRoot(root),
                previous_id: SegmentId(ids[1]),
                incarnation: numbers[4],
                recycled: numbers[0] % 2 == 1,
            }
        }
    }

    prop_compose! {
        fn footers()(
            header in headers(), count in 1_u64..1 << 40, numbers: [u64; 5], times: [i64; 3], first in 1_u64..1 << 60,
        ) -> Footer {
            Footer {
                id: header.id,
                first_sequence: Sequence(first),
                head: Head { last_sequence: Sequence(first + count - 1), ..header.head },
                totals: SegmentTotals {
                    commits: numbers[0],
                    frames: numbers[1],
                    events: count,
                    frame_bytes: numbers[2],
                    min_event_time: EventTime(times[0]),
                    max_event_time: EventTime(times[1]),
                    first_accepted_time: AcceptedTime(times[2]),
                    kinds: KindMask(numbers[3]),
                },
                root: header.previous_root,
            }
        }
    }

    proptest! {
        #[test]
        fn headers_and_footers_survive_their_own_encoding(header in headers(), footer in footers()) {
            let mut bytes = [0xAA; SEAL_BYTES];
            header.encode(&mut bytes);
            prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            footer.encode(&mut bytes);
            prop_assert_eq!(Footer::decode(&bytes), Ok(footer));
            prop_assert!(SegmentHeader::decode(&bytes).is_err(), "a footer is not a header");
        }

        #[test]
        fn any_flipped_bit_is_noticed(
            header in headers(), footer in footers(), at in 0..SEAL_BYTES, bit in 0..8,
        ) {
            let mut bytes = [0; SEAL_BYTES];
            header.encode(&mut bytes);
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
            footer.encode(&mut bytes);
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Footer::decode(&bytes).is_err());
            bytes[at] ^= 1_u8 << bit;
            let mark = SpareMark { number: header.number, recycled: header.recycled };
            mark.encode(&mut bytes);
            prop_assert_eq!(SpareMark::decode(&bytes), Some(mark));
            prop_assert!(SegmentHeader::decode(&bytes).is_err(), "a mark is not a header");
            bytes[at] ^= 1_u8 << bit;
            prop_assert_eq!(SpareMark::decode(&bytes), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), magic in 0_u8..3) {
            if bytes.len() >= SEAL_BYTES {
                let magics = [&FOOTER_MAGIC, &SEGMENT_MAGIC, &SPARE_MAGIC];
                put(&mut bytes, 0, magics[usize::from(magic)]);
                put(&mut bytes, 8, &SEGMENT_VERSION.to_le_bytes());
                seal(&mut bytes[..SEAL_BYTES]);
            }
            let _ = SegmentHeader::decode(&bytes);
            let _ = Footer::decode(&bytes);
            let _ = SpareMark::decode(&bytes);
        }
    }

    #[test]
    fn a_newer_version_is_named_as_such() {
        let mut bytes = [0; SEAL_BYTES];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, 8, &7_u16.to_le_bytes());
        seal(&mut bytes);
        assert_eq!(SegmentHeader::decode(&bytes), Err(SealError::Version(7)));
    }

    #[test]
    fn names_carry_numbers_and_nothing_else_passes_for_one() {
        let path = SegmentNumber(42).path(Path::new("wal"));
        assert_eq!(path, Path::new("wal/000000000042.wal"));
        assert_eq!(SegmentNumber::from_name("000000000042.wal"), Some(SegmentNumber(42)));
        for name in [
            "000000000042.wal.new",
            "42.wal",
            "000000000000.wal",
            "00000000004x.wal",
            "+00000000042.wal",
            "LOCK",
        ] {
            assert_eq!(SegmentNumber::from_name(name), None, "{name}");
        }
    }
}
