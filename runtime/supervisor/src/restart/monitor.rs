//! The loop of the restart monitor: events in, starts and stops out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api_shim::events::{ContainerCreate, ContainerUpdate, TaskDelete, TaskExit};
use api_shim::process::Status;
use api_shim::typeurl;
use base_errors::Class;
use base_ident::Namespace;
use runtime_event::{Envelope, Exchange, Subscription};
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    COUNT_LABEL, RestartContainer, RestartRecords, STATUS_LABEL, Seen, Step, count, decide, log_uri,
};
use crate::supervisor::Supervisor;
use crate::{CreateTask, TaskError};

/// The first pause before a container is started again. Each further one is twice as long, up to
/// the interval: a container that cannot run must not keep the node busy.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Containers that are looked at or started at once; the start queue bounds the starts themselves.
const MAX_AT_ONCE: usize = 64;
/// SIGKILL.
const KILL: u32 = 9;
/// The filters of the events that tell something.
const EVENTS: [&str; 4] = [
    "topic==\"/tasks/exit\"",
    "topic==\"/tasks/delete\"",
    "topic==\"/containers/create\"",
    "topic==\"/containers/update\"",
];

type Key = (Namespace, String);

/// Starts and stops containers as their labels ask for. Cheap to clone.
#[derive(Clone)]
pub struct RestartMonitor {
    supervisor: Supervisor,
    exchange: Exchange,
    records: Arc<dyn RestartRecords>,
    interval: Duration,
}

/// What is known about one container with the label.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// When it is looked at next, if it is.
    due: Option<Instant>,
    /// Somebody is at it.
    busy: bool,
    /// The pause before its last start.
    pause: Duration,
    /// When it was started here.
    started: Option<Instant>,
    /// The status of its last end.
    last: Option<u32>,
    /// Its shim has died: nobody else starts it.
    died: bool,
    /// The pid of a task that was created, not started, when it was looked at before.
    created: Option<u32>,
}

/// What a look or an action came to.
struct Outcome {
    key: Key,
    result: Looked,
}

enum Looked {
    /// It has no label any more.
    Gone,
    /// Nothing to do.
    Fine,
    /// It is looked at again later, for a client may be at it. The pid of its created task.
    Later(Option<u32>),
    Started,
    Failed,
}

impl RestartMonitor {
    /// A monitor over `records`, which looks at everything each `interval`.
    #[must_use]
    pub fn new(
        supervisor: Supervisor,
        exchange: Exchange,
        records: Arc<dyn RestartRecords>,
        interval: Duration,
    ) -> Self {
        RestartMonitor { supervisor, exchange, records, interval }
    }

    /// Works until it is dropped. To be called when the shims are adopted: before, nobody knows
    /// which tasks there are.
    ///
    /// CANCEL: a start or stop that runs when this is dropped may be half done; the next daemon sees
    /// what is there, and goes on from it.
    ///
    /// # Errors
    /// Resource exhausted if there are too many subscribers.
    pub async fn run(self) -> base_errors::Result<()> {
        let mut events = self.exchange.subscribe(&EVENTS)?;
        let mut deaths = self.supervisor.inner.deaths.subscribe();
        let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
        let mut work: JoinSet<Outcome> = JoinSet::new();
        let mut sweep = Instant::now();
        loop {
            self.begin(&mut entries, &mut work);
            let next = if work.len() < MAX_AT_ONCE {
                entries.values().filter(|entry| !entry.busy).filter_map(|entry| entry.due).min()
            } else {
                None
            };
            tokio::select! {
                event = events.next() => self.note(&mut entries, &event),
                died = deaths.recv() => match died {
                    Ok(key) => self.note_death(&mut entries, key),
                    // The sweep finds them.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                Some(outcome) = work.join_next() => if let Ok(outcome) = outcome {
                    self.settle(&mut entries, &outcome);
                },
                () = sleep_until(next.unwrap_or(sweep).min(sweep)) => {
                    if Instant::now() >= sweep {
                        self.sweep(&mut entries);
                        sweep = Instant::now() + self.interval;
                    }
                }
            }
            drain(&mut events, |event| self.note(&mut entries, event));
        }
    }

    /// Begins to look at what is due.
    fn begin(&self, entries: &mut BTreeMap<Key, Entry>, work: &mut JoinSet<Outcome>) {
        let now = Instant::now();
        for (key, entry) in entries.iter_mut() {
            if work.len() >= MAX_AT_ONCE {
                return;
            }
            if entry.busy || entry.due.is_none_or(|due| due > now) {
                continue;
            }
            (entry.busy, entry.due) = (true, None);
            let (monitor, key, known) = (self.clone(), key.clone(), *entry);
            work.spawn(async move {
                let result = monitor.look(&key, known).await;
                Outcome { key, result }
            });
        }
    }

