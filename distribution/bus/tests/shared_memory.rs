//! A `/dev/shm` of 64 MB, as containers have it, and one that is full: told in words, never a SIGBUS.
//!
//! Each process here mounts its own, in a mount namespace of its own, which takes root; without it these tests say loudly
//! what they did not check.

mod support;

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::Place;

/// What the peer says with `bytes` of shared memory; `None` where this user may not mount any.
fn with_shared_memory(
    place: &Place,
    bytes: u64,
    role: &str,
) -> Option<(Vec<String>, std::process::ExitStatus)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bus-test-peer"));
    command.arg(place.root.path()).arg(place.name.namespace()).arg(role);
    let size = CString::new(format!("size={bytes}")).expect("text");
    // SAFETY: between fork and exec only system calls are made, with strings made before.
    unsafe {
        command.pre_exec(move || {
            let none = c"none".as_ptr();
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let done = libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()) == 0
                && libc::mount(
                    c"tmpfs".as_ptr(),
                    c"/dev/shm".as_ptr(),
                    c"tmpfs".as_ptr(),
                    0,
                    size.as_ptr().cast(),
                ) == 0;
            if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8(output.stdout).expect("text");
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            Some((said.lines().map(str::to_owned).collect(), output.status))
        }
        Err(error) => {
            eprintln!("NOT CHECKED: a small /dev/shm, which this user may not mount: {error}");
            None
        }
    }
}

#[test]
fn the_64_mb_of_a_container_take_one_service_and_refuse_the_second_in_words() {
    let place = Place::new("small");
    let Some((said, status)) = with_shared_memory(&place, 64 << 20, "budget") else { return };
    assert!(status.success(), "{status}: {said:?}");
    assert_eq!(said[0], "open");
    for word in ["needs", "/dev/shm has", "--shm-size", "buffer_samples"] {
        assert!(said[1].contains(word), "{said:?}");
    }
    let Some((said, status)) = with_shared_memory(&place, 1 << 20, "budget") else { return };
    assert!(status.success() && said.iter().all(|line| line.contains("--shm-size")), "{status}: {said:?}");
}

#[test]
fn shared_memory_that_fills_up_under_a_running_bus_kills_nobody() {
    let place = Place::new("filled");
    let Some((said, status)) = with_shared_memory(&place, 64 << 20, "full") else { return };
    assert!(status.success(), "{status}: {said:?}");
    assert_eq!(said[..2], ["full StorageFull", "published"]);
    assert!(said[2].contains("--shm-size"), "{said:?}");
    assert_eq!(said[3], "published, 0 broken");
}

#[test]
fn the_way_in_tells_what_it_lacks_and_those_who_are_there_publish_on() {
    let place = Place::new("in");
    let Some((said, status)) = with_shared_memory(&place, 512 << 10, "producers") else { return };
    assert!(status.success() && said.len() == 1, "{status}: {said:?}");
    assert!(said[0].contains("the ingress service needs") && said[0].contains("--shm-size"), "{said:?}");
    // One producer takes 9 MB.
    let Some((said, status)) = with_shared_memory(&place, 24 << 20, "producers") else { return };
    assert!(status.success(), "{status}: {said:?}");
    assert_eq!(said[0], "connected 2");
    assert!(said[1].contains("a producer needs") && said[1].contains("queue_samples"), "{said:?}");
    assert_eq!(said[2..4], ["full StorageFull", "published"]);
    assert!(said[4].contains("--shm-size"), "{said:?}");
}
