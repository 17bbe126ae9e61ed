//! Containers and what is in them: streams, terminals, users, processes beside the first.

use anyhow::{Result, ensure};
use e2e::docker::{DockerHost, Steps};
use e2e::{process, wait};

use super::{IMAGE, remove};

/// `docker run --rm OPTIONS IMAGE COMMAND`: its output.
fn run(host: &DockerHost, options: &str, command: &str) -> Result<String> {
    host.docker(&format!("run --rm {options} {IMAGE} {command}"))
}

/// All of them.
pub fn steps(steps: &mut Steps<'_>) {
    start(steps);
    options(steps);
    inside(steps);
    failures(steps);
}

fn start(steps: &mut Steps<'_>) {
    steps.step("version tells the daemon's", |host| {
        let shown = host.docker(
            "version --format '{{range .Server.Components}}{{.Name}} {{.Version}};{{end}}'",
        )?;
        let wanted = format!("containerd {};", host.world().client()?.version()?);
        ensure!(shown.contains(&wanted), "{shown} has no {wanted}");
        Ok(())
    });
    steps.step("info", |host| {
        let shown =
            host.docker("info --format '{{.DefaultRuntime}} {{.CgroupDriver}} {{.Images}}'")?;
        ensure!(shown.trim() == "runc cgroupfs 1", "{shown}");
        Ok(())
    });
    steps.step("run: streams and status", |host| {
        let line = format!("run --name ended {IMAGE} sh -c 'echo out; echo err >&2; exit 7'");
        let output = host.try_docker(&line)?;
        ensure!(
            output.status == 7 && output.stdout == "out\n" && output.stderr == "err\n",
            "{output}"
        );
        ensure!(host.inspect("ended", "{{.State.Status}} {{.State.ExitCode}}")? == "exited 7");
        remove(host, "ended")
    });
    steps.step("run --rm leaves nothing", |host| {
        ensure!(run(host, "", "echo here")? == "here\n");
        wait::until("the container to go", || {
            let left = host.docker("ps --all --quiet")?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        host.assert_clean()
    });
    steps.step("run --detach and ps", |host| {
        host.docker(&format!("run --detach --name detached --label a=b {IMAGE} sleep 1000"))?;
        let shown = host.docker("ps --filter label=a=b --format '{{.Names}} {{.Status}}'")?;
        ensure!(shown.starts_with("detached Up "), "{shown}");
        let pid = host.pid("detached")?;
        let words = process::arguments(pid);
        ensure!(words == ["sleep", "1000"], "{words:?}");
        remove(host, "detached")?;
        ensure!(!process::runs(pid));
        Ok(())
    });
    steps.step("run --interactive: input to its end", |host| {
        let input = b"line\n".repeat(50_000);
        let line = format!("run --rm --interactive {IMAGE} wc -c");
        let output = host.docker_with_input(&line, Some(&input))?;
        ensure!(output.status == 0 && output.stdout.trim() == "250000", "{output}");
        Ok(())
    });
    steps.step("much output", |host| {
        let shown = run(host, "", "seq 1 200000")?;
        ensure!(shown.lines().count() == 200_000 && shown.ends_with("\n200000\n"));
        Ok(())
    });
    steps.step("run at a terminal, which changes its size", |host| {
        let script = "while ! test -e /done; do stty size; sleep 0.1; done; tty; exit 3";
        let line = format!("run --name sized --interactive --tty {IMAGE} sh -c '{script}'");
        let mut terminal = host.docker_at_terminal(&line)?;
        terminal.until_size(80, 24)?;
        terminal.until_size(99, 33)?;
        host.docker("exec sized touch /done")?;
        let (status, shown) = terminal.wait()?;
        ensure!(status == 3 && shown.contains("/dev/pts/0"), "{status}: {shown:?}");
        remove(host, "sized")
    });
    steps.step("create, then start --attach", |host| {
        host.docker(&format!("create --name created --interactive {IMAGE} cat"))?;
        let output =
            host.docker_with_input("start --attach --interactive created", Some(b"typed\n"))?;
        ensure!(output.status == 0 && output.stdout == "typed\n", "{output}");
        remove(host, "created")
    });
}

fn options(steps: &mut Steps<'_>) {
    steps.step("--init", |host| {
        let shown = run(host, "--init", "cat /proc/1/cmdline")?;
        ensure!(shown.contains("docker-init"), "{shown:?}");
        Ok(())
    });
    steps.step("--user", |host| {
        let shown = run(host, "--user keeper:2000 --group-add 3000", "id")?;
        ensure!(shown.contains("uid=1000(keeper) gid=2000(extra)"), "{shown}");
        ensure!(shown.contains("3000"), "{shown}");
        Ok(())
    });
    steps.step("--read-only and --tmpfs", |host| {
        let options = "--read-only --tmpfs /tmp:size=1m";
        let shown = run(host, options, "sh -c 'touch /x; touch /tmp/x && df /tmp'");
        ensure!(shown?.contains("1024"), "no size");
        let output = host.try_docker(&format!("run --rm --read-only {IMAGE} touch /x"))?;
        ensure!(output.status == 1 && output.stderr.contains("Read-only file system"), "{output}");
        Ok(())
    });
    steps.step("--ulimit", |host| {
        let shown = run(host, "--ulimit nofile=100:200", "sh -c 'ulimit -n; ulimit -H -n'")?;
        ensure!(shown == "100\n200\n", "{shown}");
        Ok(())
    });
    steps.step("--hostname, --env, --workdir, --entrypoint", |host| {
        let options = "--hostname somewhere --env NAME=value --workdir /data --entrypoint sh";
        let shown = run(host, options, "-c 'hostname; echo $NAME; pwd; echo $FROM_IMAGE'")?;
        ensure!(shown == "somewhere\nvalue\n/data\nyes\n", "{shown}");
        Ok(())
    });
    steps.step("--cap-drop, --cap-add, --security-opt", |host| {
        let shown = run(host, "--cap-drop ALL", "grep CapEff /proc/self/status")?;
        ensure!(shown.trim().ends_with("\t0000000000000000"), "{shown}");
        let shown =
            run(host, "--cap-drop ALL --cap-add NET_ADMIN", "grep CapEff /proc/self/status")?;
        ensure!(shown.trim().ends_with("\t0000000000001000"), "{shown}");
        let shown = run(host, "", "grep Seccomp: /proc/self/status")?;
        ensure!(shown.trim().ends_with('2'), "{shown}");
        let free = "--security-opt seccomp=unconfined --security-opt no-new-privileges";
        let shown = run(host, free, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status")?;
        ensure!(shown == "NoNewPrivs:\t1\nSeccomp:\t0\n", "{shown:?}");
        Ok(())
    });
    steps.step("--device and --sysctl", |host| {
        let options = "--device /dev/null:/dev/nothing:rw --sysctl net.ipv4.ip_forward=0";
        let command = "sh -c 'echo x > /dev/nothing; cat /proc/sys/net/ipv4/ip_forward'";
        let shown = run(host, options, command)?;
        ensure!(shown == "0\n", "{shown}");
        Ok(())
    });
    steps.step("--pid, --ipc and --network of another container", |host| {
        let own = "--detach --name other --ipc shareable --hostname other";
        host.docker(&format!("run {own} {IMAGE} sleep 1000"))?;
        let of = "--pid container:other --ipc container:other --network container:other";
        let shown = run(host, of, "sh -c 'cat /proc/1/cmdline; hostname'")?;
        ensure!(shown == "sleep\u{0}1000\u{0}other\n", "{shown:?}");
        remove(host, "other")
    });
}

fn inside(steps: &mut Steps<'_>) {
    steps.step("exec: streams and status", |host| {
        host.docker(&format!("run --detach --name busy {IMAGE} sleep 1000"))?;
        let output = host.try_docker("exec busy sh -c 'echo out; echo err >&2; exit 3'")?;
        ensure!(
            output.status == 3 && output.stdout == "out\n" && output.stderr == "err\n",
            "{output}"
        );
        let output = host.docker_with_input("exec --interactive busy cat", Some(b"typed\n"))?;
        ensure!(output.status == 0 && output.stdout == "typed\n", "{output}");
        let shown = host.docker(
            "exec --user 1000 --workdir /data --env A=b busy sh -c 'id -u; pwd; echo $A'",
        )?;
        ensure!(shown == "1000\n/data\nb\n", "{shown}");
        Ok(())
    });
    steps.step("exec --tty", |host| {
        ensure!(host.docker("exec --tty busy tty")?.trim() == "/dev/pts/0");
        let script = "stty size; read word; echo got $word; exit 4";
        let mut terminal =
            host.docker_at_terminal(&format!("exec --interactive --tty busy sh -c '{script}'"))?;
        terminal.type_in("hello\n")?;
        let (status, shown) = terminal.wait()?;
        ensure!(status == 4 && shown.contains("got hello"), "{status}: {shown:?}");
        Ok(())
    });
    steps.step("exec --detach", |host| {
        host.docker("exec --detach busy touch /tmp/was-here")?;
        wait::until("the file", || host.docker("exec busy test -e /tmp/was-here")).map(drop)
    });
    steps.step("exec of what is not there", |host| {
        let output = host.try_docker("exec busy nothing")?;
        // 20.10 tells 126 or 127 by the text of the runtime's error.
        ensure!(matches!(output.status, 126 | 127), "{output}");
        let shown = format!("{}{}", output.stdout, output.stderr);
        ensure!(shown.contains("executable file not found"), "{output}");
        Ok(())
    });
    steps.step("twenty execs at the same time", |host| {
        let mut clients = Vec::new();
        for number in 0..20 {
            clients.push(
                host.start_docker(&format!("exec busy sh -c 'echo {number}; exit {number}'"))?,
            );
        }
        for (number, client) in (0..).zip(clients) {
            let output = client.wait()?;
            ensure!(output.status == number && output.stdout == format!("{number}\n"), "{output}");
        }
        Ok(())
    });
    steps.step("top", |host| {
        let shown = host.docker("top busy")?;
        ensure!(shown.lines().count() == 2 && shown.contains("sleep 1000"), "{shown}");
        let shown = host.docker("top busy -o pid,comm")?;
        ensure!(shown.contains(&format!("{} ", host.pid("busy")?)), "{shown}");
        Ok(())
    });
    steps.step("stats", |host| {
        let shown =
            host.docker("stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' busy")?;
        ensure!(shown.starts_with("busy 1 ") && !shown.contains(" 0B /"), "{shown}");
        Ok(())
    });
    steps.step("cp into and out of a container", |host| {
        let files = host.world().path("files");
        std::fs::write(files.join("in"), "copied\n")?;
        host.docker(&format!("cp {}/in busy:/data/in", files.display()))?;
        ensure!(host.docker("exec busy cat /data/in")? == "copied\n");
        host.docker("exec busy sh -c 'echo changed >> /data/in'")?;
        host.docker(&format!("cp busy:/data/in {}/out", files.display()))?;
        ensure!(std::fs::read_to_string(files.join("out"))? == "copied\nchanged\n");
        Ok(())
    });
    steps.step("diff", |host| {
        host.docker("exec busy sh -c 'rm /data/kept; touch /data/new'")?;
        let shown = host.docker("diff busy")?;
        for line in ["D /data/kept", "A /data/new", "C /data"] {
            ensure!(shown.lines().any(|seen| seen == line), "no {line} in\n{shown}");
        }
        remove(host, "busy")
    });
}

fn failures(steps: &mut Steps<'_>) {
    steps.step("a command that is not there", |host| {
        let output = host.try_docker(&format!("run --rm {IMAGE} nothing"))?;
        ensure!(output.status == 127, "{output}");
        ensure!(output.stderr.contains("executable file not found in $PATH"), "{output}");
        let output = host.try_docker(&format!("run --rm {IMAGE} /etc/passwd"))?;
        ensure!(output.status == 126, "{output}");
        ensure!(output.stderr.contains("permission denied"), "{output}");
        host.assert_clean()
    });
    steps.step("a name that is taken, a container that runs, an image that is not there", |host| {
        host.docker(&format!("run --detach --name taken {IMAGE} sleep 1000"))?;
        let error = host.docker_fails(&format!("run --name taken {IMAGE} true"))?;
        ensure!(error.contains("is already in use"), "{error}");
        let error = host.docker_fails("rm taken")?;
        ensure!(error.contains("running"), "{error}");
        remove(host, "taken")?;
        let error = host.docker_fails("exec taken true")?;
        ensure!(error.contains("No such container"), "{error}");
        let error = host.docker_fails("inspect nothing")?;
        ensure!(error.to_lowercase().contains("no such object"), "{error}");
        Ok(())
    });
}
