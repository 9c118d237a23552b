//! Why a connection ends: one code per reason.

/// Why the gateway closes a connection. Codes from 4000 are this protocol's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The gateway is shutting down; everything published before was delivered or the time for it was over.
    Shutdown,
    /// Binary messages are not part of this protocol.
    Unsupported,
    /// A text message was not UTF-8.
    NotUtf8,
    /// A message from the client was larger than allowed.
    MessageTooBig,
    /// The tape cannot be read on.
    TapeFailed,
    /// Nothing came from the client for too long.
    IdleTimeout,
    /// Too many messages that are not requests.
    Malformed,
    /// Too many messages per second.
    RateLimited,
    /// A live subscription stayed behind for too long.
    TooSlow,
    /// The client took no bytes for too long.
    Stalled,
    /// The tape was closed; nothing will follow.
    TapeClosed,
}

impl CloseReason {
    pub(crate) const ALL: [Self; 11] = [
        Self::Shutdown,
        Self::Unsupported,
        Self::NotUtf8,
        Self::MessageTooBig,
        Self::TapeFailed,
        Self::IdleTimeout,
        Self::Malformed,
        Self::RateLimited,
        Self::TooSlow,
        Self::Stalled,
        Self::TapeClosed,
    ];

    /// The close code, RFC 6455 where it has one.
    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::Shutdown => 1001,
            Self::Unsupported => 1003,
            Self::NotUtf8 => 1007,
            Self::MessageTooBig => 1009,
            Self::TapeFailed => 1011,
            Self::IdleTimeout => 4001,
            Self::Malformed => 4002,
            Self::RateLimited => 4003,
            Self::TooSlow => 4004,
            Self::Stalled => 4005,
            Self::TapeClosed => 4006,
        }
    }

    /// The word in the close frame and in the `closing` message.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "server_shutdown",
            Self::Unsupported => "binary_not_supported",
            Self::NotUtf8 => "not_utf8",
            Self::MessageTooBig => "message_too_big",
            Self::TapeFailed => "tape_failed",
            Self::IdleTimeout => "idle_timeout",
            Self::Malformed => "malformed",
            Self::RateLimited => "rate_limited",
            Self::TooSlow => "too_slow",
            Self::Stalled => "stalled",
            Self::TapeClosed => "tape_closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_code_and_the_protocol_page_names_it() {
        let page = include_str!("../../PROTOCOL.md");
        let mut codes: Vec<u16> = CloseReason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), CloseReason::ALL.len());
        for reason in CloseReason::ALL {
            let row = format!("| {} | `{}` |", reason.code(), reason.name());
            assert!(page.contains(&row), "PROTOCOL.md has no row {row}");
        }
    }
}
