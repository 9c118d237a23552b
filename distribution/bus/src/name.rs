//! Where a bus is found: a namespace, a tape, and the folder through which processes meet.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use iceoryx2::config::Config;
use iceoryx2::prelude::{FileName, LogLevel, SemanticString, ServiceName, set_log_level_from_env_or};
use matchtape_schemas::TapeId;

use crate::error::BusError;

/// The two services of a tape's bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusService {
    /// Frames at or below `visible`: what every reader may have. The default.
    Live,
    /// Frames as soon as they are accepted; a failover may take some back with a retraction. Opt-in.
    Speculative,
}

impl BusService {
    /// The last word of the service's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Speculative => "speculative",
        }
    }
}

/// The address of a bus. Two processes see the same bus exactly if all three parts agree.
///
/// The namespace separates instances on one machine (two nodes of a test cluster, production and staging): it
/// prefixes the name of every shared memory object and file, so instances neither meet nor clean up each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusName {
    namespace: String,
    tape: TapeId,
    root: PathBuf,
}

/// A unix socket's path may have 107 bytes; iceoryx2 puts the listener's socket under the root:
/// root `/` prefix, 39 digits of a 128-bit id, `.event`.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const SOCKET_NAME_BYTES: usize = 39 + ".event".len();
const NAMESPACE_BYTES_MAX: usize = 20;

impl BusName {
    /// The bus of `tape` in `namespace`, met in the default folder: `matchtape-<uid>` in the system's folder for
    /// temporary files. Processes with different `TMPDIR`s do not meet there; see [`Self::with_root`].
    ///
    /// A namespace is 1 to 20 characters of `a-z`, `0-9` and `-`.
    pub fn new(namespace: &str, tape: TapeId) -> Result<Self, BusError> {
        let uid = rustix::process::getuid().as_raw();
        Self::with_root(namespace, tape, &std::env::temp_dir().join(format!("matchtape-{uid}")))
    }

    /// The same, met in the folder `root`, an absolute path. It is created when missing.
    pub fn with_root(namespace: &str, tape: TapeId, root: &Path) -> Result<Self, BusError> {
        let bad = |reason: String| BusError::BadName { namespace: namespace.into(), reason };
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if namespace.is_empty() || namespace.len() > NAMESPACE_BYTES_MAX || !namespace.bytes().all(allowed) {
            return Err(bad(format!(
                "a namespace is 1 to {NAMESPACE_BYTES_MAX} characters of a-z, 0-9 and '-'"
            )));
        }
        if !root.is_absolute() {
            return Err(bad(format!("the root {} is not an absolute path", root.display())));
        }
        let name = Self { namespace: namespace.into(), tape, root: root.into() };
        let socket = root.as_os_str().len() + 1 + name.prefix().len() + SOCKET_NAME_BYTES;
        if socket > SOCKET_PATH_BYTES_MAX {
            return Err(bad(format!(
                "sockets under the root {} would have {socket} bytes of path, the system allows \
                 {SOCKET_PATH_BYTES_MAX}: choose a shorter root or namespace",
                root.display()
            )));
        }
        name.iceoryx_config()?;
        Ok(name)
    }

    /// The tape whose frames travel here.
    #[must_use]
    pub fn tape(&self) -> TapeId {
        self.tape
    }

