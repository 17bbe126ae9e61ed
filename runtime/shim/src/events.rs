//! Events on their way to the daemon: in order, and until it has them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api_shim::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom,
    TaskPaused, TaskResumed, TaskStart,
};
use api_shim::ttrpc_events::ForwardRequest;
use api_shim::types::Envelope;
use api_shim::{Name, typeurl};
use api_ttrpc::{CallOptions, Client, Status, code};
use tokio::sync::{Notify, watch};

use crate::lock;

/// The daemon's service for events.
const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// Events that wait for a daemon that is down; the oldest make room. As in containerd.
const QUEUE: usize = 2048;

/// How many may wait before new work waits for them: a daemon that is slower with events than with
/// calls is slowed down by its own calls, and loses nothing.
const CROWDED: usize = QUEUE / 2;

/// How long new work waits for that at most: a daemon that takes no events at all is still served.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the daemon may take for one event.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: a daemon that is back gets its events this soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often an event is offered to a daemon that answers, but refuses it. As in containerd.
const REFUSALS: u32 = 5;

/// How often it is offered to a daemon that does not know of events: about a minute. It may be
/// one whose services are not all there yet, or one that never has this service.
const UNKNOWNS: u32 = 35;

/// An event of a task, which has a topic.
pub(crate) trait Topic: Name {
    /// Where it is published.
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ident => $topic:literal,)*) => {
        $(impl Topic for $event {
            const TOPIC: &'static str = $topic;
        })*
    };
}

topics! {
    TaskCreate => "/tasks/create",
    TaskStart => "/tasks/start",
    TaskOom => "/tasks/oom",
    TaskExit => "/tasks/exit",
    TaskDelete => "/tasks/delete",
    TaskExecAdded => "/tasks/exec-added",
    TaskExecStarted => "/tasks/exec-started",
    TaskPaused => "/tasks/paused",
    TaskResumed => "/tasks/resumed",
    TaskCheckpointed => "/tasks/checkpointed",
}

/// Takes events and forwards them in the background. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: String,
    /// The daemon's ttrpc socket; `None` if nobody wants events.
    socket: Option<PathBuf>,
    queue: Mutex<VecDeque<Envelope>>,
    arrived: Notify,
    /// Told whenever the daemon has taken one.
    taken: Notify,
    empty: watch::Sender<bool>,
}

impl Publisher {
    /// Begins to forward to the daemon at `address`; an empty one means that nobody listens.
    pub(crate) fn start(address: &str, namespace: &str) -> Self {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let socket = Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
        let forwards = socket.is_some();
        let shared = Arc::new(Shared {
            namespace: namespace.to_owned(),
            socket,
            queue: Mutex::default(),
            arrived: Notify::new(),
            taken: Notify::new(),
            empty: watch::Sender::new(true),
        });
        if forwards {
            let forwarder = Arc::clone(&shared);
            tokio::spawn(async move { forwarder.forward().await });
        }
        Publisher { shared }
    }

    /// Queues an event. Returns at once.
    pub(crate) fn publish<E: Topic>(&self, event: &E) {
        if self.shared.socket.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.shared.namespace.clone(),
            topic: E::TOPIC.to_owned(),
            event: Some(typeurl::encode(event)),
        };
        let mut queue = lock(&self.shared.queue);
        if queue.len() >= QUEUE {
            // A container that lacks memory may tell so many times a second: that is lost first.
            let lost = queue.iter().position(|one| one.topic == TaskOom::TOPIC).unwrap_or(0);
            let lost = queue.remove(lost).map(|event| event.topic);
            tracing::warn!(topic = lost, "event queue is full, an event is lost");
        }
        queue.push_back(envelope);
        drop(queue);
        self.shared.empty.send_replace(false);
        self.shared.arrived.notify_one();
    }

    /// Waits until there is room for the events of new work.
    pub(crate) async fn room(&self) {
        let room = async {
            loop {
                let taken = self.shared.taken.notified();
                if lock(&self.shared.queue).len() < CROWDED {
                    return;
                }
                taken.await;
            }
        };
        // Whether it was in vain does not matter.
        let _ = tokio::time::timeout(ROOM_TIMEOUT, room).await;
    }

    /// True if the daemon has everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.socket.is_none() || lock(&self.shared.queue).is_empty()
    }

    /// Waits until the daemon has everything, at most `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let mut empty = self.shared.empty.subscribe();
        let all = empty.wait_for(|empty| *empty);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("events are left that the daemon did not take");
        }
    }
}

