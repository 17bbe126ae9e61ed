//! One task: its shim, and what is known about its end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api_shim::events::{TaskDelete, TaskExit};
use api_shim::{Any, Timestamp, typeurl};
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::connection::Connection;
use crate::supervisor::Helper;

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Exit {
    /// Exec id; empty for the init process.
    pub id: String,
    /// Pid on the host, zero if it is not known.
    pub pid: u32,
    /// Exit status: 128 and the signal if one killed it, 255 if nobody knows.
    pub status: u32,
    /// When.
    pub exited_at: Option<Timestamp>,
}

/// How far a task is removed.
#[derive(Clone, Debug)]
pub(crate) enum Removal {
    /// Not at all.
    None,
    /// Somebody is at it.
    Running,
    /// The task is gone; this is how it ended.
    Done(Exit),
}

/// A task and its shim.
pub(crate) struct Task {
    pub(crate) bundle: Bundle,
    pub(crate) connection: Connection,
    /// The program of the shim.
    pub(crate) program: PathBuf,
    /// Options of the runtime, for the program.
    pub(crate) options: Option<Any>,
    /// True if the shim is that of a sandbox, which ends it.
    pub(crate) shared: bool,
    pid: AtomicU32,
    exit: watch::Sender<Option<Exit>>,
    /// The shim has not answered in time, and not since.
    silent: watch::Sender<bool>,
    removal: watch::Sender<Removal>,
    facts: Mutex<Facts>,
}

#[derive(Default)]
struct Facts {
    /// The event of the init's exit went out, from the shim or from us.
    exit_published: bool,
    /// It came from us: one that the shim sends later is dropped.
    exit_synthesised: bool,
    /// The event of the deletion went out.
    delete_published: bool,
    /// What runs for this task until it is gone.
    helpers: Vec<Helper>,
}

impl Task {
    pub(crate) fn new(
        bundle: Bundle,
        connection: Connection,
        program: PathBuf,
        options: Option<Any>,
        shared: bool,
        pid: u32,
    ) -> Self {
        Task {
            bundle,
            connection,
            program,
            options,
            shared,
            pid: AtomicU32::new(pid),
            exit: watch::Sender::new(None),
            silent: watch::Sender::new(false),
            removal: watch::Sender::new(Removal::None),
            facts: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.bundle.id
    }

    /// Pid of the init process, zero if it is not known.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Notes the pid of the init process once it is known: that of a restored task comes with its
    /// start, that of a shim that did not answer with its answer.
    pub(crate) fn set_pid(&self, pid: u32) {
        if pid != 0 {
            self.pid.store(pid, Ordering::Relaxed);
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `helper` end with the task.
    pub(crate) fn add_helper(&self, helper: Helper) {
        self.facts().helpers.push(helper);
    }

    /// Ends what runs for this task.
    pub(crate) fn abort_helpers(&self) {
        let helpers = std::mem::take(&mut self.facts().helpers);
        drop(helpers);
    }

    /// True if the shim has not answered in time, and not since.
    pub(crate) fn is_silent(&self) -> bool {
        *self.silent.borrow()
    }

    /// Notes whether the shim answers; false if that is known.
    pub(crate) fn set_silent(&self, silent: bool) -> bool {
        self.silent.send_if_modified(|known| std::mem::replace(known, silent) != silent)
    }

    /// Waits until a silent shim answers again.
    pub(crate) async fn speaks(&self) {
        // The sender lives as long as `self`.
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
    }

    /// Records how the init process ended. The first record stays.
    pub(crate) fn set_exit(&self, exit: Exit) {
        self.exit.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(exit);
            }
            first
        });
    }

    /// How the init process ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    /// Waits for the end of the init process.
    pub(crate) async fn wait(&self) -> Option<Exit> {
        let mut exit = self.exit.subscribe();
        // The sender lives as long as `self`.
        exit.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Claims the removal; false if somebody else has it.
    pub(crate) fn claim_removal(&self) -> bool {
        self.removal.send_if_modified(|removal| {
            let free = matches!(removal, Removal::None);
            if free {
                *removal = Removal::Running;
            }
            free
        })
    }

    /// Gives the removal back, or ends it.
    pub(crate) fn set_removal(&self, removal: Removal) {
        self.removal.send_replace(removal);
    }

    /// Waits until nobody is at the removal any more, and tells how far it is.
    pub(crate) async fn settled_removal(&self) -> Removal {
        let mut removal = self.removal.subscribe();
        match removal.wait_for(|removal| !matches!(removal, Removal::Running)).await {
            Ok(removal) => removal.clone(),
            // The sender lives as long as `self`.
            Err(_) => Removal::None,
        }
    }

    /// Waits until the task is removed.
    pub(crate) async fn removed(&self) -> Option<Exit> {
        let mut removal = self.removal.subscribe();
        let done = removal.wait_for(|removal| matches!(removal, Removal::Done(_))).await.ok()?;
        match &*done {
            Removal::Done(exit) => Some(exit.clone()),
            Removal::None | Removal::Running => None,
        }
    }

    /// Notes the exit event of the shim. False if it was published in the shim's place already.
    pub(crate) fn note_exit_event(&self) -> bool {
        let mut facts = self.facts();
        if facts.exit_synthesised {
            return false;
        }
        facts.exit_published = true;
        true
    }

    /// Notes the deletion event of the shim. False if it was published in the shim's place already.
    pub(crate) fn note_delete_event(&self) -> bool {
        !std::mem::replace(&mut self.facts().delete_published, true)
    }

    /// The exit event, if nobody has published it; counts as published from now on.
    pub(crate) fn take_exit_event(&self, exit: &Exit) -> Option<Any> {
        let mut facts = self.facts();
        if facts.exit_published {
            return None;
        }
        facts.exit_published = true;
        facts.exit_synthesised = true;
        Some(typeurl::encode(&TaskExit {
            container_id: self.bundle.id.clone(),
            id: self.bundle.id.clone(),
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: exit.exited_at,
        }))
    }

    /// The deletion event, if nobody has published it; counts as published from now on.
    pub(crate) fn take_delete_event(&self, exit: &Exit) -> Option<Any> {
        let mut facts = self.facts();
        if facts.delete_published {
            return None;
        }
        facts.delete_published = true;
        Some(typeurl::encode(&TaskDelete {
            container_id: self.bundle.id.clone(),
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: exit.exited_at,
            id: String::new(),
        }))
    }
}
