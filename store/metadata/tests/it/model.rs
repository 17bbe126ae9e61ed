//! The collector against a naive model, on random worlds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use base_ident::Labels;
use proptest::prelude::*;
use store_metadata::{Container, LeaseResource, Resource};

use super::support::*;

const COUNT: usize = 5;
const PAST: &str = "2000-01-01T00:00:00Z";
const FUTURE: &str = "2999-01-01T00:00:00Z";

/// An object of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Blob(usize),
    Snapshot(usize),
    Image(usize),
    Container(usize),
}

/// What a label of the world says.
#[derive(Clone, Copy, Debug)]
enum Says {
    Needs(Thing),
    LivesWith(Thing),
    Root,
}

#[derive(Clone, Debug)]
struct World {
    /// Which things exist.
    things: BTreeSet<Thing>,
    labels: Vec<(Thing, Says)>,
    /// Parents of snapshots, always of a lower number.
    parents: BTreeMap<usize, usize>,
    /// Whether images expire: not, in the past, in the future.
    expiry: Vec<u8>,
    /// What containers run on.
    roots: Vec<Option<usize>>,
    /// Leases: flat, expired, resources.
    leases: Vec<(bool, bool, Vec<Thing>)>,
}

fn thing() -> impl Strategy<Value = Thing> {
    (0..4u8, 0..COUNT).prop_map(|(kind, number)| match kind {
        0 => Thing::Blob(number),
        1 => Thing::Snapshot(number),
        2 => Thing::Image(number),
        _ => Thing::Container(number),
    })
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        4 => thing().prop_map(Says::Needs),
        3 => thing().prop_map(Says::LivesWith),
        1 => Just(Says::Root),
    ]
}

fn world() -> impl Strategy<Value = World> {
    (
        proptest::collection::btree_set(thing(), 0..16),
        proptest::collection::vec((thing(), says()), 0..20),
        proptest::collection::vec(proptest::option::of(0..COUNT), COUNT),
        proptest::collection::vec(0..3u8, COUNT),
        proptest::collection::vec(proptest::option::of(0..COUNT), COUNT),
        proptest::collection::vec(
            (proptest::bool::ANY, proptest::bool::ANY, proptest::collection::vec(thing(), 0..4)),
            0..3,
        ),
    )
        .prop_map(|(things, labels, parents, expiry, roots, leases)| {
            let parents = parents
                .into_iter()
                .enumerate()
                .filter_map(|(child, parent)| Some((child, parent?)))
                .filter(|(child, parent)| {
                    parent < child
                        && things.contains(&Thing::Snapshot(*child))
                        && things.contains(&Thing::Snapshot(*parent))
                })
                .collect();
            World { things, labels, parents, expiry, roots, leases }
        })
}

impl World {
    /// The labels of a thing: key and value as they are stored.
    fn labels(&self, of: Thing) -> Labels {
        let mut labels = Labels::new();
        for (at, (thing, says)) in self.labels.iter().enumerate() {
            if *thing != of {
                continue;
            }
            let (key, value) = match *says {
                Says::Needs(Thing::Blob(n)) => (format!("ref.content.{at}"), digest(n).to_string()),
                Says::Needs(Thing::Image(n)) => (format!("ref.image/{at}"), format!("i{n}")),
                Says::Needs(Thing::Snapshot(n)) => {
                    (format!("ref.snapshot.overlayfs/{at}"), format!("s{n}"))
                }
                // There is no such label; it must be ignored.
                Says::Needs(Thing::Container(n)) => {
                    (format!("ref.container.{at}"), format!("c{n}"))
                }
                Says::LivesWith(Thing::Blob(n)) => {
                    (format!("bref.content.{at}"), digest(n).to_string())
                }
                Says::LivesWith(Thing::Image(n)) => (format!("bref.image.{at}"), format!("i{n}")),
                Says::LivesWith(Thing::Snapshot(n)) => {
                    (format!("bref.snapshot.overlayfs/{at}"), format!("s{n}"))
                }
                Says::LivesWith(Thing::Container(n)) => {
                    (format!("bref.container/{at}"), format!("c{n}"))
                }
                Says::Root => (format!("root.{at}"), "1".to_owned()),
            };
            labels.insert(format!("containerd.io/gc.{key}"), value);
        }
        if let Thing::Image(number) = of {
            match self.expiry[number] {
                1 => drop(labels.insert("containerd.io/gc.expire".to_owned(), PAST.to_owned())),
                2 => drop(labels.insert("containerd.io/gc.expire".to_owned(), FUTURE.to_owned())),
                _ => {}
            }
        }
        labels
    }

    fn expired(&self, thing: Thing) -> bool {
        matches!(thing, Thing::Image(number) if self.expiry[number] == 1)
    }

