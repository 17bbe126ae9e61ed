//! The commands of `ctr`, both versions, unmodified.

mod content;
mod events;
mod images;
mod records;
mod run;
mod snapshots;
mod specs;
mod tasks;
mod version;

pub(crate) use events::told_of_a_run;
