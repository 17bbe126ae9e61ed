//! Marking: from the roots along all references.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use base_ident::timestamp;
use store_bolt::{Bucket, Entry};

use super::EXPIRE;
use super::garbage::{Garbage, Name};
use super::labels::{Label, UsedAt, scan};
use crate::Result;
use crate::metadata::View;
use crate::sandbox;
use crate::schema::{
    BLOB, CONTAINERS, CONTENT, DIGEST, EXPECTED, EXPIRE_AT, IMAGES, INGESTS, LABELS, LEASES,
    PARENT, ROOT, SANDBOXES, SNAPSHOT_KEY, SNAPSHOTS, SNAPSHOTTER, TARGET,
};
use store_bolt::value::read_time;

/// The label of a lease that holds its resources alone, and not what they need.
const FLAT: &[u8] = b"containerd.io/gc.flat";

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Content,
    Snapshot,
    Image,
    Container,
    Lease,
    Ingest,
    /// Sandboxes are never collected and nothing refers to them; their labels refer to others.
    Sandbox,
}

/// An object, by its names in the database; it need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node<'a> {
    pub(super) kind: Kind,
    pub(super) namespace: &'a [u8],
    /// The snapshotter of a snapshot, else empty.
    pub(super) snapshotter: &'a [u8],
    pub(super) key: &'a [u8],
}

/// Objects with conditions on snapshots, and the snapshots' values.
#[derive(Default)]
struct Conditions<'a> {
    on: Vec<(Node<'a>, Node<'a>, UsedAt)>,
    used: HashMap<Node<'a>, Vec<SystemTime>>,
}

/// Where the objects of one state of the database are.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The bucket of all namespaces.
    top: Bucket<'a>,
    /// The bucket around it, where the sandboxes of older versions are.
    root: Bucket<'a>,
}

