//! A node with its gateway in a process of its own, and who publishes to it, whatever becomes of it.

use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matchtape::server::{Published, Server};
use matchtape_schemas::event::{OrderAccepted, encode_event};
use matchtape_schemas::{Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::watched::Bus;

const PRODUCER: ProducerId = ProducerId(1);
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Events of one request at most.
const PUBLISHED: u64 = 5_000;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// A node with its gateway, in a process of its own.
pub(crate) struct Served {
    child: Child,
    tape: PathBuf,
    pub(crate) url: String,
    bus: Option<Bus>,
}

impl Served {
    pub(crate) fn start(tape: &Path, port: &str) -> Self {
        Self::start_on(Bus::new("consumers"), tape, port)
    }

    fn start_on(mut bus: Bus, tape: &Path, port: &str) -> Self {
        let begun = Instant::now();
        loop {
            let mut child = Command::new(env!("CARGO_BIN_EXE_matchtape"))
                .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
                .arg(tape)
                .envs(bus.settings())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            let mut said = said.lines().map_while(Result::ok);
            if let Some(url) = said.find_map(|line| Some(line.strip_prefix("page ")?.to_owned())) {
                bus.watch(tape);
                let url = url.trim_end_matches('/').to_owned();
                return Self { child, tape: tape.to_owned(), url, bus: Some(bus) };
            }
            // Somebody else may have the port of one that was killed for a moment.
            assert!(port != "0" && begun.elapsed() < PATIENCE, "it says where its page is");
            child.wait().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Started again where it was when it was killed, with the same judge on its bus.
    pub(crate) fn again(&mut self) -> Self {
        let bus = self.bus.take().expect("it was not started again before");
        Self::start_on(bus, &self.tape, self.url.rsplit(':').next().unwrap())
    }

    pub(crate) fn stop(mut self) {
        self.bus.as_mut().expect("it was not started again").ends_clean();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }

    pub(crate) fn cli(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_matchtape"))
            .args(args)
            .args(["--server", &self.url])
            .output()
            .unwrap()
    }

    pub(crate) fn succeed(&self, args: &[&str]) -> Vec<Value> {
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
pub(crate) fn publish(url: &str, first: u64, count: u64) -> u64 {
    let server = Server::new(url).unwrap();
    let mut last = 0;
    let numbers: Vec<u64> = (first..first + count).collect();
    for part in numbers.chunks(PUBLISHED as usize) {
        last = server.publish(PRODUCER, &orders(part[0]..=part[part.len() - 1], 7)).unwrap().last;
    }
    last
}

/// An order's number is its producer sequence and its id, and says which instrument it is of.
fn orders(numbers: RangeInclusive<u64>, instruments: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in numbers {
        let body = OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() };
        let instrument = InstrumentId(1 + (number % instruments) as u32);
        let event =
            Event::new(instrument, ProducerSequence(number), EventTime(1_700_000_000_000_000_000), body);
        let at = bytes.len();
        bytes.resize(at + event.encoded_len(), 0);
        encode_event(&event, PRODUCER, &mut bytes[at..]);
    }
    bytes
}

/// Somebody who publishes while others read: never far ahead of them, so until they are through, and not stopped by a node
/// that is killed.
pub(crate) struct Publishing {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Repeated>>,
}

/// What a publisher had to say twice.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    /// Requests that were not answered at once.
    pub(crate) requests: u64,
    /// Events of those that had been taken all the same.
    pub(crate) events: u64,
}

#[derive(Default)]
struct Progress {
    state: Mutex<Positions>,
    changed: Condvar,
}

#[derive(Default)]
struct Positions {
    /// How far the readers are.
    through: u64,
    /// The last published one.
    published: u64,
    /// It is the last one altogether.
    is_last: bool,
    /// A request is under way.
    asks: bool,
}

impl Publishing {
    /// So many orders, at most `ahead` of whoever reads.
    pub(crate) fn begin(url: &str, orders: u64, instruments: u64, ahead: u64) -> Self {
        let progress = Arc::<Progress>::default();
        let (url, seen) = (url.to_owned(), Arc::clone(&progress));
        let thread = std::thread::spawn(move || publish_all(&url, orders, instruments, ahead, &seen));
        Self { progress, thread: Some(thread) }
    }

    /// The readers are so far.
    pub(crate) fn read_through(&self, sequence: u64) {
        self.progress.state.lock().through = sequence;
        self.progress.changed.notify_all();
    }

    /// The last event's position, once it is published.
    pub(crate) fn last(&self) -> Option<u64> {
        let state = self.progress.state.lock();
        assert!(state.is_last || !self.thread.as_ref().unwrap().is_finished(), "the publisher failed");
        state.is_last.then_some(state.published)
    }

    /// Returns in the middle of a request, most likely: some moment after it was begun.
    pub(crate) fn meet(&self, random: &mut Random) {
        let mut state = self.progress.state.lock();
        // It need not wait for readers who wait for this.
        state.through = state.published;
        self.progress.changed.notify_all();
        while !state.asks && !state.is_last {
            assert!(!self.progress.changed.wait_for(&mut state, PATIENCE).timed_out(), "it publishes on");
        }
        drop(state);
        let moment = Instant::now() + Duration::from_micros(random.below(5_000));
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
    }

    pub(crate) fn end(mut self) -> Repeated {
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A test that failed does not leave it waiting.
impl Drop for Publishing {
    fn drop(&mut self) {
        self.progress.state.lock().through = u64::MAX / 2;
        self.progress.changed.notify_all();
    }
}

fn publish_all(url: &str, count: u64, instruments: u64, ahead: u64, progress: &Progress) -> Repeated {
    let server = Server::new(url).unwrap();
    let publish = |numbers: &RangeInclusive<u64>| {
        let bytes = orders(numbers.clone(), instruments);
        let ask = |server: &Server| server.publish(PRODUCER, &bytes);
        let answered = server.persistently(&AtomicBool::new(false), &mut |_| (), ask).unwrap();
        let Published { published, already, .. } = answered.answer;
        assert_eq!(published + already, numbers.end() + 1 - numbers.start(), "each is new, or there already");
        answered
    };
    let (mut repeated, mut through, mut before) = (Repeated::default(), 0, None);
    while through < count {
        let numbers = through + 1..=(through + PUBLISHED.min(ahead / 16)).min(count);
        progress.state.lock().asks = true;
        progress.changed.notify_all();
        let answered = publish(&numbers);
        if answered.repeated {
            repeated.requests += 1;
            repeated.events += answered.answer.already;
            // As one that does not know so well how far it was: what was answered before the kill is all there.
            if let Some(before) = &before {
                assert_eq!(publish(before).answer.published, 0, "what was answered was lost with the node");
            }
        } else {
            assert_eq!(answered.answer.already, 0, "it was never published before");
        }
        through = *numbers.end();
        before = Some(numbers);
        let mut state = progress.state.lock();
        *state = Positions {
            published: answered.answer.last,
            is_last: through == count,
            asks: false,
            through: state.through,
        };
        progress.changed.notify_all();
        while !state.is_last && state.published > state.through + ahead {
            progress.changed.wait(&mut state);
        }
    }
    repeated
}
