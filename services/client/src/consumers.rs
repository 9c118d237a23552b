//! Durable consumers as they go over the wire: the same shapes for whoever answers and whoever asks.
//!
//! Positions and counts are numbers; times are whole milliseconds, moments nanoseconds since 1970 UTC as strings.

use matchtape_schemas::{AcceptedTime, Sequence, Watermarks};
use serde::{Deserialize, Serialize};

use crate::EventRow;
use crate::row::row;

/// What a consumer is to be. What is left out is as in the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerDefinition {
    /// `all`, `last`, `last_per_instrument`, `new`, `by_start_sequence` or `by_start_time`.
    pub deliver: String,
    /// With `by_start_sequence`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_sequence: Option<u64>,
    /// With `by_start_time`: RFC 3339, or nanoseconds since 1970 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// Kinds or topics; none: every kind.
    pub kinds: Vec<String>,
    /// Instruments by symbol, venue number or id; none: all.
    pub instruments: Vec<String>,
    /// `none`, `all` or `explicit`.
    pub ack: String,
    /// Within this time an event has to be acknowledged.
    pub ack_wait_ms: u64,
    /// Instead: after the first delivery, the second, ...
    pub backoff_ms: Vec<u64>,
    /// Deliveries before an event is parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// Events that may be out at a time.
    pub max_ack_pending: u32,
    /// Members that may share the events.
    pub members_max: u16,
    /// A member that is not heard of for so long is given up.
    pub member_timeout_ms: u64,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Default for ConsumerDefinition {
    fn default() -> Self {
        Self {
            deliver: "all".to_owned(),
            start_sequence: None,
            start_time: None,
            kinds: Vec::new(),
            instruments: Vec::new(),
            ack: "all".to_owned(),
            ack_wait_ms: 30_000,
            backoff_ms: Vec::new(),
            max_deliver: None,
            max_ack_pending: 1000,
            members_max: 1,
            member_timeout_ms: 10_000,
            description: String::new(),
        }
    }
}

/// A consumer, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerView {
    /// Its name.
    pub name: String,
    /// What it was asked to be.
    pub definition: ConsumerDefinition,
    /// The position it began with.
    pub first: u64,
    /// The first position it has not come to.
    pub next: u64,
    /// Everything up to here was dealt with, except what is parked.
    pub ack_floor: u64,
    /// The tape's last visible event.
    pub visible: u64,
    /// Deliveries made, repeated ones counted.
    pub delivered: u64,
    /// Events delivered and not yet acknowledged.
    pub ack_pending: u32,
    /// Events that wait to be delivered again, or for their member.
    pub waiting: u32,
    /// Events set aside.
    pub parked: u32,
    /// Who is attached.
    pub members: Vec<MemberView>,
    /// The latest advisories.
    pub advisories: Vec<AdvisoryView>,
}

/// A member of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub member: String,
    /// Events it was given and has not acknowledged.
    pub ack_pending: u32,
}

/// Something that happened to a consumer's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvisoryView {
    /// A stable word: `parked`, `parked_full`, `terminated`, `lost`, `pulled_back` or `member_lost`.
    pub advisory: String,
    /// In words.
    pub what: String,
    /// The first position concerned, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// When, in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// All consumers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerList {
    /// By name.
    pub consumers: Vec<ConsumerView>,
}

/// What attaching gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSession {
    /// To be given with every request for events. Attaching again ends it.
    pub session: String,
    /// The longest pause between two requests.
    pub member_timeout_ms: u64,
}

/// What a member gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ConsumerItem {
    /// An event.
    Delivery(Box<DeliveryView>),
    /// Something about its events that it has to know before those that follow.
    Advisory(AdvisoryView),
}

/// A delivered event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryView {
    /// The delivery's own number: dense from 1 within a consumer.
    pub consumer_sequence: u64,
    /// How often the event has been delivered, this time included.
    pub delivery_count: u32,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// The event without what is private, as `/v1/events` has it.
    pub event: EventRow,
}

/// What there was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerBatch {
    /// The answer's number in its session, to be said with the next request: what was in answers after the one that is said
    /// there comes again.
    pub answer: u64,
    /// In order; empty when there was nothing in time.
    pub items: Vec<ConsumerItem>,
    /// How far the tape had come then: an empty answer is not taken for a tape that stands still.
    #[serde(default)]
    pub watermarks: WatermarksView,
}

