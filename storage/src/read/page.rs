//! Answers in pages: a token says where the next page begins.
//!
//! A token holds positions only, so it stays good through flushes, compaction and restarts of whoever reads the tape. It
//! also holds what was visible when the first page was asked for: pages put together are the answer as of that moment,
//! whatever is appended meanwhile. Where retention has dropped what the next page would need, it is refused with
//! [`ReadError::BelowRetention`], never passed over.

use std::fmt;

use matchtape_schemas::{InstrumentId, Sequence, TapeId};

use super::query::{Direction, Query, QueryCursor};
use super::{ReadError, Reader};
use crate::chunk::EventHandle;

const TOKEN_VERSION: u8 = 1;
/// Version, tape, question, first, through, last; then a checksum of 4 bytes.
const TOKEN_BODY_BYTES: usize = 1 + 5 * 8;
const TOKEN_BYTES: usize = TOKEN_BODY_BYTES + 4;

/// Where an answer goes on: opaque to whoever carries it, text of a fixed length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    tape: TapeId,
    question: u64,
    first: Sequence,
    through: Sequence,
    last: Sequence,
}

/// A token that is not one of this question.
#[derive(thiserror::Error, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageTokenError {
    /// Damaged, or no token at all.
    #[error("it is not a cursor: give it as it came")]
    Malformed,
    /// Positions of one tape mean nothing on another.
    #[error("it is a cursor of tape {token:016x}, this is tape {this:016x}", token = token.get(), this = this.get())]
    OtherTape {
        /// The token's.
        token: TapeId,
        /// The one asked.
        this: TapeId,
    },
    /// It belongs to another question.
    #[error("it is a cursor of another question: give it with the filters, range and direction it came with")]
    OtherQuestion,
    /// The tape as it is read here has not come as far as where the token was given out.
    #[error("it reaches to sequence {through}, and only {visible} is visible here")]
    Ahead {
        /// How far the answer goes.
        through: Sequence,
        /// How far the tape is.
        visible: Sequence,
    },
}

impl PageToken {
    /// Where a page of rows that are made in another way goes on: after the row at `last`, of a question that has this
    /// digest ([`Query::digest`]) and asks about `first..=through`.
    pub fn new(tape: TapeId, question: u64, range: (Sequence, Sequence), last: Sequence) -> Self {
        Self { tape, question, first: range.0, through: range.1, last }
    }

    /// Reads a token and checks that it is one of this tape and question.
    pub fn read(text: &str, tape: TapeId, question: u64) -> Result<Self, PageTokenError> {
        let token = Self::decode(text).ok_or(PageTokenError::Malformed)?;
        if token.tape != tape {
            return Err(PageTokenError::OtherTape { token: token.tape, this: tape });
        }
        if token.question != question {
            return Err(PageTokenError::OtherQuestion);
        }
        Ok(token)
    }

    fn decode(text: &str) -> Option<Self> {
        if text.len() != 2 * TOKEN_BYTES || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; TOKEN_BYTES];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
        }
        let (body, checksum) = bytes.split_at(TOKEN_BODY_BYTES);
        if crc32fast::hash(body).to_le_bytes() != checksum || body[0] != TOKEN_VERSION {
            return None;
        }
        let number = |place: usize| {
            let at = 1 + place * 8;
            u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"))
        };
        let (first, through, last) = (Sequence(number(2)), Sequence(number(3)), Sequence(number(4)));
        let possible = first > Sequence::ZERO && first <= last && last <= through && through < Sequence::MAX;
        possible.then_some(Self { tape: TapeId(number(0)), question: number(1), first, through, last })
    }

    /// The last row given out.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// What the whole answer is about: all that was kept and visible of what was asked for when it began.
    pub fn range(&self) -> (Sequence, Sequence) {
        (self.first, self.through)
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![TOKEN_VERSION];
        for number in [self.tape.get(), self.question, self.first.get(), self.through.get(), self.last.get()]
        {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Query {
    /// Sixty-four bits that tell this question from others: everything but the limit. `rows` says what is made of the
    /// events, so that the pages of one kind of answer do not go on as those of another. The same in every release.
    pub fn digest(&self, rows: &str) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"matchtape question 1");
        let option = |hasher: &mut blake3::Hasher, value: Option<u64>| {
            hasher.update(&[u8::from(value.is_some())]);
            hasher.update(&value.unwrap_or(0).to_le_bytes());
        };
        for number in [
            self.from.get(),
            self.through.get(),
            self.event_time_from.get() as u64,
            self.event_time_through.get() as u64,
            self.kinds.bits(),
            u64::from(self.direction == Direction::Backward),
        ] {
            hasher.update(&number.to_le_bytes());
        }
        option(&mut hasher, self.instrument.map(|id: InstrumentId| u64::from(id.get())));
        option(&mut hasher, self.order.map(|id| id.get()));
        option(&mut hasher, self.account.map(|id| id.get()));
        option(&mut hasher, self.trade.map(|id| id.get()));
        option(&mut hasher, self.state_key.as_ref().map(|key| key.len() as u64));
        hasher.update(self.state_key.as_deref().unwrap_or_default());
        hasher.update(rows.as_bytes());
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
    }
}

