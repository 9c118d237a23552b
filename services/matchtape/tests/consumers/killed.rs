//! Consumers, their node, or both at once killed at random moments, while somebody publishes all the time.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape::server::Server;
use matchtape_client::consumers::{ConsumerView, ParkedList};
use serde::Deserialize;

use crate::judge::{Judged, Rules};
use crate::served::{PATIENCE, Publishing, Random, Served};
use crate::transcript::{BATCH, Wire};

fn events(short: u64) -> u64 {
    std::env::var("MATCHTAPE_CONSUMER_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

/// A consumer in a process of its own, killed when it is dropped, and the thread that hears what it says.
struct Consumer {
    child: Child,
    lines: Receiver<String>,
    hears: Option<JoinHandle<String>>,
}

impl Consumer {
    fn start(program: &str, args: &[&str]) -> Self {
        let mut child =
            Command::new(program).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut out, mut errors) =
            (BufReader::new(child.stdout.take().unwrap()), child.stderr.take().unwrap());
        // What is not taken here fills its pipe, so that it is most often killed in the middle of what it was given.
        let (heard, lines) = sync_channel(256);
        std::thread::spawn(move || {
            let mut line = String::new();
            // The last line may be cut: that event was given, and is not known to have been dealt with.
            while out.read_line(&mut line).unwrap_or(0) > 0 && line.ends_with('\n') {
                if heard.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        let hears = std::thread::spawn(move || {
            let mut said = String::new();
            let _ = errors.read_to_string(&mut said);
            said
        });
        Self { child, lines, hears: Some(hears) }
    }

    /// The next line, if one comes soon; what it said of its troubles, if it ended.
    fn line(&mut self) -> Result<Option<String>, String> {
        match self.lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.said()),
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// What it said of its troubles, until it is dead.
    fn said(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.hears.take().map_or(String::new(), |hears| hears.join().unwrap())
    }

    /// Nobody has killed it.
    fn lives(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it ended by itself, {status}: {}", self.said());
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.said();
    }
}

#[derive(Deserialize)]
struct Shown {
    event: ShownEvent,
}

#[derive(Deserialize)]
struct ShownEvent {
    sequence: u64,
}

/// What consumers have shown.
#[derive(Default)]
struct Output {
    seen: Vec<bool>,
    through: u64,
    taken: u64,
}

impl Output {
    fn take(&mut self, line: &str, publishing: &Publishing) {
        let shown: Shown = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        let sequence = shown.event.sequence;
        self.seen.resize(self.seen.len().max(sequence as usize + 1), false);
        self.seen[sequence as usize] = true;
        (self.taken, self.through) = (self.taken + 1, self.through.max(sequence));
        publishing.read_through(self.through);
    }
}

#[test]
fn killed_consumers_get_every_event_at_least_once_and_what_comes_again_is_marked() {
    let (folder, events) = (tempfile::tempdir().unwrap(), events(1_000_000));
    let mut node = Served::start(&folder.path().join("tape"), "0");
    node.succeed(&["consumer", "add", "risk", "--ack-wait", "60s"]);
    let rules = Rules {
        explicit: false,
        instruments: 7,
        ack_wait: Duration::from_secs(60),
        max_deliver: u32::MAX,
        max_ack_pending: 1000,
    };
    let mut wire = Wire::to(&node.url, rules);
    let publishing = Publishing::begin(&node.url, events, 7, 40_000);
    let (batch, url) = (BATCH.to_string(), wire.url.clone());
    let args = [
        "consumer", "next", "risk", "--follow", "--ack", "--format", "json", "--batch", &batch, "--server",
        &url,
    ];
    let mut random = Random(0x5EED);
    let mut output = Output::default();
    let (mut resumed, mut consumers, mut nodes) = (0, 0, 0);
    let is_through = |output: &Output| publishing.last().is_some_and(|last| output.through >= last);
    while !is_through(&output) {
        consumers += 1;
        let mut consumer = Consumer::start(env!("CARGO_BIN_EXE_matchtape"), &args);
        let begun = output.taken;
        let wanted = begun + 1 + random.below(events / 50);
        let node_dies_at = (consumers % 10 == 0).then_some(begun.midpoint(wanted));
        let (mut heard, mut node_is_dead) = (Instant::now(), false);
        while output.taken < wanted && !node_is_dead && !is_through(&output) {
            assert!(heard.elapsed() < PATIENCE, "it shows nothing more: {}", consumer.said());
            let Some(line) = consumer.line().unwrap_or_else(|said| panic!("{said}")) else { continue };
            output.take(&line, &publishing);
            heard = Instant::now();
            if node_dies_at == Some(output.taken) {
                publishing.meet(&mut random);
                node.kill();
                wire.end_life();
                nodes += 1;
                // It goes on by itself when the node is back, unless it dies with it.
                node_is_dead = nodes % 3 == 0;
                if !node_is_dead {
                    node = node.again();
                }
            }
        }
        resumed += u64::from(output.taken > begun);
        consumer.kill();
        while let Ok(line) = consumer.line() {
            line.inspect(|line| output.take(line, &publishing));
        }
        if node_is_dead {
            node = node.again();
        }
    }
    assert!(output.seen[1..].iter().all(|seen| *seen), "every event was shown");
    let (last, repeated) = (publishing.last().unwrap(), publishing.end());
    let judged = wire.end(last, events, &[]);
    eprintln!(
        "{resumed} of {consumers} consumers resumed, {nodes} nodes, {events} events: {judged:?}, {repeated:?}"
    );
    // The last one may have found nothing left.
    assert!(resumed + 1 >= consumers && resumed > 60 && nodes > 5 && repeated.requests > 0);
    node.stop();
}

#[test]
fn a_killed_consumer_that_stores_its_position_with_its_effect_has_every_effect_once() {
    let (folder, events) = (tempfile::tempdir().unwrap(), events(1_000_000));
    let mut node = Served::start(&folder.path().join("tape"), "0");
    let publishing = Publishing::begin(&node.url, events, 7, 40_000);
    node.succeed(&["consumer", "add", "ledger", "--ack-wait", "60s"]);
    let state = folder.path().join("state");
    let stored = |state: &Path| {
        let text = std::fs::read_to_string(state).unwrap_or_default();
        text.split(' ').next().unwrap().parse().unwrap_or(0)
    };
    let mut random = Random(0xACC);
    let (mut through, mut resumed, mut consumers, mut nodes) = (0, 0, 0, 0);
    while publishing.last().is_none_or(|last| through < last) {
        consumers += 1;
        let args = ["ledger", &node.url, "ledger", state.to_str().unwrap()];
        let mut consumer = Consumer::start(env!("CARGO_BIN_EXE_consumer-test-peer"), &args);
        let batches = 1 + random.below(30);
        let (mut batch, mut heard, mut node_dies) = (0, Instant::now(), consumers % 10 == 0);
        while batch < batches && publishing.last().is_none_or(|last| through < last) {
            assert!(heard.elapsed() < PATIENCE, "it says nothing more: {}", consumer.said());
            let Some(line) = consumer.line().unwrap_or_else(|said| panic!("{said}")) else { continue };
            let position: u64 = line.trim_end().parse().unwrap();
            assert!(position >= through, "the stored position went back");
            // An answer may have nothing new.
            if position > through {
                resumed += u64::from(batch == 0);
                batch += 1;
            }
            (through, heard) = (position, Instant::now());
            publishing.read_through(through);
            if node_dies && batch >= batches / 2 {
                node_dies = false;
                publishing.meet(&mut random);
                node.kill();
                nodes += 1;
                node = node.again();
            }
        }
        // Anywhere between two lines: while it asks, stores, or acknowledges.
        for _ in 0..random.below(2_000_000) {
            std::hint::spin_loop();
        }
        consumer.kill();
        through = stored(&state);
    }
    let expected = (1..=through).fold(0u64, |sum, sequence| sum.wrapping_mul(31).wrapping_add(sequence));
    assert_eq!(std::fs::read_to_string(&state).unwrap(), format!("{through} {through} {expected}"));
    let repeated = publishing.end();
    eprintln!("{resumed} of {consumers} consumers resumed, {nodes} nodes, {events} events: {repeated:?}");
    // As above.
    assert!(resumed + 1 >= consumers && resumed > 60 && nodes > 5 && repeated.requests > 0);
    node.stop();
}

/// Members that acknowledge, refuse, prolong, give up or forget events at random, one by one and in any order, until all of
/// them are dealt with; then what was set aside comes again.
fn verdicts(members: usize, orders: u64, instruments: u64, kills: u64) -> Judged {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Served::start(&folder.path().join("tape"), "0");
    let rules = Rules {
        explicit: true,
        instruments,
        ack_wait: Duration::from_millis(200),
        max_deliver: 5,
        max_ack_pending: 600,
    };
    let add = ["consumer", "add", "desk", "--ack", "explicit", "--ack-wait", "200ms", "--max-deliver", "5"];
    let more = ["--max-ack-pending", "600", "--member-timeout", "60s", "--members"];
    node.succeed(&[&add[..], &more, &[&members.to_string()]].concat());
    let mut wire = Wire::to(&node.url, rules);
    let publishing = Publishing::begin(&node.url, orders, instruments, 8_000);
    let mut random = Random(0xDE5C ^ members as u64);
    let begin = |member: usize, url: &str, random: &mut Random| {
        let args =
            ["verdicts", url, "desk", &format!("m{member}"), &random.below(u32::MAX.into()).to_string()];
        Consumer::start(env!("CARGO_BIN_EXE_consumer-test-peer"), &args)
    };
    let mut all: Vec<Consumer> = (0..members).map(|member| begin(member, &wire.url, &mut random)).collect();
    let server = Server::new(&node.url).unwrap();
    let (mut rounds, mut nodes, mut killed) = (0, 0, 0);
    loop {
        rounds += 1;
        let wanted = wire.progress().deliveries + 1 + random.below(2 * orders / kills);
        let mut heard = (Instant::now(), wire.progress().deliveries);
        let last = loop {
            let progress = wire.wait(Duration::from_millis(100));
            publishing.read_through(progress.through);
            if let Some(last) = publishing.last()
                && server.object::<ConsumerView>("/v1/consumers/desk", &[]).unwrap().ack_floor >= last
            {
                break Some(last);
            }
            if progress.deliveries >= wanted {
                break None;
            }
            if progress.deliveries > heard.1 {
                heard = (Instant::now(), progress.deliveries);
            }
            all.iter_mut().for_each(Consumer::lives);
            assert!(
                heard.0.elapsed() < PATIENCE,
                "nothing comes any more: {:?}",
                node.succeed(&["consumer", "info", "desk"])
            );
        };
        if let Some(last) = last {
            all.iter_mut().for_each(Consumer::kill);
            let parked: ParkedList = server.object("/v1/consumers/desk/parked", &[]).unwrap();
            let (sessions, repeated) = (wire.progress().sessions, publishing.end());
            let judged = wire.end(last, orders, &parked.parked);
            eprintln!(
                "{rounds} times resumed, {killed} members and {nodes} nodes killed, {sessions} sessions: {judged:?}, {repeated:?}"
            );
            assert!(rounds > kills / 2 && nodes > 3 && killed > 10 && repeated.requests > 0);
            what_was_set_aside_is_there(&node, &parked, last);
            node.stop();
            return judged;
        }
        let node_dies = rounds % 6 == 0;
        if node_dies {
            publishing.meet(&mut random);
            node.kill();
            nodes += 1;
        }
        // One of them, or with the node sometimes all.
        let unlucky = random.below(2 * members as u64) as usize;
        for (member, consumer) in all.iter_mut().enumerate() {
            let dies = member == unlucky % members || node_dies && unlucky == 0;
            if dies && (!node_dies || unlucky < members) {
                consumer.kill();
                killed += 1;
                *consumer = begin(member, &wire.url, &mut random);
            }
        }
        if node_dies {
            wire.end_life();
            node = node.again();
        }
    }
}

/// All that is parked comes again when it is asked for, in order, marked and counted on.
fn what_was_set_aside_is_there(node: &Served, parked: &ParkedList, last: u64) {
    assert!(!parked.parked.is_empty());
    node.succeed(&["consumer", "unpark", "desk"]);
    let mut came = Vec::new();
    let begun = Instant::now();
    while came.len() < parked.parked.len() && begun.elapsed() < PATIENCE {
        let rows = node.succeed(&["consumer", "next", "desk", "--batch", "2000", "--ack", "--member", "m0"]);
        // What came behind the last one, a new term, is no concern of this.
        let rows = rows.iter().filter(|row| row["event"]["sequence"].as_u64().is_some_and(|one| one <= last));
        came.extend(rows.map(|row| {
            assert_eq!((&row["delivery_count"], &row["redelivered"]), (&6.into(), &true.into()));
            row["event"]["sequence"].as_u64().unwrap()
        }));
    }
    came.sort_unstable();
    assert!(came.iter().eq(parked.parked.iter().map(|one| &one.sequence)), "{came:?}");
}

#[test]
fn events_acknowledged_one_by_one_end_as_the_policy_says_whoever_is_killed() {
    let judged = verdicts(1, events(150_000).min(1_000_000), 1000, 50);
    let Judged { acked, naked, in_progress, termed, expired, durable, forgotten, parked, out_max, .. } =
        judged;
    assert!(
        acked > 1000 && naked > 1000 && in_progress > 1000 && termed > 1000 && durable > 100,
        "each is tried"
    );
    assert!(expired > 5 && forgotten > 10 && parked > 50 && out_max > 500, "each happens");
}

#[test]
fn members_of_a_group_share_events_each_instrument_in_order_whoever_is_killed() {
    let judged = verdicts(3, events(20_000).min(1_000_000), 40, 40);
    assert!(judged.again > 500 && judged.forgotten > 0, "{judged:?}");
}
