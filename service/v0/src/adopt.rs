//! Containers of an earlier daemon: found by the state folder, told apart by the supervisor.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_shim::process::Status;
use base_errors::Class;
use base_ident::filter::Filter;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::container::{Container, Note};
use crate::engine::{BUNDLE_LABEL, Engine, blocking};
use crate::legacy::{self, live};
use crate::process::Stdio;
use crate::state::{Found, INIT};
use crate::{Kind, state};

/// How long a shim may take to be reconnected before its container is taken for one that lives.
const LIMIT: Duration = Duration::from_secs(30);
/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// A container that was found.
struct Adoptee {
    container: Arc<Container>,
    /// Its execs, before clients can add others.
    execs: Vec<String>,
    noted: mpsc::Receiver<Note>,
    verdict: Verdict,
}

/// What became of a container while nobody looked.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    /// It lives, or its shim will tell.
    Live,
    /// It has ended.
    Ended(u32),
    /// It was never started; nobody was told of it.
    Unstarted,
    /// No shim of ours knows it.
    Foreign,
}

impl Engine {
    /// See [`crate::Api::restore`].
    pub(crate) fn restore(this: &Arc<Self>) {
        let found = this.state.scan();
        let stale = this.stale_records(&found);
        if found.containers.is_empty()
            && found.gone.is_empty()
            && found.new.is_empty()
            && stale.is_empty()
        {
            return;
        }
        this.ready.send_replace(false);
        // Before the supervisor tells how those ended that it finds dead.
        if let Err(error) = this.listen() {
            tracing::error!(%error, "events of tasks are not heard");
        }
        let adoptees: Vec<Adoptee> = found.containers.iter().map(|id| this.adoptee(id)).collect();
        let engine = Arc::clone(this);
        this.job(async move {
            engine.finish_removals(&found);
            for id in stale {
                engine.delete_record(&id).await;
            }
            let judged = adoptees.into_iter().map(|adoptee| engine.judge(adoptee));
            for adoptee in futures_util::future::join_all(judged).await {
                tracing::info!(
                    id = adoptee.container.id,
                    verdict = ?adoptee.verdict,
                    "container of an earlier daemon"
                );
                // One that has ended is seen until its exit is told, as one that ends under this
                // daemon: who does not find a container any more finds its exit in the log.
                if !matches!(adoptee.verdict, Verdict::Unstarted) {
                    adoptee.container.set_started();
                }
                let owner = Arc::clone(&engine);
                engine.job(async move { owner.adopt(adoptee).await });
            }
            engine.ready.send_replace(true);
        });
    }

    /// Records of containers whose state folder has gone, with a reboot for one.
    fn stale_records(&self, found: &Found) -> Vec<String> {
        let records = self
            .metadata
            .view(|tx| Ok(tx.containers(self.namespace(), &Filter::default())?))
            .inspect_err(|error| tracing::error!(%error, "reading records"))
            .unwrap_or_default();
        let known: BTreeSet<&str> = found.containers.iter().map(String::as_str).collect();
        records
            .into_iter()
            .filter(|record| record.labels.contains_key(BUNDLE_LABEL))
            .map(|record| record.id)
            .filter(|id| !known.contains(id.as_str()))
            .collect()
    }

