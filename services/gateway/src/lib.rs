//! WebSocket, HTTP and the web page: how outsiders watch a tape.
//!
//! Serves only what is visible, at group ends, without anything private. No client can slow another or the tape: the
//! market thread knows no clients, connections take what they want at their own pace (see `feed`), and the log is read
//! by a bounded number of threads (see `log`). What goes over the wire is described in `PROTOCOL.md`.
//!
//! Read in this order: `config` (limits), `gateway` (start and stop), `feed/`, `log/`, `ingress`, `ws/`,
//! `http/`, `page`.

mod config;
mod encode;
mod error;
mod feed;
mod gateway;
mod http;
mod ingress;
mod log;
mod metrics;
mod page;
mod ws;

pub use config::{ConfigError, GatewayConfig, Limits, is_host_name};
pub use feed::StartError as FeedStartError;
pub use gateway::{Gateway, GatewayHandle, StartError, TapeHandle};
pub use ingress::{Ingress, IngressError, ProducerPosition, Receipt};
