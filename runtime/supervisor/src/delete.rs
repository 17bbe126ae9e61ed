//! The end of a task: watched, asked for, or found out.

use std::sync::Arc;
use std::time::SystemTime;

use api_shim::events::{TaskDelete, TaskExit};
use api_shim::task::{DeleteRequest, DeleteResponse, WaitRequest, WaitResponse};
use api_shim::{Timestamp, typeurl};
use base_ident::Namespace;
use tokio::time::{sleep, timeout};

use crate::TaskError;
use crate::bundle::Bundle;
use crate::connection::CallError;
use crate::supervisor::{Inner, Supervisor, watch};
use crate::task::{Exit, Removal, Task};

/// The exit status of a process of which nobody knows how it ended.
const UNKNOWN_STATUS: u32 = 255;

impl Supervisor {
    /// Deletes a task whose init process has ended, and its shim with it.
    ///
    /// The deletion goes on when the future is dropped. A second caller gets the same answer.
    ///
    /// # Errors
    /// Not found if there is no such task; the shim's error if its process still runs.
    pub async fn delete(&self, namespace: &Namespace, id: &str) -> base_errors::Result<Exit> {
        let task = self.inner.task(namespace, id).await?;
        while !task.claim_removal() {
            if let Removal::Done(exit) = task.settled_removal().await {
                return Ok(exit);
            }
        }
        let inner = Arc::clone(&self.inner);
        self.inner.owned("delete", async move { inner.delete(&task).await }).await
    }
}

impl Inner {
    /// Watches a task until it is removed: its init process, and its shim.
    pub(crate) fn watch_task(this: &Arc<Inner>, task: &Arc<Task>) {
        let (ours, shim) = (Arc::clone(task), Arc::clone(task));
        // The wait is asked for before anybody can ask for the start: no exit is missed.
        let grace = this.config.timeouts.event_grace;
        let waiting = watch(this, |weak| async move {
            let request = WaitRequest { id: ours.id().to_owned(), exec_id: String::new() };
            let ended: Result<WaitResponse, CallError> =
                ours.connection.call("Wait", &request, None).await;
            match ended {
                Ok(ended) => {
                    let exit = Exit {
                        id: String::new(),
                        pid: ours.pid(),
                        status: ended.exit_status,
                        exited_at: ended.exited_at,
                    };
                    ours.set_exit(exit.clone());
                    sleep(grace).await;
                    if let Some(inner) = weak.upgrade() {
                        inner.publish_exit(&ours, &exit);
                    }
                }
                // The other watcher sees it as well.
                Err(CallError::Closed) => {}
                Err(CallError::Failed(error)) => {
                    tracing::warn!(task = %ours.bundle.object(), %error, "wait for init process");
                }
            }
        });
        task.add_helper(waiting);
        let closing = watch(this, |weak| async move {
            shim.connection.closed().await;
            if let Some(inner) = weak.upgrade()
                && shim.claim_removal()
            {
                let owner = Arc::clone(&inner);
                inner.job(async move {
                    owner.bury(&shim).await;
                });
            }
        });
        task.add_helper(closing);
    }

    /// Deletes a task whose removal the caller has claimed.
    async fn delete(self: &Arc<Self>, task: &Arc<Task>) -> base_errors::Result<Exit> {
        let operation = self.operation("delete", &task.bundle.namespace, task.id(), None);
        operation.phase("deleting in the shim");
        let request = DeleteRequest { id: task.id().to_owned(), exec_id: String::new() };
        let limit = Some(self.config.timeouts.call);
        let deleted: Result<DeleteResponse, CallError> =
            task.connection.call("Delete", &request, limit).await;
        let (exit, failure) = match deleted {
            Ok(deleted) => (exit_of(&deleted), None),
            Err(CallError::Closed) => {
                // It died under our hands.
                return Ok(self.bury(task).await);
            }
            Err(error) if error.is_not_found() => {
                // Deleted before, and only the rest is left.
                let exit = task.exit().unwrap_or_else(|| unknown_exit(task));
                (exit, Some(base_errors::Error::from(error)))
            }
            Err(error) => {
                task.set_removal(Removal::None);
                // A shim that died meanwhile was left to us by its watcher.
                if task.connection.is_closed() && task.claim_removal() {
                    self.bury(task).await;
                }
                return Err(error.into());
            }
        };
        operation.phase("ending the shim");
        let ended = task.shared || self.shut_down_shim(&task.connection, &task.bundle).await;
        if !ended
            && let Err(error) =
                self.programs.delete(&task.program, &task.bundle, task.options.as_ref()).await
        {
            tracing::warn!(task = %task.bundle.object(), %error, "failed to clean up after shim");
        }
        operation.phase("removing the bundle");
        self.remove_bundle(&task.bundle).await;
        // Its last event may still be on the way.
        self.slots.keep_gone(task);
        self.finish(task, &exit);
        let (grace, published) = (self.config.timeouts.event_grace, exit.clone());
        let task = Arc::clone(task);
        self.watch_forever(|weak| async move {
            // The shim announces the deletion before it ends.
            if !task.shared {
                let _ = timeout(grace, task.connection.closed()).await;
            }
            sleep(grace).await;
            if let Some(inner) = weak.upgrade() {
                inner.publish_delete(&task, &published);
                inner.slots.forget_gone(&task);
            }
        });
        match failure {
            None => Ok(exit),
            Some(error) => Err(error),
        }
    }

