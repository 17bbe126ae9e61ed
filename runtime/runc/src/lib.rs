//! Create, start, exec, kill, delete, checkpoint through an OCI runtime program.
//!
//! [`OciRuntime`] is the small seam behind which a container is made; [`RuncProgram`] implements
//! it by running any program with runc's command line (runc, crun, youki, a wrapper script).
//! runc itself is not run for what its own files allow to be done: a start without hooks (`gate`),
//! one more process that asks for nothing unusual (`enter`), and the end of a container of which
//! nothing is left (`discard`).
//! [`Reaper`] collects the exit of every child and orphan of this process, exactly once each.
//!
//! Errors: [`Error`]; its texts are those of containerd's own shim, because clients match on them.
//!
//! Laws: a program is started under the reaper's lock, so no exit can come before its owner is
//! known. While an invocation runs that leaves a process behind (create, exec, restore), unknown
//! orphans are left alone, so that the exit of that process waits for [`Reaper::adopt`]. A
//! program has a limit of time ([`Limits`]); one that exceeds it, or whose caller has gone, is
//! killed with everything in its process group.

mod arguments;
mod discard;
mod enter;
mod error;
mod gate;
mod log;
mod program;
mod reaper;
mod runtime;
mod watch;

pub use error::{Error, Result};
pub use program::{Limits, RuncProgram};
pub use reaper::{Adopted, Exit, ExitWatch, Hold, Reaper};
pub use runtime::{
    CheckpointOptions, ContainerState, CreateOptions, ExecOptions, Io, OciRuntime, RestoreOptions,
};
pub use watch::watch;
