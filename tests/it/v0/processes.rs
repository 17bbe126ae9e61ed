//! What a client asks of a process: who it is, what it may do, its terminal, its runtime.

use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, ensure};
use api_grpc::v0;
use e2e::process::with_argument;
use e2e::v0::{NAMESPACE, Old, next, seen, until_exit};
use e2e::wait::until;
use tonic::Code;

use super::old;

fn kill(id: &str) -> v0::SignalRequest {
    v0::SignalRequest { id: id.to_owned(), pid: "init".to_owned(), signal: 9 }
}

/// Reads what is written to a fifo until all have closed it.
fn read(path: &str) -> std::thread::JoinHandle<Result<String>> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut text = String::new();
        File::open(path)?.read_to_string(&mut text)?;
        Ok(text)
    })
}

fn joined(reader: std::thread::JoinHandle<Result<String>>) -> Result<String> {
    reader.join().map_err(|_| anyhow::anyhow!("a reader died"))?
}

/// User, capabilities, limits, environment and folder are those of the request, and State tells them.
#[test]
fn an_exec_is_what_was_asked_for() {
    old("", |_, old| {
        let output = old.fifo("out")?;
        let reader = read(&output);
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("x", "sleep 1000")?).await?;
            let script = "cat /proc/self/status /proc/self/limits; echo $A $PWD; exec sleep 1007";
            let request = v0::AddProcessRequest {
                stdout: output.clone(),
                user: Some(v0::User { uid: 7, gid: 8, additional_gids: vec![9] }),
                env: vec!["PATH=/bin".to_owned(), "A=b".to_owned()],
                cwd: "/tmp".to_owned(),
                capabilities: vec!["CAP_KILL".to_owned()],
                no_new_privileges: true,
                rlimits: vec![v0::Rlimit { r#type: "RLIMIT_NOFILE".into(), soft: 101, hard: 101 }],
                ..old.add("x", "asked", script)
            };
            client.add_process(request.clone()).await?;
            let state = client.state(v0::StateRequest { id: "x".into() }).await?.into_inner();
            let shown = state.containers[0].processes.iter().find(|one| one.pid == "asked");
            let shown = shown.context("not in State")?;
            ensure!(shown.user == request.user && shown.args == request.args, "{shown:?}");
            ensure!(shown.env == request.env && shown.cwd == "/tmp" && shown.stdout == output);
            ensure!(shown.capabilities == request.capabilities && shown.no_new_privileges);
            ensure!(shown.rlimits == request.rlimits && shown.stdin == "/dev/null", "{shown:?}");
            until("the script's last step", || {
                ensure!(!with_argument(|word| word == "1007").is_empty(), "it is not there");
                Ok(())
            })?;
            client.signal(kill("x")).await?;
            until_exit(&mut events, "x").await?;
            anyhow::Ok(())
        })?;
        let text = joined(reader)?;
        let flat: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for wanted in [
            "Uid: 7 7 7 7",
            "Gid: 8 8 8 8",
            "Groups: 9",
            "CapBnd: 0000000000000020",
            "NoNewPrivs: 1",
            "Max open files 101 101 files",
            "b /tmp",
        ] {
            ensure!(flat.iter().any(|line| line == wanted), "{wanted} in {text}");
        }
        Ok(())
    });
}

