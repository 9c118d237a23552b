//! A store driven by one thread, and a plain list of events that says what every answer must be.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod damage;

use std::collections::BTreeSet;
use std::sync::Arc;

use matchtape_schemas::event::*;
use matchtape_schemas::*;
use matchtape_storage::sim::{Random, SimDisk};
use matchtape_storage::wal::{Preparation, Writer};
use matchtape_storage::{
    AlignedBytes, CompactionOptions, Direction, Disk, EventStore, OpenError, Query, ReadError, Reader,
    RecoveryReport, StoreOptions, WalOptions, Workers, limits,
};

pub const TAPE: TapeId = TapeId(0xABCD);

/// One event of the model: where it stands and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub sequence: Sequence,
    pub event: Event,
}

/// A store of small pieces, in one thread.
pub fn small_options() -> StoreOptions {
    StoreOptions {
        tape: Some(TAPE),
        memtable_bytes: 1 << 20,
        workers: Workers::Caller,
        block_cache_bytes: 1 << 20,
        log_kept_bytes: 128 << 10,
        compaction: small_compaction(),
        wal: WalOptions {
            segment_bytes: 64 << 10,
            commit_bytes: limits::COMMIT_BYTES_MIN,
            preparation: Preparation::Inline,
            ..WalOptions::default()
        },
        ..StoreOptions::default()
    }
}

/// Tables so small that a few flushes fill several levels, and entities with tables of their own.
pub fn small_compaction() -> CompactionOptions {
    CompactionOptions {
        level0_tables: 2,
        level1_bytes: 12 << 10,
        level_factor: 2,
        index_table_bytes: 6 << 10,
        own_table_postings: 60,
        small_event_table_bytes: 6 << 10,
        slice_bytes: 512,
        ..CompactionOptions::default()
    }
}

/// Folds every event into a number that depends on all of them and their order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Digest {
    pub last: u64,
    pub digest: u64,
}

impl Digest {
    pub fn take(&mut self, sequence: u64, kind: Kind, time: EventTime) {
        assert_eq!(sequence, self.last + 1, "a projection is given every event once, in order");
        self.last = sequence;
        let value = self.digest ^ sequence ^ u64::from(kind.tag()) << 40 ^ time.0 as u64;
        self.digest = value.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    pub fn of(events: &[Placed]) -> Self {
        let mut digest = Self::default();
        for placed in events {
            digest.take(placed.sequence.0, placed.event.body.kind(), placed.event.event_time);
        }
        digest
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.last.to_le_bytes(), self.digest.to_le_bytes()].concat()
    }
}

impl Projection for Digest {
    fn name(&self) -> &'static str {
        "digest"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&mut self, event: &EventRef<'_>) {
        self.take(event.sequence().0, event.kind(), event.event_time());
    }

    fn save(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), ProjectionError> {
        let refuse =
            || ProjectionError { section: "digest", at: 0, what: format!("{} bytes", section.len()) };
        let (last, digest) = section.split_at_checked(8).ok_or_else(refuse)?;
        self.last = u64::from_le_bytes(last.try_into().map_err(|_| refuse())?);
        self.digest = u64::from_le_bytes(digest.try_into().map_err(|_| refuse())?);
        Ok(())
    }
}

pub fn projections() -> Vec<Box<dyn Projection>> {
    vec![Box::new(Digest::default())]
}

/// A store, its writer, and the model of what is in it.
pub struct Driven {
    pub store: EventStore,
    pub writer: Writer,
    pub head: Head,
    pub events: Vec<Placed>,
    pub random: Random,
    memory: AlignedBytes,
}

