//! The three ways in which daemons ask a shim to start, and how each wants its answer.
//!
//! | daemon | standard input | answer |
//! | --- | --- | --- |
//! | 1.x to 2.2 | nothing, or the runtime options as an `Any` | the bare address |
//! | with `MAX_SHIM_VERSION` of 3 or more | the same | JSON of version, address and protocol |
//! | 2.3 and later | `BootstrapParams` | `BootstrapResult` |
//!
//! COMPAT: 1.6 understands the bare address alone; 1.7 refuses a JSON of version 3, and says
//! nothing that 2.0 would not say as well (both set `MAX_SHIM_VERSION=2`). All of them take the bare
//! address to mean version 2 over ttrpc, which this shim serves beside version 3.

use api_shim::bootstrap::{BootstrapParams, BootstrapResult};
use api_shim::{Any, Message};

/// The version of the task service that this shim prefers.
pub const VERSION: i32 = 3;

/// The answer that a daemon wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The bare address.
    Address,
    /// A JSON object.
    Json,
    /// An encoded `BootstrapResult`.
    Protobuf,
}

/// What a daemon told on standard input.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// How it wants its answer.
    pub dialect: Dialect,
    /// Runtime options and other extensions.
    pub options: Vec<Any>,
    /// The folder for sockets, if told.
    pub socket_dir: Option<String>,
    /// The daemon's ttrpc socket, if told here.
    pub ttrpc_address: Option<String>,
    /// True if it asks for more log.
    pub debug: bool,
}

impl Request {
    /// Reads standard input. `id` and `namespace` are those of the command line, which
    /// `BootstrapParams` repeats: that is how it is told from an `Any`, whose first two fields have
    /// the same shapes.
    #[must_use]
    pub fn read(input: &[u8], id: &str, namespace: &str, max_version: Option<&str>) -> Self {
        if let Ok(params) = BootstrapParams::decode(input)
            && params.instance_id == id
            && params.namespace == namespace
            && !input.is_empty()
        {
            let filled = |text: String| Some(text).filter(|text| !text.is_empty());
            return Request {
                dialect: Dialect::Protobuf,
                options: params.extensions.into_iter().filter_map(|one| one.value).collect(),
                socket_dir: filled(params.socket_dir),
                ttrpc_address: filled(params.containerd_ttrpc_address),
                debug: params.log_level < 0,
            };
        }
        let newest = max_version.and_then(|text| text.parse::<i32>().ok()).unwrap_or(2);
        Request {
            dialect: if newest >= VERSION { Dialect::Json } else { Dialect::Address },
            options: Any::decode(input)
                .ok()
                .filter(|any| !any.type_url.is_empty())
                .into_iter()
                .collect(),
            socket_dir: None,
            ttrpc_address: None,
            debug: false,
        }
    }
}

impl Dialect {
    /// The answer: this shim listens at `address`.
    #[must_use]
    pub fn answer(self, address: &str) -> Vec<u8> {
        match self {
            Dialect::Address => address.as_bytes().to_vec(),
            Dialect::Json => serde_json::json!({
                "version": VERSION, "address": address, "protocol": "ttrpc",
            })
            .to_string()
            .into_bytes(),
            Dialect::Protobuf => BootstrapResult {
                version: VERSION,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_shim::bootstrap::Extension;

    fn options() -> Any {
        api_shim::typeurl::encode(&api_shim::runc::Options {
            shim_cgroup: "/x".to_owned(),
            ..Default::default()
        })
    }

    #[test]
    fn old_daemons_get_the_bare_address() {
        for max_version in [None, Some("2"), Some("garbage")] {
            let request = Request::read(b"", "a", "default", max_version);
            assert_eq!(request.dialect, Dialect::Address);
            assert_eq!(request.options, []);
        }
        let request = Request::read(&options().encode_to_vec(), "a", "default", Some("2"));
        assert_eq!(request.dialect, Dialect::Address);
        assert_eq!(request.options, [options()]);
        assert_eq!(request.dialect.answer("unix:///s"), b"unix:///s");
    }

    #[test]
    fn a_daemon_that_knows_version_3_gets_json() {
        let request = Request::read(b"", "a", "default", Some("3"));
        let answer: serde_json::Value =
            serde_json::from_slice(&request.dialect.answer("unix:///s")).unwrap();
        assert_eq!(answer["version"], 3);
        assert_eq!(answer["address"], "unix:///s");
        assert_eq!(answer["protocol"], "ttrpc");
    }

    #[test]
    fn bootstrap_parameters_get_a_bootstrap_result() {
        let params = BootstrapParams {
            instance_id: "a".to_owned(),
            namespace: "default".to_owned(),
            socket_dir: "/run/x/s".to_owned(),
            extensions: vec![Extension { value: Some(options()) }],
            ..Default::default()
        };
        let request = Request::read(&params.encode_to_vec(), "a", "default", Some("2"));
        assert_eq!(request.dialect, Dialect::Protobuf);
        assert_eq!(request.socket_dir.as_deref(), Some("/run/x/s"));
        assert_eq!(request.options, [options()]);
        let answer = BootstrapResult::decode(&*request.dialect.answer("unix:///s")).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        // Of another instance: not parameters of ours.
        assert_ne!(
            Request::read(&params.encode_to_vec(), "b", "default", None).dialect,
            Dialect::Protobuf
        );
    }
}
