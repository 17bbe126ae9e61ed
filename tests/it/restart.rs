//! Containers that are started again: the labels of containerd's restart monitor.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, process, wait};
use rustix::process::Signal;

use crate::skip;

/// Half of `containerd.io/restart.`.
const LABEL: &str = "containerd.io/restart";

/// A daemon that looks at all containers that often.
fn options(interval: &str) -> Result<Options> {
    let mut options = Options::new(Maker::Forky)?;
    // The name of old; newer ones have another, and read this one.
    options.tables =
        format!("[plugins.\"io.containerd.internal.v1.restart\"]\n  interval = {interval:?}\n");
    Ok(options)
}

/// Runs a container with these labels of the monitor.
fn run(world: &World, id: &str, labels: &[(&str, &str)], command: &str) -> Result<()> {
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("--label {LABEL}.{name}={value}")).collect();
    world.ctr(&format!("run -d {} {IMAGE} {id} {command}", labels.join(" ")))?;
    Ok(())
}

fn label(world: &World, id: &str, name: &str, value: &str) -> Result<()> {
    world.ctr(&format!("containers label {id} {LABEL}.{name}={value}")).map(drop)
}

/// How often the monitor says that it has started a container.
fn count(world: &World, id: &str) -> Result<u64> {
    let client = world.client()?;
    let message = api_grpc::containers::GetContainerRequest { id: id.to_owned() };
    let answer = client.block_on(client.containers().get(client.request(message)))?.into_inner();
    let labels = answer.container.context("no container")?.labels;
    Ok(labels.get(&format!("{LABEL}.count")).map_or(Ok(0), |count| count.parse())?)
}

/// The tasks: id to process id and status.
fn tasks(world: &World) -> Result<BTreeMap<String, (i32, String)>> {
    let table = Table::parse(&world.ctr("tasks ls")?)?;
    table.rows.iter().map(|row| Ok((row[0].clone(), (row[1].parse()?, row[2].clone())))).collect()
}

fn status(world: &World, id: &str) -> Result<Option<String>> {
    Ok(tasks(world)?.remove(id).map(|(_, status)| status))
}

/// Removes everything; the monitor must not bring it back in between.
fn clear(world: &World) -> Result<()> {
    for id in world.ctr("containers ls -q")?.lines() {
        world.ctr(&format!("containers label {id} {LABEL}.status="))?;
        // One may just be started again.
        wait::until("the task to go", || {
            world.try_ctr(&format!("tasks rm --force {id}"))?;
            ensure!(status(world, id)?.is_none());
            Ok(())
        })?;
        world.ctr(&format!("containers rm {id}"))?;
    }
    world.forgive_fifos()
}

/// Every policy, beside each other: those that are started often give the others time to be.
#[test]
fn policies() {
    check(options("1s"), |world| {
        let running = ("status", "running");
        let short = |status: u32| format!("sh -c 'sleep 0.2; exit {status}'");
        run(world, "always", &[running, ("policy", "always")], &short(0))?;
        run(world, "default", &[running], &short(0))?;
        run(world, "twice", &[running, ("policy", "on-failure:2")], &short(3))?;
        run(world, "success", &[running, ("policy", "on-failure")], &short(0))?;
        run(world, "unless", &[running, ("policy", "unless-stopped")], &short(0))?;
        let stopped = [running, ("policy", "unless-stopped"), ("explicitly-stopped", "true")];
        run(world, "explicit", &stopped, &short(0))?;
        run(world, "never", &[running, ("policy", "no")], &short(1))?;
        run(world, "wrong", &[running, ("policy", "sometimes")], &short(1))?;
        run(world, "unlabelled", &[], &short(1))?;
        run(world, "lives", &[running], "sleep 1000")?;
        let lives = tasks(world)?["lives"].0;

        wait::until("those that are to be started again", || {
            for (id, least) in [("always", 3), ("default", 3), ("twice", 2), ("unless", 3)] {
                let count = count(world, id)?;
                ensure!(count >= least, "{id}: {count}");
            }
            Ok(())
        })?;
        wait::until("the second failure", || {
            let status = status(world, "twice")?;
            ensure!(status.as_deref() == Some("STOPPED"), "{status:?}");
            Ok(())
        })?;
        let before = count(world, "always")?;
        wait::until("two more rounds", || {
            let count = count(world, "always")?;
            ensure!(count >= before + 2, "{count}");
            Ok(())
        })?;
        ensure!(count(world, "twice")? == 2, "{}", count(world, "twice")?);
        for id in ["success", "explicit", "never", "wrong", "unlabelled", "lives"] {
            ensure!(count(world, id)? == 0, "{id}: {}", count(world, id)?);
        }
        for id in ["success", "explicit", "never", "wrong", "unlabelled"] {
            let status = status(world, id)?;
            ensure!(status.as_deref() == Some("STOPPED"), "{id}: {status:?}");
        }
        ensure!(tasks(world)?["lives"] == (lives, "RUNNING".to_owned()), "{:?}", tasks(world)?);
        clear(world)
    });
}

