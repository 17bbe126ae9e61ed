//! `ctr events`.

use anyhow::{Context, Result, ensure};
use e2e::world::IMAGE;
use e2e::{Maker, World};

use crate::with_all_ctrs;

/// The topics in `text` that belong to `namespace`, in their order.
fn topics(text: &str, namespace: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            // 2021-01-01 00:00:00.1 +0000 UTC NAMESPACE TOPIC {...}
            let words: Vec<&str> = line.split(' ').collect();
            let at = words.iter().position(|word| *word == namespace)?;
            Some(words.get(at + 1)?.to_string())
        })
        .collect()
}

/// What is told of a container's life, from whatever process it comes.
pub(crate) fn told_of_a_run(world: &World) -> Result<()> {
    let mut events = world.start_ctr("events")?;
    // The stream has begun when an event of ours comes.
    e2e::wait::until("the stream to begin", || {
        world
            .ctr("namespaces label default probe=x")
            .or_else(|_| world.ctr("namespaces create default probe=x"))?;
        ensure!(events.stdout().contains("/namespaces/"), "nothing yet");
        Ok(())
    })?;
    world.ctr(&format!("run --rm {IMAGE} one sh -c 'exit 3'")).err().context("status 3 is lost")?;
    events.until_stdout("/containers/delete")?;
    // containerd's shims end now and then before they have told of the deletion.
    let of_tasks = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    let of_tasks = &of_tasks[..if world.options().shim == Maker::Ours { 4 } else { 3 }];
    let text = events.until_stdout(of_tasks[of_tasks.len() - 1])?;
    let seen = topics(&text, world.namespace());
    // The shim's events come on another way than the daemon's own.
    let of_containers = ["/snapshot/prepare", "/containers/create", "/containers/delete"];
    for ways in [of_containers.as_slice(), of_tasks] {
        let mut rest = seen.iter();
        for topic in ways {
            ensure!(rest.any(|one| one == topic), "no {topic} (in this order) in {seen:?}");
        }
    }
    ensure!(seen.iter().filter(|topic| *topic == "/tasks/exit").count() == 1, "{seen:?}");
    let exit = text.lines().find(|line| line.contains("/tasks/exit")).context("no exit")?;
    ensure!(
        exit.contains("\"container_id\":\"one\"") && exit.contains("\"exit_status\":3"),
        "{exit}"
    );
    Ok(())
}

with_all_ctrs! {
    fn of_a_run(world) {
        told_of_a_run(world)
    }

    fn filtered(world) {
        let mut all = world.start_ctr("events")?;
        let mut some = world.start_ctr("events 'topic==\"/namespaces/delete\"'")?;
        let probe = |events: &e2e::Running| -> anyhow::Result<()> {
            world.ctr("namespaces create probe")?;
            world.ctr("namespaces rm probe")?;
            ensure!(events.stdout().contains("/namespaces/delete"), "nothing yet");
            Ok(())
        };
        e2e::wait::until("both streams to begin", || { probe(&all)?; probe(&some) })?;
        ensure!(all.stdout().contains("/namespaces/create"));
        ensure!(!some.stdout().contains("/namespaces/create"), "{}", some.stdout());
        // Streams end with the daemon.
        world.stop_daemon()?;
        e2e::wait::until("both clients to end", || {
            ensure!(all.ended()?.is_some() && some.ended()?.is_some());
            Ok(())
        })?;
        world.start()?;
        Ok(())
    }
}
