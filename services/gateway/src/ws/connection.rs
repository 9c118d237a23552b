//! The loop of one connection: requests in, messages out, nothing kept waiting but itself.
//!
//! There is no queue per client. A subscription is a position; the loop hands over what is due from there, waits until
//! the socket has taken it, and looks again. A client that is slow finds itself further back, and what it needs has
//! then to be read from the log (or, for books, best prices, tickers and candles, is merged). Bytes in memory: one turn, and
//! the socket's write buffer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::SinkExt;
use matchtape_schemas::Sequence;
use matchtape_storage::ReadError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::close::CloseReason;
use super::message::{self, Acknowledgement, Messages};
use super::open::{Opened, live_snapshot, open, plan};
use super::rate::TokenBucket;
use super::request::{NoRequest, Request, SubscribeRequest, parse};
use super::subscription::{Phase, Subscription, Turn, WhyLog};
use crate::encode::Cause;
use crate::error::ApiError;
use crate::feed::{Channel, FeedHead};
use crate::gateway::Shared;
use crate::log::{Past, PastState, Replay};
use crate::metrics::Metrics;

/// How long a closing client gets to take the reason and answer.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Told to every connection when the gateway shuts down.
pub(crate) type Drain = watch::Receiver<Option<Instant>>;

/// Why the loop ended.
enum End {
    /// The client went, or the connection broke.
    Gone,
    /// The gateway closes, for a reason and with an explanation.
    Close(CloseReason, String),
}

/// What another thread has done for a subscription.
enum Done {
    Opened(u64, Result<Box<Opened>, ApiError>),
    Piece { id: u64, serial: u64, replay: Box<Replay>, read: Result<Vec<Utf8Bytes>, ReadError> },
    Snapshot { id: u64, serial: u64, position: Sequence, messages: Vec<Utf8Bytes> },
}

/// A subscription by the client's id; a serial tells it from an earlier one under the same id.
struct Entry {
    id: u64,
    serial: u64,
    /// `None` while it is being opened.
    running: Option<Subscription>,
}

struct Connection {
    socket: WebSocket,
    shared: Arc<Shared>,
    head: watch::Receiver<FeedHead>,
    entries: Vec<Entry>,
    serials: u64,
    work: JoinSet<Done>,
    rate: TokenBucket,
    malformed: u32,
    heard_at: Instant,
    unflushed: bool,
}

/// Serves one connection until it ends.
pub(crate) async fn serve(socket: WebSocket, shared: Arc<Shared>, drain: Drain) {
    Metrics::count(&shared.metrics.connections_opened);
    let limits = &shared.limits;
    let mut connection = Connection {
        head: shared.feed.head(),
        entries: Vec::new(),
        serials: 0,
        work: JoinSet::new(),
        rate: TokenBucket::new(limits.inbound_per_second, limits.inbound_burst, Instant::now()),
        malformed: 0,
        heard_at: Instant::now(),
        unflushed: false,
        socket,
        shared: shared.clone(),
    };
    match connection.run(drain).await {
        Ok(()) | Err(End::Gone) => {}
        Err(End::Close(reason, what)) => {
            shared.metrics.closed_for(reason);
            connection.farewell(reason, &what).await;
        }
    }
    Metrics::count(&shared.metrics.connections_closed);
}

