//! Who is attached to a consumer.

use std::time::Duration;

use crate::advisory::Advisory;
use crate::definition::MemberName;

/// One attachment of a member: attaching again, under the same name too, gives another, and so does another life of the
/// node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl MemberId {
    /// Never attached.
    pub const NOBODY: Self = Self(0);
}

/// Why a member was not attached.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// As many as may are.
    #[error("{attached} of {members_max} members are attached ({})", names.join(", "))]
    Full {
        /// Attached now.
        attached: usize,
        /// As defined.
        members_max: u16,
        /// Who they are.
        names: Vec<String>,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: MemberId,
    pub(crate) name: MemberName,
    heard: Duration,
    /// The number of the answer it is given now; a member that asks for none has number zero.
    pub(crate) answer: u64,
    /// What it was told with answers that it has not said to have.
    pub(crate) told: Vec<(u64, Advisory)>,
    /// Given up when it is not heard of; a member in the same process is not.
    expires: bool,
}

impl Member {
    /// When it is given up, if it is not heard of before.
    pub(crate) fn silent_at(&self, timeout: Duration) -> Duration {
        if self.expires { self.heard.saturating_add(timeout) } else { Duration::MAX }
    }
}

impl Member {
    /// Begins the answer to a request that says which was the last to arrive. Returns its number, and what the member was
    /// told with those that did not arrive; `None`: there was no such answer.
    pub(crate) fn ask(&mut self, received: u64) -> Option<(u64, Vec<Advisory>)> {
        if received > self.answer {
            return None;
        }
        let told = std::mem::take(&mut self.told).into_iter();
        let untold = told.filter(|(answer, _)| *answer > received).map(|(_, advisory)| advisory);
        self.answer += 1;
        Some((self.answer, untold.collect()))
    }

    /// Keeps what it is told until it says to have it. One that asks for no answers has it at once.
    pub(crate) fn tell(&mut self, advisory: &Advisory) {
        if self.answer > 0 && self.told.len() < TOLD_MAX {
            self.told.push((self.answer, advisory.clone()));
        }
    }
}

/// Advisories of answers that did not arrive which are told again, of one member; the latest are listed all the same.
const TOLD_MAX: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct Members {
    attached: Vec<Member>,
    /// The last number that was given out.
    last_id: u64,
}

impl Members {
    /// None yet. Numbers go on from this one, of which each life of a node has its own, drawn at random: what was attached
    /// to an earlier life is found by no number of this one.
    pub(crate) fn new(last_id: MemberId) -> Self {
        Self { attached: Vec::new(), last_id: last_id.0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.attached.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.attached.iter()
    }

    pub(crate) fn named(&self, name: &MemberName) -> Option<MemberId> {
        self.attached.iter().find(|member| member.name == *name).map(|member| member.id)
    }

    /// Attaches one whose name is free.
    pub(crate) fn attach(
        &mut self,
        name: &MemberName,
        expires: bool,
        members_max: u16,
        now: Duration,
    ) -> Result<MemberId, AttachError> {
        if self.attached.len() >= usize::from(members_max) {
            return Err(AttachError::Full {
                attached: self.attached.len(),
                members_max,
                names: self.attached.iter().map(|member| member.name.to_string()).collect(),
            });
        }
        self.last_id = self.last_id.wrapping_add(1).max(1);
        let id = MemberId(self.last_id);
        self.attached.push(Member {
            id,
            name: name.clone(),
            heard: now,
            answer: 0,
            told: Vec::new(),
            expires,
        });
        Ok(id)
    }

    /// The number of the answer a member is given now.
    pub(crate) fn answer(&self, id: MemberId) -> u64 {
        self.attached.iter().find(|member| member.id == id).map_or(0, |member| member.answer)
    }

    pub(crate) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.attached.iter_mut().find(|member| member.id == id)
    }

    pub(crate) fn remove(&mut self, id: MemberId) -> Option<Member> {
        let place = self.attached.iter().position(|member| member.id == id)?;
        Some(self.attached.swap_remove(place))
    }

    /// A sign of life; `false`: it is not attached (any more).
    pub(crate) fn heard(&mut self, id: MemberId, now: Duration) -> bool {
        let found = self.attached.iter_mut().find(|member| member.id == id);
        found.map(|member| member.heard = now).is_some()
    }
}
