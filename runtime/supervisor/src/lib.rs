//! The daemon's side of tasks: one owner of all task state, above the shims.
//!
//! [`Supervisor`] creates, starts, watches and deletes tasks through their shims, and adopts the
//! shims that live already when the daemon starts. Requests are plain structs ([`CreateTask`],
//! [`ExecTask`]); answers are [`Exit`] and the messages of `api_shim`. [`Config`] holds the folders,
//! addresses and time limits; [`Containers`] is all it asks about container records.
//! [`Operation`]s in flight can be listed. [`restart`] starts containers again as their labels ask.
//!
//! Errors: [`TaskError`], [`BundleError`] and [`ShimError`] inside, [`base_errors::Error`] outside.
//! Answers of shims pass through with their class and text.
//!
//! Laws: no lock is held while a shim, a process or the file system is waited for. Each call has a
//! name and a deadline. Starts are queued, a bounded number runs at once, and one that takes too
//! long gives its place away. A shim that hangs costs its own task alone. Events of shims are hints:
//! what is true is what the shim answers, or, when it is dead, what its `delete` command says.
//! A running container is never killed on doubt.

mod abandoned;
mod adopt;
mod bootstrap;
mod bundle;
mod calls;
mod checkpoint;
mod config;
mod connection;
mod create;
mod delete;
mod error;
mod event;
mod metrics;
mod operation;
mod program;
mod reconcile;
mod resolve;
pub mod restart;
mod shim_log;
mod slots;
mod supervisor;
mod task;

pub use adopt::Adoption;
pub use calls::ExecTask;
pub use checkpoint::Unpack;
pub use config::{Config, RUNTIME_PLUGIN, Timeouts};
pub use create::CreateTask;
pub use error::{BundleError, ShimError, TaskError};
pub use operation::{Operation, Starts};
pub use supervisor::{Containers, NoContainers, Runtime, Supervisor};
pub use task::Exit;
