//! Blocking reads on a bounded number of threads.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Lets a number of reads run at a time; further ones wait their turn, first come first served.
#[derive(Clone, Debug)]
pub(crate) struct LogPool {
    permits: Arc<Semaphore>,
}

impl LogPool {
    pub(crate) fn new(reads_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(reads_max)) }
    }

    /// Runs a short blocking read. A panic inside goes on in the caller.
    pub(crate) async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        on_blocking_thread(move || {
            let result = read();
            drop(permit);
            result
        })
        .await
    }
}

/// Runs what may block. A panic inside goes on in the caller.
pub(crate) async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down: nobody polls this again.
            Err(_) => std::future::pending().await,
        },
    }
}