impl Shared {
    async fn forward(&self) {
        let Some(socket) = &self.socket else { return };
        let mut client: Option<Client> = None;
        let mut pause = FIRST_PAUSE;
        let mut refusals = 0;
        loop {
            let next = lock(&self.queue).front().cloned();
            let Some(envelope) = next else {
                self.empty.send_replace(true);
                self.arrived.notified().await;
                continue;
            };
            match self.offer(socket, &mut client, &envelope).await {
                Ok(()) => {
                    self.taken(&envelope);
                    (pause, refusals) = (FIRST_PAUSE, 0);
                    continue;
                }
                Err(status) if is_refusal(&status) => {
                    refusals += 1;
                    let unknown = status.code == code::UNIMPLEMENTED;
                    if refusals >= if unknown { UNKNOWNS } else { REFUSALS } {
                        let topic = &envelope.topic;
                        tracing::error!(topic, error = status.message, "failed to publish event");
                        self.taken(&envelope);
                        (pause, refusals) = (FIRST_PAUSE, 0);
                        continue;
                    }
                }
                Err(status) => {
                    tracing::debug!(error = status.message, "the daemon is not there");
                    client = None;
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn offer(
        &self,
        socket: &PathBuf,
        client: &mut Option<Client>,
        envelope: &Envelope,
    ) -> Result<(), Status> {
        let connection = match client {
            Some(connection) => connection,
            None => {
                let connection = Client::connect(socket).await.map_err(|_| Status::closed())?;
                client.insert(connection)
            }
        };
        let options = CallOptions::new().timeout(FORWARD_TIMEOUT).namespace(&self.namespace);
        let request = ForwardRequest { envelope: Some(envelope.clone()) };
        connection.call::<_, ()>(SERVICE, "Forward", &request, &options).await
    }

    /// Removes the event from the queue, unless a full queue has done so.
    fn taken(&self, envelope: &Envelope) {
        let mut queue = lock(&self.queue);
        if queue.front() == Some(envelope) {
            queue.pop_front();
        }
        drop(queue);
        self.taken.notify_waiters();
    }
}

/// True if the daemon has answered, and does not want the event.
fn is_refusal(status: &Status) -> bool {
    ![code::UNAVAILABLE, code::DEADLINE_EXCEEDED].contains(&status.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_loses_first_what_repeats_itself() {
        crate::serve::runtime().unwrap().block_on(async {
            // Nothing is forwarded before the first wait.
            let publisher = Publisher::start("unix:///nonexistent/socket", "n");
            let exit = |id: &str| TaskExit { id: id.to_owned(), ..Default::default() };
            publisher.publish(&exit("first"));
            for _ in 0..QUEUE {
                publisher.publish(&TaskOom { container_id: "c".to_owned() });
            }
            for id in ["second", "third"] {
                publisher.publish(&exit(id));
            }
            assert!(!publisher.is_empty());
            let queue = lock(&publisher.shared.queue);
            assert_eq!(queue.len(), QUEUE);
            assert_eq!(queue.front().unwrap().topic, TaskExit::TOPIC);
            let exits = queue.iter().filter(|event| event.topic == TaskExit::TOPIC);
            assert_eq!(exits.count(), 3);
        });
    }

    #[test]
    fn a_daemon_that_is_not_there_has_refused_nothing() {
        assert!(!is_refusal(&Status::closed()));
        assert!(!is_refusal(&Status::deadline_exceeded()));
        assert!(is_refusal(&Status::invalid_argument("x")));
    }
}
