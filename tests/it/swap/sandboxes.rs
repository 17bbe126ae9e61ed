//! Sandboxes, which 1.7 keeps at another place of the database than 2.x.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use api_grpc::sandbox::store_client::StoreClient;
use api_grpc::sandbox::{
    StoreCreateRequest, StoreDeleteRequest, StoreListRequest, StoreUpdateRequest,
};
use api_shim::types::{Sandbox, sandbox};
use e2e::client::Client;
use e2e::world::{Options, check_empty};
use e2e::{Maker, World};
use tonic::transport::Channel;

use super::hand_over;

fn connect(world: &World) -> Result<(Client, StoreClient<Channel>)> {
    let client = world.client()?;
    let store = StoreClient::new(client.channel());
    Ok((client, store))
}

/// The sandboxes of the world's namespace as its daemon tells, without times; without the name of
/// their controller where the client is of 1.7, which does not know it yet.
///
/// # Errors
///
/// The daemon's.
pub(super) fn list(world: &World) -> Result<Vec<String>> {
    let (client, mut store) = connect(world)?;
    let request = client.request(StoreListRequest::default());
    let answer = client.block_on(store.list(request)).context("Store.List")?.into_inner();
    let show = |sandbox: Sandbox| {
        let extensions: BTreeMap<_, _> = sandbox.extensions.into_iter().collect();
        let labels: BTreeMap<_, _> = sandbox.labels.into_iter().collect();
        let runtime = sandbox.runtime.unwrap_or_default().name;
        let controller = if world.options().ctr == Maker::Trixie { "" } else { &sandbox.sandboxer };
        format!("{} {runtime} {controller} {labels:?} {extensions:?}", sandbox.sandbox_id)
    };
    let mut seen: Vec<String> = answer.list.into_iter().map(show).collect();
    seen.sort();
    Ok(seen)
}

/// A sandbox as pods have them.
fn pod(id: &str) -> Sandbox {
    let metadata = prost_types::Any {
        type_url: "github.com/containerd/cri/pkg/store/sandbox/Metadata".to_owned(),
        value: br#"{"Version":"v1","Metadata":{}}"#.to_vec(),
    };
    Sandbox {
        sandbox_id: id.to_owned(),
        runtime: Some(sandbox::Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
        labels: [("name".to_owned(), id.to_owned())].into(),
        extensions: [("metadata".to_owned(), metadata)].into(),
        sandboxer: "podsandbox".to_owned(),
        ..Sandbox::default()
    }
}

/// One more sandbox.
///
/// # Errors
///
/// The daemon's.
pub(super) fn add(world: &World, id: &str) -> Result<()> {
    let (client, mut store) = connect(world)?;
    let request = client.request(StoreCreateRequest { sandbox: Some(pod(id)) });
    client.block_on(store.create(request)).with_context(|| format!("Store.Create {id}"))?;
    Ok(())
}

/// Another label for a sandbox.
///
/// # Errors
///
/// The daemon's.
pub(super) fn change(world: &World, id: &str) -> Result<()> {
    let (client, mut store) = connect(world)?;
    let mut sandbox = pod(id);
    sandbox.labels.insert("changed".to_owned(), "yes".to_owned());
    let request = client
        .request(StoreUpdateRequest { sandbox: Some(sandbox), fields: vec!["labels".into()] });
    client.block_on(store.update(request)).with_context(|| format!("Store.Update {id}"))?;
    Ok(())
}

/// One sandbox less.
///
/// # Errors
///
/// The daemon's.
pub(super) fn remove(world: &World, id: &str) -> Result<()> {
    let (client, mut store) = connect(world)?;
    let request = client.request(StoreDeleteRequest { sandbox_id: id.to_owned() });
    client.block_on(store.delete(request)).with_context(|| format!("Store.Delete {id}"))?;
    Ok(())
}

/// The ids of all sandboxes.
fn ids(world: &World) -> Result<Vec<String>> {
    let all = list(world)?;
    Ok(all.iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect())
}

/// The node goes from 1.7 over ours to 2.1, which moves all sandboxes to their new place, and back.
/// 1.7 does not find them there; ours sees both places, all the time.
#[test]
fn from_their_old_place_to_their_new_one_and_back() {
    let options =
        Options::new(Maker::Trixie).map(|options| options.pair(Maker::Trixie, Maker::Trixie));
    check_empty(options, |world| {
        let turn = |maker, found: &[&str], adds: &str| -> Result<()> {
            hand_over(world, maker)?;
            let all = ids(world)?;
            ensure!(all == found, "{maker}: {all:?} for {found:?}");
            add(world, adds)
        };
        add(world, "a")?;
        turn(Maker::Ours, &["a"], "b")?;
        // Version 3 yet: they are where they were.
        turn(Maker::Trixie, &["a", "b"], "c")?;
        turn(Maker::Ours, &["a", "b", "c"], "d")?;
        let before = list(world)?;
        hand_over(world, Maker::Forky)?;
        ensure!(list(world)? == before, "{before:?}\n{:?}", list(world)?);
        add(world, "e")?;
        turn(Maker::Ours, &["a", "b", "c", "d", "e"], "f")?;
        // Version 4: what 2.1 has moved is not seen by 1.7, but nothing is lost.
        turn(Maker::Trixie, &[], "g")?;
        turn(Maker::Ours, &["a", "b", "c", "d", "e", "f", "g"], "h")?;
        for id in ["b", "g"] {
            change(world, id)?;
        }
        for id in ["a", "c", "e"] {
            remove(world, id)?;
        }
        let all = list(world)?;
        ensure!(all.len() == 5, "{all:?}");
        for (line, changed) in all.iter().zip([true, false, false, true, false]) {
            ensure!(line.contains("changed") == changed, "{line}");
        }
        hand_over(world, Maker::Trixie)?;
        ensure!(list(world)? == all[3..4], "{:?}", list(world)?);
        hand_over(world, Maker::Ours)?;
        ensure!(list(world)? == all);
        ["b", "d", "f", "g", "h"].iter().try_for_each(|id| remove(world, id))?;
        ensure!(list(world)?.is_empty());
        Ok(())
    });
}
