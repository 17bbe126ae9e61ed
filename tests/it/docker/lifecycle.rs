//! What happens to containers: stopped, killed, paused, renamed, started again.

use std::io::Write as _;

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::{Running, process, wait};
use rustix::process::Signal;

use super::{IMAGE, remove};

/// A container that says `ready`, `usr1` at that signal, and ends with 9 at SIGTERM.
fn start_listener(host: &DockerHost, name: &str) -> Result<()> {
    let script = "trap \"exit 9\" TERM; trap \"echo usr1\" USR1; echo ready; \
                  while :; do sleep 0.05; done";
    host.docker(&format!("run --detach --name {name} {IMAGE} sh -c '{script}'"))?;
    until_logged(host, name, "ready")
}

/// Waits until the logs of a container have `text`.
fn until_logged(host: &DockerHost, name: &str, text: &str) -> Result<()> {
    wait::until(&format!("{text:?} in the logs of {name}"), || {
        let shown = host.docker(&format!("logs {name}"))?;
        ensure!(shown.contains(text), "{shown}");
        Ok(())
    })
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    ends(steps);
    changes(steps);
    policies(steps);
}

fn ends(steps: &mut Steps<'_>) {
    steps.step("stop, which the program hears", |host| {
        start_listener(host, "listener")?;
        host.docker("stop listener")?;
        let seen =
            host.inspect("listener", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}")?;
        ensure!(seen == "exited 9 0", "{seen}");
        Ok(())
    });
    steps.step("start again, with its files", |host| {
        host.docker("start listener")?;
        host.docker("exec listener touch /stays")?;
        host.docker("restart listener")?;
        host.docker("exec listener test -e /stays")?;
        let seen = host.inspect("listener", "{{.State.Status}} {{.RestartCount}}")?;
        ensure!(seen == "running 0", "{seen}");
        Ok(())
    });
    steps.step("kill --signal", |host| {
        until_logged(host, "listener", "ready\nready\nready\n")?;
        host.docker("kill --signal USR1 listener")?;
        until_logged(host, "listener", "usr1")?;
        host.docker("kill listener")?;
        host.until(
            "listener",
            "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}",
            "exited 137 false",
        )?;
        let error = host.docker_fails("kill listener")?;
        ensure!(error.contains("is not running"), "{error}");
        remove(host, "listener")
    });
    steps.step("stop, which the program does not hear", |host| {
        host.docker(&format!("run --detach --name deaf {IMAGE} sleep 1000"))?;
        let pid = host.pid("deaf")?;
        host.docker("stop --time 1 deaf")?;
        ensure!(host.inspect("deaf", "{{.State.ExitCode}}")? == "137");
        ensure!(!process::runs(pid));
        remove(host, "deaf")
    });
    steps.step("wait", |host| {
        let script = "while ! test -e /go; do sleep 0.05; done; exit 5";
        host.docker(&format!("run --detach --name waited {IMAGE} sh -c '{script}'"))?;
        let waiting = host.start_docker("wait waited")?;
        host.docker("exec waited touch /go")?;
        let output = waiting.wait()?;
        ensure!(output.stdout == "5\n", "{output}");
        ensure!(host.docker("wait waited")? == "5\n");
        remove(host, "waited")
    });
    steps.step("attach", |host| {
        let script = "head -n 1; while ! test -e /go; do sleep 0.05; done; exit 6";
        let options = "--detach --interactive --name attached";
        host.docker(&format!("run {options} {IMAGE} sh -c '{script}'"))?;
        // An input that stays open: at its end Docker would give up the outputs as well.
        let (side, mut input) = std::io::pipe()?;
        let mut command = host.docker_command("attach attached")?;
        command.stdin(side);
        let mut attached = Running::start(command, &host.world().path("files"))?;
        input.write_all(b"to the first process\n")?;
        attached.until_stdout("to the first process\n")?;
        host.docker("exec attached touch /go")?;
        let output = attached.wait()?;
        ensure!(output.status == 6 && output.stdout == "to the first process\n", "{output}");
        remove(host, "attached")
    });
    steps.step("attach at a terminal, leave it, attach again", |host| {
        host.docker(&format!("run --detach --interactive --tty --name attached {IMAGE} sh"))?;
        let mut terminal = host.docker_at_terminal("attach attached")?;
        terminal.type_in("echo one-$((1 + 1))\n")?;
        terminal.until_shown("one-2")?;
        terminal.type_in("\u{10}\u{11}")?;
        terminal.wait()?;
        ensure!(host.inspect("attached", "{{.State.Status}}")? == "running");
        let mut terminal = host.docker_at_terminal("attach attached")?;
        terminal.type_in("exit 8\n")?;
        let (status, shown) = terminal.wait()?;
        ensure!(status == 8, "{status}: {shown:?}");
        remove(host, "attached")
    });
    steps.step("many that start and end at the same time", |host| {
        let mut clients = Vec::new();
        for number in 0..12 {
            let script = format!("echo {number}; exit {number}");
            clients.push(host.start_docker(&format!("run --rm {IMAGE} sh -c '{script}'"))?);
        }
        for (number, client) in (0..).zip(clients) {
            let output = client.wait()?;
            ensure!(output.status == number && output.stdout == format!("{number}\n"), "{output}");
        }
        Ok(())
    });
}

