//! The bounded ring between producers and the pipeline. Claiming a slot IS sequencing.
//!
//! ```text
//!   position   0   1   2   3   4   5 ...        sequence = base + position
//!   producers claim here ->         ^tail       (compare-and-swap; one claim may take consecutive slots: a group)
//!   the pipeline reads here  ^head              (in order; a slot not yet filled holds it back)
//! ```
//!
//! Each slot has a stamp (after Vyukov's bounded queue): `position` = free for the producer that claims that position,
//! `position + 1` = filled, `position + capacity` = free for the next round. Producers never wait: a ring without room
//! refuses. Never allocates for events of up to [`SLOT_EVENT_BYTES`]; larger ones (reference data) are boxed, and of those
//! the ring holds [`LARGE_BYTES_MAX`] at most: they could be 300 times what its slots take.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use matchtape_schemas::Sequence;
use matchtape_schemas::event::{ALIGNMENT, EVENT_HEADER_BYTES};
use matchtape_schemas::limits::EVENT_BYTES_MAX;

use crate::publisher::GROUP_BYTES_MAX;

/// Events up to this size lie in the slot itself: every kind an exchange has many of.
pub const SLOT_EVENT_BYTES: usize = 160;
/// What larger events in the ring take together. Room for the largest group, so that an empty ring refuses none.
pub(crate) const LARGE_BYTES_MAX: usize = GROUP_BYTES_MAX;
/// Set in the tail once no position may be claimed any more.
const CLOSED: u64 = 1 << 63;

const _: () = assert!(EVENT_BYTES_MAX <= LARGE_BYTES_MAX, "an empty ring takes every event");
const _: () = assert!(size_of::<Slot>() == 192, "a slot is three cache lines");
const _: () =
    assert!(EVENT_HEADER_BYTES + 112 <= SLOT_EVENT_BYTES, "every order and trade event fits its slot");

#[repr(C, align(64))]
struct Slot {
    stamp: AtomicU64,
    event: UnsafeCell<SlotEvent>,
}

#[repr(C, align(16))]
struct SlotEvent {
    bytes: [u8; SLOT_EVENT_BYTES],
    boxed: Option<Box<[Chunk]>>,
}

/// Memory at a multiple of 16, for events that do not fit a slot.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Chunk([u8; ALIGNMENT]);

pub(crate) struct Ring {
    slots: Box<[Slot]>,
    mask: u64,
    base: Sequence,
    tail: CachePadded<AtomicU64>,
    /// Bytes of events larger than a slot, from before they are claimed until they are released. Touched by those alone.
    large_bytes: CachePadded<AtomicUsize>,
}

// SAFETY: a slot's event is written only by the producer that claimed its position (the compare-and-swap on `tail` gives
// each position to one claim) before it stamps the slot filled, and read and emptied only by the one `RingReader`
// afterwards, until that stamps it free. The stamps' Release/Acquire pairs order those accesses.
unsafe impl Sync for Ring {}

/// Why nothing was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    /// No such number of slots is free.
    Slots,
    /// Events larger than a slot take all the memory they may.
    LargeBytes,
    Closed,
}

/// What an event of `length` bytes takes beside its slot.
#[inline]
pub(crate) fn large_bytes(length: usize) -> usize {
    if length <= SLOT_EVENT_BYTES { 0 } else { length.next_multiple_of(ALIGNMENT) }
}

/// Consecutive positions that are this producer's to fill, all of them.
pub(crate) struct Claim<'a> {
    ring: &'a Ring,
    next: u64,
    end: u64,
}

