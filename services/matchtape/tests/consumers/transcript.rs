//! What went over the wire between the members of a consumer and its node, to be judged life by life of the node.
//!
//! Whatever is killed, this is not: it has every request that was made and every answer that came whole. What was in answers
//! that a killed node did not finish is not known, and counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use matchtape_client::consumers::{Acknowledgement, MemberSession, ParkedView, Settled};
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::Deserialize;

use crate::judge::{Judge, Judged, Rules};
use crate::proxy::{Answer, Passed, Request, between};
use crate::served::PATIENCE;

/// Events of one answer at most.
pub(crate) const BATCH: u32 = 400;

/// One event in an answer.
#[derive(Clone, Copy)]
pub(crate) struct Given {
    pub(crate) consumer_sequence: u64,
    pub(crate) sequence: u64,
    pub(crate) count: u32,
    pub(crate) redelivered: bool,
    /// The order's; zero for what is none.
    pub(crate) number: u64,
}

pub(crate) enum Entry {
    /// A member is about to be replaced: from here on others may have what it had.
    Attaching {
        replaced: Option<u64>,
    },
    Attached {
        replaced: Option<u64>,
    },
    Answered {
        asked: usize,
        asked_at: Instant,
        at: Instant,
        session: u64,
        given: Vec<Given>,
    },
    Said {
        at: Instant,
        what: Acknowledgement,
    },
    /// How many of it took effect, if it was not refused.
    Done {
        said: usize,
        settled: Option<u32>,
    },
}

#[derive(Default)]
struct Log {
    entries: Vec<Entry>,
    /// Requests that are not answered yet, and those for events by session.
    under_way: usize,
    asking: HashMap<u64, usize>,
    /// Whose session it is now, and who asks for one.
    sessions: HashMap<String, u64>,
    attaching: HashSet<String>,
    /// Sessions that were given something.
    served: HashSet<u64>,
    /// Answers with events, perhaps, that did not come whole in this life of the node.
    lost: u64,
    progress: Progress,
}

/// How far it is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) deliveries: u64,
    pub(crate) through: u64,
    /// Sessions that were given something.
    pub(crate) sessions: u64,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
}

/// The members' way to their node.
pub(crate) struct Wire {
    pub(crate) url: String,
    shared: Arc<Shared>,
    judge: Judge,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(default)]
    advisory: Option<&'a str>,
    #[serde(default)]
    consumer_sequence: u64,
    #[serde(default)]
    delivery_count: u32,
    #[serde(default)]
    redelivered: bool,
    #[serde(borrow, default)]
    event: Option<EventPart<'a>>,
}

#[derive(Deserialize)]
struct EventPart<'a> {
    sequence: u64,
    producer: &'a str,
    producer_sequence: &'a str,
}

fn given(body: &[u8]) -> Vec<Given> {
    let batch: Batch<'_> = serde_json::from_slice(body).expect("an answer is understood");
    let mut all = Vec::with_capacity(batch.items.len());
    for item in batch.items {
        let Some(event) = item.event else {
            // Nothing else is to be told here: nothing is lost, and the tape keeps its end.
            assert!(
                matches!(item.advisory, Some("parked" | "terminated" | "member_lost")),
                "{:?}",
                item.advisory
            );
            continue;
        };
        let number = if event.producer == "0" { 0 } else { event.producer_sequence.parse().unwrap() };
        all.push(Given {
            consumer_sequence: item.consumer_sequence,
            sequence: event.sequence,
            count: item.delivery_count,
            redelivered: item.redelivered,
            number,
        });
    }
    all
}

impl Shared {
    fn exchange(&self, request: &Request, pass: &dyn Fn() -> Passed) -> Option<Answer> {
        self.log.lock().under_way += 1;
        let answer = if request.path().ends_with("/next") {
            self.next(request, pass)
        } else if request.path().ends_with("/ack") {
            self.ack(request, pass)
        } else if request.path().contains("/members/") && request.method() == "POST" {
            self.attach(request, pass)
        } else {
            answer_of(pass())
        };
        self.log.lock().under_way -= 1;
        self.changed.notify_all();
        answer
    }

