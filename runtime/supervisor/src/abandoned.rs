//! Shims that were started and cannot be called: nobody else would ever end them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use kernel_process::PidFd;
use tokio::time::{Instant, sleep};

use crate::bundle::Bundle;
use crate::supervisor::{Inner, blocking};

/// The pause between two looks at processes that were killed.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

impl Inner {
    /// Kills the shim that was started for `bundle`, if it lives, and waits until it has gone.
    ///
    /// Neither its answer nor its socket says who it is. What does is its working directory: every
    /// shim is started in its bundle, which was made for this start alone. A shim of an earlier
    /// bundle of this name, and one that serves a group from another's bundle, stay as they are.
    pub(crate) async fn end_abandoned(&self, bundle: &Bundle) {
        let deadline = Instant::now() + self.config.timeouts.shim_shutdown;
        loop {
            let ours = bundle.clone();
            let killed = match blocking("shim search", move || kill_started_in(&ours)).await {
                Ok(killed) => killed,
                Err(error) => {
                    tracing::warn!(task = %bundle.object(), %error, "looking for a lost shim");
                    return;
                }
            };
            if killed.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(task = %bundle.object(), ?killed, "a killed shim does not end");
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Kills all shims that were started in the bundle; gives their pids. Blocks on `/proc`.
fn kill_started_in(bundle: &Bundle) -> base_errors::Result<Vec<i32>> {
    let folder = fs::symlink_metadata(&bundle.path)?;
    let mut killed = Vec::new();
    for pid in kernel_process::pids()? {
        let is_ours = || {
            fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == (folder.dev(), folder.ino()))
                && kernel_process::arguments(pid).is_ok_and(|words| is_shim_of(&words, bundle))
        };
        // INVARIANT: asked again once it is opened: the pid cannot be another's any more.
        if is_ours()
            && let Ok(shim) = PidFd::open(pid)
            && is_ours()
        {
            match shim.kill() {
                Ok(()) => killed.push(pid),
                Err(error) => tracing::warn!(pid, %error, "killing a lost shim"),
            }
        }
    }
    Ok(killed)
}

/// True if the arguments are those of a shim for the bundle.
fn is_shim_of(words: &[Vec<u8>], bundle: &Bundle) -> bool {
    let has = |name: &[u8], value: &str| {
        words.windows(2).any(|pair| pair[0] == name && pair[1] == value.as_bytes())
    };
    has(b"-namespace", bundle.namespace.as_str()) && has(b"-id", &bundle.id)
}