/// The last event that has reached each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarksView {
    /// Sequenced.
    pub accepted: u64,
    /// With the kernel.
    pub written: u64,
    /// Synced.
    pub durable: u64,
    /// Durable on the ack quorum.
    pub replicated: u64,
    /// What readers may be given.
    pub visible: u64,
}

impl From<Watermarks> for WatermarksView {
    fn from(watermarks: Watermarks) -> Self {
        let Watermarks { accepted, written, durable, replicated, visible } = watermarks;
        let [accepted, written, durable, replicated, visible] =
            [accepted, written, durable, replicated, visible].map(Sequence::get);
        Self { accepted, written, durable, replicated, visible }
    }
}

/// What became of deliveries. The lists are taken in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acknowledgement {
    /// Dealt with; under the ack policy `all`, everything up to the event is.
    pub ack: Vec<u64>,
    /// Not dealt with: to be delivered again after `nak_delay_ms`.
    pub nak: Vec<u64>,
    /// See `nak`.
    pub nak_delay_ms: u64,
    /// Being worked on: their time begins anew.
    pub in_progress: Vec<u64>,
    /// Given up, never to be delivered again.
    pub term: Vec<u64>,
    /// Answer when it is recorded, so that no crash repeats what was acknowledged.
    pub durable: bool,
    /// Who says so, if the member is to count as heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// What an acknowledgement, or an order to unpark or discard, did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Events it changed; 0: all had been settled before.
    pub settled: u32,
}

/// An event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedView {
    /// Its position.
    pub sequence: u64,
    /// How often it was delivered.
    pub deliveries: u32,
    /// `expired` or `refused`.
    pub reason: String,
    /// When: ns since 1970 UTC.
    pub parked_at: String,
}

/// The events set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedList {
    /// By sequence.
    pub parked: Vec<ParkedView>,
}

row! {
    /// A consumer in a list.
    ConsumerRow, table: [name deliver kinds instruments ack max_deliver ack_floor next visible ack_pending waiting parked members] {
        /// Its name.
        name: text String,
        /// Where it began.
        deliver: text String,
        /// What has to be acknowledged.
        ack: text String,
        /// Everything up to here was dealt with, except what is parked.
        ack_floor: number Sequence,
        /// The first position it has not come to.
        next: number Sequence,
        /// The tape's last visible event.
        visible: number Sequence,
        /// Deliveries made.
        delivered: number u64,
        /// Events delivered and not yet acknowledged.
        ack_pending: number u64,
        /// Events that wait.
        waiting: number u64,
        /// Events set aside.
        parked: number u64,
        /// Only these kinds, joined by commas; all without.
        kinds: maybe String,
        /// Only these instruments, joined by commas; all without.
        instruments: maybe String,
        /// After so many deliveries an event is set aside; never without.
        max_deliver: some_number u32,
        /// Who is attached, joined by commas.
        members: maybe String,
        /// For people.
        description: maybe String,
    }
}

row! {
    /// An event that was set aside, in a list.
    ParkedRow, table: [sequence deliveries reason parked_at] {
        /// Its position.
        sequence: number Sequence,
        /// How often it was delivered.
        deliveries: number u64,
        /// `expired` or `refused`.
        reason: text String,
        /// When.
        parked_at: text AcceptedTime,
    }
}

impl From<&ConsumerView> for ConsumerRow {
    fn from(view: &ConsumerView) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        let members: Vec<&str> = view.members.iter().map(|one| one.member.as_str()).collect();
        Self {
            name: view.name.clone(),
            deliver: view.definition.deliver.clone(),
            ack: view.definition.ack.clone(),
            ack_floor: Sequence(view.ack_floor),
            next: Sequence(view.next),
            visible: Sequence(view.visible),
            delivered: view.delivered,
            ack_pending: view.ack_pending.into(),
            waiting: view.waiting.into(),
            parked: view.parked.into(),
            kinds: some(view.definition.kinds.join(",")),
            instruments: some(view.definition.instruments.join(",")),
            max_deliver: view.definition.max_deliver,
            members: some(members.join(",")),
            description: some(view.definition.description.clone()),
        }
    }
}

impl From<&ParkedView> for ParkedRow {
    fn from(view: &ParkedView) -> Self {
        Self {
            sequence: Sequence(view.sequence),
            deliveries: view.deliveries.into(),
            reason: view.reason.clone(),
            parked_at: AcceptedTime(view.parked_at.parse().unwrap_or_default()),
        }
    }
}
