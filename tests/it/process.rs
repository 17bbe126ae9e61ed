//! The daemon as a process: signals, logs, configuration, readiness.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::world::{IMAGE, Options, check, check_empty};
use e2e::{Maker, Table, World, process, wait};
use rustix::process::Signal;

use crate::skip;

fn options() -> Result<Options> {
    Options::new(Maker::Forky)
}

#[test]
fn sigterm_leaves_tasks_running() {
    check(options(), |world| {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let before = Table::parse(&world.ctr("tasks ls")?)?;
        let pid: i32 = before.cell("one", "PID")?.parse()?;
        ensure!(world.stop_daemon()? == 0, "another status");
        ensure!(process::runs(pid), "the container ended");
        world.start()?;
        wait::until("the task to be the same", || {
            let after = Table::parse(&world.ctr("tasks ls")?)?;
            ensure!(before == after, "{after:?}");
            Ok(())
        })?;
        world.ctr("tasks rm --force one")?;
        world.ctr("containers rm one")?;
        Ok(())
    });
}

#[test]
fn sigint_ends_and_sigusr1_dumps() {
    check_empty(options(), |world| {
        let pid = world.daemon_pid()?;
        process::signal(pid, Signal::USR1)?;
        wait::until("the dump", || {
            ensure!(
                world.log().contains("goroutine") || world.log().contains("dump"),
                "{}",
                world.log()
            );
            Ok(())
        })?;
        ensure!(process::runs(pid));
        world.ctr("version")?;
        // containerd writes the dump into a file as well.
        for entry in fs::read_dir(world.path("tmp"))?.flatten() {
            ensure!(entry.file_name().to_string_lossy().ends_with(".stacks.log"), "{entry:?}");
            fs::remove_file(entry.path())?;
        }
        process::signal(pid, Signal::PIPE)?;
        world.ctr("version")?;
        process::signal(pid, Signal::INT)?;
        wait::until("the end", || {
            ensure!(!process::runs(pid));
            Ok(())
        })?;
        world.start()
    });
}

#[test]
fn sockets() {
    check_empty(options(), |world| {
        let mut socket = world.socket().into_os_string();
        for _ in 0..2 {
            let facts = fs::metadata(&socket)?;
            ensure!(facts.file_type().is_socket());
            let (mode, owner) = (facts.mode() & 0o777, (facts.uid(), facts.gid()));
            ensure!(mode == 0o660 && owner == (0, 0), "{socket:?}: {mode:o} {owner:?}");
            socket.push(".ttrpc");
        }
        let mode = fs::metadata(world.root())?.mode() & 0o777;
        ensure!(mode == 0o700 || mode == 0o711, "root folder: {mode:o}");
        let mode = fs::metadata(world.state())?.mode() & 0o777;
        ensure!(mode == 0o711, "state folder: {mode:o}");
        // A socket that a dead daemon left does not keep a new one from starting.
        world.kill_daemon()?;
        ensure!(world.socket().exists());
        world.start()
    });
}

#[test]
fn two_daemons_on_one_root() {
    check_empty(options(), |world| {
        if !world.is_ours() {
            skip!("containerd waits for the other one's database without end");
        }
        let mut second = world.command(&Maker::Ours.daemon()?);
        second.arg("--config").arg(world.path("config.toml"));
        second.arg("--address").arg(world.path("second.sock"));
        second.stdin(std::process::Stdio::null());
        let second = e2e::Running::start(second, &world.path("files"))?;
        wait::until("the second one to say what it waits for", || {
            let log = second.stderr() + &second.stdout();
            let said = log.lines().any(|line| line.contains("waiting") && line.contains(".db"));
            ensure!(said, "{log}");
            Ok(())
        })?;
        // The first one does not mind. When it is gone, the second one serves.
        world.ctr("version")?;
        world.kill_daemon()?;
        wait::until("the second one to serve", || {
            e2e::client::Client::connect(&world.path("second.sock"), "x")?.version()
        })?;
        drop(second);
        world.start()?;
        world.ctr("version")?;
        Ok(())
    });
}

#[test]
fn log_lines_in_json() {
    let options = options().map(|options| Options {
        tables: "[debug]\n  format = \"json\"\n  level = \"debug\"\n".to_owned(),
        ..options
    });
    check_empty(options, |world| {
        world.ctr("containers ls")?;
        world.stop_daemon()?;
        let log = world.log();
        let mut levels = std::collections::BTreeSet::new();
        for line in log.lines() {
            let value: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
            for key in ["level", "msg", "time"] {
                ensure!(value[key].is_string(), "no {key}: {line}");
            }
            levels.insert(value["level"].as_str().unwrap_or_default().to_owned());
        }
        ensure!(levels.contains("info"), "{levels:?}");
        world.start()
    });
}

#[test]
fn log_lines_in_text() {
    check_empty(options(), |world| {
        world.stop_daemon()?;
        let log = world.log();
        ensure!(log.lines().count() > 1, "{log}");
        for line in log.lines() {
            ensure!(
                line.starts_with("time=\"") && line.contains(" level=") && line.contains(" msg="),
                "{line}"
            );
        }
        ensure!(log.contains("containerd successfully booted in"), "{log}");
        world.start()
    });
}

