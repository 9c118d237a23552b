//! An exported run of frames is judged by someone who holds nothing but the segments' roots.

mod fuzzed;
#[path = "fuzzed/proof.rs"]
mod fuzzed_proof;
mod model;

use std::path::Path;
use std::sync::Arc;

use matchtape_schemas::{AcceptedTime, Frame, Sequence};
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::wal::{SegmentNumber, SegmentRoot};
use matchtape_storage::{
    AlignedBytes, Disk, Proof, ProofError, ProveError, ReadOnlyOptions, ReadOnlyStore, Reader,
    RetentionPolicy, SegmentFacts, StoreOptions, limits,
};
use model::{Driven, small_options};

/// A store of several segments, most of them let go of, and what is known of them.
fn store() -> (Driven, Vec<SegmentFacts>) {
    let (driven, _, facts) = store_on_disk();
    (driven, facts)
}

fn store_on_disk() -> (Driven, SimDisk, Vec<SegmentFacts>) {
    let mut options = StoreOptions { log_kept_bytes: 2 * limits::SEGMENT_BYTES_MIN, ..small_options() };
    options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    let disk = SimDisk::new(1);
    let (mut driven, _) =
        Driven::open(Arc::new(disk.clone()), options, Vec::new(), 1).expect("a store is created");
    while driven.store.segment_facts().len() < 6 {
        driven.append(3, true);
        driven.writer.maintain().expect("maintained");
    }
    driven.store.flush().expect("flushed");
    let facts = driven.store.segment_facts();
    assert!(driven.store.segments().list().len() < 4 && facts.len() >= 6);
    (driven, disk, facts)
}

fn prove(
    reader: &Reader,
    facts: &[SegmentFacts],
    first: Sequence,
    last: Sequence,
) -> Result<(Vec<u8>, Proof), ProveError> {
    let mut frames = Vec::new();
    let (mut done, mut total) = (0, 0);
    let proof = matchtape_storage::prove(reader, facts, (first, last), &mut frames, &mut |step| {
        assert!(step.bytes > done && step.bytes <= step.bytes_total);
        (done, total) = (step.bytes, step.bytes_total);
    })?;
    assert_eq!(done, total, "progress ends with all of it");
    Ok((frames, proof))
}

/// Checks the proof as it comes back from its file.
fn check_proof(
    proof: &Proof,
    mut frames: &[u8],
    roots: impl Fn(SegmentNumber) -> Option<SegmentRoot>,
) -> Result<(Sequence, Sequence), ProofError> {
    let proof = &Proof::decode(Path::new("x.proof"), &proof.encode()).expect("it is a proof");
    let mut events = 0;
    matchtape_storage::check_proof(proof, &mut frames, roots, &mut |frame| {
        events += u64::from(frame.header().count);
    })?;
    assert_eq!(events, proof.last.0 + 1 - proof.first.0);
    Ok((proof.first, proof.last))
}

fn roots(facts: &[SegmentFacts]) -> impl Fn(SegmentNumber) -> Option<SegmentRoot> {
    |number| facts.iter().find(|facts| facts.number == number).map(|facts| facts.root)
}

/// Where each frame of an export begins, and the end.
fn starts(frames: &[u8]) -> Vec<usize> {
    let mut memory = AlignedBytes::zeroed(frames.len().next_multiple_of(16));
    memory[..frames.len()].copy_from_slice(frames);
    let (mut at, mut starts) = (0, Vec::new());
    while at < frames.len() {
        starts.push(at);
        at += Frame::decode(&memory[at..frames.len()]).expect("a frame").bytes().len();
    }
    starts.push(at);
    starts
}

#[test]
fn any_run_within_and_across_segments_is_proven_by_roots_alone() {
    let (driven, facts) = store();
    let reader = driven.store.reader();
    let end = facts.last().expect("some").last.0;
    let mut random = Random::new(1);
    let random_ranges = (0..60).map(|_| {
        let first = 1 + random.below(end);
        (first, first + random.below(end - first + 1))
    });
    let whole = [(1, end), (facts[1].first.0, facts[1].last.0), (facts[2].last.0, facts[3].first.0)];
    for (first, last) in random_ranges.chain(whole) {
        let (frames, proof) = prove(&reader, &facts, Sequence(first), Sequence(last)).expect("proven");
        let (found_first, found_last) = check_proof(&proof, &frames, roots(&facts)).expect("checked");
        assert!(found_first.0 <= first && found_last.0 >= last, "{first}..={last}");
    }
}

