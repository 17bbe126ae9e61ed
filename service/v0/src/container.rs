//! What is known about a container beside its task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_grpc::v0;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::ApiError;
use crate::process::Stdio;
use crate::state::{INIT, StoredContainer};

/// What happened to a container, as its own work has to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// Its init process has ended.
    Exit { pid: u32, status: u32 },
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// The kernel killed for want of memory.
    Oom,
}

/// Notes that may wait; beyond it they are dropped, and the supervisor is asked for the exit.
pub(crate) const MAX_NOTES: usize = 1024;

/// Processes of one container at once; the shim's own bound.
const MAX_PROCESSES: usize = 4096;

/// A process of a container.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) message: v0::Process,
    pub(crate) stdio: Stdio,
}

/// A container of this API.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) stored: StoredContainer,
    /// The runtime as State shows it.
    pub(crate) runtime: String,
    pub(crate) notes: mpsc::Sender<Note>,
    inner: Mutex<Inner>,
    execs: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Inner {
    /// It was started, and whoever asked for it is answered.
    started: bool,
    /// It runs below a shim of the real 0.2; see `legacy`.
    old: bool,
    /// It has ended: nothing can be added.
    ending: bool,
    processes: BTreeMap<String, Process>,
}

impl Container {
    pub(crate) fn new(
        id: &str,
        stored: StoredContainer,
        runtime: String,
    ) -> (Arc<Self>, mpsc::Receiver<Note>) {
        let (notes, noted) = mpsc::channel(MAX_NOTES);
        let container = Container {
            id: id.to_owned(),
            stored,
            runtime,
            notes,
            inner: Mutex::default(),
            execs: Mutex::default(),
        };
        (Arc::new(container), noted)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it can be seen and used.
    pub(crate) fn set_started(&self) {
        self.lock().started = true;
    }

    pub(crate) fn is_started(&self) -> bool {
        self.lock().started
    }

    /// From now on it is known to run below a shim of the real 0.2.
    pub(crate) fn set_old(&self) {
        self.lock().old = true;
    }

    /// True if the supervisor does not know it, because it runs below a shim of the real 0.2.
    pub(crate) fn is_old(&self) -> bool {
        self.lock().old
    }

    /// Adds a process.
    ///
    /// # Errors
    /// [`ApiError::TooMany`].
    pub(crate) fn add(
        &self,
        name: &str,
        message: v0::Process,
        stdio: Stdio,
    ) -> Result<(), ApiError> {
        let mut inner = self.lock();
        if inner.processes.len() >= MAX_PROCESSES {
            return Err(ApiError::TooMany("processes"));
        }
        inner.processes.insert(name.to_owned(), Process { message, stdio });
        Ok(())
    }

    /// Notes the pid of a process on the host.
    pub(crate) fn set_pid(&self, name: &str, pid: u32) {
        if let Some(process) = self.lock().processes.get_mut(name) {
            process.message.system_pid = pid;
        }
    }

    /// Pid of the init process, zero if it is not known.
    pub(crate) fn pid(&self) -> u32 {
        self.process(INIT).map_or(0, |process| process.message.system_pid)
    }

    pub(crate) fn process(&self, name: &str) -> Option<Process> {
        self.lock().processes.get(name).cloned()
    }

    pub(crate) fn remove(&self, name: &str) {
        self.lock().processes.remove(name);
    }

    /// The processes that run.
    pub(crate) fn processes(&self) -> Vec<v0::Process> {
        let inner = self.lock();
        let running = inner.processes.values().filter(|process| process.message.system_pid != 0);
        running.map(|process| process.message.clone()).collect()
    }

    /// How many processes there are, the first among them.
    pub(crate) fn count(&self) -> usize {
        self.lock().processes.len()
    }

    /// The names of all processes but the first.
    pub(crate) fn exec_names(&self) -> Vec<String> {
        self.lock().processes.keys().filter(|name| *name != INIT).cloned().collect()
    }

    /// The exec id of a process for the supervisor: none for the first.
    ///
    /// # Errors
    /// [`ApiError::ProcessNotFound`].
    pub(crate) fn exec_id<'a>(&self, name: &'a str) -> Result<&'a str, ApiError> {
        if !self.lock().processes.contains_key(name) {
            return Err(ApiError::ProcessNotFound);
        }
        Ok(if name == INIT { "" } else { name })
    }

    /// Runs the life of an exec, whoever waits for it. False if the container has ended.
    pub(crate) fn run_exec(&self, life: impl Future<Output = ()> + Send + 'static) -> bool {
        if self.lock().ending {
            return false;
        }
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        while execs.try_join_next().is_some() {}
        execs.spawn(life);
        true
    }

    /// The lives of all execs; none can be added from now on.
    pub(crate) fn end(&self) -> JoinSet<()> {
        self.lock().ending = true;
        std::mem::take(&mut *self.execs.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
