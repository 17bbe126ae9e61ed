//! Operations on one host, each with its name.

use std::time::Instant;

use anyhow::{Result, bail};

use super::DockerHost;

/// Runs operations one after the other. One that fails does not keep the others from running: a
/// start of both daemons is dear, and a list of all failures says more than the first.
#[derive(Debug)]
pub struct Steps<'a> {
    host: &'a DockerHost,
    done: usize,
    failures: Vec<String>,
}

impl<'a> Steps<'a> {
    /// Operations on `host`.
    #[must_use]
    pub fn new(host: &'a DockerHost) -> Steps<'a> {
        Steps { host, done: 0, failures: Vec::new() }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &'a DockerHost {
        self.host
    }

    /// Tells why operations are not done.
    #[expect(clippy::print_stdout, reason = "what a test tells")]
    pub fn skip(&self, reason: &str) {
        println!("skipped: {reason}");
    }

    /// Does one operation. Containers that it made are its own to remove; if it fails they are
    /// removed for it.
    #[expect(clippy::print_stdout, reason = "what a test tells")]
    pub fn step(&mut self, name: &str, body: impl FnOnce(&DockerHost) -> Result<()>) {
        let begin = Instant::now();
        let outcome = body(self.host);
        let word = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("{word} {name} ({} ms)", begin.elapsed().as_millis());
        self.done += 1;
        if let Err(error) = outcome {
            println!("{error:#}");
            self.failures.push(format!("{name}: {error:#}"));
            let all = self.host.docker("ps --all --quiet").unwrap_or_default();
            for id in all.split_whitespace() {
                let _ = self.host.try_docker(&format!("rm --force --volumes {id}"));
            }
        }
    }

    /// Does an operation at which containerd's daemon fails at times, or always. With that daemon a
    /// failure is told and does not count; with ours it does.
    pub fn step_of_ours(&mut self, name: &str, body: impl FnOnce(&DockerHost) -> Result<()>) {
        self.step(name, body);
        if !self.host.world().is_ours() {
            let start = format!("{name}: ");
            self.failures.retain(|failure| !failure.starts_with(&start));
        }
    }

    /// Fails if an operation has failed.
    ///
    /// # Errors
    ///
    /// The text has all failures.
    pub fn finish(self) -> Result<()> {
        let Steps { failures, done, .. } = self;
        if failures.is_empty() {
            return Ok(());
        }
        bail!("{} of {done} operations failed\n{}", failures.len(), failures.join("\n\n"))
    }
}
