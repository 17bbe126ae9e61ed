//! What filters see of blobs and ingests.

use base_errors::Result;
use base_ident::filter::{Adaptor, Filter, map_field};

use crate::store::{Info, IngestStatus};

/// Parses the filters of a list call.
pub(crate) fn parse(filters: &[String]) -> Result<Filter> {
    Ok(Filter::parse_all(filters)?)
}

/// True if the filter takes the blob.
pub(crate) fn info(filter: &Filter, info: &Info) -> bool {
    filter.matches(&InfoFields(info))
}

/// True if the filter takes the ingest.
pub(crate) fn status(filter: &Filter, status: &IngestStatus) -> bool {
    filter.matches(&StatusFields(status))
}

struct InfoFields<'a>(&'a Info);

impl Adaptor for InfoFields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["digest"] => Some(self.0.digest.to_string()),
            ["size"] => Some(self.0.size.to_string()),
            ["labels", key @ ..] => map_field(&self.0.labels, key),
            _ => None,
        }
    }
}

struct StatusFields<'a>(&'a IngestStatus);

impl Adaptor for StatusFields<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["ref"] => Some(self.0.reference.clone()),
            _ => None,
        }
    }
}
