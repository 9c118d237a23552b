//! A participant that is killed before any one of the system calls by which it changes what others see: nobody is kept out or
//! held up, and nothing of it stays when all have left.
//!
//! `MATCHTAPE_BUS_LIVES=all` leaves no moment out, and kills a node's way in as well.

mod support;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matchtape_bus::{BusService, BusSubscriber, Liveness, SubscriberOptions, clean_dead_participants};
use support::{Other, Place};

/// Whether others can see what this call does: files that come, change and go, locks, sockets.
fn changes_something(entry: &libc::__c_anonymous_ptrace_syscall_info_entry) -> bool {
    let creates = (libc::O_CREAT as u64, libc::SYS_openat as u64);
    let number = entry.nr;
    if number == creates.1 {
        return entry.args[2] & creates.0 != 0;
    }
    [
        libc::SYS_unlinkat,
        libc::SYS_ftruncate,
        libc::SYS_fallocate,
        libc::SYS_mkdirat,
        libc::SYS_bind,
        libc::SYS_renameat,
        libc::SYS_fchmod,
        libc::SYS_fcntl,
        libc::SYS_flock,
        libc::SYS_write,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename,
    ]
    .iter()
    .any(|call| *call as u64 == number)
}

/// Runs the child until it is about to make the call of this number, and kills it there; `None` if it ends before.
#[expect(clippy::zombie_processes, reason = "waited for with waitpid, which tells where it stops as well")]
fn killed_before(command: &mut Command, call: usize) -> Option<u64> {
    // SAFETY: between fork and exec one system call is made.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut child: Child = command.stdout(Stdio::piped()).spawn().expect("child");
    let process = child.id() as libc::pid_t;
    let mut seen = 0;
    let mut in_call = false;
    let mut status = 0;
    // SAFETY: `status` and `info` live until the calls have returned, which write no more than their sizes.
    unsafe {
        assert_eq!(libc::waitpid(process, &raw mut status, 0), process);
        assert!(libc::WIFSTOPPED(status), "{status}");
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        assert_eq!(libc::ptrace(libc::PTRACE_SETOPTIONS, process, 0, options), 0);
        loop {
            assert_eq!(libc::ptrace(libc::PTRACE_SYSCALL, process, 0, 0), 0);
            assert_eq!(libc::waitpid(process, &raw mut status, 0), process);
            if libc::WIFEXITED(status) {
                let mut said = String::new();
                child.stdout.take().expect("its output").read_to_string(&mut said).expect("text");
                assert_eq!((libc::WEXITSTATUS(status), said.as_str()), (0, "done\n"));
                return None;
            }
            assert!(libc::WIFSTOPPED(status), "{status}");
            if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
                continue;
            }
            in_call = !in_call;
            if !in_call {
                continue;
            }
            let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
            let size = size_of_val(&info);
            assert!(libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, process, size, &raw mut info) > 0);
            assert_eq!(info.op, libc::PTRACE_SYSCALL_INFO_ENTRY);
            if !changes_something(&info.u.entry) {
                continue;
            }
            if seen == call {
                child.kill().expect("kill");
                child.wait().expect("wait");
                return Some(info.u.entry.nr);
            }
            seen += 1;
        }
    }
}

/// Kills a life in `part` of the namespace at each such moment, one after the other, and looks with `check` each time. Returns how
/// many there were.
fn at_every_moment(place: &Place, part: &str, check: impl FnMut(&str)) -> usize {
    at_moments(place, part, 1, check)
}

/// The same at every so-manieth of them, not at the same in every run.
fn at_moments(place: &Place, part: &str, step: usize, mut check: impl FnMut(&str)) -> usize {
    for call in (std::process::id() as usize % step..).step_by(step) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
        command.arg(place.root.path()).args([place.name.namespace(), "life", part]);
        let Some(number) = killed_before(&mut command, call) else { return call };
        check(&format!("a {part} killed before change {call} (system call {number})"));
    }
    unreachable!("it ends")
}

/// Whether the long form is asked for.
fn all_lives() -> bool {
    std::env::var("MATCHTAPE_BUS_LIVES").is_ok_and(|lives| lives == "all")
}