    /// Everything with the label is looked at once; what has lost it is forgotten.
    fn sweep(&self, entries: &mut BTreeMap<Key, Entry>) {
        let labelled = self.records.labelled();
        let now = Instant::now();
        let mut old = std::mem::take(entries);
        for key in labelled {
            let mut entry = old.remove(&key).unwrap_or_default();
            // One that waits for its next start waits on.
            entry.due.get_or_insert(now);
            entries.insert(key, entry);
        }
        entries.extend(old.into_iter().filter(|(_, entry)| entry.busy));
    }

    /// The entry of a container that has the label.
    fn entry<'a>(
        &self,
        entries: &'a mut BTreeMap<Key, Entry>,
        namespace: &Namespace,
        id: &str,
    ) -> Option<&'a mut Entry> {
        let key = (namespace.clone(), id.to_owned());
        if !entries.contains_key(&key) {
            let container = self.records.container(namespace, id)?;
            container.labels.get(STATUS_LABEL)?;
        }
        Some(entries.entry(key).or_default())
    }

    fn note(&self, entries: &mut BTreeMap<Key, Entry>, event: &Envelope) {
        let (namespace, event, now) = (&event.namespace, &event.event, Instant::now());
        if let Ok(exit) = typeurl::decode::<TaskExit>(event) {
            if exit.id == exit.container_id
                && let Some(entry) = self.entry(entries, namespace, &exit.container_id)
            {
                entry.last = Some(exit.exit_status);
                let lived = entry.started.map(|started| now.duration_since(started));
                entry.pause = match lived {
                    Some(lived) if lived < self.interval => {
                        (entry.pause * 2).max(FIRST_PAUSE).min(self.interval)
                    }
                    _ => FIRST_PAUSE.min(self.interval),
                };
                entry.due = Some(now + entry.pause);
            }
        } else if let Ok(delete) = typeurl::decode::<TaskDelete>(event) {
            if delete.id.is_empty() || delete.id == delete.container_id {
                let entry = self.entry(entries, namespace, &delete.container_id);
                // Whoever deleted it may be about to make another one.
                if let Some(entry) = entry
                    && !entry.busy
                    && !entry.died
                {
                    entry.due = Some(now + self.interval);
                }
            }
        } else if let Ok(update) = typeurl::decode::<ContainerUpdate>(event) {
            let labelled = update.labels.contains_key(STATUS_LABEL);
            let entry = if labelled { self.entry(entries, namespace, &update.id) } else { None };
            if let Some(entry) = entry {
                // Our own change of the count comes here as well: then the entry is busy, and what
                // it finds afterwards is what it was about to do.
                let due = now + entry.pause;
                entry.due = Some(entry.due.map_or(due, |known| known.min(due)));
            }
        } else if let Ok(create) = typeurl::decode::<ContainerCreate>(event)
            && let Some(entry) = self.entry(entries, namespace, &create.id)
        {
            *entry = Entry { busy: entry.busy, ..Entry::default() };
            entry.due = Some(now + self.interval);
        }
    }

    fn note_death(&self, entries: &mut BTreeMap<Key, Entry>, key: Key) {
        if let Some(entry) = self.entry(entries, &key.0, &key.1) {
            entry.died = true;
            entry.due = Some(Instant::now() + entry.pause.max(FIRST_PAUSE));
        }
    }

    fn settle(&self, entries: &mut BTreeMap<Key, Entry>, outcome: &Outcome) {
        let now = Instant::now();
        let Some(entry) = entries.get_mut(&outcome.key) else { return };
        entry.busy = false;
        match outcome.result {
            Looked::Gone => {
                entries.remove(&outcome.key);
            }
            Looked::Fine => entry.created = None,
            Looked::Later(created) => {
                entry.created = created;
                let due = now + self.interval;
                entry.due = Some(entry.due.map_or(due, |known| known.min(due)));
            }
            Looked::Started => {
                (entry.started, entry.created, entry.died) = (Some(now), None, false);
                if entry.pause.is_zero() {
                    entry.pause = FIRST_PAUSE.min(self.interval);
                }
            }
            Looked::Failed => {
                entry.pause = (entry.pause * 2).max(FIRST_PAUSE).min(self.interval);
                entry.due = Some(now + entry.pause);
            }
        }
    }

    /// Looks at one container, and does what is to be done.
    async fn look(&self, key: &Key, known: Entry) -> Looked {
        let (namespace, id) = key;
        let Some(container) = self.records.container(namespace, id) else { return Looked::Gone };
        if !container.labels.contains_key(STATUS_LABEL) {
            return Looked::Gone;
        }
        let (seen, pid) = match self.supervisor.get(namespace, id, "").await {
            Ok(process) => {
                (Seen::Process(process.status(), process.exit_status), Some(process.pid))
            }
            Err(error) if error.is_not_found() && !self.supervisor.exists(namespace, id) => {
                (Seen::Absent, None)
            }
            Err(_) => (Seen::Unsure, None),
        };
        let settled = match seen {
            Seen::Process(Status::Created, _) => pid.is_some() && known.created == pid,
            _ => known.died || untouched(&container, self.interval),
        };
        match decide(&container.labels, seen, settled, known.last) {
            Step::Nothing => Looked::Fine,
            Step::StartLater => Looked::Later(pid),
            Step::Start => {
                let started = self.start(namespace, &container).await;
                told(key, "restart", started, Looked::Started)
            }
            Step::Stop => {
                let stopped = self.stop(namespace, id).await;
                told(key, "stop", stopped, Looked::Fine)
            }
        }
    }

    /// Starts a container anew; a task that has ended is removed first.
    async fn start(
        &self,
        namespace: &Namespace,
        container: &RestartContainer,
    ) -> base_errors::Result<()> {
        let id = &container.id;
        let operation = self.supervisor.inner.operation("restart", namespace, id, None);
        operation.phase("counting");
        let times = count(&container.labels).saturating_add(1).to_string();
        self.records.set_label(namespace, id, COUNT_LABEL, times).await?;
        operation.phase("removing the task that ended");
        self.stop(namespace, id).await?;
        operation.phase("mounting");
        let rootfs = self.records.rootfs(namespace, container).await?;
        operation.phase("starting");
        let log = log_uri(&container.labels);
        let request = CreateTask {
            id: id.clone(),
            spec: container.spec.clone(),
            runtime: container.runtime.clone(),
            sandbox_id: container.sandbox_id.clone(),
            rootfs,
            stdout: log.clone(),
            stderr: log,
            terminal: has_terminal(container),
            ..CreateTask::default()
        };
        self.supervisor.create(namespace, request).await?;
        if let Err(error) = self.supervisor.start(namespace, id, "").await {
            operation.phase("undoing");
            if let Err(error) = self.supervisor.delete(namespace, id).await {
                tracing::warn!(task = %format!("{namespace}/{id}"), %error, "undoing a restart");
            }
            return Err(error);
        }
        tracing::info!(task = %format!("{namespace}/{id}"), "container is started again");
        Ok(())
    }

    /// Kills and removes the task of a container, if there is one.
    async fn stop(&self, namespace: &Namespace, id: &str) -> base_errors::Result<()> {
        let gone = |result: base_errors::Result<()>| match result {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        };
        let state = match self.supervisor.get(namespace, id, "").await {
            Ok(process) => process.status(),
            Err(error) => return gone(Err(error)),
        };
        match state {
            Status::Stopped => {}
            Status::Created | Status::Running | Status::Paused | Status::Pausing => {
                gone(self.supervisor.kill(namespace, id, "", KILL, true).await)?;
                // A process that a frozen group keeps from dying is let go.
                if matches!(state, Status::Paused | Status::Pausing) {
                    let _ = self.supervisor.resume(namespace, id).await;
                }
                let limit = self.supervisor.inner.config.timeouts.call;
                match timeout(limit, self.supervisor.wait(namespace, id, "")).await {
                    Ok(ended) => gone(ended.map(drop))?,
                    Err(_) => {
                        let text = format!("task {id} does not end after SIGKILL");
                        return Err(base_errors::Error::deadline_exceeded(text));
                    }
                }
            }
            Status::Unknown => return Err(TaskError::Reconnecting(id.to_owned()).into()),
        }
        gone(self.supervisor.delete(namespace, id).await.map(drop))
    }
}

