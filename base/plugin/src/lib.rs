//! Plugin registrations, the typed dependency graph and its phases; a failed plugin is recorded and
//! skipped.
//!
//! A plugin is a [`Registration`]: type, id, the types that it requires, and how to initialise it.
//! [`Graph::start`] puts registrations after what they require, initialises them in that order and
//! records the outcome of each as [`Outcome`]. Laws: registration has no side effects; a
//! plugin sees only instances of types that it has declared; a plugin that fails or skips takes
//! nothing else down, except those that cannot do without it.

mod graph;
mod registration;
pub mod types;

pub use graph::{Graph, Loaded, Outcome, Plugins};
pub use registration::{InitContext, PluginError, Registration};
