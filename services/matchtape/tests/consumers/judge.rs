//! Whether a node kept its word to the members of a consumer.
//!
//! What is asserted, of every life of the node between two kills and from one to the next:
//!
//! * Deliveries are numbered without a hole. Each of an event's raises its count by one; after a kill it goes on where it
//!   was recorded, not below what was recorded durably, not above what was seen.
//! * What was delivered before is marked. What was not, is not, but for what a killed node may have delivered: an event is
//!   marked for nothing only before the first one that is not.
//! * An event comes again for a reason: it was refused, and its delay is over; its time is over, counted from when it was
//!   last said to be worked on; its member was replaced; the node was killed before it recorded what became of it.
//! * Each instrument (under `all` the tape) is in order, and with one member at a time.
//! * Never more than `max_ack_pending` are out, never is one delivered more often than `max_deliver`.
//! * In the end every event has come and was acknowledged, given up, or is on the list of what is parked, having been
//!   delivered as often as allowed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use matchtape_client::consumers::{Acknowledgement, ParkedView};

use crate::transcript::{BATCH, Entry, Given};

/// What was asked for, and is judged by.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// Each event is acknowledged by itself, and each instrument is in order; else the whole tape is.
    pub(crate) explicit: bool,
    pub(crate) instruments: u64,
    pub(crate) ack_wait: Duration,
    pub(crate) max_deliver: u32,
    pub(crate) max_ack_pending: usize,
}

/// What there was of it.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) deliveries: u64,
    pub(crate) again: u64,
    /// Marked, and never seen before.
    pub(crate) marked_for_nothing: u64,
    pub(crate) lost_answers: u64,
    pub(crate) acked: u64,
    pub(crate) naked: u64,
    pub(crate) in_progress: u64,
    pub(crate) termed: u64,
    pub(crate) expired: u64,
    pub(crate) refused: u64,
    pub(crate) durable: u64,
    /// Settled, and forgotten with the node.
    pub(crate) forgotten: u64,
    pub(crate) parked: u64,
    /// Most that were out at a time.
    pub(crate) out_max: usize,
}

/// What is known of an event.
#[derive(Clone, Copy, Default)]
struct Seen {
    number: u64,
    deliveries: u32,
    /// As its last delivery said.
    count: u32,
    /// Lives begin at 1.
    life: u32,
    /// Answers that were lost altogether by then.
    lost: u64,
    /// It is recorded that it was delivered so often.
    recorded: u32,
    not_before: Option<Instant>,
    /// The life in which it was last said that it is dealt with or given up: confirmed, and not.
    settled: u32,
    said: u32,
    settled_durably: bool,
}

/// An event in one life of the node.
#[derive(Clone, Copy)]
enum Place {
    /// Unsure: what was said of it was refused, and may have been done in part.
    Out {
        since: usize,
        session: u64,
        count: u32,
        until: Instant,
        unsure: bool,
    },
    Waiting {
        count: u32,
        not_before: Option<Instant>,
    },
    /// Since then.
    Settled(usize),
    Parked,
}

pub(crate) struct Judge {
    rules: Rules,
    seen: Vec<Seen>,
    life: u32,
    delivered: u64,
    lost: u64,
    /// By instrument the last order that came.
    came: HashMap<u64, u64>,
    through: u64,
    judged: Judged,
}

impl Judge {
    pub(crate) fn new(rules: Rules) -> Self {
        let judged = Judged::default();
        Self {
            rules,
            seen: Vec::new(),
            life: 0,
            delivered: 0,
            lost: 0,
            came: HashMap::new(),
            through: 0,
            judged,
        }
    }

    /// Which instrument a delivered event is of: one of the orders', or none, of which there is order too.
    fn instrument(&self, sequence: u64) -> u64 {
        match self.seen[sequence as usize].number {
            0 => u64::MAX,
            number => number % self.rules.instruments,
        }
    }

    pub(crate) fn life(&mut self, entries: &[Entry], lost: u64) {
        self.life += 1;
        self.deliveries(entries, lost);
        if self.rules.explicit {
            InLife::default().go_through(self, entries);
        }
        self.lost += lost;
    }

