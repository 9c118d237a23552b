//! Durable consumers in processes of their own, killed at random moments, and the node killed under them.
//!
//! `MATCHTAPE_CONSUMER_EVENTS` is how many events each of them goes through.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use matchtape::consumers::Member;
use matchtape::server::Server;
use matchtape_client::consumers::DeliveryView;
use matchtape_schemas::event::{OrderAccepted, encode_event};
use matchtape_schemas::{Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Sequence};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const PRODUCER: ProducerId = ProducerId(1);
const PATIENCE: Duration = Duration::from_secs(60);

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// A node with its gateway, in a process of its own.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(tape: &Path, port: &str) -> Self {
        let begun = Instant::now();
        loop {
            let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
                .args(["serve", "--no-bus", "--listen", &format!("127.0.0.1:{port}"), "--data"])
                .arg(tape)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            let mut said = said.lines().map_while(Result::ok);
            if let Some(url) = said.find_map(|line| Some(line.strip_prefix("page ")?.to_owned())) {
                return Self { child, url: url.trim_end_matches('/').to_owned() };
            }
            // Somebody else may have the port of one that was killed for a moment.
            assert!(port != "0" && begun.elapsed() < PATIENCE, "it says where its page is");
            child.wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Killed, and started again where it was.
    fn killed_and_started(mut self, tape: &Path) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let port = self.url.rsplit(':').next().unwrap().to_owned();
        Self::start(tape, &port)
    }

    fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    fn cli(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(args)
            .args(["--server", &self.url])
            .output()
            .unwrap()
    }

    fn succeed(&self, args: &[&str]) -> Vec<Value> {
        let output = self.cli(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Ends it when the test does, however.
impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes orders of seven instruments; the last one's sequence is returned.
fn publish(url: &str, first: u64, count: u64) -> u64 {
    let server = Server::new(url).unwrap();
    let mut last = 0;
    let numbers: Vec<u64> = (first..first + count).collect();
    for part in numbers.chunks(5_000) {
        let mut bytes = Vec::new();
        for number in part {
            let body = OrderAccepted { order_id: OrderId(*number), ..OrderAccepted::default() };
            let instrument = InstrumentId(1 + *number as u32 % 7);
            let event =
                Event::new(instrument, ProducerSequence(*number), EventTime(1_700_000_000_000_000_000), body);
            let at = bytes.len();
            bytes.resize(at + event.encoded_len(), 0);
            encode_event(&event, PRODUCER, &mut bytes[at..]);
        }
        last = server.publish(PRODUCER, &bytes).unwrap().last;
    }
    last
}

fn events() -> u64 {
    std::env::var("MATCHTAPE_CONSUMER_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

#[test]
fn killed_consumers_get_every_event_at_least_once_and_what_comes_again_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    let tape = folder.path().join("tape");
    let mut node = Served::start(&tape, "0");
    let last = publish(&node.url, 1, events());
    node.succeed(&["consumer", "add", "risk", "--ack-wait", "60s"]);
    let mut random = Random(0x5EED);
    let mut seen = vec![0u32; last as usize + 1];
    let mut through = 0;
    let mut rounds = 0;
    while through < last {
        rounds += 1;
        let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(["consumer", "next", "risk", "--follow", "--ack", "--batch", "400", "--format", "json"])
            .args(["--server", &node.url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let wanted = 1 + random.below(last / 50);
        let dies_first = rounds % 10 == 0;
        let mut taken = 0;
        let mut line = String::new();
        let mut take = |line: &str| {
            let delivery: DeliveryView = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
            let sequence = delivery.event.sequence.get();
            let count = &mut seen[sequence as usize];
            *count += 1;
            assert!(*count == 1 || delivery.redelivered, "{sequence} came again and is not marked");
            sequence
        };
        while taken < wanted {
            line.clear();
            out.read_line(&mut line).unwrap();
            let sequence = take(&line);
            (taken, through) = (taken + 1, through.max(sequence));
            if sequence == last {
                break;
            }
            if dies_first && taken == wanted / 2 {
                // The consumer goes on by itself when the node is back.
                node = node.killed_and_started(&tape);
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        // The last line may be cut: that event was given, and is not known to have been dealt with.
        for line in rest.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            through = through.max(take(line));
        }
    }
    assert!(seen[1..].iter().all(|count| *count > 0), "every event came");
    let again: u32 = seen[1..].iter().map(|count| count - 1).sum();
    eprintln!("{rounds} consumers for {last} events, {again} of which came again");
    assert!(rounds > 30);
    node.stop();
}

/// What one life of a member was given.
struct Given {
    attachment: (usize, u32),
    delivery: DeliveryView,
}

/// A member of a group in a process of its own, killed when it is dropped, and the thread that hears what it is given.
struct MemberProcess {
    child: Child,
    life: u32,
    hears: Option<std::thread::JoinHandle<()>>,
}

impl MemberProcess {
    fn start(url: &str, number: usize, life: u32, given: &SyncSender<Given>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(["consumer", "next", "group", "--follow", "--ack", "--batch", "200", "--format", "json"])
            .args(["--member", &format!("m{number}"), "--server", url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut out, given) = (BufReader::new(child.stdout.take().unwrap()), given.clone());
        let hears = std::thread::spawn(move || {
            let mut line = String::new();
            // The last line may be cut: that event was given, and is not known to have been dealt with.
            while out.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
                let delivery = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
                // Nobody listens any more when all have come.
                let _ = given.send(Given { attachment: (number, life), delivery });
                line.clear();
            }
        });
        Self { child, life, hears: Some(hears) }
    }
}

impl Drop for MemberProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let heard = self.hears.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || heard.is_none_or(|heard| heard.is_ok()));
    }
}

#[test]
fn members_in_processes_of_their_own_share_events_each_instrument_in_order_whoever_is_killed() {
    const EVENTS: u64 = 4_000;
    const KILLS: usize = 5;
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    let add = ["consumer", "add", "group", "--ack", "explicit", "--members", "3", "--ack-wait", "60s"];
    node.succeed(&[&add[..], &["--member-timeout", "60s", "--max-ack-pending", "600"]].concat());
    // What is not taken here fills a member's pipe, so that it is most often killed in the middle of what it was given.
    // And let go of before the members, who wait for it.
    let (mut dead, mut members) = (Vec::new(), Vec::new());
    let (given, heard) = std::sync::mpsc::sync_channel(1);
    members.extend((0..3).map(|number| MemberProcess::start(&node.url, number, 0, &given)));
    let begun = Instant::now();
    while node.succeed(&["consumer", "info", "group"])[0]["members"].as_array().unwrap().len() < 3 {
        assert!(begun.elapsed() < PATIENCE, "all three attach");
    }
    let (mut all, mut seen): (Vec<Given>, _) = (Vec::new(), BTreeSet::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for part in 0..8 {
                publish(&node.url, 1 + part * EVENTS / 8, EVENTS / 8);
            }
        });
        let mut kills = 0;
        // The term's start is one, too.
        while seen.len() as u64 <= EVENTS {
            let one: Given = heard.recv_timeout(PATIENCE).expect("all of them come");
            seen.insert(one.delivery.event.sequence.get());
            let (number, life) = one.attachment;
            all.push(one);
            // Whoever is at it, unless it has been killed since; who comes in its place has the same name.
            if kills < KILLS && all.len() >= 500 * (kills + 1) && members[number].life == life {
                kills += 1;
                members[number].child.kill().unwrap();
                let next = MemberProcess::start(&node.url, number, life + 1, &given);
                dead.push(std::mem::replace(&mut members[number], next));
            }
        }
        assert_eq!(kills, KILLS);
    });
    // What is still on its way are events that came already.
    drop(heard);
    drop((members, dead));
    all.sort_by_key(|given| given.delivery.consumer_sequence);
    assert!(seen.iter().copied().eq(1..=EVENTS + 1), "every event came");
    // Of each instrument the last delivery, and whose each of its events was. An event's successor is seven positions on.
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut whose: BTreeMap<u64, (usize, u32)> = BTreeMap::new();
    let mut again = 0;
    for Given { attachment, delivery } in
        all.iter().filter(|given| given.delivery.event.sequence > Sequence(1))
    {
        let sequence = delivery.event.sequence.get();
        let before = last.insert(sequence % 7, sequence);
        match whose.insert(sequence, *attachment) {
            None => assert!(
                before.map_or(sequence <= 8, |before| sequence == before + 7),
                "{sequence} came behind {before:?}"
            ),
            Some(with) => {
                again += 1;
                assert!(delivery.redelivered, "{sequence} came again and is not marked");
                assert!(with != *attachment, "{sequence} came to {with:?} twice");
                assert!(
                    before.is_some_and(|before| sequence <= before + 7),
                    "{sequence} came behind {before:?}"
                );
            }
        }
    }
    let shared: BTreeSet<usize> = all.iter().map(|given| given.attachment.0).collect();
    assert!(shared.len() > 1, "one member did it all");
    eprintln!("{KILLS} members killed, {again} events came again");
    node.stop();
}

