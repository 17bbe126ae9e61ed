//! Daemons and shims of different makers.

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, World, process, wait};

use crate::ctr::told_of_a_run;

/// A container's life, then the same over a restart of the daemon, then an exit that the daemon
/// does not see.
fn body(world: &World) -> Result<()> {
    let output = world.try_ctr(&format!("run --rm {IMAGE} one sh -c 'echo out; exit 3'"))?;
    ensure!(output.status == 3 && output.stdout == "out\n", "{output}");
    told_of_a_run(world)?;

    world.ctr(&format!("run -d {IMAGE} stays sh -c 'trap \"exit 6\" TERM; echo > /ready; while :; do sleep 0.1; done'"))?;
    world.ctr(&format!("run -d {IMAGE} ends sleep 1000"))?;
    ensure!(world.ctr("tasks exec --exec-id a stays echo inside")? == "inside\n");
    wait::until("the trap to be set", || world.ctr("tasks exec --exec-id b stays test -e /ready"))?;
    let before = world.task("stays")?;
    let (stays, ends) = (before.pid, world.task("ends")?.pid);

    world.kill_daemon()?;
    ensure!(process::runs(stays) && process::runs(ends), "a container died with the daemon");
    process::signal(ends, rustix::process::Signal::KILL)?;
    wait::until("the container to end", || {
        ensure!(!process::runs(ends));
        Ok(())
    })?;
    world.start()?;

    let forgets = matches!(world.options().daemon, Maker::Trixie | Maker::Forky);
    wait::until("both tasks to be right", || {
        let now = world.tasks()?;
        ensure!(now.get("stays") == Some(&before), "{now:?}");
        // containerd deletes the task at once from 1.7 on, instead of telling how it ended.
        let ended = now.get("ends").map(|task| task.status.as_str());
        ensure!(ended == Some("STOPPED") || (forgets && ended.is_none()), "{now:?}");
        Ok(())
    })?;
    ensure!(world.ctr("tasks exec --exec-id c stays echo after")? == "after\n");
    let client = world.client()?;
    let status = |id: &str| -> Result<u32> {
        let request = api_grpc::tasks::DeleteTaskRequest { container_id: id.into() };
        let answer = client.block_on(client.tasks().delete(client.request(request)))?;
        Ok(answer.into_inner().exit_status)
    };
    ensure!(forgets || status("ends")? == 137, "the exit that nobody saw has another status");
    world.ctr("tasks kill stays")?;
    world.until_task("stays", "STOPPED")?;
    ensure!(status("stays")? == 6, "another status");
    world.ctr("containers rm stays ends")?;
    // Deleted by other means than `ctr`, whose fifos these are.
    world.forgive_fifos()
}

/// `ctr` is of the version that is not ours; that of 2.1 cannot work with a daemon of 1.6.
fn pair(daemon: Maker, shim: Maker) {
    let ctr = match (daemon, shim) {
        (Maker::Bookworm, _) => Maker::Bookworm,
        (Maker::Trixie, _) | (_, Maker::Trixie) => Maker::Trixie,
        _ => Maker::Forky,
    };
    check(Options::new(ctr).map(|options| options.pair(daemon, shim)), body);
}

/// The pairs that have to work for the test to be right.
#[test]
fn debian_1_6_alone() {
    pair(Maker::Bookworm, Maker::Bookworm);
}

#[test]
fn debian_1_7_alone() {
    pair(Maker::Trixie, Maker::Trixie);
}

#[test]
fn debian_2_1_alone() {
    pair(Maker::Forky, Maker::Forky);
}

#[test]
fn ours_alone() {
    pair(Maker::Ours, Maker::Ours);
}

#[test]
fn our_daemon_with_the_shim_of_1_6() {
    pair(Maker::Ours, Maker::Bookworm);
}

#[test]
fn our_daemon_with_the_shim_of_1_7() {
    pair(Maker::Ours, Maker::Trixie);
}

#[test]
fn our_daemon_with_the_shim_of_2_1() {
    pair(Maker::Ours, Maker::Forky);
}

#[test]
fn our_shim_with_the_daemon_of_1_6() {
    pair(Maker::Bookworm, Maker::Ours);
}

#[test]
fn our_shim_with_the_daemon_of_1_7() {
    pair(Maker::Trixie, Maker::Ours);
}

#[test]
fn our_shim_with_the_daemon_of_2_1() {
    pair(Maker::Forky, Maker::Ours);
}
