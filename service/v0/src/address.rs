//! Addresses, as 0.2's command line takes them.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address; a loopback one unless clients have to show who they are.
    Tcp(SocketAddr),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Neither `unix://` nor `tcp://`.
    #[error("bad listen address format {0}, expected proto://address")]
    Address(String),
    /// Open to other machines, whose users nobody asks who they are: each would be root here.
    #[error(
        "refusing to listen on {0}: only loopback addresses are served without TLS that asks clients for certificates"
    )]
    NotLoopback(String),
}

impl Address {
    /// Reads `unix:///path`, `tcp://address:port`, or, as the first clients gave it, a path. Other
    /// than loopback addresses are taken only if clients are `known`: by certificates.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str, known: bool) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            Some(("tcp", host)) => {
                let host = match host.split_once(':') {
                    // As Go: all addresses of this machine.
                    Some(("", port)) => format!("[::]:{port}"),
                    Some(("localhost", port)) => format!("127.0.0.1:{port}"),
                    _ => host.to_owned(),
                };
                let address: SocketAddr =
                    host.parse().map_err(|_| AddressError::Address(text.to_owned()))?;
                if !known && !address.ip().is_loopback() {
                    return Err(AddressError::NotLoopback(text.to_owned()));
                }
                Ok(Address::Tcp(address))
            }
            _ => Err(AddressError::Address(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text| Address::parse(text, false);
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        assert_eq!(parse("unix:///run/c.sock"), unix("/run/c.sock"));
        assert_eq!(parse("/run/c.sock"), unix("/run/c.sock"));
        for loopback in ["tcp://127.0.0.1:5", "tcp://localhost:5", "tcp://[::1]:5"] {
            assert!(matches!(parse(loopback), Ok(Address::Tcp(_))), "{loopback}");
        }
        for open in ["tcp://0.0.0.0:5", "tcp://10.0.0.1:5", "tcp://[::]:5", "tcp://:5"] {
            assert!(matches!(parse(open), Err(AddressError::NotLoopback(_))), "{open}");
            assert!(matches!(Address::parse(open, true), Ok(Address::Tcp(_))), "{open}");
        }
        for bad in ["", "unix://", "http://x", "tcp://nowhere", "tcp://127.0.0.1", "x", "tcp://"] {
            assert_eq!(parse(bad), Err(AddressError::Address(bad.to_owned())));
        }
    }
}