impl<'a> Places<'a> {
    /// Those of `view`; `None` if there is nothing yet.
    pub(super) fn of(view: &View<'a>) -> Result<Option<Places<'a>>> {
        Ok(view.root.bucket(ROOT)?.map(|top| Places { top, root: view.root }))
    }

    /// The bucket of `node`, if it exists.
    fn object(&self, node: Node<'a>) -> Result<Option<Bucket<'a>>> {
        let Node { kind, namespace, snapshotter, key } = node;
        let path: &[&[u8]] = match kind {
            Kind::Content => &[namespace, CONTENT, BLOB, key],
            Kind::Snapshot => &[namespace, SNAPSHOTS, snapshotter, key],
            Kind::Image => &[namespace, IMAGES, key],
            Kind::Container => &[namespace, CONTAINERS, key],
            Kind::Ingest => &[namespace, CONTENT, INGESTS, key],
            Kind::Lease => &[namespace, LEASES, key],
            Kind::Sandbox => {
                if let Some(older) = sandbox::beside(self.root, namespace)?
                    && let Some(sandbox) = older.bucket(key)?
                {
                    return Ok(Some(sandbox));
                }
                &[namespace, SANDBOXES, key]
            }
        };
        Ok(self.top.path(path)?)
    }
}

/// The marking of one state of the database.
struct Marking<'a> {
    places: Places<'a>,
    now: SystemTime,
    /// Objects that live as long as the node.
    followers: HashMap<Node<'a>, Vec<Node<'a>>>,
    conditions: Conditions<'a>,
    /// Marked nodes, and whether without what they need.
    seen: HashSet<(Node<'a>, bool)>,
    pending: Vec<(Node<'a>, bool)>,
    /// When the next of the objects that live expires.
    next_expiry: Option<SystemTime>,
}

/// The outcome of marking.
pub(super) struct Marked {
    /// What nothing needs.
    pub(super) garbage: Garbage,
    /// When the next image, lease or ingest expires.
    pub(super) next_expiry: Option<SystemTime>,
}

/// The buckets in `bucket`, with their names.
fn buckets<'a>(bucket: Option<Bucket<'a>>) -> impl Iterator<Item = Result<(&'a [u8], Bucket<'a>)>> {
    bucket.into_iter().flat_map(|bucket| bucket.iter()).filter_map(|entry| match entry {
        Ok((name, Entry::Bucket(bucket))) => Some(Ok((name, bucket))),
        Ok((_, Entry::Value(_))) => None,
        Err(error) => Some(Err(error.into())),
    })
}

/// The time in the label `gc.expire` of an object; one that is no time counts as absent.
fn expiry(object: Bucket<'_>, key: &[u8]) -> Result<Option<SystemTime>> {
    let Some(labels) = object.bucket(LABELS)? else { return Ok(None) };
    let Some(text) = labels.get(EXPIRE.as_bytes())? else { return Ok(None) };
    let time = std::str::from_utf8(text).ok().and_then(|text| timestamp::parse(text).ok());
    if time.is_none() {
        let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(text));
        tracing::info!(%key, %value, "expiration ignored: not a time");
    }
    Ok(time)
}

/// Finds all records that nothing needs.
pub(super) fn mark(view: &View<'_>, now: SystemTime) -> Result<Marked> {
    let Some(places) = Places::of(view)? else {
        return Ok(Marked { garbage: Garbage::default(), next_expiry: None });
    };
    let mut marking = Marking {
        places,
        now,
        followers: HashMap::new(),
        conditions: Conditions::default(),
        seen: HashSet::new(),
        pending: Vec::new(),
        next_expiry: None,
    };
    for namespace in buckets(Some(places.top)) {
        let (name, bucket) = namespace?;
        marking.roots(name, bucket)?;
        marking.sandboxes(name, bucket.bucket(SANDBOXES)?)?;
    }
    for namespace in buckets(Some(places.root)) {
        let (name, _) = namespace?;
        marking.sandboxes(name, sandbox::beside(places.root, name)?)?;
    }
    marking.evaluate();
    while let Some((node, flat)) = marking.pending.pop() {
        marking.references(node, flat)?;
    }
    let garbage = marking.unmarked()?;
    Ok(Marked { garbage, next_expiry: marking.next_expiry })
}

/// Hands what `node` needs to `take`; nothing if it does not exist. `flat`: a snapshot's parent and
/// an image's target alone.
pub(super) fn needs<'a>(
    places: Places<'a>,
    node: Node<'a>,
    flat: bool,
    mut take: impl FnMut(Node<'a>, bool),
) -> Result<()> {
    let Node { kind, namespace, .. } = node;
    if kind == Kind::Lease {
        return Ok(());
    }
    // A reference to what does not exist is no error.
    let Some(object) = places.object(node)? else { return Ok(()) };
    match kind {
        Kind::Snapshot => {
            if let Some(parent) = object.get(PARENT)?.filter(|parent| !parent.is_empty()) {
                take(Node { key: parent, ..node }, flat);
            }
        }
        Kind::Image => {
            if let Some(target) = object.bucket(TARGET)? {
                let digest = target.get(DIGEST)?.unwrap_or_default();
                take(Node { kind: Kind::Content, key: digest, ..node }, flat);
            }
        }
        Kind::Container => {
            let snapshotter = object.get(SNAPSHOTTER)?.unwrap_or_default();
            if !snapshotter.is_empty() {
                let key = object.get(SNAPSHOT_KEY)?.unwrap_or_default();
                take(Node { kind: Kind::Snapshot, namespace, snapshotter, key }, false);
            }
        }
        Kind::Ingest => {
            if let Some(digest) = object.get(EXPECTED)?.filter(|digest| !digest.is_empty()) {
                take(Node { kind: Kind::Content, key: digest, ..node }, false);
            }
            return Ok(());
        }
        Kind::Content | Kind::Lease | Kind::Sandbox => {}
    }
    if flat {
        return Ok(());
    }
    scan(namespace, object, |label| {
        if let Label::Needs(needed) = label {
            take(needed, false);
        }
    })
}

impl<'a> Marking<'a> {
    fn mark(&mut self, node: Node<'a>, flat: bool) {
        if self.seen.insert((node, flat)) {
            self.pending.push((node, flat));
        }
    }

    fn follow(&mut self, leader: Node<'a>, follower: Node<'a>) {
        self.followers.entry(leader).or_default().push(follower);
    }

