//! What a consumer is asked to be: checked before it exists, kept as it was asked for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use matchtape_schemas::event::STATE_BYTES_MAX;
use matchtape_schemas::{EventRef, EventTime, InstrumentId, KindMask, Sequence};

use crate::codec::{DecodeError, Fields, nanoseconds};

/// Longest name of a consumer or member, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Most instruments in a filter; beyond it, filter by nothing and pass over.
pub const INSTRUMENTS_MAX: usize = 4096;
/// Most steps of a backoff.
pub const BACKOFF_STEPS_MAX: usize = 32;
/// Most deliveries that may wait for their acknowledgement: what is pending has to fit one record.
pub const MAX_ACK_PENDING_MAX: u32 = 2000;
/// Most members of a group.
pub const MEMBERS_MAX: u16 = 256;
/// Shorter times to acknowledge in are a mistake.
const ACK_WAIT_MIN: Duration = Duration::from_millis(1);
/// Longer times are as good as none.
const TIME_MAX: Duration = Duration::from_secs(365 * 86_400);

const VERSION: u16 = 1;
const _: () =
    assert!(4 * INSTRUMENTS_MAX + DESCRIPTION_BYTES_MAX + 8 * BACKOFF_STEPS_MAX + 256 < STATE_BYTES_MAX);

/// A definition, or a name, that cannot be.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct DefinitionError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl DefinitionError {
    fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

fn check_name(field: &'static str, text: &str) -> Result<(), DefinitionError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    // Names stand in paths, where "." and ".." are something else.
    if text.is_empty()
        || text.len() > NAME_BYTES_MAX
        || !text.bytes().all(fits)
        || [".", ".."].contains(&text)
    {
        let rule = format!(
            "{text:?} is not 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', or it is \".\" or \"..\""
        );
        return Err(DefinitionError::new(field, rule));
    }
    Ok(())
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $field:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = DefinitionError;

            fn from_str(text: &str) -> Result<Self, DefinitionError> {
                check_name($field, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A consumer's name: 1 to 64 letters, digits, `-`, `_` or `.`.
    ConsumerName, "name"
}
name! {
    /// A member's name within its consumer, formed alike.
    MemberName, "member"
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliverPolicy {
    /// With the first event that is kept.
    #[default]
    All,
    /// With the last visible event that passes the filter.
    Last,
    /// With the last visible event of every instrument that passes the filter, then with what is new.
    LastPerInstrument,
    /// With what becomes visible after the consumer was made.
    New,
    /// With this position.
    ByStartSequence(Sequence),
    /// With the first event that happened at this time or later.
    ByStartTime(EventTime),
}

impl DeliverPolicy {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Last => "last",
            Self::LastPerInstrument => "last_per_instrument",
            Self::New => "new",
            Self::ByStartSequence(_) => "by_start_sequence",
            Self::ByStartTime(_) => "by_start_time",
        }
    }
}

/// What has to be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// Nothing: what was delivered counts as dealt with, so what a member loses is lost to the consumer.
    None,
    /// An acknowledgement covers everything up to its event. Events come in the order of the tape; a new one only when
    /// none before it waits to be delivered again.
    #[default]
    All,
    /// Every event by itself. Order is kept within each instrument.
    Explicit,
}

impl AckPolicy {
    /// Every policy.
    pub const EVERY: [Self; 3] = [Self::None, Self::All, Self::Explicit];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::All => "all",
            Self::Explicit => "explicit",
        }
    }
}

/// Which events a consumer gets. Positions count all events; those that do not pass are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerFilter {
    /// Of one of these kinds.
    pub kinds: KindMask,
    /// Of one of these instruments; empty: all, and the events that concern none.
    pub instruments: Vec<InstrumentId>,
}

impl Default for ConsumerFilter {
    fn default() -> Self {
        Self { kinds: KindMask::ALL, instruments: Vec::new() }
    }
}

impl ConsumerFilter {
    /// Whether the event passes. The instruments are in ascending order, as a checked definition has them.
    #[inline]
    pub fn matches(&self, event: &EventRef<'_>) -> bool {
        (self.kinds == KindMask::ALL || self.kinds.contains(event.kind()))
            && (self.instruments.is_empty() || self.instruments.binary_search(&event.instrument()).is_ok())
    }
}