    /// Takes the name of a container that was found.
    fn adoptee(&self, id: &str) -> Adoptee {
        // A damaged file costs what stood in it, not the container.
        let stored = self.state.read_container(id).unwrap_or_default();
        let runtime = stored.runtime.clone();
        let (container, noted) = Container::new(id, stored, runtime);
        for (name, stored) in state::processes(&self.state.container(id)) {
            let stored = stored.unwrap_or_default();
            let stdio = stored.stdio();
            let message = stored.process.message(&name, &stdio);
            if let Err(error) = container.add(&name, message, stdio) {
                tracing::warn!(id, name, %error, "a process is left out");
            }
            let pid = state::read_pid(&self.state.process(id, &name));
            container.set_pid(&name, pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0));
        }
        self.containers().insert(id.to_owned(), Arc::clone(&container));
        let execs = container.exec_names();
        Adoptee { container, execs, noted, verdict: Verdict::Live }
    }

    /// Finishes what was on its way in or out.
    fn finish_removals(&self, found: &Found) {
        for (path, id) in &found.gone {
            // Without a recorded exit it was a start that failed.
            if let Some((status, time)) = state::read_exit(&path.join(INIT))
                && !self.log.has(Kind::Exit, id, INIT, time)
            {
                self.log.append(Kind::Exit, id, INIT, status);
            }
            state::remove(path);
        }
        for path in &found.new {
            state::remove(path);
        }
    }

    /// Finds out what became of a container.
    async fn judge(&self, mut adoptee: Adoptee) -> Adoptee {
        let id = &adoptee.container.id.clone();
        if let Some((status, _)) = state::read_exit(&self.state.process(id, INIT))
            && self.supervisor.exists(self.namespace(), id)
        {
            // The last daemon died while it cleaned up.
            adoptee.verdict = Verdict::Ended(status);
            return adoptee;
        }
        let end = Instant::now() + LIMIT;
        adoptee.verdict = loop {
            match self.supervisor.get(self.namespace(), id, "").await {
                Ok(process) => {
                    if process.pid != 0 {
                        adoptee.container.set_pid(INIT, process.pid);
                    }
                    break match process.status() {
                        Status::Stopped => Verdict::Ended(process.exit_status),
                        Status::Created => Verdict::Unstarted,
                        _ => Verdict::Live,
                    };
                }
                Err(error) if error.is_not_found() => break self.missing(&mut adoptee),
                Err(error) if error.class() == Class::Unavailable && Instant::now() < end => {
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(id, %error, "asking for a container of an earlier daemon");
                    break Verdict::Live;
                }
            }
        };
        adoptee
    }

    /// What became of a container that the supervisor does not know, or not any more.
    fn missing(&self, adoptee: &mut Adoptee) -> Verdict {
        while let Ok(note) = adoptee.noted.try_recv() {
            if let Note::Exit { status, .. } = note {
                return Verdict::Ended(status);
            }
        }
        match state::read_exit(&self.state.process(&adoptee.container.id, INIT)) {
            Some((status, _)) => Verdict::Ended(status),
            None => Verdict::Foreign,
        }
    }

    /// Goes on with a container from where the last daemon left it.
    async fn adopt(self: Arc<Self>, adoptee: Adoptee) {
        let Adoptee { container, execs, noted, verdict } = adoptee;
        let id = &container.id;
        for (path, name) in state::gone_processes(&self.state.container(id)) {
            if let Some((status, time)) = state::read_exit(&path)
                && !self.log.has(Kind::Exit, id, &name, time)
            {
                self.log.append(Kind::Exit, id, &name, status);
            }
            state::remove(&path);
        }
        match verdict {
            Verdict::Live => {
                self.tell_start(&container);
                self.adopt_execs(&container, execs);
                self.watch(&container, noted).await;
            }
            // What its shim has left, the runtime takes away.
            Verdict::Ended(_) if !container.stored.shim.is_empty() => self.bury(&container).await,
            Verdict::Ended(status) => {
                self.tell_start(&container);
                self.adopt_execs(&container, execs);
                self.end(&container, status).await;
            }
            Verdict::Unstarted => self.discard(&container, true).await,
            // Nobody was told of one that never came to a process.
            Verdict::Foreign if !self.was_told(&container) => self.discard(&container, true).await,
            Verdict::Foreign => self.keep(&container, execs).await,
        }
    }

    /// Tells the start of a container if the last daemon died before it could, so that no exit is
    /// told without a start. The pid is recorded right after the telling.
    fn tell_start(&self, container: &Container) {
        if !self.was_told(container) {
            let id = &container.id;
            self.log.append(Kind::StartContainer, id, "", 0);
            self.state.write_pid(id, INIT, container.pid());
        }
    }

    /// True if the start of a container was told, as far as this can be known: one of the real 0.2,
    /// which kept no log over restarts, counts as soon as it has a process.
    fn was_told(&self, container: &Container) -> bool {
        let id = &container.id;
        let init = self.state.process(id, INIT);
        if !container.stored.shim.is_empty() {
            return init.is_dir();
        }
        let claimed = self.state.claimed(id, None);
        state::read_pid(&init).is_some()
            || claimed.is_some_and(|at| self.log.has(Kind::StartContainer, id, "", at))
    }

    /// Goes on with the execs of a container.
    fn adopt_execs(self: &Arc<Self>, container: &Arc<Container>, execs: Vec<String>) {
        for name in execs {
            let Some(process) = container.process(&name) else { continue };
            let (engine, ours) = (Arc::clone(self), Arc::clone(container));
            container.run_exec(async move {
                engine.adopt_exec(&ours, &name, &process.stdio).await;
            });
        }
    }

    async fn adopt_exec(&self, container: &Container, name: &str, stdio: &Stdio) {
        let id = &container.id;
        if let Some((status, _)) = state::read_exit(&self.state.process(id, name)) {
            self.finish_exec(container, name, stdio, status).await;
            return;
        }
        let told = || {
            let claimed = self.state.claimed(id, Some(name));
            claimed.is_none_or(|claimed| self.log.has(Kind::StartProcess, id, name, claimed))
        };
        if state::read_pid(&self.state.process(id, name)).is_none() && !told() {
            match self.supervisor.get(self.namespace(), id, name).await {
                Ok(process) if process.pid != 0 => {
                    container.set_pid(name, process.pid);
                    self.log.append(Kind::StartProcess, id, name, 0);
                    self.state.write_pid(id, name, process.pid);
                }
                // It was never started; nobody was told of it.
                _ => return self.discard_exec(container, name).await,
            }
        }
        self.watch_exec(container, name, stdio).await;
    }

    /// Looks after a container below a shim of the real 0.2 until that shim has ended.
    async fn keep(self: &Arc<Self>, container: &Arc<Container>, execs: Vec<String>) {
        let id = &container.id;
        let init = self.state.process(id, INIT);
        if live::is_watched(&init) {
            container.set_old();
            tracing::info!(id, "container below a shim of 0.2");
            for name in execs {
                let Some(process) = container.process(&name) else { continue };
                let (engine, ours) = (Arc::clone(self), Arc::clone(container));
                container.run_exec(async move {
                    engine.watch_exec(&ours, &name, &process.stdio).await;
                });
            }
            let oom = live::watch_oom(&init, || self.log.append(Kind::Oom, id, "", 0));
            tokio::select! {
                () = live::ended(&init) => {}
                () = oom => {}
            }
            self.finish_execs(container).await;
        }
        self.bury(container).await;
    }

    /// Ends and reports what is left of a container without a shim.
    async fn bury(&self, container: &Arc<Container>) {
        let id = &container.id;
        let mut names = container.exec_names();
        names.push(INIT.to_owned());
        let mut statuses = Vec::new();
        for name in names {
            let folder = self.state.process(id, &name);
            let status = blocking(move || Ok(legacy::end_process(&folder))).await;
            statuses.push((name, status.unwrap_or(crate::exit::UNKNOWN_STATUS)));
        }
        for (name, status) in &statuses {
            self.state.write_exit(id, name, *status);
        }
        legacy::delete(id, &container.stored).await;
        self.delete_record(id).await;
        let gone = {
            let mut containers = self.containers();
            containers.remove(id);
            let gone = self.state.retire(id, None);
            for (name, status) in statuses {
                self.log.append(Kind::Exit, id, &name, status);
            }
            gone
        };
        if let Some(gone) = gone {
            state::remove(&gone);
        }
    }
}
