//! A WebSocket client, and a book built from nothing but what it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use matchtape_schemas::Price;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::Levels;

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    /// What came while something else was waited for.
    backlog: VecDeque<Value>,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub reason: String,
}

impl Client {
    /// With little room: a client that does not read is noticed after few messages.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with_room(address, 16 * 1024).await
    }

    /// With room for about so many bytes that it has not read.
    pub async fn connect_with_room(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        let stream = socket.connect(address).await.unwrap();
        let (socket, _) = client_async(format!("ws://{address}/v1/stream"), stream).await.unwrap();
        let mut client = Self { socket, backlog: VecDeque::new() };
        assert_eq!(client.next().await["type"], "hello");
        client
    }

    pub async fn send(&mut self, request: Value) {
        self.socket.send(Message::text(request.to_string())).await.unwrap();
    }

    /// The next message or the end.
    pub async fn receive(&mut self) -> Result<Value, Closed> {
        match self.backlog.pop_front() {
            Some(message) => Ok(message),
            None => self.receive_new().await,
        }
    }

    async fn receive_new(&mut self) -> Result<Value, Closed> {
        loop {
            let message =
                tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a message in time");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Closed { code: frame.code.into(), reason: frame.reason.to_string() });
                }
                Some(Ok(_)) => {}
                other => panic!("the connection ended without a close frame: {other:?}"),
            }
        }
    }

    /// The next message that is not a heartbeat.
    pub async fn next(&mut self) -> Value {
        loop {
            let message = self.receive().await.unwrap();
            if message["type"] != "heartbeat" {
                return message;
            }
        }
    }

    /// Everything up to and including the next message of a type, heartbeats left out.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await;
            let found = message["type"] == kind;
            assert!(found || message["type"] != "error", "{message}");
            messages.push(message);
            if found {
                return messages;
            }
        }
    }

    /// Subscribes and returns the acknowledgement; whatever else comes meanwhile is kept for later.
    pub async fn subscribe(&mut self, request: Value) -> Value {
        let mut request = request;
        request["op"] = json!("subscribe");
        let id = request["id"].clone();
        self.send(request).await;
        loop {
            let message = self.receive_new().await.unwrap();
            assert_ne!(message["type"], "error", "{message}");
            if message["type"] == "subscribed" && message["id"] == id {
                return message;
            }
            self.backlog.push_back(message);
        }
    }

    /// Data items of subscription `id` until one has a sequence of at least `through`.
    pub async fn items_through(&mut self, id: u64, through: u64) -> Vec<Value> {
        let mut items = Vec::new();
        loop {
            let message = self.next().await;
            assert_ne!(message["type"], "error", "{message}");
            if message["type"] != "data" || message["id"] != id {
                continue;
            }
            let data = message["data"].as_array().unwrap();
            assert_eq!(data.last().unwrap()["sequence"], message["sequence"]);
            items.extend(data.iter().cloned());
            if message["sequence"].as_u64().unwrap() >= through {
                return items;
            }
        }
    }

    /// Reads until the close, and returns it with the `closing` message before it.
    pub async fn until_closed(&mut self) -> (Option<Value>, Closed) {
        let mut closing = None;
        loop {
            match self.receive().await {
                Ok(message) if message["type"] == "closing" => closing = Some(message),
                Ok(_) => {}
                Err(closed) => return (closing, closed),
            }
        }
    }
}

pub fn sequences(items: &[Value]) -> Vec<u64> {
    items.iter().map(|item| item["sequence"].as_u64().unwrap()).collect()
}

/// One instrument's book as a client of the `book` channel keeps it.
#[derive(Debug, Default)]
pub struct LevelBook {
    bids: BTreeMap<i64, (String, String, u64)>,
    asks: BTreeMap<i64, (String, String, u64)>,
    /// Up to where the book is right.
    pub held: u64,
    pub snapshots: usize,
    pub conflated: usize,
    complete: bool,
}

impl LevelBook {
    /// Takes in an item as PROTOCOL.md tells clients to. `false`: part of a snapshot that is not complete.
    pub fn apply(&mut self, item: &Value) -> bool {
        let sequence = item["sequence"].as_u64().unwrap();
        if item["type"] == "snapshot" {
            if item["part"] == 1 {
                self.bids.clear();
                self.asks.clear();
            }
            self.snapshots += 1;
            self.complete = item["last"].as_bool().unwrap();
        } else {
            assert!(self.complete, "a change before the snapshot: {item}");
            let previous = item["previous_sequence"].as_u64().unwrap();
            let first = item["first_sequence"].as_u64().unwrap();
            assert!(
                previous <= self.held && self.held < first && first <= sequence,
                "held {}: {item}",
                self.held
            );
        }
        if item.get("conflated").is_some() {
            self.conflated += 1;
        }
        for (key, side) in [("bids", &mut self.bids), ("asks", &mut self.asks)] {
            for level in item[key].as_array().unwrap() {
                let price = level[0].as_str().unwrap();
                let units = price.parse::<Price>().unwrap().units();
                let quantity = level[1].as_str().unwrap().to_owned();
                if quantity == "0" {
                    side.remove(&units);
                } else {
                    side.insert(units, (price.to_owned(), quantity, level[2].as_u64().unwrap()));
                }
            }
        }
        self.held = sequence;
        self.complete
    }

    /// Best first.
    pub fn bids(&self) -> Levels {
        self.bids.values().rev().cloned().collect()
    }

    /// Best first.
    pub fn asks(&self) -> Levels {
        self.asks.values().cloned().collect()
    }
}
