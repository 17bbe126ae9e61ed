//! What takes space, and who needs it.
//!
//! [`Client::inventory`] reads the records of one namespace: images, containers, sandboxes, leases,
//! blobs, ingests, snapshots with their sizes. [`Inventory::report`] says for each image, container,
//! sandbox and lease how many bytes it needs, how many of them others need as well (*shared*), and how many
//! would come back without it (*exclusive*); then what is kept by a label alone, and what nothing
//! keeps, so that the next collection takes it. [`Inventory::prunable`] finds the snapshots that
//! only a label keeps.
//!
//! The bytes of a blob that several namespaces have are stored once, and count in each.

use std::collections::{BTreeMap, BTreeSet};

use api_grpc::containers::ListContainersRequest;
use api_grpc::content::ListContentRequest;
use api_grpc::images::ListImagesRequest;
use api_grpc::introspection::PluginsRequest;
use api_grpc::leases::{ListRequest, ListResourcesRequest};
use api_grpc::sandbox::StoreListRequest;
use api_grpc::snapshots::{Kind, ListSnapshotsRequest, UsageRequest};
use base_errors::{Class, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{Client, body};

/// Questions about sizes that are under way at once: the daemon reads folders for each.
const SIZES_AT_ONCE: usize = 4;

/// Something that takes space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A blob, by its digest.
    Blob(String),
    /// An open ingest, by its reference.
    Ingest(String),
    /// A snapshot.
    Snapshot {
        /// The snapshotter.
        snapshotter: String,
        /// The key.
        key: String,
    },
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Object::Blob(digest) => f.write_str(digest),
            Object::Ingest(reference) => write!(f, "ingest {reference}"),
            Object::Snapshot { snapshotter, key } => write!(f, "{snapshotter}/{key}"),
        }
    }
}

/// Who needs objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// An image.
    Image,
    /// A container.
    Container,
    /// A sandbox.
    Sandbox,
    /// A lease.
    Lease,
    /// A label on the object itself, `containerd.io/gc.root`.
    Label,
    /// An ingest that is under way.
    Ingest,
    /// Nobody: the next collection removes it.
    Orphan,
}

impl Holder {
    /// A word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Holder::Image => "image",
            Holder::Container => "container",
            Holder::Sandbox => "sandbox",
            Holder::Lease => "lease",
            Holder::Label => "label",
            Holder::Ingest => "ingest",
            Holder::Orphan => "orphan",
        }
    }
}

/// One object of the inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Bytes that it takes itself.
    pub bytes: u64,
    /// What it cannot be without: a snapshot's parent, and what its labels name.
    pub needs: Vec<Object>,
    /// Whether a label makes it a root of the collector.
    pub pinned: bool,
    /// Whether somebody may be writing to it: a snapshot that is not committed.
    pub active: bool,
}

/// The records of a namespace, as far as space is concerned.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// All that takes space.
    pub objects: BTreeMap<Object, Stored>,
    /// Images, containers, sandboxes and leases by name, with what they hold first.
    pub holders: BTreeMap<(Holder, String), Vec<Object>>,
    /// What lives as long as an object, or a holder, does.
    followers: BTreeMap<Object, Vec<Object>>,
    led: BTreeMap<(Holder, String), Vec<Object>>,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Who needs the bytes.
    pub holder: Holder,
    /// Its name.
    pub name: String,
    /// Bytes of blobs and ingests.
    pub content: u64,
    /// Bytes of snapshots.
    pub snapshots: u64,
    /// Those of both that something else needs as well.
    pub shared: u64,
    /// Those of both that come back without it.
    pub exclusive: u64,
}

/// Where the space of a namespace is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images, containers, leases, what labels and ingests keep, orphans; each by name.
    pub usages: Vec<Usage>,
    /// Bytes of all objects, each counted once.
    pub total: u64,
    /// Those that the next collection gives back.
    pub orphaned: u64,
}

/// What a label says for the collector.
enum Reference<'a> {
    Needs(Object),
    LivesWithObject(Object),
    LivesWith(Holder, &'a str),
    Root,
}

