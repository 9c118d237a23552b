//! The judge beside a test's nodes: a process that subscribes to the bus from outside, from a random moment on, and has to find
//! everything right. Nodes come and go under it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Longer than it takes to come to the bus, and to come to its verdict.
const PATIENCE: Duration = Duration::from_secs(60);

/// `node-test-peer PLACE NAMESPACE watch VISIBLE_AT`.
pub struct Watched {
    child: Child,
    said: Mutex<Said>,
}

/// What it said so far, and what it says next.
struct Said {
    lines: Vec<String>,
    next: Receiver<String>,
}

impl Said {
    /// Takes in what it says until `is_enough` or its end.
    fn hear(&mut self, is_enough: impl Fn(&str) -> bool) {
        while !self.lines.iter().any(|line| is_enough(line)) {
            match self.next.recv_timeout(PATIENCE) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the judge beside this test is silent: {:?}", self.lines)
                }
            }
        }
    }
}

impl Watched {
    /// Of the tape in `place/data`, whose bus is in `place/bus`. Neither need be there yet.
    /// `visible_at` is `durable`, or `written` where the nodes show what is not synced.
    pub fn start(place: &Path, namespace: &str, visible_at: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_node-test-peer"))
            .arg(place)
            .args([namespace, "watch", visible_at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, next) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, said: Mutex::new(Said { lines: Vec::new(), next }) }
    }

    /// Waits until events come to it from the bus, for a test whose node is about to end: else it may have read the log alone.
    pub fn joins(&self) {
        let mut said = self.said.lock().unwrap();
        said.hear(|line| line == "joined");
        assert!(said.lines.iter().any(|line| line == "joined"), "it never came to the bus: {:?}", said.lines);
    }

    /// Ends it, unless it was: everything that it was shown was right, and is on the log.
    pub fn ends_clean(&mut self) {
        let Some(mut input) = self.child.stdin.take() else { return };
        // One that has ended says below why.
        let _ = writeln!(input, "end");
        let mut said = self.said.lock().unwrap();
        said.hear(|_| false);
        let code = self.child.wait().expect("our own child").code();
        assert_eq!(code, Some(0), "the judge of every event beside this test: {:?}", said.lines);
    }
}

/// A test that fails leaves none behind.
impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