/// What a consumer is. Times are real time, not event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Where it begins. Fixed once it exists.
    pub deliver: DeliverPolicy,
    /// Which events it gets.
    pub filter: ConsumerFilter,
    /// What has to be acknowledged. Fixed once it exists.
    pub ack: AckPolicy,
    /// A delivery that is not acknowledged for so long is repeated.
    pub ack_wait: Duration,
    /// Instead of `ack_wait`: after the first delivery, the second, and so on; the last step is used from then on. An event
    /// also rests for its step when its member is dead, or the node was restarted; without a backoff it comes again at once
    /// then, since nobody is left to wait for.
    pub backoff: Vec<Duration>,
    /// An event delivered so often without being acknowledged is parked. `None`: it is repeated for ever.
    pub max_deliver: Option<u32>,
    /// So many events may be delivered and not acknowledged; then delivery pauses. 1 to [`MAX_ACK_PENDING_MAX`].
    pub max_ack_pending: u32,
    /// So many members may share the events at a time; with more than one, acknowledgement has to be explicit.
    pub members_max: u16,
    /// A member elsewhere that is not heard of for so long is given up, and what it had goes to others.
    pub member_timeout: Duration,
    /// For people.
    pub description: String,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            deliver: DeliverPolicy::default(),
            filter: ConsumerFilter::default(),
            ack: AckPolicy::default(),
            ack_wait: Duration::from_secs(30),
            backoff: Vec::new(),
            max_deliver: None,
            max_ack_pending: 1000,
            members_max: 1,
            member_timeout: Duration::from_secs(10),
            description: String::new(),
        }
    }
}

