//! Containers that are written by CRIU, and go on from there.

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::wait;

use super::{IMAGE, remove};

/// Counts in a file, and tells in another that it was begun.
const COUNTER: &str = "sh -c 'echo begun >> /log; i=0; while :; do i=$((i+1)); echo $i > /count.new; mv /count.new /count; sleep 0.02; done'";

/// The number that the counter has come to.
fn count(host: &DockerHost, name: &str) -> Result<u64> {
    let root = format!("/proc/{}/root", host.pid(name)?);
    Ok(std::fs::read_to_string(format!("{root}/count"))?.trim().parse()?)
}

/// Waits until it is beyond `from`; fails if it was begun anew.
fn beyond(host: &DockerHost, name: &str, from: u64) -> Result<u64> {
    let now = wait::until("the counter to go on", || {
        let now = count(host, name)?;
        ensure!(now > from, "{now}, from {from}");
        Ok(now)
    })?;
    let log = std::fs::read_to_string(format!("/proc/{}/root/log", host.pid(name)?))?;
    ensure!(log == "begun\n", "{log:?} at {now}");
    Ok(now)
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    match crate::checkpoint::criu(steps.host().world()) {
        Ok(None) => {}
        Ok(Some(reason)) => return steps.skip(&reason),
        Err(error) => return steps.step("find CRIU", |_| Err(error)),
    }
    // containerd 1.6 does this at times only.
    steps.step_of_ours("checkpoint create, ls and rm; start --checkpoint", |host| {
        host.docker(&format!("run --detach --name one --network none {IMAGE} {COUNTER}"))?;
        let before = beyond(host, "one", 20)?;
        host.docker("checkpoint create one first")?;
        host.until("one", "{{.State.Status}}", "exited")?;
        ensure!(host.docker("checkpoint ls one")?.contains("first"));
        host.docker("start --checkpoint first one")?;
        let after = beyond(host, "one", before)?;
        // It runs on, if that is wanted.
        host.docker("checkpoint create --leave-running one second")?;
        beyond(host, "one", after)?;
        ensure!(host.inspect("one", "{{.State.Status}}")? == "running");
        let error = host.docker_fails("checkpoint create one second")?;
        ensure!(error.contains("already exists"), "{error}");
        host.docker("checkpoint rm one first")?;
        let left = host.docker("checkpoint ls one")?;
        ensure!(left.contains("second") && !left.contains("first"), "{left}");
        host.docker("stop --time 1 one")?;
        let error = host.docker_fails("start --checkpoint first one")?;
        ensure!(error.contains("first"), "{error}");
        remove(host, "one")
    });
    steps.step("a checkpoint of what does not run", |host| {
        host.docker(&format!("create --name still {IMAGE} true"))?;
        let error = host.docker_fails("checkpoint create still first")?;
        ensure!(error.contains("not running"), "{error}");
        remove(host, "still")
    });
}
