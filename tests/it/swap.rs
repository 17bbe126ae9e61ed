//! A node that goes from containerd to ours and back, on the same folders.

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World, wait};

/// What clients see of the records, without ages.
fn seen(world: &World) -> Result<Vec<String>> {
    let mut seen = vec![
        world.ctr("images ls")?,
        world.ctr("containers ls")?,
        world.ctr("snapshots ls")?,
        world.ctr("tasks ls")?,
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

#[test]
fn with_containerd_1_6() {
    there_and_back(Maker::Bookworm);
}

#[test]
fn with_containerd_2_1() {
    there_and_back(Maker::Forky);
}