    /// In the order in which the node made them: their numbers, what they say of earlier ones, and what came before what.
    fn deliveries(&mut self, entries: &[Entry], lost: u64) {
        let answered = entries.iter().filter_map(|entry| match entry {
            Entry::Answered { given, .. } => Some(given),
            Entry::Attaching { .. } | Entry::Attached { .. } | Entry::Said { .. } | Entry::Done { .. } => {
                None
            }
        });
        let mut all: Vec<Given> = answered.flatten().copied().collect();
        all.sort_unstable_by_key(|one| one.consumer_sequence);
        let (Some(first), Some(last)) = (all.first(), all.last()) else { return };
        let (first, last) = (first.consumer_sequence, last.consumer_sequence);
        let missing = last + 1 - first - all.len() as u64;
        assert!(missing <= lost * u64::from(BATCH), "{missing} deliveries to nobody, {lost} answers lost");
        assert!(
            all.windows(2).all(|two| two[0].consumer_sequence < two[1].consumer_sequence),
            "a number twice"
        );
        assert!(first <= self.delivered + 1 + self.lost * u64::from(BATCH), "{first} is too far");
        self.delivered = last;
        let (mut marked, mut unmarked, mut before) = (0, u64::MAX, u64::MAX - 1);
        for one in &all {
            let Given { sequence, count, .. } = *one;
            if self.seen.len() <= sequence as usize {
                self.seen.resize(sequence as usize + 1, Seen::default());
            }
            let seen = &mut self.seen[sequence as usize];
            let fresh = seen.deliveries == 0;
            if seen.life == self.life {
                assert_eq!(count, seen.count + 1, "{sequence} came again");
            } else {
                let lost = (self.lost - seen.lost) as u32;
                assert!(
                    (seen.recorded + 1..=seen.count + lost + 1).contains(&count),
                    "{sequence} has count {count} after a kill; {} were recorded, {} seen",
                    seen.recorded,
                    seen.count
                );
            }
            assert!(count <= self.rules.max_deliver, "{sequence} came {count} times");
            if !fresh {
                assert!(one.redelivered, "{sequence} came again and is not marked");
                assert_eq!(seen.number, one.number, "{sequence} is another event");
                self.judged.again += 1;
            } else if one.redelivered {
                self.judged.marked_for_nothing += 1;
                marked = marked.max(sequence);
            } else {
                unmarked = unmarked.min(sequence);
            }
            *seen = Seen {
                number: one.number,
                deliveries: seen.deliveries + 1,
                count,
                life: self.life,
                lost: self.lost,
                ..*seen
            };
            if fresh && self.rules.explicit && one.number > 0 {
                let came = self.came.insert(one.number % self.rules.instruments, one.number).unwrap_or(0);
                let next = if came > 0 { came + self.rules.instruments } else { one.number };
                assert!(
                    one.number == next && (came > 0 || one.number <= self.rules.instruments),
                    "order {} came behind {came}",
                    one.number
                );
            } else if fresh && !self.rules.explicit {
                assert_eq!(sequence, self.through + 1, "the tape's order");
                self.through = sequence;
            }
            assert!(self.rules.explicit || sequence <= before + 1, "{sequence} came behind {before}");
            before = sequence;
            self.judged.deliveries += 1;
        }
        // A node that was killed does not know how far it came, only how far it can have come; from there on it knows.
        assert!(marked < unmarked, "{marked} is marked for nothing, {unmarked} before it is not");
        assert!(marked == 0 || self.life > 1, "{marked} was never delivered before");
        self.judged.lost_answers += lost;
    }

    pub(crate) fn end(mut self, last: u64, orders: u64, parked: &[ParkedView]) -> Judged {
        let parked: HashMap<u64, &ParkedView> = parked.iter().map(|one| (one.sequence, one)).collect();
        let mut numbers = 0;
        assert!(self.seen.len() as u64 > last, "it ends at {}", self.seen.len());
        for (sequence, seen) in self.seen.iter().enumerate().skip(1) {
            let sequence = sequence as u64;
            assert!(seen.deliveries > 0, "{sequence} never came");
            if seen.number > 0 {
                numbers += 1;
                assert_eq!(
                    seen.number, numbers,
                    "what was published twice is on the tape once, in its order"
                );
            }
            match parked.get(&sequence) {
                _ if !self.rules.explicit || sequence > last => {}
                Some(one) => {
                    assert_eq!(one.deliveries, self.rules.max_deliver, "{sequence} is parked");
                    // Nobody knows of a last one that was in an answer of a killed node.
                    let lost = (self.lost - seen.lost) as u32;
                    assert!(seen.count + lost >= one.deliveries, "{sequence} is parked after {}", seen.count);
                    assert!(
                        !seen.settled_durably && seen.settled < self.life,
                        "{sequence} is parked, and settled"
                    );
                }
                None => {
                    let said = seen.settled.max(seen.said);
                    assert!(said >= seen.life, "{sequence} is gone, and nobody said so");
                }
            }
        }
        assert_eq!(numbers, orders);
        self.judged.parked = parked.len() as u64;
        self.judged
    }
}

/// What is acknowledged, refused or given up.
fn changed(what: &Acknowledgement) -> impl Iterator<Item = u64> {
    what.ack.iter().chain(&what.nak).chain(&what.term).copied()
}

