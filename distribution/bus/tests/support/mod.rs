//! Names that never collide, and processes to stop and kill.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use matchtape_bus::{BusConfig, BusName, BusPublisher, BusService};
use matchtape_schemas::Head;

pub use self::tape::*;

#[path = "tape.rs"]
mod tape;

/// A folder and a bus in it that no other test shares.
pub struct Place {
    pub root: tempfile::TempDir,
    pub name: BusName,
}

impl Place {
    pub fn new(namespace: &str) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let namespace = format!("{namespace}-{}", std::process::id());
        let name = BusName::with_root(&namespace, TAPE, root.path()).expect("name");
        Self { root, name }
    }

    pub fn publisher(&self, service: BusService, config: &BusConfig, head: &Head) -> BusPublisher {
        BusPublisher::open(&self.name, service, config, head).expect("publisher")
    }

    /// The files of this bus in shared memory.
    pub fn shared_memory(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir("/dev/shm").expect("shared memory");
        let paths = entries.map(|entry| entry.expect("entry"));
        let ours = paths.filter(|entry| entry.file_name().to_string_lossy().starts_with(&self.name.prefix()));
        ours.map(|entry| entry.path()).collect()
    }

    /// Every file of this bus, in its folder and in shared memory, but for the 16-byte id counter that iceoryx2 keeps
    /// per namespace.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        files_below(self.root.path(), &mut found);
        found.extend(self.shared_memory().iter().map(|path| path.display().to_string()));
        found.retain(|path| !path.ends_with(ID_COUNTER));
        found
    }
}

const ID_COUNTER: &str = ".global_mgmt";

impl Drop for Place {
    /// Cleans up behind the processes this test has killed, and sees that this was all.
    fn drop(&mut self) {
        let cleaned = matchtape_bus::clean_dead_participants(&self.name);
        let leftovers = self.leftovers();
        for path in self.shared_memory() {
            if path.to_string_lossy().ends_with(ID_COUNTER) {
                // Sixteen bytes under a name of our own, should it fail.
                let _ = std::fs::remove_file(path);
            }
        }
        if !std::thread::panicking() {
            assert_eq!(leftovers, Vec::<String>::new(), "after {cleaned:?}");
        }
    }
}

fn files_below(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push(path.display().to_string());
        }
    }
}

/// A bus small enough to overflow in a test.
pub fn small() -> BusConfig {
    BusConfig { buffer_samples: 4, borrowed_samples: 2, frame_bytes_max: 16 * 1024, ..BusConfig::default() }
}

/// A process at the other end: told what to do by lines, answering by lines.
pub struct Other {
    pub child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Other {
    pub fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"))
            .arg(place.root.path())
            .arg(place.name.namespace())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let input = child.stdin.take().expect("stdin");
        let output = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, input, output }
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the child listens");
    }

    /// The next line; panics when the child has ended.
    pub fn hear(&mut self) -> String {
        self.output.next().expect("the child still speaks").expect("text")
    }

    /// Reads lines up to and including the first that starts with `start`.
    pub fn hear_until(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.hear());
            if lines.last().is_some_and(|line| line.starts_with(start)) {
                return lines;
            }
        }
    }

    pub fn process(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_raw(self.child.id() as i32).expect("a process id")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.process(), signal).expect("signal");
    }

    /// Stops the process and returns once it has stopped.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let status = rustix::process::waitpid(Some(self.process()), rustix::process::WaitOptions::UNTRACED)
            .expect("waitpid")
            .expect("a status");
        assert!(status.1.stopped(), "{status:?}");
    }

    /// Waits until the process has ended by itself. (iceoryx2 forgets one page of a listener that is killed in the
    /// very moment in which it is dropped.)
    pub fn leave(mut self) {
        assert!(self.child.wait().expect("wait").success());
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
