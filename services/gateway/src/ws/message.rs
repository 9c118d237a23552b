//! What a client is told: data in messages of bounded size, and the messages about the subscription itself.

use axum::extract::ws::Utf8Bytes;
use matchtape_schemas::{Sequence, Stage, TapeId, Watermarks};
use matchtape_storage::Intake;

use super::close::CloseReason;
use crate::config::Limits;
use crate::encode::Json;
use crate::error::ApiError;
use crate::feed::Channel;

/// Items gathered into `data` messages of one subscription:
/// `{"type":"data","id":1,"channel":"trades","data":[item, ...],"sequence":<the last item's>}`.
pub(crate) struct Messages {
    prefix: String,
    bytes_max: usize,
    current: String,
    items: usize,
    last: Sequence,
    done: Vec<Utf8Bytes>,
    done_bytes: usize,
}

impl Messages {
    /// No items yet. A message is closed when it has `bytes_max` bytes or more.
    pub(crate) fn new(id: u64, channel: Channel, bytes_max: usize) -> Self {
        let mut prefix = String::new();
        let mut object = Json::object(&mut prefix);
        object.word("type", "data").number("id", id).word("channel", channel.name());
        object.key("data").push('[');
        Self {
            prefix,
            bytes_max,
            current: String::new(),
            items: 0,
            last: Sequence::ZERO,
            done: Vec::new(),
            done_bytes: 0,
        }
    }

