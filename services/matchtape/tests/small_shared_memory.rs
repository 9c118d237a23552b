//! A node in a `/dev/shm` as containers have it, and in one that is full, read-only or somebody else's: it serves, or says before it
//! begins what it lacks and what to set; nobody ends with a SIGBUS.
//!
//! Each test mounts one for itself and its children, in a mount namespace of its own, which takes root; without it these tests say
//! loudly what they did not check.

mod shared_memory;

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use matchtape_bus::{BusName, RemoteOptions, RemotePublisher};
use matchtape_schemas::event::OrderAccepted;
use matchtape_schemas::publish::Publish as _;
use matchtape_schemas::{
    Event, EventTime, InstrumentId, OrderId, ProducerId, ProducerSequence, Stage, TapeId,
};
use rustix::process::{Pid, Signal, kill_process};
use shared_memory::Namespace;

const PATIENCE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const NOBODY: u32 = 65534;

/// Mounts a tmpfs with these options over a folder, for the calling thread and whom it starts.
fn mount(folder: &Path, options: &str, flags: libc::c_ulong) {
    let folder = CString::new(folder.to_str().unwrap()).unwrap();
    let options = CString::new(options).unwrap();
    let tmpfs = c"tmpfs".as_ptr();
    // SAFETY: all strings live until the call has returned.
    let done = unsafe { libc::mount(tmpfs, folder.as_ptr(), tmpfs, flags, options.as_ptr().cast()) };
    assert_eq!(done, 0, "mounting {folder:?}: {}", std::io::Error::last_os_error());
}

fn mount_shared_memory(options: &str) {
    mount(Path::new("/dev/shm"), options, 0);
}

/// Runs `body` on a thread that may mount what nobody else sees.
fn apart(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: changes only what this thread, which has no file system context of others, sees of the mounts.
        let apart = unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let none = c"none".as_ptr();
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) == 0
        };
        if !apart {
            let error = std::io::Error::last_os_error();
            eprintln!("NOT CHECKED: a /dev/shm of another size, which this user may not mount: {error}");
            return;
        }
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A tape and a bus of its own.
struct Place {
    folder: tempfile::TempDir,
    namespace: Namespace,
}

impl Place {
    fn new(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder, namespace: Namespace::new(test) }
    }

    fn tape(&self) -> PathBuf {
        self.folder.path().join("tape")
    }

    fn bus(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    fn serve(&self, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--namespace", self.namespace.as_str(), "--data"]);
        command
            .arg(self.tape())
            .env("MATCHTAPE_BUS__ROOT", self.bus())
            .env("MATCHTAPE_STORAGE__SEGMENT_MIB", "8");
        command.envs(settings.iter().copied());
        command
    }

    fn tail(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matchtape"));
        command.args(["tail", "--from", "beginning", "--kind", "order_accepted", "--format", "ndjson"]);
        command.arg("--data").arg(self.tape());
        command.arg("--bus-root").arg(self.bus()).args(["--namespace", self.namespace.as_str()]).args(args);
        command
    }

    fn producer(&self, tape: TapeId, producer: u32) -> Result<RemotePublisher, String> {
        let name = BusName::with_root(self.namespace.as_str(), tape, &self.bus()).unwrap();
        let options =
            RemoteOptions { connect_wait: PATIENCE, silence_max: PATIENCE, ..RemoteOptions::default() };
        RemotePublisher::connect(&name, ProducerId(producer), options).map_err(|error| error.to_string())
    }

    /// What is left in shared memory, but for the 16 bytes that iceoryx2 keeps per namespace.
    fn left(&self) -> Vec<PathBuf> {
        let mut left = self.namespace.files();
        left.retain(|path| path.extension().is_none_or(|end| end != "global_mgmt"));
        left
    }
}

/// A child, whose words are waited for so long and no longer.
struct Running {
    child: Child,
    said: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, said) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            // Ends with the child.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Self { child, said, heard: Vec::new() }
    }

    /// The first line from now on that has these words.
    fn says(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(error) => panic!("{error} before {words:?}: {}", self.heard.join("\n")),
            }
        }
    }

    /// It says these words, or has.
    fn has_said(&mut self, words: &str) {
        if !self.heard.iter().any(|line| line.contains(words)) {
            self.says(words);
        }
    }

    /// Until it has ended by itself: how, and all it said.
    fn ended(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.heard.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it has not ended: {}", self.heard.join("\n")),
            }
        }
        (self.child.wait().unwrap(), self.heard.join("\n"))
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A node that ends in order.
    fn stop(self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let (status, said) = self.ended();
        assert_eq!(status.code(), Some(0), "{said}");
    }
}

impl Drop for Running {
    /// After a test that failed; one that has ended is gone.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node that has said where it is, and its tape.
fn served(command: &mut Command) -> (Running, TapeId) {
    let mut node = Running::start(command);
    let line = node.says(", epoch ");
    let number = line.strip_prefix("tape ").and_then(|line| line.split(',').next()).unwrap();
    let tape = TapeId(u64::from_str_radix(number, 16).unwrap());
    node.says("page ");
    (node, tape)
}

/// The command was refused with an exit code, no signal, and says all of these words.
fn refused(command: &mut Command, words: &[&str]) -> String {
    let (status, said) = Running::start(command).ended();
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in: {said}");
    }
    said
}

/// Publishes `numbers`, each waited for.
fn publish(producer: &mut RemotePublisher, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let body = OrderAccepted { order_id: OrderId(number), ..OrderAccepted::default() };
        let event = Event::new(InstrumentId(1), ProducerSequence(number), EventTime(number as i64), body);
        let taken = producer.publish(&event).unwrap();
        producer.wait(taken.last(), Stage::Durable).unwrap();
    }
}

