//! Events of shims: hints for the supervisor, then on to everybody.

use api_shim::Name as _;
use api_shim::events::{TaskDelete, TaskExit};
use api_shim::ttrpc_events::ForwardRequest;
use api_shim::typeurl;
use base_ident::Namespace;
use runtime_event::{EventError, Topic};

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
        self.inner.exchange.forward(
            envelope.timestamp,
            namespace.as_str(),
            &envelope.topic,
            event,
        )?;
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