impl Ring {
    /// A ring of `slots` (a power of two) whose first position gets the sequence after `head`.
    pub(crate) fn new(slots: usize, head: Sequence) -> Self {
        assert!(slots.is_power_of_two(), "ring slots are a power of two");
        let slots = (0..slots as u64)
            .map(|position| Slot {
                stamp: AtomicU64::new(position),
                event: UnsafeCell::new(SlotEvent { bytes: [0; SLOT_EVENT_BYTES], boxed: None }),
            })
            .collect::<Box<[Slot]>>();
        Self {
            mask: slots.len() as u64 - 1,
            slots,
            base: head.next(),
            tail: CachePadded::new(AtomicU64::new(0)),
            large_bytes: CachePadded::new(AtomicUsize::new(0)),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, position: u64) -> &Slot {
        &self.slots[(position & self.mask) as usize]
    }

    fn sequence(&self, position: u64) -> Sequence {
        Sequence(self.base.get() + position)
    }

    /// The last sequence that has been claimed: the `accepted` watermark.
    pub(crate) fn accepted(&self) -> Sequence {
        // Acquire: pairs with the Release half of `claim`'s exchange, so that who sees a claim sees what came before it.
        self.sequence(self.tail.load(Ordering::Acquire) & !CLOSED).previous()
    }

    /// Takes the next `count` positions, or none, for events with `large` [`large_bytes`] together.
    #[inline]
    pub(crate) fn claim(&self, count: usize, large: usize) -> Result<Claim<'_>, ClaimError> {
        if large == 0 {
            return self.claim_slots(count);
        }
        debug_assert!(large <= LARGE_BYTES_MAX, "no larger group is let in");
        // Relaxed, here and where it is given back: a count of memory, nothing is read on the strength of it.
        if self.large_bytes.fetch_add(large, Ordering::Relaxed) + large > LARGE_BYTES_MAX {
            self.large_bytes.fetch_sub(large, Ordering::Relaxed);
            return Err(ClaimError::LargeBytes);
        }
        self.claim_slots(count).inspect_err(|_| {
            self.large_bytes.fetch_sub(large, Ordering::Relaxed);
        })
    }

    #[inline]
    fn claim_slots(&self, count: usize) -> Result<Claim<'_>, ClaimError> {
        debug_assert!(count > 0 && count <= self.capacity());
        let count = count as u64;
        let mut tail = self.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED != 0 {
                return Err(ClaimError::Closed);
            }
            let last = tail + count - 1;
            // Acquire: pairs with the Release in `RingReader::release`; the reader has let go of the slot's last round.
            // Slots are freed in order, so when the last one is free, so are those before it.
            let stamp = self.slot(last).stamp.load(Ordering::Acquire);
            if stamp == last {
                match self.tail.compare_exchange_weak(tail, tail + count, Ordering::AcqRel, Ordering::Relaxed)
                {
                    Ok(_) => return Ok(Claim { ring: self, next: tail, end: tail + count }),
                    Err(now) => tail = now,
                }
            } else {
                let now = self.tail.load(Ordering::Relaxed);
                if now == tail {
                    return Err(ClaimError::Slots);
                }
                tail = now;
            }
        }
    }

    /// Ends claiming for good; what was claimed before is still read.
    pub(crate) fn close(&self) {
        self.tail.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// The number of positions ever claimed.
    pub(crate) fn claimed(&self) -> u64 {
        self.tail.load(Ordering::Acquire) & !CLOSED
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.tail.load(Ordering::Acquire) & CLOSED != 0
    }
}

impl Claim<'_> {
    /// The sequence of the next event to be filled in.
    #[inline]
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.ring.sequence(self.next)
    }

    /// Fills the next position with an event of `length` bytes, which `fill` writes in full; returns its sequence.
    ///
    /// `fill` must not panic: the pipeline would wait for the slot for ever.
    #[inline]
    pub(crate) fn fill(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) -> Sequence {
        assert!(self.next < self.end, "a claim is filled once");
        let slot = self.ring.slot(self.next);
        // SAFETY: this position was given to this claim alone (see `impl Sync`), and is not stamped filled yet.
        let event = unsafe { &mut *slot.event.get() };
        if length <= SLOT_EVENT_BYTES {
            fill(&mut event.bytes[..length]);
        } else {
            let mut chunks = vec![Chunk([0; ALIGNMENT]); length.div_ceil(ALIGNMENT)].into_boxed_slice();
            fill(&mut chunk_bytes_mut(&mut chunks)[..length]);
            // The length of a boxed event is found in its own header, as in the slot.
            event.boxed = Some(chunks);
        }
        let sequence = self.next_sequence();
        // Release: pairs with the Acquire in `RingReader::filled`; the event's bytes are there before the stamp.
        slot.stamp.store(self.next + 1, Ordering::Release);
        self.next += 1;
        sequence
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        debug_assert!(self.next == self.end || std::thread::panicking(), "every claimed position is filled");
    }
}

fn chunk_bytes(chunks: &[Chunk]) -> &[u8] {
    // SAFETY: a Chunk is exactly 16 initialised bytes without padding.
    unsafe { std::slice::from_raw_parts(chunks.as_ptr().cast(), chunks.len() * ALIGNMENT) }
}

fn chunk_bytes_mut(chunks: &mut [Chunk]) -> &mut [u8] {
    // SAFETY: as in `chunk_bytes`; the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(chunks.as_mut_ptr().cast(), chunks.len() * ALIGNMENT) }
}

