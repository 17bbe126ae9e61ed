//! Validated values: namespace, id, digest, labels, field path, filter language, time texts.
