//! One test per rule of the API: names and texts are those that clients see.

mod containers;
mod content;
mod images;
mod leases;
mod namespaces;
mod snapshots;
