//! Losses of power: the file system below the root stops at once, and what was not synced is gone.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use api_grpc::snapshots::MountsRequest;
use api_grpc::snapshots::snapshots_client::SnapshotsClient;
use e2e::world::{IMAGE, Options};
use e2e::{World, image, wait};

use super::{PLAN, check_files, check_service, ended, good, options};
use crate::skip;

/// Cuts the power of the file system at the root of `world`: what was not synced is gone. Then the
/// machine starts again.
fn cut_power(world: &World) -> Result<()> {
    cut_power_and(world, || {})
}

/// The same, where `release` lets go of devices that are on the disk.
pub(super) fn cut_power_and(world: &World, release: impl FnOnce()) -> Result<()> {
    let root = world.root().display().to_string();
    // EXT4_IOC_SHUTDOWN, which has the number of XFS_IOC_GOINGDOWN, without flushing the journal.
    let shutdown = "open(my $d, '<', $ARGV[0]) or die \"open: $!\"; my $how = pack('L', 2); \
                    ioctl($d, 0x8004587d, $how) or die \"ioctl: $!\";";
    world.run("perl", &["-e", shutdown, &root])?;
    if !ended(world) {
        world.kill_daemon()?;
    }
    let table = world.run("cat", &["/proc/self/mountinfo"])?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let inner = |point: &&str| *point != root && Path::new(point).starts_with(&root);
    let inner: Vec<&str> = points.filter(inner).collect();
    for point in inner.iter().rev() {
        world.run("umount", &[point])?;
    }
    release();
    // A loop device on the disk is let go of a moment after its last mount.
    wait::until("the disk to be free", || world.run("umount", &[&root]))?;
    mount_disk(world)?;
    // Another boot.
    let marker = world.inside(&world.root()).join("last-start");
    if marker.exists() {
        fs::write(marker, "another-boot running\n")?;
    }
    Ok(())
}

fn mount_disk(world: &World) -> Result<()> {
    let (disk, root) = (world.path("disk.img"), world.root());
    let words = [disk.display().to_string(), root.display().to_string()];
    world.run("mount", &["-o", "loop", &words[0], &words[1]])?;
    Ok(())
}

/// Bytes of a disk: the least that xfs takes, and most of them are never written.
const DISK: u64 = 320 << 20;

/// A world whose root is on a disk with the file system `kind`; none where there are no loop devices
/// or no such file system.
pub(super) fn with_disk(options: &Options, kind: &str) -> Result<Option<World>> {
    let world = World::without_daemon(options.clone())?;
    let disk = world.path("disk.img");
    fs::File::create(&disk)?.set_len(DISK)?;
    let force = if kind == "xfs" { "-f" } else { "-F" };
    world.run(&format!("mkfs.{kind}"), &["-q", force, &disk.display().to_string()])?;
    fs::create_dir_all(world.root())?;
    Ok(mount_disk(&world).is_ok().then_some(world))
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_acknowledged() {
    // After everything was acknowledged, and in the middle of things.
    losses_of_power(
        "ext4",
        &[
            "",
            "content.file.sync-name:1=abort",
            "diff.layer.sync:2=abort",
            "snapshot.flush:1=abort",
            "snapshot.commit.record:1=abort",
            "bolt.meta.sync:9=abort",
            "bolt.committed:12=abort",
            "image.record:1=abort",
        ],
    );
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_acknowledged_on_xfs() {
    losses_of_power("xfs", &["", "content.file.sync-name:1=abort", "image.record:1=abort"]);
}

/// What a client writes into a snapshot passes through no differ: the commit makes it durable.
#[test]
fn a_loss_of_power_takes_nothing_of_what_a_client_wrote_and_committed() {
    let outcome: Result<()> = (|| {
        let Some(options) = options()? else { skip!("containerd does not flush it") };
        for snapshotter in ["overlayfs", "native"] {
            let Some(world) = with_disk(&options, "ext4")? else { skip!("no loop devices") };
            world.start()?;
            let on = format!("snapshots --snapshotter {snapshotter}");
            world.ctr(&format!("{on} prepare work"))?;
            let file = tree_of(&world, snapshotter, "work")?.join("file");
            let whole = vec![b'x'; 3 << 20];
            fs::write(world.inside(&file), &whole)?;
            world.ctr(&format!("{on} commit done work"))?;
            cut_power(&world)?;
            world.start()?;
            world.collect()?;
            world.ctr(&format!("{on} view look done"))?;
            let file = tree_of(&world, snapshotter, "look")?.join("file");
            let found =
                fs::read(world.inside(&file)).with_context(|| file.display().to_string())?;
            ensure!(found == whole, "{snapshotter}: {} bytes are left", found.len());
            world.kill_daemon()?;
            world.run("umount", &[&world.root().display().to_string()])?;
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

/// The folder that is all of the snapshot `key`.
fn tree_of(world: &World, snapshotter: &str, key: &str) -> Result<PathBuf> {
    let client = world.client()?;
    let mut snapshots = SnapshotsClient::new(client.channel());
    let request = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let mounts = client.block_on(snapshots.mounts(client.request(request)))?.into_inner().mounts;
    ensure!(mounts.len() == 1 && mounts[0].r#type == "bind", "{mounts:?}");
    Ok(PathBuf::from(&mounts[0].source))
}

fn losses_of_power(kind: &str, plans: &[&str]) {
    let outcome: Result<()> = (|| {
        let Some(options) = options()? else { skip!("the power cut is followed by our recovery") };
        let good = good(&options)?;
        for plan in plans {
            let Some(world) = with_disk(&options, kind)? else {
                skip!("no loop devices, or no {kind}")
            };
            fs::write(world.path(PLAN), *plan)?;
            world.start()?;
            let imported = world.import(&image::small()?).is_ok();
            ensure!(imported == plan.is_empty(), "{plan}: the daemon did not stop");
            cut_power(&world)?;
            fs::remove_file(world.path(PLAN))?;
            check_files(&world, &good).with_context(|| format!("{plan}\n{}", world.log()))?;
            world.start()?;
            if imported {
                let images = world.ctr("images ls -q")?;
                ensure!(images.contains(IMAGE), "an acknowledged image is gone: {images}");
            }
            check_service(&world).with_context(|| format!("{plan}\n{}", world.log()))?;
            world.kill_daemon()?;
            world.run("umount", &[&world.root().display().to_string()])?;
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}