impl Driven {
    /// Opens the store; `events` is what has to be in it at most.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        events: Vec<Placed>,
        seed: u64,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_with(disk, options, events, seed, projections())
    }

    /// Opens the store with other projections.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        events: Vec<Placed>,
        seed: u64,
        projections: Vec<Box<dyn Projection>>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let (store, report) = EventStore::open(disk, options, projections)?;
        let writer = store.take_writer().expect("nobody else has it");
        let head = store.head();
        let memory = AlignedBytes::zeroed(1 << 16);
        Ok((Self { store, writer, head, events, random: Random::new(seed), memory }, report))
    }

    pub fn new(disk: &SimDisk, seed: u64) -> Self {
        Self::open(Arc::new(disk.clone()), small_options(), Vec::new(), seed).expect("a store is created").0
    }

    /// One commit of a few frames of a few groups each, and, if it is to be seen, the gate raised.
    pub fn append(&mut self, frames: u64, visible: bool) {
        let mut buffer = self.writer.buffers().take();
        for frame in 0..frames {
            let ends_segment = frame + 1 == frames && self.writer.wants_segment_end();
            let flags = if ends_segment { FrameFlags::ENDS_SEGMENT } else { FrameFlags::NONE };
            let mut groups = Vec::new();
            for _ in 0..1 + self.random.below(4) {
                groups
                    .extend(any_group(&mut self.random, self.head.last_sequence.0 + groups.len() as u64 + 1));
            }
            let head = &mut self.head;
            let (events, memory) = (&mut self.events, &mut self.memory);
            buffer
                .append(|space| write_frame(space, memory, head, &groups, flags, events))
                .expect("the frame continues the tape");
        }
        self.commit(buffer, visible);
    }

    /// One commit of one frame with these events; seen at once.
    pub fn append_group(&mut self, group: Vec<Event>) {
        self.append_frame(&group, FrameFlags::NONE);
    }

    /// The same, of a frame that says something about itself.
    pub fn append_frame(&mut self, group: &[Event], flags: FrameFlags) {
        let mut buffer = self.writer.buffers().take();
        let (head, events, memory) = (&mut self.head, &mut self.events, &mut self.memory);
        buffer
            .append(|space| write_frame(space, memory, head, group, flags, events))
            .expect("the frame continues the tape");
        self.commit(buffer, true);
    }

    /// A group larger than a frame: frames without an end, then one with.
    pub fn append_large_group(&mut self, open_frames: u64) {
        let last_visible = self.head.last_sequence;
        for _ in 0..open_frames {
            let mut buffer = self.writer.buffers().take();
            let mut group = any_group(&mut self.random, self.head.last_sequence.0 + 1);
            for event in &mut group {
                event.flags = event.flags.without(EventFlags::LAST_OF_GROUP);
            }
            let (head, events, memory) = (&mut self.head, &mut self.events, &mut self.memory);
            buffer
                .append(|space| write_frame(space, memory, head, &group, FrameFlags::NONE, events))
                .expect("the frame continues the tape");
            self.commit(buffer, false);
            assert_eq!(self.store.reader().visible(), last_visible, "an open group is not shown");
        }
        self.append(1, true);
    }

    fn commit(&mut self, buffer: matchtape_storage::wal::CommitBuffer, visible: bool) {
        let committed = self.writer.commit(buffer).expect("committed");
        self.store.committed(&committed);
        if visible {
            self.store.visible().raise(self.head.last_sequence);
        }
    }

    /// Compacts a while, or until nothing is left to be compacted.
    pub fn compact(&mut self) {
        let mut slices = if self.random.below(2) == 0 { u64::MAX } else { self.random.below(20) };
        let compacted = self.store.compact(&mut |_| {
            slices = slices.saturating_sub(1);
            slices > 0
        });
        compacted.expect("compacted");
    }

    /// The events that readers may be given.
    pub fn visible_events(&self) -> &[Placed] {
        &self.events[..self.store.visible().get().0 as usize]
    }

    /// Asks everything and compares.
    pub fn check(&mut self, queries: usize) {
        let reader = self.store.reader();
        let events = self.visible_events().to_vec();
        check_reader(&reader, &events, &mut self.random, queries);
    }
}

fn write_frame(
    space: &mut [u8],
    memory: &mut AlignedBytes,
    head: &mut Head,
    group: &[Event],
    flags: FrameFlags,
    events: &mut Vec<Placed>,
) -> FrameHeader {
    if head.epoch == Epoch(0) {
        head.epoch = Epoch::FIRST;
    }
    let mut writer = FrameWriter::new(space, head);
    let mut max_time = head.max_event_time;
    for event in group {
        let bytes = event.encoded_len();
        encode_event(event, ProducerId(9), &mut memory[..bytes]);
        assert!(writer.push(&memory[..bytes]), "the frame has room");
        let mut event = event.clone();
        event.flags = event.flags.without(EventFlags::LATE);
        if event.event_time < max_time {
            event.flags = event.flags.with(EventFlags::LATE);
        }
        max_time = max_time.max(event.event_time);
        events.push(Placed { sequence: Sequence(events.len() as u64 + 1), event });
    }
    let accepted = AcceptedTime(events.len() as i64);
    writer.finish(head, accepted, flags)
}

