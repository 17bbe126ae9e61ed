//! The first step of a commit: nodes that lost items are merged with a neighbour.
//!
//! COMPAT: bbolt's rule. A node is too small if it fills a quarter of a page or less, or has
//! one item (leaf) or two (branch).

use std::sync::Arc;

use crate::bucket_mut::Freed;
use crate::node::{BranchItem, Child, DirtyBucket, Items, Node, Value};
use crate::snapshot::Snapshot;

/// Rebalances what changed below `bucket`, itself included.
pub(crate) fn bucket(snapshot: &Snapshot, freed: &mut Freed, bucket: &mut DirtyBucket) {
    let Child::Node(root) = &mut bucket.root else { return };
    let root = Arc::make_mut(root);
    node(snapshot, freed, root);
    // A root of one child is replaced by it; one of none is an empty leaf.
    loop {
        let Child::Node(root) = &mut bucket.root else { return };
        let root = Arc::make_mut(root);
        let Items::Branch(items) = &mut root.items else { return };
        let next = match (items.len(), items.pop()) {
            (1, Some(item)) => item.child,
            (0, _) => Child::Node(Arc::new(Node::empty())),
            (_, Some(item)) => {
                items.push(item);
                return;
            }
            (_, None) => return,
        };
        free(freed, root);
        bucket.root = next;
        bucket.changed = true;
    }
}

fn free(freed: &mut Freed, node: &Node) {
    if let Some(origin) = node.origin {
        freed.push((origin.page, origin.pages));
    }
}

fn node(snapshot: &Snapshot, freed: &mut Freed, this: &mut Node) {
    let items = match &mut this.items {
        Items::Leaf(items) => {
            for item in items {
                if let Value::Open(open) = &mut item.value {
                    bucket(snapshot, freed, Arc::make_mut(open));
                }
            }
            return;
        }
        Items::Branch(items) => items,
    };
    for item in &mut *items {
        if let Child::Node(child) = &mut item.child {
            node(snapshot, freed, Arc::make_mut(child));
        }
    }
    let mut at = 0;
    while let Some(item) = items.get(at) {
        let Child::Node(child) = &item.child else {
            at += 1;
            continue;
        };
        if !child.shrunk || !too_small(snapshot, child) {
            at += 1;
            continue;
        }
        if child.len() == 0 {
            free(freed, child);
            items.remove(at);
        } else if !merge(snapshot, freed, items, at) {
            at += 1;
            continue;
        } else {
            // The merged node is looked at again: it may still be too small.
            at = at.saturating_sub(1);
        }
        this.changed = true;
        this.shrunk = true;
    }
}

fn too_small(snapshot: &Snapshot, node: &Node) -> bool {
    let least = match node.items {
        Items::Leaf(_) => 1,
        Items::Branch(_) => 2,
    };
    node.len() <= least || node.size() <= snapshot.page_size() / 4
}

/// Joins the child `at` with its left neighbour, or the first with its right one. Returns false
/// where there is none, or none that can be read: then the node stays small, which is no fault.
fn merge(snapshot: &Snapshot, freed: &mut Freed, items: &mut Vec<BranchItem>, at: usize) -> bool {
    let right = at.max(1);
    if right >= items.len() {
        return false;
    }
    let same = match (items[right - 1].child.node_mut(snapshot).map(|left| left.leaf()), {
        items[right].child.node_mut(snapshot).map(|right| right.leaf())
    }) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    };
    if !same {
        return false;
    }
    let taken = items.remove(right);
    if let Child::Node(mut taken) = taken.child
        && let Ok(left) = items[right - 1].child.node_mut(snapshot)
    {
        let taken = Arc::make_mut(&mut taken);
        free(freed, taken);
        match (&mut left.items, &mut taken.items) {
            (Items::Leaf(left), Items::Leaf(taken)) => left.append(taken),
            (Items::Branch(left), Items::Branch(taken)) => left.append(taken),
            _ => {}
        }
        left.changed = true;
        left.shrunk = true;
    }
    true
}
