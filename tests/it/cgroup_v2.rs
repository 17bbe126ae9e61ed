//! Control groups of version 2, on machines that have nothing else. `cargo xtask test` runs these
//! in one that it boots for them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use api_grpc::v0;
use e2e::v0::{Old, next};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, process, wait};

use crate::skip;

/// Where the hierarchy is.
const ROOT: &str = "/sys/fs/cgroup";

/// The variable of the machine that was booted for these tests: there, none is skipped.
const MACHINE: &str = "IRONHULL_MACHINE";

/// True if this machine has version 2 alone, with the controllers that containers need.
fn is_unified() -> bool {
    let controllers = fs::read_to_string(format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
    ["cpu", "memory", "pids"].iter().all(|name| controllers.split_whitespace().any(|c| c == *name))
}

/// Runs `body` in a world with the image, unless this is another machine.
fn unified(ctr: Maker, body: impl FnOnce(&World) -> Result<()>) {
    if is_unified() {
        check(Options::new(ctr), body);
    } else {
        let done: Result<()> = (|| {
            ensure!(std::env::var_os(MACHINE).is_none(), "the machine lacks controllers");
            skip!("version 2 of control groups is not the only one here")
        })();
        assert!(done.is_ok(), "{done:?}");
    }
}

/// The group of the container `one`.
fn group(world: &World) -> PathBuf {
    Path::new(ROOT).join(world.namespace()).join("one")
}

fn value(folder: &Path, file: &str) -> Result<String> {
    let path = folder.join(file);
    Ok(fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_owned())
}

fn start(world: &World, options: &str, command: &str) -> Result<i32> {
    world.ctr(&format!("run -d {options} {IMAGE} one {command}"))?;
    pid(world)
}

fn pid(world: &World) -> Result<i32> {
    Ok(Table::parse(&world.ctr("tasks ls")?)?.cell("one", "PID")?.parse()?)
}

fn status(world: &World) -> Result<String> {
    Ok(Table::parse(&world.ctr("tasks ls")?)?.cell("one", "STATUS")?.to_owned())
}

/// Ends the container, and sees that its group is gone.
fn remove(world: &World, group: &Path) -> Result<()> {
    ensure!(group.is_dir(), "{} is not there", group.display());
    world.ctr("tasks rm --force one")?;
    world.ctr("containers rm one")?;
    wait::until("the group to go", || {
        ensure!(!group.exists(), "{} is still there", group.display());
        Ok(())
    })
}

crate::with_ctrs! {
    [ctr_1_6 = Bookworm, ctr_2_1 = Forky, our_ctr = Ours] unified;

    fn limits_and_metrics(world) {
        let pid = start(world, "--memory-limit 67108864 --cpu-quota 20000 --cpu-period 100000", "sleep 1000")?;
        let group = group(world);
        ensure!(value(&group, "cgroup.procs")? == pid.to_string(), "{}", value(&group, "cgroup.procs")?);
        ensure!(value(&group, "memory.max")? == "67108864");
        ensure!(value(&group, "cpu.max")? == "20000 100000", "{}", value(&group, "cpu.max")?);
        let json: serde_json::Value = serde_json::from_str(&world.ctr("tasks metrics --format json one")?)?;
        ensure!(json["pids"]["current"] == 1, "{json}");
        ensure!(json["memory"]["usage_limit"] == 67_108_864, "{json}");
        ensure!(json["memory"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{json}");
        ensure!(json["cpu"]["usage_usec"].as_u64().is_some(), "{json}");
        let text = world.ctr("tasks metrics one")?;
        for name in ["pids.current", "pids.limit", "cpu.usage_usec", "cpu.user_usec", "cpu.system_usec", "cpu.nr_periods", "cpu.nr_throttled", "cpu.throttled_usec", "memory.usage", "memory.swap_usage"] {
            ensure!(text.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {text}");
        }
        // What is added is in the group as well.
        let inside = world.ctr("tasks exec --exec-id e one cat /proc/self/cgroup")?;
        ensure!(inside == format!("0::/{}/one\n", world.namespace()), "{inside}");
        remove(world, &group)
    }

    fn out_of_memory(world) {
        let mut events = world.start_ctr("events")?;
        // The stream is open once it has told something.
        let mut number = 0;
        wait::until("the stream of events", || {
            number += 1;
            world.ctr(&format!("namespaces create probe{number}"))?;
            world.ctr(&format!("namespaces rm probe{number}"))?;
            ensure!(!events.stdout().is_empty());
            Ok(())
        })?;
        // The program is the container's first one: the kernel ends both at once.
        let output = world.try_ctr(&format!("run --rm --memory-limit 33554432 {IMAGE} one dd if=/dev/zero of=/dev/null bs=200M count=1"))?;
        ensure!(output.status == 137, "{output}");
        let seen = events.until_stdout("/tasks/delete")?;
        let place = |topic: &str| seen.find(topic).with_context(|| format!("no {topic} in {seen}"));
        let exit = place("/tasks/exit")?;
        // Debian's daemons do not always tell of it.
        if world.is_ours() {
            ensure!(place("/tasks/oom")? < exit, "{seen}");
        }
        drop(events);
        Ok(())
    }

    fn pause_and_kill(world) {
        let pid = start(world, "", "sh -c 'sleep 1000 & sleep 1000 & wait'")?;
        let group = group(world);
        wait::until("three processes", || {
            ensure!(value(&group, "cgroup.procs")?.lines().count() == 3);
            Ok(())
        })?;
        world.ctr("tasks pause one")?;
        ensure!(status(world)? == "PAUSED" && value(&group, "cgroup.freeze")? == "1");
        ensure!(value(&group, "cgroup.events")?.contains("frozen 1"));
        world.ctr("tasks resume one")?;
        ensure!(status(world)? == "RUNNING" && value(&group, "cgroup.events")?.contains("frozen 0"));
        world.ctr("tasks kill --all -s KILL one")?;
        wait::until("the task to end", || {
            ensure!(status(world)? == "STOPPED" && !process::runs(pid));
            Ok(())
        })?;
        world.ctr("tasks rm --force one").or_else(|_| world.ctr("tasks ls"))?;
        world.ctr("containers rm one")?;
        ensure!(!group.exists());
        Ok(())
    }

    fn systemd_driver(world) {
        let slice = format!("{}.slice", world.namespace().replace('-', "_"));
        let options = format!("--runc-systemd-cgroup --cgroup {slice}:e2e:one");
        let pid = start(world, &options, "sh -c 'sleep 1000 & wait'")?;
        let of_pid = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = of_pid.trim().strip_prefix("0::").context("no group")?;
        ensure!(path.ends_with("/e2e-one.scope") && path.contains(&slice), "{path}");
        let group = PathBuf::from(format!("{ROOT}{path}"));
        let json: serde_json::Value = serde_json::from_str(&world.ctr("tasks metrics --format json one")?)?;
        ensure!(json["pids"]["current"].as_u64().is_some_and(|pids| pids >= 1), "{json}");
        world.ctr("tasks pause one")?;
        ensure!(status(world)? == "PAUSED");
        world.ctr("tasks resume one")?;
        ensure!(world.ctr("tasks exec --exec-id e one echo on")? == "on\n");
        ensure!(wait::until("both processes", || {
            let table = Table::parse(&world.ctr("tasks ps one")?)?;
            if table.rows.len() == 2 { Ok(()) } else { bail!("{table:?}") }
        }).is_ok());
        remove(world, &group)
    }

    fn a_daemon_that_is_killed(world) {
        let pid = start(world, "--memory-limit 67108864", "sleep 1000")?;
        let group = group(world);
        world.kill_daemon()?;
        world.start()?;
        ensure!(self::pid(world)? == pid && status(world)? == "RUNNING");
        ensure!(world.ctr("tasks exec --exec-id e one echo on")? == "on\n");
        let json: serde_json::Value = serde_json::from_str(&world.ctr("tasks metrics --format json one")?)?;
        ensure!(json["memory"]["usage_limit"] == 67_108_864, "{json}");
        remove(world, &group)
    }

    fn crun(world) {
        let options = "--runc-binary crun --memory-limit 67108864";
        let output = world.ctr(&format!("run --rm {options} {IMAGE} one echo hello"))?;
        ensure!(output == "hello\n", "{output}");
        start(world, options, "sleep 1000")?;
        let group = group(world);
        // crun may put the processes into a group inside.
        ensure!(value(&group, "memory.max")? == "67108864");
        world.ctr("tasks pause one")?;
        ensure!(status(world)? == "PAUSED");
        world.ctr("tasks resume one")?;
        ensure!(world.ctr("tasks exec --exec-id e one echo on")? == "on\n");
        let text = world.ctr("tasks metrics one")?;
        ensure!(text.contains("memory.usage"), "{text}");
        remove(world, &group)
    }
}

/// `Tasks.Update` through the API: `ctr` has no command for it.
#[test]
fn update() {
    unified(Maker::Forky, |world| {
        start(world, "", "sleep 1000")?;
        let group = group(world);
        ensure!(value(&group, "memory.max")? == "max");
        let client = world.client()?;
        let update = |json: &str| {
            let resources =
                api_shim::typeurl::encode_json(api_shim::typeurl::LINUX_RESOURCES, json);
            let request = api_grpc::tasks::UpdateTaskRequest {
                container_id: "one".to_owned(),
                resources: Some(resources),
                ..Default::default()
            };
            client.block_on(client.tasks().update(client.request(request)))
        };
        update(
            r#"{"memory":{"limit":100663296},"pids":{"limit":50},"cpu":{"quota":50000,"period":100000,"shares":512}}"#,
        )?;
        ensure!(value(&group, "memory.max")? == "100663296");
        ensure!(value(&group, "pids.max")? == "50");
        ensure!(value(&group, "cpu.max")? == "50000 100000");
        let json: serde_json::Value =
            serde_json::from_str(&world.ctr("tasks metrics --format json one")?)?;
        ensure!(json["pids"]["limit"] == 50, "{json}");
        ensure!(update("{").is_err());
        remove(world, &group)
    });
}

/// The group is gone also when the shim was killed, and its processes with it.
#[test]
fn a_shim_that_is_killed() {
    unified(Maker::Forky, |world| {
        let pid = start(world, "", "sh -c 'sleep 1000 & wait'")?;
        let group = group(world);
        for shim in world.shims() {
            process::signal(shim, rustix::process::Signal::KILL)?;
        }
        wait::until("the group to go", || {
            ensure!(!group.exists() && !process::runs(pid), "{}", group.display());
            Ok(())
        })?;
        world.try_ctr("tasks rm one")?;
        world.ctr("containers rm one")?;
        world.forgive_fifos()
    });
}

/// The API of 0.2 tells version 2's figures under version 1's names, and of OOM.
#[test]
fn figures_and_oom_in_the_api_of_0_2() {
    unified(Maker::Forky, |world| {
        if !world.is_ours() {
            skip!("containerd of today has no API of 0.2");
        }
        let old = Old::new(world)?;
        let mut spec = old.spec("one", &["/bin/sh", "-c", "sleep 1000"]);
        spec["linux"]["resources"] =
            serde_json::json!({"memory": {"limit": 33_554_432, "swap": 33_554_432}});
        let request = v0::CreateContainerRequest {
            id: "one".to_owned(),
            bundle_path: old.bundle_of("one", &spec)?,
            ..v0::CreateContainerRequest::default()
        };
        old.block_on(async {
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(request).await?;
            let stats = client.stats(v0::StatsRequest { id: "one".into() }).await?.into_inner();
            let stats = stats.cgroup_stats.context("no figures")?;
            let usage = stats.memory_stats.and_then(|memory| memory.usage).context("no memory")?;
            ensure!(usage.limit == 33_554_432 && usage.usage > 0, "{usage:?}");
            ensure!(stats.pids_stats.is_some_and(|pids| pids.current >= 1));
            let cpu = stats.cpu_stats.context("no processor")?;
            ensure!(cpu.system_usage > 0 && cpu.cpu_usage.is_some_and(|cpu| cpu.total_usage > 0));
            let eater = old.add("one", "eater", "dd if=/dev/zero of=/dev/null bs=200M count=1");
            client.add_process(eater).await?;
            let mut seen = Vec::new();
            loop {
                let event = next(&mut events).await?;
                let ended = event.r#type == "exit";
                seen.push(event.r#type);
                if ended && event.pid == "init" {
                    break;
                }
                if ended {
                    let (id, pid) = ("one".to_owned(), "init".to_owned());
                    // The kernel may have taken all of the container.
                    let _ = client.signal(v0::SignalRequest { id, pid, signal: 9 }).await;
                }
            }
            ensure!(seen.iter().any(|kind| kind == "oom"), "{seen:?}");
            anyhow::Ok(())
        })?;
        old.assert_clean()
    });
}
