//! What marking found, in an order in which it can be removed piece by piece.
//!
//! Removal takes several transactions, and clients write between them. So what needs something goes
//! before what it needs: whatever stays has all that it needs. A record that a client touches after
//! the snapshot that was marked stays, and so does all that it needs or that lives with it; the next
//! collection looks at it again.

use std::collections::HashMap;

use super::mark::{self, Kind, Node};
use super::{Removed, Resource};
use crate::Result;
use crate::metadata::View;
use crate::schema::{BLOB, CONTAINERS, CONTENT, IMAGES, INGESTS, LEASES, SANDBOXES, SNAPSHOTS};

/// An object by its names, which are text as everything that clients write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    kind: Kind,
    namespace: String,
    /// The snapshotter of a snapshot, else empty.
    snapshotter: String,
    key: String,
}

impl Name {
    pub(super) fn of(node: Node<'_>) -> Option<Self> {
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
        Some(Name {
            kind: node.kind,
            namespace: text(node.namespace)?,
            snapshotter: text(node.snapshotter)?,
            key: text(node.key)?,
        })
    }

    fn node(&self) -> Node<'_> {
        Node {
            kind: self.kind,
            namespace: self.namespace.as_bytes(),
            snapshotter: self.snapshotter.as_bytes(),
            key: self.key.as_bytes(),
        }
    }

    /// The object whose bucket is at `path` in `namespace`, or around it.
    pub(crate) fn at(namespace: &[u8], path: &[&[u8]]) -> Option<Self> {
        let (kind, snapshotter, key): (Kind, &[u8], &[u8]) = match path {
            [CONTENT, BLOB, key, ..] => (Kind::Content, b"", key),
            [CONTENT, INGESTS, key, ..] => (Kind::Ingest, b"", key),
            [IMAGES, key, ..] => (Kind::Image, b"", key),
            [CONTAINERS, key, ..] => (Kind::Container, b"", key),
            [SANDBOXES, key, ..] => (Kind::Sandbox, b"", key),
            [LEASES, key, ..] => (Kind::Lease, b"", key),
            [SNAPSHOTS, snapshotter, key, ..] => (Kind::Snapshot, snapshotter, key),
            _ => return None,
        };
        Name::of(Node { kind, namespace, snapshotter, key })
    }

    /// What a lease holds by `key` in its bucket at `path`.
    pub(crate) fn leased(namespace: &[u8], path: &[&[u8]], key: &[u8]) -> Option<Self> {
        let (kind, snapshotter): (Kind, &[u8]) = match path {
            [CONTENT] => (Kind::Content, b""),
            [INGESTS] => (Kind::Ingest, b""),
            [IMAGES] => (Kind::Image, b""),
            [SNAPSHOTS, snapshotter] => (Kind::Snapshot, snapshotter),
            _ => return None,
        };
        Name::of(Node { kind, namespace, snapshotter, key })
    }

    /// As callers of the collector know it; `None` for what is never removed.
    fn removed(&self) -> Option<Removed> {
        let key = self.key.clone();
        let resource = match self.kind {
            Kind::Content => Resource::Blob(key),
            Kind::Snapshot => Resource::Snapshot { snapshotter: self.snapshotter.clone(), key },
            Kind::Image => Resource::Image(key),
            Kind::Lease => Resource::Lease(key),
            Kind::Ingest => Resource::Ingest(key),
            Kind::Container | Kind::Sandbox => return None,
        };
        Some(Removed { namespace: self.namespace.clone(), resource })
    }
}

/// Records that nothing needed when they were marked.
#[derive(Default)]
pub(super) struct Garbage {
    names: Vec<Name>,
    index: HashMap<Name, usize>,
    /// By number: what goes after it, and stays if it stays.
    edges: Vec<Vec<usize>>,
    /// What stays if a client makes or touches the object, which is not garbage itself.
    followers: HashMap<Name, Vec<usize>>,
    /// What is to be removed next is last.
    order: Vec<usize>,
    kept: Vec<bool>,
}

impl Garbage {
    pub(super) fn new(names: Vec<Name>) -> Self {
        let index = names.iter().cloned().enumerate().map(|(at, name)| (name, at)).collect();
        Garbage {
            edges: vec![Vec::new(); names.len()],
            kept: vec![false; names.len()],
            order: Vec::new(),
            followers: HashMap::new(),
            index,
            names,
        }
    }