fn reference<'a>(key: &str, value: &'a str) -> Option<Reference<'a>> {
    let rest = key.strip_prefix("containerd.io/gc.")?;
    if rest.starts_with("root") {
        return Some(Reference::Root);
    }
    let (forward, rest) = match (rest.strip_prefix("ref."), rest.strip_prefix("bref.")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let is = |name: &str| {
        rest.strip_prefix(name).is_some_and(|end| end.is_empty() || end.starts_with(['.', '/']))
    };
    let object = if is("content") {
        Object::Blob(value.to_owned())
    } else if let Some(snapshotter) = rest.strip_prefix("snapshot.") {
        let snapshotter = snapshotter.split('/').next().unwrap_or_default().to_owned();
        Object::Snapshot { snapshotter, key: value.to_owned() }
    } else if forward {
        return None;
    } else if is("image") {
        return Some(Reference::LivesWith(Holder::Image, value));
    } else if is("container") {
        return Some(Reference::LivesWith(Holder::Container, value));
    } else {
        return None;
    };
    Some(if forward { Reference::Needs(object) } else { Reference::LivesWithObject(object) })
}

impl Inventory {
    /// Adds an object; `labels` say what it needs.
    pub fn add(&mut self, object: Object, mut stored: Stored, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            match reference(key, value) {
                Some(Reference::Needs(needed)) => stored.needs.push(needed),
                Some(Reference::Root) => stored.pinned = true,
                Some(Reference::LivesWithObject(leader)) => {
                    self.followers.entry(leader).or_default().push(object.clone());
                }
                Some(Reference::LivesWith(holder, name)) => {
                    let led = self.led.entry((holder, name.to_owned())).or_default();
                    led.push(object.clone());
                }
                None => {}
            }
        }
        self.objects.insert(object, stored);
    }

    /// Adds an image, a container, a sandbox or a lease that holds `objects`, and what `labels` name.
    pub fn hold(
        &mut self,
        holder: Holder,
        name: &str,
        objects: impl IntoIterator<Item = Object>,
        labels: &BTreeMap<String, String>,
    ) {
        let held = self.holders.entry((holder, name.to_owned())).or_default();
        held.extend(objects);
        for (key, value) in labels {
            if let Some(Reference::Needs(needed)) = reference(key, value) {
                held.push(needed);
            }
        }
    }

    /// All objects that `from` need, themselves among them.
    fn reached<'a>(&'a self, from: impl IntoIterator<Item = &'a Object>) -> BTreeSet<&'a Object> {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&Object> = from.into_iter().collect();
        while let Some(object) = pending.pop() {
            if let Some((object, stored)) = self.objects.get_key_value(object)
                && reached.insert(object)
            {
                pending.extend(&stored.needs);
                pending.extend(self.followers.get(object).into_iter().flatten());
            }
        }
        reached
    }

    /// What each image, container, sandbox and lease needs.
    fn held(&self) -> impl Iterator<Item = (Holder, &String, BTreeSet<&Object>)> {
        self.holders.iter().map(|(holder, held)| {
            let led = self.led.get(holder).into_iter().flatten();
            (holder.0, &holder.1, self.reached(held.iter().chain(led)))
        })
    }

    /// Objects that no image, container, sandbox or lease needs.
    fn unheld(&self) -> BTreeSet<&Object> {
        let held: BTreeSet<&Object> = self.held().flat_map(|(_, _, set)| set).collect();
        self.objects.keys().filter(|object| !held.contains(object)).collect()
    }

    /// Where the space is.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut sets: Vec<(Holder, String, BTreeSet<&Object>)> =
            self.held().map(|(holder, name, set)| (holder, name.clone(), set)).collect();
        let mut rest = self.unheld();
        let pinned: Vec<&Object> =
            rest.iter().copied().filter(|object| self.objects[*object].pinned).collect();
        // A pinned object that another pinned one needs is told with that one.
        let below: BTreeSet<&Object> =
            self.reached(pinned.iter().flat_map(|object| &self.objects[*object].needs));
        for object in pinned.iter().filter(|object| !below.contains(*object)) {
            let reached = self.reached([*object]);
            rest.retain(|object| !reached.contains(object));
            sets.push((Holder::Label, object.to_string(), reached));
        }
        for object in rest {
            let holder = match object {
                Object::Ingest(_) => Holder::Ingest,
                _ => Holder::Orphan,
            };
            sets.push((holder, object.to_string(), [object].into()));
        }
        let mut holders: BTreeMap<&Object, u64> = BTreeMap::new();
        for object in sets.iter().flat_map(|(_, _, set)| set) {
            *holders.entry(object).or_default() += 1;
        }
        let total = self.objects.values().map(|stored| stored.bytes).sum();
        let mut report = Report { total, ..Report::default() };
        for (holder, name, set) in sets {
            let (mut content, mut snapshots, mut shared) = (0, 0, 0);
            for object in &set {
                let bytes = self.objects[*object].bytes;
                match object {
                    Object::Snapshot { .. } => snapshots += bytes,
                    Object::Blob(_) | Object::Ingest(_) => content += bytes,
                }
                if holders[object] > 1 {
                    shared += bytes;
                }
            }
            let exclusive = content + snapshots - shared;
            if holder == Holder::Orphan {
                report.orphaned += exclusive;
            }
            report.usages.push(Usage { holder, name, content, snapshots, shared, exclusive });
        }
        report.usages.sort_by(|a, b| (a.holder, &a.name).cmp(&(b.holder, &b.name)));
        report
    }

    /// The keys of the snapshots of `snapshotter` that no image, container, sandbox or lease needs, children
    /// before their parents. Without `active` only committed ones, whose children are all gone by
    /// then: somebody may be writing to the others.
    #[must_use]
    pub fn prunable(&self, snapshotter: &str, active: bool) -> Vec<String> {
        let mut left: BTreeMap<&Object, &Stored> = self
            .unheld()
            .into_iter()
            .filter(|object| matches!(object, Object::Snapshot { snapshotter: of, .. } if of == snapshotter))
            .map(|object| (object, &self.objects[object]))
            .collect();
        if !active {
            let kept: Vec<&Object> = left
                .iter()
                .filter(|(_, stored)| stored.active)
                .map(|(object, _)| *object)
                .collect();
            let kept = self.reached(kept);
            left.retain(|object, _| !kept.contains(object));
        }
        let mut order = Vec::new();
        while !left.is_empty() {
            let needed: BTreeSet<&Object> =
                left.values().flat_map(|stored| &stored.needs).collect();
            let leaves: Vec<&Object> =
                left.keys().copied().filter(|object| !needed.contains(object)).collect();
            // Labels can form circles; what is in one stays.
            if leaves.is_empty() {
                break;
            }
            for leaf in leaves {
                left.remove(leaf);
                if let Object::Snapshot { key, .. } = leaf {
                    order.push(key.clone());
                }
            }
        }
        order
    }
}

