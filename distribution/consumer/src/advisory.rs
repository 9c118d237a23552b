//! What a consumer is told beside its events. Nothing is left out without one of these.

use matchtape_schemas::Sequence;

/// Why an event was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// Its last delivery was not acknowledged in time, or while its member was there.
    Expired,
    /// Its last delivery was refused.
    Refused,
}

impl ParkReason {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Refused => "refused",
        }
    }
}

/// Something that happened to a consumer's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advisory {
    /// An event was delivered as often as allowed and is set aside. It is kept in the list of parked events until it is
    /// delivered again on request, or discarded.
    Parked {
        /// The event.
        sequence: Sequence,
        /// How often it was delivered.
        deliveries: u32,
        /// What became of the last delivery.
        reason: ParkReason,
    },
    /// The list of parked events is full: this event can neither be delivered nor set aside, and delivery waits behind it
    /// until there is room.
    ParkedFull {
        /// The event.
        sequence: Sequence,
    },
    /// A member gave an event up for good; it will not be delivered again.
    Terminated {
        /// The event.
        sequence: Sequence,
        /// How often it was delivered.
        deliveries: u32,
    },
    /// These positions were not acknowledged and are no longer kept on the tape. Delivery goes on behind them.
    Lost {
        /// The first.
        first: Sequence,
        /// The last.
        last: Sequence,
    },
    /// The consumer's record was ahead of the tape, whose last events were lost with its disk. Delivery goes on at `to`, with
    /// what has taken their place.
    PulledBack {
        /// The next position as recorded.
        from: Sequence,
        /// The next position now.
        to: Sequence,
    },
    /// A member is gone; what it had not acknowledged goes to others.
    MemberLost {
        /// Its name.
        member: String,
        /// Events it had not acknowledged.
        pending: u32,
    },
}

impl Advisory {
    /// Its name, for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Parked { .. } => "parked",
            Self::ParkedFull { .. } => "parked_full",
            Self::Terminated { .. } => "terminated",
            Self::Lost { .. } => "lost",
            Self::PulledBack { .. } => "pulled_back",
            Self::MemberLost { .. } => "member_lost",
        }
    }

    /// Whether a member has to hear of it between its events; the others can be looked up.
    pub fn is_told_to_members(&self) -> bool {
        match self {
            Self::Parked { .. } | Self::ParkedFull { .. } | Self::Lost { .. } | Self::PulledBack { .. } => {
                true
            }
            Self::Terminated { .. } | Self::MemberLost { .. } => false,
        }
    }
}

impl std::fmt::Display for Advisory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Parked { sequence, deliveries, reason } => {
                write!(f, "event {sequence} is parked: delivery {deliveries} of it {}", reason.name())
            }
            Self::ParkedFull { sequence } => {
                write!(f, "event {sequence} waits for room among the parked events: unpark or discard some")
            }
            Self::Terminated { sequence, deliveries } => {
                write!(f, "event {sequence} was given up after {deliveries} deliveries")
            }
            Self::Lost { first, last } => {
                write!(f, "events {first} to {last} are no longer kept and were not acknowledged")
            }
            Self::PulledBack { from, to } => {
                write!(
                    f,
                    "the record said {from} was next, beyond what is left of the tape: delivery goes on at {to}"
                )
            }
            Self::MemberLost { member, pending } => {
                write!(f, "member {member} is gone; {pending} events go to others")
            }
        }
    }
}