#[test]
fn a_killed_consumer_that_stores_its_position_with_its_effect_has_every_effect_once() {
    let folder = tempfile::tempdir().unwrap();
    let tape = folder.path().join("tape");
    let mut node = Served::start(&tape, "0");
    let last = publish(&node.url, 1, events());
    node.succeed(&["consumer", "add", "ledger", "--ack-wait", "60s"]);
    let state = folder.path().join("state");
    let mut random = Random(0xACC);
    let (mut through, mut rounds) = (0, 0);
    while through < last {
        rounds += 1;
        let mut child = Command::new(env!("CARGO_BIN_EXE_consumer-test-peer"))
            .args([&node.url, "ledger"])
            .arg(&state)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut positions = BufReader::new(child.stdout.take().unwrap()).lines();
        let batches = 1 + random.below(30);
        for batch in 0..batches {
            let Some(Ok(line)) = positions.next() else {
                let said = child.wait_with_output().unwrap();
                panic!("{}", String::from_utf8_lossy(&said.stderr));
            };
            let position: u64 = line.parse().unwrap();
            assert!(position >= through, "the stored position went back");
            through = position;
            if rounds % 10 == 0 && batch == batches / 2 {
                node = node.killed_and_started(&tape);
            }
            if through == last {
                break;
            }
        }
        // Anywhere between two lines: while it asks, stores, or acknowledges.
        for _ in 0..random.below(2_000_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        through = std::fs::read_to_string(&state)
            .map_or(0, |text| text.split(' ').next().unwrap().parse().unwrap());
    }
    let expected = (1..=last).fold(0u64, |sum, sequence| sum.wrapping_mul(31).wrapping_add(sequence));
    assert_eq!(std::fs::read_to_string(&state).unwrap(), format!("{last} {last} {expected}"));
    eprintln!("{rounds} consumers for {last} events");
    assert!(rounds > 30, "{rounds}");
    node.stop();
}

/// Passes requests on to `url`, and drops every third answer to a request for events on its way back.
fn forgetful_proxy(url: &str) -> (String, std::sync::Arc<std::sync::atomic::AtomicU64>) {
    let upstream = url.strip_prefix("http://").unwrap().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let lost = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
    let counted = std::sync::Arc::clone(&lost);
    std::thread::spawn(move || {
        let mut asked = 0;
        for client in listener.incoming() {
            let client = client.unwrap();
            let mut request = BufReader::new(client.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if request.read_line(&mut line).unwrap_or(0) <= 2 {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if !lower.starts_with("connection:") {
                    head += &line;
                }
            }
            let mut body = vec![0; length];
            if head.is_empty() || request.read_exact(&mut body).is_err() {
                continue;
            }
            let mut server = std::net::TcpStream::connect(&upstream).unwrap();
            write!(server, "{head}Connection: close\r\n\r\n").unwrap();
            server.write_all(&body).unwrap();
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).unwrap();
            if head.contains("/next?") {
                asked += 1;
                if asked % 3 == 0 {
                    counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    continue;
                }
            }
            let _ = (&client).write_all(&answer);
        }
    });
    (address, lost)
}

#[test]
fn what_was_in_answers_that_got_lost_comes_before_anything_else_and_nothing_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    let last = publish(&node.url, 1, 1_000);
    let (proxy, lost) = forgetful_proxy(&node.url);
    for ack in ["all", "explicit"] {
        node.succeed(&["consumer", "add", ack, "--ack", ack, "--ack-wait", "60s", "--max-deliver", "1"]);
        let server = Server::new(&proxy).unwrap();
        let mut member =
            matchtape::consumers::Member::new(&server, &ack.parse().unwrap(), &"m".parse().unwrap());
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut came = Vec::new();
        while came.last() != Some(&last) {
            let items = member.next(25, std::time::Duration::ZERO, &stop, &mut |_| ()).unwrap();
            let given: Vec<u64> = items
                .iter()
                .map(|item| match item {
                    matchtape_client::consumers::ConsumerItem::Delivery(delivery) => {
                        delivery.event.sequence.get()
                    }
                    other => panic!("{other:?}"),
                })
                .collect();
            came.extend(&given);
            if given.is_empty() {
                continue;
            }
            let acknowledged = if ack == "all" { given[given.len() - 1..].to_vec() } else { given };
            let said =
                matchtape_client::consumers::Acknowledgement { ack: acknowledged, ..Default::default() };
            member.acknowledge(&said, &stop, &mut |_| ()).unwrap();
        }
        assert_eq!(came, (1..=last).collect::<Vec<_>>(), "{ack}");
        let view = member.info().unwrap();
        assert_eq!((view.ack_floor, view.parked), (last, 0));
        assert!(view.delivered > last, "some were sent twice");
    }
    assert!(lost.load(std::sync::atomic::Ordering::Relaxed) > 30);
    node.stop();
}

