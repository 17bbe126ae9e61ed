//! A node that goes from containerd to ours and back, on the same folders.

mod sandboxes;

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, World, wait};

/// Whether `maker` keeps sandboxes: their store came after 1.6.
fn has_sandboxes(maker: Maker) -> bool {
    maker != Maker::Bookworm
}

/// What clients see of the records, without ages; with the sandboxes if `theirs` has them.
fn seen(world: &World, theirs: Maker) -> Result<Vec<String>> {
    let mut seen = vec![
        world.ctr("images ls")?,
        world.ctr("containers ls")?,
        world.ctr("snapshots ls")?,
        format!("{:?}", world.tasks()?),
        world.ctr("namespaces ls")?,
        world.ctr("leases ls")?,
        world.ctr("containers info one")?,
        world.ctr("snapshots info one")?,
    ];
    // The content listing has ages, and its blobs are sorted by digest: names are enough.
    seen.push(world.ctr("content ls -q")?);
    if has_sandboxes(theirs) {
        seen.extend(sandboxes::list(world)?);
    }
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
    if overlay.exists() {
        let overlay = overlay.display().to_string();
        world.run(&daemon.display().to_string(), &["bolt", "check", &overlay])?;
    }
    Ok(())
}

/// Ends the daemon, checks what it has left on disk, and has `maker` go on there.
fn hand_over(world: &World, maker: Maker) -> Result<()> {
    ensure!(world.stop_daemon()? == 0);
    check_database(world)?;
    world.use_shim(maker)?;
    world.start_as(maker)
}

/// Waits until `now` sees what was seen `before`: a task is known some time after the daemon answers.
fn seen_again(before: &[String], now: impl Fn() -> Result<Vec<String>>) -> Result<()> {
    wait::until("all to be known again", || {
        let now = now()?;
        for (one, other) in before.iter().zip(&now) {
            ensure!(one == other, "before:\n{one}\nnow:\n{other}");
        }
        ensure!(before.len() == now.len(), "before:\n{before:#?}\nnow:\n{now:#?}");
        Ok(())
    })
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
        if has_sandboxes(theirs) {
            sandboxes::add(world, "theirs")?;
            sandboxes::add(world, "changed")?;
        }
        let before = seen(world, theirs)?;

        hand_over(world, Maker::Ours)?;
        seen_again(&before, || seen(world, theirs))?;
        // Work on both what was there and what is new.
        ensure!(world.ctr("tasks exec --exec-id b one echo by ours")? == "by ours\n");
        ensure!(world.ctr(&format!("run --rm {IMAGE} two /hello"))? == "hello from the image\n");
        world.ctr(&format!("run -d {IMAGE} three sleep 1000"))?;
        world.ctr("images label docker.io/library/small:1 by=ours")?;
        world.ctr("images tag docker.io/library/small:1 docker.io/library/second:1")?;
        world.ctr("snapshots commit done extra")?;
        if has_sandboxes(theirs) {
            sandboxes::add(world, "ours")?;
            sandboxes::change(world, "changed")?;
        }
        let before = seen(world, theirs)?;

        hand_over(world, theirs)?;
        seen_again(&before, || seen(world, theirs))?;
        ensure!(world.ctr("tasks exec --exec-id c one echo by theirs")? == "by theirs\n");
        ensure!(world.ctr("tasks exec --exec-id c three echo our shim")? == "our shim\n");
        ensure!(
            world.ctr("run --rm docker.io/library/second:1 four /hello")?
                == "hello from the image\n"
        );
        world.ctr("tasks kill one")?;
        world.until_task("one", "STOPPED")?;
        world.remove("one")?;
        world.remove("three")?;
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

/// Two makers take turns on one node, three times each; one of them is ours, the other has made
/// `ctr`. Whoever comes sees all that was there, works on it, and adds its own.
fn three_rounds(turns: [Maker; 2]) {
    let [first, last] = turns;
    let theirs = if first == Maker::Ours { last } else { first };
    let options = Options::new(theirs).map(|options| options.pair(first, first));
    check(options, |world| {
        let everything = |world: &World| -> Result<Vec<String>> {
            let mut all = vec![format!("{:?}", world.tasks()?)];
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
            if has_sandboxes(theirs) {
                all.extend(sandboxes::list(world)?);
            }
            Ok(all)
        };
        for visit in 0..6_usize {
            if visit > 0 {
                let before = everything(world)?;
                hand_over(world, turns[visit % 2])?;
                seen_again(&before, || everything(world))?;
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
            if has_sandboxes(theirs) {
                sandboxes::add(world, &format!("pod{visit}"))?;
            }
        }
        // Who came last takes all of it away; the other one finds an empty house.
        for visit in 0..6_usize {
            let [task, snapshot, _, image] = left(visit);
            world.remove(&task)?;
            if visit < 5 {
                world.ctr(&format!("snapshots rm on-{snapshot}"))?;
            }
            world.ctr(&format!("snapshots rm {snapshot}"))?;
            world.ctr(&format!("images rm {image}"))?;
        }
        world.ctr("leases rm lease5")?;
        if has_sandboxes(theirs) {
            (0..6).try_for_each(|visit| sandboxes::remove(world, &format!("pod{visit}")))?;
        }
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        hand_over(world, first)?;
        if has_sandboxes(theirs) {
            ensure!(sandboxes::list(world)?.is_empty());
        }
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
    three_rounds([Maker::Ours, Maker::Bookworm]);
}

/// 1.7 finds sandboxes only where it has put them itself: in a file that it has made.
#[test]
fn three_rounds_with_containerd_1_7() {
    three_rounds([Maker::Trixie, Maker::Ours]);
}

#[test]
fn three_rounds_with_containerd_2_1() {
    three_rounds([Maker::Ours, Maker::Forky]);
}

#[test]
fn with_containerd_1_6() {
    there_and_back(Maker::Bookworm);
}

#[test]
fn with_containerd_1_7() {
    there_and_back(Maker::Trixie);
}

#[test]
fn with_containerd_2_1() {
    there_and_back(Maker::Forky);
}
