//! The same for snapshotters with more than folders of layers: native, blockfile, btrfs, erofs with
//! and without its differ, and devmapper. And what a loss of power did damage is mended.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::world::{IMAGE, Options};
use e2e::{Maker, Table, World, image, wait};

use super::power::{cut_power_and, with_disk};
use super::{PLAN, check_service_on, ended, life_on, nothing_in, options, start_by};
use crate::skip;
use crate::snapshotters::{
    EROFS_DIFFER, ThinPool, lacking, lacking_devmapper, lacking_erofs_differ,
};

/// A snapshotter with what its trees are on.
struct Ground {
    snapshotter: &'static str,
    /// Every failpoint of its own, and hits of those that are passed by several steps.
    points: &'static [&'static str],
    /// Those of them at which the power is cut as well.
    cuts: &'static [&'static str],
}

const NATIVE: Ground =
    Ground { snapshotter: "native", points: &["native.name:1"], cuts: &["native.name:2"] };

const BLOCKFILE: Ground = Ground {
    snapshotter: "blockfile",
    points: &["blockfile.copy:1", "blockfile.copy:2", "blockfile.name:1", "blockfile.seal:1"],
    cuts: &["blockfile.name:1", "blockfile.seal:2"],
};

const BTRFS: Ground = Ground {
    snapshotter: "btrfs",
    points: &["btrfs.name:1", "btrfs.copy:1", "btrfs.copied:1", "btrfs.sealed:1"],
    cuts: &["btrfs.name:2", "btrfs.copied:1"],
};

const EROFS: Ground = Ground {
    snapshotter: "erofs",
    points: &["erofs.name:1", "erofs.image:1", "erofs.seal:1", "erofs.tidy:1"],
    cuts: &["erofs.image:1", "erofs.seal:2"],
};

const EROFS_WITH_DIFFER: Ground = Ground {
    snapshotter: "erofs",
    points: &["erofs.differ:1"],
    cuts: &["erofs.differ:1", "erofs.seal:1"],
};

const DEVMAPPER: Ground = Ground {
    snapshotter: "devmapper",
    points: &[
        "devmapper.create:1",
        "devmapper.activate:1",
        "devmapper.noted:1",
        "devmapper.noted:2",
        // Suspended, and nothing of it is written down.
        "devmapper.noted:3",
        "devmapper.seal:1",
        "devmapper.sealed:1",
        "devmapper.deactivate:1",
        "devmapper.remove:1",
    ],
    cuts: &["devmapper.create:2", "devmapper.seal:1", "devmapper.sealed:1"],
};

/// True for the failpoints that are hit here.
pub(super) fn is_point(name: &str) -> bool {
    [NATIVE, BLOCKFILE, BTRFS, EROFS, EROFS_WITH_DIFFER, DEVMAPPER]
        .iter()
        .flat_map(|ground| ground.points)
        .any(|point| point.split(':').next() == Some(name))
}

/// Bytes of the disk in which btrfs is, and of the empty file system of blockfile: files with holes.
const BTRFS_DISK: u64 = 200 << 20;
const SCRATCH: u64 = 32 << 20;

/// What is left of a ground when its world is gone: to be dropped after it.
#[derive(Default)]
struct Below {
    pool: Option<ThinPool>,
    folder: Option<tempfile::TempDir>,
}

impl Ground {
    fn on(&self) -> String {
        format!("--snapshotter {}", self.snapshotter)
    }

    fn pool(&self) -> String {
        ThinPool::name("durability")
    }

    /// The snapshotter's folder.
    fn folder(&self, world: &World) -> PathBuf {
        world.root().join(format!("io.containerd.snapshotter.v1.{}", self.snapshotter))
    }

    /// The configuration, and what all worlds of a test share.
    fn configure(&self, more: &str, below: &mut Below) -> Result<Option<Options>> {
        let Some(mut options) = options()? else { return Ok(None) };
        // Mounts that have to be filled in are for clients of 2.2 on.
        options.ctr = Maker::Ours;
        options.tables =
            format!("{more}[plugins.\"io.containerd.snapshotter.v1.{}\"]\n", self.snapshotter);
        match self.snapshotter {
            "blockfile" => {
                let folder = tempfile::tempdir_in("/dev/shm")?;
                let scratch = folder.path().join("scratch");
                fs::File::create(&scratch)?.set_len(SCRATCH)?;
                let made =
                    std::process::Command::new("mkfs.ext4").arg("-q").arg(&scratch).output()?;
                ensure!(made.status.success(), "{made:?}");
                options.tables +=
                    &format!("  scratch_file = {:?}\n", scratch.display().to_string());
                below.folder = Some(folder);
            }
            "devmapper" => {
                let pool = self.pool();
                options.tables +=
                    &format!("  pool_name = {pool:?}\n  base_image_size = \"64MB\"\n");
            }
            _ => {}
        }
        Ok(Some(options))
    }

