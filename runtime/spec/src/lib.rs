//! OCI runtime specs, built for clients as containerd's own client builds them.
//!
//! [`SpecBuilder`] starts from the default Linux container and takes changes; [`Spec`] and the types
//! below it are what it builds. [`ImageConfig`] is read from an image's configuration. Users and
//! groups are looked up in the container's own `/etc` by [`User`].
//!
//! Errors: [`SpecError`].
//!
//! Laws: files of a root file system are opened within it, never through its links to the outside.
//! These types build and read alone: a spec that a client gave is passed on byte for byte.

mod builder;
mod capability;
mod device;
mod error;
mod image;
mod seccomp;
mod spec;
mod user;

pub use builder::{SPEC_TYPE_URL, SpecBuilder};
pub use capability::{ALL_CAPABILITIES, DEFAULT_CAPABILITIES, current_capabilities};
pub use error::SpecError;
pub use image::ImageConfig;
pub use seccomp::default_profile;
pub use spec::{
    Capabilities, Cpu, Device, DeviceRule, IdMapping, Linux, Memory, Mount, NamespaceEntry, Pids,
    Process, ProcessUser, Resources, Rlimit, Root, Spec,
};
pub use user::User;
