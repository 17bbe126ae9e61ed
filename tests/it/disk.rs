//! `ctr disk` and `ctr snapshots prune`: our ctr, on any daemon.

use anyhow::{Context, Result, ensure};
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, Table, World};

/// The table of `ctr disk -b`, and its last line.
fn disk(world: &World, more: &str) -> Result<(Table, String)> {
    let text = world.ctr(&format!("disk -b{more}"))?;
    let (table, total) = text.trim_end().rsplit_once('\n').context("no lines")?;
    Ok((Table::parse(table)?, total.to_owned()))
}

fn sizes(table: &Table, name: &str) -> Result<[u64; 4]> {
    let row = table.rows.iter().find(|row| row[1] == name).with_context(|| name.to_owned())?;
    Ok([row[2].parse()?, row[3].parse()?, row[4].parse()?, row[5].parse()?])
}

fn explained(world: &World) -> Result<()> {
    // The index of the archive is nobody's once the image is there.
    world.collect()?;
    world.ctr(&format!("run -d {IMAGE} box sleep 10000"))?;
    world.ctr("snapshots prepare loose")?;
    world.ctr("snapshots commit layer loose")?;
    world.ctr("snapshots prepare busy layer")?;
    world.ctr("snapshots prepare other")?;
    world.ctr("snapshots commit old other")?;
    let (table, total) = disk(world, "")?;
    let heads = ["KIND", "NAME", "CONTENT", "SNAPSHOTS", "SHARED", "EXCLUSIVE"];
    ensure!(table.heads == heads, "{:?}", table.heads);
    let [content, snapshots, shared, exclusive] = sizes(&table, IMAGE)?;
    ensure!(content > 0 && snapshots > 0 && content + snapshots == shared + exclusive, "{table:?}");
    let [content, snapshots, shared, _] = sizes(&table, "box")?;
    ensure!(content == 0 && snapshots >= shared && shared > 0, "the image's layers: {table:?}");
    // What labels keep is told once, by its top.
    let labels: Vec<&str> =
        table.rows.iter().filter(|row| row[0] == "label").map(|row| row[1].as_str()).collect();
    ensure!(labels == ["overlayfs/busy", "overlayfs/old"], "{labels:?}");
    ensure!(total.starts_with("total "), "{total}");
    let (orphans, _) = disk(world, " --orphans")?;
    ensure!(orphans.rows.len() == 2, "{orphans:?}");

    // Somebody may have `busy` mounted, which needs `layer`.
    ensure!(world.ctr("snapshots prune --dry")? == "old\n");
    ensure!(world.ctr("snapshots prune")? == "old\n");
    ensure!(world.ctr("snapshots prune")?.is_empty());
    ensure!(world.ctr("snapshots prune --all")? == "busy\nlayer\n");
    let left = Table::parse(&world.ctr("snapshots ls")?)?;
    ensure!(left.rows.len() == 3, "the image's two and the container's: {left:?}");
    ensure!(world.ctr("tasks exec --exec-id e box echo lives")? == "lives\n");
    world.ctr("tasks rm --force box")?;
    world.ctr("containers rm box").map(drop)
}

#[test]
fn our_daemon_is_explained() {
    check(Options::new(Maker::Ours), explained);
}

#[test]
fn containerd_is_explained() {
    let options = Options::new(Maker::Ours).map(|options| options.pair(Maker::Forky, Maker::Forky));
    check(options, explained);
}
