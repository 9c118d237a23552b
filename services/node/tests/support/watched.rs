//! The judge beside a test's nodes: a process that subscribes to the bus from outside, from a random moment on, and has to find
//! everything right. Nodes come and go under it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// `node-test-peer PLACE NAMESPACE watch VISIBLE_AT`.
pub struct Watched {
    child: Child,
}

impl Watched {
    /// Of the tape in `place/data`, whose bus is in `place/bus`. Neither need be there yet.
    /// `visible_at` is `durable`, or `written` where the nodes show what is not synced.
    pub fn start(place: &Path, namespace: &str, visible_at: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_node-test-peer"))
            .arg(place)
            .args([namespace, "watch", visible_at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        Self { child }
    }

    /// Ends it, unless it was: everything that it was shown was right, and is on the log.
    pub fn ends_clean(&mut self) {
        let Some(mut input) = self.child.stdin.take() else { return };
        // One that has ended says below why.
        let _ = writeln!(input, "end");
        let mut said = String::new();
        self.child.stdout.take().expect("piped").read_to_string(&mut said).expect("it ends");
        let code = self.child.wait().expect("our own child").code();
        assert_eq!(code, Some(0), "the judge of every event beside this test: {said}");
    }
}

/// A test that fails leaves none behind.
impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
