//! What the global flags say about the daemon.

use std::time::Duration;

use base_errors::{Error, Result};
use client::{Client, Connect};

use crate::format;

/// The global flags.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Connection {
    /// Enable debug output in logs
    #[arg(long)]
    pub(crate) debug: bool,
    /// Address for containerd's GRPC server
    #[arg(
        long,
        short,
        value_name = "value",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub(crate) address: String,
    /// Total timeout for ctr commands
    #[arg(long, value_name = "value", default_value = "0s", value_parser = format::parse_duration)]
    pub(crate) timeout: Duration,
    /// Timeout for connecting to containerd
    #[arg(long, value_name = "value", default_value = "0s", value_parser = format::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// Namespace to use with commands
    #[arg(
        long,
        short,
        value_name = "value",
        env = "CONTAINERD_NAMESPACE",
        default_value = "default"
    )]
    pub(crate) namespace: String,
}

impl Connection {
    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let mut options = Connect::default();
        if !self.connect_timeout.is_zero() {
            options.timeout = self.connect_timeout;
        }
        base_ident::Namespace::new(&self.namespace)
            .map_err(|error| Error::from(error).context("namespace validation"))?;
        Client::connect_with(&self.address, &self.namespace, &options).await
    }
}
