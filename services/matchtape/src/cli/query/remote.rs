//! Questions to a gateway instead of to the tape: the same words, as parameters of its protocol.

use serde::de::DeserializeOwned;

use super::select::{Page, Range};
use crate::cli::error::CliError;
use crate::cli::position::Position;
use crate::server::{Server, ServerError};

/// The parameters of a question that rows answer.
pub(super) struct Question {
    parameters: Vec<(&'static str, String)>,
    limit: Option<u64>,
}

/// A limit up to here is told to the gateway, which reads no further then; a larger one only ends the reading here.
const LIMIT_TOLD_MAX: u64 = 1_000;

impl Question {
    /// About a part of the tape.
    pub(super) fn new(range: &Range, page: &Page) -> Self {
        let mut question = Self { parameters: Vec::new(), limit: page.limit };
        question.add("from", range.from.map(position));
        question.add("to", range.to.map(position));
        question.add("order", Some(if page.reverse { "desc" } else { "asc" }));
        question.add("limit", page.limit.filter(|limit| (1..=LIMIT_TOLD_MAX).contains(limit)));
        question
    }

    /// About all of the tape.
    pub(super) fn everything() -> Self {
        Self { parameters: Vec::new(), limit: None }
    }

    /// Adds a parameter, if there is one.
    pub(super) fn add(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.parameters.push((name, value.to_string()));
        }
    }

    /// Asks, and gives the rows as they come.
    pub(super) fn rows<'a, T: DeserializeOwned + 'a>(
        &self,
        server: &'a Server,
        path: &str,
    ) -> Result<impl Iterator<Item = Result<T, ServerError>> + use<'a, T>, ServerError> {
        let limit = self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(server.rows(path, &self.parameters)?.take(limit))
    }
}

/// Accounts are private.
pub(super) fn refuse_account(account: Option<u64>) -> Result<(), CliError> {
    match account {
        None => Ok(()),
        Some(_) => Err(CliError::Usage(
            "--account goes with --data: whose an order is, a gateway does not show".to_owned(),
        )),
    }
}

/// A position as the protocol writes it.
pub(super) fn position(position: Position) -> String {
    match position {
        Position::Sequence(sequence) => sequence.to_string(),
        Position::Time(time) => format!("{time}ns"),
    }
}

/// The path of one instrument; a symbol may have any character.
pub(super) fn instrument_path(symbol: &str) -> String {
    let mut path = String::from("/v1/instruments/");
    for byte in symbol.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_stays_one_part_of_the_path_whatever_is_in_it() {
        assert_eq!(instrument_path("600761.SH"), "/v1/instruments/600761.SH");
        assert_eq!(instrument_path("A/B C?é"), "/v1/instruments/A%2FB%20C%3F%C3%A9");
    }
}
