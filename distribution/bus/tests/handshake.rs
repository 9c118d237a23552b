//! A subscriber stopped in the middle of attaching: at every system call it makes, from its start until it has its first
//! frame. The publisher does not wait for it, and the others get everything.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use matchtape_bus::{BusService, BusSubscriber, Delivery, SubscriberOptions};
use matchtape_schemas::Sequence;
use support::{Place, Tape, small};

/// Lets the stopped process go on to its next system call's begin or end; `false` once it has ended.
fn step(process: i32) -> bool {
    // SAFETY: ptrace(2) with a process this thread traces; no memory of ours is involved.
    let asked = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, process, 0, 0) };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    stopped(process)
}

fn stopped(process: i32) -> bool {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer.
    let found = unsafe { libc::waitpid(process, &raw mut status, 0) };
    assert_eq!(found, process, "{}", std::io::Error::last_os_error());
    libc::WIFSTOPPED(status)
}

#[test]
fn a_subscriber_stopped_anywhere_while_it_attaches_stalls_nobody() {
    let place = Place::new("handshake");
    let mut tape = Tape::new();
    let mut publisher = place.publisher(BusService::Live, &small(), &tape.head);
    let options = SubscriberOptions { next: Some(Sequence(1)), ..SubscriberOptions::default() };
    let mut other = BusSubscriber::open(&place.name, BusService::Live, &options).expect("subscriber");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
    command.arg(place.root.path()).arg(place.name.namespace());
    command.args(["subscribe", "1", "1000000000", "event", "each"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // SAFETY: between fork and exec only ptrace(2) is called.
    unsafe {
        command.pre_exec(|| {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("processes cannot be traced here: {error}"),
    };
    let process = child.id() as i32;
    assert!(stopped(process), "at its start");
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let (said, hear) = std::sync::mpsc::channel();
    let listener = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            // The test has ended first.
            let _ = said.send(line);
        }
    });
    let (mut stops, mut longest, mut taken) = (0, Duration::ZERO, false);
    while !taken {
        assert!(step(process), "it reads on");
        stops += 1;
        let frame = tape.trades(1).to_vec();
        let start = Instant::now();
        publisher.publish(&frame, &tape.watermarks()).expect("publish");
        longest = longest.max(start.elapsed());
        assert!(matches!(other.poll().expect("poll"), Some(Delivery::Frame(_))), "after {stops} stops");
        taken = hear.try_iter().any(|line| line.starts_with("taken"));
    }
    assert!(stops > 100, "{stops}");
    // One that waited for the stopped would wait for ever; a busy machine stops a publisher, too.
    assert!(longest < Duration::from_secs(30), "a publish took {longest:?}");
    assert_eq!(publisher.counters().broken_connections, 0);
    assert_eq!(other.counters().gaps, 0);
    child.kill().expect("kill");
    while step_to_the_end(process) {}
    listener.join().expect("listener");
    eprintln!("{stops} stops, the longest publish took {longest:?}");
}

/// A killed process may stop once more on its way out.
fn step_to_the_end(process: i32) -> bool {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer.
    let found = unsafe { libc::waitpid(process, &raw mut status, 0) };
    if found != process || !libc::WIFSTOPPED(status) {
        return false;
    }
    // SAFETY: as in `step`.
    unsafe { libc::ptrace(libc::PTRACE_CONT, process, 0, 0) };
    true
}