/// One life of the node, in the order in which it was seen.
#[derive(Default)]
struct InLife {
    places: HashMap<u64, Place>,
    /// How often each was delivered.
    counted: HashMap<u64, u32>,
    /// By instrument what waits to be delivered again, and since when.
    waiting: HashMap<u64, BTreeMap<u64, usize>>,
    /// By instrument what may be out.
    with: HashMap<u64, HashSet<u64>>,
    /// Delivered, and neither settled nor parked.
    out: HashSet<u64>,
    settled: Vec<u64>,
    /// Of which something was said that is not answered, and so often: it may be done, or not yet.
    unanswered: HashMap<u64, u32>,
    /// When something that was said of it was refused, and may have been done in part.
    refused: HashMap<u64, usize>,
    /// Sessions that are, or are about to be, replaced.
    leaving: HashSet<u64>,
    /// By what was said durably, what is recorded when that is confirmed.
    recording: HashMap<usize, Recording>,
}

struct Recording {
    pending: Vec<(u64, u32, Option<Instant>)>,
    settled: usize,
}

impl InLife {
    fn go_through(mut self, judge: &mut Judge, entries: &[Entry]) {
        for (index, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Attaching { replaced } => self.leaving.extend(replaced),
                Entry::Attached { replaced } => self.replaced(judge, index, *replaced),
                Entry::Answered { asked, asked_at, at, session, given } => {
                    for one in given {
                        // An answer to one that was replaced meanwhile may be seen late.
                        let counted = self.counted.entry(one.sequence).or_default();
                        if *counted > one.count {
                            continue;
                        }
                        *counted = one.count;
                        // So may one from before it was settled.
                        if let Some(Place::Settled(since)) = self.places.get(&one.sequence) {
                            assert!(asked <= since, "{} was settled and comes again", one.sequence);
                            continue;
                        }
                        self.delivered(judge, (*asked, *at), *session, one);
                        let until = *asked_at + judge.rules.ack_wait;
                        let (session, count) = (*session, one.count);
                        let unsure = self.refused.get(&one.sequence).is_some_and(|since| asked <= since);
                        let place = Place::Out { since: index, session, count, until, unsure };
                        self.places.insert(one.sequence, place);
                        self.with.entry(judge.instrument(one.sequence)).or_default().insert(one.sequence);
                        if one.count < judge.rules.max_deliver {
                            self.out.insert(one.sequence);
                        } else {
                            self.out.remove(&one.sequence);
                        }
                    }
                    let out = self.out.len();
                    assert!(out <= judge.rules.max_ack_pending, "{out} are out");
                    judge.judged.out_max = judge.judged.out_max.max(out);
                }
                Entry::Said { what, .. } => self.said(judge, index, what),
                Entry::Done { said, settled } => {
                    let Entry::Said { at, what } = &entries[*said] else { unreachable!() };
                    match settled {
                        Some(settled) => self.done(judge, index, (*said, *at), what, *settled),
                        None => {
                            judge.judged.refused += 1;
                            for sequence in what.ack.iter().chain(&what.term) {
                                judge.seen[*sequence as usize].said = judge.life;
                            }
                            for sequence in changed(what) {
                                self.answered(sequence);
                                self.refused.insert(sequence, index);
                                if let Some(Place::Out { unsure, .. }) = self.places.get_mut(&sequence) {
                                    *unsure = true;
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What a member that was replaced had waits for another, unless it was the last time, or something was said of it that is
    /// not answered yet.
    fn replaced(&mut self, judge: &Judge, index: usize, replaced: Option<u64>) {
        let Some(replaced) = replaced else { return };
        for (sequence, place) in &mut self.places {
            let Place::Out { session, count, unsure, .. } = *place else { continue };
            if session != replaced || unsure || self.unanswered.contains_key(sequence) {
                continue;
            }
            *place = if count < judge.rules.max_deliver {
                wait(&mut self.waiting, judge, *sequence, index);
                Place::Waiting { count, not_before: None }
            } else {
                Place::Parked
            };
        }
    }

    fn delivered(&mut self, judge: &mut Judge, (asked, at): (usize, Instant), member: u64, one: &Given) {
        let sequence = one.sequence;
        match self.places.get(&sequence) {
            None => {
                let seen = &mut judge.seen[sequence as usize];
                assert!(!seen.settled_durably, "{sequence} was settled durably and comes again");
                assert!(seen.not_before.is_none_or(|due| at >= due), "{sequence} comes early after a kill");
                judge.judged.forgotten += u64::from(std::mem::take(&mut seen.settled) > 0);
            }
            Some(Place::Out { unsure, .. }) if *unsure || self.unanswered.contains_key(&sequence) => {}
            Some(Place::Out { session, .. }) if self.leaving.contains(session) => {}
            Some(Place::Out { until, .. }) => {
                assert!(at >= *until, "{sequence} comes again for no reason");
                judge.judged.expired += 1;
            }
            Some(Place::Waiting { not_before, .. }) => {
                assert!(not_before.is_none_or(|due| at >= due), "{sequence} comes early");
            }
            Some(Place::Settled(_)) => unreachable!("it does not come again"),
            Some(Place::Parked) => panic!("{sequence} is parked and comes again"),
        }
        let instrument = judge.instrument(sequence);
        if let Some(waiting) = self.waiting.get_mut(&instrument) {
            waiting.remove(&sequence);
            let mut before = waiting.range(..sequence).filter(|(_, since)| **since < asked);
            assert_eq!(before.next(), None, "{sequence} came before what waits of its instrument");
        }
        let Some(with) = self.with.get_mut(&instrument) else { return };
        with.retain(|other| matches!(self.places.get(other), Some(Place::Out { .. })));
        for other in with.iter().filter(|other| !self.unanswered.contains_key(other)) {
            if let Some(Place::Out { session, until, unsure: false, .. }) = self.places.get(other) {
                let may_be_back = *session == member || self.leaving.contains(session) || at >= *until;
                assert!(may_be_back, "{sequence} came to another than has {other}, of the same instrument");
            }
        }
    }

    fn said(&mut self, judge: &Judge, index: usize, what: &Acknowledgement) {
        // It may be done from here on.
        for sequence in changed(what) {
            *self.unanswered.entry(sequence).or_default() += 1;
        }
        for sequence in what.ack.iter().chain(&what.term) {
            self.out.remove(sequence);
            if let Some(waiting) = self.waiting.get_mut(&judge.instrument(*sequence)) {
                waiting.remove(sequence);
            }
        }
        if what.durable {
            let pending = self.places.iter().filter_map(|(sequence, place)| match place {
                Place::Out { count, .. } => Some((*sequence, *count, None)),
                Place::Waiting { count, not_before } => Some((*sequence, *count, *not_before)),
                Place::Settled(_) | Place::Parked => None,
            });
            let recording = Recording { pending: pending.collect(), settled: self.settled.len() };
            self.recording.insert(index, recording);
        }
    }

    fn done(
        &mut self,
        judge: &mut Judge,
        index: usize,
        (said, at): (usize, Instant),
        what: &Acknowledgement,
        settled: u32,
    ) {
        changed(what).for_each(|sequence| self.answered(sequence));
        for sequence in what.ack.iter().chain(&what.term) {
            self.places.insert(*sequence, Place::Settled(index));
            self.settled.push(*sequence);
            judge.seen[*sequence as usize].settled = judge.life;
        }
        judge.judged.acked += what.ack.len() as u64;
        judge.judged.termed += what.term.len() as u64;
        let all = what.ack.len() + what.nak.len() + what.in_progress.len() + what.term.len();
        // Of some it may have been too late; which ones is not said.
        let each = settled as usize == all;
        for sequence in &what.nak {
            let others = self.unanswered.contains_key(sequence);
            let Some(Place::Out { since, count, unsure, .. }) = self.places.get_mut(sequence) else {
                continue;
            };
            // It may be with somebody else by now, or settled.
            if !each || *unsure || *since > said || others {
                *unsure = true;
                continue;
            }
            judge.judged.naked += 1;
            let count = *count;
            let place = if count < judge.rules.max_deliver {
                wait(&mut self.waiting, judge, *sequence, index);
                Place::Waiting { count, not_before: Some(at + Duration::from_millis(what.nak_delay_ms)) }
            } else {
                Place::Parked
            };
            self.places.insert(*sequence, place);
        }
        for sequence in &what.in_progress {
            if let Some(Place::Out { until, .. }) = self.places.get_mut(sequence)
                && each
            {
                judge.judged.in_progress += 1;
                *until = at + judge.rules.ack_wait;
            }
        }
        let Some(recording) = self.recording.remove(&said) else { return };
        judge.judged.durable += 1;
        for (sequence, count, not_before) in recording.pending {
            let seen = &mut judge.seen[sequence as usize];
            (seen.recorded, seen.not_before) = (seen.recorded.max(count), not_before);
        }
        for sequence in self.settled[..recording.settled].iter().chain(&what.ack).chain(&what.term) {
            judge.seen[*sequence as usize].settled_durably = true;
        }
    }

    fn answered(&mut self, sequence: u64) {
        let count = self.unanswered.get_mut(&sequence).expect("it was said");
        *count -= 1;
        if *count == 0 {
            self.unanswered.remove(&sequence);
        }
    }
}

fn wait(waiting: &mut HashMap<u64, BTreeMap<u64, usize>>, judge: &Judge, sequence: u64, since: usize) {
    waiting.entry(judge.instrument(sequence)).or_default().insert(sequence, since);
}
