//! Where consumers are kept, as seen from here: keys and values, the last value of a key wins.

use std::error::Error;

use crate::definition::ConsumerName;

/// One change of what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from here on.
    Set {
        /// The key.
        key: Vec<u8>,
        /// Its value, at most 48 KiB with its key.
        value: Vec<u8>,
    },
    /// The key has no value any more.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
}

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Why nothing more can be kept. It is final: the store has to be opened again.
#[derive(thiserror::Error, Debug)]
#[error("consumers cannot be recorded: {0}")]
pub struct StoreFailure(#[source] pub Box<dyn Error + Send + Sync>);

/// The durable place of consumers; whoever joins the halves implements it over the shard's system tape.
pub trait ConsumerStore: Send {
    /// Everything that is kept, by key.
    fn load(&mut self) -> Result<Vec<Kept>, StoreFailure>;

    /// Makes the changes of each group durable before returning; of a group, all or none survive a crash.
    fn write(&mut self, groups: &[Vec<Change>]) -> Result<(), StoreFailure>;
}

/// The keys of a consumer.
pub mod keys {
    use super::ConsumerName;

    /// What all keys of consumers begin with.
    pub const PREFIX: &str = "consumer/";

    /// What is kept under a key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Part {
        /// Its definition.
        Definition,
        /// Cursor and pending.
        State,
        /// The parked events.
        Parked,
    }

    impl Part {
        /// Every part.
        pub const EVERY: [Self; 3] = [Self::Definition, Self::State, Self::Parked];

        fn name(self) -> &'static str {
            match self {
                Self::Definition => "definition",
                Self::State => "state",
                Self::Parked => "parked",
            }
        }
    }

    /// The key of a part.
    pub fn key(name: &ConsumerName, part: Part) -> Vec<u8> {
        format!("{PREFIX}{name}/{}", part.name()).into_bytes()
    }

    /// Which consumer and part a key is of; `None` for another key.
    pub fn read(key: &[u8]) -> Option<(ConsumerName, Part)> {
        let rest = str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
        let (name, part) = rest.rsplit_once('/')?;
        let part = Part::EVERY.into_iter().find(|known| known.name() == part)?;
        Some((name.parse().ok()?, part))
    }
}

#[cfg(test)]
mod tests {
    use super::keys::{Part, key, read};

    #[test]
    fn keys_are_read_back_and_others_are_left_alone() {
        let name = "risk.eu".parse().unwrap();
        for part in Part::EVERY {
            assert_eq!(read(&key(&name, part)), Some(("risk.eu".parse().unwrap(), part)));
        }
        for other in
            ["consumer/x", "consumer//state", "consumer/x/y/state", "cluster/x/state", "consumer/x/other"]
        {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read(&[0xFF, 0xFE]), None);
    }
}