/// A handful of events that end a group: few instruments, orders, accounts and trades, so that they meet again.
fn any_group(random: &mut Random, first: u64) -> Vec<Event> {
    let count = 1 + random.below(5);
    let mut group: Vec<Event> = (0..count).map(|index| any_event(random, first + index)).collect();
    for (index, event) in group.iter_mut().enumerate() {
        event.flags = if index as u64 + 1 == count { EventFlags::LAST_OF_GROUP } else { EventFlags::NONE };
    }
    group
}

fn any_event(random: &mut Random, number: u64) -> Event {
    let order = |random: &mut Random| OrderId(random.below(60));
    let account = |random: &mut Random| AccountId(random.below(6));
    let trade = |random: &mut Random| TradeId(random.below(40));
    let body: Body = match random.below(14) {
        0..=2 => {
            OrderAccepted { order_id: order(random), account: account(random), ..Default::default() }.into()
        }
        3 => OrderRejected { order_id: order(random), account: account(random), ..Default::default() }.into(),
        4 => OrderReplaced {
            order_id: order(random),
            new_order_id: order(random),
            account: account(random),
            ..Default::default()
        }
        .into(),
        5 => {
            OrderCancelled { order_id: order(random), account: account(random), ..Default::default() }.into()
        }
        6 => OrderExecuted {
            order_id: order(random),
            trade_id: trade(random),
            account: account(random),
            ..Default::default()
        }
        .into(),
        7..=8 => TradeMatched {
            trade_id: trade(random),
            buy_order_id: order(random),
            sell_order_id: order(random),
            buy_account: account(random),
            sell_account: account(random),
            ..Default::default()
        }
        .into(),
        9 => TradeBusted { trade_id: trade(random), ..Default::default() }.into(),
        10 => PositionChanged { account: account(random), ..Default::default() }.into(),
        11 => StateSet::new(&any_key(random), &vec![7; random.below(200) as usize]).expect("small").into(),
        12 => StateDeleted::new(&any_key(random)).expect("small").into(),
        _ => TradingStatusChanged::default().into(),
    };
    // Mostly forwards, now and then a good way back.
    let back = if random.below(6) == 0 { random.below(4000) } else { 0 };
    let time = EventTime((number * 100 - back.min(number * 100)) as i64);
    Event::new(InstrumentId(random.below(5) as u32), ProducerSequence(number), time, body)
}

fn any_key(random: &mut Random) -> Vec<u8> {
    vec![b'k'; 1 + random.below(4) as usize]
}

/// What an event is about: written out from the records' documentation, not from the store.
#[derive(Default)]
struct About {
    orders: Vec<OrderId>,
    accounts: Vec<AccountId>,
    trade: TradeId,
    key: Option<Vec<u8>>,
}

fn about(event: &Event) -> About {
    let mut about = About::default();
    match &event.body {
        Body::OrderAccepted(body) => {
            (about.orders, about.accounts) = (vec![body.order_id], vec![body.account]);
        }
        Body::OrderRejected(body) => {
            (about.orders, about.accounts) = (vec![body.order_id], vec![body.account]);
        }
        Body::OrderReplaced(body) => {
            (about.orders, about.accounts) = (vec![body.order_id, body.new_order_id], vec![body.account]);
        }
        Body::OrderCancelled(body) => {
            (about.orders, about.accounts) = (vec![body.order_id], vec![body.account]);
        }
        Body::OrderExecuted(body) => {
            (about.orders, about.accounts) = (vec![body.order_id], vec![body.account]);
            about.trade = body.trade_id;
        }
        Body::TradeMatched(body) => {
            about.orders = vec![body.buy_order_id, body.sell_order_id];
            about.accounts = vec![body.buy_account, body.sell_account];
            about.trade = body.trade_id;
        }
        Body::TradeBusted(body) => about.trade = body.trade_id,
        Body::PositionChanged(body) => about.accounts = vec![body.account],
        Body::StateSet(body) => about.key = Some(body.key().to_vec()),
        Body::StateDeleted(body) => about.key = Some(body.key().to_vec()),
        _ => {}
    }
    about
}

