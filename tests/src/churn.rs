//! Many short lives of containers, while daemons and shims are killed: what is left, and what was
//! told about the ends.
//!
//! The clients are those of the Rust client library; each life is a snapshot, a record, a task, an
//! exec, and the removal of all of it. A client that is told that something failed goes on from what
//! it finds, as clients do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api_grpc::containers::{
    Container, CreateContainerRequest, DeleteContainerRequest, ListContainersRequest,
};
use api_grpc::events::SubscribeRequest;
use api_grpc::leases::{
    CreateRequest as CreateLease, DeleteRequest as DeleteLease, ListRequest as ListLeases,
};
use api_grpc::snapshots::{
    ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use api_shim::events::TaskExit;
use api_shim::process::Status;
use api_shim::typeurl;
use base_errors::{Class, Error};
use client::stdio::{Stdio, Streams};
use client::task::{NewTask, Process};
use client::{Client, Connect};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::world::IMAGE;
use crate::{World, memory, process, wait};

/// How long one life may take, with all the kills in it.
const LIFE: Duration = Duration::from_secs(120);
/// How long a client waits before it asks a daemon again that did not answer.
const PAUSE: Duration = Duration::from_millis(20);
/// The shortest and the longest time between two kills.
const KILLS: (u64, u64) = (100, 900);
/// Memory may grow by this factor, and by this much beside it, between the middle and the end.
const GROWTH: (f64, u64) = (1.25, 2 << 20);

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Lives of containers while daemon and shims are killed.
    pub wild: usize,
    /// Lives after that, while nothing is killed and the daemon's memory is looked at.
    pub calm: usize,
    /// Clients at the same time.
    pub clients: usize,
    /// The kills are drawn from this.
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Daemons that were killed.
    pub daemons: usize,
    /// Shims that were killed.
    pub shims: usize,
    /// Lives that came to their end as if nothing had been killed.
    pub whole: usize,
    /// Exits that were told, of containers and execs.
    pub exits: usize,
    /// Lives per second in the calm part.
    pub rate: f64,
    /// Private dirty bytes of the daemon in the middle and at the end of the calm part.
    pub memory: (u64, u64),
}

/// The exits that were told: of which container, process and pid; by which daemon, which status.
type Told = Arc<Mutex<BTreeMap<(String, String, u32), Vec<(u64, u32)>>>>;

/// What all lives share.
#[derive(Clone)]
struct Shared {
    client: Client,
    template: Container,
    parent: String,
    fifos: PathBuf,
    told: Told,
    /// Even while a daemon runs and its events are heard; grows with each change.
    epoch: watch::Receiver<u64>,
    whole: Arc<AtomicUsize>,
}

/// Lets `plan` happen in `world`, and checks what came of it.
///
/// # Errors
///
/// A life that does not end, an exit that is told twice or not at all, memory that grows, anything
/// that is left behind.
pub fn run(world: &World, plan: Plan) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (epochs, epoch) = watch::channel(1);
    let (told, sessions) = (Told::default(), Arc::new(AtomicU64::new(0)));
    let shared = runtime.block_on(shared(world, Arc::clone(&told), epoch))?;
    let ear = runtime.spawn(hear(shared.client.clone(), Arc::clone(&told), Arc::clone(&sessions)));
    runtime.block_on(async {
        let heard = async {
            while sessions.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(wait::PATIENCE, heard).await.context("no events")
    })?;
    epochs.send_modify(|epoch| *epoch += 1);
    let mut figures = Figures::default();
    let (worked, killed) = std::thread::scope(|scope| {
        let wild = lives(&shared, "wild", plan.wild, plan.clients);
        let worker = scope.spawn(|| runtime.block_on(wild));
        // Here, and not on a thread of its own: a daemon ends with the thread that has started it.
        let killed = kill(world, plan.seed, &epochs, &sessions, || worker.is_finished());
        (worker.join(), killed)
    });
    worked.map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    (figures.daemons, figures.shims) = killed?;
    calm(world, plan, &runtime, &shared, &mut figures)?;
    ear.abort();
    figures.whole = shared.whole.load(Ordering::SeqCst);
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    for (process, told) in &*told {
        // What a daemon tells and dies, its shim tells the next one again; nobody tells it twice.
        let twice = told.iter().zip(told.iter().skip(1)).any(|(one, next)| one.0 == next.0);
        ensure!(!twice, "the exit of {process:?} was told twice: {told:?}");
    }
    figures.exits = told.len();
    drop(told);
    runtime.block_on(nothing_recorded(&shared))?;
    world.assert_clean().map_err(|error| {
        let history = history(&world.log(), &error.to_string());
        error.context(format!("--what the daemons said of them--\n{history}"))
    })?;
    Ok(figures)
}

