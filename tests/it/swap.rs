//! A node that goes from containerd to ours and back, on the same folders.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use api_grpc::sandbox::store_client::StoreClient;
use api_grpc::sandbox::{StoreCreateRequest, StoreListRequest};
use api_shim::types::{Sandbox, sandbox};
use e2e::client::Client;
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, wait};

/// The tasks; containerd gives them in no order.
fn tasks(world: &World) -> Result<String> {
    let text = world.ctr("tasks ls")?;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// What clients see of the records, without ages.
fn seen(world: &World) -> Result<Vec<String>> {
    let mut seen = vec![
        world.ctr("images ls")?,
        world.ctr("containers ls")?,
        world.ctr("snapshots ls")?,
        tasks(world)?,
        world.ctr("namespaces ls")?,
        world.ctr("leases ls")?,
        world.ctr("containers info one")?,
        world.ctr("snapshots info one")?,
    ];
    // The content listing has ages, and its blobs are sorted by digest: names are enough.
    seen.push(world.ctr("content ls -q")?);
    Ok(seen)
}

/// Our check of the database; the daemon must not run.
fn check_database(world: &World) -> Result<()> {
    let file = world.root().join("io.containerd.metadata.v1.bolt/meta.db");
    let daemon = Maker::Ours.daemon()?;
    let shown = world
        .run(&daemon.display().to_string(), &["bolt", "check", &file.display().to_string()])?;
    ensure!(shown.lines().count() == 1, "{shown}");
    let overlay = world.root().join("io.containerd.snapshotter.v1.overlayfs/metadata.db");
    world.run(&daemon.display().to_string(), &["bolt", "check", &overlay.display().to_string()])?;
    Ok(())
}

/// `theirs` fills a node, ours takes over, `theirs` takes it back.
fn there_and_back(theirs: Maker) {
    let options = Options::new(theirs).map(|options| options.pair(theirs, theirs));
    check(options, |world| {
        world.ctr(&format!("run -d {IMAGE} one sh -c 'trap \"exit 8\" TERM; echo > /ready; while :; do sleep 0.1; done'"))?;
        wait::until("the trap to be set", || {
            world.ctr("tasks exec --exec-id a one test -e /ready")
        })?;
        world.ctr("leases create --id kept a=b")?;
        world.ctr("snapshots prepare extra")?;
        world.ctr("images label docker.io/library/small:1 by=theirs")?;
        let before = seen(world)?;

        ensure!(world.stop_daemon()? == 0);
        check_database(world)?;
        world.use_shim(Maker::Ours)?;
        world.start_as(Maker::Ours)?;
        wait::until("the running task to be adopted", || {
            let after = seen(world)?;
            for (one, other) in before.iter().zip(&after) {
                ensure!(one == other, "before:\n{one}\nnow:\n{other}");
            }
            Ok(())
        })?;
        // Work on both what was there and what is new.
        ensure!(world.ctr("tasks exec --exec-id b one echo by ours")? == "by ours\n");
        ensure!(world.ctr(&format!("run --rm {IMAGE} two /hello"))? == "hello from the image\n");
        world.ctr(&format!("run -d {IMAGE} three sleep 1000"))?;
        world.ctr("images label docker.io/library/small:1 by=ours")?;
        world.ctr("images tag docker.io/library/small:1 docker.io/library/second:1")?;
        world.ctr("snapshots commit done extra")?;
        let before = seen(world)?;

        ensure!(world.stop_daemon()? == 0);
        check_database(world)?;
        world.use_shim(theirs)?;
        world.start_as(theirs)?;
        wait::until("both tasks to be known again", || {
            let after = seen(world)?;
            for (one, other) in before.iter().zip(&after) {
                ensure!(one == other, "before:\n{one}\nback at {theirs}:\n{other}");
            }
            Ok(())
        })?;
        ensure!(world.ctr("tasks exec --exec-id c one echo by theirs")? == "by theirs\n");
        ensure!(world.ctr("tasks exec --exec-id c three echo our shim")? == "our shim\n");
        ensure!(
            world.ctr("run --rm docker.io/library/second:1 four /hello")?
                == "hello from the image\n"
        );
        world.ctr("tasks kill one")?;
        wait::until("the task to stop", || {
            let table = Table::parse(&world.ctr("tasks ls")?)?;
            ensure!(table.cell("one", "STATUS")? == "STOPPED", "{table:?}");
            Ok(())
        })?;
        for id in ["one", "three"] {
            world.ctr(&format!("tasks rm --force {id}"))?;
            world.ctr(&format!("containers rm {id}"))?;
        }
        world.ctr("leases rm --sync kept")?;
        world.ctr("images rm --sync docker.io/library/second:1 docker.io/library/small:1")?;
        ensure!(world.ctr("content ls -q")?.is_empty());
        ensure!(world.stop_daemon()? == 0);
        check_database(world)?;
        world.start_as(theirs)
    });
}

/// The names of what a visit leaves, by the number of the visit.
fn left(visit: usize) -> [String; 4] {
    ["task", "snap", "lease", "docker.io/library/image"].map(|kind| match kind {
        "docker.io/library/image" => format!("{kind}:{visit}"),
        kind => format!("{kind}{visit}"),
    })
}

/// The sandboxes of a namespace as its store tells, without times.
fn sandboxes(world: &World) -> Result<Vec<String>> {
    let client = Client::connect(&world.socket(), world.namespace())?;
    let mut store = StoreClient::new(client.channel());
    let request = client.request(StoreListRequest::default());
    let answer = client.block_on(store.list(request))?.into_inner();
    let mut seen: Vec<String> = answer
        .list
        .into_iter()
        .map(|sandbox| {
            let extensions: BTreeMap<_, _> = sandbox.extensions.into_iter().collect();
            let labels: BTreeMap<_, _> = sandbox.labels.into_iter().collect();
            let runtime = sandbox.runtime.unwrap_or_default().name;
            format!(
                "{} {runtime} {} {labels:?} {extensions:?}",
                sandbox.sandbox_id, sandbox.sandboxer
            )
        })
        .collect();
    seen.sort();
    Ok(seen)
}

/// One more sandbox, as pods have them.
fn add_sandbox(world: &World, visit: usize) -> Result<()> {
    let client = Client::connect(&world.socket(), world.namespace())?;
    let mut store = StoreClient::new(client.channel());
    let metadata = prost_types::Any {
        type_url: "github.com/containerd/cri/pkg/store/sandbox/Metadata".to_owned(),
        value: br#"{"Version":"v1","Metadata":{}}"#.to_vec(),
    };
    let sandbox = Sandbox {
        sandbox_id: format!("pod{visit}"),
        runtime: Some(sandbox::Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
        labels: [("visit".to_owned(), visit.to_string())].into(),
        extensions: [("metadata".to_owned(), metadata)].into(),
        sandboxer: "podsandbox".to_owned(),
        ..Sandbox::default()
    };
    let request = client.request(StoreCreateRequest { sandbox: Some(sandbox) });
    client.block_on(store.create(request))?;
    Ok(())
}

/// Ours and `theirs` take turns on one node, three times each. Whoever comes sees all that was
/// there, works on it, and adds its own.
fn three_rounds(theirs: Maker) {
    let options = Options::new(theirs).map(|options| options.pair(Maker::Ours, Maker::Ours));
    // The store of sandboxes came after 1.6.
    let with_sandboxes = theirs == Maker::Forky;
    check(options, |world| {
        let everything = |world: &World| -> Result<Vec<String>> {
            let mut all = vec![tasks(world)?];
            for list in [
                "images ls",
                "containers ls",
                "snapshots ls",
                "namespaces ls",
                "leases ls",
                "content ls -q",
            ] {
                all.push(world.ctr(list)?);
            }
            if with_sandboxes {
                all.extend(sandboxes(world)?);
            }
            Ok(all)
        };
        for visit in 0..6_usize {
            let maker = if visit % 2 == 0 { Maker::Ours } else { theirs };
            if visit > 0 {
                let before = everything(world)?;
                ensure!(world.stop_daemon()? == 0);
                check_database(world)?;
                world.use_shim(maker)?;
                world.start_as(maker)?;
                wait::until("all to be known again", || {
                    for (one, other) in before.iter().zip(&everything(world)?) {
                        ensure!(one == other, "before:\n{one}\nnow with {maker}:\n{other}");
                    }
                    Ok(())
                })?;
            }
            // What the other one left is whole: tasks answer, snapshots take children.
            if let Some(last) = visit.checked_sub(1) {
                let [task, snapshot, lease, image] = left(last);
                ensure!(
                    world.ctr(&format!("tasks exec --exec-id v{visit} {task} echo hi"))? == "hi\n"
                );
                world.ctr(&format!("snapshots prepare on-{snapshot} {snapshot}"))?;
                world.ctr(&format!("images label {image} by=visit{visit}"))?;
                ensure!(
                    world.ctr(&format!("run --rm {image} r{visit} /hello"))?
                        == "hello from the image\n"
                );
                world.ctr(&format!("leases rm {lease}"))?;
            }
            let [task, snapshot, lease, image] = left(visit);
            world.ctr(&format!("run -d {IMAGE} {task} sleep 10000"))?;
            world.ctr(&format!("snapshots prepare active{visit}"))?;
            world.ctr(&format!("snapshots commit {snapshot} active{visit}"))?;
            world.ctr(&format!("leases create --id {lease} visit={visit}"))?;
            world.ctr(&format!("images tag {IMAGE} {image}"))?;
            world.ctr(&format!("snapshots label {snapshot} containerd.io/gc.root=yes"))?;
            if with_sandboxes {
                add_sandbox(world, visit)?;
            }
        }
        // `theirs` came last and takes all of it away; ours finds an empty house.
        for visit in 0..6_usize {
            let [task, snapshot, _, image] = left(visit);
            world.ctr(&format!("tasks rm --force {task}"))?;
            world.ctr(&format!("containers rm {task}"))?;
            if visit < 5 {
                world.ctr(&format!("snapshots rm on-{snapshot}"))?;
            }
            world.ctr(&format!("snapshots rm {snapshot}"))?;
            world.ctr(&format!("images rm {image}"))?;
        }
        world.ctr("leases rm lease5")?;
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        ensure!(world.stop_daemon()? == 0);
        check_database(world)?;
        world.start_as(Maker::Ours)?;
        for list in
            ["images ls -q", "containers ls -q", "tasks ls -q", "leases ls -q", "content ls -q"]
        {
            let left = world.ctr(list)?;
            ensure!(left.trim().is_empty(), "{list}: {left}");
        }
        let snapshots = world.ctr("snapshots ls")?;
        ensure!(snapshots.lines().count() == 1, "{snapshots}");
        Ok(())
    });
}

#[test]
fn three_rounds_with_containerd_1_6() {
    three_rounds(Maker::Bookworm);
}

#[test]
fn three_rounds_with_containerd_2_1() {
    three_rounds(Maker::Forky);
}

#[test]
fn with_containerd_1_6() {
    there_and_back(Maker::Bookworm);
}

#[test]
fn with_containerd_2_1() {
    there_and_back(Maker::Forky);
}