impl Connection {
    async fn run(&mut self, mut drain: Drain) -> Result<(), End> {
        let limits = self.shared.limits.clone();
        let start = tokio::time::Instant::now();
        let mut heartbeats = interval_at(start, limits.heartbeat_interval);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pings = interval_at(start + limits.ping_interval, limits.ping_interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain_until: Option<(Instant, Sequence)> = None;
        self.send(message::hello(self.shared.reader.tape(), &limits)).await?;
        loop {
            let more = self.turn().await?;
            self.flush().await?;
            self.check_end(drain_until, more)?;
            let remaining = drain_until.map(|(deadline, _)| deadline);
            tokio::select! {
                biased;
                changed = drain.changed(), if drain_until.is_none() => {
                    let deadline = *drain.borrow_and_update();
                    if changed.is_err() {
                        return Err(End::Close(CloseReason::Shutdown, "the gateway is gone".to_owned()));
                    }
                    if let Some(deadline) = deadline {
                        drain_until = Some((deadline, self.head.borrow().position));
                        let left = deadline.saturating_duration_since(Instant::now());
                        self.send(message::server_shutdown(left.as_millis() as u64)).await?;
                    }
                }
                received = self.socket.recv() => self.received(received).await?,
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    self.done(done.expect("reads of the log do not panic")).await?;
                }
                _ = heartbeats.tick() => self.heartbeat().await?,
                _ = pings.tick() => {
                    if self.heard_at.elapsed() > limits.idle_timeout {
                        let what = format!("nothing came for {} ms", limits.idle_timeout.as_millis());
                        return Err(End::Close(CloseReason::IdleTimeout, what));
                    }
                    self.deliver(Message::Ping(Default::default())).await?;
                }
                _ = self.head.changed() => {}
                _ = until(remaining), if remaining.is_some() => {}
                _ = std::future::ready(()), if more => {}
            }
        }
    }

    /// Whether it is over: drained, or the feed does not go on.
    fn check_end(&self, drain_until: Option<(Instant, Sequence)>, more: bool) -> Result<(), End> {
        if let Some((deadline, target)) = drain_until {
            let delivered = self.work.is_empty()
                && self
                    .entries
                    .iter()
                    .all(|entry| entry.running.as_ref().is_some_and(|running| running.position >= target));
            if delivered || Instant::now() >= deadline {
                let what = if delivered { "everything was delivered" } else { "the time to deliver is over" };
                return Err(End::Close(CloseReason::Shutdown, what.to_owned()));
            }
        }
        let head = self.head.borrow();
        if let Some(why) = &head.failed {
            return Err(End::Close(CloseReason::TapeFailed, why.to_string()));
        }
        let caught_up = || {
            let is_live = |entry: &Entry| {
                entry.running.as_ref().is_some_and(|running| running.position >= head.position)
            };
            !more && self.work.is_empty() && self.entries.iter().all(is_live)
        };
        if head.ended && drain_until.is_none() && caught_up() {
            return Err(End::Close(CloseReason::TapeClosed, "the tape was closed".to_owned()));
        }
        Ok(())
    }

    /// Gives every subscription its turn; `true` when one could go on at once.
    async fn turn(&mut self) -> Result<bool, End> {
        let mut more = false;
        for place in 0..self.entries.len() {
            more |= self.turn_of(place).await?;
        }
        Ok(more)
    }

    async fn turn_of(&mut self, place: usize) -> Result<bool, End> {
        let shared = self.shared.clone();
        let entry = &mut self.entries[place];
        let serial = entry.serial;
        let Some(running) = &mut entry.running else { return Ok(false) };
        match &mut running.phase {
            Phase::Live => match running.turn(&shared.feed, &shared.limits) {
                Turn::Messages { messages, more, conflated } => {
                    if conflated > 0 {
                        Metrics::count(&shared.metrics.conflations);
                    }
                    self.send_data(serial, messages).await?;
                    Ok(more)
                }
                Turn::Gone => self.left_behind(place, WhyLog::Behind).await.map(|()| true),
                Turn::Recount => {
                    let why = WhyLog::Recount { from: running.position };
                    self.left_behind(place, why).await.map(|()| true)
                }
            },
            Phase::Log { replay, why } => {
                let why = *why;
                let Some(replay) = replay.take() else { return Ok(false) };
                if running.can_go_live(why, &shared.feed) {
                    running.phase = Phase::Live;
                    running.behind_since = None;
                    running.candles = replay.into_candles();
                    let (id, position) = (running.id, running.position);
                    match why {
                        WhyLog::Asked => {
                            self.send(message::at_sequence("replay_completed", id, position)).await?
                        }
                        WhyLog::Behind => self.send(message::at_sequence("caught_up", id, position)).await?,
                        WhyLog::Recount { .. } => {}
                    }
                    return Ok(true);
                }
                let behind_max = shared.limits.behind_max;
                if running.behind_since.is_some_and(|since| since.elapsed() > behind_max) {
                    let what =
                        format!("subscription {} was behind for {} ms", running.id, behind_max.as_millis());
                    return Err(End::Close(CloseReason::TooSlow, what));
                }
                let (id, channel) = (running.id, running.wants.channel);
                self.read_piece(id, serial, channel, replay);
                Ok(false)
            }
            Phase::Snapshot => Ok(false),
        }
    }

