//! Bus ports belong to the thread that opened them; this opens one on a thread of its own.

use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::error::BusError;

/// A thread that owns a bus port.
#[derive(Debug)]
pub struct PortThread<R>(JoinHandle<Option<R>>);

impl<R> PortThread<R> {
    /// Waits for the thread's end and returns what its body returned, or the body's panic.
    pub fn join(self) -> std::thread::Result<R> {
        Ok(self.0.join()?.expect("a port that was opened has run its body"))
    }

    /// Whether the body has returned.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Opens a port with `open` on a new thread called `name` and runs `body` with it there. Returns once the port is
/// open, with the error if it could not be opened.
///
/// With `core` the thread is bound to that core, which makes the latency of busy polling steadier.
pub fn on_own_thread<P, R: Send + 'static>(
    name: &str,
    core: Option<usize>,
    open: impl FnOnce() -> Result<P, BusError> + Send + 'static,
    body: impl FnOnce(P) -> R + Send + 'static,
) -> Result<PortThread<R>, BusError> {
    let (opened, report) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || match core.map_or(Ok(()), bind_to_core).and_then(|()| open()) {
            Ok(port) => {
                // The receiver below waits for exactly this message.
                let _ = opened.send(Ok(()));
                Some(body(port))
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                None
            }
        })
        .map_err(|error| BusError::Internal { doing: "starting a bus thread", cause: error.to_string() })?;
    match report.recv() {
        Ok(Ok(())) => Ok(PortThread(thread)),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => {
            Err(BusError::Internal { doing: "opening a bus port", cause: "its thread panicked".into() })
        }
    }
}

/// Binds the calling thread to a core.
pub fn bind_to_core(core: usize) -> Result<(), BusError> {
    check_core(core)?;
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    rustix::thread::sched_setaffinity(None, &cores).map_err(|errno| BusError::BadConfig {
        field: "core",
        reason: format!("{core} cannot be used: {errno}"),
    })
}

/// Whether this process may run on a core: its main thread, whatever the calling thread is bound to.
pub fn check_core(core: usize) -> Result<(), BusError> {
    let refused = |reason: String| Err(BusError::BadConfig { field: "core", reason });
    let allowed = match rustix::thread::sched_getaffinity(Some(rustix::process::getpid())) {
        Ok(allowed) => allowed,
        Err(errno) => return refused(format!("{core} cannot be checked: {errno}")),
    };
    if core < rustix::thread::CpuSet::MAX_CPU && allowed.is_set(core) {
        return Ok(());
    }
    let cores: Vec<String> = (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .map(|core| core.to_string())
        .collect();
    refused(format!("{core} is none of those this process may use: {}", cores.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_cannot_be_opened_is_reported_to_the_caller() {
        let open = || Err::<(), _>(BusError::RetractOnLive);
        let error = on_own_thread("port", None, open, |()| ()).expect_err("the open failed");
        assert!(matches!(error, BusError::RetractOnLive));
        let error = on_own_thread("port", Some(1 << 20), || Ok(()), |()| ()).expect_err("no such core");
        assert!(error.to_string().contains("none of those this process may use: 0"), "{error}");
    }

    #[test]
    fn a_bound_thread_may_start_one_on_another_core() {
        let cores = rustix::thread::sched_getaffinity(None).expect("affinity");
        let of_process = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| cores.is_set(*core));
        let (first, last) = (of_process.clone().min().expect("a core"), of_process.max().expect("a core"));
        let bound_to = || {
            let cores = rustix::thread::sched_getaffinity(None).expect("affinity");
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).collect::<Vec<_>>()
        };
        let inner = move || on_own_thread("inner", Some(last), || Ok(()), move |()| bound_to());
        let nested = move |()| (bound_to(), inner().map(PortThread::join));
        let outer = on_own_thread("outer", Some(first), || Ok(()), nested).expect("thread");
        let (outer, inner) = outer.join().expect("body");
        assert_eq!(outer, [first]);
        assert_eq!(inner.expect("not refused").expect("inner body"), [last]);
    }

    #[test]
    fn the_body_runs_where_the_port_was_opened() {
        let here = || std::thread::current().id();
        let thread = on_own_thread("port", Some(0), move || Ok(here()), move |opened_at| (opened_at, here()))
            .expect("thread");
        let (opened_at, ran_at) = thread.join().expect("body");
        assert_eq!(opened_at, ran_at);
        assert_ne!(opened_at, here());
    }
}