/// One page: at most `query.limit` events, then whether and where there is more.
#[derive(Debug)]
pub struct PageCursor {
    cursor: QueryCursor,
    token: PageToken,
    forward: bool,
    left: u64,
    given: bool,
    first_kept: Sequence,
    /// Known when the page has been read to its end.
    more: Option<bool>,
    failed: bool,
}

impl Reader {
    /// The next page of an answer; the first one, without a token. `rows` as in [`Query::digest`].
    pub fn page(&self, query: &Query, rows: &str, after: Option<&str>) -> Result<PageCursor, ReadError> {
        let question = query.digest(rows);
        // The gate before the view: see the module.
        let visible = self.visible();
        let view = self.shared.view();
        let first_kept = view.first_kept();
        let forward = query.direction == Direction::Forward;
        let mut query = Query { limit: query.limit.map(|limit| limit.saturating_add(1)), ..query.clone() };
        let token = match after {
            None => {
                self.check_begins(&view, &query)?;
                let first = query.from.max(first_kept).max(Sequence::FIRST);
                PageToken::new(self.tape(), question, (first, query.through.min(visible)), Sequence::ZERO)
            }
            Some(text) => {
                let token = PageToken::read(text, self.tape(), question)?;
                let through = token.through;
                if through > visible {
                    return Err(PageTokenError::Ahead { through, visible }.into());
                }
                token
            }
        };
        (query.from, query.through) = match (after.is_some(), forward) {
            (false, _) => (token.first, token.through),
            (true, true) => (token.last.next(), token.through),
            (true, false) => (token.first, token.last.previous()),
        };
        // What the rest of the answer lies between. Forwards all of it has to be there; backwards it is given as far as
        // it is, and where that ends the next page is refused.
        let needed = if forward { query.from } else { query.through };
        if after.is_some() && query.from <= query.through {
            self.check_kept(&view, needed)?;
        }
        let left = query.limit.map_or(u64::MAX, |limit| limit - 1);
        let cursor = QueryCursor::new(view, &query, visible)?;
        Ok(PageCursor { cursor, token, forward, left, given: false, first_kept, more: None, failed: false })
    }
}

impl PageCursor {
    /// What the whole answer goes through: nothing after it belongs to any page.
    pub fn through(&self) -> Sequence {
        self.token.through
    }

    /// Where the next page begins, once this one has been read to its end; `None`: there is none.
    pub fn next_page(&self) -> Option<PageToken> {
        match self.more {
            Some(true) => Some(self.token),
            // Dropped since the first page: the next one has to say so.
            Some(false) if !self.forward && self.token.first < self.first_kept => {
                Some(PageToken { last: self.first_kept, ..self.token })
            }
            Some(false) | None => None,
        }
    }

    /// Where the answer goes on behind what was given so far, of a page that is not read further; `None`: it has ended, or nothing was
    /// given. A token is all that has to be kept until then: a cursor holds what it reads, also in memory.
    pub fn rest(&self) -> Option<PageToken> {
        match self.more {
            Some(_) => self.next_page(),
            None => (self.given && !self.failed).then_some(self.token),
        }
    }
}