    /// The record of number `at` needs that of number `needed`, or leads it.
    pub(super) fn needs(&mut self, at: usize, needed: usize) {
        self.edges[at].push(needed);
    }

    /// The record of number `follower` lives as long as `leader` does.
    pub(super) fn follows(&mut self, leader: Name, follower: usize) {
        self.followers.entry(leader).or_default().push(follower);
    }

    /// Finds an order for the removal: what needs something comes before it. Labels can form
    /// circles; these are cut somewhere.
    pub(super) fn sort(&mut self) {
        let mut seen = vec![false; self.names.len()];
        self.order.clear();
        for start in 0..self.names.len() {
            if seen[start] {
                continue;
            }
            seen[start] = true;
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.last_mut() {
                match self.edges[*at].get(*next) {
                    Some(&needed) => {
                        *next += 1;
                        if !seen[needed] {
                            seen[needed] = true;
                            path.push((needed, 0));
                        }
                    }
                    None => {
                        self.order.push(*at);
                        path.pop();
                    }
                }
            }
        }
    }

    /// Keeps `touched`, all that it needs as `view` has it, and all that hangs on these.
    pub(super) fn keep(&mut self, touched: &Name, view: &View<'_>) -> Result<()> {
        let mut pending: Vec<usize> = Vec::new();
        pending.extend(self.index.get(touched));
        pending.extend(self.followers.get(touched).into_iter().flatten());
        if let Some(places) = mark::Places::of(view)? {
            mark::needs(places, touched.node(), false, |needed, _| {
                if let Some(name) = Name::of(needed) {
                    pending.extend(self.index.get(&name));
                    pending.extend(self.followers.get(&name).into_iter().flatten());
                }
            })?;
        }
        while let Some(at) = pending.pop() {
            if !std::mem::replace(&mut self.kept[at], true) {
                pending.extend(&self.edges[at]);
            }
        }
        Ok(())
    }

    /// Keeps all that another marking did not find.
    pub(super) fn keep_unless_in(&mut self, other: &Garbage) {
        for (at, name) in self.names.iter().enumerate() {
            self.kept[at] |= !other.index.contains_key(name);
        }
    }

    /// The next record to remove.
    pub(super) fn next(&mut self) -> Option<Removed> {
        while let Some(at) = self.order.pop() {
            if !self.kept[at]
                && let Some(removed) = self.names[at].removed()
            {
                return Some(removed);
            }
        }
        None
    }

    /// How many records are not removed yet.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether something stays that was garbage when it was marked.
    pub(super) fn keeps_some(&self) -> bool {
        self.kept.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(key: usize) -> Name {
        Name {
            kind: Kind::Content,
            namespace: "n".to_owned(),
            snapshotter: String::new(),
            key: key.to_string(),
        }
    }

    fn taken(garbage: &mut Garbage) -> Vec<usize> {
        std::iter::from_fn(|| garbage.next())
            .map(|removed| match removed.resource {
                Resource::Blob(key) => key.parse().expect("number"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn what_needs_goes_before_what_is_needed(
            edges in prop::collection::vec((0..30usize, 0..30usize), 0..80),
        ) {
            let mut garbage = Garbage::new((0..30).map(name).collect());
            // Without circles: from lower to higher.
            let edges: Vec<_> = edges.into_iter().filter(|(from, to)| from < to).collect();
            for (from, to) in &edges {
                garbage.needs(*from, *to);
            }
            garbage.sort();
            prop_assert_eq!(garbage.len(), 30);
            let order = taken(&mut garbage);
            let at = |number| order.iter().position(|other| *other == number);
            for (from, to) in edges {
                prop_assert!(at(from) < at(to));
            }
        }
    }

    #[test]
    fn circles_are_cut() {
        let mut garbage = Garbage::new((0..3).map(name).collect());
        for (from, to) in [(0, 1), (1, 2), (2, 0), (2, 2)] {
            garbage.needs(from, to);
        }
        garbage.sort();
        assert_eq!(taken(&mut garbage).len(), 3);
    }
}
