//! Daemons and shims that are killed while containers run.

use anyhow::{Context, Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::{process, wait};
use rustix::process::Signal;

use super::{IMAGE, remove};

/// A container that counts into its log, ends with 9 at SIGTERM, and with 5 when `/go` is there.
fn start_counter(host: &DockerHost, name: &str) -> Result<i32> {
    let script = "trap \"exit 9\" TERM; n=0; while ! test -e /go; do n=$((n + 1)); \
                  echo count $n; sleep 0.05; done; exit 5";
    host.docker(&format!("run --detach --name {name} {IMAGE} sh -c '{script}'"))?;
    until_counted(host, name, 1)?;
    host.pid(name)
}

/// Waits until a counter has counted to `number`; all numbers must be in the log.
fn until_counted(host: &DockerHost, name: &str, number: usize) -> Result<usize> {
    wait::until(&format!("the log of {name} to go on"), || {
        let shown = host.docker(&format!("logs {name}"))?;
        for (at, line) in (1..).zip(shown.lines()) {
            ensure!(line == format!("count {at}"), "line {at} is {line:?}");
        }
        let count = shown.lines().count();
        ensure!(count >= number, "{count}");
        Ok(count)
    })
}

/// Makes the first process of a container end without any daemon's help.
fn let_end(pid: i32) -> Result<()> {
    std::fs::write(format!("/proc/{pid}/root/go"), "")?;
    wait::until("the process to end", || {
        ensure!(!process::runs(pid));
        Ok(())
    })
}

/// The container works as before: exec, stats, logs.
fn works(host: &DockerHost, name: &str, pid: i32) -> Result<()> {
    let what = format!("{name} to be known again");
    wait::until(&what, || {
        ensure!(host.docker(&format!("exec {name} echo here"))? == "here\n");
        Ok(())
    })?;
    ensure!(host.pid(name)? == pid);
    let shown = host.docker(&format!("stats --no-stream --format '{{{{.PIDs}}}}' {name}"))?;
    ensure!(shown.trim().parse::<u32>()? >= 1, "{shown}");
    let count = until_counted(host, name, 1)?;
    until_counted(host, name, count + 2).map(drop)
}

/// Waits until new containers can be run: a daemon that was started again is found again.
fn until_runs(host: &DockerHost) -> Result<()> {
    wait::until("a new container to run", || {
        ensure!(host.docker(&format!("run --rm {IMAGE} echo new"))? == "new\n");
        Ok(())
    })
}

/// Removes what Docker forgets if the daemon dies between its calls: a task that it did not come
/// to start, its record, and the folder of its streams.
fn remove_forgotten(host: &DockerHost) -> Result<()> {
    for id in host.world().ctr("tasks ls -q")?.lines() {
        host.world().ctr(&format!("tasks rm --force {id}"))?;
    }
    for id in host.world().ctr("containers ls -q")?.lines() {
        host.world().ctr(&format!("containers rm {id}"))?;
    }
    for folder in host.streams() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// The state of a container when all is told.
fn until_exited(host: &DockerHost, name: &str, status: &str) -> Result<()> {
    let wanted = format!("exited {status}");
    host.until(name, "{{.State.Status}} {{.State.ExitCode}}", &wanted)
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    dockerd(steps);
    daemon(steps);
    shim(steps);
}

fn dockerd(steps: &mut Steps<'_>) {
    steps.step("SIGKILL of dockerd: a container stays", |host| {
        let pid = start_counter(host, "one")?;
        let other = start_counter(host, "two")?;
        host.kill_dockerd()?;
        ensure!(process::runs(pid));
        let_end(other)?;
        host.start_dockerd()?;
        works(host, "one", pid)
    });
    steps.step("SIGKILL of dockerd: an exit in its absence is told", |host| {
        until_exited(host, "two", "5")?;
        remove(host, "two")
    });
    steps.step("SIGKILL of dockerd: stop works after it", |host| {
        host.docker("stop one")?;
        until_exited(host, "one", "9")?;
        remove(host, "one")
    });
}

/// Docker lives on events. containerd's shims send those that nobody took again, at most five times,
/// and its daemon passes them on to those who listen already: an exit may be lost to Docker, which
/// takes some seconds to come back. It also leaves a shim behind now and then.
fn daemon(steps: &mut Steps<'_>) {
    steps.step("SIGKILL of the daemon: dockerd finds the next one", |host| {
        let pid = start_counter(host, "one")?;
        host.world().kill_daemon()?;
        ensure!(process::runs(pid));
        let seen = host.inspect("one", "{{.State.Status}}")?;
        ensure!(seen == "running", "{seen}");
        host.world().start()?;
        until_runs(host)?;
        works(host, "one", pid)?;
        host.docker("stop one")?;
        until_exited(host, "one", "9")?;
        remove(host, "one")
    });
    steps.step_of_ours("SIGKILL of the daemon: an exit in its absence is told", |host| {
        let pid = start_counter(host, "one")?;
        host.world().kill_daemon()?;
        let_end(pid)?;
        host.world().start()?;
        until_runs(host)?;
        until_exited(host, "one", "5")?;
        remove(host, "one")
    });
    steps.step("the daemon is restarted as administrators do", |host| {
        let pid = start_counter(host, "one")?;
        let mut waiting = host.start_docker("wait one")?;
        ensure!(host.world().stop_daemon()? == 0);
        host.world().start()?;
        until_runs(host)?;
        works(host, "one", pid)?;
        ensure!(waiting.ended()?.is_none());
        let_end(pid)?;
        let output = waiting.wait()?;
        ensure!(output.stdout == "5\n", "{output}");
        remove(host, "one")
    });
    steps.step_of_ours("both daemons are killed", |host| {
        let pid = start_counter(host, "one")?;
        let other = start_counter(host, "two")?;
        host.kill_dockerd()?;
        host.world().kill_daemon()?;
        let_end(other)?;
        host.world().start()?;
        host.start_dockerd()?;
        works(host, "one", pid)?;
        until_exited(host, "two", "5")?;
        remove(host, "one")?;
        remove(host, "two")
    });
    steps.step("SIGKILL of the daemon at a docker run", |host| {
        for round in 0..4_u32 {
            let name = format!("k{round}");
            let client = host.start_docker(&format!("run --name {name} {IMAGE} echo x"))?;
            // Not a proof, only another moment each time.
            std::thread::sleep(std::time::Duration::from_millis(100 + u64::from(round) * 60));
            host.world().kill_daemon()?;
            host.world().start()?;
            let _ = client.wait()?;
            until_runs(host)?;
            wait::until("the container to be removed", || remove(host, &name))
                .with_context(|| format!("round {round}"))?;
        }
        remove_forgotten(host)
    });
}

fn shim(steps: &mut Steps<'_>) {
    steps.step_of_ours("SIGKILL of a shim", |host| {
        let pid = start_counter(host, "one")?;
        let shims = host.world().shims();
        ensure!(shims.len() == 1, "{shims:?}");
        process::signal(shims[0], Signal::KILL)?;
        until_exited(host, "one", "137")?;
        wait::until("the process to end", || {
            ensure!(!process::runs(pid));
            Ok(())
        })?;
        host.docker("start one")?;
        host.docker("stop one")?;
        remove(host, "one")
    });
}