#[test]
fn unknown_keys_warn_with_file_and_line() {
    let options = options().map(|options| Options {
        top: "no_such_key = 1".to_owned(),
        tables: "  no_such_grpc_key = true\n[plugins.\"io.containerd.gc.v1.scheduler\"]\n  no_such_option = 3\n".to_owned(),
        ..options
    });
    check_empty(options, |world| {
        if !world.is_ours() {
            skip!("containerd says nothing of unknown keys, or does not start");
        }
        let config = fs::read_to_string(world.path("config.toml"))?;
        for key in ["no_such_key", "no_such_grpc_key", "no_such_option"] {
            let line = 1 + config
                .lines()
                .position(|line| line.contains(key))
                .context("not in the file")?;
            let place = format!("config.toml:{line}");
            let log = world.log();
            let warned = log.lines().any(|text| {
                text.contains("level=warn") && text.contains(key) && text.contains(&place)
            });
            ensure!(warned, "no warning of {key} at {place} in {log}");
        }
        Ok(())
    });
}

/// `containerd ARGUMENTS`: its output.
fn containerd(world: &World, arguments: &[&str]) -> Result<e2e::Output> {
    let mut command = world.command(&world.options().daemon.daemon()?);
    command.args(arguments);
    e2e::running::run(command, None, &world.path("files"))
}

#[test]
fn commands_of_the_daemon() {
    check_empty(options(), |world| {
        let version = containerd(world, &["--version"])?.ok()?;
        let words: Vec<&str> = version.split_whitespace().collect();
        ensure!(words.len() >= 3 && words[1].contains("containerd"), "{version}");
        let default = containerd(world, &["config", "default"])?.ok()?;
        for text in [
            "version = ",
            "root = ",
            "/var/lib/containerd",
            "state = ",
            "[grpc]",
            "/run/containerd/containerd.sock",
            "[plugins",
        ] {
            ensure!(default.contains(text), "no {text} in {default}");
        }
        let config = world.path("config.toml").display().to_string();
        let dump = containerd(world, &["--config", &config, "config", "dump"])?.ok()?;
        ensure!(dump.contains(&world.root().display().to_string()), "{dump}");
        // What it prints it also takes.
        let copy = world.path("files/default.toml");
        fs::write(&copy, &default)?;
        let again =
            containerd(world, &["--config", &copy.display().to_string(), "config", "dump"])?
                .ok()?;
        ensure!(again.contains("[grpc]"), "{again}");
        let output = containerd(world, &["--config", "/no/such/file.toml", "config", "dump"])?;
        ensure!(output.status != 0 || world.options().daemon != Maker::Ours, "{output}");
        let broken = world.path("files/broken.toml");
        fs::write(&broken, "version = 2\nroot = [\n")?;
        let output = containerd(world, &["--config", &broken.display().to_string()])?;
        ensure!(output.status != 0 && output.stderr.contains("broken.toml"), "{output}");
        if world.is_ours() {
            // containerd 1.6 takes any number, and would start.
            fs::write(&broken, "version = 99\n")?;
            let output = containerd(world, &["--config", &broken.display().to_string()])?;
            ensure!(output.status != 0 && output.stderr.contains("99"), "{output}");
        }
        Ok(())
    });
}

/// What a runtime does with a hook whose program is the daemon's.
#[test]
fn a_hook_whose_arguments_are_filled_in() {
    check_empty(options(), |world| {
        let bundle = world.path("files/bundle");
        fs::create_dir(&bundle)?;
        fs::write(bundle.join("config.json"), r#"{"root":{"path":"rootfs"},"other":[1]}"#)?;
        let at = bundle.display();
        let state = format!(
            r#"{{"ociVersion":"1.0.2","id":"one","status":"created","pid":42,"bundle":"{at}",
                "annotations":{{"a.b/c":"d e"}}}}"#
        );
        let hook = |arguments: &[&str]| {
            let mut command = world.command(&world.options().daemon.daemon()?);
            command.args(["oci-hook", "--"]).args(arguments).env("HOOKED", "{{status}}:{{id}}");
            e2e::running::run(command, Some(state.as_bytes()), &world.path("files"))
        };
        let script = "echo $HOOKED \"$@\"";
        let words = ["{{id}}", "-c", "{{pid}}", "{{rootfs}}", "{{annotation \"a.b/c\"}}"];
        let shown = hook(&[&["/bin/sh", "-c", script, "sh"], words.as_slice()].concat())?.ok()?;
        ensure!(shown == format!("created:one one -c 42 {at}/rootfs d e\n"), "{shown}");
        let output = hook(&["/bin/sh", "-c", "exit 7"])?;
        ensure!(output.status == 7, "{output}");
        let error = hook(&["/bin/sh", "{{nothing}}"])?.failed()?;
        ensure!(error.contains("function \"nothing\" not defined"), "{error}");
        let error = hook(&["/no/such/program"])?.failed()?;
        ensure!(error.to_lowercase().contains("no such file or directory"), "{error}");
        fs::remove_dir_all(&bundle)?;
        let error = hook(&["/bin/true"])?.failed()?;
        ensure!(error.contains("config.json"), "{error}");
        Ok(())
    });
}

#[test]
fn readiness_is_told_to_systemd() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("no folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("no socket");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("no timeout");
    let options = options().map(|options| Options {
        environment: vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())],
        ..options
    });
    check_empty(options, |world| {
        let mut buffer = [0; 4096];
        let mut until = |text: &str| -> Result<()> {
            loop {
                let count = socket.recv(&mut buffer).with_context(|| format!("no {text}"))?;
                if String::from_utf8_lossy(&buffer[..count]).lines().any(|line| line == text) {
                    return Ok(());
                }
            }
        };
        until("READY=1")?;
        world.stop_daemon()?;
        until("STOPPING=1")?;
        world.start()
    });
}
