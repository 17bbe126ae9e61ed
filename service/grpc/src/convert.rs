//! Messages to values and back, where more than one service needs it.

use std::time::SystemTime;

use api_shim::types;
use base_ident::{Descriptor, Digest};
use kernel_mount::Mount;
use prost_types::{FieldMask, Timestamp};
use tonic::Status;

/// An error as a status.
pub(crate) fn status(error: impl Into<base_errors::Error>) -> Status {
    api_grpc::status::to_status(error.into())
}

/// A time as a message.
pub(crate) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

/// A time from a message; none if it is absent or out of range.
pub(crate) fn time(timestamp: Option<Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| SystemTime::try_from(timestamp).ok())
}

/// The paths of a field mask, none if there is no mask.
pub(crate) fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.map(|mask| mask.paths).unwrap_or_default()
}

/// A size as the wire has it.
pub(crate) fn size(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A size from the wire, where negative ones mean none.
pub(crate) fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

/// A digest from the wire: InvalidArgument if it is none.
pub(crate) fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text)
        .map_err(|error| status(base_errors::Error::from(error).context(format!("{text:?}"))))
}

/// An optional digest from the wire.
pub(crate) fn optional_digest(text: &str) -> Result<Option<Digest>, Status> {
    if text.is_empty() { Ok(None) } else { digest(text).map(Some) }
}

/// A descriptor from the wire.
pub(crate) fn descriptor(message: types::Descriptor) -> Result<Descriptor, Status> {
    Ok(Descriptor {
        digest: digest(&message.digest)?,
        size: unsigned(message.size),
        media_type: message.media_type,
        annotations: message.annotations,
    })
}

/// A descriptor as a message.
pub(crate) fn descriptor_message(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        digest: descriptor.digest.as_str().to_owned(),
        size: size(descriptor.size),
        media_type: descriptor.media_type,
        annotations: descriptor.annotations,
    }
}

/// Mounts from the wire.
pub(crate) fn mounts(messages: Vec<types::Mount>) -> Vec<Mount> {
    messages
        .into_iter()
        .map(|mount| Mount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

/// Mounts as messages.
pub(crate) fn mount_messages(mounts: Vec<Mount>) -> Vec<types::Mount> {
    mounts
        .into_iter()
        .map(|mount| types::Mount {
            r#type: mount.kind,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect()
}

/// A required part of a request.
pub(crate) fn required<T>(part: Option<T>, name: &str) -> Result<T, Status> {
    part.ok_or_else(|| status(base_errors::Error::invalid_argument(format!("{name} is required"))))
}
