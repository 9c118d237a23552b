//! Wakes tasks that wait for a node's word: a thread that sleeps on the socket of a producer's wake-ups while somebody waits.
//!
//! iceoryx2 knows no tasks, and a task must not block. The thread takes nothing out of the socket and looks at no reply: that is
//! for the tasks, which run where the producer's ports belong.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::doorbell::Doorbell;

/// The thread and who it wakes. Dropping it ends the thread.
pub(super) struct Waking {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// Rung when somebody begins to wait, and at the end.
    bell: Arc<Doorbell>,
}

#[derive(Default)]
struct Waiting {
    wakers: Vec<Waker>,
    /// When they are woken, whatever happened.
    until: Option<Instant>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A waker that panicked has left the list as it was.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waking {
    /// Sleeps on `socket`, where there is one, and no longer than `look_again`.
    pub(super) fn start(socket: Option<OwnedFd>, look_again: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared { waiting: Mutex::default(), bell: Doorbell::new()? });
        let thread = std::thread::Builder::new().name("producer-wakes".into()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, socket, look_again)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Wakes once, when the socket has something or it is time to look again.
    pub(super) fn arm(&self, waker: &Waker) {
        let mut waiting = self.shared.lock();
        if waiting.wakers.iter().any(|armed| armed.will_wake(waker)) {
            return;
        }
        waiting.wakers.push(waker.clone());
        if waiting.wakers.len() == 1 {
            self.shared.bell.ring();
        }
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It only wakes: what panicked there was somebody's waker.
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, socket: Option<OwnedFd>, look_again: Duration) {
    loop {
        let until = {
            let mut waiting = shared.lock();
            if waiting.ended {
                return;
            }
            if waiting.wakers.is_empty() {
                None
            } else {
                Some(*waiting.until.get_or_insert_with(|| Instant::now() + look_again))
            }
        };
        let bell = || PollFd::from_borrowed_fd(shared.bell.as_fd(), PollFlags::IN);
        let mut fds = [bell(), bell()];
        // What is in the socket while nobody waits stays there for whoever does next.
        let watched = match (&socket, until) {
            (Some(socket), Some(_)) => {
                fds[1] = PollFd::new(socket, PollFlags::IN);
                2
            }
            _ => 1,
        };
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let limit = left
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let slept = poll(&mut fds[..watched], limit.as_ref());
        let heard = watched == 2 && !fds[1].revents().is_empty();
        shared.bell.hush();
        match slept {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // For want of a sleep that can be interrupted.
            Err(_) => std::thread::sleep(look_again),
        }
        if heard || until.is_some_and(|until| Instant::now() >= until) {
            let woken = {
                let mut waiting = shared.lock();
                waiting.until = None;
                std::mem::take(&mut waiting.wakers)
            };
            woken.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;

    use super::*;

    struct Told(Sender<()>);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.send(()).expect("the test listens");
        }
    }

    fn told() -> (Waker, Receiver<()>) {
        let (tell, told) = channel();
        (Waker::from(Arc::new(Told(tell))), told)
    }

    const NEVER: Duration = Duration::from_secs(600);

    #[test]
    fn what_came_before_somebody_waits_wakes_too_and_everybody_is_woken_once() {
        let socket = Doorbell::new().expect("a descriptor");
        let waking =
            Waking::start(Some(socket.as_fd().try_clone_to_owned().expect("a copy")), NEVER).expect("start");
        socket.ring();
        let ((one, told_one), (two, told_two)) = (told(), told());
        waking.arm(&one);
        waking.arm(&one);
        told_one.recv().expect("woken");
        socket.hush();
        waking.arm(&two);
        socket.ring();
        told_two.recv().expect("woken");
        drop(waking);
        assert!(told_one.try_recv().is_err() && told_two.try_recv().is_err(), "once each");
    }

    #[test]
    fn without_a_socket_it_is_time_to_look_again_soon() {
        let waking = Waking::start(None, Duration::from_micros(100)).expect("start");
        let (waker, told) = told();
        for _ in 0..3 {
            waking.arm(&waker);
            told.recv().expect("woken");
        }
    }
}
