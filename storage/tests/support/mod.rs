//! A tape to write, and a judge of what a recovered log may hold.

#![allow(dead_code, reason = "each test binary uses its part of the support")]

use std::sync::{Arc, OnceLock};

use matchtape_schemas::event::{StateSet, encode_event};
use matchtape_schemas::{
    AcceptedTime, Event, EventFlags, EventTime, FrameFlags, FrameHeader, FrameWriter, Head, InstrumentId,
    ProducerId, ProducerSequence, Sequence, TapeId,
};
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::wal::{
    CommitBuffer, Preparation, SegmentInfo, WalConfig, WalError, WalReader, Writer,
};
use matchtape_storage::{AlignedBytes, Disk, limits};

pub const TAPE: TapeId = TapeId(77);

/// A small log in one thread.
pub fn small_config() -> WalConfig {
    WalConfig {
        segment_bytes: 32 << 10,
        commit_bytes: limits::COMMIT_BYTES_MIN,
        preparation: Preparation::Inline,
        ..WalConfig::new(TAPE)
    }
}

/// Events of varying size, encoded, as one frame behind `head`.
#[derive(Debug)]
pub struct FrameMaker {
    pub head: Head,
    random: Random,
    memory: AlignedBytes,
}

impl FrameMaker {
    pub fn new(head: Head, seed: u64) -> Self {
        Self { head, random: Random::new(seed), memory: AlignedBytes::zeroed(1 << 10) }
    }

    /// Writes a frame of `events` events over `space`; `open` leaves its group without an end.
    pub fn write(&mut self, space: &mut [u8], events: u64, open: bool, flags: FrameFlags) -> FrameHeader {
        let mut head = self.head;
        let mut writer = FrameWriter::new(space, &head);
        for index in 0..events {
            let sequence = head.last_sequence.0 + index + 1;
            let mut value = vec![sequence as u8; 8 + self.random.below(300) as usize];
            value[..8].copy_from_slice(&sequence.to_le_bytes());
            let body = StateSet::new(b"key", &value).expect("small");
            // Times go back now and then, as real feeds do.
            let time = EventTime((sequence * 1000) as i64 - self.random.below(1500) as i64);
            let mut event = Event::new(InstrumentId(1), ProducerSequence(sequence), time, body);
            if open || index + 1 < events {
                event.flags = EventFlags::NONE;
            }
            let bytes = event.encoded_len();
            encode_event(&event, ProducerId(1), &mut self.memory[..bytes]);
            assert!(writer.push(&self.memory[..bytes]), "the frame has room");
        }
        let accepted = AcceptedTime(self.head.last_sequence.0 as i64);
        let header = writer.finish(&mut head, accepted, flags);
        self.head = head;
        header
    }

    /// One commit of `frames` frames; an open one begins a commit, as the log demands.
    pub fn commit(&mut self, writer: &Writer, frames: u64, open: bool, flags: FrameFlags) -> CommitBuffer {
        let mut buffer = writer.buffers().take();
        for frame in 0..frames {
            let flags = if frame + 1 == frames { flags } else { FrameFlags::NONE };
            let events = 1 + self.random.below(6);
            buffer.append(|space| self.write(space, events, open, flags)).expect("the frame joins");
        }
        buffer
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.random.below(end)
    }
}

/// Everything that happened to a log while it was written: what may, and what must, be found afterwards.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every frame that was handed to the log, with the number of disk operations before its commit.
    pub frames: Vec<(usize, FrameHeader)>,
    /// (operations when the promise was made, last event promised to survive power loss)
    pub durable: Vec<(usize, Sequence)>,
    /// (operations when the call returned, last event handed to the kernel, at a group end)
    pub written: Vec<(usize, Sequence)>,
    /// (operations when the log was told, last event that may be let go of)
    pub released: Vec<(usize, Sequence)>,
}

