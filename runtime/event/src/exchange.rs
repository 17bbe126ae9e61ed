//! Publishing, forwarding and subscribing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use base_ident::Namespace;
use base_ident::filter::Filter;
use prost_types::{Any, Timestamp};

use crate::envelope::now;
use crate::subscription::{Queue, Subscription};
use crate::{Envelope, EventError, Topic};

/// The most subscribers at once: each costs a queue and a share of every publication.
const MAX_SUBSCRIBERS: usize = 4096;
/// The most events that are kept for those who come back: two for each of some thousand tasks.
const MAX_KEPT: usize = 8192;
/// How long one of them is kept. Clients of gRPC try again after a few seconds at most, and then
/// some of them ask whether the daemon serves before they subscribe.
pub const KEPT_FOR: Duration = Duration::from_secs(30);

/// Where events come in and go out. Cheap to clone; all clones are one exchange.
#[derive(Clone, Default)]
pub struct Exchange {
    registry: Arc<Registry>,
}

/// The queues of all subscribers.
#[derive(Default)]
pub(crate) struct Registry {
    queues: RwLock<Vec<Arc<Queue>>>,
    /// Events for subscribers to come, with the end of their time. Locked below `queues`.
    kept: Mutex<VecDeque<(Instant, Arc<Envelope>)>>,
}

impl Registry {
    pub(crate) fn remove(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|other| !Arc::ptr_eq(other, queue));
    }
}

impl Exchange {
    /// An exchange without subscribers.
    #[must_use]
    pub fn new() -> Self {
        Exchange::default()
    }

    /// Publishes an event of now. Never waits.
    ///
    /// # Errors
    /// [`EventError`] if `topic` is not valid.
    pub fn publish(
        &self,
        namespace: &Namespace,
        topic: &str,
        event: Any,
    ) -> Result<(), EventError> {
        let topic = Topic::new(topic)?;
        self.send(Envelope::new(now(), namespace.clone(), topic, event));
        Ok(())
    }

    /// Passes on an event that has its time and namespace already, as shims send them.
    ///
    /// # Errors
    /// [`EventError`] if namespace, topic or time are not valid.
    pub fn forward(
        &self,
        timestamp: Option<Timestamp>,
        namespace: &str,
        topic: &str,
        event: Any,
    ) -> Result<(), EventError> {
        self.send(forwarded(timestamp, namespace, topic, event)?);
        Ok(())
    }

    /// As [`forward`](Self::forward), and whoever subscribes in the next [`KEPT_FOR`] gets it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_to_returning(
        &self,
        timestamp: Option<Timestamp>,
        namespace: &str,
        topic: &str,
        event: Any,
    ) -> Result<(), EventError> {
        self.send_to_returning(forwarded(timestamp, namespace, topic, event)?);
        Ok(())
    }

    /// Passes on a complete event. Never waits.
    pub fn send(&self, event: Envelope) {
        self.deliver(&Arc::new(event), None);
    }

    /// As [`send`](Self::send), and whoever subscribes in the next [`KEPT_FOR`] gets it as well.
    ///
    /// For what became known while clients of an earlier daemon were on their way back to this one.
    pub fn send_to_returning(&self, event: Envelope) {
        self.deliver(&Arc::new(event), Some(Instant::now() + KEPT_FOR));
    }

    fn deliver(&self, event: &Arc<Envelope>, until: Option<Instant>) {
        let queues = self.registry.queues.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(until) = until {
            let mut kept = self.registry.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= MAX_KEPT {
                kept.pop_front();
            }
            kept.push_back((until, Arc::clone(event)));
        }
        for queue in queues.iter() {
            queue.offer(event);
        }
    }

    /// Subscribes to all events from now on that match any of `filters`; to all if there is none.
    /// Events that are kept come first.
    ///
    /// # Errors
    /// [`EventError::Filters`] if a filter does not parse, [`EventError::Subscribers`] if there are
    /// too many subscribers.
    pub fn subscribe<S: AsRef<str>>(&self, filters: &[S]) -> Result<Subscription, EventError> {
        let filter = Filter::parse_all(filters).map_err(EventError::Filters)?;
        let queue = Arc::new(Queue::new(filter));
        let mut queues = self.registry.queues.write().unwrap_or_else(PoisonError::into_inner);
        if queues.len() >= MAX_SUBSCRIBERS {
            return Err(EventError::Subscribers(queues.len()));
        }
        // No event can be sent while the queues are locked: none is missed, none comes twice.
        let mut kept = self.registry.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|(until, _)| *until > now);
        for (_, event) in kept.iter() {
            queue.offer(event);
        }
        drop(kept);
        queues.push(Arc::clone(&queue));
        drop(queues);
        Ok(Subscription::new(queue, Arc::clone(&self.registry)))
    }
}