    /// Appends the item whose text `encode` writes; nothing when it returns `false`.
    pub(crate) fn push(&mut self, sequence: Sequence, encode: impl FnOnce(&mut String) -> bool) {
        let before = self.current.len();
        if self.items == 0 {
            self.current.push_str(&self.prefix);
        } else {
            self.current.push(',');
        }
        if !encode(&mut self.current) {
            self.current.truncate(before);
            return;
        }
        self.items += 1;
        self.last = sequence;
        if self.current.len() >= self.bytes_max {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.items == 0 {
            return;
        }
        self.items = 0;
        let mut text = std::mem::take(&mut self.current);
        text.push_str(&format!("],\"sequence\":{}}}", self.last));
        self.done_bytes += text.len();
        self.done.push(text.into());
    }

    /// Text so far.
    pub(crate) fn bytes(&self) -> usize {
        self.done_bytes + self.current.len()
    }

    /// The messages.
    pub(crate) fn finish(mut self) -> Vec<Utf8Bytes> {
        self.cut();
        self.done
    }
}

fn object(write: impl FnOnce(&mut Json<'_>)) -> Utf8Bytes {
    let mut text = String::new();
    let mut object = Json::object(&mut text);
    write(&mut object);
    object.close();
    text.into()
}

/// Where to go on, bound to the tape it came from.
pub(crate) fn resume_token(tape: TapeId, delivered: Sequence) -> String {
    format!("{:016x}-{}", tape.get(), delivered.next())
}

/// Reads a token back: the tape and the first sequence wanted.
pub(crate) fn read_resume_token(token: &str) -> Option<(TapeId, Sequence)> {
    let (tape, sequence) = token.split_once('-')?;
    if tape.len() != 16 || !tape.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let tape = u64::from_str_radix(tape, 16).ok()?;
    let sequence: u64 = sequence.parse().ok()?;
    (sequence > 0).then_some((TapeId(tape), Sequence(sequence)))
}

pub(crate) fn hello(tape: TapeId, limits: &Limits) -> Utf8Bytes {
    object(|message| {
        message.word("type", "hello").number("protocol", 1);
        message.word("server", concat!("matchtape/", env!("CARGO_PKG_VERSION")));
        message.word("tape", &format!("{:016x}", tape.get()));
        message.number("heartbeat_interval_ms", limits.heartbeat_interval.as_millis() as u64);
        message.number("ping_interval_ms", limits.ping_interval.as_millis() as u64);
        message.number("idle_timeout_ms", limits.idle_timeout.as_millis() as u64);
        message.number("subscriptions_max", limits.subscriptions_max as u64);
        message.number("inbound_bytes_max", limits.inbound_bytes_max as u64);
        message.number("inbound_per_second", limits.inbound_per_second.into());
    })
}

pub(crate) fn heartbeat(
    now_ns: i64,
    watermarks: &Watermarks,
    position: Sequence,
    intake: Option<&Intake>,
) -> Utf8Bytes {
    object(|message| {
        message.word("type", "heartbeat").id("time", now_ns);
        let marks = message.key("watermarks");
        let mut inner = Json::object(marks);
        for stage in Stage::ALL {
            inner.number(stage.name(), watermarks.get(stage).get());
        }
        inner.close();
        message.number("feed", position.get());
        if let Some(Intake { slowed_permille: slowed @ 1.., reason, what, .. }) = intake {
            let mut inner = Json::object(message.key("intake"));
            inner.number("slowed_permille", (*slowed).into()).word("reason", reason).text("what", what);
            inner.close();
        }
    })
}

/// What a subscription starts with.
pub(crate) struct Acknowledgement<'a> {
    pub(crate) id: u64,
    pub(crate) channel: Channel,
    /// Already JSON; empty: all.
    pub(crate) symbols: &'a str,
    pub(crate) depth: Option<u16>,
    pub(crate) interval_ns: Option<i64>,
    pub(crate) head: Sequence,
    pub(crate) start: Sequence,
    pub(crate) waiting: bool,
}

pub(crate) fn subscribed(acknowledgement: &Acknowledgement<'_>) -> Utf8Bytes {
    object(|message| {
        message.word("type", "subscribed").number("id", acknowledgement.id);
        message.word("channel", acknowledgement.channel.name());
        if !acknowledgement.symbols.is_empty() {
            message.key("symbols").push_str(acknowledgement.symbols);
        }
        if let Some(depth) = acknowledgement.depth {
            message.number("depth", depth.into());
        }
        if let Some(interval_ns) = acknowledgement.interval_ns {
            message.id("interval_ns", interval_ns);
        }
        message.number("head", acknowledgement.head.get()).number("start", acknowledgement.start.get());
        if acknowledgement.waiting {
            message.flag("waiting", true);
        }
    })
}

/// A message about a subscription that says how far it has come.
pub(crate) fn at_sequence(kind: &str, id: u64, sequence: Sequence) -> Utf8Bytes {
    object(|message| {
        message.word("type", kind).number("id", id).number("sequence", sequence.get());
    })
}

pub(crate) fn lagging(id: u64, sequence: Sequence, head: Sequence) -> Utf8Bytes {
    object(|message| {
        message.word("type", "lagging").number("id", id).number("sequence", sequence.get());
        message.number("behind", head.get().saturating_sub(sequence.get()));
    })
}

pub(crate) fn pong(id: Option<u64>) -> Utf8Bytes {
    object(|message| {
        message.word("type", "pong");
        if let Some(id) = id {
            message.number("id", id);
        }
    })
}

pub(crate) fn error(id: Option<u64>, error: &ApiError) -> Utf8Bytes {
    object(|message| {
        message.word("type", "error");
        if let Some(id) = id {
            message.number("id", id);
        }
        error.write(message);
    })
}

pub(crate) fn server_shutdown(drain_ms: u64) -> Utf8Bytes {
    object(|message| {
        message.word("type", "server_shutdown").number("drain_ms", drain_ms);
    })
}

/// `resume`: id, delivered position.
pub(crate) fn closing(
    reason: CloseReason,
    what: &str,
    tape: TapeId,
    resume: impl Iterator<Item = (u64, Sequence)>,
) -> Utf8Bytes {
    object(|message| {
        message.word("type", "closing").number("code", reason.code().into()).word("reason", reason.name());
        message.text("what", what);
        let list = message.key("resume");
        list.push('[');
        for (place, (id, delivered)) in resume.enumerate() {
            if place > 0 {
                list.push(',');
            }
            let mut row = Json::object(list);
            row.number("id", id).number("from_sequence", delivered.next().get());
            row.word("resume", &resume_token(tape, delivered)).close();
        }
        list.push(']');
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_messages_are_cut_at_the_limit_and_state_their_last_sequence() {
        let mut messages = Messages::new(7, Channel::Trades, 100);
        for sequence in 1..=4u64 {
            messages.push(Sequence(sequence), |out| {
                out.push_str("{\"sequence\":0,\"padding\":\"................\"}");
                sequence != 2
            });
        }
        let messages = messages.finish();
        assert_eq!(messages.len(), 2);
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let (first, second) = (read(&messages[0]), read(&messages[1]));
        assert_eq!((&first["sequence"], first["data"].as_array().unwrap().len()), (&3.into(), 2));
        assert_eq!((&second["sequence"], second["data"].as_array().unwrap().len()), (&4.into(), 1));
        assert_eq!((&first["id"], &first["channel"]), (&7.into(), &"trades".into()));
        assert!(Messages::new(1, Channel::Tape, 10).finish().is_empty());
    }

    #[test]
    fn a_resume_token_is_bound_to_its_tape() {
        let token = resume_token(TapeId(0xAB), Sequence(41));
        assert_eq!(read_resume_token(&token), Some((TapeId(0xAB), Sequence(42))));
        for wrong in ["", "-", "ab-1", "00000000000000ab-0", "00000000000000ab-x", "+0000000000000ab-1"] {
            assert_eq!(read_resume_token(wrong), None, "{wrong}");
        }
    }
}
