//! Questions to a gateway instead of to the tape: the same words, as parameters of its protocol.

use matchtape_client::EventRow;
use serde::de::DeserializeOwned;

use super::select::{Cursor, Page, Range};
use crate::cli::error::CliError;
use crate::server::{Server, ServerError, escaped};

/// The parameters of a question that rows answer.
pub(super) struct Question {
    parameters: Vec<(&'static str, String)>,
    limit: Option<u64>,
}

/// A limit up to here is told to the gateway, which reads no further then; a larger one is asked for in pages.
const LIMIT_TOLD_MAX: u64 = 1_000;

impl Question {
    /// About a part of the tape.
    pub(super) fn new(range: &Range, page: &Page) -> Self {
        let mut question = Self { parameters: Vec::new(), limit: page.limit };
        question.add("from", range.from.map(|at| at.to_string()));
        question.add("to", range.to.map(|at| at.to_string()));
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

    /// Asks for an answer that comes as one object, and gives what it lists under `list`.
    pub(super) fn whole<T: DeserializeOwned>(
        &self,
        server: &Server,
        path: &str,
        list: &str,
    ) -> Result<Vec<T>, ServerError> {
        let mut answer: serde_json::Map<String, serde_json::Value> = server.object(path, &self.parameters)?;
        let rows = answer.remove(list).unwrap_or_default();
        serde_json::from_value(rows).map_err(|error| server.not_understood(&error))
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

impl Question {
    /// Gives every event that answers to `visit`, and says where the answer goes on if it ended with its limit. Without a
    /// limit it comes in one piece.
    pub(super) fn events(
        &mut self,
        server: &Server,
        cursor: &Cursor,
        mut visit: impl FnMut(EventRow) -> Result<(), CliError>,
    ) -> Result<Option<String>, CliError> {
        const PATH: &str = "/v1/events";
        if self.limit.is_some() {
            let mut pages = self.pages::<EventRow>(server, PATH, "events", cursor.cursor.clone());
            pages.by_ref().try_for_each(|row| visit(row?))?;
            return Ok(pages.next_page());
        }
        self.add("cursor", cursor.cursor.as_ref());
        self.rows::<EventRow>(server, PATH)?.try_for_each(|row| visit(row?))?;
        Ok(None)
    }
}

/// Rows of one answer, page after page.
pub(super) struct Pages<'a, T> {
    server: &'a Server,
    path: String,
    list: &'static str,
    parameters: Vec<(&'static str, String)>,
    /// How many rows are still wanted; `None`: all.
    left: Option<u64>,
    /// Of the page, next last.
    rows: Vec<T>,
    next: Option<String>,
    /// The first event of which everything is in it, where that is not the tape's beginning.
    complete_from: Option<u64>,
    begun: bool,
}

/// One page: rows under a name of their own, and where the next one begins.
#[derive(serde::Deserialize)]
struct OnePage {
    next: Option<String>,
    complete_from_sequence: Option<u64>,
    #[serde(flatten)]
    lists: serde_json::Map<String, serde_json::Value>,
}

impl Question {
    /// Asks for page after page of what `path` lists under `list`, from where `cursor` says.
    pub(super) fn pages<'a, T: DeserializeOwned>(
        &self,
        server: &'a Server,
        path: &str,
        list: &'static str,
        cursor: Option<String>,
    ) -> Pages<'a, T> {
        let others = self.parameters.iter().filter(|(name, _)| *name != "limit");
        Pages {
            server,
            path: path.to_owned(),
            list,
            parameters: others.cloned().collect(),
            left: self.limit,
            rows: Vec::new(),
            next: cursor,
            complete_from: None,
            begun: false,
        }
    }
}

impl<T: DeserializeOwned> Pages<'_, T> {
    /// Where an answer goes on that ended with its limit.
    pub(super) fn next_page(self) -> Option<String> {
        self.next
    }

    /// From where the answer has everything, as far as it was read, where that is not the tape's beginning.
    pub(super) fn complete_from(&self) -> Option<u64> {
        self.complete_from
    }

    fn load(&mut self) -> Result<(), ServerError> {
        let mut parameters = self.parameters.clone();
        parameters.extend(self.next.take().map(|next| ("cursor", next)));
        parameters.push(("limit", self.left.unwrap_or(LIMIT_TOLD_MAX).min(LIMIT_TOLD_MAX).to_string()));
        let mut page: OnePage = self.server.object(&self.path, &parameters)?;
        let rows = page.lists.remove(self.list).unwrap_or_default();
        self.rows = serde_json::from_value(rows).map_err(|error| self.server.not_understood(&error))?;
        self.left = self.left.map(|left| left.saturating_sub(self.rows.len() as u64));
        self.rows.reverse();
        self.next = page.next;
        self.complete_from = page.complete_from_sequence;
        self.begun = true;
        Ok(())
    }
}

impl<T: DeserializeOwned> Iterator for Pages<'_, T> {
    type Item = Result<T, ServerError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.rows.is_empty() {
            if self.left == Some(0) || (self.begun && self.next.is_none()) {
                return None;
            }
            if let Err(error) = self.load() {
                (self.begun, self.next) = (true, None);
                return Some(Err(error));
            }
        }
        self.rows.pop().map(Ok)
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

/// The path of one instrument.
pub(super) fn instrument_path(symbol: &str) -> String {
    path_below("/v1/instruments/", symbol)
}

/// A path that ends in what others have named; a name may have any character.
pub(in crate::cli) fn path_below(path: &str, name: &str) -> String {
    format!("{path}{}", escaped(name))
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