impl Iterator for PageCursor {
    type Item = Result<EventHandle, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.more.is_some() || self.failed {
            return None;
        }
        match self.cursor.next() {
            None => {
                self.more = Some(false);
                None
            }
            // A page without room for a row goes on where it stands, if it has begun somewhere.
            Some(Ok(_)) if self.left == 0 => {
                self.more = Some(self.given || self.token.last > Sequence::ZERO);
                None
            }
            Some(Ok(event)) => {
                self.left -= 1;
                self.given = true;
                self.token.last = event.sequence();
                Some(Ok(event))
            }
            Some(Err(error)) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use matchtape_schemas::{KindMask, OrderId};

    const TAPE: TapeId = TapeId(0xAB);

    fn token() -> PageToken {
        PageToken::new(TAPE, 77, (Sequence(3), Sequence(90)), Sequence(12))
    }

    #[test]
    fn a_token_comes_back_as_it_was_and_no_other_text_is_one() {
        let text = token().to_string();
        assert_eq!(PageToken::read(&text, TAPE, 77), Ok(token()));
        for place in 0..text.len() {
            for digit in "0123456789abcdef".chars() {
                let mut other: Vec<char> = text.chars().collect();
                if other[place] == digit {
                    continue;
                }
                other[place] = digit;
                let other: String = other.into_iter().collect();
                assert_eq!(PageToken::read(&other, TAPE, 77), Err(PageTokenError::Malformed), "{other}");
            }
        }
        for wrong in ["", "1", &text[2..], &format!("{text}00"), &"é".repeat(TOKEN_BYTES)] {
            assert_eq!(PageToken::read(wrong, TAPE, 77), Err(PageTokenError::Malformed), "{wrong}");
        }
        for (range, last) in [((5, 4), 5), ((5, 9), 4), ((5, 9), 10), ((0, 9), 1)] {
            let range = (Sequence(range.0), Sequence(range.1));
            let text = PageToken::new(TAPE, 77, range, Sequence(last)).to_string();
            assert_eq!(PageToken::read(&text, TAPE, 77), Err(PageTokenError::Malformed));
        }
    }

    #[test]
    fn a_token_of_another_tape_or_question_is_refused_with_words() {
        let text = token().to_string();
        let other = PageToken::read(&text, TapeId(0xCD), 77).unwrap_err();
        assert_eq!(
            other.to_string(),
            "it is a cursor of tape 00000000000000ab, this is tape 00000000000000cd"
        );
        assert_eq!(PageToken::read(&text, TAPE, 78), Err(PageTokenError::OtherQuestion));
    }

    #[test]
    fn every_condition_of_a_question_is_in_its_digest_and_its_limit_is_not() {
        let base = Query::default();
        let one = matchtape_schemas::EventTime(1);
        let others = [
            Query { from: Sequence(1), ..base.clone() },
            Query { through: Sequence(1), ..base.clone() },
            Query { event_time_from: one, ..base.clone() },
            Query { event_time_through: one, ..base.clone() },
            Query { instrument: Some(InstrumentId(0)), ..base.clone() },
            Query { order: Some(OrderId(1)), ..base.clone() },
            Query { account: Some(matchtape_schemas::AccountId(1)), ..base.clone() },
            Query { trade: Some(matchtape_schemas::TradeId(1)), ..base.clone() },
            Query { state_key: Some(b"k".to_vec()), ..base.clone() },
            Query { state_key: Some(Vec::new()), ..base.clone() },
            Query { kinds: KindMask::TRADES, ..base.clone() },
            Query { direction: Direction::Backward, ..base.clone() },
        ];
        let mut digests: Vec<u64> = others.iter().map(|query| query.digest("events")).collect();
        digests.extend([base.digest("events"), base.digest("trades")]);
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), others.len() + 2);
        let limited = Query { limit: Some(3), ..base.clone() };
        assert_eq!(limited.digest("events"), base.digest("events"));
        assert_eq!(
            base.digest("events"),
            9_093_642_444_118_767_945,
            "tokens outlive a release: this number never changes"
        );
    }
}