impl Client {
    /// Reads what takes space in the client's namespace. Records that come or go meanwhile may be
    /// seen or not.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn inventory(&self) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        let mut blocks = body(self.contents().list(ListContentRequest::default()).await)?;
        while let Some(block) = blocks.message().await.map_err(api_grpc::status::from_status)? {
            for info in block.info {
                let bytes = u64::try_from(info.size).unwrap_or(0);
                let stored = Stored { bytes, ..Stored::default() };
                inventory.add(Object::Blob(info.digest), stored, &info.labels);
            }
        }
        for ingest in self.ingests(Vec::new()).await? {
            let bytes = u64::try_from(ingest.offset).unwrap_or(0);
            let stored = Stored { bytes, ..Stored::default() };
            inventory.add(Object::Ingest(ingest.r#ref), stored, &BTreeMap::new());
        }
        for snapshotter in self.snapshotters().await? {
            self.add_snapshots(&mut inventory, &snapshotter).await?;
        }
        for image in body(self.images().list(ListImagesRequest::default()).await)?.images {
            let target = image.target.map(|target| Object::Blob(target.digest));
            inventory.hold(Holder::Image, &image.name, target, &image.labels);
        }
        let request = ListContainersRequest::default();
        for container in body(self.containers().list(request).await)?.containers {
            let snapshot = (!container.snapshotter.is_empty()).then_some(Object::Snapshot {
                snapshotter: container.snapshotter,
                key: container.snapshot_key,
            });
            inventory.hold(Holder::Container, &container.id, snapshot, &container.labels);
        }
        // What a sandbox's labels name is kept as well. containerd 1.6 has no sandboxes.
        match body(self.sandboxes().list(StoreListRequest::default()).await) {
            Ok(answer) => {
                for sandbox in answer.list {
                    inventory.hold(Holder::Sandbox, &sandbox.sandbox_id, [], &sandbox.labels);
                }
            }
            Err(error) if error.class() == Class::NotImplemented => {}
            Err(error) => return Err(error),
        }
        for lease in body(self.leases().list(ListRequest::default()).await)?.leases {
            let request = ListResourcesRequest { id: lease.id.clone() };
            let resources = match body(self.leases().list_resources(request).await) {
                Ok(answer) => answer.resources,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            let held = resources.into_iter().filter_map(|resource| {
                let id = resource.id;
                match resource.r#type.as_str() {
                    "content" => Some(Object::Blob(id)),
                    "ingests" => Some(Object::Ingest(id)),
                    kind => kind.strip_prefix("snapshots/").map(|snapshotter| Object::Snapshot {
                        snapshotter: snapshotter.to_owned(),
                        key: id,
                    }),
                }
            });
            inventory.hold(Holder::Lease, &lease.id, held, &lease.labels);
        }
        Ok(inventory)
    }

    /// The snapshotters that the daemon has.
    async fn snapshotters(&self) -> Result<Vec<String>> {
        let filters = vec!["type==io.containerd.snapshotter.v1".to_owned()];
        let request = PluginsRequest { filters };
        let plugins = body(self.introspection().plugins(request).await)?.plugins;
        Ok(plugins
            .into_iter()
            .filter(|plugin| plugin.init_err.is_none())
            .map(|plugin| plugin.id)
            .collect())
    }

    async fn add_snapshots(&self, inventory: &mut Inventory, snapshotter: &str) -> Result<()> {
        let request = ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            ..ListSnapshotsRequest::default()
        };
        let mut blocks = body(self.snapshots().list(request).await)?;
        let mut infos = Vec::new();
        while let Some(block) = blocks.message().await.map_err(api_grpc::status::from_status)? {
            infos.extend(block.info);
        }
        let sized = futures_util::stream::iter(infos.into_iter().map(async |info| {
            let request =
                UsageRequest { snapshotter: snapshotter.to_owned(), key: info.name.clone() };
            match body(self.snapshots().usage(request).await) {
                Ok(usage) => Ok(Some((info, u64::try_from(usage.size).unwrap_or(0)))),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        }));
        let sized: Vec<_> = sized.buffer_unordered(SIZES_AT_ONCE).try_collect().await?;
        for (info, bytes) in sized.into_iter().flatten() {
            let active = info.kind() != Kind::Committed;
            let snapshot = |key| Object::Snapshot { snapshotter: snapshotter.to_owned(), key };
            let parent = (!info.parent.is_empty()).then(|| snapshot(info.parent.clone()));
            let needs = parent.into_iter().collect();
            let stored = Stored { bytes, needs, pinned: false, active };
            inventory.add(snapshot(info.name), stored, &info.labels);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> Object {
        Object::Blob(name.to_owned())
    }

    fn snapshot(key: &str) -> Object {
        Object::Snapshot { snapshotter: "s".to_owned(), key: key.to_owned() }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| (format!("containerd.io/gc.{key}"), (*value).to_owned()))
            .collect()
    }

    fn add(inventory: &mut Inventory, object: Object, bytes: u64, on: &[(&str, &str)]) {
        inventory.add(object, Stored { bytes, ..Stored::default() }, &labels(on));
    }

    fn add_snapshot(
        inventory: &mut Inventory,
        key: &str,
        parent: &str,
        active: bool,
        pinned: bool,
    ) {
        let needs = if parent.is_empty() { Vec::new() } else { vec![snapshot(parent)] };
        let stored = Stored { bytes: 1, needs, pinned, active };
        inventory.add(snapshot(key), stored, &BTreeMap::new());
    }

    /// Two images over a common layer, a container on one of them, a lease, and what is left over.
    fn world() -> Inventory {
        let mut inventory = Inventory::default();
        for (image, config) in [("m1", "c1"), ("m2", "c2")] {
            let on = [("ref.content.config", config), ("ref.content.l.0", "layer")];
            add(&mut inventory, blob(image), 1, &on);
            inventory.hold(Holder::Image, image, [blob(image)], &BTreeMap::new());
        }
        add(&mut inventory, blob("c1"), 2, &[("ref.snapshot.s", "top1")]);
        add(&mut inventory, blob("c2"), 4, &[("ref.snapshot.s/x", "base")]);
        add(&mut inventory, blob("layer"), 100, &[]);
        add(&mut inventory, blob("leased"), 1000, &[]);
        add(&mut inventory, blob("orphan"), 5000, &[]);
        add(&mut inventory, blob("back"), 8, &[("bref.image", "m1")]);
        for (key, parent) in [("base", ""), ("top1", "base"), ("rw", "top1")] {
            add_snapshot(&mut inventory, key, parent, key == "rw", false);
        }
        inventory.hold(Holder::Container, "box", [snapshot("rw")], &BTreeMap::new());
        inventory.hold(Holder::Lease, "l", [blob("leased"), blob("gone")], &BTreeMap::new());
        inventory
    }

    #[test]
    fn bytes_are_shared_or_exclusive_and_add_up() {
        let report = world().report();
        let line = |name: &str| {
            let usage = report.usages.iter().find(|usage| usage.name == name).unwrap();
            (usage.holder, usage.content, usage.snapshots, usage.shared, usage.exclusive)
        };
        assert_eq!(line("m1"), (Holder::Image, 1 + 2 + 100 + 8, 2, 100 + 2, 1 + 2 + 8));
        assert_eq!(line("m2"), (Holder::Image, 1 + 4 + 100, 1, 100 + 1, 1 + 4));
        assert_eq!(line("box"), (Holder::Container, 0, 3, 2, 1));
        assert_eq!(line("l"), (Holder::Lease, 1000, 0, 0, 1000));
        assert_eq!(line("orphan"), (Holder::Orphan, 5000, 0, 0, 5000));
        assert_eq!(report.total, 1 + 1 + 2 + 4 + 100 + 1000 + 5000 + 8 + 3);
        assert_eq!(report.orphaned, 5000);
    }

    #[test]
    fn what_a_label_keeps_is_told_once() {
        let mut inventory = Inventory::default();
        add_snapshot(&mut inventory, "base", "", false, true);
        add_snapshot(&mut inventory, "top", "base", false, true);
        inventory.add(Object::Ingest("r".to_owned()), Stored::default(), &BTreeMap::new());
        let names: Vec<_> =
            inventory.report().usages.into_iter().map(|line| (line.holder, line.name)).collect();
        let wanted = [(Holder::Label, "s/top".to_owned()), (Holder::Ingest, "ingest r".to_owned())];
        assert_eq!(names, wanted);
    }

    #[test]
    fn what_the_labels_of_a_sandbox_name_is_no_orphan() {
        let mut inventory = Inventory::default();
        add(&mut inventory, blob("b"), 7, &[]);
        inventory.hold(Holder::Sandbox, "pod", [], &labels(&[("ref.content.x", "b")]));
        let report = inventory.report();
        assert_eq!(report.orphaned, 0);
        let usages = &report.usages;
        assert_eq!((usages.len(), usages[0].holder, usages[0].exclusive), (1, Holder::Sandbox, 7));
    }

    #[test]
    fn prunable_snapshots_come_children_first_and_spare_what_is_needed() {
        let mut inventory = world();
        add_snapshot(&mut inventory, "old", "base", false, true);
        add_snapshot(&mut inventory, "older", "old", false, true);
        add_snapshot(&mut inventory, "under", "", false, true);
        add_snapshot(&mut inventory, "work", "under", true, true);
        assert_eq!(inventory.prunable("s", false), ["older", "old"]);
        assert_eq!(inventory.prunable("s", true), ["older", "work", "old", "under"]);
        assert!(inventory.prunable("other", true).is_empty());
    }
}