fn satisfies(query: &Query, placed: &Placed) -> bool {
    let event = &placed.event;
    let about = about(event);
    placed.sequence >= query.from
        && placed.sequence <= query.through
        && event.event_time >= query.event_time_from
        && event.event_time <= query.event_time_through
        && query.kinds.contains(event.body.kind())
        && query.instrument.is_none_or(|wanted| wanted == event.instrument)
        && query.order.is_none_or(|wanted| about.orders.contains(&wanted))
        && query.account.is_none_or(|wanted| about.accounts.contains(&wanted))
        && query.trade.is_none_or(|wanted| about.trade == wanted)
        && query.state_key.as_ref().is_none_or(|wanted| about.key.as_ref() == Some(wanted))
}

fn any_query(random: &mut Random, events: &[Placed]) -> Query {
    let last = events.len() as u64;
    let mut query = Query::default();
    let mut chance = |of: u64| random.below(of) == 0;
    let (range, times, instrument, kinds) = (chance(2), chance(3), chance(3), chance(4));
    let (backward, limited) = (chance(2), chance(3));
    match random.below(8) {
        0 => query.order = Some(OrderId(1 + random.below(62))),
        1 => query.account = Some(AccountId(1 + random.below(7))),
        2 => query.trade = Some(TradeId(1 + random.below(42))),
        3 => query.state_key = Some(any_key(random)),
        // Several at once: what one event is about, so that there is an answer; or whatever.
        4 if last > 0 => {
            let placed = &events[random.below(last) as usize];
            name_keys(&mut query, random, about(&placed.event));
        }
        5 => {
            let (order, account) = (OrderId(random.below(60)), AccountId(random.below(6)));
            let (trade, key) = (TradeId(random.below(40)), Some(any_key(random)));
            name_keys(&mut query, random, About { orders: vec![order], accounts: vec![account], trade, key });
        }
        _ => {}
    }
    if range {
        query.from = Sequence(random.below(last + 2));
        query.through = Sequence(query.from.0 + random.below(last + 2));
    }
    if times {
        query.event_time_from = EventTime((random.below(last + 2) * 100) as i64);
        query.event_time_through = EventTime(query.event_time_from.0 + (random.below(last + 2) * 50) as i64);
    }
    if instrument {
        query.instrument = Some(InstrumentId(random.below(6) as u32));
    }
    if kinds {
        query.kinds =
            [KindMask::TRADES, KindMask::ORDERS, KindMask::STATE, KindMask::MARKET][random.below(4) as usize];
    }
    if backward {
        query.direction = Direction::Backward;
    }
    if limited {
        query.limit = Some(random.below(10));
    }
    query
}

/// Asks for some of the keys, each as likely as not.
fn name_keys(query: &mut Query, random: &mut Random, about: About) {
    let order = about.orders.into_iter().rev().find(|order| *order != OrderId(0));
    let account = about.accounts.into_iter().rev().find(|account| *account != AccountId(0));
    let trade = Some(about.trade).filter(|trade| *trade != TradeId(0));
    query.order = order.filter(|_| random.below(2) == 0);
    query.account = account.filter(|_| random.below(2) == 0);
    query.trade = trade.filter(|_| random.below(2) == 0);
    query.state_key = about.key.filter(|_| random.below(2) == 0);
}

/// Every way to name keys that an event is about, of each of the events: alone and with its instrument, kind, time and place.
pub fn questions_about(events: &[Placed]) -> Vec<Query> {
    let mut questions = Vec::new();
    let mut known = BTreeSet::new();
    for placed in events {
        let About { orders, accounts, trade, key } = about(&placed.event);
        let orders = orders.into_iter().filter(|order| *order != OrderId(0)).map(Some);
        let accounts = accounts.into_iter().filter(|account| *account != AccountId(0)).map(Some);
        let accounts: Vec<_> = accounts.chain([None]).collect();
        let trades = [Some(trade).filter(|trade| *trade != TradeId(0)), None];
        for order in orders.chain([None]) {
            for account in &accounts {
                for trade in trades {
                    for state_key in [key.clone(), None] {
                        let keys = Query { order, account: *account, trade, state_key, ..Query::default() };
                        let time = placed.event.event_time;
                        let narrow = Query {
                            instrument: Some(placed.event.instrument),
                            kinds: KindMask::of(&[placed.event.body.kind()]),
                            event_time_from: EventTime(time.0 - 5000),
                            event_time_through: time,
                            from: Sequence(placed.sequence.0.saturating_sub(90)),
                            through: placed.sequence,
                            ..keys.clone()
                        };
                        questions
                            .extend([keys, narrow].into_iter().filter(|one| known.insert(one.digest(""))));
                    }
                }
            }
        }
    }
    questions
}