/// Hears of these orders, in order, each once.
fn hears(tail: &mut Running, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let line = tail.says("\"order_accepted\"");
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(row["order_id"].to_string().trim_matches('"'), number.to_string(), "{line}");
    }
}

/// Until not a page is left, but for `spare` bytes.
fn fill(spare: u64) {
    let mut filler = std::fs::File::create("/dev/shm/filler").unwrap();
    let page = [1_u8; 4096];
    while filler.write_all(&page).is_ok() {}
    let length = filler.metadata().unwrap().len();
    filler.set_len(length.saturating_sub(spare)).unwrap();
}

#[test]
fn a_container_refuses_the_defaults_with_what_would_fit_and_that_serves_also_after_a_kill() {
    apart(|| {
        let place = Place::new("fits");
        mount_shared_memory(&format!("size={}", 4 * MIB));
        let lacks = ["error: the bus needs", "/dev/shm has 4194304 free", "--shm-size", "--no-bus"];
        refused(&mut place.serve(&[]), &lacks);
        mount_shared_memory(&format!("size={}", 64 * MIB));
        let fits = "set bus.speculative = false or bus.subscribers_max = ";
        let lacks = ["for the speculative one", "/dev/shm has 67108864 free", fits, "bus.buffer_frames = "];
        refused(&mut place.serve(&[]), &lacks);
        assert!(!place.tape().exists(), "refused before a tape was made");
        assert_eq!(place.left(), Vec::<PathBuf>::new());

        let settings = [("MATCHTAPE_BUS__SPECULATIVE", "false")];
        let (mut node, tape) = served(&mut place.serve(&settings));
        let mut tail = Running::start(&mut place.tail(&[]));
        tail.says("live from sequence");
        let mut producer = place.producer(tape, 7).unwrap();
        publish(&mut producer, 1..=100);
        hears(&mut tail, 1..=100);
        // There is no room for a second one beside it: what the killed one had is taken back first. (A producer would do so, too.)
        drop(producer);
        node.kill();
        let (node, _) = served(&mut place.serve(&settings));
        let mut producer = place.producer(tape, 7).unwrap();
        publish(&mut producer, 101..=200);
        hears(&mut tail, 101..=200);
        tail.has_said("the node was started again");
        drop(producer);
        tail.kill();
        node.stop();
    });
}

#[test]
fn both_services_and_the_way_in_serve_in_64_mb_and_go_on_when_it_is_full() {
    apart(|| {
        let place = Place::new("full");
        mount_shared_memory(&format!("size={}", 64 * MIB));
        let settings = [("MATCHTAPE_BUS__SUBSCRIBERS_MAX", "2")];
        let (node, tape) = served(&mut place.serve(&settings));
        let mut tails = [&[][..], &["--speculative"]].map(|args| Running::start(&mut place.tail(args)));
        for tail in &mut tails {
            tail.says("live from sequence");
        }
        let mut producer = place.producer(tape, 7).unwrap();
        publish(&mut producer, 1..=100);
        fill(0);
        publish(&mut producer, 101..=300);
        for tail in &mut tails {
            hears(tail, 1..=300);
        }
        // Whoever comes now is told.
        let room = ["bytes of shared memory", "/dev/shm has", "--shm-size"];
        refused(&mut place.tail(&[]), &room);
        let said = place.producer(tape, 8).map(drop).unwrap_err();
        assert!(room.iter().all(|words| said.contains(words)), "{said}");
        let other = Place::new("other");
        refused(&mut other.serve(&settings), &room);
        fill(MIB / 2);
        refused(&mut other.serve(&settings), &room);
        refused(&mut place.tail(&[]), &room);
        // And those who are there are none the worse.
        publish(&mut producer, 301..=350);
        for tail in &mut tails {
            hears(tail, 301..=350);
        }
        std::fs::remove_file("/dev/shm/filler").unwrap();
        let mut late = Running::start(&mut place.tail(&[]));
        hears(&mut late, 1..=350);
        late.has_said("live from sequence");
        publish(&mut producer, 351..=360);
        hears(&mut late, 351..=360);
        drop(producer);
        node.stop();
        for mut tail in tails {
            tail.kill();
        }
    });
}

#[test]
fn a_place_that_cannot_be_written_to_is_named() {
    apart(|| {
        let place = Place::new("closed");
        mount_shared_memory("ro");
        let read_only = ["cannot use /dev/shm: Read-only file system"];
        refused(&mut place.serve(&[]), &[&read_only[..], &["--no-bus"]].concat());
        assert!(!place.tape().exists(), "refused before a tape was made");

        mount_shared_memory("mode=0755");
        refused(
            place.serve(&[]).uid(NOBODY).gid(NOBODY),
            &["cannot use /dev/shm: Permission denied", "--no-bus"],
        );

        mount_shared_memory("mode=1777");
        std::fs::create_dir(place.bus()).unwrap();
        let root = format!("bus.root = {}", place.bus().display());
        refused(place.serve(&[]).uid(NOBODY).gid(NOBODY), &[&root, "Permission denied"]);
        mount(&place.bus(), "mode=1777", libc::MS_RDONLY);
        refused(&mut place.serve(&[]), &[&root, "Read-only file system"]);

        // A reader that may not, of a node that may.
        let folder = CString::new(place.bus().to_str().unwrap()).unwrap();
        // SAFETY: the string lives until the call has returned.
        assert_eq!(unsafe { libc::umount(folder.as_ptr()) }, 0);
        let (node, _) = served(&mut place.serve(&[]));
        mount_shared_memory("ro");
        refused(&mut place.tail(&[]), &read_only);
        node.stop();
    });
}
