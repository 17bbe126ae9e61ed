//! Which tasks there are: the one map, by namespace and id.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base_ident::Namespace;
use tokio::sync::watch;

use crate::task::Task;

type Key = (Namespace, String);

/// What is known about a name.
#[derive(Clone)]
pub(crate) enum Slot {
    /// It is being created; nobody else may.
    Creating,
    /// Its shim is being looked for. The channel closes when that is settled.
    Adopting(watch::Receiver<()>),
    /// There is such a task.
    Live(Arc<Task>),
}

/// All tasks. The lock is held for look-ups and changes of the map alone.
#[derive(Clone, Default)]
pub(crate) struct Slots {
    map: Arc<Mutex<BTreeMap<Key, Slot>>>,
    gone: Arc<Mutex<VecDeque<Arc<Task>>>>,
}

/// The most removed tasks whose last event is waited for; beyond it, the oldest may be announced
/// twice.
const MAX_GONE: usize = 1024;

impl Slots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is under that name.
    pub(crate) fn get(&self, namespace: &Namespace, id: &str) -> Option<Slot> {
        self.lock().get(&(namespace.clone(), id.to_owned())).cloned()
    }

    /// Takes a free name with `slot`; else tells what there is.
    pub(crate) fn claim(&self, namespace: &Namespace, id: &str, slot: Slot) -> Result<Claim, Slot> {
        let key = (namespace.clone(), id.to_owned());
        let mut map = self.lock();
        if let Some(taken) = map.get(&key) {
            return Err(taken.clone());
        }
        map.insert(key.clone(), slot);
        drop(map);
        Ok(Claim { slots: self.clone(), key: Some(key) })
    }

    /// Frees the name of `task`, if it is still the one that has it.
    pub(crate) fn remove(&self, task: &Arc<Task>) {
        let key = (task.bundle.namespace.clone(), task.bundle.id.clone());
        let mut map = self.lock();
        if matches!(map.get(&key), Some(Slot::Live(live)) if Arc::ptr_eq(live, task)) {
            map.remove(&key);
        }
    }

    /// Remembers a removed task for the events of its shim that are still on the way.
    pub(crate) fn keep_gone(&self, task: &Arc<Task>) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if gone.len() >= MAX_GONE {
            gone.pop_front();
        }
        gone.push_back(Arc::clone(task));
    }

    /// Forgets a removed task.
    pub(crate) fn forget_gone(&self, task: &Arc<Task>) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|other| !Arc::ptr_eq(other, task));
    }

    /// The task that an event with this pid is about, also if it was removed just now. An earlier
    /// task of the same name had another pid.
    pub(crate) fn of_event(&self, namespace: &Namespace, id: &str, pid: u32) -> Option<Arc<Task>> {
        let same = |task: &Arc<Task>| task.pid() == pid || task.pid() == 0 || pid == 0;
        if let Some(Slot::Live(task)) = self.get(namespace, id)
            && same(&task)
        {
            return Some(task);
        }
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let named = |task: &&Arc<Task>| {
            task.bundle.namespace == *namespace && task.bundle.id == id && same(task)
        };
        gone.iter().rev().find(named).cloned()
    }

    /// Everything in a namespace, by id.
    pub(crate) fn list(&self, namespace: &Namespace) -> Vec<(String, Slot)> {
        self.lock()
            .range((namespace.clone(), String::new())..)
            .take_while(|((found, _), _)| found == namespace)
            .map(|((_, id), slot)| (id.clone(), slot.clone()))
            .collect()
    }

    /// All tasks of all namespaces.
    pub(crate) fn live(&self) -> Vec<Arc<Task>> {
        let live = |slot: &Slot| match slot {
            Slot::Live(task) => Some(Arc::clone(task)),
            Slot::Creating | Slot::Adopting(_) => None,
        };
        self.lock().values().filter_map(live).collect()
    }
}

/// A name that is taken until it is given to a task; dropped, it is free again.
pub(crate) struct Claim {
    slots: Slots,
    key: Option<Key>,
}

impl Claim {
    /// Gives the name to `task`.
    pub(crate) fn give(mut self, task: Arc<Task>) {
        if let Some(key) = self.key.take() {
            self.slots.lock().insert(key, Slot::Live(task));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.slots.lock().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_comes_free() {
        let slots = Slots::default();
        let namespace = Namespace::new("default").unwrap();
        let claim = slots.claim(&namespace, "a", Slot::Creating).map_err(|_| ()).unwrap();
        assert!(matches!(slots.claim(&namespace, "a", Slot::Creating), Err(Slot::Creating)));
        assert_eq!(slots.list(&namespace).len(), 1);
        assert!(slots.list(&Namespace::new("defaulu").unwrap()).is_empty());
        drop(claim);
        assert!(slots.get(&namespace, "a").is_none());
        assert!(slots.claim(&namespace, "a", Slot::Creating).is_ok());
    }
}