/// The pipeline's end: reads filled positions in order and frees them. There is one per ring.
pub(crate) struct RingReader {
    ring: std::sync::Arc<Ring>,
    /// The next position to free.
    head: u64,
}

impl RingReader {
    pub(crate) fn new(ring: std::sync::Arc<Ring>) -> Self {
        Self { ring, head: 0 }
    }

    /// The event `ahead` positions after the next one to free, if it is filled.
    #[inline]
    pub(crate) fn filled(&self, ahead: usize) -> Option<&[u8]> {
        let position = self.head + ahead as u64;
        if ahead >= self.ring.capacity() {
            return None;
        }
        let slot = self.ring.slot(position);
        // Acquire: pairs with the Release in `Claim::fill`.
        if slot.stamp.load(Ordering::Acquire) != position + 1 {
            return None;
        }
        // SAFETY: the slot is stamped filled for this position; nobody writes it until this reader frees it, which takes
        // `&mut self` and so ends this borrow.
        let event = unsafe { &*slot.event.get() };
        let bytes = event.boxed.as_deref().map_or(&event.bytes[..], chunk_bytes);
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        Some(&bytes[..length])
    }

    /// Frees the next `count` positions, all of them filled, and the memory of the large events there.
    #[inline]
    pub(crate) fn release(&mut self, count: usize) {
        for _ in 0..count {
            let slot = self.ring.slot(self.head);
            debug_assert_eq!(
                slot.stamp.load(Ordering::Relaxed),
                self.head + 1,
                "only what was read is freed"
            );
            // SAFETY: as in `filled`, where this slot was seen as filled; what that lent has ended with `&mut self`.
            let event = unsafe { &mut *slot.event.get() };
            if let Some(chunks) = &event.boxed {
                self.ring.large_bytes.fetch_sub(chunks.len() * ALIGNMENT, Ordering::Relaxed);
                event.boxed = None;
            }
            // Release: pairs with the Acquire in `Ring::claim`; reading is over before the slot is free.
            slot.stamp.store(self.head + self.ring.capacity() as u64, Ordering::Release);
            self.head += 1;
        }
    }

