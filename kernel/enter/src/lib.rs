//! One more process in a container that runs.
//!
//! An [`Order`] says which container and which process. Who has orders opens a [`Door`] once, which
//! is this program itself on a read-only mount that nobody else sees, and runs [`Door::command`]
//! for each: that program calls [`carry_out`], joins the container's namespaces, makes a child in
//! its control groups and waits until the child has become the user's program.
//!
//! Errors: whatever goes wrong before the user's program runs ends the try with [`Declined`] in the
//! place of the order, and leaves nothing in the container. Nothing is explained to users here: who
//! gave the order has an OCI runtime that does the same and finds the words.
//!
//! Laws:
//! - Nobody in the container gets hold of the program of the machine: the helper cannot be traced or
//!   looked at from inside (it is not dumpable), and the file behind its `/proc/<pid>/exe` is on a
//!   read-only mount.
//! - Nothing of the outside goes in but the standard streams: every other descriptor is closed before
//!   the first path of the container is looked at, and the working folder must be below its root.
//! - Paths of the outside are opened before the namespaces are joined, paths of the container after;
//!   nothing in the container's `/proc` is asked.
//! - The identity is taken in the order of least power: limits, keyring, bounding set, groups, user,
//!   then the capabilities that remain.

#![allow(unsafe_code)]

mod door;
mod helper;
mod identity;
mod order;
mod program;

use std::fmt;

pub use door::{Door, Ordered};
pub use helper::carry_out;
pub use order::{Capabilities, Limit, Order};

/// The argument by which the program is asked to carry out an order.
pub const ARGUMENT: &str = "enter";

/// Why an order was not carried out: the step and the system's word for it.
#[derive(Debug)]
pub struct Declined(String);

impl Declined {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Declined(reason.into())
    }

    /// For `map_err`: the step that failed.
    pub(crate) fn at<E: fmt::Display>(step: &str) -> impl FnOnce(E) -> Self {
        move |error| Declined(format!("{step}: {error}"))
    }
}

impl fmt::Display for Declined {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
