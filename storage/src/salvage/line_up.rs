//! What follows what, and which of it becomes the store. Decides; touches no disk.

use std::collections::BTreeMap;

use matchtape_schemas::{Epoch, Head, Sequence};

use super::Span;
use super::gather::{Found, Loose, LooseHeader};
use crate::sstable::{EventTableMeta, IndexTableMeta};

/// A stretch of the tape in one piece.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// In a whole event table.
    Table(EventTableMeta),
    /// A frame outside of one.
    Frame(LooseHeader),
}

impl Item {
    fn end(&self) -> Head {
        match self {
            Self::Table(meta) => meta.footer.after,
            Self::Frame(loose) => loose.header.head(),
        }
    }
}

/// Stretches that follow each other without a hole.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub start: Head,
    pub items: Vec<Item>,
}

impl Run {
    pub(super) fn end(&self) -> Head {
        self.items.last().map_or(self.start, Item::end)
    }
}

/// What is to become of everything.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What becomes tables of the store; ends with a group.
    pub main: Run,
    /// The last event of the store, in tables or in the log that is kept.
    pub end: Sequence,
    /// The log has what follows `main`, and stays.
    pub log_kept: bool,
    pub lost: Vec<Span>,
    pub aside: Vec<Span>,
    /// A term to begin behind the end.
    pub epoch: Option<Epoch>,
}

pub(super) fn line_up(found: &Found) -> Plan {
    let runs = runs(found);
    let (at, mut main) = choose(found, runs);
    let whole_end = main.end().last_sequence;
    let log_kept = found.log_sound && at == Place::Last && leave_to_the_log(found, &mut main);
    let end = if log_kept {
        whole_end
    } else {
        // An unfinished group is nobody's loss: recovery would not have kept it either.
        while matches!(main.items.last(), Some(Item::Frame(loose)) if !loose.header.ends_group()) {
            main.items.pop();
        }
        main.end().last_sequence
    };

    let readable = readable(found);
    let kept = Span { first: main.start.last_sequence.0 + 1, last: end.0 };
    let aside = without(&readable, &[kept]);
    let origin = found.contents.event_tables.first().map_or(0, |table| table.footer.before.last_sequence.0);
    let origin =
        origin.min(main.start.last_sequence.0).min(readable.first().map_or(u64::MAX, |span| span.first - 1));
    let mut there = readable;
    there.push(kept);
    there.sort_by_key(|span| span.first);
    let lost = without(&[Span { first: origin + 1, last: found.last_known.0 }], &there);
    // What a damaged log held at its end may not even be known.
    let gave_up = !log_kept || aside.iter().chain(&lost).any(|span| span.last > end.0);
    let epoch = gave_up.then(|| Epoch(found.last_epoch.max(main.end().epoch).0 + 1));
    Plan { main, end, log_kept, lost, aside, epoch }
}

/// Where the tape stood at moments that some whole structure states.
fn known_heads(found: &Found) -> BTreeMap<u64, Vec<Head>> {
    let named = found.contents.event_tables.iter().chain(&found.tables);
    let heads = named.flat_map(|table| [table.footer.before, table.footer.after]);
    let heads = heads.chain(found.snapshots.iter().map(|meta| meta.footer.head));
    let mut known: BTreeMap<u64, Vec<Head>> = BTreeMap::new();
    for head in heads.chain([Head::empty(found.tape)]) {
        let there = known.entry(head.last_sequence.0).or_default();
        if !there.contains(&head) {
            there.push(head);
        }
    }
    known
}

fn runs(found: &Found) -> Vec<Run> {
    let known = known_heads(found);
    let mut runs: Vec<Run> = Vec::new();
    let mut through = 0;
    loop {
        // The next known place from which something goes on.
        let goes_on = |head: &&Head| next(found, head).is_some();
        let Some(start) = known.range(through..).flat_map(|(_, heads)| heads).find(goes_on) else { break };
        let mut run = Run { start: *start, items: Vec::new() };
        while let Some(item) = next(found, &run.end()) {
            run.items.push(item);
        }
        through = run.end().last_sequence.0;
        runs.push(run);
    }
    runs
}

