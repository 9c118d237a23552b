//! Where the gateway listens and every limit it keeps, with the reasons for the defaults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use matchtape_schemas::limits::EVENT_BYTES_MAX;

/// How a gateway is set up. The default is right for one machine.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where to listen: a loopback address, because nobody is asked who they are. Port 0: any free one.
    pub listen: SocketAddr,
    /// Host names, beside those of loopback, under which requests may come: that of a proxy in front. A browser that was
    /// lured to another name is refused, and so is a page of another origin.
    pub hosts: Vec<String>,
    /// What it grants.
    pub limits: Limits,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7410),
            hosts: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Everything that is bounded, and by how much.
#[derive(Clone, Debug)]
pub struct Limits {
    /// WebSocket connections at a time; one more is refused with status 503.
    pub connections_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Symbols of one subscription.
    pub symbols_max: usize,
    /// Symbols of one subscription to every order: its snapshot is copied while the feed waits.
    pub mbo_symbols_max: usize,
    /// Messages a client may send per second, averaged.
    pub inbound_per_second: u32,
    /// Messages a client may send at once before the average counts.
    pub inbound_burst: u32,
    /// Bytes of one message from a client.
    pub inbound_bytes_max: usize,
    /// Malformed messages of one connection before it is closed.
    pub malformed_max: u32,
    /// Bytes of one message to a client; a single larger item (a big event) still goes out whole.
    pub outbound_message_bytes: usize,
    /// Bytes a connection may hold that the kernel has not taken yet.
    pub write_buffer_bytes_max: usize,
    /// Bytes the kernel may hold for a connection: what a slow client gets late at most, and costs at most.
    pub kernel_buffer_bytes: u32,
    /// A connection that takes no bytes for this long is closed.
    pub write_stall_max: Duration,
    /// A live subscription that stays behind the recent messages for this long is closed.
    pub behind_max: Duration,
    /// How often every connection is told the watermarks.
    pub heartbeat_interval: Duration,
    /// How often the client is asked whether it is there.
    pub ping_interval: Duration,
    /// A client from which nothing comes for this long is closed.
    pub idle_timeout: Duration,
    /// Bytes of recent messages kept in memory per channel. Who falls behind them is served from the log.
    pub recent_bytes_max: usize,
    /// Changes of one symbol's book, best prices or ticker that a client may have waiting before they are merged into one;
    /// one, where all that it has waiting is more than 256 KiB.
    pub conflate_above: usize,
    /// Reads of the log at a time, for all clients together. Each is short; more than cores makes nobody faster.
    pub log_reads_max: usize,
    /// Rows of one page of an HTTP answer.
    pub page_rows_max: usize,
    /// Candles of one answer.
    pub candles_max: usize,
    /// Bytes of events of one request to publish. They are held in memory, twice for a moment.
    pub publish_bytes_max: usize,
    /// Requests to publish that hold a body, or wait for room in the ring, at a time; further ones wait unread.
    pub publishes_max: usize,
    /// A request to publish waits so long for the stage it asked for; then its outcome is called unknown.
    pub publish_wait_max: Duration,
    /// How long clients get to take what was published before a shutdown.
    pub drain_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            subscriptions_max: 64,
            symbols_max: 256,
            mbo_symbols_max: 32,
            inbound_per_second: 20,
            inbound_burst: 100,
            inbound_bytes_max: 16 * 1024,
            malformed_max: 10,
            outbound_message_bytes: 64 * 1024,
            write_buffer_bytes_max: 1024 * 1024,
            kernel_buffer_bytes: 256 * 1024,
            write_stall_max: Duration::from_secs(10),
            behind_max: Duration::from_secs(60),
            heartbeat_interval: Duration::from_secs(1),
            ping_interval: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(45),
            recent_bytes_max: 16 * 1024 * 1024,
            conflate_above: 32,
            log_reads_max: 4,
            page_rows_max: 10_000,
            candles_max: 5_000,
            publish_bytes_max: 8 * 1024 * 1024,
            publishes_max: 8,
            publish_wait_max: Duration::from_secs(10),
            drain_max: Duration::from_secs(5),
        }
    }
}

/// Configuration that the gateway does not start with.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// An address others can reach.
    #[error(
        "cannot listen on {0}: the gateway asks nobody who they are, so it listens on loopback only \
         (127.0.0.1 or [::1]); put a reverse proxy that authenticates in front of it"
    )]
    NotLoopback(SocketAddr),
    /// A name that no request could have.
    #[error(
        "{0:?} is no host name: give it as a browser shows it, without scheme, port and path, as tape.example.com"
    )]
    HostName(String),
    /// A limit nothing could work within.
    #[error("{name} is {found}, it has to be at least {least}")]
    TooSmall {
        /// Which limit.
        name: &'static str,
        /// As configured.
        found: u128,
        /// The least that works.
        least: u128,
    },
}