/// What a user asks for by labels is done, also while it is paused.
#[test]
fn labels_change() {
    check(options("1s"), |world| {
        run(world, "one", &[("status", "running")], "sleep 1000")?;
        run(world, "paused", &[("status", "running")], "sleep 1000")?;
        world.ctr("tasks pause paused")?;
        label(world, "one", "status", "stopped")?;
        wait::until("the task to be stopped and removed", || {
            let status = status(world, "one")?;
            ensure!(status.is_none(), "{status:?}");
            Ok(())
        })?;
        label(world, "one", "status", "running")?;
        wait::until("the task to run", || {
            let status = status(world, "one")?;
            ensure!(status.as_deref() == Some("RUNNING"), "{status:?}");
            Ok(())
        })?;
        ensure!(count(world, "one")? == 1);
        if world.is_ours() {
            let paused = status(world, "paused")?;
            ensure!(paused.as_deref() == Some("PAUSED"), "{paused:?}");
            ensure!(count(world, "paused")? == 0);
            world.ctr("tasks resume paused")?;
        }
        clear(world)
    });
}

/// With an interval that never comes, the monitor still acts: on ends, on labels, on dead shims.
#[test]
fn events_are_enough() {
    check(options("1h"), |world| {
        if !world.is_ours() {
            skip!("containerd polls");
        }
        run(world, "ends", &[("status", "running")], "sleep 1000")?;
        run(world, "shim", &[("status", "running"), ("policy", "on-failure")], "sleep 1000")?;
        run(world, "stop", &[("status", "running")], "sleep 1000")?;
        let before = tasks(world)?;
        process::signal(before["ends"].0, Signal::KILL)?;
        let shim = process::parent(before["shim"].0).context("no parent")?;
        process::signal(shim, Signal::KILL)?;
        label(world, "stop", "status", "stopped")?;
        wait::until("all to be as they shall be", || {
            let now = tasks(world)?;
            for id in ["ends", "shim"] {
                let (pid, status) = now.get(id).with_context(|| format!("no task {id}"))?;
                ensure!(status == "RUNNING" && *pid != before[id].0, "{id}: {pid} {status}");
                ensure!(count(world, id)? == 1);
            }
            ensure!(!now.contains_key("stop"), "{now:?}");
            Ok(())
        })?;
        clear(world)
    });
}

/// A container that ended while there was no daemon is started by the next one, and one whose task
/// is gone, as after a reboot.
#[test]
fn after_a_restart_of_the_daemon() {
    check(options("1s"), |world| {
        run(world, "ended", &[("status", "running")], "sleep 1000")?;
        run(world, "lives", &[("status", "running")], "sleep 1000")?;
        world.ctr(&format!(
            "containers create --label {LABEL}.status=running {IMAGE} fresh sleep 1000"
        ))?;
        let before = tasks(world)?;
        world.kill_daemon()?;
        process::signal(before["ended"].0, Signal::KILL)?;
        wait::until("the process to end", || {
            ensure!(!process::runs(before["ended"].0));
            Ok(())
        })?;
        world.start()?;
        wait::until("all to run", || {
            let now = tasks(world)?;
            for id in ["ended", "lives", "fresh"] {
                let (_, status) = now.get(id).with_context(|| format!("no task {id}"))?;
                ensure!(status == "RUNNING", "{id}: {status}");
            }
            ensure!(now["ended"].0 != before["ended"].0);
            Ok(())
        })?;
        ensure!(tasks(world)?["lives"].0 == before["lives"].0, "it was not touched");
        ensure!(count(world, "lives")? == 0);
        clear(world)
    });
}

/// Where the output of the next process goes.
#[test]
fn the_log_label() {
    check(options("1s"), |world| {
        let log = world.path("files/again.log");
        let place = |path: &Path| format!("file://{}", path.display());
        let labels = [("status", "running"), ("policy", "on-failure:1"), ("loguri", &place(&log))];
        run(world, "loud", &labels, "sh -c 'echo here I am; exit 1'")?;
        wait::until("the second life to be logged", || {
            let text = std::fs::read_to_string(&log)?;
            ensure!(text == "here I am\n", "{text:?}");
            Ok(())
        })?;
        if world.is_ours() {
            // COMPAT: containerd 1.x has a label for paths; 2.x tells that it is ignored.
            let path = world.path("files/path.log");
            let shown = path.display().to_string();
            let labels =
                [("status", "running"), ("policy", "on-failure:1"), ("logpath", shown.as_str())];
            run(world, "path", &labels, "sh -c 'echo and here; exit 1'")?;
            wait::until("the second life to be logged", || {
                ensure!(std::fs::read_to_string(&path)? == "and here\n");
                Ok(())
            })?;
        }
        clear(world)
    });
}

/// The plugin is where clients look for it, with what it can do.
#[test]
fn the_plugin_tells_its_policies() {
    check(Options::new(Maker::Forky), |world| {
        if world.options().daemon == Maker::Bookworm {
            skip!("containerd 1.6 has the plugin under its old type");
        }
        let client = world.client()?;
        let filters = vec!["type==io.containerd.monitor.container.v1".to_owned()];
        let message = api_grpc::introspection::PluginsRequest { filters };
        let answer = client.block_on(client.introspection().plugins(client.request(message)))?;
        let plugins = answer.into_inner().plugins;
        ensure!(plugins.len() == 1 && plugins[0].id == "restart", "{plugins:?}");
        ensure!(plugins[0].init_err.is_none(), "{plugins:?}");
        let capabilities = &plugins[0].capabilities;
        ensure!(
            *capabilities == ["no", "always", "on-failure", "unless-stopped"],
            "{capabilities:?}"
        );
        Ok(())
    });
}