/// What follows this place on the tape.
fn next(found: &Found, head: &Head) -> Option<Item> {
    let at = found.tables.partition_point(|table| table.footer.before.last_sequence < head.last_sequence);
    if let Some(table) = found.tables.get(at)
        && table.footer.before == *head
    {
        return Some(Item::Table(*table));
    }
    let candidates = found.loose.get(&(head.last_sequence.0 + 1))?;
    let follows = candidates.iter().rev().find(|loose| loose.header.check_follows(head).is_ok())?;
    Some(Item::Frame(follows.clone()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Last,
    Earlier,
}

/// The newest run that a node can go on from; if none is, the longest.
fn choose(found: &Found, runs: Vec<Run>) -> (Place, Run) {
    let stands = |run: &Run| {
        let (start, end) = (run.start.last_sequence, run.end().last_sequence);
        start == Sequence::ZERO || found.snapshots.iter().any(|meta| (start..=end).contains(&meta.sequence()))
    };
    let count = runs.len();
    let length = |run: &Run| run.end().last_sequence.0 - run.start.last_sequence.0;
    let chosen = runs
        .iter()
        .rposition(stands)
        .or_else(|| runs.iter().enumerate().max_by_key(|(_, run)| length(run)).map(|(at, _)| at));
    match chosen {
        None => (Place::Last, Run { start: Head::empty(found.tape), items: Vec::new() }),
        Some(at) => {
            let place = if at + 1 == count { Place::Last } else { Place::Earlier };
            (place, runs.into_iter().nth(at).expect("chosen from them"))
        }
    }
}

/// Takes out what the log, which is sound, has behind everything that was flushed; `false` if the log does not go on from
/// there.
fn leave_to_the_log(found: &Found, main: &mut Run) -> bool {
    let flushed = found.contents.flushed_through();
    let flushed = flushed.max(found.tables.last().map_or(Sequence::ZERO, EventTableMeta::last));
    let flushed = flushed.max(found.snapshots.last().map_or(Sequence::ZERO, |meta| meta.sequence()));
    while let Some(Item::Frame(loose)) = main.items.last()
        && matches!(loose.from, Loose::Log(_))
        && loose.header.first_sequence > flushed
    {
        main.items.pop();
    }
    main.end().last_sequence >= flushed
}

/// What can be read, as spans in order that do not touch.
fn readable(found: &Found) -> Vec<Span> {
    let tables = found.tables.iter().map(|table| Span { first: table.first().0, last: table.last().0 });
    let loose = found
        .loose
        .values()
        .flatten()
        .map(|loose| Span { first: loose.header.first_sequence.0, last: loose.header.last_sequence().0 });
    let mut spans: Vec<Span> = tables.chain(loose).collect();
    spans.sort_by_key(|span| (span.first, span.last));
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(before) if span.first <= before.last + 1 => before.last = before.last.max(span.last),
            _ => joined.push(span),
        }
    }
    joined
}

/// The parts of `spans` that none of `others` (in order) has.
fn without(spans: &[Span], others: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    for span in spans {
        let mut first = span.first;
        for other in others.iter().filter(|other| other.first <= other.last) {
            if other.last < first || other.first > span.last {
                continue;
            }
            if other.first > first {
                left.push(Span { first, last: other.first - 1 });
            }
            first = other.last + 1;
        }
        if first <= span.last {
            left.push(Span { first, last: span.last });
        }
    }
    left
}

/// Index tables that stay, and the event tables that need one anew.
///
/// An index table that is lost may have had postings anywhere in its range, so all that overlap what is lost go with it. A new
/// one is of level 0, where tables hold all keys and follow each other in time; so no table of a higher level, which would
/// have to be older, may hold anything as new.
pub(super) fn indexes(
    named: &[IndexTableMeta],
    good: &[IndexTableMeta],
    tables: &[EventTableMeta],
) -> (Vec<IndexTableMeta>, Vec<EventTableMeta>) {
    let end = tables.last().map_or(Sequence::ZERO, EventTableMeta::last);
    let begin = tables.first().map_or(Sequence::MAX, EventTableMeta::first);
    let (mut kept, mut gone): (Vec<IndexTableMeta>, Vec<IndexTableMeta>) =
        named.iter().cloned().partition(|index| good.contains(index) && index.footer.last <= end);
    kept.retain(|index| index.footer.last >= begin);
    let overlaps = |index: &IndexTableMeta, table: &EventTableMeta| {
        index.footer.first <= table.last() && table.first() <= index.footer.last
    };
    let covers = |index: &IndexTableMeta, table: &EventTableMeta| {
        index.footer.first <= table.first() && table.last() <= index.footer.last
    };
    loop {
        let dirty = |table: &&EventTableMeta| {
            gone.iter().any(|index| overlaps(index, table)) || !kept.iter().any(|index| covers(index, table))
        };
        let dirty: Vec<EventTableMeta> = tables.iter().filter(dirty).copied().collect();
        let from = dirty.first().map_or(Sequence::MAX, EventTableMeta::first);
        let (go, stay): (Vec<_>, Vec<_>) = kept.into_iter().partition(|index| {
            dirty.iter().any(|table| overlaps(index, table)) || index.level > 0 && index.footer.last >= from
        });
        kept = stay;
        if go.is_empty() {
            return (kept, dirty);
        }
        gone.extend(go);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_spans() {
        let span = |first, last| Span { first, last };
        assert_eq!(without(&[span(1, 10)], &[span(3, 4), span(8, 20)]), [span(1, 2), span(5, 7)]);
        assert_eq!(without(&[span(1, 10)], &[]), [span(1, 10)]);
        assert_eq!(without(&[span(5, 6)], &[span(1, 10)]), []);
        assert_eq!(without(&[span(1, 3), span(7, 9)], &[span(2, 8)]), [span(1, 1), span(9, 9)]);
        assert_eq!(without(&[span(1, 3)], &[span(2, 1)]), [span(1, 3)], "an empty span takes nothing");
    }
}