impl GatewayConfig {
    /// Whether a gateway can run like this.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback(self.listen));
        }
        if let Some(host) = self.hosts.iter().find(|host| !is_host_name(host)) {
            return Err(ConfigError::HostName(host.clone()));
        }
        let limits = &self.limits;
        let at_least = [
            ("connections_max", limits.connections_max as u128, 1),
            ("subscriptions_max", limits.subscriptions_max as u128, 1),
            ("symbols_max", limits.symbols_max as u128, 1),
            ("mbo_symbols_max", limits.mbo_symbols_max as u128, 1),
            ("inbound_per_second", limits.inbound_per_second.into(), 1),
            ("inbound_burst", limits.inbound_burst.into(), 1),
            ("inbound_bytes_max", limits.inbound_bytes_max as u128, 256),
            ("outbound_message_bytes", limits.outbound_message_bytes as u128, 1024),
            // Room for the largest single item (a 48 KiB state value is redacted; a part of a snapshot is smaller).
            (
                "write_buffer_bytes_max",
                limits.write_buffer_bytes_max as u128,
                2 * limits.outbound_message_bytes as u128,
            ),
            ("kernel_buffer_bytes", limits.kernel_buffer_bytes.into(), 4096),
            ("write_stall_max (ms)", limits.write_stall_max.as_millis(), 1),
            ("behind_max (ms)", limits.behind_max.as_millis(), 1),
            ("heartbeat_interval (ms)", limits.heartbeat_interval.as_millis(), 1),
            ("ping_interval (ms)", limits.ping_interval.as_millis(), 1),
            ("idle_timeout (ms)", limits.idle_timeout.as_millis(), limits.ping_interval.as_millis() + 1),
            ("recent_bytes_max", limits.recent_bytes_max as u128, 1),
            ("conflate_above", limits.conflate_above as u128, 1),
            ("log_reads_max", limits.log_reads_max as u128, 1),
            ("page_rows_max", limits.page_rows_max as u128, 1),
            ("candles_max", limits.candles_max as u128, 1),
            ("publish_bytes_max", limits.publish_bytes_max as u128, EVENT_BYTES_MAX as u128),
            ("publishes_max", limits.publishes_max as u128, 1),
            ("publish_wait_max (ms)", limits.publish_wait_max.as_millis(), 1),
        ];
        for (name, found, least) in at_least {
            if found < least {
                return Err(ConfigError::TooSmall { name, found, least });
            }
        }
        Ok(())
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host_name(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_others_can_reach_is_refused_and_the_error_says_what_to_do() {
        for address in ["0.0.0.0:7410", "192.168.1.5:80", "[::]:7410"] {
            let config = GatewayConfig { listen: address.parse().unwrap(), ..Default::default() };
            let error = config.check().unwrap_err();
            assert!(matches!(error, ConfigError::NotLoopback(_)), "{address}");
            assert!(error.to_string().contains("loopback only"), "{error}");
        }
        for address in ["127.0.0.1:0", "[::1]:7410", "127.8.8.8:1"] {
            let config = GatewayConfig { listen: address.parse().unwrap(), ..Default::default() };
            assert_eq!(config.check(), Ok(()), "{address}");
        }
    }

    #[test]
    fn hosts_are_names_and_nothing_else() {
        for good in ["tape.example.com", "TAPE", "10.1.2.3", "[2001:db8::1]"] {
            assert!(is_host_name(good), "{good}");
        }
        for wrong in [
            "",
            "https://tape.example.com",
            "tape.example.com:8443",
            "tape.example.com/",
            "*",
            "a..b",
            "2001:db8::1",
        ] {
            let config = GatewayConfig { hosts: vec![wrong.to_owned()], ..Default::default() };
            assert_eq!(config.check(), Err(ConfigError::HostName(wrong.to_owned())));
        }
    }

    #[test]
    fn limits_nothing_could_work_within_are_refused() {
        let mut config = GatewayConfig::default();
        config.limits.idle_timeout = config.limits.ping_interval;
        assert!(matches!(config.check(), Err(ConfigError::TooSmall { name: "idle_timeout (ms)", .. })));
        config = GatewayConfig::default();
        config.limits.write_buffer_bytes_max = config.limits.outbound_message_bytes;
        assert!(matches!(config.check(), Err(ConfigError::TooSmall { name: "write_buffer_bytes_max", .. })));
    }
}
