//! Sending figures, from time to time.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_ident::timestamp;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{graphite, lines};
use crate::Api;

/// Before the names of figures at a graphite server; as in 0.2.
const PREFIX: &str = "metrics";
/// Before lines for people; as in 0.2.
const HEAD: &str = "[containerd] ";
/// How long a server may take for one report, from its name to its last byte.
const LIMIT: Duration = Duration::from_secs(5);

/// Where figures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A graphite server, as `host:port`.
    Graphite(String),
    /// The standard output.
    Stdout,
}

/// What can be wrong with the address of a server.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// It is no `host:port`.
    #[error("graphite address {0:?}: expected host:port")]
    Address(String),
}

impl Sink {
    /// The graphite server at `address`.
    ///
    /// # Errors
    /// [`SinkError::Address`]. Whether the server is there is seen later, again and again.
    pub fn graphite(address: &str) -> Result<Self, SinkError> {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match port.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(port)) if port > 0 => Ok(Sink::Graphite(address.to_owned())),
            _ => Err(SinkError::Address(address.to_owned())),
        }
    }
}

/// When and where figures are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Between two reports.
    pub interval: Duration,
    /// Where they go.
    pub sink: Sink,
}

impl Api {
    /// Sends the figures as `report` says, until the future is dropped. A report that cannot be
    /// sent is dropped; the next one is tried on a new connection.
    pub async fn report(&self, report: Report) {
        let mut ticks = interval(report.interval.max(Duration::from_millis(1)));
        // A server that was away is not sent what it has missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is now, and there is nothing to tell yet.
        ticks.tick().await;
        let mut failing = false;
        loop {
            ticks.tick().await;
            let sent = match &report.sink {
                Sink::Graphite(address) => self.send(address).await,
                Sink::Stdout => self.print().await,
            };
            match &sent {
                Ok(()) if failing => tracing::info!("reports of metrics arrive again"),
                Err(error) if !failing => tracing::warn!(%error, "no report of metrics"),
                _ => {}
            }
            failing = sent.is_err();
        }
    }

    async fn send(&self, address: &str) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = graphite(&self.figures(), PREFIX, now);
        let sending = async {
            let places: Vec<SocketAddr> = lookup_host(address).await?.collect();
            let mut stream = TcpStream::connect(places.as_slice()).await?;
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await
        };
        timeout(LIMIT, sending).await?
    }

    async fn print(&self) -> std::io::Result<()> {
        // Go's logger: year/month/day hour:minute:second.
        let now = timestamp::format(SystemTime::now());
        let now: String = now.chars().take(19).map(|c| if c == '-' { '/' } else { c }).collect();
        let text = lines(&self.figures(), &format!("{HEAD}{} ", now.replace('T', " ")));
        let written = tokio::task::spawn_blocking(move || {
            let mut out = std::io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        });
        written.await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for good in ["127.0.0.1:2003", "graphite.example:2003", "[::1]:2003"] {
            assert_eq!(Sink::graphite(good).unwrap(), Sink::Graphite(good.to_owned()));
        }
        for bad in ["", "graphite", ":2003", "host:", "host:x", "host:70000", "host:0"] {
            assert!(Sink::graphite(bad).is_err(), "{bad}");
        }
    }
}
