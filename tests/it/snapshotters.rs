//! Containers on every snapshotter whose file system this kernel has, and mounts that are activated.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use api_grpc::diff::ApplyRequest;
use api_grpc::diff::diff_client::DiffClient;
use api_grpc::images::{Image, UpdateImageRequest};
use api_grpc::leases::{CreateRequest, DeleteRequest};
use api_grpc::mounts::mounts_client::MountsClient;
use api_grpc::mounts::{ActivateRequest, DeactivateRequest, InfoRequest};
use api_grpc::snapshots::MountsRequest;
use api_grpc::snapshots::snapshots_client::SnapshotsClient;
use api_shim::types;
use e2e::world::{IMAGE, Options, check, check_empty};
use e2e::{Maker, Table, World, image, wait};

use crate::skip;

/// How layers begin.
const GZIP: &[u8] = b"\x1f\x8b";

/// Size of the disks: files with holes.
const DISK: u64 = 256 << 20;

/// Has the kernel load what it has as a module. There may be none, and no program for it.
fn load(module: &str) {
    let _ = Command::new("modprobe").arg(module).output();
}

/// Set in the machine that is booted for these tests: there, none is skipped.
const MACHINE: &str = "IRONHULL_MACHINE";

/// The reason of a test that is skipped.
fn reason(text: &str) -> Result<Option<String>> {
    ensure!(std::env::var_os(MACHINE).is_none(), "the machine lacks something: {text}");
    Ok(Some(text.to_owned()))
}

/// Why the file system cannot be had here, if it cannot.
pub(crate) fn lacking(kind: &str) -> Result<Option<String>> {
    load(kind);
    let known = fs::read_to_string("/proc/filesystems")?;
    if !known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        return reason(&format!("this kernel has no {kind}"));
    }
    let program = format!("mkfs.{kind}");
    let here = Command::new(&program).arg("--version").output().is_ok();
    if here { Ok(None) } else { reason(&format!("there is no {program}")) }
}

/// A disk with a file system, in a file of the world.
fn disk(world: &World, kind: &str) -> Result<String> {
    let path = world.path(&format!("{kind}.img"));
    fs::File::create(&path)?.set_len(DISK)?;
    let path = path.display().to_string();
    world.run(&format!("mkfs.{kind}"), &["-q", &path])?;
    Ok(path)
}

/// [`containers_with`] a snapshotter whose records tell all that there is.
fn containers_on(
    snapshotter: &str,
    tables: &str,
    setup: impl FnOnce(&World) -> Result<Option<String>>,
) {
    containers_with(snapshotter, tables, setup, || Ok(Vec::new()));
}