    /// Whether an object with this time of expiry has expired; if not, it is remembered.
    fn expired(&mut self, expiry: Option<SystemTime>) -> bool {
        let Some(expiry) = expiry else { return false };
        if self.now > expiry {
            return true;
        }
        self.next_expiry = Some(self.next_expiry.map_or(expiry, |next| next.min(expiry)));
        false
    }

    /// Marks the roots of a namespace, and gathers what lives with others.
    fn roots(&mut self, namespace: &'a [u8], bucket: Bucket<'a>) -> Result<()> {
        let node = |kind, key| Node { kind, namespace, snapshotter: b"", key };
        for lease in buckets(bucket.bucket(LEASES)?) {
            let (id, lease) = lease?;
            if !self.expired(expiry(lease, id)?) {
                self.mark(node(Kind::Lease, id), false);
                self.leased(namespace, lease)?;
            }
        }
        for image in buckets(bucket.bucket(IMAGES)?) {
            let (name, image) = image?;
            let own = node(Kind::Image, name);
            let expired = self.expired(expiry(image, name)?);
            if !expired {
                self.mark(own, false);
            }
            scan(namespace, image, |label| match label {
                Label::LivesWith(leader) if expired => self.follow(leader, own),
                Label::LivesWhile(on, condition) => self.conditions.on.push((own, on, condition)),
                _ => {}
            })?;
        }
        for ingest in buckets(bucket.path(&[CONTENT, INGESTS])?) {
            let (reference, ingest) = ingest?;
            // An ingest without a time has a lease; one whose time cannot be read is kept.
            let lives = match ingest.get(EXPIRE_AT)? {
                Some(bytes) => !self.expired(read_time(bytes)),
                None => false,
            };
            if lives {
                self.mark(node(Kind::Ingest, reference), false);
            }
        }
        for blob in buckets(bucket.path(&[CONTENT, BLOB])?) {
            let (digest, blob) = blob?;
            let own = node(Kind::Content, digest);
            scan(namespace, blob, |label| match label {
                Label::LivesWith(leader) => self.follow(leader, own),
                Label::LivesWhile(on, condition) => self.conditions.on.push((own, on, condition)),
                Label::Root => self.mark(own, false),
                _ => {}
            })?;
        }
        for container in buckets(bucket.bucket(CONTAINERS)?) {
            let (id, container) = container?;
            let own = node(Kind::Container, id);
            self.mark(own, false);
            scan(namespace, container, |label| {
                if let Label::LivesWith(leader) = label {
                    self.follow(leader, own);
                }
            })?;
        }
        for snapshots in buckets(bucket.bucket(SNAPSHOTS)?) {
            let (snapshotter, snapshots) = snapshots?;
            for snapshot in buckets(Some(snapshots)) {
                let (key, snapshot) = snapshot?;
                let own = Node { kind: Kind::Snapshot, namespace, snapshotter, key };
                scan(namespace, snapshot, |label| match label {
                    Label::LivesWith(leader) => self.follow(leader, own),
                    Label::Root => self.mark(own, false),
                    Label::Used(time) => self.conditions.used.entry(own).or_default().push(time),
                    _ => {}
                })?;
            }
        }
        Ok(())
    }

    /// Marks what sandboxes refer to.
    fn sandboxes(&mut self, namespace: &'a [u8], sandboxes: Option<Bucket<'a>>) -> Result<()> {
        for sandbox in buckets(sandboxes) {
            let (_, sandbox) = sandbox?;
            scan(namespace, sandbox, |label| {
                if let Label::Needs(node) = label {
                    self.mark(node, false);
                }
            })?;
        }
        Ok(())
    }

    /// Marks what a lease holds.
    fn leased(&mut self, namespace: &'a [u8], lease: Bucket<'a>) -> Result<()> {
        let flat = match lease.bucket(LABELS)? {
            Some(labels) => labels.get(FLAT)?.is_some(),
            None => false,
        };
        held(namespace, lease, |node| self.mark(node, flat && node.kind != Kind::Ingest))
    }

    /// Turns the conditions that hold into followers.
    fn evaluate(&mut self) {
        let conditions = std::mem::take(&mut self.conditions);
        for (own, on, condition) in &conditions.on {
            let values = conditions.used.get(on).map_or(&[][..], Vec::as_slice);
            if values.iter().any(|used| condition.holds(*used, self.now)) {
                self.follow(*on, *own);
            }
        }
        self.conditions = conditions;
    }

