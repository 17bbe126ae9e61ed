//! The end of a container: seen, recorded, cleaned up, told; in this order.

use std::sync::Arc;
use std::time::Duration;

use base_errors::Class;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::container::{Container, Note};
use crate::engine::Engine;
use crate::linger::Ends;
use crate::process::Stdio;
use crate::state::INIT;
use crate::{Kind, state};

/// How long an exit that the supervisor knows waits for its event, which comes behind all others of
/// the container. The supervisor makes up for a shim that does not send it, earlier than this.
const EVENT_GRACE: Duration = Duration::from_secs(4);
/// How long the end of a container waits for those of its execs, which ended before it.
const EXEC_LIMIT: Duration = Duration::from_secs(20);
/// Tries to delete a task whose process has ended.
const DELETE_TRIES: u32 = 5;
/// Before another try, and before a shim that is being reconnected is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// The status of a process of which nobody knows how it ended.
pub(crate) const UNKNOWN_STATUS: u32 = 255;

impl Engine {
    /// Tells what happens to a container until its end, and its end.
    pub(crate) async fn watch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        mut noted: mpsc::Receiver<Note>,
    ) {
        let id = &container.id;
        let mut known = None;
        let waiting = self.exit_status(id);
        let grace = sleep(EVENT_GRACE);
        tokio::pin!(waiting, grace);
        let status = loop {
            tokio::select! {
                biased;
                note = noted.recv() => match note {
                    Some(Note::Exit { pid, status }) => {
                        let own = container.pid();
                        // One of an earlier container of this name is not ours.
                        if pid == own || pid == 0 || own == 0 {
                            break status;
                        }
                    }
                    Some(Note::Paused) => self.log.append(Kind::Pause, id, "", 0),
                    Some(Note::Resumed) => self.log.append(Kind::Resume, id, "", 0),
                    Some(Note::Oom) => self.log.append(Kind::Oom, id, "", 0),
                    // The container holds the other end.
                    None => break known.unwrap_or(UNKNOWN_STATUS),
                },
                status = &mut waiting, if known.is_none() => {
                    known = Some(status);
                    grace.as_mut().reset(Instant::now() + EVENT_GRACE);
                }
                () = &mut grace, if known.is_some() => {
                    break known.unwrap_or(UNKNOWN_STATUS);
                }
            }
        };
        self.end(container, status).await;
    }

    /// How the init process ended, when it has.
    async fn exit_status(&self, id: &str) -> u32 {
        loop {
            match self.supervisor.wait(self.namespace(), id, "").await {
                Ok(exit) => return exit.status,
                Err(error) if error.class() == Class::Unavailable => sleep(PAUSE).await,
                Err(_) => return UNKNOWN_STATUS,
            }
        }
    }

    /// Cleans up after a container that has ended, and tells it as the last of its events.
    pub(crate) async fn end(&self, container: &Arc<Container>, status: u32) {
        let begin = Instant::now();
        let id = &container.id;
        self.finish_execs(container).await;
        self.state.write_exit(id, INIT, status);
        let stored = &container.stored;
        let ends = Ends::open(&Stdio::new(&stored.stdin, &stored.stdout, &stored.stderr));
        let deleting = Instant::now();
        tokio::join!(self.delete_task(id), self.delete_record(id));
        self.timers.delete.since(deleting);
        let gone = {
            // The name comes free and the end is told in one step: nobody who takes the name is
            // told of before.
            let mut containers = self.containers();
            containers.remove(id);
            let gone = self.state.retire(id, None);
            self.log.append(Kind::Exit, id, INIT, status);
            self.timers.exit.since(begin);
            gone
        };
        self.hold(ends);
        if let Some(gone) = gone {
            state::remove(&gone);
        }
    }

    /// Waits until the ends of all execs are told; none can be added any more.
    pub(crate) async fn finish_execs(&self, container: &Arc<Container>) {
        let id = &container.id;
        let mut execs = container.end();
        let all = async { while execs.join_next().await.is_some() {} };
        if timeout(EXEC_LIMIT, all).await.is_err() {
            tracing::warn!(id, left = execs.len(), "execs outlive their container");
            execs.shutdown().await;
        }
        for name in container.exec_names() {
            let stdio = container.process(&name).map(|process| process.stdio).unwrap_or_default();
            let recorded = state::read_exit(&self.state.process(id, &name));
            let status = recorded.map_or(UNKNOWN_STATUS, |(status, _)| status);
            self.finish_exec(container, &name, &stdio, status).await;
        }
    }

    async fn delete_task(&self, id: &str) {
        for _ in 0..DELETE_TRIES {
            match self.supervisor.delete(self.namespace(), id).await {
                Ok(_) => return,
                Err(error) if error.is_not_found() => return,
                Err(error) => tracing::warn!(id, %error, "deleting a task that has ended"),
            }
            sleep(PAUSE).await;
        }
    }
}