/// Runs a container on `snapshotter` and takes all away again. `setup` is done before the daemon
/// starts, what it gives is undone by `umount`. `left` names what there still is of snapshots
/// beside their records.
fn containers_with(
    snapshotter: &str,
    tables: &str,
    setup: impl FnOnce(&World) -> Result<Option<String>>,
    left: impl Fn() -> Result<Vec<String>>,
) {
    let body = || -> Result<()> {
        // Mounts that have to be filled in are for clients of 2.2 on.
        let mut options = Options::new(Maker::Ours)?.pair(Maker::Ours, Maker::Ours);
        options.tables = tables.to_owned();
        let world = World::without_daemon(options)?;
        let mounted = setup(&world)?;
        world.start()?;
        world.ctr(&format!(
            "images import --snapshotter {snapshotter} {}",
            image::small()?.display()
        ))?;
        let own = format!("--snapshotter {snapshotter}");
        let rows = || -> Result<usize> {
            Ok(Table::parse(&world.ctr(&format!("snapshots {own} ls"))?)?.rows.len())
        };
        ensure!(rows()? == 2);
        let output = world.ctr(&format!(
            "run --rm {own} {IMAGE} one sh -c 'echo more >> /data/same; cat /data/same'"
        ))?;
        ensure!(output.ends_with("more\n"), "{output}");
        // The image is as it was, and two containers do not see each other.
        world.ctr(&format!("run -d {own} {IMAGE} two sh -c 'echo mine > /own; sleep 1000'"))?;
        let output =
            world.ctr(&format!("run --rm {own} {IMAGE} three sh -c 'ls /own; cat /data/same'"));
        ensure!(
            output.as_ref().is_ok_and(|text| !text.contains("more") && !text.contains("/own")),
            "{output:?}"
        );
        ensure!(rows()? == 3);

        // What a container changed can be looked at and becomes a layer; a daemon that comes back
        // finds all of it.
        world.kill_daemon()?;
        world.start()?;
        ensure!(world.ctr("tasks exec --exec-id e two cat /own")? == "mine\n");
        let usage = world.ctr(&format!("snapshots {own} usage two"))?;
        ensure!(usage.lines().count() == 2, "{usage}");
        // While it runs an image of a file system has no state that another mount could show.
        world.ctr("tasks rm --force two")?;
        let command = world.ctr_command(&format!("snapshots {own} diff two"))?.output()?;
        ensure!(command.status.success() && command.stdout.starts_with(GZIP), "{command:?}");
        world.ctr("containers rm two")?;
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        wait::until("the snapshots to go", || {
            ensure!(rows()? == 0);
            let left = left()?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        ensure!(world.stop_daemon()? == 0);
        if let Some(folder) = mounted {
            world.run("umount", &[&folder])?;
        }
        world.assert_clean()
    };
    if let Err(error) = body() {
        panic!("{error:?}");
    }
}

/// The plugin's table, with a folder in the world.
fn table(snapshotter: &str, more: &str) -> String {
    format!(
        "[plugins.\"io.containerd.snapshotter.v1.{snapshotter}\"]\n  root_path = \"{{world}}/{snapshotter}\"\n{more}"
    )
}

#[test]
fn on_btrfs() -> Result<()> {
    if let Some(reason) = lacking("btrfs")? {
        skip!("{reason}");
    }
    containers_on("btrfs", &table("btrfs", ""), |world| {
        let disk = disk(world, "btrfs")?;
        let folder = world.path("btrfs");
        fs::create_dir(&folder)?;
        let folder = folder.display().to_string();
        world.run("mount", &["-o", "loop", &disk, &folder])?;
        Ok(Some(folder))
    });
    Ok(())
}

#[test]
fn on_blockfile() -> Result<()> {
    if let Some(reason) = lacking("ext4")? {
        skip!("{reason}");
    }
    let more = "  scratch_file = \"{world}/ext4.img\"\n  fs_type = \"ext4\"\n";
    containers_on("blockfile", &table("blockfile", more), |world| {
        disk(world, "ext4").map(|_| None)
    });
    Ok(())
}

#[test]
fn on_erofs() -> Result<()> {
    if let Some(reason) = lacking("erofs")? {
        skip!("{reason}");
    }
    containers_on("erofs", &table("erofs", ""), |_| Ok(None));
    Ok(())
}

/// What containers write is in an image of a fixed size, which the mount manager makes.
#[test]
fn on_erofs_with_a_size() -> Result<()> {
    if let Some(reason) = lacking("erofs")? {
        skip!("{reason}");
    }
    containers_on("erofs", &table("erofs", "  default_size = \"32MB\"\n"), |_| Ok(None));
    Ok(())
}

/// Why the differ for erofs cannot work here, if it cannot.
pub(crate) fn lacking_erofs_differ() -> Result<Option<String>> {
    if let Some(reason) = lacking("erofs")? {
        return Ok(Some(reason));
    }
    let help = Command::new("mkfs.erofs").arg("--help").output()?;
    let text = [help.stdout, help.stderr].concat();
    if String::from_utf8_lossy(&text).contains("--tar=") {
        return Ok(None);
    }
    reason("this mkfs.erofs does not read tars")
}

/// Has the differ for erofs tried first.
pub(crate) const EROFS_DIFFER: &str =
    "[plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"erofs\", \"walking\"]\n";

/// Layers become images without being unpacked first.
#[test]
fn on_erofs_with_its_differ() -> Result<()> {
    if let Some(reason) = lacking_erofs_differ()? {
        skip!("{reason}");
    }
    containers_on("erofs", &(table("erofs", "") + EROFS_DIFFER), |_| Ok(None));
    Ok(())
}

/// Layers become an index with the tar behind it.
#[test]
fn on_erofs_with_its_differ_and_tars() -> Result<()> {
    if let Some(reason) = lacking_erofs_differ()? {
        skip!("{reason}");
    }
    let index = "[plugins.\"io.containerd.differ.v1.erofs\"]\n  enable_tar_index = true\n";
    containers_on("erofs", &(table("erofs", "") + index + EROFS_DIFFER), |_| Ok(None));
    Ok(())
}

/// A pool of thin devices on two loop devices, with the devices that are made in it.
pub(crate) struct ThinPool {
    name: String,
    loops: Vec<String>,
}

/// The files below a pool, and their sizes.
const POOL: [(&str, u64); 2] = [("pool.meta", 16 << 20), ("pool.data", DISK)];

/// Makes device nodes itself where no udev runs.
pub(crate) fn dmsetup(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("dmsetup");
    if !Path::new("/run/udev/control").exists() {
        command.env("DM_DISABLE_UDEV", "1");
    }
    let output = command.args(arguments).output().context("dmsetup")?;
    ensure!(output.status.success(), "dmsetup {arguments:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

impl ThinPool {
    /// A name for pools of this process.
    pub(crate) fn name(part: &str) -> String {
        format!("ironhull-{part}-{}", std::process::id())
    }

    /// Makes the files of an empty pool in `folder`.
    pub(crate) fn format(folder: &Path) -> Result<()> {
        for (part, size) in POOL {
            fs::File::create(folder.join(part))?.set_len(size)?;
        }
        Ok(())
    }

    /// Makes the devices of the pool in `folder`, as the processes of `world` see it.
    pub(crate) fn open(name: &str, world: &World, folder: &Path) -> Result<ThinPool> {
        let mut pool = ThinPool { name: name.to_owned(), loops: Vec::new() };
        for (part, _) in POOL {
            let path = folder.join(part).display().to_string();
            let device = world.run("losetup", &["--show", "-f", &path])?;
            pool.loops.push(device.trim().to_owned());
        }
        let table = format!(
            "0 {} thin-pool {} {} 128 32768 1 skip_block_zeroing",
            DISK / 512,
            pool.loops[0],
            pool.loops[1]
        );
        dmsetup(&["create", &pool.name, "--table", &table])?;
        Ok(pool)
    }

    /// Blocks of data that are in use.
    pub(crate) fn used(&self) -> Result<String> {
        // `0 <sectors> thin-pool <transaction> <metadata> <used>/<all data blocks> ...`
        let status = dmsetup(&["status", &self.name])?;
        let used = status.split_whitespace().nth(5).and_then(|used| used.split('/').next());
        Ok(used.with_context(|| format!("no status of a pool: {status}"))?.to_owned())
    }

    /// The devices of its snapshots.
    pub(crate) fn devices(&self) -> Result<Vec<String>> {
        let list = dmsetup(&["ls"])?;
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        let prefix = format!("{}-snap-", self.name);
        Ok(names.filter(|name| name.starts_with(&prefix)).map(str::to_owned).collect())
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        for device in self.devices().unwrap_or_default().iter().chain([&self.name]) {
            let _ = dmsetup(&["remove", "--retry", device]);
        }
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).output();
        }
    }
}

/// Why there can be no pool of thin devices here, if there cannot.
pub(crate) fn lacking_devmapper() -> Result<Option<String>> {
    load("dm-thin-pool");
    load("loop");
    if fs::read_to_string("/proc/misc")?.contains("device-mapper") {
        return Ok(None);
    }
    reason("this kernel has no device-mapper")
}

#[test]
fn on_devmapper() -> Result<()> {
    if let Some(reason) = lacking_devmapper()? {
        skip!("{reason}");
    }
    let name = ThinPool::name("containers");
    let more = format!("  pool_name = {name:?}\n  base_image_size = \"64MB\"\n");
    let pool = RefCell::new(None);
    let setup = |world: &World| {
        let folder = world.path("files");
        ThinPool::format(&folder)?;
        *pool.borrow_mut() = Some(ThinPool::open(&name, world, &folder)?);
        Ok(None)
    };
    let left = || pool.borrow().as_ref().context("no pool")?.devices();
    containers_with("devmapper", &table("devmapper", &more), setup, left);
    Ok(())
}

/// Clients see why.
#[test]
fn one_that_cannot_work_here_is_skipped_with_the_reason() {
    let options =
        Options::new(Maker::Bookworm).map(|options| options.pair(Maker::Ours, Maker::Ours));
    check_empty(options, |world| {
        for (id, reason) in [
            ("btrfs", "must be a btrfs filesystem to be used with the btrfs snapshotter"),
            ("blockfile", "no scratch file generator"),
            ("devmapper", "devmapper not configured"),
        ] {
            let text = world.ctr(&format!("plugins ls -d id=={id}"))?;
            ensure!(text.contains("skip plugin") && text.contains(reason), "{text}");
        }
        Ok(())
    });
}

/// A layer of a type that only a program of the configuration can read.
#[test]
fn layers_pass_through_configured_programs() {
    let options = Options::new(Maker::Bookworm).map(|options| Options {
        tables: "[stream_processors.\"test.open\"]\n  accepts = [\"application/x-sealed\"]\n  returns = \"application/vnd.oci.image.layer.v1.tar\"\n  path = \"tail\"\n  args = [\"-c\", \"+8\"]\n".to_owned(),
        ..options.pair(Maker::Ours, Maker::Ours)
    });
    check_empty(options, |world| {
        let mut archive = tar::Builder::new(b"SEALED ".to_vec());
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o644);
        archive.append_data(&mut header, "file", &b"whole"[..])?;
        let sealed = archive.into_inner()?;
        let digest = image::digest(&sealed);
        world.ingest(&format!("--expected-digest {digest} sealed"), &sealed)?;
        world.ctr("snapshots prepare layer")?;
        let client = world.client()?;
        let mut snapshots = SnapshotsClient::new(client.channel());
        let request =
            MountsRequest { snapshotter: "overlayfs".to_owned(), key: "layer".to_owned() };
        let mounts = client.block_on(snapshots.mounts(client.request(request)))?.into_inner();
        let apply = |media_type: &str| {
            let request = ApplyRequest {
                diff: Some(types::Descriptor {
                    media_type: media_type.to_owned(),
                    digest: digest.clone(),
                    size: i64::try_from(sealed.len())?,
                    ..types::Descriptor::default()
                }),
                mounts: mounts.mounts.clone(),
                ..ApplyRequest::default()
            };
            let mut differ = DiffClient::new(client.channel());
            Ok::<_, anyhow::Error>(client.block_on(differ.apply(client.request(request))))
        };
        let status = apply("application/x-other")?.err().context("nobody can read it")?;
        ensure!(status.code() == tonic::Code::Unimplemented, "{status}");
        let applied = apply("application/x-sealed")??.into_inner().applied.context("nothing")?;
        ensure!(applied.digest == image::digest(&sealed[b"SEALED ".len()..]), "{applied:?}");
        let path = Path::new(&mounts.mounts[0].source).join("file");
        ensure!(fs::read_to_string(path)? == "whole");
        world.ctr("snapshots rm layer").map(drop)
    });
}

#[test]
fn on_overlayfs_with_all_options() {
    let more = "  upperdir_label = true\n  sync_remove = true\n  slow_chown = true\n  mount_options = [\"metacopy=on\"]\n";
    containers_on("overlayfs", &table("overlayfs", more), |_| Ok(None));
}

/// A list that has to be filled in: two folders, and an overlay of them.
fn list(world: &World) -> Result<Vec<types::Mount>> {
    let mount = |kind: &str, source: &Path, options: &[&str]| types::Mount {
        r#type: kind.to_owned(),
        source: source.display().to_string(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..types::Mount::default()
    };
    let mut list = Vec::new();
    for name in ["files/a", "files/b"] {
        fs::create_dir_all(world.path(name))?;
        list.push(mount("bind", &world.path(name), &["rbind", "ro"]));
    }
    let overlay = Path::new("overlay");
    list.push(mount("format/overlay", overlay, &["lowerdir={{ overlay 0 1 }}"]));
    Ok(list)
}

/// An activation lives as long as its lease, or as an object that refers to it.
#[test]
fn mounts_live_as_long_as_what_needs_them() {
    let options =
        Options::new(Maker::Bookworm).map(|options| options.pair(Maker::Ours, Maker::Ours));
    check(options, |world| {
        let client = world.client()?;
        let mut mounts = MountsClient::new(client.channel());
        let mut leases = client.leases();
        let mut images = client.images();
        let list = list(world)?;
        let points = || -> Result<usize> {
            let text = world.run("cat", &["/proc/self/mountinfo"])?;
            let state = format!("{}/io.containerd.mount-manager.v1", world.state().display());
            Ok(text.lines().filter(|line| line.contains(&state)).count())
        };
        client.block_on(async {
            let lease = CreateRequest { id: "held".to_owned(), ..CreateRequest::default() };
            leases.create(client.request(lease)).await?;
            for name in ["leased", "referred"] {
                let activate = ActivateRequest {
                    name: name.to_owned(),
                    mounts: list.clone(),
                    ..ActivateRequest::default()
                };
                let mut request = client.request(activate);
                request.metadata_mut().insert("containerd-lease", "held".parse()?);
                let info = mounts.activate(request).await?.into_inner().info.context("no info")?;
                ensure!((info.active.len(), info.system.len()) == (2, 1), "{info:?}");
                ensure!(info.system[0].options[0].starts_with("lowerdir=/"), "{info:?}");
            }
            anyhow::Ok(())
        })?;
        ensure!(points()? == 4);

        let label = |value: &str| {
            let labels = [("containerd.io/gc.ref.mount.x".to_owned(), value.to_owned())];
            UpdateImageRequest {
                image: Some(Image {
                    name: IMAGE.to_owned(),
                    labels: labels.into(),
                    ..Image::default()
                }),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["labels.containerd.io/gc.ref.mount.x".to_owned()],
                }),
                ..UpdateImageRequest::default()
            }
        };
        client.block_on(images.update(client.request(label("referred"))))?;
        let delete = DeleteRequest { id: "held".to_owned(), sync: true };
        client.block_on(leases.delete(client.request(delete)))?;
        let mut info = |name: &str| {
            let request = InfoRequest { name: name.to_owned() };
            client.block_on(mounts.info(client.request(request))).map(drop)
        };
        wait::until("the leased mounts to go", || {
            let status = info("leased").err().context("still there")?;
            ensure!(status.code() == tonic::Code::NotFound, "{status}");
            Ok(())
        })?;
        info("referred")?;
        ensure!(points()? == 2);
        client.block_on(images.update(client.request(label(""))))?;
        wait::until("the other mounts to go", || {
            ensure!(info("referred").is_err() && points()? == 0);
            Ok(())
        })?;

        // One that nobody owns stays until it is deactivated, and survives the daemon.
        let activate = ActivateRequest {
            name: "free".to_owned(),
            mounts: list.clone(),
            ..ActivateRequest::default()
        };
        client.block_on(mounts.activate(client.request(activate)))?;
        drop(client);
        world.kill_daemon()?;
        world.start()?;
        let client = world.client()?;
        let mut mounts = MountsClient::new(client.channel());
        ensure!(points()? == 2);
        let deactivate = DeactivateRequest { name: "free".to_owned() };
        client.block_on(mounts.deactivate(client.request(deactivate)))?;
        ensure!(points()? == 0);
        Ok(())
    });
}