    /// Makes what the trees are on.
    fn make(&self, world: &World, below: &mut Below) -> Result<()> {
        let inside = world.inside(&world.root());
        fs::create_dir_all(&inside)?;
        match self.snapshotter {
            "btrfs" => {
                fs::File::create(inside.join("btrfs.img"))?.set_len(BTRFS_DISK)?;
                let image = world.root().join("btrfs.img").display().to_string();
                world.run("mkfs.btrfs", &["-q", &image])?;
            }
            "devmapper" => ThinPool::format(&inside)?,
            _ => {}
        }
        self.mount(world, below)
    }

    /// Makes it seen.
    fn mount(&self, world: &World, below: &mut Below) -> Result<()> {
        match self.snapshotter {
            "btrfs" => {
                let image = world.root().join("btrfs.img").display().to_string();
                let folder = self.folder(world);
                fs::create_dir_all(world.inside(&folder))?;
                world.run("mount", &["-o", "loop", &image, &folder.display().to_string()])?;
            }
            "devmapper" => below.pool = Some(ThinPool::open(&self.pool(), world, &world.root())?),
            _ => {}
        }
        Ok(())
    }

    /// A collection leaves nothing of the snapshotter's.
    fn check_empty(&self, world: &World, below: &Below) -> Result<()> {
        let folder = world.inside(&self.folder(world));
        match self.snapshotter {
            "btrfs" => ["active", "view", "snapshots"]
                .iter()
                .try_for_each(|kind| nothing_in(&folder.join(kind))),
            "devmapper" => wait::until("the devices to go", || {
                let pool = below.pool.as_ref().context("no pool")?;
                let (devices, used) = (pool.devices()?, pool.used()?);
                ensure!(devices.is_empty() && used == "0", "{devices:?}, {used} blocks");
                Ok(())
            }),
            _ => nothing_in(&folder.join("snapshots")),
        }
    }

    /// What the committed layers of a world are like, by key: all that a comparison finds.
    fn layers(&self, world: &World) -> Result<BTreeMap<String, String>> {
        let list = Table::parse(&world.ctr(&format!("snapshots {} ls", self.on()))?)?;
        let kind = list.column("KIND")?;
        let mut layers = BTreeMap::new();
        for row in list.rows.iter().filter(|row| row[kind] == "Committed") {
            layers.insert(row[0].clone(), self.layer(world, &row[0])?);
        }
        Ok(layers)
    }

