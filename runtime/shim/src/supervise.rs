//! Exits: seen once, recorded, announced in order.

use std::sync::Arc;
use std::time::Duration;

use api_shim::events::{TaskExit, TaskOom};
use kernel_cgroup::{Group, Hierarchies, OomWatch};
use runtime_runc::{Exit, ExitWatch};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::container::Container;
use crate::events::Publisher;
use crate::exit_record::ExitRecord;
use crate::lock;
use crate::process::{Ended, Phase, Process};

/// How long the exit of a container waits for those of its execs: all of them have been killed
/// with it, or before it.
const EXEC_GRACE: Duration = Duration::from_secs(5);

/// A watch over the memory of a container's control group.
pub(crate) type MemoryWatch = AsyncFd<OomWatch>;

/// Waits for the end of an exec and announces it.
pub(crate) async fn exec(
    container: Arc<Container>,
    exec: Arc<Process>,
    exit: ExitWatch,
    publisher: Publisher,
) {
    let Ok(exit) = exit.await else { return };
    // Its start is announced first.
    drop(exec.starting.lock().await);
    end(&container, &exec, exit, &publisher);
}

/// Waits for the end of a container, announces what leads to it, records it and announces it.
pub(crate) async fn init(
    container: Arc<Container>,
    exit: ExitWatch,
    mut watch: Option<MemoryWatch>,
    publisher: Publisher,
) {
    let exit = wait(&container, exit, &mut watch, &publisher).await;
    let Ok(exit) = exit else { return };
    let record = ExitRecord {
        pid: u32::try_from(exit.pid).unwrap_or_default(),
        exit_status: exit.status,
        exited_at: exit.at,
    };
    // DURABILITY: the record comes before everything that tells of the exit.
    if let Err(error) = record.write(&container.bundle) {
        tracing::warn!(%error, container = container.id, "failed to record an exit");
    }
    if let Some(watch) = &mut watch {
        // What killed it may not have been told yet.
        report(&container, watch, &publisher);
    }
    drop(watch);
    drop(container.init.starting.lock().await);
    container.kill_leftovers().await;
    let execs = container.execs();
    let ends = execs.iter().map(|exec| exec_ends(exec));
    if tokio::time::timeout(EXEC_GRACE, futures_util::future::join_all(ends)).await.is_err() {
        tracing::warn!(container = container.id, "execs outlive their container");
    }
    end(&container, &container.init, exit, &publisher);
}

/// Waits until an exec has ended. One that is being started is waited for as well.
async fn exec_ends(exec: &Process) {
    drop(exec.starting.lock().await);
    if exec.phase() == Phase::Running {
        exec.wait().await;
    }
}

/// Notes the end of a process and announces it.
fn end(container: &Container, process: &Process, exit: Exit, publisher: &Publisher) {
    process.set_ended(Ended { status: exit.status, at: Some(exit.at) });
    publisher.publish(&TaskExit {
        container_id: container.id.clone(),
        id: process.id.clone(),
        pid: u32::try_from(exit.pid).unwrap_or_default(),
        exit_status: exit.status,
        exited_at: Some(exit.at.into()),
    });
}

/// Waits for the exit; tells each time the container runs out of memory.
async fn wait(
    container: &Container,
    mut exit: ExitWatch,
    watch: &mut Option<MemoryWatch>,
    publisher: &Publisher,
) -> Result<Exit, tokio::sync::oneshot::error::RecvError> {
    loop {
        let Some(memory) = watch else { return exit.await };
        let removed = tokio::select! {
            biased;
            exit = &mut exit => return exit,
            ready = memory.readable_mut() => match ready {
                Ok(mut ready) => {
                    ready.clear_ready();
                    drop(ready);
                    report(container, memory, publisher)
                }
                Err(_) => true,
            },
        };
        if removed {
            *watch = None;
        }
    }
}

/// Publishes what the watch tells; true if there is nothing more to come.
fn report(container: &Container, watch: &mut AsyncFd<OomWatch>, publisher: &Publisher) -> bool {
    match watch.get_mut().on_ready() {
        Ok(report) => {
            if report.oom {
                publisher.publish(&TaskOom { container_id: container.id.clone() });
            }
            report.removed
        }
        Err(error) => {
            tracing::debug!(%error, container = container.id, "memory watch ended");
            true
        }
    }
}

/// Finds the container's control group and watches its memory: from before it runs, so that
/// nothing is missed. Without it, metrics and OOM events are missing, and nothing else.
pub(crate) fn watch_memory(container: &Container) -> Option<MemoryWatch> {
    let found = Hierarchies::load().and_then(|all| Group::of_pid(&all, container.init.pid()));
    let group = match found {
        // The kernel says of a process that is ending that it is in the top group.
        Ok(group) if container.init.is_alive() => group,
        Ok(_) => return None,
        Err(error) => {
            tracing::debug!(%error, container = container.id, "no control group");
            return None;
        }
    };
    *lock(&container.group) = Some(group.clone());
    match OomWatch::open(&group) {
        Ok(watch) => runtime_runc::watch(watch, Interest::READABLE).ok(),
        Err(error) => {
            tracing::debug!(%error, container = container.id, "no memory watch");
            None
        }
    }
}