impl Definition {
    /// Puts the instruments in order and refuses what cannot be.
    pub fn checked(mut self) -> Result<Self, DefinitionError> {
        let wrong = |field, problem: String| Err(DefinitionError::new(field, problem));
        self.filter.instruments.sort_unstable();
        self.filter.instruments.dedup();
        if self.filter.instruments.len() > INSTRUMENTS_MAX {
            let count = self.filter.instruments.len();
            return wrong("instruments", format!("{count} of them; at most {INSTRUMENTS_MAX} can be named"));
        }
        if self.filter.kinds == KindMask::NONE {
            return wrong("kinds", "no kind is asked for, so there would never be an event".into());
        }
        if let DeliverPolicy::ByStartSequence(sequence) = self.deliver
            && sequence.get() >= u64::MAX / 4
        {
            return wrong("start_sequence", format!("no tape reaches {sequence}"));
        }
        for (field, time) in [("ack_wait", self.ack_wait), ("member_timeout", self.member_timeout)] {
            if !(ACK_WAIT_MIN..=TIME_MAX).contains(&time) {
                return wrong(field, format!("{time:?} is not between {ACK_WAIT_MIN:?} and a year"));
            }
        }
        if self.backoff.len() > BACKOFF_STEPS_MAX {
            return wrong("backoff", format!("{} steps; at most {BACKOFF_STEPS_MAX}", self.backoff.len()));
        }
        if let Some(step) = self.backoff.iter().find(|step| !(ACK_WAIT_MIN..=TIME_MAX).contains(*step)) {
            return wrong("backoff", format!("{step:?} is not between {ACK_WAIT_MIN:?} and a year"));
        }
        match self.max_deliver {
            Some(0) => {
                return wrong("max_deliver", "0 times would be never; leave it out for no limit".into());
            }
            Some(limit) if (limit as usize) < self.backoff.len() => {
                let steps = self.backoff.len();
                return wrong("backoff", format!("{steps} steps, but max_deliver is {limit}"));
            }
            Some(_) | None => {}
        }
        if !(1..=MAX_ACK_PENDING_MAX).contains(&self.max_ack_pending) {
            let given = self.max_ack_pending;
            return wrong("max_ack_pending", format!("{given} is not between 1 and {MAX_ACK_PENDING_MAX}"));
        }
        if !(1..=MEMBERS_MAX).contains(&self.members_max) {
            let given = self.members_max;
            return wrong("members_max", format!("{given} is not between 1 and {MEMBERS_MAX}"));
        }
        if self.members_max > 1 && self.ack == AckPolicy::All {
            let problem =
                "a group acknowledges every event by itself: ask for the ack policy explicit (or none)";
            return wrong("members_max", problem.into());
        }
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            return wrong("description", format!("longer than {DESCRIPTION_BYTES_MAX} bytes"));
        }
        Ok(self)
    }

    /// Whether an existing consumer may become `new`.
    pub fn check_update(&self, new: &Self) -> Result<(), DefinitionError> {
        if self.deliver != new.deliver {
            return Err(DefinitionError::new("deliver", "where a consumer began cannot be changed"));
        }
        if self.ack != new.ack {
            return Err(DefinitionError::new(
                "ack",
                "the ack policy cannot be changed; make another consumer",
            ));
        }
        Ok(())
    }

    /// How long the `delivery`-th delivery (from 1) of an event may stay unacknowledged.
    pub fn wait_after(&self, delivery: u32) -> Duration {
        let step = (delivery.max(1) as usize - 1).min(self.backoff.len().saturating_sub(1));
        self.backoff.get(step).copied().unwrap_or(self.ack_wait)
    }

    /// Its bytes: version (u16) and the fields in order; numbers little-endian, times in ns (u64).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        let (policy, position) = match self.deliver {
            DeliverPolicy::All => (0u8, 0),
            DeliverPolicy::Last => (1, 0),
            DeliverPolicy::LastPerInstrument => (2, 0),
            DeliverPolicy::New => (3, 0),
            DeliverPolicy::ByStartSequence(sequence) => (4, sequence.get()),
            DeliverPolicy::ByStartTime(time) => (5, time.get().cast_unsigned()),
        };
        out.push(policy);
        out.extend_from_slice(&position.to_le_bytes());
        out.push(match self.ack {
            AckPolicy::None => 0,
            AckPolicy::All => 1,
            AckPolicy::Explicit => 2,
        });
        out.extend_from_slice(&nanoseconds(self.ack_wait).to_le_bytes());
        out.extend_from_slice(&nanoseconds(self.member_timeout).to_le_bytes());
        out.extend_from_slice(&self.max_deliver.unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&self.max_ack_pending.to_le_bytes());
        out.extend_from_slice(&self.members_max.to_le_bytes());
        out.extend_from_slice(&self.filter.kinds.0.to_le_bytes());
        out.extend_from_slice(&(self.backoff.len() as u32).to_le_bytes());
        for step in &self.backoff {
            out.extend_from_slice(&nanoseconds(*step).to_le_bytes());
        }
        out.extend_from_slice(&(self.filter.instruments.len() as u32).to_le_bytes());
        for instrument in &self.filter.instruments {
            out.extend_from_slice(&instrument.get().to_le_bytes());
        }
        out.extend_from_slice(&(self.description.len() as u32).to_le_bytes());
        out.extend_from_slice(self.description.as_bytes());
        out
    }

    /// The definition in `bytes`, checked as a new one would be.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new("definition", bytes, VERSION..=VERSION)?;
        let (policy, position) = (fields.u8()?, fields.u64()?);
        let deliver = match policy {
            0 => DeliverPolicy::All,
            1 => DeliverPolicy::Last,
            2 => DeliverPolicy::LastPerInstrument,
            3 => DeliverPolicy::New,
            4 => DeliverPolicy::ByStartSequence(Sequence(position)),
            5 => DeliverPolicy::ByStartTime(EventTime(position.cast_signed())),
            other => return Err(fields.wrong(format!("deliver policy {other}"))),
        };
        if policy < 4 && position != 0 {
            return Err(fields.wrong("a position where the deliver policy has none"));
        }
        let ack = match fields.u8()? {
            0 => AckPolicy::None,
            1 => AckPolicy::All,
            2 => AckPolicy::Explicit,
            other => return Err(fields.wrong(format!("ack policy {other}"))),
        };
        let (ack_wait, member_timeout) = (fields.duration()?, fields.duration()?);
        let max_deliver = Some(fields.u32()?).filter(|limit| *limit != 0);
        let (max_ack_pending, members_max) = (fields.u32()?, fields.u16()?);
        let kinds = KindMask(fields.u64()?);
        let steps = fields.count(BACKOFF_STEPS_MAX, 8)?;
        let backoff = (0..steps).map(|_| fields.duration()).collect::<Result<_, _>>()?;
        let named = fields.count(INSTRUMENTS_MAX, 4)?;
        let instruments: Vec<InstrumentId> =
            (0..named).map(|_| fields.u32().map(InstrumentId)).collect::<Result<_, _>>()?;
        if !instruments.is_sorted_by(|one, next| one < next) {
            return Err(fields.wrong("instruments out of order"));
        }
        let length = fields.count(DESCRIPTION_BYTES_MAX, 1)?;
        let description = fields.bytes(length)?;
        let description = str::from_utf8(description)
            .map_err(|error| fields.wrong(format!("a description that is no text: {error}")))?
            .to_owned();
        let at = fields.wrong("");
        fields.finish()?;
        let definition = Self {
            deliver,
            filter: ConsumerFilter { kinds, instruments },
            ack,
            ack_wait,
            backoff,
            max_deliver,
            max_ack_pending,
            members_max,
            member_timeout,
            description,
        };
        definition.checked().map_err(|error| DecodeError { problem: error.to_string(), ..at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let sound = Definition::default();
        type Change = fn(&mut Definition);
        let wrong: [(&str, Change); 11] = [
            ("kinds", |d| d.filter.kinds = KindMask::NONE),
            ("instruments", |d| d.filter.instruments = (0..5000).map(InstrumentId).collect()),
            ("ack_wait", |d| d.ack_wait = Duration::ZERO),
            ("ack_wait", |d| d.ack_wait = Duration::MAX),
            ("backoff", |d| d.backoff = vec![Duration::from_secs(1); 33]),
            ("backoff", |d| d.backoff = vec![Duration::ZERO]),
            ("backoff", |d| (d.max_deliver, d.backoff) = (Some(1), vec![Duration::from_secs(1); 2])),
            ("max_deliver", |d| d.max_deliver = Some(0)),
            ("max_ack_pending", |d| d.max_ack_pending = MAX_ACK_PENDING_MAX + 1),
            ("members_max", |d| d.members_max = 2),
            ("description", |d| d.description = "x".repeat(1025)),
        ];
        for (field, change) in wrong {
            let mut definition = sound.clone();
            change(&mut definition);
            assert_eq!(definition.checked().unwrap_err().field, field);
        }
        let group = Definition { members_max: 2, ack: AckPolicy::Explicit, ..sound.clone() };
        assert!(group.checked().is_ok());
        let moved = Definition { deliver: DeliverPolicy::New, ..sound.clone() };
        assert_eq!(sound.check_update(&moved).unwrap_err().field, "deliver");
        let other = Definition { ack: AckPolicy::None, ..sound.clone() };
        assert_eq!(sound.check_update(&other).unwrap_err().field, "ack");
        let slower = Definition { ack_wait: Duration::from_secs(60), ..sound.clone() };
        assert!(sound.check_update(&slower).is_ok());
    }

    #[test]
    fn names_are_plain() {
        for right in ["a", "risk-eu.2_b", &"x".repeat(64)] {
            assert_eq!(right.parse::<ConsumerName>().unwrap().as_str(), right);
        }
        for wrong in ["", "a/b", "ä", "a b", "a#b", ".", "..", &"x".repeat(65)] {
            assert!(wrong.parse::<ConsumerName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn backoff_takes_the_place_of_ack_wait_and_its_last_step_stays() {
        let seconds = Duration::from_secs;
        let plain = Definition::default();
        assert_eq!(plain.wait_after(7), seconds(30));
        let stepped = Definition { backoff: vec![seconds(1), seconds(5)], ..plain };
        assert_eq!([1, 2, 3, 9].map(|delivery| stepped.wait_after(delivery).as_secs()), [1, 5, 5, 5]);
    }
}
