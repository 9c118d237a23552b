//! Why a command failed, as the person at the terminal needs it: what, where, and what to do.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use matchtape_client::time::rfc3339;

use crate::server::ServerError;

/// The exit code of what was ended by Ctrl-C or SIGTERM before it was done.
pub(super) const INTERRUPTED: u8 = 130;

/// Why a command ended otherwise than done.
#[derive(Debug)]
pub enum CliError {
    /// It could not be done.
    Failed {
        /// What and where.
        message: String,
        /// What to do about it.
        advice: Option<String>,
    },
    /// The arguments do not go together.
    Usage(String),
    /// Somebody asked it to stop; it did so in order.
    Interrupted(String),
    /// Whoever read the output has had enough. Nothing is wrong.
    OutputClosed,
}

impl CliError {
    /// A failure without advice.
    pub fn failed(message: impl Display) -> Self {
        Self::Failed { message: message.to_string(), advice: None }
    }

    /// A failure and what to do.
    pub fn with_advice(message: impl Display, advice: impl Display) -> Self {
        Self::Failed { message: message.to_string(), advice: Some(advice.to_string()) }
    }

    /// Tells the person and says how the process ends.
    pub(super) fn report(self) -> ExitCode {
        match self {
            Self::Failed { message, advice } => {
                eprintln!("error: {message}");
                if let Some(advice) = advice {
                    eprintln!("  {advice}");
                }
                ExitCode::FAILURE
            }
            Self::Usage(message) => {
                eprintln!("error: {message}\n  see --help");
                ExitCode::from(2)
            }
            Self::Interrupted(message) => {
                eprintln!("{message}");
                ExitCode::from(INTERRUPTED)
            }
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

/// Errors of writing the output.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::failed(format_args!("writing the output: {error}"))
        }
    }
}

impl From<matchtape_storage::ReadError> for CliError {
    fn from(error: matchtape_storage::ReadError) -> Self {
        let advice = "`matchtape verify` with the same --data tells what else is wrong";
        match &error {
            matchtape_storage::ReadError::Table(matchtape_storage::TableError::Feature(_)) => {
                Self::failed(&error)
            }
            matchtape_storage::ReadError::Table(_) => Self::with_advice(&error, advice),
            matchtape_storage::ReadError::BelowRetention { first_kept, .. } => Self::with_advice(
                &error,
                format_args!("ask from sequence {first_kept} on, or of a backup that has what is before it"),
            ),
            matchtape_storage::ReadError::Query(what) => Self::Usage((*what).to_owned()),
            matchtape_storage::ReadError::TimeBelowRetention { asked, dropped_through, first_kept } => {
                Self::with_advice(
                    format_args!(
                        "events of {} may be among those below retention, which go through {}; the first kept is {first_kept}",
                        rfc3339(asked.get()),
                        rfc3339(dropped_through.get())
                    ),
                    format_args!(
                        "a range that begins with sequence {first_kept} has all that is kept; of times before that, nothing is certain"
                    ),
                )
            }
            matchtape_storage::ReadError::Token(_) => {
                Self::Usage(format!("--cursor: {error}\n  without --cursor it begins anew"))
            }
        }
    }
}

impl From<matchtape_client::as_of::AsOfError> for CliError {
    fn from(error: matchtape_client::as_of::AsOfError) -> Self {
        match error {
            matchtape_client::as_of::AsOfError::Read(error) => error.into(),
            gone @ matchtape_client::as_of::AsOfError::HistoryGone { .. } => Self::with_advice(
                gone,
                "a node that is served keeps such a section; ask for a later position",
            ),
        }
    }
}

impl From<ServerError> for CliError {
    fn from(error: ServerError) -> Self {
        let advice = match &error {
            ServerError::Address(_) => {
                let advice = "--server names what `matchtape serve` prints after \"page\"";
                return Self::Usage(format!("{error}\n  {advice}"));
            }
            // What was asked makes no sense there.
            ServerError::Refused { status: 400, what_to_do, .. } => {
                return Self::Usage(format!("{error}\n  {what_to_do}"));
            }
            ServerError::Connection { .. } => {
                "--server names what `matchtape serve` prints after \"page\"; run the command again when it is there"
            }
            ServerError::Refused { what_to_do, .. } => what_to_do,
            ServerError::Behind { .. } => "run the command again a little later",
            ServerError::Answer { .. } => "is it a gateway, and of this release?",
        };
        Self::with_advice(&error, advice)
    }
}
