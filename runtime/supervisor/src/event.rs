//! Events of shims: hints for the supervisor, then on to everybody.
//!
//! What a client of an earlier daemon missed is told to it when it is back: events of tasks that
//! are older than this daemon are kept for a while after the start. Docker knows no other way to
//! learn that a container has ended.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use api_shim::Name as _;
use api_shim::events::{TaskDelete, TaskExit, TaskOom};
use api_shim::ttrpc_events::ForwardRequest;
use api_shim::typeurl;
use base_ident::Namespace;
use runtime_event::{EventError, Exchange, KEPT_FOR, Topic};

use crate::supervisor::Supervisor;
use crate::task::Exit;

impl Supervisor {
    /// Takes an event of a shim, as the ttrpc service `Events.Forward` gets it, and passes it on.
    ///
    /// An exit that was announced in the shim's place already is not passed on.
    ///
    /// # Errors
    /// [`EventError`] if the envelope is not valid.
    pub fn forward(&self, request: &ForwardRequest) -> base_errors::Result<()> {
        let envelope = request.envelope.clone().unwrap_or_default();
        let namespace = Namespace::new(&envelope.namespace).map_err(EventError::Namespace)?;
        Topic::new(&envelope.topic)?;
        let event = envelope.event.unwrap_or_default();
        if !self.note(&namespace, &event) {
            tracing::debug!(topic = envelope.topic, "late event of a shim is dropped");
            return Ok(());
        }
        let exchange = &self.inner.exchange;
        let forward = match container_of(&event) {
            Some(id) if self.inner.returning.has(&namespace, &id) => Exchange::forward_to_returning,
            _ => Exchange::forward,
        };
        forward(exchange, envelope.timestamp, namespace.as_str(), &envelope.topic, event)?;
        Ok(())
    }

    /// Notes what an event tells about a task; false if everybody knows it.
    fn note(&self, namespace: &Namespace, event: &api_shim::Any) -> bool {
        let name = event.type_url.rsplit('/').next().unwrap_or_default();
        if name == TaskExit::full_name() {
            let Ok(exit) = typeurl::decode::<TaskExit>(event) else { return true };
            // An exec has an id of its own.
            if exit.id == exit.container_id
                && let Some(task) =
                    self.inner.slots.of_event(namespace, &exit.container_id, exit.pid)
            {
                let fresh = task.note_exit_event();
                task.set_exit(Exit {
                    id: String::new(),
                    pid: exit.pid,
                    status: exit.exit_status,
                    exited_at: exit.exited_at,
                });
                return fresh;
            }
        } else if name == TaskDelete::full_name() {
            let Ok(delete) = typeurl::decode::<TaskDelete>(event) else { return true };
            if (delete.id.is_empty() || delete.id == delete.container_id)
                && let Some(task) =
                    self.inner.slots.of_event(namespace, &delete.container_id, delete.pid)
            {
                return task.note_delete_event();
            }
        }
        true
    }
}

/// The tasks of an earlier daemon, as long as its clients may be on their way back.
#[derive(Debug, Default)]
pub(crate) struct Returning {
    tasks: Mutex<Option<(Instant, Tasks)>>,
}

/// Namespaces and ids.
type Tasks = BTreeSet<(String, String)>;

impl Returning {
    /// Begins the time of `tasks`.
    pub(crate) fn begin(&self, tasks: Tasks) {
        let until = Instant::now() + KEPT_FOR;
        let mut known = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some((until, tasks)).filter(|(_, tasks)| !tasks.is_empty());
    }

    /// True if the task is one of them and their time is not over.
    pub(crate) fn has(&self, namespace: &Namespace, id: &str) -> bool {
        let mut known = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|(until, _)| Instant::now() >= *until) {
            *known = None;
        }
        let key = || (namespace.as_str().to_owned(), id.to_owned());
        known.as_ref().is_some_and(|(_, tasks)| tasks.contains(&key()))
    }
}

/// The container of an event that tells an end, or the reason of one.
fn container_of(event: &api_shim::Any) -> Option<String> {
    let name = event.type_url.rsplit('/').next().unwrap_or_default();
    if name == TaskExit::full_name() {
        typeurl::decode::<TaskExit>(event).ok().map(|exit| exit.container_id)
    } else if name == TaskOom::full_name() {
        typeurl::decode::<TaskOom>(event).ok().map(|oom| oom.container_id)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_return_for_a_while() {
        let namespace = Namespace::new("one").unwrap();
        let returning = Returning::default();
        assert!(!returning.has(&namespace, "a"));
        returning.begin(BTreeSet::from([("one".to_owned(), "a".to_owned())]));
        assert!(returning.has(&namespace, "a"));
        assert!(!returning.has(&namespace, "b"));
        assert!(!returning.has(&Namespace::new("two").unwrap(), "a"));
        if let Some((until, _)) = returning.tasks.lock().unwrap().as_mut() {
            *until = Instant::now();
        }
        assert!(!returning.has(&namespace, "a"));
        assert!(returning.tasks.lock().unwrap().is_none());
    }
}