#[test]
fn a_frame_removed_altered_moved_or_a_run_shortened_is_noticed() {
    let (driven, facts) = store();
    let (first, last) = (Sequence(facts[1].first.0 + 8), Sequence(facts[3].last.0 - 8));
    let (frames, proof) = prove(&driven.store.reader(), &facts, first, last).expect("proven");
    let check = |proof: &Proof, frames: &[u8]| check_proof(proof, frames, roots(&facts));
    check(&proof, &frames).expect("as it was exported");
    let starts = starts(&frames);
    assert!(starts.len() > 8);

    let without = |from: usize, to: usize| [&frames[..from], &frames[to..]].concat();
    for pair in starts.windows(2) {
        let shorter = without(pair[0], pair[1]);
        assert!(matches!(check(&proof, &shorter), Err(ProofError::Length { .. })), "removed");
        // And with a proof that is made to agree with the length.
        let mut proof = proof.clone();
        let part = proof.parts.iter_mut().max_by_key(|part| part.bytes).expect("some");
        part.bytes -= (pair[1] - pair[0]) as u64;
        assert!(check(&proof, &shorter).is_err(), "removed, and the proof bent");
    }
    for at in (0..frames.len()).step_by(97) {
        let mut altered = frames.clone();
        altered[at] ^= 1;
        assert!(matches!(check(&proof, &altered), Err(ProofError::Root { .. })), "altered at {at}");
    }
    for trio in starts.windows(3) {
        let swapped =
            [&frames[..trio[0]], &frames[trio[1]..trio[2]], &frames[trio[0]..trio[1]], &frames[trio[2]..]]
                .concat();
        assert!(matches!(check(&proof, &swapped), Err(ProofError::Root { .. })), "reordered");
    }
    // A segment in the middle left out, with its part of the proof.
    let mut gap = proof.clone();
    let out = gap.parts.remove(1);
    let from = gap.parts[0].bytes as usize;
    let shorter = without(from, from + out.bytes as usize);
    assert!(matches!(check(&gap, &shorter), Err(ProofError::Gap(..))));
    // The end of one part cut off, honestly proven by itself, before the next part goes on.
    let (mut frames_before, mut before) =
        prove(&driven.store.reader(), &facts, first, first).expect("proven");
    assert!(before.parts[0].bytes < proof.parts[0].bytes);
    before.parts.extend_from_slice(&proof.parts[1..]);
    frames_before.extend_from_slice(&frames[proof.parts[0].bytes as usize..]);
    assert!(matches!(check(&before, &frames_before), Err(ProofError::Gap(..))), "shortened inside");
    // Another root, and none.
    let wrong = check_proof(&proof, &frames, |_| Some(SegmentRoot([7; 32])));
    assert!(matches!(wrong, Err(ProofError::Root { .. })));
    assert!(matches!(check_proof(&proof, &frames, |_| None), Err(ProofError::UnknownSegment(_))));
}

#[test]
fn a_bent_proof_is_an_error_and_never_a_panic() {
    let (driven, facts) = store();
    let (frames, proof) =
        prove(&driven.store.reader(), &facts, Sequence(3), Sequence(facts[2].last.0 - 3)).expect("proven");
    let mut random = Random::new(2);
    for _ in 0..500 {
        let mut bent = proof.clone();
        let index = random.below(bent.parts.len() as u64) as usize;
        let part = &mut bent.parts[index];
        let number = match random.below(3) {
            0 => random.below(1 << 20),
            1 => u64::MAX - random.below(3),
            _ => random.below(3),
        };
        match random.below(9) {
            7 => part.segment = SegmentNumber(number),
            8 => bent.first = Sequence(number),
            0 => part.offset = number,
            1 => part.bytes = number,
            2 => part.stream_bytes = number,
            3 => part.before.push(0),
            4 => drop(part.after.pop()),
            5 => drop(part.nodes.pop()),
            _ => part.nodes.push([1; 32]),
        }
        if bent != proof {
            let bytes = bent.encode();
            // What the file cannot hold it does not bring back.
            let Ok(bent) = Proof::decode(Path::new("x.proof"), &bytes) else { continue };
            let judged = matchtape_storage::check_proof(&bent, &mut &frames[..], roots(&facts), &mut |_| {});
            assert!(judged.is_err(), "{:?}", bent.parts[index]);
        }
    }
}

#[test]
fn what_is_not_sealed_cannot_be_proven_and_the_error_says_from_where_on() {
    let (driven, facts) = store();
    let open = facts.last().expect("some").last.next();
    let error = prove(&driven.store.reader(), &facts, Sequence(1), open).expect_err("not sealed");
    assert!(matches!(error, ProveError::NotSealed(at) if at == open), "{error}");
}