/// Logs how an action ended.
fn told(
    (namespace, id): &Key,
    action: &str,
    result: base_errors::Result<()>,
    good: Looked,
) -> Looked {
    match result {
        Ok(()) => good,
        // Somebody else was faster.
        Err(error) if error.is_already_exists() => Looked::Fine,
        Err(error) => {
            let busy = error.class() == Class::Unavailable;
            tracing::error!(task = %format!("{namespace}/{id}"), %error, busy, action, "apply change");
            Looked::Failed
        }
    }
}

/// True if the record was not changed for that long.
fn untouched(container: &RestartContainer, interval: Duration) -> bool {
    // A clock that was set back must not keep a container down.
    SystemTime::now().duration_since(container.updated_at).map_or(true, |age| age >= interval)
}

/// Whether the spec asks for a terminal.
fn has_terminal(container: &RestartContainer) -> bool {
    #[derive(Deserialize)]
    struct Spec {
        process: Option<Process>,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        terminal: bool,
    }
    let spec = container.spec.as_ref();
    spec.and_then(|spec| serde_json::from_slice::<Spec>(&spec.value).ok())
        .and_then(|spec| spec.process)
        .is_some_and(|process| process.terminal)
}

/// Notes the events that wait already, so that a burst costs one turn of the loop.
fn drain(events: &mut Subscription, mut note: impl FnMut(&Envelope)) {
    while let Some(event) = events.try_next() {
        note(&event);
    }
}