    /// How many positions have been freed.
    pub(crate) fn released(&self) -> u64 {
        self.head
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn put(claim: &mut Claim<'_>, length: usize, mark: u64) -> Sequence {
        claim.fill(length, |out| {
            out.fill(mark as u8);
            out[0..4].copy_from_slice(&(length as u32).to_le_bytes());
            out[8..16].copy_from_slice(&mark.to_le_bytes());
        })
    }

    fn mark(event: &[u8]) -> u64 {
        u64::from_le_bytes(event[8..16].try_into().unwrap())
    }

    #[test]
    fn a_full_ring_refuses_and_nothing_is_claimed() {
        let ring = Arc::new(Ring::new(4, Sequence(10)));
        let mut reader = RingReader::new(Arc::clone(&ring));
        let mut claim = ring.claim(3, 0).unwrap();
        assert_eq!(
            (0..3).map(|at| put(&mut claim, 48, at)).collect::<Vec<_>>(),
            [Sequence(11), Sequence(12), Sequence(13)]
        );
        drop(claim);
        assert_eq!(ring.claim(2, 0).err(), Some(ClaimError::Slots));
        assert_eq!(ring.accepted(), Sequence(13));
        put(&mut ring.claim(1, 0).unwrap(), 48, 3);
        assert_eq!(ring.claim(1, 0).err(), Some(ClaimError::Slots));
        reader.release(2);
        put(&mut ring.claim(1, 0).unwrap(), 48, 4);
        assert_eq!((0..4).map_while(|ahead| reader.filled(ahead).map(mark)).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn an_unfilled_slot_holds_back_the_reader_but_not_other_producers() {
        let ring = Arc::new(Ring::new(8, Sequence::ZERO));
        let reader = RingReader::new(Arc::clone(&ring));
        let mut slow = ring.claim(1, 0).unwrap();
        put(&mut ring.claim(1, 0).unwrap(), 48, 1);
        assert!(reader.filled(0).is_none());
        assert_eq!(reader.filled(1).map(mark), Some(1));
        put(&mut slow, 48, 0);
        assert_eq!(reader.filled(0).map(mark), Some(0));
    }

    #[test]
    fn events_larger_than_a_slot_go_through_whole() {
        let ring = Arc::new(Ring::new(2, Sequence::ZERO));
        let mut reader = RingReader::new(Arc::clone(&ring));
        for round in 0..5u64 {
            let length = if round % 2 == 0 { 48 * 1024 } else { 64 };
            put(&mut ring.claim(1, large_bytes(length)).unwrap(), length, round);
            let event = reader.filled(0).unwrap();
            assert_eq!((event.len(), mark(event)), (length, round));
            assert!(event.as_ptr().addr().is_multiple_of(ALIGNMENT));
            reader.release(1);
        }
    }

    #[test]
    fn large_events_are_bounded_by_their_bytes_and_leave_nothing_behind() {
        let ring = Arc::new(Ring::new(4096, Sequence::ZERO));
        let mut reader = RingReader::new(Arc::clone(&ring));
        let length = 48 * 1024;
        for _ in 0..2 {
            let mut taken = 0;
            loop {
                match ring.claim(1, large_bytes(length)) {
                    Ok(mut claim) => put(&mut claim, length, taken),
                    Err(why) => break assert_eq!(why, ClaimError::LargeBytes),
                };
                taken += 1;
            }
            assert_eq!(taken as usize, LARGE_BYTES_MAX / length, "and no more than the bound");
            // What fits its slot still goes in, and a refused group takes neither slots nor bytes.
            put(&mut ring.claim(1, 0).unwrap(), 64, taken);
            reader.release(1);
            put(&mut ring.claim(1, large_bytes(length)).unwrap(), length, taken);
            assert_eq!(ring.claim(2, large_bytes(length) * 2).err(), Some(ClaimError::LargeBytes));
            reader.release(taken as usize + 1);
            assert_eq!(ring.large_bytes.load(Ordering::Relaxed), 0);
        }
        // A claim that fails for want of slots gives its bytes back.
        let small = Ring::new(2, Sequence::ZERO);
        put(&mut small.claim(1, 0).unwrap(), 64, 0);
        assert_eq!(small.claim(2, large_bytes(length)).err(), Some(ClaimError::Slots));
        assert_eq!(small.large_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_closed_ring_still_gives_what_was_claimed() {
        let ring = Arc::new(Ring::new(4, Sequence::ZERO));
        let reader = RingReader::new(Arc::clone(&ring));
        put(&mut ring.claim(1, 0).unwrap(), 48, 7);
        ring.close();
        assert_eq!(ring.claimed(), 1);
        assert_eq!(ring.claim(1, 0).err(), Some(ClaimError::Closed));
        assert_eq!(ring.accepted(), Sequence(1));
        assert_eq!(reader.filled(0).map(mark), Some(7));
    }

    #[test]
    fn producers_on_many_threads_get_each_position_once_and_groups_stay_together() {
        const PRODUCERS: u64 = 4;
        const GROUPS: u64 = 20_000;
        let ring = Arc::new(Ring::new(64, Sequence::ZERO));
        let mut reader = RingReader::new(Arc::clone(&ring));
        let total: u64 = PRODUCERS * (0..GROUPS).map(|group| group % 5 + 1).sum::<u64>();
        std::thread::scope(|scope| {
            for producer in 0..PRODUCERS {
                let ring = &ring;
                scope.spawn(move || {
                    for group in 0..GROUPS {
                        let count = group % 5 + 1;
                        let mut claim = loop {
                            match ring.claim(count as usize, 0) {
                                Ok(claim) => break claim,
                                Err(_) => std::thread::yield_now(),
                            }
                        };
                        for member in 0..count {
                            put(&mut claim, 64, producer << 48 | group << 8 | member);
                        }
                    }
                });
            }
            let mut next_group = [0u64; PRODUCERS as usize];
            let mut inside: Option<(u64, u64, u64)> = None;
            while reader.released() < total {
                let Some(event) = reader.filled(0) else {
                    std::thread::yield_now();
                    continue;
                };
                let (producer, group, member) =
                    (mark(event) >> 48, mark(event) >> 8 & 0xFF_FFFF_FFFF, mark(event) & 0xFF);
                match inside {
                    None => assert_eq!((member, group), (0, next_group[producer as usize])),
                    Some(expected) => {
                        assert_eq!((producer, group, member), expected, "groups are never interleaved")
                    }
                }
                inside = (member + 1 < group % 5 + 1).then_some((producer, group, member + 1));
                if inside.is_none() {
                    next_group[producer as usize] += 1;
                }
                reader.release(1);
            }
            assert_eq!(next_group, [GROUPS; PRODUCERS as usize]);
        });
        assert_eq!(ring.accepted(), Sequence(total));
    }
}