    /// Names, kinds, modes, owners and contents of the changes in a snapshot.
    fn layer(&self, world: &World, key: &str) -> Result<String> {
        let output = world.ctr_command(&format!("snapshots {} diff {key}", self.on()))?.output()?;
        ensure!(output.status.success(), "diff of {key}: {output:?}");
        let mut lines = Vec::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&output.stdout[..]));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut data = Vec::new();
            entry.read_to_end(&mut data)?;
            let header = entry.header();
            lines.push(format!(
                "{} {:?} {:o} {}:{} {:?} {}",
                entry.path()?.display(),
                header.entry_type(),
                header.mode()?,
                header.uid()?,
                header.gid()?,
                entry.link_name()?,
                image::digest(&data)
            ));
        }
        lines.sort();
        Ok(lines.join("\n"))
    }

    /// The committed layers are some of the good ones.
    fn check_layers(&self, world: &World, good: &BTreeMap<String, String>) -> Result<usize> {
        let layers = self.layers(world)?;
        for (key, found) in &layers {
            let whole = good.get(key).with_context(|| format!("nobody knows {key}"))?;
            ensure!(found == whole, "the layer {key} is not whole:\n{found}\ninstead of\n{whole}");
        }
        Ok(layers.len())
    }

    /// After the daemon was started again.
    fn check(&self, world: &World, below: &Below, good: &BTreeMap<String, String>) -> Result<()> {
        self.check_layers(world, good)?;
        check_service_on(world, &self.on())?;
        self.check_empty(world, below)
    }

    /// A world whose daemon runs by a plan. What is full has been in use.
    fn planned(&self, options: &Options, below: &mut Below, plan: &str) -> Result<World> {
        let world = World::without_daemon(options.clone())?;
        self.make(&world, below)?;
        if plan.ends_with("enospc") {
            world.start()?;
            world.kill_daemon()?;
        }
        start_by(&world, plan)?;
        Ok(world)
    }

    /// The layers of the image.
    fn good(&self, options: &Options) -> Result<BTreeMap<String, String>> {
        let mut below = Below::default();
        let world = self.planned(options, &mut below, "")?;
        world.ctr(&format!("images import {} {}", self.on(), image::small()?.display()))?;
        let good = self.layers(&world)?;
        ensure!(good.len() == 2, "the image has two layers: {good:?}");
        world.kill_daemon()?;
        drop(world);
        Ok(good)
    }

    /// The daemon stops at `point`.
    fn stop(&self, options: &Options, good: &BTreeMap<String, String>, point: &str) -> Result<()> {
        let mut below = Below::default();
        let world = self.planned(options, &mut below, &format!("{point}=abort"))?;
        let outcome: Result<()> = (|| {
            life_on(&world, &self.on())?;
            ensure!(ended(&world), "no step reaches it");
            fs::remove_file(world.path(PLAN))?;
            world.start()?;
            self.check(&world, &below, good)
        })();
        outcome.with_context(|| format!("stopped at {point}\n{}", world.log()))?;
        world.kill_daemon()
    }

    /// The disk is full at `point`.
    fn fill(&self, options: &Options, good: &BTreeMap<String, String>, point: &str) -> Result<()> {
        let mut below = Below::default();
        let world = self.planned(options, &mut below, &format!("{point}=enospc"))?;
        let outcome: Result<()> = (|| {
            life_on(&world, &self.on())?;
            ensure!(!ended(&world), "a full disk ended the daemon");
            self.check(&world, &below, good)
        })();
        outcome.with_context(|| format!("full at {point}\n{}", world.log()))?;
        world.kill_daemon()
    }

    /// The power is cut at `plan`, or after everything was acknowledged.
    fn cut(&self, options: &Options, good: &BTreeMap<String, String>, plan: &str) -> Result<bool> {
        let mut below = Below::default();
        let Some(world) = with_disk(options, "ext4")? else { return Ok(false) };
        self.make(&world, &mut below)?;
        let outcome: Result<()> = (|| {
            fs::write(world.path(PLAN), plan)?;
            world.start()?;
            let import = format!("images import {} {}", self.on(), image::small()?.display());
            let imported = world.try_ctr(&import)?.ok().is_ok();
            ensure!(imported == plan.is_empty(), "the daemon did not stop");
            if imported {
                world.ctr(&format!("containers create {} {IMAGE} kept /bin/true", self.on()))?;
            }
            self.cut_power(&world, &mut below)?;
            fs::remove_file(world.path(PLAN))?;
            world.start()?;
            let layers = self.check_layers(&world, good)?;
            if imported {
                ensure!(layers == 2, "an acknowledged snapshot is gone");
                let images = world.ctr("images ls -q")?;
                ensure!(images.contains(IMAGE), "an acknowledged image is gone: {images}");
                self.layer(&world, "kept").context("an acknowledged container")?;
            }
            self.check(&world, &below, good)
        })();
        let ended = world.kill_daemon();
        self.unmount(&world)?;
        outcome.with_context(|| format!("power cut at {plan:?}\n{}", world.log()))?;
        ended?;
        Ok(true)
    }

    /// Lets go of a file system that lies on the disk of the world. Folders of a world are removed while
    /// its mounts end, which keeps mounts together that are below each other; the kernel would never
    /// find out that one which has its loop device on the other is in no use.
    fn unmount(&self, world: &World) -> Result<()> {
        if self.snapshotter == "btrfs" {
            world.run("umount", &[&self.folder(world).display().to_string()])?;
        }
        Ok(())
    }

    /// What was not synced to the disk of the world is gone.
    fn cut_power(&self, world: &World, below: &mut Below) -> Result<()> {
        let pool = below.pool.take();
        cut_power_and(world, || drop(pool))?;
        self.mount(world, below)
    }

    /// The disk has lost parts of all committed trees, although it said that they were written.
    fn damage(&self, world: &World) -> Result<()> {
        let folder = world.inside(&self.folder(world)).join("snapshots");
        let mut trees: Vec<PathBuf> =
            fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        // The upper layer has no name any more, the lower one has no data.
        trees.sort();
        let [lower, upper] = &trees[..] else {
            anyhow::bail!("the image has two layers: {trees:?}")
        };
        match self.snapshotter {
            "native" => {
                fs::File::create(lower.join("bin/busybox"))?;
                fs::remove_dir_all(upper)?;
            }
            "blockfile" => {
                let length = fs::metadata(lower)?.len();
                fs::File::create(lower)?.set_len(length)?;
                fs::remove_file(upper)?;
            }
            _ => {
                let image = lower.join("layer.erofs");
                let length = fs::metadata(&image)?.len();
                fs::File::create(image)?.set_len(length)?;
                fs::remove_dir_all(upper)?;
            }
        }
        Ok(())
    }

    /// A start after a loss of power finds it and unpacks the layers anew.
    fn mend(&self, options: &Options, good: &BTreeMap<String, String>) -> Result<()> {
        let mut below = Below::default();
        let world = self.planned(options, &mut below, "")?;
        let outcome: Result<()> = (|| {
            world.ctr(&format!("images import {} {}", self.on(), image::small()?.display()))?;
            world.kill_daemon()?;
            self.damage(&world)?;
            fs::write(world.root().join("last-start"), "another-boot running\n")?;
            world.start()?;
            ensure!(world.log().matches("unpacked anew").count() == 2, "nothing was found");
            ensure!(self.check_layers(&world, good)? == 2, "a snapshot is gone");
            // What is mended is found to be whole.
            world.kill_daemon()?;
            fs::write(world.root().join("last-start"), "a-third-boot running\n")?;
            world.start()?;
            ensure!(world.log().matches("unpacked anew").count() == 2, "mended again");
            self.check(&world, &below, good)
        })();
        outcome.with_context(|| format!("mended\n{}", world.log()))?;
        world.kill_daemon()
    }

    /// All of it, with `more` in the configuration.
    fn run(&self, more: &str) -> Result<()> {
        let mut below = Below::default();
        let Some(options) = self.configure(more, &mut below)? else {
            skip!("failpoints are in our daemon alone")
        };
        let good = self.good(&options)?;
        let only = std::env::var("IRONHULL_POINT").ok();
        for point in
            self.points.iter().filter(|point| only.as_ref().is_none_or(|only| point.contains(only)))
        {
            self.stop(&options, &good, point)?;
            self.fill(&options, &good, point)?;
        }
        // Layers are unpacked anew without the differ for erofs, and not as it does: mkfs.erofs gives
        // a file with two names the mode that stands with the second one.
        if !matches!(self.snapshotter, "btrfs" | "devmapper") && more.is_empty() {
            self.mend(&options, &good)?;
        }
        let cuts = self.cuts.iter().map(|point| format!("{point}=abort"));
        for plan in [String::new()].into_iter().chain(cuts) {
            if !self.cut(&options, &good, &plan)? {
                skip!("no loop devices: the power is not cut");
            }
        }
        Ok(())
    }
}

#[test]
fn on_native_nothing_is_lost_or_left() -> Result<()> {
    NATIVE.run("")
}

#[test]
fn on_blockfile_nothing_is_lost_or_left() -> Result<()> {
    if let Some(reason) = lacking("ext4")? {
        skip!("{reason}");
    }
    BLOCKFILE.run("")
}

#[test]
fn on_btrfs_nothing_is_lost_or_left() -> Result<()> {
    if let Some(reason) = lacking("btrfs")? {
        skip!("{reason}");
    }
    BTRFS.run("")
}

#[test]
fn on_erofs_nothing_is_lost_or_left() -> Result<()> {
    if let Some(reason) = lacking("erofs")? {
        skip!("{reason}");
    }
    EROFS.run("")
}

#[test]
fn on_erofs_with_its_differ_nothing_is_lost_or_left() -> Result<()> {
    if let Some(reason) = lacking_erofs_differ()? {
        skip!("{reason}");
    }
    EROFS_WITH_DIFFER.run(EROFS_DIFFER)
}

#[test]
fn on_devmapper_nothing_is_lost_or_left() -> Result<()> {
    if let Some(reason) = lacking_devmapper()? {
        skip!("{reason}");
    }
    DEVMAPPER.run("")
}