/// Asks once as a whole and once by pages; returns how many events the answer has.
pub fn check_question(reader: &Reader, events: &[Placed], query: &Query, page_events: u64) -> usize {
    let expected = answer_of(events, query);
    let whole = reader.query(query).unwrap().map(|event| event.unwrap().sequence().0);
    assert_eq!(whole.collect::<Vec<_>>(), expected, "{query:?}");
    let query = Query { limit: Some(page_events), ..query.clone() };
    let (mut found, mut token): (_, Option<String>) = (Vec::new(), None);
    loop {
        let mut page = reader.page(&query, "events", token.as_deref()).unwrap();
        let before = found.len();
        found.extend(page.by_ref().map(|event| event.unwrap().sequence().0));
        assert!((found.len() - before) as u64 <= page_events, "{query:?}");
        token = page.next_page().map(|token| token.to_string());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, expected, "{query:?}");
    expected.len()
}

/// An answer put together from pages of random sizes while the store goes on growing, flushing and being opened again is
/// the answer of the moment its first page was asked for.
pub struct Paging {
    query: Query,
    expected: Vec<u64>,
    found: Vec<u64>,
    token: Option<String>,
}

impl Paging {
    /// The first page.
    pub fn begin(driven: &mut Driven) -> Option<Self> {
        let events = driven.visible_events().to_vec();
        let query = Query { limit: None, ..any_query(&mut driven.random, &events) };
        let expected = answer_of(&events, &query);
        let mut paging = Self { query, expected, found: Vec::new(), token: None };
        (!paging.go_on(driven)).then_some(paging)
    }

    /// One page more; `true` when it was the last one, and all is as it has to be.
    pub fn go_on(&mut self, driven: &mut Driven) -> bool {
        let query = Query { limit: Some(1 + driven.random.below(40)), ..self.query.clone() };
        let mut page = driven.store.reader().page(&query, "events", self.token.as_deref()).unwrap();
        let before = self.found.len();
        for event in page.by_ref() {
            let event = event.unwrap();
            check_event(&event.event(), &driven.events[event.sequence().0 as usize - 1]);
            self.found.push(event.sequence().0);
        }
        let given = (self.found.len() - before) as u64;
        assert!(Some(given) <= query.limit);
        self.token = page.next_page().map(|token| token.to_string());
        assert!(
            self.expected.starts_with(&self.found),
            "{:?}: {:?}, not {:?}",
            self.query,
            self.found,
            self.expected
        );
        assert_eq!(self.token.is_some(), self.found.len() < self.expected.len(), "{:?}", self.query);
        self.token.is_none()
    }
}

fn answer_of(events: &[Placed], query: &Query) -> Vec<u64> {
    let mut found: Vec<u64> =
        events.iter().filter(|placed| satisfies(query, placed)).map(|placed| placed.sequence.0).collect();
    if query.direction == Direction::Backward {
        found.reverse();
    }
    found.truncate(usize::try_from(query.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX));
    found
}