/// The lines of `log` that speak of the lives that `text` names.
fn history(log: &str, text: &str) -> String {
    let ids: BTreeSet<&str> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-')
        .filter(|word| ["wild-", "calm-a-", "calm-b-"].iter().any(|name| word.starts_with(name)))
        .collect();
    let of = |line: &str, id: &str| {
        let after = line.split(id).skip(1);
        after.into_iter().any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let lines: Vec<&str> = log.lines().filter(|line| ids.iter().any(|id| of(line, id))).collect();
    lines.join("\n")
}

/// The part without kills.
fn calm(
    world: &World,
    plan: Plan,
    runtime: &tokio::runtime::Runtime,
    shared: &Shared,
    figures: &mut Figures,
) -> Result<()> {
    if plan.calm == 0 {
        return Ok(());
    }
    let half = plan.calm.div_ceil(2);
    let begin = Instant::now();
    runtime.block_on(lives(shared, "calm-a", half, plan.clients))?;
    let middle = memory::private_dirty(world.daemon_pid()?)?;
    runtime.block_on(lives(shared, "calm-b", half, plan.clients))?;
    let end = memory::private_dirty(world.daemon_pid()?)?;
    #[expect(clippy::cast_precision_loss, reason = "some thousand at most")]
    {
        figures.rate = (2 * half) as f64 / begin.elapsed().as_secs_f64();
        figures.memory = (middle, end);
        let limit = (middle as f64).mul_add(GROWTH.0, GROWTH.1 as f64);
        ensure!(end as f64 <= limit, "the daemon grew from {middle} to {end} bytes");
    }
    Ok(())
}

async fn shared(world: &World, told: Told, epoch: watch::Receiver<u64>) -> Result<Shared> {
    const TEMPLATE: &str = "template";
    world.ctr(&format!("containers create {IMAGE} {TEMPLATE} sleep 1000"))?;
    let options = Connect { timeout: wait::PATIENCE };
    let client = Client::connect_with(world.socket(), world.namespace(), &options).await;
    let client = client.map_err(failed)?;
    let template = client.container(TEMPLATE).await.map_err(failed)?;
    let request = StatSnapshotRequest {
        snapshotter: template.snapshotter.clone(),
        key: template.snapshot_key.clone(),
    };
    let parent = client.snapshots().stat(request).await?.into_inner().info;
    let parent = parent.context("no snapshot")?.parent;
    world.ctr(&format!("containers rm {TEMPLATE}"))?;
    let fifos = world.path("fifos");
    std::fs::create_dir_all(&fifos)?;
    let whole = Arc::default();
    Ok(Shared { client, template, parent, fifos, told, epoch, whole })
}

fn failed(error: Error) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}