fn changes(steps: &mut Steps<'_>) {
    steps.step("pause and unpause", |host| {
        let script = "while :; do echo x >> /count; sleep 0.01; done";
        host.docker(&format!("run --detach --name paused {IMAGE} sh -c '{script}'"))?;
        host.docker("pause paused")?;
        ensure!(host.inspect("paused", "{{.State.Status}} {{.State.Paused}}")? == "paused true");
        let shown = host.docker("ps --filter name=paused --format '{{.Status}}'")?;
        ensure!(shown.trim().ends_with("(Paused)"), "{shown}");
        // The program reads its own file while nothing runs: its size must stay.
        let file = format!("/proc/{}/root/count", host.pid("paused")?);
        let size = std::fs::metadata(&file)?.len();
        let error = host.docker_fails("exec paused true")?;
        ensure!(error.contains("paused"), "{error}");
        ensure!(std::fs::metadata(&file)?.len() == size);
        host.docker("unpause paused")?;
        ensure!(host.inspect("paused", "{{.State.Status}}")? == "running");
        wait::until("the program to go on", || {
            ensure!(std::fs::metadata(&file)?.len() > size);
            Ok(())
        })?;
        remove(host, "paused")
    });
    steps.step("stop of what is paused", |host| {
        host.docker(&format!("run --detach --name paused {IMAGE} sleep 1000"))?;
        host.docker("pause paused")?;
        host.docker("stop --time 1 paused")?;
        ensure!(host.inspect("paused", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 137");
        remove(host, "paused")
    });
    steps.step("rename", |host| {
        host.docker(&format!("run --detach --name before {IMAGE} sleep 1000"))?;
        host.docker("rename before after")?;
        ensure!(host.docker("exec after echo here")? == "here\n");
        let error = host.docker_fails("exec before true")?;
        ensure!(error.contains("No such container"), "{error}");
        remove(host, "after")
    });
    steps.step("the process is killed from outside", |host| {
        host.docker(&format!("run --detach --name victim {IMAGE} sleep 1000"))?;
        process::signal(host.pid("victim")?, Signal::KILL)?;
        host.until("victim", "{{.State.Status}} {{.State.ExitCode}}", "exited 137")?;
        remove(host, "victim")
    });
}

fn policies(steps: &mut Steps<'_>) {
    steps.step("--restart on-failure", |host| {
        let options = "--detach --name failing --restart on-failure:2";
        host.docker(&format!("run {options} {IMAGE} sh -c 'echo run; exit 4'"))?;
        let template = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}";
        host.until("failing", template, "exited 4 2")?;
        let shown = host.docker("logs failing")?;
        ensure!(shown == "run\nrun\nrun\n", "{shown}");
        remove(host, "failing")
    });
    steps.step("--restart always", |host| {
        host.docker(&format!("run --detach --name lasting --restart always {IMAGE} sleep 1000"))?;
        let first = host.pid("lasting")?;
        process::signal(first, Signal::KILL)?;
        wait::until("another process", || {
            let pid = host.pid("lasting")?;
            ensure!(pid != first && process::runs(pid));
            Ok(())
        })?;
        host.docker("stop --time 0 lasting")?;
        ensure!(host.inspect("lasting", "{{.State.Status}}")? == "exited");
        remove(host, "lasting")
    });
    steps.step("healthcheck", |host| {
        let options = "--detach --name checked --health-cmd 'test -e /well' --health-interval 100ms \
                       --health-retries 2";
        host.docker(&format!("run {options} {IMAGE} sleep 1000"))?;
        host.until("checked", "{{.State.Health.Status}}", "unhealthy")?;
        host.docker("exec checked touch /well")?;
        host.until("checked", "{{.State.Health.Status}}", "healthy")?;
        remove(host, "checked")
    });
}
