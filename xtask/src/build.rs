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
    /// Quickly, to try them out.
    Debug,
    /// With the whole workspace, as `cargo test` does: what it compiles is shared.
    Test,
    /// For use: each program by itself, so that it links only the features that it asks for.
    Release,
}

/// Builds the programs; gives the folder that holds them.
pub fn programs(profile: Profile) -> Result<PathBuf> {
    say("building containerd, containerd-shim-runc-v2 and ctr");
    match profile {
        Profile::Debug => {
            let mut command = cargo();
            command.arg("build").args(PROGRAMS.map(|program| format!("--package={program}")));
            run(&mut command)?;
        }
        Profile::Test => run(cargo().args(["build", "--workspace", "--bins", "--exclude=xtask"]))?,
        Profile::Release => {
            for program in PROGRAMS {
                run(cargo().args(["build", "--release", "--package", program]))?;
            }
        }
    }
    Ok(target_dir().join(if profile == Profile::Release { "release" } else { "debug" }))
}