fn forwarded(
    timestamp: Option<Timestamp>,
    namespace: &str,
    topic: &str,
    event: Any,
) -> Result<Envelope, EventError> {
    let namespace = Namespace::new(namespace).map_err(EventError::Namespace)?;
    let topic = Topic::new(topic)?;
    let timestamp = timestamp.ok_or(EventError::TimestampMissing)?;
    Ok(Envelope::new(timestamp, namespace, topic, event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_QUEUED;

    fn namespace() -> Namespace {
        Namespace::new("default").unwrap()
    }

    fn oom(id: &str) -> Any {
        let mut value = vec![10, u8::try_from(id.len()).unwrap()];
        value.extend_from_slice(id.as_bytes());
        Any { type_url: "containerd.events.TaskOOM".to_owned(), value }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_subscriber_gets_every_event_in_order() {
        let exchange = Exchange::new();
        let mut first = exchange.subscribe::<&str>(&[]).unwrap();
        let mut second = exchange.subscribe::<&str>(&[]).unwrap();
        for topic in ["/tasks/create", "/tasks/start"] {
            exchange.publish(&namespace(), topic, oom("a")).unwrap();
        }
        for subscription in [&mut first, &mut second] {
            assert_eq!(subscription.next().await.topic.as_str(), "/tasks/create");
            assert_eq!(subscription.next().await.topic.as_str(), "/tasks/start");
            assert!(subscription.try_next().is_none());
        }
    }

    #[test]
    fn kept_events_reach_those_who_come_back_once() {
        let exchange = Exchange::new();
        let mut first = exchange.subscribe::<&str>(&[]).unwrap();
        let topic = Topic::new("/tasks/oom").unwrap();
        let event = Envelope::new(now(), namespace(), topic, oom("a"));
        exchange.send_to_returning(event);
        exchange.publish(&namespace(), "/tasks/oom", oom("b")).unwrap();
        let mut second = exchange.subscribe::<&str>(&[]).unwrap();
        let mut other = exchange.subscribe(&["namespace==other"]).unwrap();
        exchange.publish(&namespace(), "/tasks/oom", oom("c")).unwrap();
        for (subscription, wanted) in [(&mut first, "abc"), (&mut second, "ac")] {
            for id in wanted.chars() {
                assert_eq!(subscription.try_next().unwrap().event, oom(&id.to_string()));
            }
            assert!(subscription.try_next().is_none());
        }
        assert!(other.try_next().is_none());
        // Their time ends.
        for entry in exchange.registry.kept.lock().unwrap().iter_mut() {
            entry.0 = Instant::now();
        }
        assert!(exchange.subscribe::<&str>(&[]).unwrap().try_next().is_none());
        assert!(exchange.registry.kept.lock().unwrap().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_waiting_subscriber_is_woken() {
        let exchange = Exchange::new();
        let mut subscription = exchange.subscribe::<&str>(&[]).unwrap();
        let other = exchange.clone();
        let waiting = tokio::spawn(async move { subscription.next().await });
        tokio::task::yield_now().await;
        other.publish(&namespace(), "/tasks/oom", oom("a")).unwrap();
        assert_eq!(waiting.await.unwrap().topic.as_str(), "/tasks/oom");
    }

    #[test]
    fn filters_choose() {
        let exchange = Exchange::new();
        let mut by_id =
            exchange.subscribe(&["topic==\"/tasks/oom\",event.container_id==b"]).unwrap();
        let mut by_namespace = exchange.subscribe(&["namespace==other"]).unwrap();
        exchange.publish(&namespace(), "/tasks/oom", oom("a")).unwrap();
        exchange.publish(&namespace(), "/tasks/oom", oom("b")).unwrap();
        exchange.publish(&namespace(), "/tasks/exit", oom("b")).unwrap();
        assert_eq!(by_id.try_next().unwrap().event, oom("b"));
        assert!(by_id.try_next().is_none());
        assert!(by_namespace.try_next().is_none());
        assert!(exchange.subscribe(&["=="]).is_err());
    }

    #[test]
    fn a_slow_subscriber_loses_its_own_oldest_events() {
        let exchange = Exchange::new();
        let mut slow = exchange.subscribe::<&str>(&[]).unwrap();
        let mut quick = exchange.subscribe::<&str>(&[]).unwrap();
        let total = MAX_QUEUED + 10;
        for number in 0..total {
            exchange.publish(&namespace(), "/tasks/oom", oom(&number.to_string())).unwrap();
            assert!(quick.try_next().is_some());
        }
        assert_eq!((slow.dropped(), quick.dropped()), (10, 0));
        assert_eq!(slow.try_next().unwrap().event, oom("10"));
    }

    #[test]
    fn a_dropped_subscription_costs_nothing() {
        let exchange = Exchange::new();
        drop(exchange.subscribe::<&str>(&[]).unwrap());
        assert!(exchange.registry.queues.read().unwrap().is_empty());
    }

    #[test]
    fn forwarded_events_are_validated() {
        let exchange = Exchange::new();
        let time = Some(Timestamp { seconds: 5, nanos: 0 });
        let text = |result: Result<(), EventError>| result.unwrap_err().to_string();
        assert!(
            text(exchange.forward(time, "", "/a", oom("a")))
                .starts_with("event envelope has invalid")
        );
        assert_eq!(
            text(exchange.forward(None, "ns", "/a", oom("a"))),
            "timestamp must be set on forwarded event"
        );
        let mut subscription = exchange.subscribe::<&str>(&[]).unwrap();
        exchange.forward(time, "ns", "/a", oom("a")).unwrap();
        assert_eq!(subscription.try_next().unwrap().timestamp.seconds, 5);
    }
}