    /// Cleans up after a shim that is dead, whose removal the caller has claimed.
    pub(crate) async fn bury(self: &Arc<Self>, task: &Arc<Task>) -> Exit {
        let limit = self.config.timeouts.shim_cleanup;
        let operation = self.operation("cleanup", &task.bundle.namespace, task.id(), Some(limit));
        operation.phase("cleaning up after the shim");
        tracing::warn!(task = %task.bundle.object(), "cleaning up after shim disconnected");
        // A shim of a sandbox takes all its containers with it; each is cleaned up by itself.
        let deleted =
            self.programs.delete(&task.program, &task.bundle, task.options.as_ref()).await;
        let exit = match (task.exit(), deleted) {
            // The shim had told how it ended before it died.
            (Some(exit), _) => exit,
            (None, Ok(deleted)) => {
                let mut exit = exit_of(&deleted);
                if exit.pid == 0 {
                    exit.pid = task.pid();
                }
                exit
            }
            (None, Err(error)) => {
                let object = task.bundle.object();
                tracing::warn!(task = %object, %error, "failed to clean up after shim disconnected");
                unknown_exit(task)
            }
        };
        task.set_exit(exit.clone());
        self.publish_exit(task, &exit);
        operation.phase("removing the control group");
        self.remove_cgroup(&task.bundle).await;
        operation.phase("removing the bundle");
        if !task.shared {
            self.remove_dead_socket(&task.bundle).await;
        }
        self.remove_bundle(&task.bundle).await;
        self.publish_delete(task, &exit);
        self.finish(task, &exit);
        // An error means that nobody listens.
        let _ = self.deaths.send((task.bundle.namespace.clone(), task.bundle.id.clone()));
        exit
    }

    /// The last step of a removal: the name is free, everybody who waits is told.
    fn finish(&self, task: &Arc<Task>, exit: &Exit) {
        self.slots.remove(task);
        task.set_exit(exit.clone());
        task.set_removal(Removal::Done(exit.clone()));
        task.abort_helpers();
    }

    /// Announces an exit in the shim's place, if the shim has not.
    fn publish_exit(&self, task: &Task, exit: &Exit) {
        if let Some(event) = task.take_exit_event(exit) {
            self.publish_end_event(&task.bundle, event);
        }
    }

    /// Announces a deletion in the shim's place, if the shim has not.
    fn publish_delete(&self, task: &Task, exit: &Exit) {
        if let Some(event) = task.take_delete_event(exit) {
            self.publish(&task.bundle.namespace, "/tasks/delete", event);
        }
    }

    /// Announces the end of a task that this daemon has never known.
    pub(crate) fn publish_end(&self, bundle: &Bundle, deleted: &DeleteResponse) {
        let exited_at = deleted.exited_at.or_else(|| Some(now()));
        let exit = TaskExit {
            container_id: bundle.id.clone(),
            id: bundle.id.clone(),
            pid: deleted.pid,
            exit_status: deleted.exit_status,
            exited_at,
        };
        let delete = TaskDelete {
            container_id: bundle.id.clone(),
            pid: deleted.pid,
            exit_status: deleted.exit_status,
            exited_at,
            id: String::new(),
        };
        self.publish_end_event(bundle, typeurl::encode(&exit));
        self.publish(&bundle.namespace, "/tasks/delete", typeurl::encode(&delete));
    }

    /// Publishes an exit; if the task is older than this daemon, also to those who come back.
    fn publish_end_event(&self, bundle: &Bundle, event: api_shim::Any) {
        let topic = "/tasks/exit";
        if !self.returning.has(&bundle.namespace, &bundle.id) {
            return self.publish(&bundle.namespace, topic, event);
        }
        let namespace = bundle.namespace.as_str();
        if let Err(error) = self.exchange.forward_to_returning(Some(now()), namespace, topic, event)
        {
            tracing::error!(topic, %error, "publish");
        }
    }

    fn publish(&self, namespace: &Namespace, topic: &str, event: api_shim::Any) {
        if let Err(error) = self.exchange.publish(namespace, topic, event) {
            tracing::error!(topic, %error, "publish");
        }
    }

    /// The answer to a call whose shim died under it: the task is cleaned up first, then it is not
    /// there any more.
    pub(crate) async fn after_close(&self, task: &Task) -> base_errors::Error {
        let limit = self.config.timeouts.shim_cleanup * 2;
        match timeout(limit, task.removed()).await {
            Ok(_) => TaskError::NotFound(task.id().to_owned()).into(),
            Err(_) => CallError::Closed.into(),
        }
    }
}

fn exit_of(deleted: &DeleteResponse) -> Exit {
    Exit {
        id: String::new(),
        pid: deleted.pid,
        status: deleted.exit_status,
        exited_at: deleted.exited_at,
    }
}

fn unknown_exit(task: &Task) -> Exit {
    Exit { id: String::new(), pid: task.pid(), status: UNKNOWN_STATUS, exited_at: Some(now()) }
}

/// The time of now, for events and figures.
pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
