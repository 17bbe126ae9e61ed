//! Many containers at once, and the order of their events.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use api_grpc::v0;
use tokio::task::JoinSet;

use super::{Old, add, next};

/// The status of a process that was killed.
const KILLED: u32 = 137;

/// What one container went through: types and processes of its events, and statuses.
type Life = Vec<(String, String, u32)>;

/// Runs `count` containers, `width` at once, each with `execs` execs, beside a client that never reads
/// its events; checks all events of another one.
///
/// Every other container ends by itself while execs are added to it. The others are killed when all
/// their execs run or have run, so that the exits of execs and of their container come together.
///
/// # Errors
///
/// A call fails, or an event is lost, double or out of order.
pub async fn ordered(old: &Old<'_>, count: usize, width: usize, execs: usize) -> Result<()> {
    let mut idle = old.connect().await?;
    let stuck = idle.events(v0::EventsRequest::default()).await?.into_inner();
    let events = old.connect().await?.events(v0::EventsRequest::default()).await?;
    let mut collecting = JoinSet::new();
    collecting.spawn(collect(events.into_inner(), count));
    let added = run(old, count, width, execs).await?;
    let lives = collecting.join_next().await.context("nobody collects")???;
    drop(stuck);
    ensure!(lives.len() == count, "{} of {count} containers were told of", lives.len());
    for (id, life) in &lives {
        let added = added.get(id).with_context(|| format!("{id} was not asked for"))?;
        check(life, added).with_context(|| format!("{id}: {life:?}"))?;
    }
    Ok(())
}

/// Creates containers, `width` at a time, each with `execs` execs; gives the execs that were
/// answered, by container.
async fn run(
    old: &Old<'_>,
    count: usize,
    width: usize,
    execs: usize,
) -> Result<BTreeMap<String, Vec<String>>> {
    let client = old.connect().await?;
    let mut waiting = (0..count)
        .map(|number| {
            let killed = number % 2 == 0;
            let script = if killed { "sleep 1000" } else { "sleep 0.3; exit 3" };
            Ok((old.create(&format!("n{number}"), script)?, killed))
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter();
    let mut running: JoinSet<Result<(String, Vec<String>)>> = JoinSet::new();
    let mut all = BTreeMap::new();
    loop {
        while running.len() < width
            && let Some((request, killed)) = waiting.next()
        {
            let mut client = client.clone();
            running.spawn(async move {
                let id = request.id.clone();
                client.create_container(request).await.with_context(|| format!("create {id}"))?;
                let mut added = Vec::new();
                for number in 0..execs {
                    // The last one of a container that is killed is killed with it.
                    let script =
                        if killed && number + 1 == execs { "sleep 1000" } else { "exit 4" };
                    let name = format!("e{number}");
                    match client.add_process(add(&id, &name, script)).await {
                        Ok(_) => added.push(name),
                        Err(error) if killed => bail!("{name} of {id}: {error}"),
                        // The container has ended by now.
                        Err(_) => {}
                    }
                }
                if killed {
                    let (id, pid) = (id.clone(), "init".to_owned());
                    client.signal(v0::SignalRequest { id, pid, signal: 9 }).await?;
                }
                Ok((id, added))
            });
        }
        match running.join_next().await {
            Some(ended) => all.extend([ended??]),
            None => return Ok(all),
        }
    }
}

/// Collects events until `count` containers have ended.
async fn collect(
    mut events: tonic::Streaming<v0::Event>,
    count: usize,
) -> Result<BTreeMap<String, Life>> {
    let mut all: BTreeMap<String, Life> = BTreeMap::new();
    let mut ended = 0;
    while ended < count {
        let event = next(&mut events).await?;
        if event.r#type == "exit" && event.pid == "init" {
            ended += 1;
        }
        all.entry(event.id).or_default().push((event.r#type, event.pid, event.status));
    }
    Ok(all)
}

/// Fails unless the start of a container comes first, its exit last, and the start and the exit of
/// each exec once between them; those that were `added` are among them.
fn check(life: &Life, added: &[String]) -> Result<()> {
    let (Some((first, inner)), Some(last)) = (life.split_first(), life.last()) else {
        bail!("nothing happened");
    };
    ensure!(first.0 == "start-container" && first.1.is_empty(), "another event before the start");
    ensure!(last.0 == "exit" && last.1 == "init", "another event after the exit");
    ensure!([3, KILLED].contains(&last.2), "status {}", last.2);
    // True once it has ended.
    let mut execs: BTreeMap<&str, bool> = BTreeMap::new();
    for (kind, pid, status) in &inner[..inner.len() - 1] {
        match kind.as_str() {
            "start-process" => ensure!(execs.insert(pid, false).is_none(), "{pid} starts twice"),
            "exit" => {
                let ended = execs.get_mut(pid.as_str());
                let ended = ended.with_context(|| format!("{pid} ends without a start"))?;
                ensure!(!std::mem::replace(ended, true), "{pid} ends twice");
                ensure!([4, KILLED].contains(status), "status {status} of {pid}");
            }
            kind => bail!("{kind} of {pid:?}"),
        }
    }
    ensure!(execs.values().all(|ended| *ended), "an exec has no exit");
    ensure!(added.iter().all(|name| execs.contains_key(name.as_str())), "{added:?} were started");
    Ok(())
}