    /// What lives, by going round until nothing changes.
    fn living(&self) -> BTreeSet<Thing> {
        // Things with all they need, and things alone.
        let mut whole: BTreeSet<Thing> = BTreeSet::new();
        let mut alone: BTreeSet<Thing> = BTreeSet::new();
        for thing in &self.things {
            let root =
                self.labels.iter().any(|(of, says)| of == thing && matches!(says, Says::Root));
            match thing {
                Thing::Container(_) => drop(whole.insert(*thing)),
                Thing::Image(_) if !self.expired(*thing) => drop(whole.insert(*thing)),
                Thing::Blob(_) | Thing::Snapshot(_) if root => drop(whole.insert(*thing)),
                _ => {}
            }
        }
        for (flat, expired, resources) in &self.leases {
            for resource in resources {
                match (resource, flat, expired) {
                    (Thing::Container(_), ..) | (.., true) => {}
                    (_, true, false) => drop(alone.insert(*resource)),
                    (_, false, false) => drop(whole.insert(*resource)),
                }
            }
        }
        loop {
            let before = (whole.len(), alone.len());
            for thing in whole.clone() {
                // A follower needs its leader to be marked, not to exist.
                for (of, says) in &self.labels {
                    let follows = match (of, says) {
                        (Thing::Image(_), _) => self.expired(*of),
                        _ => true,
                    };
                    if matches!(says, Says::LivesWith(leader) if *leader == thing)
                        && follows
                        && self.things.contains(of)
                    {
                        whole.insert(*of);
                    }
                    if *of == thing
                        && self.things.contains(of)
                        && let Says::Needs(needed) = says
                        && !matches!(needed, Thing::Container(_))
                    {
                        whole.insert(*needed);
                    }
                }
                if !self.things.contains(&thing) {
                    continue;
                }
                match thing {
                    Thing::Snapshot(number) => {
                        whole.extend(
                            self.parents.get(&number).map(|parent| Thing::Snapshot(*parent)),
                        );
                    }
                    Thing::Image(number) => drop(whole.insert(Thing::Blob(number))),
                    Thing::Container(number) => {
                        whole.extend(self.roots[number].map(Thing::Snapshot))
                    }
                    Thing::Blob(_) => {}
                }
            }
            for thing in alone.clone() {
                if !self.things.contains(&thing) {
                    continue;
                }
                match thing {
                    Thing::Snapshot(number) => {
                        alone.extend(
                            self.parents.get(&number).map(|parent| Thing::Snapshot(*parent)),
                        );
                    }
                    Thing::Image(number) => drop(alone.insert(Thing::Blob(number))),
                    _ => {}
                }
            }
            if before == (whole.len(), alone.len()) {
                break;
            }
        }
        self.things
            .iter()
            .filter(|thing| whole.contains(thing) || alone.contains(thing))
            .copied()
            .collect()
    }

    fn build(&self, db: &Fresh) {
        let world = self.clone();
        db.update(move |tx| {
            for thing in &world.things {
                let labels = world.labels(*thing);
                match *thing {
                    Thing::Blob(number) => blob(tx, &scope(), number, &labels)?,
                    Thing::Snapshot(number) => {
                        let parent = world.parents.get(&number).map(|n| format!("s{n}"));
                        let parent = parent.unwrap_or_default();
                        snapshot(tx, &scope(), &format!("s{number}"), &parent, &labels)?;
                    }
                    Thing::Image(number) => {
                        let mut image = image(&format!("i{number}"), number);
                        image.labels = labels;
                        tx.create_image(&scope(), image, None)?;
                    }
                    Thing::Container(number) => {
                        let mut container =
                            Container { labels, ..container(&format!("c{number}")) };
                        if let Some(root) = world.roots[number] {
                            container.snapshotter = "overlayfs".to_owned();
                            container.snapshot_key = format!("s{root}");
                        }
                        tx.create_container(&scope(), container)?;
                    }
                }
            }
            for (at, (flat, expired, resources)) in world.leases.iter().enumerate() {
                let mut on = Labels::new();
                if *flat {
                    on.insert("containerd.io/gc.flat".to_owned(), "1".to_owned());
                }
                if *expired {
                    on.insert("containerd.io/gc.expire".to_owned(), PAST.to_owned());
                }
                let id = format!("l{at}");
                tx.create_lease(&scope(), &id, &on)?;
                for resource in resources {
                    let (kind, name) = match resource {
                        Thing::Blob(n) => ("content", digest(*n).to_string()),
                        Thing::Snapshot(n) => ("snapshots/overlayfs", format!("s{n}")),
                        Thing::Image(n) => ("images", format!("i{n}")),
                        Thing::Container(_) => continue,
                    };
                    let resource = LeaseResource { id: name, kind: kind.to_owned() };
                    tx.add_lease_resource(&scope(), &id, &resource)?;
                }
            }
            Ok(())
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_collector_agrees_with_the_model(world in world()) {
        let db = fresh();
        world.build(&db);
        let collect = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
                .block_on(db.metadata.collect_at(SystemTime::now()))
                .unwrap()
                .removed
        };
        let removed = collect();
        let gone: BTreeSet<String> = removed.iter().map(|removed| match &removed.resource {
            Resource::Blob(digest) => digest.clone(),
            Resource::Snapshot { key, .. } => key.clone(),
            Resource::Image(name) => name.clone(),
            Resource::Lease(id) | Resource::Ingest(id) => id.clone(),
        }).collect();
        prop_assert_eq!(gone.len(), removed.len());
        let name = |thing: &Thing| match *thing {
            Thing::Blob(n) => digest(n).to_string(),
            Thing::Snapshot(n) => format!("s{n}"),
            Thing::Image(n) => format!("i{n}"),
            Thing::Container(n) => format!("c{n}"),
        };
        let living: BTreeSet<String> = world.living().iter().map(name).collect();
        let leases = world.leases.iter().enumerate().filter(|(_, (_, expired, _))| *expired);
        let mut wanted: BTreeSet<String> =
            world.things.iter().map(name).filter(|name| !living.contains(name)).collect();
        wanted.extend(leases.map(|(at, _)| format!("l{at}")));
        prop_assert_eq!(gone, wanted);
        prop_assert_eq!(collect().len(), 0);
        // What stays has whole links: children can be removed before their parents.
        let mut rest: Vec<_> = db.view(|tx| Ok(tx.snapshots(&ns(), "overlayfs")?));
        rest.reverse();
        for snapshot in rest {
            db.update(move |tx| Ok(tx.remove_snapshot(&scope(), "overlayfs", &snapshot.key)?));
        }
    }
}