#[test]
fn people_make_ask_acknowledge_and_forget_consumers() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    publish(&node.url, 1, 20);
    let made = node.succeed(&[
        "consumer",
        "add",
        "risk",
        "--ack",
        "explicit",
        "--instrument",
        "3",
        "--kind",
        "orders",
        "--max-deliver",
        "3",
        "--backoff",
        "1h",
        "--description",
        "for the risk desk",
    ]);
    assert_eq!((&made[0]["name"], &made[0]["next"]), (&"risk".into(), &1.into()));
    let refused = node.cli(&["consumer", "add", "risk"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("consumer_exists") && said.contains("PATCH"), "{said}");
    assert!(!node.cli(&["consumer", "add", "a/b"]).status.success());
    let said = String::from_utf8(node.cli(&["consumer", "add", "x", "--kind", "nothing"]).stderr).unwrap();
    assert!(said.contains("there is no kind \"nothing\""), "{said}");

    // Instrument 3 has the orders 2, 9 and 16, one further along the tape each.
    let next = |more: &[&str]| -> Vec<(u64, u64)> {
        let rows = node.succeed(&[&["consumer", "next", "risk"], more].concat());
        let number = |value: &Value| value.as_u64().unwrap();
        rows.iter().map(|row| (number(&row["event"]["sequence"]), number(&row["delivery_count"]))).collect()
    };
    assert_eq!(next(&["--batch", "2"]), [(3, 1), (10, 1)]);
    node.succeed(&["consumer", "ack", "risk", "3"]);
    assert_eq!(next(&["--batch", "2"]), [(10, 2), (17, 1)], "detaching gave 10 back");
    let said = String::from_utf8(node.cli(&["consumer", "ack", "risk", "4"]).stderr).unwrap();
    assert!(said.contains("event 4 was never delivered"), "{said}");
    // 10 waits to be delivered again, to nobody yet.
    let said =
        String::from_utf8(node.cli(&["consumer", "ack", "risk", "10", "--in-progress"]).stderr).unwrap();
    assert!(said.contains("event 10 waits to be delivered again"), "{said}");
    for other in ["--nak", "--term"] {
        let both = node.cli(&["consumer", "ack", "risk", "10", "--in-progress", other]);
        assert_eq!(both.status.code(), Some(2), "{other}");
    }
    node.succeed(&["consumer", "ack", "risk", "17", "--term"]);
    let info = node.succeed(&["consumer", "info", "risk"]);
    assert_eq!(info[0]["ack_floor"], 9);
    assert_eq!(info[0]["definition"]["kinds"].as_array().unwrap().len(), 5);
    assert_eq!(info[0]["definition"]["instruments"], serde_json::json!(["3"]));
    assert_eq!(next(&["--batch", "2", "--ack"]), [(10, 3)]);
    assert_eq!(next(&["--wait", "0s"]), []);

    // One that a member works on stays with it.
    node.succeed(&["consumer", "add", "slow", "--ack", "explicit"]);
    let server = Server::new(&node.url).unwrap();
    let mut member = Member::new(&server, &"slow".parse().unwrap(), &"m".parse().unwrap());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let given = member.next(1, Duration::from_secs(20), &stop, &mut |_| {}).unwrap();
    assert_eq!(given.len(), 1);
    let output = node.cli(&["consumer", "ack", "slow", "1", "--in-progress"]);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "1 settled\n");
    let slow = node.succeed(&["consumer", "info", "slow"]);
    assert_eq!((&slow[0]["ack_pending"], &slow[0]["ack_floor"]), (&1.into(), &0.into()));
    member.detach();
    node.succeed(&["consumer", "rm", "slow"]);

    let rows = node.succeed(&["subscribe", "--from", "beginning", "--limit", "21"]);
    assert_eq!(rows.len(), 21);
    assert!(rows.iter().all(|row| row.get("account").is_none() && row.get("client_order_id").is_none()));
    let by_consumer = |limit| {
        let args = ["subscribe", "--consumer", "feed", "--create", "--from", "5", "--limit", limit];
        let rows = node.succeed(&args);
        rows.iter().map(|row| row["event"]["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(by_consumer("3"), [5, 6, 7]);
    assert_eq!(by_consumer("2"), [8, 9], "it goes on behind what was shown");

    // Nobody who mistypes a name, or whose consumer is gone, begins anew without a word.
    let refused = |args: &[&str]| {
        let output = node.cli(args);
        assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["subscribe", "--consumer", "fed", "--limit", "1"]);
    assert!(said.contains("there is no consumer fed") && said.contains("--create makes it"), "{said}");
    for other in [["--kind", "trades"], ["--from", "5"], ["--instrument", "3"]] {
        let args = [&["subscribe", "--consumer", "feed", "--limit", "1"], &other[..]].concat();
        assert!(refused(&args).contains("one that is there goes on as it is"), "{other:?}");
    }
    let said = refused(&["subscribe", "--consumer", "feed", "--create", "--kind", "trades", "--limit", "1"]);
    assert!(said.contains("there is a consumer feed") && said.contains("without --create"), "{said}");
    let goes_on = node.succeed(&["subscribe", "--consumer", "feed", "--limit", "1"]);
    assert_eq!(goes_on[0]["event"]["sequence"], 10);

    // A name is a name, and not a piece of a URL that means another one.
    for name in ["feed#x", "feed?x=1", "feed/members/x", "..", "f%65ed"] {
        let asked = [
            &["consumer", "rm", name][..],
            &["consumer", "info", name],
            &["consumer", "next", name],
            &["consumer", "next", "feed", "--member", name],
            &["subscribe", "--consumer", name],
        ];
        for args in asked {
            let said = refused(args);
            assert!(said.contains("is not 1 to 64 letters, digits"), "{args:?}: {said}");
        }
    }

    let list = node.succeed(&["consumer", "list"]);
    let names: Vec<_> = list.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["feed", "risk"]);
    node.succeed(&["consumer", "rm", "feed"]);
    assert!(
        String::from_utf8_lossy(&node.cli(&["consumer", "rm", "feed"]).stderr).contains("unknown_consumer")
    );
    node.stop();
}

#[test]
fn a_backup_has_the_consumers_and_a_restored_node_never_passes_over_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_matchtape")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let positions = |rows: Vec<Value>| -> Vec<(u64, bool)> {
        let one =
            |row: &Value| (row["event"]["sequence"].as_u64().unwrap(), row["redelivered"].as_bool().unwrap());
        rows.iter().filter(|row| row.get("event").is_some()).map(one).collect()
    };
    let node = Served::start(&place("tape"), "0");
    // Position 1 is the node's own: its epoch begins.
    let last = publish(&node.url, 1, 20);
    for (consumer, dealt_with) in [("near", "4"), ("far", "15")] {
        let args =
            ["subscribe", "--consumer", consumer, "--create", "--from", "beginning", "--limit", dealt_with];
        node.succeed(&args);
    }
    shown::until_shown(&place("tape"), Sequence(last));
    let said = run(&[
        "backup",
        "--data",
        &text(&place("tape")),
        "--to",
        &text(&place("backup")),
        "--format",
        "text",
    ]);
    assert!(said.contains("the durable consumers are in it"), "{said}");
    node.stop();

    run(&["restore", "--from", &text(&place("backup")), "--data", &text(&place("whole"))]);
    let node = Served::start(&place("whole"), "0");
    let goes_on = |consumer: &str, count: &str| {
        positions(node.succeed(&["subscribe", "--consumer", consumer, "--limit", count]))
    };
    // Marked, because more may have been delivered after what the backup has of them.
    assert_eq!(goes_on("near", "2"), [(5, true), (6, true)]);
    assert_eq!(goes_on("far", "2"), [(16, true), (17, true)]);
    node.stop();

    run(&[
        "restore",
        "--from",
        &text(&place("backup")),
        "--data",
        &text(&place("early")),
        "--to-sequence",
        "10",
    ]);
    let node = Served::start(&place("early"), "0");
    // Position 11 is the new term's, which the restore put there, 12 and on come now.
    publish(&node.url, 100, 5);
    let goes_on = |consumer: &str, count: &str| {
        positions(node.succeed(&["subscribe", "--consumer", consumer, "--limit", count]))
    };
    assert_eq!(goes_on("near", "7"), (5..=11).map(|sequence| (sequence, true)).collect::<Vec<_>>());
    assert_eq!(goes_on("far", "3"), [(11, true), (12, true), (13, true)]);
    let info = node.succeed(&["consumer", "info", "far"]);
    assert_eq!(info[0]["advisories"][0]["advisory"], "pulled_back", "{info:?}");
    node.stop();
}