/// `count` lives, `clients` at a time.
async fn lives(shared: &Shared, name: &str, count: usize, clients: usize) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (shared, next, name) = (shared.clone(), Arc::clone(&next), name.to_owned());
        running.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= count {
                    return anyhow::Ok(());
                }
                let id = format!("{name}-{number}");
                let life = tokio::time::timeout(LIFE, shared.life(&id, number % 3 != 0));
                life.await
                    .with_context(|| format!("{id} does not come to its end"))?
                    .with_context(|| id.clone())?;
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// Processes whose ends a client has seen: exec (empty for the first), pid, status.
type Ends = Vec<(&'static str, u32, u32)>;

impl Shared {
    /// One life. `long` ones run until they are killed, and have an exec.
    async fn life(&self, id: &str, long: bool) -> Result<()> {
        let mut epoch = self.epoch.clone();
        let calm = *epoch.wait_for(|epoch| epoch % 2 == 0).await?;
        let lived = self.live(id, long).await;
        let undisturbed = *epoch.borrow() == calm;
        // The rest may be anything now; it is cleared away whatever it is.
        self.clear(id).await?;
        let ends = match lived {
            Ok(ends) => ends,
            // A shim that is killed takes its container with it; then calls fail as they like.
            Err(_) => return Ok(()),
        };
        for (exec, pid, status) in ends {
            let process = if exec.is_empty() { id } else { exec };
            let key = (id.to_owned(), process.to_owned(), pid);
            let end = Instant::now() + wait::PATIENCE;
            loop {
                let told = {
                    let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.get(&key).cloned()
                };
                match told {
                    Some(told) => {
                        let same = told.iter().all(|(_, told)| *told == status);
                        ensure!(same, "{key:?}: told {told:?}, seen {status}");
                        break;
                    }
                    // Nobody may have listened when it was told.
                    None if !undisturbed || *epoch.borrow() != calm => return Ok(()),
                    None if Instant::now() > end => bail!("the end of {key:?} is not told"),
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
        }
        if undisturbed {
            self.whole.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn live(&self, id: &str, long: bool) -> base_errors::Result<Ends> {
        let command = if long { "[\"sleep\",\"1000\"]" } else { "[\"sh\",\"-c\",\"exit 7\"]" };
        let lease = CreateLease { id: id.to_owned(), ..CreateLease::default() };
        let client = self.client.with_lease(id)?;
        call(self.client.leases().create(lease).await)?;
        let prepare = PrepareSnapshotRequest {
            snapshotter: self.template.snapshotter.clone(),
            key: id.to_owned(),
            parent: self.parent.clone(),
            ..PrepareSnapshotRequest::default()
        };
        let rootfs = call(client.snapshots().prepare(prepare).await)?.mounts;
        let container = Some(self.container(id, command));
        call(client.containers().create(CreateContainerRequest { container }).await)?;
        let client = &self.client;
        let mut task = client.create_task(id, self.task(id, rootfs)).await?;
        let first = task.pid();
        task.start().await?;
        let mut ends = Vec::new();
        if long {
            let spec = br#"{"args":["/bin/sh","-c","exit 5"],"cwd":"/","user":{"uid":0,"gid":0}}"#;
            let mut exec =
                task.exec("exec", spec.to_vec(), self.task(id, Vec::new()).stdio).await?;
            exec.start().await?;
            let (pid, exit) = (exec.pid(), exec.wait().await?);
            exec.delete().await?;
            ends.push(("exec", pid, exit.status));
            task.kill(9, true).await?;
        }
        let exit = task.wait().await?;
        let deleted = task.delete().await?;
        if exit.status != deleted.status {
            let text = format!("ended with {}, deleted with {}", exit.status, deleted.status);
            return Err(Error::internal(text));
        }
        ends.push(("", first, exit.status));
        Ok(ends)
    }

    fn container(&self, id: &str, command: &str) -> Container {
        let mut container = self.template.clone();
        (container.created_at, container.updated_at) = (None, None);
        id.clone_into(&mut container.id);
        id.clone_into(&mut container.snapshot_key);
        if let Some(spec) = &mut container.spec {
            let text = String::from_utf8_lossy(&spec.value);
            spec.value = text
                .replace("[\"sleep\",\"1000\"]", command)
                // The control group is the only place in a spec of `ctr` that has the id.
                .replace("/template\"", &format!("/{id}\""))
                .into();
        }
        container
    }

    fn task(&self, id: &str, rootfs: Vec<api_shim::types::Mount>) -> NewTask {
        let streams = Streams {
            stdout: Some(Box::new(std::io::sink())),
            stderr: Some(Box::new(std::io::sink())),
            fifo_dir: self.fifos.join(id),
            ..Streams::default()
        };
        NewTask { rootfs, stdio: Stdio::Streams(streams), options: None, checkpoint: None }
    }

    /// Removes all that there may be of a container, until the daemon says that there is nothing.
    async fn clear(&self, id: &str) -> Result<()> {
        until(id, || self.remove_task(id)).await?;
        let key = id.to_owned();
        let snapshotter = self.template.snapshotter.clone();
        until(id, || async {
            let request =
                RemoveSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
            gone(call(self.client.snapshots().remove(request).await))
        })
        .await?;
        until(id, || async {
            let request = DeleteContainerRequest { id: key.clone() };
            gone(call(self.client.containers().delete(request).await))
        })
        .await?;
        until(id, || async {
            let request = DeleteLease { id: key.clone(), sync: false };
            gone(call(self.client.leases().delete(request).await))
        })
        .await?;
        // The client's own pipes, of calls that failed.
        let _ = std::fs::remove_dir_all(self.fifos.join(id));
        Ok(())
    }

    async fn remove_task(&self, id: &str) -> base_errors::Result<()> {
        let process: Process = match self.client.load_process(id, "").await {
            Ok(process) => process,
            Err(error) => return gone(Err(error)),
        };
        if process.status().await? != Status::Stopped {
            gone(process.kill(9, true).await)?;
            gone(process.wait().await.map(drop))?;
        }
        gone(process.delete().await.map(drop))?;
        // Found out by asking again.
        Err(Error::unavailable("deleted just now"))
    }
}

/// Asks until it works.
async fn until<F>(what: &str, mut work: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = base_errors::Result<()>>,
{
    let end = Instant::now() + wait::PATIENCE;
    loop {
        match work().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => bail!("clear {what}: {error:?}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Not there is as good as removed.
fn gone(result: base_errors::Result<()>) -> base_errors::Result<()> {
    match result {
        Err(error) if error.class() == Class::NotFound => Ok(()),
        other => other,
    }
}

fn call<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> base_errors::Result<T> {
    answer.map(tonic::Response::into_inner).map_err(api_grpc::status::from_status)
}

/// Hears the exits that the daemons tell, one daemon after the other, until it is aborted.
async fn hear(client: Client, told: Told, sessions: Arc<AtomicU64>) {
    loop {
        let filters = vec!["topic==\"/tasks/exit\"".to_owned()];
        if let Ok(answer) = client.events().subscribe(SubscribeRequest { filters }).await {
            let session = sessions.fetch_add(1, Ordering::SeqCst) + 1;
            let mut events = answer.into_inner();
            while let Ok(Some(envelope)) = events.message().await {
                let Some(event) = envelope.event else { continue };
                let Ok(exit) = typeurl::decode::<TaskExit>(&event) else { continue };
                let key = (exit.container_id, exit.id, exit.pid);
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.entry(key).or_default().push((session, exit.exit_status));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Kills shims and, one time in four, the daemon, until it is over; gives how many of each.
fn kill(
    world: &World,
    seed: u64,
    epochs: &watch::Sender<u64>,
    sessions: &AtomicU64,
    over: impl Fn() -> bool,
) -> Result<(usize, usize)> {
    let mut random = Random(seed);
    let (mut daemons, mut shims) = (0, 0);
    while !over() {
        std::thread::sleep(Duration::from_millis(random.between(KILLS.0, KILLS.1)));
        if random.between(0, 3) > 0 {
            let victims = world.shims();
            if let Some(choice) = random.choose(&victims)
                && process::signal(choice, Signal::KILL).is_ok()
            {
                shims += 1;
            }
            continue;
        }
        epochs.send_modify(|epoch| *epoch += 1);
        world.kill_daemon()?;
        let before = sessions.load(Ordering::SeqCst);
        world.start()?;
        wait::until("the events of the new daemon", || {
            // When all lives are over, nobody listens.
            ensure!(sessions.load(Ordering::SeqCst) > before || over());
            Ok(())
        })?;
        epochs.send_modify(|epoch| *epoch += 1);
        daemons += 1;
    }
    Ok((daemons, shims))
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    /// A number from `least` to `most`.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        // The generator of Knuth's MMIX; its high bits are good enough for this.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        least + (self.0 >> 33) % (most - least + 1)
    }

    fn choose(&mut self, from: &[i32]) -> Option<i32> {
        let last = u64::try_from(from.len().checked_sub(1)?).ok()?;
        from.get(usize::try_from(self.between(0, last)).ok()?).copied()
    }
}

/// Nothing of any life is in the records.
async fn nothing_recorded(shared: &Shared) -> Result<()> {
    let client = &shared.client;
    let containers = call(client.containers().list(ListContainersRequest::default()).await);
    let containers = containers.map_err(failed)?.containers;
    ensure!(containers.is_empty(), "{} containers are left", containers.len());
    let leases = call(client.leases().list(ListLeases::default()).await).map_err(failed)?.leases;
    ensure!(leases.is_empty(), "{} leases are left", leases.len());
    let request = ListSnapshotsRequest {
        snapshotter: shared.template.snapshotter.clone(),
        filters: vec!["kind==active".to_owned()],
    };
    let mut list = call(client.snapshots().list(request).await).map_err(failed)?;
    let mut snapshots = 0;
    while let Some(part) = list.message().await? {
        snapshots += part.info.len();
    }
    ensure!(snapshots == 0, "{snapshots} snapshots are left");
    Ok(())
}