    /// A live subscription found that what comes next is not among the recent messages.
    async fn left_behind(&mut self, place: usize, why: WhyLog) -> Result<(), End> {
        let shared = self.shared.clone();
        let head = self.head.borrow().position;
        let entry = &mut self.entries[place];
        let serial = entry.serial;
        let running = entry.running.as_mut().expect("it has had its turn");
        let (id, wants) = (running.id, running.wants.clone());
        if wants.channel.is_conflatable() {
            Metrics::count(&shared.metrics.conflations);
            running.phase = Phase::Snapshot;
            self.work.spawn(async move {
                let pool = shared.log.clone();
                let made = pool
                    .run(move || {
                        live_snapshot(
                            id,
                            &wants,
                            &shared.feed,
                            Cause::Conflated,
                            shared.limits.outbound_message_bytes,
                        )
                    })
                    .await;
                Done::Snapshot { id, serial, position: made.0, messages: made.1 }
            });
            return Ok(());
        }
        Metrics::count(&shared.metrics.switches_to_log);
        let position = running.position;
        let past = running
            .candles
            .take()
            .map(|candles| Past { state: PastState::Candles(candles), sequence: position });
        let replay = Replay::open(&shared.reader, wants, position, past)
            .map_err(|error| End::Close(CloseReason::TapeFailed, error.to_string()))?;
        running.phase = Phase::Log { replay: Some(Box::new(replay)), why };
        running.behind_since = Some(Instant::now());
        if let WhyLog::Recount { .. } = why {
            return Ok(());
        }
        let message = message::lagging(id, position, head);
        self.send(message).await
    }

    fn read_piece(&mut self, id: u64, serial: u64, channel: Channel, mut replay: Box<Replay>) {
        let shared = self.shared.clone();
        self.work.spawn(async move {
            let pool = shared.log.clone();
            pool.run(move || {
                let symbols = shared.feed.symbols();
                let mut messages = Messages::new(id, channel, shared.limits.outbound_message_bytes);
                let read = replay.read(&symbols, &mut messages).map(|()| messages.finish());
                Done::Piece { id, serial, replay, read }
            })
            .await
        });
    }