    /// Marks what `node` needs, and what lives with it. `flat`: as [`needs`] says.
    fn references(&mut self, node: Node<'a>, flat: bool) -> Result<()> {
        if !flat {
            for follower in self.followers.get(&node).cloned().unwrap_or_default() {
                self.mark(follower, false);
            }
        }
        needs(self.places, node, flat, |needed, flat| self.mark(needed, flat))
    }

    /// All records that are not marked, and how they hang together.
    fn unmarked(&self) -> Result<Garbage> {
        let mut nodes = Vec::new();
        let mut check = |node: Node<'a>| {
            if !self.seen.contains(&(node, false)) && !self.seen.contains(&(node, true)) {
                nodes.push(node);
            }
        };
        for namespace in buckets(Some(self.places.top)) {
            let (namespace, bucket) = namespace?;
            for (path, kind) in [
                (&[LEASES][..], Kind::Lease),
                (&[IMAGES], Kind::Image),
                (&[CONTENT, INGESTS], Kind::Ingest),
                (&[CONTENT, BLOB], Kind::Content),
            ] {
                for object in buckets(bucket.path(path)?) {
                    let (key, _) = object?;
                    check(Node { kind, namespace, snapshotter: b"", key });
                }
            }
            for keys in buckets(bucket.bucket(SNAPSHOTS)?) {
                let (snapshotter, keys) = keys?;
                for object in buckets(Some(keys)) {
                    let (key, _) = object?;
                    check(Node { kind: Kind::Snapshot, namespace, snapshotter, key });
                }
            }
        }
        // A name that is not UTF-8 is none of ours; what has it is kept.
        let named: Vec<(Node<'a>, Name)> =
            nodes.into_iter().filter_map(|node| Some((node, Name::of(node)?))).collect();
        let index: HashMap<Node<'a>, usize> =
            named.iter().enumerate().map(|(at, (node, _))| (*node, at)).collect();
        let mut garbage = Garbage::new(named.iter().map(|(_, name)| name.clone()).collect());
        for (at, (node, _)) in named.iter().enumerate() {
            needs(self.places, *node, false, |needed, _| {
                if let Some(needed) = index.get(&needed) {
                    garbage.needs(at, *needed);
                }
            })?;
            // What an expired lease held comes back with it.
            if node.kind == Kind::Lease
                && let Some(lease) = self.places.object(*node)?
            {
                held(node.namespace, lease, |resource| {
                    if let Some(resource) = index.get(&resource) {
                        garbage.needs(at, *resource);
                    }
                })?;
            }
        }
        let conditions = self.conditions.on.iter().map(|(own, on, _)| (on, own));
        let followers = self.followers.iter().flat_map(|(leader, followers)| {
            followers.iter().map(move |follower| (leader, follower))
        });
        for (leader, follower) in followers.chain(conditions) {
            let Some(follower) = index.get(follower) else { continue };
            match index.get(leader) {
                Some(leader) => garbage.needs(*leader, *follower),
                None => {
                    if let Some(leader) = Name::of(*leader) {
                        garbage.follows(leader, *follower);
                    }
                }
            }
        }
        garbage.sort();
        Ok(garbage)
    }
}

/// Hands what a lease holds to `take`.
fn held<'a>(namespace: &'a [u8], lease: Bucket<'a>, mut take: impl FnMut(Node<'a>)) -> Result<()> {
    for (bucket, kind) in [(CONTENT, Kind::Content), (IMAGES, Kind::Image), (INGESTS, Kind::Ingest)]
    {
        if let Some(keys) = lease.bucket(bucket)? {
            for entry in keys.iter() {
                let (key, _) = entry?;
                take(Node { kind, namespace, snapshotter: b"", key });
            }
        }
    }
    for keys in buckets(lease.bucket(SNAPSHOTS)?) {
        let (snapshotter, keys) = keys?;
        for entry in keys.iter() {
            let (key, _) = entry?;
            take(Node { kind: Kind::Snapshot, namespace, snapshotter, key });
        }
    }
    Ok(())
}
