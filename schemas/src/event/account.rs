//! Accounts and their positions. All of it is private.

use super::{Reserved, choices, payload};
use crate::ids::{AccountId, ParticipantId};
use crate::text::Text;

choices! {
    /// What an account may do.
    AccountStatus / ArchivedAccountStatus {
        /// Trade.
        #[default] Active "active",
        /// Only reduce positions.
        ReduceOnly "reduce_only",
        /// Nothing.
        Suspended "suspended",
        /// Gone.
        Closed "closed",
    }
}

payload! {
    /// Introduces an account: from here on its id means this.
    AccountOpened / ArchivedAccountOpened, 144 bytes {
        /// The account.
        account: AccountId,
        /// Its name outside.
        name: Text<40>,
        /// The name of the member firm it belongs to.
        participant_name: Text<80>,
        /// The member firm it belongs to.
        participant: ParticipantId,
        /// What it may do.
        status: AccountStatus,
        /// Zero.
        reserved: Reserved<11>,
    }
}

payload! {
    /// What an account may do became this.
    AccountChanged / ArchivedAccountChanged, 16 bytes {
        /// The account.
        account: AccountId,
        /// What it may do now.
        status: AccountStatus,
        /// Zero.
        reserved: Reserved<7>,
    }
}

payload! {
    /// An account's position in the header's instrument (or, with instrument zero, its cash) changed.
    PositionChanged / ArchivedPositionChanged, 32 bytes {
        /// The account.
        account: AccountId,
        /// By how much, in units of 1e-9, signed.
        change: i64,
        /// What it is now, in units of 1e-9, signed.
        position: i64,
        /// Zero.
        reserved: Reserved<8>,
    }
}
