//! Addresses, as 0.2's command line takes them.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A loopback address: there is no encryption, and whoever connects is root.
    Tcp(SocketAddr),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Neither `unix://` nor `tcp://`.
    #[error("bad listen address format {0}, expected proto://address")]
    Address(String),
    /// Open to other machines, without encryption.
    #[error("refusing to listen on {0}: without TLS only loopback addresses are served")]
    NotLoopback(String),
}

impl Address {
    /// Reads `unix:///path`, `tcp://host:port`, or, as the first clients gave it, a path.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        match text.split_once("://") {
            Some(("unix", path)) if !path.is_empty() => Ok(Address::Unix(path.into())),
            Some(("tcp", host)) => {
                let host = host.replace("localhost:", "127.0.0.1:");
                let address: SocketAddr =
                    host.parse().map_err(|_| AddressError::Address(text.to_owned()))?;
                if !address.ip().is_loopback() {
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
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        assert_eq!(Address::parse("unix:///run/c.sock"), unix("/run/c.sock"));
        assert_eq!(Address::parse("/run/c.sock"), unix("/run/c.sock"));
        for loopback in ["tcp://127.0.0.1:5", "tcp://localhost:5", "tcp://[::1]:5"] {
            assert!(matches!(Address::parse(loopback), Ok(Address::Tcp(_))), "{loopback}");
        }
        for open in ["tcp://0.0.0.0:5", "tcp://10.0.0.1:5", "tcp://[::]:5"] {
            assert!(matches!(Address::parse(open), Err(AddressError::NotLoopback(_))), "{open}");
        }
        for bad in ["", "unix://", "http://x", "tcp://nowhere", "tcp://127.0.0.1", "x"] {
            assert_eq!(Address::parse(bad), Err(AddressError::Address(bad.to_owned())));
        }
    }
}