#[test]
fn what_fails_too_often_is_set_aside_for_people_to_see_and_an_interrupted_subscription_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let node = Served::start(&folder.path().join("tape"), "0");
    publish(&node.url, 1, 3);
    node.succeed(&["consumer", "add", "c", "--ack", "explicit", "--max-deliver", "2", "--deliver", "3"]);
    assert_eq!(node.succeed(&["consumer", "next", "c", "--batch", "1"]).len(), 1);
    node.succeed(&["consumer", "next", "c", "--batch", "1", "--ack"]);
    // Detaching gave it back, and it was delivered a second time; one that comes to nothing twice is parked.
    assert_eq!(node.succeed(&["consumer", "next", "c", "--batch", "1", "--wait", "0s"]).len(), 1);
    let refused = node.cli(&["consumer", "ack", "c", "4", "--nak"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("waits to be delivered again"), "{said}");
    let server = Server::new(&node.url).unwrap();
    let (stop, mut notice) = (std::sync::atomic::AtomicBool::new(false), |_: &str| {});
    let mut member = matchtape::consumers::Member::new(&server, &"c".parse().unwrap(), &"m".parse().unwrap());
    let wait = std::time::Duration::from_secs(5);
    assert_eq!(member.next(1, wait, &stop, &mut notice).unwrap().len(), 1);
    node.succeed(&["consumer", "ack", "c", "4", "--nak"]);
    let parked = node.succeed(&["consumer", "parked", "c"]);
    assert_eq!((&parked[0]["sequence"], &parked[0]["reason"]), (&4.into(), &"refused".into()));
    node.succeed(&["consumer", "unpark", "c", "4"]);
    assert!(node.succeed(&["consumer", "parked", "c"]).is_empty());
    node.succeed(&["consumer", "discard", "c"]);

    let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["subscribe", "--consumer", "s", "--create", "--from", "beginning", "--server", &node.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..4 {
        out.next().unwrap().unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("resume with --consumer s"));
    // What the node does not understand is said at once: nothing comes on this tape that would bring it up.
    for (filter, what, code) in [(["--instrument", "NOPE"], "NOPE", 1), (["--kind", "nope"], "nope", 2)] {
        let refused = node.cli(&[&["subscribe"][..], &filter].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(code) && said.contains(what), "{said}");
    }
    assert!(node.succeed(&["subscribe", "--from", "beginning", "--limit", "0"]).is_empty());
    assert!(node.succeed(&["subscribe", "--consumer", "s", "--limit", "0"]).is_empty());
    assert_eq!(node.cli(&["consumer", "next", "s", "--batch", "0"]).status.code(), Some(2));
    // Output that nobody takes any more: nothing is acknowledged, and nobody else has to wait for this member to be given up.
    node.succeed(&["consumer", "add", "h", "--ack", "explicit", "--member-timeout", "10m"]);
    let (out, nobody) = UnixStream::pair().unwrap();
    // Before it begins, and for everybody who has it: also for children of other tests that are just starting.
    nobody.shutdown(Shutdown::Both).unwrap();
    let mut closed = Command::new(env!("CARGO_BIN_EXE_matchtape"))
        .args(["consumer", "next", "h", "--follow", "--ack", "--server", &node.url])
        .stdout(OwnedFd::from(out))
        .spawn()
        .unwrap();
    assert_eq!(closed.wait().unwrap().code(), Some(0));
    let info = node.succeed(&["consumer", "info", "h"]);
    assert_eq!((&info[0]["ack_floor"], &info[0]["members"]), (&0.into(), &serde_json::json!([])));
    let info = node.succeed(&["consumer", "info", "s"]);
    assert_eq!((&info[0]["ack_floor"], &info[0]["members"]), (&4.into(), &serde_json::json!([])));
    node.stop();
}
