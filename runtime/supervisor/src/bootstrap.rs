//! What daemon and shim tell each other when a shim starts, in every dialect.
//!
//! | since | to `start`, on its input | from `start`, on its output |
//! | --- | --- | --- |
//! | 1.2 | options of the runtime as `Any`, or nothing | the address as text |
//! | 1.7 | the same | JSON `{"version":3,"address":"unix:///…","protocol":"ttrpc"}`, or text |
//! | 2.3 | message `BootstrapParams` | message `BootstrapResult`, or one of the above |

use std::collections::BTreeMap;

use api_shim::bootstrap::{BootstrapParams, BootstrapResult, Extension, LogLevel};
use api_shim::{Any, Message};
use serde::{Deserialize, Serialize};

use crate::{Config, ShimError};

/// The task services that are spoken here.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// How a shim can be reached; as JSON the content of `bootstrap.json` in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    /// Version of the task service.
    pub(crate) version: u32,
    /// Where the shim listens.
    pub(crate) address: String,
    /// `ttrpc` or `grpc`.
    #[serde(default)]
    pub(crate) protocol: String,
    /// Kept for containerd, not used here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) capabilities: Vec<i32>,
    /// Kept for containerd, not used here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Bootstrap {
    /// The shim of version 2 that answered, or recorded, an address alone.
    pub(crate) fn legacy(address: &str) -> Self {
        Bootstrap::new(2, address, "ttrpc")
    }

    /// A shim at `address`.
    pub(crate) fn new(version: u32, address: &str, protocol: &str) -> Self {
        let (address, protocol) = (address.to_owned(), protocol.to_owned());
        let (capabilities, metadata) = (Vec::new(), BTreeMap::new());
        Bootstrap { version, address, protocol, capabilities, metadata }
    }

    /// Reads what `start` wrote.
    pub(crate) fn parse(output: &[u8]) -> Result<Self, ShimError> {
        let trimmed = output.trim_ascii();
        let unreadable = |reason: String| ShimError::Answer { command: "start", reason };
        if trimmed.is_empty() {
            return Err(unreadable("nothing".to_owned()));
        }
        if trimmed.starts_with(b"{") {
            return Self::parse_json(trimmed)
                .map_err(|error| unreadable(error.to_string()))?
                .checked();
        }
        // No address begins with the first byte of the message: the key of field one.
        if output.starts_with(&[8]) {
            let result =
                BootstrapResult::decode(output).map_err(|error| unreadable(error.to_string()))?;
            let version = u32::try_from(result.version).unwrap_or(0);
            let mut bootstrap = Bootstrap::new(version, &result.address, &result.protocol);
            bootstrap.capabilities = result.capabilities;
            bootstrap.metadata = result.metadata.into_iter().collect();
            return bootstrap.checked();
        }
        match std::str::from_utf8(trimmed) {
            Ok(address) if !address.contains(char::is_whitespace) => {
                Bootstrap::legacy(address).checked()
            }
            _ => Err(unreadable(String::from_utf8_lossy(trimmed).into_owned())),
        }
    }

    /// Reads `bootstrap.json`, or a shim's answer in JSON.
    pub(crate) fn parse_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The content of `bootstrap.json`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // A struct of plain values always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks what the rest relies on, and fills in the usual protocol.
    pub(crate) fn checked(mut self) -> Result<Self, ShimError> {
        if !VERSIONS.contains(&self.version) {
            let value = self.version.to_string();
            return Err(ShimError::Unsupported { what: "version", value });
        }
        if self.protocol.is_empty() {
            "ttrpc".clone_into(&mut self.protocol);
        }
        if self.address.is_empty() {
            let reason = "no address".to_owned();
            return Err(ShimError::Answer { command: "start", reason });
        }
        Ok(self)
    }
}

/// What a shim program reads on its input at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The options of the runtime, as `Any`; nothing if there are none.
    Options,
    /// A `BootstrapParams` message.
    Params,
}