    /// What separates this instance from others on the machine.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The folder through which processes meet.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the name of every file and shared memory object of this namespace starts with.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("mt_{}_", self.namespace)
    }

    /// `matchtape/<namespace>/<tape>/<service>`, for messages and for iceoryx2.
    #[must_use]
    pub fn service_text(&self, service: BusService) -> String {
        self.text(service.as_str())
    }

    /// `matchtape/<namespace>/<tape>/ingress`: where producers in other processes come in.
    #[must_use]
    pub fn ingress_text(&self) -> String {
        self.text(crate::ingress::REQUESTS)
    }

    /// The same for any of the tape's services, by its last word.
    pub(crate) fn text(&self, service: &str) -> String {
        format!("matchtape/{}/{}/{service}", self.namespace, self.tape)
    }

    pub(crate) fn service_name(&self, service: &str) -> Result<ServiceName, BusError> {
        let text = self.text(service);
        ServiceName::new(&text).map_err(|error| self.rejected(&text, &error))
    }

    fn rejected(&self, what: &str, error: &dyn std::fmt::Debug) -> BusError {
        BusError::BadName {
            namespace: self.namespace.clone(),
            reason: format!("iceoryx2 refuses {what:?} ({error:?})"),
        }
    }

    /// A configuration of our own for every node: the global one would look for files and warn that there is none.
    pub(crate) fn iceoryx_config(&self) -> Result<Config, BusError> {
        quiet_iceoryx();
        let mut config = Config::default();
        let prefix = self.prefix();
        config.global.prefix =
            FileName::new(prefix.as_bytes()).map_err(|error| self.rejected(&prefix, &error))?;
        let root = self.root.as_os_str().as_encoded_bytes();
        let root = iceoryx2::prelude::Path::new(root)
            .map_err(|error| self.rejected(&self.root.display().to_string(), &error))?;
        config.global.set_root_path(&root);
        // Cleaning up is the business of `Liveness`, on its own thread: creating or dropping a port must not
        // stand in line behind somebody else's remains. Opening a service still cleans that one service, because
        // a restarted publisher needs its predecessor's slot.
        config.global.node.cleanup_dead_nodes_on_creation = false;
        config.global.node.cleanup_dead_nodes_on_destruction = false;
        config.global.service.cleanup_dead_nodes_on_open = true;
        // How long an opener waits for somebody who is just creating what it opens, or cleaning up behind a dead one, before
        // it is told to try again. Either takes milliseconds, unless its process is stopped in the middle.
        config.global.creation_timeout = Duration::from_secs(1);
        // Publishers that were replaced while a subscriber has something of each: what it has not read of one more is lost
        // to it, as a gap. Small it must not be: beyond it iceoryx2 panics where a frame of each is held. Nothing is set
        // aside for them.
        config.defaults.publish_subscribe.subscriber_expired_connection_buffer = 128;
        Ok(config)
    }
}

/// iceoryx2 reports expected conditions (no such service yet) as warnings; ours are typed errors. Its own
/// environment variable still wins, for debugging.
fn quiet_iceoryx() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_log_level_from_env_or(LogLevel::Error));
}

/// A name for one test, in a folder of its own.
#[cfg(test)]
pub(crate) struct TestName {
    pub name: BusName,
    _root: tempfile::TempDir,
}

#[cfg(test)]
impl TestName {
    pub(crate) fn new(namespace: &str, tape: TapeId) -> Self {
        let root = tempfile::tempdir().expect("tempdir");
        let namespace = format!("{namespace}-{}", std::process::id());
        Self { name: BusName::with_root(&namespace, tape, root.path()).expect("name"), _root: root }
    }
}

#[cfg(test)]
impl Drop for TestName {
    /// iceoryx2 keeps a 16-byte id counter per namespace for good.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(crate::config::SHARED_MEMORY_DIR).expect("shared memory") {
            let entry = entry.expect("entry");
            if entry.file_name().to_string_lossy().starts_with(&self.name.prefix()) {
                // Somebody else's cleanup at most.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_namespaces_tapes_and_services_differ() {
        let root = tempfile::tempdir().expect("tempdir");
        let name =
            |namespace: &str, tape| BusName::with_root(namespace, TapeId(tape), root.path()).expect("name");
        let texts = [
            name("a", 1).service_text(BusService::Live),
            name("a", 1).service_text(BusService::Speculative),
            name("a", 2).service_text(BusService::Live),
            name("b", 1).service_text(BusService::Live),
        ];
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[..index].contains(text), "{text}");
        }
        assert_ne!(name("a", 1).prefix(), name("b", 1).prefix());
    }

    #[test]
    fn names_that_cannot_become_files_are_refused_with_the_reason() {
        let root = tempfile::tempdir().expect("tempdir");
        for namespace in ["", "Upper", "a/b", "under_score", "a-name-of-21-character"] {
            assert!(BusName::with_root(namespace, TapeId(1), root.path()).is_err(), "{namespace:?}");
        }
        let deep = root.path().join("x".repeat(60));
        let error = BusName::with_root("a", TapeId(1), &deep).expect_err("too long for a socket");
        assert!(error.to_string().contains("shorter root"), "{error}");
        assert!(BusName::with_root("a", TapeId(1), Path::new("relative")).is_err());
    }
}