impl History {
    /// The last event promised at a moment: the least that recovery must find.
    pub fn durable_at(&self, operation: usize) -> Sequence {
        last_before(&self.durable, operation)
    }

    pub fn written_at(&self, operation: usize) -> Sequence {
        last_before(&self.written, operation)
    }

    /// Commits and notes what the log said.
    pub fn commit(
        &mut self,
        disk: &SimDisk,
        writer: &mut Writer,
        buffer: CommitBuffer,
    ) -> Result<(), WalError> {
        let before = disk.operations();
        self.frames.extend(buffer.frames().map(|(header, _)| (before, header)));
        let committed = writer.commit(buffer)?;
        let now = disk.operations();
        self.written.push((now, self.group_end(committed.written)));
        self.durable.push((now, self.group_end(committed.durable)));
        Ok(())
    }

    /// Lets go of all sealed segments but the last `keep`.
    pub fn release(&mut self, disk: &SimDisk, writer: &Writer, keep: usize) {
        let releaser = writer.releaser();
        let through = releaser.releasable(Sequence::MAX, keep).last().and_then(|segment| segment.sealed);
        let Some(through) = through.map(|sealed| sealed.ends.last_sequence) else { return };
        self.released.push((disk.operations(), through));
        assert_eq!(releaser.release(through, 0).expect("released"), through.next());
    }

    /// The last group end at or before a sequence: promises are about whole groups.
    pub fn group_end(&self, through: Sequence) -> Sequence {
        let ends = self.frames.iter().rev().map(|(_, header)| header);
        ends.filter(|header| header.ends_group() && header.last_sequence() <= through)
            .map(FrameHeader::last_sequence)
            .next()
            .unwrap_or(Sequence::ZERO)
    }
}

fn last_before(promises: &[(usize, Sequence)], operation: usize) -> Sequence {
    promises.iter().rev().find(|(at, _)| *at <= operation).map_or(Sequence::ZERO, |(_, sequence)| *sequence)
}

/// Opens the log on `disk` and says everything that is wrong with what it holds. `at_least`: what was promised.
/// On success returns the head.
pub fn judge(
    disk: &SimDisk,
    config: &WalConfig,
    history: &History,
    begun: usize,
    at_least: Sequence,
) -> Result<(Writer, Head), String> {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = matchtape_storage::wal::open(Arc::clone(&shared), config.clone())
        .map_err(|error| format!("recovery refused: {error}"))?;
    let last = opened.head.last_sequence;
    if last < at_least {
        return Err(format!("recovered through {last}, but {at_least} was promised; {}", opened.report));
    }
    let accepted: Vec<&FrameHeader> =
        history.frames.iter().filter(|(at, _)| *at <= begun).map(|(_, header)| header).collect();
    if last > Sequence::ZERO {
        let end = accepted.iter().find(|header| header.last_sequence() == last);
        match end {
            None => return Err(format!("recovered through {last}, where no accepted frame ends")),
            Some(header) if !header.ends_group() => return Err(format!("{last} is inside a group")),
            Some(header) if header.head() != opened.head => {
                return Err(format!("head {:?} is not the accepted {:?}", opened.head, header.head()));
            }
            Some(_) => {}
        }
    }
    let first = opened.segments.first_sequence().expect("a log has a segment");
    let released = last_before(&history.released, begun);
    if first > released.next() {
        return Err(format!("the log begins at {first}, but only {released} was let go of"));
    }
    let reader = WalReader::new(shared, config.clone(), opened.segments.clone());
    let kept = accepted.iter().copied().filter(|header| header.first_sequence >= first);
    check_frames(&reader, kept, first, last)?;
    for segment in opened.segments.list() {
        check_sealed(&reader, &segment)?;
    }
    Ok((opened.writer, opened.head))
}

