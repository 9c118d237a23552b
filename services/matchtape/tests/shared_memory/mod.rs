//! A bus namespace of one test, of which nothing stays in shared memory.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// The namespace; dropped after whoever uses it, it takes along what is left of it.
pub struct Namespace(String);

impl Namespace {
    /// One that nobody else has.
    pub fn new(test: &str) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Self(format!("{test}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its files.
    pub fn files(&self) -> Vec<PathBuf> {
        let begin = format!("mt_{}_", self.0);
        let files = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten().map(|entry| entry.path());
        files
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin)))
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The 16 bytes that iceoryx2 keeps for good; and what a process had that was killed.
        for file in self.files() {
            let _ = std::fs::remove_file(file);
        }
    }
}
