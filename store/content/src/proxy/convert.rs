//! Messages of the content service to our types and back.

use std::time::SystemTime;

use api_grpc::content;
use base_errors::{Error, Result};
use base_ident::Digest;
use prost_types::{FieldMask, Timestamp};

use crate::store::{Info, IngestStatus, UpdateField};

/// A time on the wire; one that no clock can show becomes the epoch.
pub(super) fn time_from(time: Option<Timestamp>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A size on the wire.
pub(super) fn size_from(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(|_| Error::internal(format!("content service sent size {size}")))
}

/// A size for the wire.
pub(super) fn size_to(size: u64) -> Result<i64> {
    i64::try_from(size).map_err(|_| Error::invalid_argument(format!("size {size}")))
}

pub(super) fn info_from(info: content::Info) -> Result<Info> {
    Ok(Info {
        digest: Digest::parse(&info.digest)?,
        size: size_from(info.size)?,
        created_at: time_from(info.created_at),
        updated_at: time_from(info.updated_at),
        labels: info.labels,
    })
}

pub(super) fn info_to(info: &Info) -> content::Info {
    content::Info {
        digest: info.digest.to_string(),
        size: i64::try_from(info.size).unwrap_or(i64::MAX),
        created_at: Some(info.created_at.into()),
        updated_at: Some(info.updated_at.into()),
        labels: info.labels.clone(),
    }
}

pub(super) fn status_from(status: content::Status) -> Result<IngestStatus> {
    let expected = match status.expected.as_str() {
        "" => None,
        text => Some(Digest::parse(text)?),
    };
    Ok(IngestStatus {
        reference: status.r#ref,
        offset: size_from(status.offset)?,
        total: size_from(status.total)?,
        expected,
        started_at: time_from(status.started_at),
        updated_at: time_from(status.updated_at),
    })
}

/// No mask for no fields: all labels are replaced.
pub(super) fn mask(fields: &[UpdateField]) -> Option<FieldMask> {
    let paths: Vec<String> = fields
        .iter()
        .map(|field| match field {
            UpdateField::Labels => "labels".to_owned(),
            UpdateField::Label(key) => format!("labels.{key}"),
        })
        .collect();
    (!paths.is_empty()).then_some(FieldMask { paths })
}
