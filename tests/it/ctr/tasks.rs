//! `ctr tasks`.

use anyhow::{Result, ensure};
use e2e::world::IMAGE;
use e2e::{Table, World, image, process, wait};

use crate::with_both_ctrs;

/// Starts the container `one` that runs `command`.
fn start(world: &World, command: &str) -> Result<i32> {
    world.ctr(&format!("run -d {IMAGE} one {command}"))?;
    Ok(world.task("one")?.pid)
}

with_both_ctrs! {
    fn list_and_ps(world) {
        let table = Table::parse(&world.ctr("tasks ls")?)?;
        ensure!(table.heads == ["TASK", "PID", "STATUS"] && table.rows.is_empty(), "{table:?}");
        let pid = start(world, "sh -c 'sleep 1000 & wait'")?;
        ensure!(world.ctr("tasks ls -q")? == "one\n");
        wait::until("both processes", || {
            let table = Table::parse(&world.ctr("tasks ps one")?)?;
            ensure!(table.heads == ["PID", "INFO"], "{:?}", table.heads);
            ensure!(table.row(&pid.to_string()).is_some() && table.rows.len() == 2, "{table:?}");
            Ok(())
        })?;
        let error = world.ctr_fails("tasks ps nothing")?;
        ensure!(error.contains("not found"), "{error}");
        world.remove("one")
    }

    fn start_what_was_created(world) {
        // `ctr containers create` takes no options for the program itself.
        let mut layers = image::small_layers()?;
        let script = "#!/bin/sh\necho begun\nexit 5\n";
        layers.push(image::Layer::gzip(vec![image::Entry::file("finish", 0o755, script)]));
        let archive = world.path("files/finish.tar");
        // A name of its own: were the other image replaced, the collector could take the layer that
        // both have while a client of 1.6, which does not lease what is there, unpacks the next.
        let name = "docker.io/library/finish:1";
        image::Builder::new(name, layers).write(&archive, image::Format::Oci)?;
        world.import(&archive)?;
        world.ctr(&format!("containers create {name} one /finish"))?;
        let output = world.try_ctr("tasks start one")?;
        ensure!(output.status == 5 && output.stdout == "begun\n", "{output}");
        // `ctr tasks start` deletes the task; the container stays and can be started again.
        ensure!(Table::parse(&world.ctr("tasks ls")?)?.row("one").is_none());
        ensure!(world.try_ctr("tasks start one")?.status == 5);
        world.ctr("containers rm one")?;
        Ok(())
    }

    fn kill_and_delete(world) {
        let pid = start(world, "sleep 1000")?;
        let error = world.ctr_fails("tasks rm one")?;
        ensure!(error.contains("must be stopped before deletion") && error.contains("failed precondition"), "{error}");
        ensure!(process::runs(pid));
        let error = world.ctr_fails("tasks kill -s NOTHING one")?;
        ensure!(!error.is_empty());
        world.ctr("tasks kill -s KILL one")?;
        world.until_task("one", "STOPPED")?;
        let error = world.try_ctr("tasks kill one")?;
        ensure!(error.status == 0 || error.stderr.contains("not found") || error.stderr.contains("already finished"), "{error}");
        // The exit status of the task is the client's.
        let output = world.try_ctr("tasks rm one")?;
        ensure!(output.status == 137 || output.stderr.contains("exit code 137") || output.stderr.contains("137"), "{output}");
        let error = world.ctr_fails("tasks rm one")?;
        ensure!(error.contains("not found"), "{error}");
        world.ctr("containers rm one")?;
        Ok(())
    }

    fn a_signal_that_is_caught(world) {
        start(world, "sh -c 'trap \"exit 9\" TERM; echo > /ready; while :; do sleep 0.1; done'")?;
        wait::until("the trap to be set", || world.ctr(&format!("tasks exec --exec-id {} one test -e /ready", unique())))?;
        world.ctr("tasks kill one")?;
        world.until_task("one", "STOPPED")?;
        let output = world.try_ctr("tasks rm one")?;
        ensure!(output.status == 9 || output.stderr.contains('9'), "{output}");
        world.ctr("containers rm one")?;
        Ok(())
    }

    fn kill_all(world) {
        start(world, "sh -c 'sleep 1000 & sleep 1000'")?;
        world.ctr("tasks kill --all -s KILL one")?;
        world.until_task("one", "STOPPED")?;
        world.remove("one")
    }

    fn exec(world) {
        start(world, "sleep 1000")?;
        ensure!(world.ctr("tasks exec --exec-id a one echo inside")? == "inside\n");
        let output = world.try_ctr("tasks exec --exec-id a one sh -c 'echo o; echo e >&2; exit 21'")?;
        ensure!(output.status == 21 && output.stdout == "o\n" && output.stderr.ends_with("e\n"), "{output}");
        // More than a pipe holds: `ctr` misses an end of the input that comes before the start.
        let input = b"line\n".repeat(50_000);
        let output = world.ctr_with_input("tasks exec --exec-id a one cat", Some(&input))?;
        ensure!(output.stdout.as_bytes() == input, "{} bytes", output.stdout.len());
        ensure!(world.ctr("tasks exec --exec-id a --cwd /data one pwd")? == "/data\n");
        ensure!(world.ctr("tasks exec --exec-id a --user keeper one id -u")? == "1000\n" );
        let error = world.ctr_fails("tasks exec --exec-id a one nothing")?;
        ensure!(error.contains("executable file not found") || error.contains("no such file"), "{error}");
        let error = world.ctr_fails("tasks exec --exec-id a nothing true")?;
        ensure!(error.contains("not found"), "{error}");
        // Beside the task: the same id twice is refused, both end with the task.
        world.ctr("tasks exec -d --exec-id long one sleep 500")?;
        let error = world.ctr_fails("tasks exec --exec-id long one true")?;
        ensure!(error.contains("already exists"), "{error}");
        let table = Table::parse(&world.ctr("tasks ps one")?)?;
        ensure!(table.rows.len() == 2, "{table:?}");
        world.ctr("tasks kill -s KILL --exec-id long one")?;
        wait::until("the second process to end", || {
            ensure!(Table::parse(&world.ctr("tasks ps one")?)?.rows.len() == 1);
            Ok(())
        })?;
        world.remove("one")?;
        world.forgive_fifos()
    }

    fn exec_at_a_terminal(world) {
        start(world, "sleep 1000")?;
        let mut terminal = world.ctr_at_terminal(
            "tasks exec -t --exec-id a one sh -c 'tty; while :; do stty size; sleep 0.1; done'",
        )?;
        terminal.until_shown("/dev/pts/")?;
        terminal.until_size(80, 24)?;
        terminal.until_size(132, 43)?;
        // What is typed arrives as a signal.
        terminal.type_in("\u{3}")?;
        let (status, shown) = terminal.wait()?;
        ensure!(status == 130, "{status}: {shown}");
        world.remove("one")
    }

    fn pause_and_resume(world) {
        start(world, "sleep 1000")?;
        world.ctr("tasks pause one")?;
        ensure!(world.task("one")?.status == "PAUSED");
        let error = world.ctr_fails("tasks exec --exec-id a one true")?;
        ensure!(error.contains("paused"), "{error}");
        world.ctr("tasks resume one")?;
        ensure!(world.task("one")?.status == "RUNNING");
        ensure!(world.ctr("tasks exec --exec-id a one echo on")? == "on\n");
        let error = world.ctr_fails("tasks pause nothing")?;
        ensure!(error.contains("not found"), "{error}");
        world.remove("one")?;
        world.forgive_fifos()
    }

    fn metrics(world) {
        start(world, "sleep 1000")?;
        let text = world.ctr("tasks metrics one")?;
        let head = text.lines().next().unwrap_or_default();
        ensure!(head.split_whitespace().eq(["ID", "TIMESTAMP"]), "{text}");
        ensure!(text.lines().nth(1).is_some_and(|line| line.starts_with("one ")), "{text}");
        let value = |name: &str| text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        ensure!(value("memory.usage_in_bytes").or(value("memory.usage")).is_some_and(|bytes| bytes > 0), "{text}");
        ensure!(value("pids.current") == Some(1), "{text}");
        let json: serde_json::Value = serde_json::from_str(&world.ctr("tasks metrics --format json one")?)?;
        ensure!(json["pids"]["current"] == 1, "{json}");
        let error = world.ctr_fails("tasks metrics nothing")?;
        ensure!(error.contains("not found"), "{error}");
        world.remove("one")
    }

    fn attach(world) {
        // The shim holds the fifos open, so a second client takes over where the first one was.
        let fifos = world.path("files/fifos");
        let mut first = world.start_ctr(&format!(
            "run --rm --fifo-dir {} {IMAGE} one sh -c 'while :; do echo tick; sleep 0.2; done'", fifos.display()
        ))?;
        first.until_stdout("tick")?;
        let mut second = world.start_ctr("tasks attach one")?;
        second.until_stdout("tick")?;
        world.ctr("tasks kill -s KILL one")?;
        ensure!(second.wait()?.status == 137);
        let _ = first.wait()?;
        wait::until("the container to go", || { ensure!(world.ctr("containers ls -q")?.is_empty()); Ok(()) })
    }

    fn many_at_once(world) {
        let mut clients = Vec::new();
        for number in 0..10 {
            clients.push(world.start_ctr(&format!("run --rm {IMAGE} many{number} sh -c 'echo {number}; exit {number}'"))?);
        }
        for (number, client) in clients.into_iter().enumerate() {
            let output = client.wait()?;
            let status = i32::try_from(number)?;
            ensure!(output.status == status && output.stdout == format!("{number}\n"), "{output}");
        }
        ensure!(world.ctr("containers ls -q")?.is_empty());
        Ok(())
    }
}

/// A new exec id.
fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("probe{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
