//! Many containers at once, and the order of their events.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use api_grpc::v0;
use tokio::task::JoinSet;

use super::{Old, add, next};

/// Runs `count` containers, `width` at once, each with `execs` execs that end while it does, and
/// checks the order of all events.
///
/// # Errors
///
/// A call fails, or an exit is lost, double or out of order.
pub async fn ordered(old: &Old<'_>, count: usize, width: usize, execs: usize) -> Result<()> {
    let events = old.connect().await?.events(v0::EventsRequest::default()).await?;
    let mut checking = JoinSet::new();
    checking.spawn(check(events.into_inner(), count));
    run(old, count, width, execs).await?;
    match checking.join_next().await {
        Some(checked) => checked?,
        None => Ok(()),
    }
}

/// Creates containers, `width` at a time, each with `execs` execs that end while it does.
async fn run(old: &Old<'_>, count: usize, width: usize, execs: usize) -> Result<()> {
    let client = old.connect().await?;
    let mut waiting = (0..count)
        .map(|number| old.create(&format!("n{number}"), "sleep 0.3; exit 3"))
        .collect::<Result<Vec<_>>>()?
        .into_iter();
    let mut running = JoinSet::new();
    loop {
        while running.len() < width
            && let Some(request) = waiting.next()
        {
            let mut client = client.clone();
            running.spawn(async move {
                let id = request.id.clone();
                client.create_container(request).await.with_context(|| format!("create {id}"))?;
                for number in 0..execs {
                    let exec = add(&id, &format!("e{number}"), "exit 4");
                    // The container may have ended by now.
                    let _ = client.add_process(exec).await;
                }
                anyhow::Ok(())
            });
        }
        match running.join_next().await {
            Some(ended) => ended??,
            None => return Ok(()),
        }
    }
}

/// Collects the events of `count` containers and fails unless each has its start first, each of its
/// execs one exit after its start, and its own exit last.
async fn check(mut events: tonic::Streaming<v0::Event>, count: usize) -> Result<()> {
    let mut all: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut ended = 0;
    while ended < count {
        let event = next(&mut events).await?;
        if event.r#type == "exit" && event.pid == "init" {
            ended += 1;
        }
        all.entry(event.id).or_default().push((event.r#type, event.pid));
    }
    for (id, events) in all {
        let mut running: Vec<&str> = Vec::new();
        for (at, (kind, pid)) in events.iter().enumerate() {
            match (kind.as_str(), pid.as_str()) {
                ("start-container", "") => ensure!(at == 0, "{id}: {events:?}"),
                ("start-process", name) => {
                    ensure!(!running.contains(&name), "{id}: {events:?}");
                    running.push(name);
                }
                ("exit", "init") => ensure!(at + 1 == events.len(), "{id}: {events:?}"),
                ("exit", name) => {
                    let at = running.iter().position(|running| *running == name);
                    running.remove(at.with_context(|| format!("{id}: {events:?}"))?);
                }
                _ => bail!("{id}: {events:?}"),
            }
        }
        ensure!(running.is_empty(), "{id}: {events:?}");
        ensure!(events[0].0 == "start-container", "{id}: {events:?}");
    }
    Ok(())
}
