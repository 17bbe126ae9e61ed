//! Type URLs, as Go's `typeurl` package writes them.
//!
//! COMPAT: a protobuf message in an `Any` is named by its bare full name
//! (`containerd.events.TaskExit`), without a host before it. OCI documents travel as JSON under
//! `types.containerd.io/opencontainers/runtime-spec/1/…`.

use base_errors::{Class, Coded};
use prost::{Message, Name};
use prost_types::Any;

/// OCI runtime spec, JSON.
pub const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// OCI process, JSON.
pub const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// OCI Linux resources, JSON.
pub const LINUX_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// OCI Windows resources, JSON.
pub const WINDOWS_RESOURCES: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources";
/// OCI features of a runtime program, JSON.
pub const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Why an `Any` could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypeUrlError {
    /// The `Any` holds another type.
    #[error("type url {found:?} is not {wanted:?}")]
    WrongType {
        /// What was asked for.
        wanted: String,
        /// What the `Any` says it holds.
        found: String,
    },
    /// The bytes are not a message of that type.
    #[error("decode {wanted:?}")]
    Decode {
        /// The type that was asked for.
        wanted: String,
        /// What prost says.
        source: prost::DecodeError,
    },
    /// The bytes are not JSON of that type.
    #[error("decode json of {found:?}")]
    Json {
        /// What the `Any` says it holds.
        found: String,
        /// What the parser says.
        source: serde_json::Error,
    },
}

impl Coded for TypeUrlError {
    fn class(&self) -> Class {
        match self {
            TypeUrlError::WrongType { .. }
            | TypeUrlError::Decode { .. }
            | TypeUrlError::Json { .. } => Class::InvalidArgument,
        }
    }
}

/// Packs a message under its bare full name.
#[must_use]
pub fn encode<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Packs a JSON document under `url`, which is one of the constants above. The bytes stay as
/// they are.
#[must_use]
pub fn encode_json(url: &str, json: impl Into<Vec<u8>>) -> Any {
    Any { type_url: url.to_owned(), value: json.into() }
}

/// The name that a type URL ends with: all after the last `/`.
#[must_use]
pub fn name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// True if `any` holds an `M`, whatever host stands before the name.
#[must_use]
pub fn is<M: Name>(any: &Any) -> bool {
    let name = name(&any.type_url);
    // Without building the full name: package, dot, name.
    match name.strip_suffix(M::NAME) {
        Some("") => M::PACKAGE.is_empty(),
        Some(package) => package.strip_suffix('.') == Some(M::PACKAGE),
        None => false,
    }
}

/// True if `any` holds the JSON document named `url`, which is one of the constants above.
#[must_use]
pub fn is_json(any: &Any, url: &str) -> bool {
    any.type_url == url
}

/// Unpacks an `M`.
///
/// # Errors
/// [`TypeUrlError::WrongType`] if `any` holds something else, [`TypeUrlError::Decode`] if its
/// bytes are broken.
pub fn decode<M: Message + Name + Default>(any: &Any) -> Result<M, TypeUrlError> {
    if !is::<M>(any) {
        return Err(TypeUrlError::WrongType {
            wanted: M::full_name(),
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice())
        .map_err(|source| TypeUrlError::Decode { wanted: M::full_name(), source })
}

/// Unpacks the JSON document named `url`.
///
/// # Errors
/// [`TypeUrlError::WrongType`] if `any` holds something else, [`TypeUrlError::Json`] if its bytes
/// are broken.
pub fn decode_json<T: serde::de::DeserializeOwned>(
    any: &Any,
    url: &str,
) -> Result<T, TypeUrlError> {
    if !is_json(any, url) {
        return Err(TypeUrlError::WrongType {
            wanted: url.to_owned(),
            found: any.type_url.clone(),
        });
    }
    serde_json::from_slice(&any.value)
        .map_err(|source| TypeUrlError::Json { found: any.type_url.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroups, events, linux_runc, runc, task, types};

    /// The names that Go's `typeurl` writes; a client looks for exactly these.
    #[test]
    fn names_are_bare() {
        let exit = events::TaskExit { container_id: "x".into(), pid: 7, ..Default::default() };
        let any = encode(&exit);
        assert_eq!(any.type_url, "containerd.events.TaskExit");
        assert_eq!(any.value, b"\x0a\x01x\x18\x07");
        assert_eq!(decode::<events::TaskExit>(&any).unwrap(), exit);

        assert_eq!(events::TaskOom::full_name(), "containerd.events.TaskOOM");
        assert_eq!(events::TaskIo::full_name(), "containerd.events.TaskIO");
        assert_eq!(events::ImageCreate::full_name(), "containerd.services.images.v1.ImageCreate");
        assert_eq!(runc::Options::full_name(), "containerd.runc.v1.Options");
        assert_eq!(linux_runc::RuncOptions::full_name(), "containerd.linux.runc.RuncOptions");
        assert_eq!(crate::runtimeoptions::Options::full_name(), "runtimeoptions.v1.Options");
        assert_eq!(cgroups::v1::Metrics::full_name(), "io.containerd.cgroups.v1.Metrics");
        assert_eq!(cgroups::v2::Metrics::full_name(), "io.containerd.cgroups.v2.Metrics");
        assert_eq!(types::RuntimeInfo::full_name(), "containerd.types.RuntimeInfo");
        assert_eq!(task::CreateTaskRequest::full_name(), "containerd.task.v3.CreateTaskRequest");
        assert_eq!(api_ttrpc::Status::full_name(), "google.rpc.Status");
    }

    #[test]
    fn a_host_before_the_name_is_accepted() {
        let mut any = encode(&events::TaskStart { container_id: "x".into(), pid: 1 });
        any.type_url = "type.googleapis.com/containerd.events.TaskStart".into();
        assert!(is::<events::TaskStart>(&any));
        assert_eq!(decode::<events::TaskStart>(&any).unwrap().pid, 1);
    }

    #[test]
    fn another_type_is_refused() {
        let any = encode(&events::TaskStart::default());
        assert!(!is::<events::TaskExecStarted>(&any));
        assert!(!is::<events::TaskExit>(&any));
        let bare = Any { type_url: "TaskStart".into(), value: Vec::new() };
        assert!(!is::<events::TaskStart>(&bare));
        let error = base_errors::Error::from(decode::<events::TaskExit>(&any).unwrap_err());
        assert_eq!(
            error.to_string(),
            "type url \"containerd.events.TaskStart\" is not \"containerd.events.TaskExit\": \
             invalid argument"
        );
        let broken = Any { type_url: events::TaskExit::full_name(), value: vec![0xff, 0xff, 0xff] };
        assert!(matches!(decode::<events::TaskExit>(&broken), Err(TypeUrlError::Decode { .. })));
    }

    #[test]
    fn json_keeps_its_bytes() {
        let any = encode_json(SPEC, br#"{ "ociVersion": "1.0.2", "unknown": 1 }"#.as_slice());
        assert_eq!(any.value, br#"{ "ociVersion": "1.0.2", "unknown": 1 }"#);
        let value: serde_json::Value = decode_json(&any, SPEC).unwrap();
        assert_eq!(value["unknown"], 1);
        assert!(decode_json::<serde_json::Value>(&any, PROCESS).is_err());
    }
}