/// Runs `body`; a hang is a failure.
fn bounded(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    if ended.recv_timeout(Duration::from_secs(240)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn of_one_who_is_killed_alone_nothing_stays_and_the_next_one_comes_in() {
    bounded(|| {
        for part in ["publisher", "node"].into_iter().take(1 + usize::from(all_lives())) {
            let place = Place::new("alone");
            let calls = at_every_moment(&place, part, |when| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
                command.arg(place.root.path()).args([place.name.namespace(), "life", part]);
                let next = command.output().expect("child");
                assert!(next.status.success(), "the next after {when}: {next:?}");
                clean_dead_participants(&place.name).expect("clean");
                assert_eq!(place.leftovers(), Vec::<String>::new(), "after {when}");
            });
            assert!(calls > 50, "{calls} moments");
            eprintln!("a {part} was killed at {calls} moments");
        }
    });
}

#[test]
fn what_a_publisher_was_killed_over_while_making_it_keeps_nobody_out_while_others_are_there() {
    bounded(|| {
        let place = Place::new("half");
        // Somebody is in the namespace, so nothing can be taken for abandoned.
        let mut other = Other::start(&place, &["hold"]);
        other.hear_until("open");
        // Some of them take a second.
        let step = if all_lives() { 1 } else { 8 };
        let calls = at_moments(&place, "publisher", step, |when| {
            clean_dead_participants(&place.name).unwrap_or_else(|error| panic!("after {when}: {error}"));
            let next = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"))
                .arg(place.root.path())
                .args([place.name.namespace(), "life", "publisher"])
                .output()
                .expect("child");
            assert!(next.status.success(), "the next after {when}: {next:?}");
        });
        assert!(calls > 50, "{calls} moments");
        drop(other);
    });
}

#[test]
fn a_subscriber_that_is_killed_at_any_moment_holds_up_neither_its_publisher_nor_the_next() {
    bounded(|| {
        let place = Place::new("beside");
        let mut publisher = Other::start(&place, &["publish", "0", "1"]);
        publisher.hear_until("open");
        let _liveness = Liveness::start(&place.name, Duration::from_millis(20)).expect("liveness");
        let before = place.shared_memory();
        let mut longest = Duration::ZERO;
        let calls = at_every_moment(&place, "subscriber", |when| {
            let begun = Instant::now();
            publisher.tell("heartbeat");
            publisher.hear_until("heartbeat");
            longest = longest.max(begun.elapsed());
            let mut next = BusSubscriber::open(&place.name, BusService::Live, &SubscriberOptions::default())
                .unwrap_or_else(|error| panic!("the next after {when}: {error}"));
            publisher.tell("heartbeat");
            publisher.hear_until("heartbeat");
            assert!(next.poll().expect("poll").is_some(), "the next after {when} hears nothing");
        });
        assert!(calls > 50, "{calls} moments");
        // What was killed last is cleaned up behind, and the publisher lets go of it.
        let begun = Instant::now();
        let stays = loop {
            clean_dead_participants(&place.name).expect("clean");
            publisher.tell("heartbeat");
            publisher.hear_until("heartbeat");
            let stays = place.shared_memory().into_iter().filter(|path| !before.contains(path));
            let stays: Vec<std::path::PathBuf> = stays.collect();
            let connected =
                |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "connection");
            if !stays.iter().any(connected) || begun.elapsed() > Duration::from_secs(10) {
                break stays;
            }
        };
        // A page of a listener that was being made or dropped. Nothing says for certain that it is nobody's while others are there:
        // its name has a process, which may be one of another container.
        let page = |path: &std::path::PathBuf| {
            path.extension().is_some_and(|end| end == "event_mgmt")
                && path.metadata().expect("metadata").len() <= 4096
        };
        assert!(stays.len() < calls / 8 && stays.iter().all(page), "{stays:?}");
        eprintln!(
            "killed at {calls} moments; a heartbeat took {longest:?} at most; {} pages stay until all have left",
            stays.len()
        );
        // Then all goes, which `Place` sees to.
        drop(publisher);
    });
}