    fn next(&self, request: &Request, pass: &dyn Fn() -> Passed) -> Option<Answer> {
        let session = request.parameter("session").unwrap().parse().unwrap();
        let (asked, asked_at) = {
            let mut log = self.log.lock();
            *log.asking.entry(session).or_default() += 1;
            (log.entries.len(), Instant::now())
        };
        let passed = pass();
        let given = match &passed {
            Passed::Answer(answer) if answer.status == 200 => given(answer.body()),
            Passed::Answer(_) | Passed::Lost | Passed::Unsent => Vec::new(),
        };
        let mut log = self.log.lock();
        *log.asking.get_mut(&session).unwrap() -= 1;
        log.lost += u64::from(matches!(passed, Passed::Lost));
        if let Some(last) = given.iter().map(|one| one.sequence).max() {
            log.progress.sessions += u64::from(log.served.insert(session));
            log.progress.deliveries += given.len() as u64;
            log.progress.through = log.progress.through.max(last);
            log.entries.push(Entry::Answered { asked, asked_at, at: Instant::now(), session, given });
        }
        answer_of(passed)
    }

    fn ack(&self, request: &Request, pass: &dyn Fn() -> Passed) -> Option<Answer> {
        let what = serde_json::from_slice(&request.body).unwrap();
        let said = {
            let mut log = self.log.lock();
            log.entries.push(Entry::Said { at: Instant::now(), what });
            log.entries.len() - 1
        };
        let passed = pass();
        let settled = match &passed {
            Passed::Answer(answer) if answer.status == 200 => {
                Some(serde_json::from_slice::<Settled>(answer.body()).unwrap().settled)
            }
            Passed::Answer(_) | Passed::Lost | Passed::Unsent => None,
        };
        self.log.lock().entries.push(Entry::Done { said, settled });
        answer_of(passed)
    }

    fn attach(&self, request: &Request, pass: &dyn Fn() -> Passed) -> Option<Answer> {
        let replaced = {
            let mut log = self.log.lock();
            // One that was killed meanwhile may have asked just before, and come first or last.
            while log.attaching.contains(request.path()) {
                self.wait(&mut log);
            }
            log.attaching.insert(request.path().to_owned());
            let replaced = log.sessions.get(request.path()).copied();
            log.entries.push(Entry::Attaching { replaced });
            replaced
        };
        let answer = answer_of(pass());
        let mut log = self.log.lock();
        if let Some(answer) = answer.as_ref().filter(|answer| answer.status == 200) {
            let attached: MemberSession = serde_json::from_slice(answer.body()).unwrap();
            log.sessions.insert(request.path().to_owned(), attached.session.parse().unwrap());
            // What the one that was replaced was given is known before its successor is given more.
            while replaced.is_some_and(|replaced| log.asking.get(&replaced).is_some_and(|asking| *asking > 0))
            {
                self.wait(&mut log);
            }
            log.entries.push(Entry::Attached { replaced });
        }
        log.attaching.remove(request.path());
        answer
    }

    /// For another exchange to end, or to go on.
    fn wait(&self, log: &mut MutexGuard<'_, Log>) {
        assert!(!self.changed.wait_for(log, PATIENCE).timed_out(), "every request ends");
    }
}

fn answer_of(passed: Passed) -> Option<Answer> {
    match passed {
        Passed::Answer(answer) => Some(answer),
        Passed::Lost | Passed::Unsent => None,
    }
}

impl Wire {
    pub(crate) fn to(url: &str, rules: Rules) -> Self {
        let shared = Arc::<Shared>::default();
        let log = Arc::clone(&shared);
        let url = between(url, move |request, pass| log.exchange(request, pass));
        Self { url, shared, judge: Judge::new(rules) }
    }

    /// How far it is, as soon as something was answered or `patience` is over.
    pub(crate) fn wait(&self, patience: Duration) -> Progress {
        let mut log = self.shared.log.lock();
        self.shared.changed.wait_for(&mut log, patience);
        log.progress
    }

    pub(crate) fn progress(&self) -> Progress {
        self.shared.log.lock().progress
    }

    /// The node is dead, or all members are: what came is judged.
    pub(crate) fn end_life(&mut self) {
        let (entries, lost) = {
            let mut log = self.shared.log.lock();
            while log.under_way > 0 {
                self.shared.wait(&mut log);
            }
            log.sessions.clear();
            (std::mem::take(&mut log.entries), std::mem::take(&mut log.lost))
        };
        self.judge.life(&entries, lost);
    }

    /// All that came is judged, by what the node has set aside in the end too.
    pub(crate) fn end(mut self, last: u64, orders: u64, parked: &[ParkedView]) -> Judged {
        self.end_life();
        self.judge.end(last, orders, parked)
    }
}