    async fn done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Opened(serial, opened) => self.opened(serial, opened).await,
            Done::Piece { id, serial, replay, read } => {
                let messages = match read {
                    Ok(messages) => messages,
                    Err(error) => return self.failed(id, serial, &ApiError::read(&error, "log")).await,
                };
                let Some(running) = self.running(serial) else { return Ok(()) };
                running.position = replay.position();
                if let Phase::Log { replay: slot, .. } = &mut running.phase {
                    *slot = Some(replay);
                }
                self.send_data(serial, messages).await
            }
            Done::Snapshot { id, serial, position, messages } => {
                let Some(running) = self.running(serial) else { return Ok(()) };
                debug_assert_eq!(running.id, id);
                running.position = position;
                running.phase = Phase::Live;
                self.send_data(serial, messages).await
            }
        }
    }

    fn running(&mut self, serial: u64) -> Option<&mut Subscription> {
        self.entries.iter_mut().find(|entry| entry.serial == serial)?.running.as_mut()
    }

    /// A subscription that cannot go on ends with an error; the others do not notice.
    async fn failed(&mut self, id: u64, serial: u64, error: &ApiError) -> Result<(), End> {
        self.entries.retain(|entry| entry.serial != serial);
        self.send(message::error(Some(id), error)).await
    }

    async fn opened(&mut self, serial: u64, opened: Result<Box<Opened>, ApiError>) -> Result<(), End> {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.serial == serial) else {
            return Ok(());
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let id = entry.id;
                return self.failed(id, serial, &error).await;
            }
        };
        let Opened {
            id,
            wants,
            symbols,
            seat,
            head,
            position,
            snapshot,
            candles,
            replay,
            asked_for_past,
            waiting,
        } = *opened;
        let depth = (wants.channel == Channel::Book).then(|| wants.depth.get());
        let interval_ns = (wants.channel == Channel::Candles).then_some(wants.interval_ns);
        let acknowledgement = message::subscribed(&Acknowledgement {
            id,
            channel: wants.channel,
            symbols: &symbols,
            depth,
            interval_ns,
            head,
            start: position.next(),
            waiting,
        });
        // Of a past that is still to come nothing is completed.
        let completed = asked_for_past && replay.is_none() && !waiting;
        let phase = match replay {
            Some(replay) => Phase::Log { replay: Some(Box::new(replay)), why: WhyLog::Asked },
            None => Phase::Live,
        };
        let delivered = position;
        entry.running =
            Some(Subscription { id, wants, seat, position, delivered, phase, candles, behind_since: None });
        self.send(acknowledgement).await?;
        self.send_data(serial, snapshot).await?;
        if completed {
            self.send(message::at_sequence("replay_completed", id, position)).await?;
        }
        Ok(())
    }

    async fn received(&mut self, received: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard_at = Instant::now();
        let text = match received {
            None => return Err(End::Gone),
            Some(Err(error)) => return Err(broken(&error, self.shared.limits.inbound_bytes_max)),
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Binary(_))) => {
                return Err(End::Close(CloseReason::Unsupported, "send requests as text".to_owned()));
            }
            // tungstenite has answered the ping already, and answers the close on the next read.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => return Ok(()),
        };
        Metrics::count(&self.shared.metrics.messages_received);
        if !self.rate.take(Instant::now()) {
            let limits = &self.shared.limits;
            let what = format!("more than {} messages per second", limits.inbound_per_second);
            return Err(End::Close(CloseReason::RateLimited, what));
        }
        let bytes_max = self.shared.limits.inbound_bytes_max;
        if text.len() > bytes_max {
            return Err(too_big(bytes_max));
        }
        match parse(&text) {
            Ok(Request::Subscribe(request)) => self.subscribe(request).await,
            Ok(Request::Unsubscribe { id }) => self.unsubscribe(id).await,
            Ok(Request::Ping { id }) => self.send(message::pong(id)).await,
            Err(no_request) => {
                let NoRequest { id, error } = *no_request;
                self.malformed += 1;
                self.send(message::error(id, &error)).await?;
                if self.malformed > self.shared.limits.malformed_max {
                    let what = format!("{} messages were not requests", self.malformed);
                    return Err(End::Close(CloseReason::Malformed, what));
                }
                Ok(())
            }
        }
    }

    async fn subscribe(&mut self, request: SubscribeRequest) -> Result<(), End> {
        let limits = &self.shared.limits;
        let id = request.id;
        let refused = if self.entries.iter().any(|entry| entry.id == id) {
            Some(ApiError::bad_request(
                format!("id {id} is in use"),
                "id",
                "take another, or unsubscribe it first",
            ))
        } else if self.entries.len() >= limits.subscriptions_max {
            Some(ApiError::bad_request(
                format!("{} subscriptions are open", self.entries.len()),
                "id",
                "unsubscribe one, name several symbols in one, or open another connection",
            ))
        } else {
            None
        };
        if let Some(error) = refused {
            return self.send(message::error(Some(id), &error)).await;
        }
        let serial = self.serials;
        self.serials += 1;
        self.entries.push(Entry { id, serial, running: None });
        let shared = self.shared.clone();
        self.work.spawn(async move {
            let pool = shared.log.clone();
            pool.run(move || {
                let (feed, reader, limits) = (&shared.feed, &shared.reader, &shared.limits);
                let opened = plan(&request, feed, reader, limits)
                    .and_then(|plan| open(plan, feed, reader, limits.outbound_message_bytes));
                Done::Opened(serial, opened.map(Box::new))
            })
            .await
        });
        Ok(())
    }

    async fn unsubscribe(&mut self, id: u64) -> Result<(), End> {
        let Some(place) = self.entries.iter().position(|entry| entry.id == id) else {
            let error = ApiError::bad_request(
                format!("there is no subscription {id}"),
                "id",
                "name one that is open",
            );
            return self.send(message::error(Some(id), &error)).await;
        };
        let entry = self.entries.remove(place);
        let position = entry.running.as_ref().map_or(Sequence::ZERO, |running| running.delivered);
        self.send(message::at_sequence("unsubscribed", id, position)).await
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let watermarks = *self.shared.tail.borrow();
        let position = self.head.borrow().position;
        let intake = self.shared.gauge.as_ref().map(|gauge| gauge.store().intake());
        self.send(message::heartbeat(now, &watermarks, position, intake.as_ref())).await
    }

    /// Sends what a subscription has taken, and then counts it as delivered.
    async fn send_data(&mut self, serial: u64, messages: Vec<Utf8Bytes>) -> Result<(), End> {
        for message in messages {
            self.send(message).await?;
        }
        if let Some(running) = self.running(serial) {
            running.delivered = running.position;
        }
        Ok(())
    }

    async fn send(&mut self, text: Utf8Bytes) -> Result<(), End> {
        let metrics = &self.shared.metrics;
        Metrics::count(&metrics.messages_sent);
        metrics.bytes_sent.fetch_add(text.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.deliver(Message::Text(text)).await
    }

    /// Hands a message to the socket's buffer, and waits while that is full.
    async fn deliver(&mut self, message: Message) -> Result<(), End> {
        let stall_max = self.shared.limits.write_stall_max;
        self.unflushed = true;
        match timeout(stall_max, self.socket.feed(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(stalled(stall_max)),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.unflushed) {
            return Ok(());
        }
        let stall_max = self.shared.limits.write_stall_max;
        match timeout(stall_max, self.socket.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(stalled(stall_max)),
        }
    }

    /// Says why and where to go on, closes, and waits a moment for the client to have it.
    async fn farewell(&mut self, reason: CloseReason, what: &str) {
        let tape = self.shared.reader.tape();
        let resume = self
            .entries
            .iter()
            .filter_map(|entry| entry.running.as_ref().map(|running| (running.id, running.delivered)));
        let notice = message::closing(reason, what, tape, resume);
        let frame = CloseFrame { code: reason.code(), reason: reason.name().into() };
        let said = async {
            self.socket.feed(Message::Text(notice)).await?;
            self.socket.send(Message::Close(Some(frame))).await?;
            // Reads to the end: dropping a socket with unread requests would reset it, and the reason be lost.
            while let Some(Ok(_)) = self.socket.recv().await {}
            Ok::<(), axum::Error>(())
        };
        // Out of time or broken: there is nobody left to tell.
        let _ = timeout(FAREWELL_MAX, said).await;
    }
}

fn stalled(stall_max: Duration) -> End {
    End::Close(CloseReason::Stalled, format!("nothing was taken for {} ms", stall_max.as_millis()))
}

fn too_big(bytes_max: usize) -> End {
    End::Close(CloseReason::MessageTooBig, format!("a message may have {bytes_max} bytes"))
}

/// A failed read: far too much at once, and text that is none, are told; everything else is a connection that is no more.
fn broken(error: &axum::Error, bytes_max: usize) -> End {
    // tungstenite's errors; axum does not pass on their type.
    let text = error.to_string();
    if text.contains("too long") {
        too_big(bytes_max)
    } else if text.contains("UTF-8") {
        End::Close(CloseReason::NotUtf8, "a message was not UTF-8".to_owned())
    } else {
        End::Gone
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