/// Asks a reader everything there is to ask and compares with `events`, which is all it may see; of what retention has
/// dropped it must say so.
pub fn check_reader(reader: &Reader, events: &[Placed], random: &mut Random, queries: usize) {
    let last = events.len() as u64;
    let first = reader.first_kept();
    assert_eq!(reader.visible(), Sequence(last));
    assert!(reader.event(Sequence(0)).unwrap().is_none());
    assert!(reader.event(Sequence(last + 1)).unwrap().is_none());
    for _ in 0..queries.min(20) {
        if last == 0 {
            break;
        }
        let at = Sequence(1 + random.below(last));
        if at < first {
            assert_below(refused(reader.event(at)), at, first);
            assert_below(refused(reader.frames(at)), at, first);
            continue;
        }
        let handle = reader.event(at).unwrap().expect("visible");
        check_event(&handle.event(), &events[at.0 as usize - 1]);
    }
    check_frames(reader, events, Sequence(1 + random.below(last + 1)).max(first));
    let dropped = &events[..(first.0 as usize - 1).min(events.len())];
    let dropped_time = dropped.iter().map(|placed| placed.event.event_time).max();
    for _ in 0..queries {
        let query = any_query(random, events);
        if query.from > Sequence::ZERO && query.from < first {
            assert_below(refused(reader.query(&query)), query.from, first);
            continue;
        }
        let since = query.event_time_from;
        let by_time = query.from == Sequence::ZERO && since > EventTime::MIN;
        if by_time && dropped_time.is_some_and(|dropped| dropped >= since) {
            let refused = refused(reader.query(&query));
            assert!(
                matches!(refused, ReadError::TimeBelowRetention { asked, .. } if asked == since),
                "{refused}"
            );
            continue;
        }
        let mut found = Vec::new();
        for event in reader.query(&query).unwrap() {
            let event = event.unwrap();
            check_event(&event.event(), &events[event.sequence().0 as usize - 1]);
            found.push(event.sequence().0);
        }
        let kept = &events[(first.0 as usize - 1).min(events.len())..];
        assert_eq!(found, answer_of(kept, &query), "{query:?}");
    }
    for _ in 0..queries.min(20) {
        let instrument = InstrumentId(random.below(6) as u32);
        let time = EventTime((random.below(last + 2) * 100) as i64);
        let of_instrument = events.iter().filter(|placed| placed.event.instrument == instrument);
        let prefix = of_instrument.take_while(|placed| placed.event.event_time <= time);
        let expected = prefix.last().map_or(Sequence::ZERO, |placed| placed.sequence);
        let answer = reader.prefix_through(instrument, time);
        if dropped_time.is_some_and(|dropped| dropped > time || expected < first) {
            assert!(matches!(refused(answer), ReadError::BelowRetention { .. }), "{instrument} {time}");
        } else {
            assert_eq!(answer.unwrap(), expected, "{instrument} {time}");
        }
        let at = Sequence(random.below(last + 1));
        if let Some(snapshot) = reader.snapshot_before(at).unwrap() {
            assert!(snapshot.sequence() <= at);
            let digest = Digest::of(&events[..snapshot.sequence().0 as usize]);
            assert_eq!(snapshot.section("digest").unwrap().bytes, digest.bytes());
        } else {
            assert!(
                first == Sequence::FIRST || at.next() < first,
                "the state before {first} is in a snapshot"
            );
        }
    }
}

fn assert_below(error: ReadError, asked: Sequence, first_kept: Sequence) {
    match error {
        ReadError::BelowRetention { asked: found, first_kept: kept } => {
            assert_eq!((found, kept), (asked, first_kept));
        }
        other => panic!("{asked} is below {first_kept}: {other}"),
    }
}

/// Bulk reading gives whole frames, each event once, from the frame that holds `from`.
pub fn check_frames(reader: &Reader, events: &[Placed], from: Sequence) {
    let mut cursor = reader.frames(from).unwrap();
    let mut next = None;
    while let Some(handle) = cursor.next_frame().unwrap() {
        let frame = Frame::decode(handle.bytes()).expect("whole, where it lies");
        let first = next.get_or_insert(frame.first_sequence());
        assert!(frame.first_sequence() == *first && frame.last_sequence() >= from);
        for event in frame.events() {
            check_event(&event, &events[event.sequence().0 as usize - 1]);
        }
        *first = frame.last_sequence().next();
        assert_eq!(cursor.position(), *first);
    }
    let last = Sequence(events.len() as u64);
    if from <= last {
        assert_eq!(next, Some(last.next()), "everything visible was given");
    } else {
        assert_eq!(next, None);
    }
}

fn check_event(found: &EventRef<'_>, expected: &Placed) {
    assert_eq!((found.sequence(), found.to_event()), (expected.sequence, expected.event.clone()));
}

/// The error of a question that must not have an answer.
pub fn refused(answer: Result<impl std::fmt::Debug, ReadError>) -> ReadError {
    answer.expect_err("no answer")
}