/// `docker exec -it`: a terminal, its size, and input that ends.
#[test]
fn an_exec_has_a_terminal_and_input() {
    old("", |_, old| {
        let (tty, input, output) = (old.fifo("tty")?, old.fifo("in")?, old.fifo("out")?);
        let (at_terminal, plain) = (read(&tty), read(&output));
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("x", "sleep 1000")?).await?;
            let script = "while [ \"$(stty size 2>/dev/null)\" != '25 80' ]; do sleep 0.05; done; echo sized";
            let request = v0::AddProcessRequest {
                terminal: true,
                stdout: tty.clone(),
                ..old.add("x", "tty", script)
            };
            client.add_process(request).await?;
            let update = |pid: &str| v0::UpdateProcessRequest {
                id: "x".to_owned(),
                pid: pid.to_owned(),
                ..v0::UpdateProcessRequest::default()
            };
            let size = |pid| v0::UpdateProcessRequest { width: 80, height: 25, ..update(pid) };
            client.update_process(size("tty")).await?;
            let request = v0::AddProcessRequest {
                stdin: input.clone(),
                stdout: output.clone(),
                ..old.add("x", "cat", "cat; exit 6")
            };
            client.add_process(request).await?;
            File::options().write(true).open(&input)?.write_all(b"typed\n")?;
            // Neither a process without a terminal nor one without input minds.
            client.update_process(size("cat")).await?;
            let close = |pid| v0::UpdateProcessRequest { close_stdin: true, ..update(pid) };
            client.update_process(close("init")).await?;
            client.update_process(close("cat")).await?;
            let mut exits = Vec::new();
            while exits.len() < 2 {
                let event = seen(&next(&mut events).await?);
                exits.extend((event.0 == "exit").then_some((event.2, event.3)));
            }
            exits.sort();
            ensure!(exits == [("cat".to_owned(), 6), ("tty".to_owned(), 0)], "{exits:?}");
            let gone = client.update_process(size("tty")).await.err().context("resized")?;
            ensure!(gone.message() == "containerd: process not found for container", "{gone:?}");
            client.signal(kill("x")).await?;
            until_exit(&mut events, "x").await?;
            anyhow::Ok(())
        })?;
        let texts = (joined(at_terminal)?, joined(plain)?);
        ensure!(texts == ("sized\r\n".to_owned(), "typed\n".to_owned()), "{texts:?}");
        Ok(())
    });
}

/// A container with a runtime of its own has none of the daemon's arguments; one with arguments has
/// only those.
#[test]
fn a_runtime_of_its_own() {
    let settings = "runtime = \"runc\"\nruntime_args = [\"--no-such-flag\"]\n";
    old(settings, |world, old| {
        let root = world.path("files/runc").display().to_string();
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            let usual = client.create_container(old.create("usual", "true")?).await;
            let usual = usual.err().context("the daemon's arguments were not used")?;
            ensure!(usual.code() == Code::Unknown, "{usual:?}");
            let own = v0::CreateContainerRequest {
                runtime: "runc".to_owned(),
                no_pivot_root: true,
                ..old.create("own", "exit 5")?
            };
            let made = client.create_container(own).await?.into_inner().container;
            ensure!(made.is_some_and(|made| made.runtime == "runc"));
            let all = until_exit(&mut events, "own").await?;
            ensure!(all.last().is_some_and(|event| event.status == 5), "{all:?}");
            let rooted = v0::CreateContainerRequest {
                runtime_args: vec!["--root".to_owned(), root.clone()],
                ..old.create("rooted", "sleep 1000")?
            };
            client.create_container(rooted).await?;
            ensure!(
                std::path::Path::new(&root).join(NAMESPACE).join("rooted").is_dir(),
                "not below {root}"
            );
            client.signal(kill("rooted")).await?;
            until_exit(&mut events, "rooted").await?;
            anyhow::Ok(())
        })
    });
}

/// An exec that hangs in the runtime is given up in time; its container goes on.
#[test]
fn an_exec_that_hangs_is_given_up() {
    old("start_timeout = \"3s\"\n", |world, old: &Old<'_>| {
        let hanging = world.path("files/hanging");
        let script =
            "#!/bin/sh\ncase \" $* \" in *\" exec \"*) exec sleep 1000;; esac\nexec runc \"$@\"\n";
        std::fs::write(&hanging, script)?;
        std::fs::set_permissions(&hanging, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            let request = v0::CreateContainerRequest {
                runtime: hanging.display().to_string(),
                ..old.create("x", "sleep 1000")?
            };
            client.create_container(request).await?;
            let late = client.add_process(old.add("x", "e", "true")).await;
            let text = "containerd: container did not start before the specified timeout";
            e2e::v0::fails(late, Code::Unknown, text)?;
            client.signal(kill("x")).await?;
            let all: Vec<_> = until_exit(&mut events, "x").await?.iter().map(seen).collect();
            let kinds: Vec<&str> = all.iter().map(|event| event.0.as_str()).collect();
            ensure!(kinds == ["start-container", "exit"], "{all:?}");
            anyhow::Ok(())
        })?;
        // What hangs has been ended with it.
        e2e::wait::until("the hanging program to be ended", || {
            let left = e2e::process::with_argument(|word| word == hanging.display().to_string());
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    });
}
