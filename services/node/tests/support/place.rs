//! A node with a way in, and where producers outside of it meet it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use matchtape_bus::{BusConfig, BusName, ConnectError, IngressConfig, RemoteOptions, RemotePublisher};
use matchtape_node::{BusOptions, IngressOptions, Node, NodeOptions};
use matchtape_schemas::{ProducerId, TapeId};
use matchtape_storage::{Disk, RealDisk};

use super::small;
use super::watched::Watched;

pub const PRODUCER: ProducerId = ProducerId(7);
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory and a bus of its own.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub namespace: String,
    /// Judges every event of every node here.
    pub watched: Watched,
}

impl Place {
    pub fn new(name: &str) -> Self {
        Self::with_visible_at(name, "durable")
    }

    /// For nodes whose readers are shown what is `durable` or `written`.
    pub fn with_visible_at(name: &str, visible_at: &str) -> Self {
        // What is dropped takes along all of its namespace: no two may have the same, also of one name.
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let place = PLACES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{name}{place}-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let watched = Watched::start(folder.path(), &namespace, visible_at);
        Self { folder, namespace, watched }
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(RealDisk::create(&self.folder.path().join("data")).unwrap())
    }

    pub fn options(&self) -> NodeOptions {
        options(self.folder.path(), &self.namespace)
    }

    pub fn node(&self) -> Node {
        Node::open_on(self.disk(), self.options(), Vec::new()).unwrap()
    }

    pub fn connect(&self, tape: TapeId) -> Result<RemotePublisher, ConnectError> {
        RemotePublisher::connect(&self.name(tape), PRODUCER, patient())
    }

    pub fn name(&self, tape: TapeId) -> BusName {
        BusName::with_root(&self.namespace, tape, &self.folder.path().join("bus")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.watched.ends_clean();
        }
        // Behind the killed; and iceoryx2 keeps a 16-byte counter per namespace for good.
        let _ = matchtape_bus::clean_dead_participants(&self.name(TapeId(1)));
        let prefix = self.name(TapeId(1)).prefix();
        let left: Vec<_> = std::fs::read_dir("/dev/shm")
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .collect();
        for entry in &left {
            let _ = std::fs::remove_file(entry.path());
        }
        if !std::thread::panicking() {
            let names: Vec<_> = left.iter().map(|entry| entry.file_name()).collect();
            assert!(
                names.iter().all(|name| name.to_string_lossy().ends_with(".global_mgmt")),
                "left behind: {names:?}"
            );
        }
    }
}

/// Small: many tests run at once in one /dev/shm.
pub fn options(folder: &std::path::Path, namespace: &str) -> NodeOptions {
    let config = BusConfig { subscribers_max: 2, buffer_samples: 4, ..BusConfig::default() };
    let bus = BusOptions {
        namespace: namespace.into(),
        root: Some(folder.join("bus")),
        config,
        ..BusOptions::default()
    };
    let config = IngressConfig { producers_max: 4, queue_samples: 16, ..IngressConfig::default() };
    let ingress = IngressOptions { config, ..IngressOptions::default() };
    NodeOptions { bus: Some(bus), ingress: Some(ingress), ..small() }
}

pub fn patient() -> RemoteOptions {
    RemoteOptions { connect_wait: PATIENCE, silence_max: PATIENCE, ..RemoteOptions::default() }
}
