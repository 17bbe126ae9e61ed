//! Resources: limits at the start, later changes, and what happens at a limit.

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::{process, wait};

use super::{IMAGE, remove};

/// Files of both versions of control groups.
const MEMORY: &[&str] = &["memory.limit_in_bytes", "memory.max"];
const PIDS: &[&str] = &["pids.max"];
const QUOTA: &[&str] = &["cpu.cfs_quota_us", "cpu.max"];

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    if !process::has_memory_controller() {
        return steps.skip("no memory controller on this machine");
    }
    steps.step("--memory, --pids-limit and --cpus", |host| {
        let options = "--detach --name limited --memory 48m --pids-limit 20 --cpus 0.5";
        host.docker(&format!("run {options} {IMAGE} sleep 1000"))?;
        let memory = host.cgroup("limited", MEMORY)?;
        ensure!(memory == (48 << 20).to_string(), "{memory}");
        ensure!(host.cgroup("limited", PIDS)? == "20");
        let quota = host.cgroup("limited", QUOTA)?;
        ensure!(quota.starts_with("50000"), "{quota}");
        let shown = host.docker("stats --no-stream --format '{{.MemUsage}}' limited")?;
        ensure!(shown.contains("/ 48MiB"), "{shown}");
        Ok(())
    });
    steps.step("update", |host| {
        host.docker("update --memory 64m --memory-swap 64m --pids-limit 30 --cpus 0.25 limited")?;
        let memory = host.cgroup("limited", MEMORY)?;
        ensure!(memory == (64 << 20).to_string(), "{memory}");
        ensure!(host.cgroup("limited", PIDS)? == "30");
        let quota = host.cgroup("limited", QUOTA)?;
        ensure!(quota.starts_with("25000"), "{quota}");
        remove(host, "limited")
    });
    steps.step("--pids-limit holds", |host| {
        let script = "for n in $(seq 30); do sleep 1000 & done";
        let line = format!("run --rm --pids-limit 10 {IMAGE} sh -c '{script}'");
        let output = host.try_docker(&line)?;
        ensure!(output.status != 0 && output.stderr.contains("fork"), "{output}");
        Ok(())
    });
    steps.step("the first process needs too much memory", |host| {
        out_of_memory(host, "dd if=/dev/zero of=/dev/null bs=100M count=1", "137")
    });
    steps.step("another process needs too much memory", |host| {
        out_of_memory(host, "sh -c 'dd if=/dev/zero of=/dev/null bs=100M count=1; exit 3'", "3")
    });
}

/// A container that is out of memory and ends with `status` is told as such.
fn out_of_memory(host: &DockerHost, command: &str, status: &str) -> Result<()> {
    let options = "--name oom --memory 32m --memory-swap 32m";
    let output = host.try_docker(&format!("run {options} {IMAGE} {command}"))?;
    ensure!(output.status.to_string() == status, "{output}");
    ensure!(host.inspect("oom", "{{.State.ExitCode}}")? == status);
    // Of containerd's daemon the flag is a race: it tells the exit before the reason at times.
    if host.world().is_ours() {
        let flag = host.inspect("oom", "{{.State.OOMKilled}}")?;
        ensure!(flag == "true", "OOMKilled is {flag}");
        // The end of the time is taken in whole seconds.
        let line = "events --since 10m --until 0s --filter container=oom --format '{{.Action}}'";
        let events = wait::until("the event of the end", || {
            let events = host.docker(line)?;
            ensure!(events.contains("die"), "{events}");
            Ok(events)
        })?;
        let at = |name: &str| events.lines().position(|line| line == name);
        ensure!(at("oom").is_some() && at("oom") < at("die"), "{events}");
    }
    remove(host, "oom")
}
