//! Starting and stopping: one tape in, one address out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::serve::ListenerExt;
use matchtape_node::consumers::Consumers;
use matchtape_node::{Holds, NodeGauge, Sealer};
use matchtape_schemas::Watermarks;
use matchtape_storage::Reader;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::{ConfigError, GatewayConfig, Limits};
use crate::feed::{Feed, Follower, StartError as FeedStartError};
use crate::http;
use crate::ingress::Ingress;
use crate::log::LogPool;
use crate::metrics::Metrics;

/// How long the start waits for the live feeds.
const CATCH_UP_WAIT: Duration = Duration::from_secs(2);

/// The tape a gateway serves.
pub struct TapeHandle {
    /// Its stored events; never beyond visible.
    pub reader: Reader,
    /// Its watermarks as they rise. To be sent after the reader's visible has been raised; the gateway reads on then.
    /// Dropping the sender says that the tape was closed.
    pub tail: watch::Receiver<Watermarks>,
    /// The way onto it, for producers outside; without one, publishing is not offered.
    pub ingress: Option<Arc<dyn Ingress>>,
    /// Its durable consumers; without them, none are offered.
    pub consumers: Option<Consumers>,
    /// How its node is, for `/v1/health`, `/metrics` and the page; without it, nothing is said of that.
    pub gauge: Option<NodeGauge>,
    /// Seals its log on demand; without it, that is not offered.
    pub sealer: Option<Sealer>,
    /// Its legal holds; without them, they are neither shown nor changed.
    pub holds: Option<Holds>,
}

impl TapeHandle {
    /// A tape that is only shown.
    pub fn shown(reader: Reader, tail: watch::Receiver<Watermarks>) -> Self {
        Self { reader, tail, ingress: None, consumers: None, gauge: None, sealer: None, holds: None }
    }
}

/// A gateway that did not start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// As it is configured it must not.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tape cannot be followed.
    #[error(transparent)]
    Feed(#[from] FeedStartError),
}

/// What everything in the gateway can reach.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) reader: Reader,
    pub(crate) tail: watch::Receiver<Watermarks>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) log: LogPool,
    pub(crate) ingress: Option<Arc<dyn Ingress>>,
    /// One permit per request that brings events.
    pub(crate) publishes: Arc<Semaphore>,
    pub(crate) consumers: Option<Consumers>,
    pub(crate) gauge: Option<NodeGauge>,
    pub(crate) sealer: Option<Sealer>,
    pub(crate) holds: Option<Holds>,
    /// Held while the log is sealed.
    pub(crate) seals: Arc<Semaphore>,
    /// Held while a legal hold is asked for, placed or lifted.
    pub(crate) hold_requests: Arc<Semaphore>,
    /// One permit per request that waits for a consumer's events.
    pub(crate) consumer_waits: Arc<Semaphore>,
    /// Held while a consumer is made, changed or forgotten: that waits for a disk, and the next one for it.
    pub(crate) consumer_changes: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    pub(crate) address: SocketAddr,
    pub(crate) hosts: Vec<String>,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    /// One permit per WebSocket connection.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) drain: watch::Receiver<Option<Instant>>,
}

/// The constructor of a running gateway.
pub struct Gateway;

/// A running gateway.
pub struct GatewayHandle {
    shared: Arc<Shared>,
    follower: Follower,
    drain: watch::Sender<Option<Instant>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Gateway {
    /// Listens, and follows the tape from its newest snapshot. Returns when requests are answered; far behind the tape's
    /// end, the live feeds may still be catching up then. Must be called in a tokio runtime with time and I/O.
    pub async fn start(config: GatewayConfig, tape: TapeHandle) -> Result<GatewayHandle, StartError> {
        config.check()?;
        let listen_error = |source| StartError::Listen { address: config.listen, source };
        let limits = config.limits;
        let listener = listen(config.listen, limits.kernel_buffer_bytes).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let (follower, feed) = Follower::start(tape.reader.clone(), tape.tail.clone(), &limits)?;
        // Whoever knew an instrument before the start finds it right after.
        let (mut head, visible) = (feed.head(), tape.reader.visible());
        let caught_up = head.wait_for(|head| head.position >= visible || head.failed.is_some());
        if tokio::time::timeout(CATCH_UP_WAIT, caught_up).await.is_err() {
            tracing::info!(%visible, "the live feeds are catching up");
        }
        let (drain, draining) = watch::channel(None);
        let shared = Arc::new(Shared {
            log: LogPool::new(limits.log_reads_max),
            ingress: tape.ingress,
            consumers: tape.consumers,
            gauge: tape.gauge,
            sealer: tape.sealer,
            holds: tape.holds,
            seals: Arc::new(Semaphore::new(1)),
            hold_requests: Arc::new(Semaphore::new(1)),
            consumer_waits: Arc::new(Semaphore::new(limits.connections_max)),
            consumer_changes: Arc::new(Semaphore::new(1)),
            publishes: Arc::new(Semaphore::new(limits.publishes_max)),
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            metrics: Metrics::default(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            reader: tape.reader,
            tail: tape.tail,
            drain: draining.clone(),
            hosts: config.hosts,
            limits,
            feed,
            address,
        });
        let router = http::router(shared.clone());
        let mut stop = draining;
        // A message goes out when it is flushed, not when the kernel has gathered enough.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::warn!(%error, "a connection will be slow");
            }
        });
        let server = axum::serve(listener, router).with_graceful_shutdown(async move {
            // An error: the handle is gone, which stops the gateway as well.
            let _ = stop.wait_for(|deadline| deadline.is_some()).await;
        });
        let server = tokio::spawn(server.into_future());
        tracing::info!(%address, "the gateway listens");
        Ok(GatewayHandle { shared, follower, drain, server })
    }
}

/// Listens; connections inherit the bounded send buffer.
fn listen(address: SocketAddr, send_buffer_bytes: u32) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As `TcpListener::bind` does: a restart must not wait for old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(send_buffer_bytes)?;
    socket.bind(address)?;
    socket.listen(1024)
}

/// Longer than anybody waits, and a time that the clock still has.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

impl GatewayHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The page's address, for people.
    pub fn url(&self) -> String {
        format!("http://{}/", self.shared.address)
    }

    /// Tells every client, gives them `drain_max` to take what was published before, closes, and stops.
    pub async fn shutdown(self) {
        let drain = self.shared.limits.drain_max.min(FOR_EVER);
        let deadline = Instant::now() + drain;
        self.drain.send_replace(Some(deadline));
        let all = self.shared.limits.connections_max as u32;
        // Every connection gives its permit back when it ends, by the deadline and a farewell at the latest.
        let grace = drain + Duration::from_secs(2);
        let _ = tokio::time::timeout(grace, self.shared.connections.acquire_many(all)).await;
        let mut server = self.server;
        if tokio::time::timeout_at(deadline.into(), &mut server).await.is_err() {
            // A download that goes on beyond the deadline is cut.
            server.abort();
        }
        let follower = self.follower;
        let stopped = tokio::task::spawn_blocking(move || follower.stop()).await;
        stopped.expect("the market thread does not panic");
    }
}