#[test]
fn the_facts_of_segments_are_the_same_for_who_only_reads_beside_the_writer_and_for_a_closed_store() {
    let (_driven, disk, facts) = store_on_disk();
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let reading = ReadOnlyStore::open(Arc::clone(&disk), ReadOnlyOptions::default()).expect("opened");
    assert_eq!(reading.segment_facts().expect("read"), facts);
    let (frames, proof) = prove(&reading.reader(), &facts, facts[0].first, facts[0].last).expect("proven");
    check_proof(&proof, &frames, roots(&facts)).expect("checked");
    assert!(!frames.is_empty() && proof.parts.len() == 1);
}

#[test]
fn the_log_of_a_copy_goes_on_with_numbers_that_the_copied_one_has_not_used() {
    let (driven, facts) = store();
    let copy = SimDisk::new(2);
    let target: Arc<dyn Disk> = Arc::new(copy.clone());
    driven.store.copy_to(&target, None, &mut |_| {}).expect("copied");
    let mut options = StoreOptions { log_kept_bytes: 0, ..small_options() };
    options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    let known = {
        let reading = ReadOnlyStore::open(Arc::clone(&target), ReadOnlyOptions::default()).expect("opened");
        reading.segment_facts().expect("read")
    };
    assert_eq!(known, facts, "also those that the log, which is not copied, still has");
    for life in 0..2 {
        let (mut copied, _) =
            Driven::open(Arc::clone(&target), options.clone(), driven.events.clone(), life).expect("opened");
        copied.append(1, true);
        let sealed = copied.store.segment_facts().len();
        while copied.store.segment_facts().len() < sealed + 2 {
            copied.append(3, true);
            copied.writer.maintain().expect("maintained");
        }
        copied.store.flush().expect("flushed");
        let all = copied.store.segment_facts();
        assert!(all.starts_with(&known));
        let numbers: Vec<u64> = all.iter().map(|segment| segment.number.0).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "two segments of one number: {numbers:?}");
        let new = &all[known.len()..];
        let (frames, proof) = prove(&copied.store.reader(), &all, new[0].first, new[1].last).expect("proven");
        check_proof(&proof, &frames, roots(&all)).expect("checked");
        copy.kill();
    }
}

#[test]
fn a_footer_that_is_damaged_is_told_and_not_passed_over() {
    let (driven, disk, _) = store_on_disk();
    let sealed = driven.store.segments().list();
    let oldest = sealed.iter().find(|segment| segment.sealed.is_some()).expect("one is kept");
    let path = oldest.number.path(Path::new("wal"));
    let footer = disk.content(&path).expect("there").len() - 4096;
    disk.flip_bit(&path, footer as u64 + 152, 1);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let reading = ReadOnlyStore::open(disk, ReadOnlyOptions::default()).expect("the tables are whole");
    let error = reading.segment_facts().expect_err("damaged").to_string();
    assert!(error.contains("wal/") && error.contains("footer"), "{error}");
}

#[test]
fn nothing_that_the_fuzzer_has_kept_proves_what_does_not_make_the_root() {
    fuzzed::replay("proof", fuzzed_proof::judge);
}

#[test]
fn what_began_below_the_first_event_kept_is_refused_by_name_and_the_next_segment_is_proven() {
    let mut options = small_options();
    options.wal.segment_bytes = limits::SEGMENT_BYTES_MIN;
    let opened = Driven::open(Arc::new(SimDisk::new(1)), options, Vec::new(), 1);
    let mut driven = opened.expect("a store is created").0;
    for _ in 0..16 {
        driven.append(2, true);
        driven.writer.maintain().expect("maintained");
        driven.store.flush().expect("flushed");
    }
    let bytes = Some(driven.store.inspect().table_bytes * 3 / 4);
    let policy = RetentionPolicy { bytes, snapshot_gap_bytes: 0, ..RetentionPolicy::default() };
    driven.store.retain(&policy, AcceptedTime(driven.events.len() as i64)).expect("retained");
    let (reader, facts) = (driven.store.reader(), driven.store.segment_facts());
    let first_kept = reader.first_kept();
    let last = facts[facts.len() - 1].last;
    let spans = |segment: &&SegmentFacts| segment.first < first_kept && first_kept <= segment.last;
    let spanning = facts.iter().find(spans).expect("tables are smaller than segments");
    let error = prove(&reader, &facts, first_kept, last).map(|_| ()).expect_err("some frames are gone");
    let expected = format!("began with {}, and the first event kept is {first_kept}", spanning.first);
    assert!(error.to_string().contains(&expected), "{error}");
    prove(&reader, &facts, spanning.last.next(), last).expect("proven");
}
