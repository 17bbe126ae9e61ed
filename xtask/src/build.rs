//! Building our three programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{cargo, run, say, target_dir};

/// The variable that tells tests where our programs are.
pub const VARIABLE: &str = "IRONHULL_BIN";

/// Our programs.
pub const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];

/// How to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, for tests.
    Debug,
    /// For use.
    Release,
}

/// Builds the programs; gives the folder that holds them.
///
/// Each one is built by itself, so that the shim links only the features that it asks for.
pub fn programs(profile: Profile) -> Result<PathBuf> {
    say("building containerd, containerd-shim-runc-v2 and ctr");
    for program in PROGRAMS {
        let mut command = cargo();
        command.args(["build", "--package", program]);
        if profile == Profile::Release {
            command.arg("--release");
        }
        run(&mut command)?;
    }
    Ok(target_dir().join(if profile == Profile::Release { "release" } else { "debug" }))
}