impl Dialect {
    /// The dialect of the program that answered `answer` when asked for its version.
    ///
    /// Programs that do not name a version of containerd are by others, and those read the options.
    pub(crate) fn of_version(answer: &str) -> Self {
        let version = answer.lines().find_map(|line| line.trim().strip_prefix("Version:"));
        let mut numbers = version
            .map(|version| version.trim().trim_start_matches('v'))
            .unwrap_or_default()
            .split(['.', '-', '+', '~'])
            .map_while(|part| part.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) if (major, minor) >= (2, 3) => Dialect::Params,
            _ => Dialect::Options,
        }
    }

    /// The bytes for the input of `start`.
    pub(crate) fn input(
        self,
        config: &Config,
        namespace: &str,
        id: &str,
        options: Option<&Any>,
    ) -> Vec<u8> {
        match self {
            Dialect::Options => options.map(Any::encode_to_vec).unwrap_or_default(),
            Dialect::Params => {
                let level = if config.debug { LogLevel::Debug } else { LogLevel::Info };
                let extension = |options: &Any| Extension { value: Some(options.clone()) };
                BootstrapParams {
                    instance_id: id.to_owned(),
                    namespace: namespace.to_owned(),
                    log_level: level.into(),
                    containerd_version: config.containerd_version.clone(),
                    containerd_ttrpc_address: config.ttrpc_address.clone(),
                    containerd_grpc_address: config.grpc_address.clone(),
                    containerd_binary: config.containerd_binary.display().to_string(),
                    extensions: options.map(extension).into_iter().collect(),
                    socket_dir: config.socket_dir.clone(),
                }
                .encode_to_vec()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_of_answers_is_read() {
        let text = Bootstrap::parse(b"unix:///run/containerd/s/abc\n").unwrap();
        assert_eq!(text, Bootstrap::new(2, "unix:///run/containerd/s/abc", "ttrpc"));
        let json = br#"{"version":3,"address":"unix:///s/a","protocol":"ttrpc"}"#;
        assert_eq!(Bootstrap::parse(json).unwrap(), Bootstrap::new(3, "unix:///s/a", "ttrpc"));
        let message = BootstrapResult {
            version: 3,
            address: "unix:///s/b".to_owned(),
            protocol: "grpc".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            Bootstrap::parse(&message.encode_to_vec()).unwrap(),
            Bootstrap::new(3, "unix:///s/b", "grpc")
        );
    }

    #[test]
    fn bad_answers_are_refused() {
        let text = |output: &[u8]| Bootstrap::parse(output).unwrap_err().to_string();
        assert_eq!(text(b" \n"), "start: unreadable answer: nothing");
        assert_eq!(text(b"two words"), "start: unreadable answer: two words");
        assert!(text(b"{\"version\":3}").contains("missing field `address`"));
        assert_eq!(
            text(br#"{"version":4,"address":"unix:///s"}"#),
            "unsupported shim version \"4\""
        );
        assert!(text(&[8, 3]).contains("no address"));
        assert!(text(&[8]).contains("unreadable"));
    }

    #[test]
    fn the_file_keeps_what_it_does_not_use() {
        let json =
            br#"{"version":3,"address":"unix:///s","protocol":"ttrpc","metadata":{"a":"b"}}"#;
        let read = Bootstrap::parse_json(json).unwrap();
        assert_eq!(read.to_json(), json);
    }

    #[test]
    fn the_version_tells_the_dialect() {
        let answer = |version: &str| {
            Dialect::of_version(&format!("containerd-shim-runc-v2:\n  Version:  {version}\n  Go\n"))
        };
        for old in ["1.6.20~ds1", "v1.7.29", "2.2.1", "v2.0.0-rc.1", "", "unknown"] {
            assert_eq!(answer(old), Dialect::Options, "{old}");
        }
        for new in ["2.3.4", "v2.3.0-beta.1", "v3.0.0", "2.10.1"] {
            assert_eq!(answer(new), Dialect::Params, "{new}");
        }
        assert_eq!(Dialect::of_version("kata 3.2.0"), Dialect::Options);
    }

    #[test]
    fn options_travel_in_both_dialects() {
        let config = Config::new("/r", "/s", "/g.sock", "/t.sock");
        let options = Any { type_url: "x.Options".to_owned(), value: vec![1] };
        assert!(Dialect::Options.input(&config, "ns", "id", None).is_empty());
        let bytes = Dialect::Options.input(&config, "ns", "id", Some(&options));
        assert_eq!(Any::decode(&*bytes).unwrap(), options);
        let bytes = Dialect::Params.input(&config, "ns", "id", Some(&options));
        let params = BootstrapParams::decode(&*bytes).unwrap();
        assert_eq!((params.instance_id.as_str(), params.namespace.as_str()), ("id", "ns"));
        assert_eq!(params.extensions[0].value, Some(options));
    }
}