/// The log's frames are the accepted ones, in order, each once, from `first` up to `last`.
fn check_frames<'a>(
    reader: &WalReader,
    mut expected: impl Iterator<Item = &'a FrameHeader>,
    first: Sequence,
    last: Sequence,
) -> Result<(), String> {
    let mut frames = reader.frames(first, last).map_err(|error| error.to_string())?;
    let mut through = first.previous();
    while let Some(found) = frames.next_frame().map_err(|error| error.to_string())? {
        let Some(header) = expected.next() else { return Err("more frames than were accepted".to_owned()) };
        if header != found.header() {
            return Err(format!("frame {:?} where {header:?} was accepted", found.header()));
        }
        for (index, event) in found.events().enumerate() {
            if event.sequence().0 != header.first_sequence.0 + index as u64 {
                return Err(format!("event {} out of its place", event.sequence()));
            }
        }
        through = header.last_sequence();
    }
    if through == last { Ok(()) } else { Err(format!("frames end at {through}, the head says {last}")) }
}

fn check_sealed(reader: &WalReader, segment: &SegmentInfo) -> Result<(), String> {
    if segment.sealed.is_none() {
        return Ok(());
    }
    reader.verify(segment).map(|_| ()).map_err(|error| error.to_string())
}

/// A finished log of three segments, the last one open, and what was written into it.
pub fn finished_log(seed: u64) -> (SimDisk, History) {
    let disk = SimDisk::new(seed);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = matchtape_storage::wal::open(shared, small_config()).expect("opened");
    let (mut writer, mut maker) = (opened.writer, FrameMaker::new(opened.head, seed));
    let mut history = History::default();
    let mut in_last = 0;
    while writer.segments().list().len() < 3 || in_last < 5 {
        let ends = if writer.wants_segment_end() { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
        let buffer = maker.commit(&writer, 2, false, ends);
        history.commit(&disk, &mut writer, buffer).expect("committed");
        writer.maintain().expect("maintained");
        in_last += usize::from(writer.segments().list().len() == 3);
    }
    (disk, history)
}

/// One act of damage: which file, where (in thousandths of its length), which bytes.
pub type Damage = (u8, u16, Vec<u8>);

/// Damages a copy of a finished log and opens it: it is refused, or what it holds is a prefix of what was written.
/// Never a panic, never an event that was not written.
pub fn survive_damage(healthy: &SimDisk, history: &History, damages: &[Damage]) {
    let disk = healthy.kill_at(healthy.operations());
    for (file, place, bytes) in damages {
        let path = std::path::PathBuf::from(format!("wal/{:012}.wal", 1 + file % 4));
        disk.edit(&path, |content| {
            let at = content.len() * usize::from(*place) / 65_536;
            let end = content.len().min(at + bytes.len());
            content[at..end].copy_from_slice(&bytes[..end - at]);
            // Half of the time the header of the block is given a true checksum, to get behind that check.
            if file & 0x80 != 0 {
                let block = at / 4096 * 4096;
                let length = if content[block..].starts_with(b"MTCOMMIT") { 128 } else { 256 };
                let sum = crc32fast::hash(&content[block..block + length - 4]);
                content[block + length - 4..block + length].copy_from_slice(&sum.to_le_bytes());
            }
        });
    }
    match judge(&disk, &small_config(), history, usize::MAX, Sequence::ZERO) {
        Ok(_) => {}
        Err(refused) if refused.starts_with("recovery refused") => {}
        // Damage to a sealed segment shows when it is read.
        Err(damaged) if damaged.contains("corrupt log") => {}
        // So does a block whose damaged version has a true checksum: it might be a later release's.
        Err(newer) if newer.contains("format version") => {}
        Err(wrong) => panic!("{wrong}"),
    }
}

/// What the fuzz target `log` does: a finished log with this damage is survived.
pub fn survive_any(damages: &[Damage]) {
    static HEALTHY: OnceLock<(SimDisk, History)> = OnceLock::new();
    let (healthy, history) = HEALTHY.get_or_init(|| finished_log(8));
    survive_damage(healthy, history, damages);
}
