//! What is told about containers: logs and events.

use anyhow::ensure;
use e2e::docker::Steps;
use e2e::wait;

use super::{IMAGE, remove};

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    steps.step("logs", |host| {
        let script = "seq 1 100; echo err >&2";
        host.docker(&format!("run --name logged {IMAGE} sh -c '{script}'"))?;
        let output = host.try_docker("logs logged")?;
        ensure!(output.stdout.lines().count() == 100 && output.stderr == "err\n", "{output}");
        let shown = host.docker("logs --tail 3 --timestamps logged")?;
        let last = shown.lines().last().unwrap_or_default();
        ensure!(last.contains('T') && last.ends_with("Z 100"), "{shown}");
        remove(host, "logged")
    });
    steps.step("logs --follow to the end", |host| {
        let script = "echo first; while ! test -e /go; do sleep 0.05; done; seq 1 1000";
        host.docker(&format!("run --detach --name logged {IMAGE} sh -c '{script}'"))?;
        let mut following = host.start_docker("logs --follow logged")?;
        following.until_stdout("first\n")?;
        host.docker("exec logged touch /go")?;
        let output = following.wait()?;
        ensure!(
            output.stdout.lines().count() == 1001 && output.stdout.ends_with("\n1000\n"),
            "{output}"
        );
        remove(host, "logged")
    });
    steps.step("a long line, and one without an end", |host| {
        let script = "head -c 100000 /dev/zero | busybox tr \"\\0\" x; echo; echo -n end";
        let shown = host.docker(&format!("run --name logged {IMAGE} sh -c '{script}'"))?;
        ensure!(shown.len() == 100_004 && shown.ends_with("x\nend"), "{} bytes", shown.len());
        ensure!(host.docker("logs logged")? == shown);
        remove(host, "logged")
    });
    steps.step("events of a life", |host| {
        let mut events = host.start_docker(
            "events --filter container=watched --format '{{.Action}} {{.Actor.Attributes.exitCode}}'",
        )?;
        // It is listening when it shows what happens.
        wait::until("the events to be listened to", || {
            host.docker(&format!("create --name watched {IMAGE} sh -c 'exit 5'"))?;
            host.docker("rm watched")?;
            ensure!(events.stdout().contains("destroy"));
            Ok(())
        })?;
        let before = events.stdout().len();
        host.docker(&format!("run --detach --name watched {IMAGE} sh -c 'sleep 1000; exit 5'"))?;
        host.docker("exec watched true")?;
        host.docker("pause watched")?;
        host.docker("unpause watched")?;
        host.docker("kill watched")?;
        host.until("watched", "{{.State.Status}}", "exited")?;
        host.docker("rm watched")?;
        let seen = wait::until("the last event", || {
            let seen = events.stdout()[before..].to_owned();
            ensure!(seen.contains("destroy"), "{seen}");
            Ok(seen)
        })?;
        let words: Vec<&str> = seen.lines().filter_map(|line| line.split([' ', ':']).next()).collect();
        let mut at = 0;
        let wanted = [
            "create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "kill",
            "die", "destroy",
        ];
        for word in wanted {
            let found = words[at..].iter().position(|seen| *seen == word);
            ensure!(found.is_some(), "no {word} in its place:\n{seen}");
            at += found.unwrap_or(0);
        }
        ensure!(seen.contains("die 137"), "{seen}");
        ensure!(events.ended()?.is_none());
        Ok(())
    });
}
