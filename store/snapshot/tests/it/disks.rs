//! Snapshotters that want a file system or devices of their own: btrfs, blockfile, devmapper, erofs.
//! Where this kernel or host has none, the test says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;

use base_errors::Class;
use base_ident::Labels;
use kernel_mount::{Mount, TempMount};
use store_snapshot::testsuite::{self, Abilities};
use store_snapshot::{
    BlockfileConfig, BlockfileSnapshotter, BtrfsSnapshotter, DevmapperConfig, DevmapperSnapshotter,
    ErofsConfig, ErofsSnapshotter, LABEL_MAX_SIZE, OverlaySnapshotter, Snapshotter,
};

use super::{in_namespace, numbered, overlay_config, say_skipped};

type Making = Pin<Box<dyn Future<Output = Arc<dyn Snapshotter>> + Send>>;

fn made(store: impl Snapshotter + 'static) -> Making {
    let store: Arc<dyn Snapshotter> = Arc::new(store);
    Box::pin(async move { store })
}

/// Set in the machine that is booted for these tests: there, none is skipped.
const MACHINE: &str = "IRONHULL_MACHINE";

/// Says why a test is skipped.
fn skip(reason: &str) {
    assert!(std::env::var_os(MACHINE).is_none(), "the machine lacks something: {reason}");
    say_skipped(reason);
}

/// Has the kernel load what it has as a module. There may be none, and no program for it.
fn load(module: &str) {
    let _ = Command::new("modprobe").arg(module).output();
}

fn has_kernel(name: &str) -> bool {
    load(name);
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let here = known.lines().any(|line| line.split_whitespace().last() == Some(name));
    if !here {
        skip(&format!("this kernel has no {name}"));
    }
    here
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::split_paths(&path)
        .chain([PathBuf::from("/sbin"), PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(name).exists());
    if !here {
        skip(&format!("there is no {name}"));
    }
    here
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A file system in an image of `size` bytes, mounted on a folder of its own until dropped.
fn on_disk(work: &Path, kind: &str, size: u64, options: &[&str]) -> TempMount {
    let image = work.join(format!("{kind}.img"));
    fs::File::create(&image).unwrap().set_len(size).unwrap();
    run(&format!("mkfs.{kind}"), &["-q", image.to_str().unwrap()]);
    let mut all = vec!["loop".to_owned()];
    all.extend(options.iter().map(|option| (*option).to_owned()));
    let mount = Mount {
        kind: kind.to_owned(),
        source: image.to_str().unwrap().to_owned(),
        target: String::new(),
        options: all,
    };
    TempMount::new(&[mount], Some(work)).unwrap()
}

/// An image with an empty ext4, as an administrator makes it.
fn scratch(work: &Path, size: u64) -> PathBuf {
    let mounted = on_disk(work, "ext4", size, &[]);
    fs::remove_dir(mounted.path().join("lost+found")).unwrap();
    mounted.close().unwrap();
    work.join("ext4.img")
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn has_btrfs() -> bool {
    has_kernel("btrfs") && has_program("mkfs.btrfs")
}

#[test]
fn btrfs_contract() {
    if !has_btrfs() {
        return;
    }
    in_namespace("1g", async |work| {
        let disk = on_disk(&work, "btrfs", 512 << 20, &[]);
        let make = || made(BtrfsSnapshotter::open(numbered(disk.path())).unwrap());
        let abilities = Abilities { rebase: false, exact_usage: false };
        testsuite::run(&make, &work, abilities).await;
        disk.close().unwrap();
    });
}

#[test]
fn btrfs_subvolumes_are_containerds() {
    if !has_btrfs() {
        return;
    }
    in_namespace("512m", async |work| {
        let disk = on_disk(&work, "btrfs", 256 << 20, &[]);
        let root = disk.path().join("root");
        let store = BtrfsSnapshotter::open(&root).unwrap();
        assert_eq!(names(&root), ["active", "metadata.db", "snapshots", "view"]);
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        let id = kernel_mount::subvolume_id(&root.join("active/1")).unwrap();
        assert_eq!((mounts[0].kind.as_str(), mounts[0].options.len()), ("btrfs", 1));
        assert_eq!(mounts[0].options[0], format!("subvolid={id}"));
        assert!(mounts[0].source.starts_with("/dev/loop"));
        // Containers make subvolumes in theirs.
        kernel_mount::create_subvolume(&root.join("active/1/inner")).unwrap();
        fs::write(root.join("active/1/inner/file"), vec![1; 100_000]).unwrap();
        fs::write(root.join("active/1/file"), vec![1; 100_000]).unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        assert_eq!(
            (names(&root.join("active")).len(), names(&root.join("snapshots"))),
            (0, vec!["1".to_owned()])
        );
        let usage = store.usage("one").await.unwrap();
        assert!(usage.size >= 200_000, "{usage:?}");
        store.prepare("b", "one", Labels::new()).await.unwrap();
        fs::write(root.join("active/2/more"), vec![1; 50_000]).unwrap();
        let usage = store.usage("b").await.unwrap();
        assert!((50_000..90_000).contains(&usage.size), "what is new alone: {usage:?}");
        let view = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(view[0].options[1], "ro");
        assert_eq!(names(&root.join("view")), ["3"]);
        // What crashes leave is taken away; what is there stays.
        kernel_mount::create_subvolume(&root.join("active/rm-9")).unwrap();
        kernel_mount::create_subvolume(&root.join("snapshots/2")).unwrap();
        store.cleanup().await.unwrap();
        assert_eq!(names(&root.join("active")), ["2"]);
        assert_eq!(names(&root.join("snapshots")), ["1"]);
        store.commit("two", "b", Labels::new(), "").await.unwrap();
        for key in ["v", "two", "one"] {
            store.remove(key).await.unwrap();
        }
        for folder in ["active", "view", "snapshots"] {
            assert!(names(&root.join(folder)).is_empty(), "{folder}");
        }
        drop(store);
        disk.close().unwrap();
    });
}

#[test]
fn btrfs_elsewhere_is_skipped_with_the_reason() {
    in_namespace("64m", async |work| {
        let root = work.join("root");
        let error = BtrfsSnapshotter::open(&root).err().unwrap();
        assert_eq!(error.class(), Class::NotImplemented, "{error}");
        let expected = format!(
            "path {} (tmpfs) must be a btrfs filesystem to be used with the btrfs snapshotter",
            root.display()
        );
        assert_eq!(error.message(), expected);
    });
}

#[test]
fn overlay_without_kinds_of_entries_is_skipped_with_the_reason() {
    if !has_kernel("ext4") || !has_program("mkfs.ext4") {
        return;
    }
    in_namespace("64m", async |work| {
        let image = work.join("disk.img");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-O", "^filetype", &text(&image)]);
        let mount = Mount {
            kind: "ext4".to_owned(),
            source: text(&image),
            target: String::new(),
            options: vec!["loop".to_owned()],
        };
        let disk = TempMount::new(&[mount], Some(&work)).unwrap();
        let root = disk.path().join("root");
        let error = OverlaySnapshotter::open(overlay_config(&root)).err().unwrap();
        assert_eq!(error.class(), Class::NotImplemented, "{error}");
        assert!(error.message().contains("overlayfs"), "{error}");
        disk.close().unwrap();
    });
}

#[test]
fn blockfile_contract() {
    if !has_program("mkfs.ext4") {
        return;
    }
    in_namespace("2g", async |work| {
        let scratch_file = scratch(&work, 16 << 20);
        let make = || {
            let config = BlockfileConfig {
                root_path: numbered(&work),
                scratch_file: scratch_file.clone(),
                ..BlockfileConfig::default()
            };
            made(BlockfileSnapshotter::open(config).unwrap())
        };
        let abilities = Abilities { rebase: false, exact_usage: false };
        testsuite::run(&make, &work, abilities).await;
    });
}

#[test]
fn blockfile_images_are_containerds() {
    if !has_program("mkfs.ext4") {
        return;
    }
    in_namespace("256m", async |work| {
        let root = work.join("root");
        let config = BlockfileConfig { root_path: root.clone(), ..BlockfileConfig::default() };
        let error = BlockfileSnapshotter::open(config.clone()).err().unwrap();
        assert_eq!(error.class(), Class::NotImplemented, "{error}");
        assert_eq!(error.message(), "no scratch file generator");
        let with_file = BlockfileConfig {
            scratch_file: scratch(&work, 8 << 20),
            mount_options: vec!["noatime".to_owned()],
            ..config.clone()
        };
        let store = BlockfileSnapshotter::open(with_file).unwrap();
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        let image = root.join("snapshots/1");
        assert_eq!((mounts[0].kind.as_str(), &mounts[0].source), ("ext4", &text(&image)));
        assert_eq!(mounts[0].options, ["noatime", "loop", "rw"]);
        assert!(fs::metadata(&image).unwrap().is_file());
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        let mounts = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(mounts[0].source, text(&image));
        assert_eq!(mounts[0].options, ["noatime", "loop", "ro"]);
        assert_eq!(names(&root.join("snapshots")), ["1"]);
        assert_eq!(store.usage("one").await.unwrap().size, 8 << 20);
        drop(store);
        // The scratch file is there now.
        assert!(BlockfileSnapshotter::open(config).is_ok());
    });
}

fn has_erofs() -> bool {
    has_kernel("erofs") && has_program("mkfs.erofs")
}

fn erofs(root: &Path, default_size: u64) -> ErofsSnapshotter {
    let config = ErofsConfig { root_path: root.to_owned(), default_size, ..ErofsConfig::default() };
    ErofsSnapshotter::open(config).unwrap()
}

#[test]
fn erofs_contract() {
    if !has_erofs() {
        return;
    }
    in_namespace("512m", async |work| {
        let make = || made(erofs(&numbered(&work), 0));
        testsuite::run(&make, &work, Abilities { rebase: true, exact_usage: false }).await;
    });
}

#[test]
fn erofs_folders_and_mounts_are_containerds() {
    if !has_erofs() {
        return;
    }
    in_namespace("256m", async |work| {
        let root = work.join("root");
        let store = erofs(&root, 0);
        let trees = root.join("snapshots");
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        assert_eq!(names(&trees.join("1")), [".erofslayer", "fs", "work"]);
        assert_eq!(mounts[0].options, ["rw", "rbind"]);
        fs::write(trees.join("1/fs/file"), "x").unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        assert_eq!(names(&trees.join("1")), [".erofslayer", "fs", "layer.erofs", "work"]);
        assert!(names(&trees.join("1/fs")).is_empty());

        let shown = trees.display().to_string();
        let mounts = store.prepare("b", "one", Labels::new()).await.unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            (mounts[0].kind.as_str(), mounts[0].source.as_str()),
            ("erofs", format!("{shown}/1/layer.erofs").as_str())
        );
        assert_eq!(mounts[0].options, ["ro", "loop"]);
        assert_eq!(mounts[1].kind, "format/mkdir/overlay");
        assert_eq!(
            mounts[1].options,
            [
                format!("workdir={shown}/2/work"),
                format!("upperdir={shown}/2/fs"),
                "lowerdir={{ mount 0 }}".to_owned(),
            ]
        );
        store.commit("two", "b", Labels::new(), "").await.unwrap();
        let mounts = store.view("v", "two", Labels::new()).await.unwrap();
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[2].options, ["lowerdir={{ overlay 0 1 }}"]);
        assert_eq!(names(&trees.join("3")), ["fs"]);
        store.remove("v").await.unwrap();
        store.remove("two").await.unwrap();
        assert_eq!(names(&trees), ["1"]);
    });
}

#[test]
fn erofs_with_a_size_writes_to_an_image() {
    if !has_erofs() || !has_program("mkfs.ext4") {
        return;
    }
    in_namespace("512m", async |work| {
        let root = work.join("root");
        let store = erofs(&root, 32 << 20);
        let label = Labels::from([(LABEL_MAX_SIZE.to_owned(), (16 << 20).to_string())]);
        let mounts = store.prepare("a", "", label).await.unwrap();
        assert_eq!(mounts[0].kind, "mkfs/ext4");
        assert_eq!(mounts[0].options[1], format!("X-containerd.mkfs.size={}", 16 << 20));
        let bad = Labels::from([(LABEL_MAX_SIZE.to_owned(), "all".to_owned())]);
        let error = store.prepare("bad", "", bad).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        let write = |mounts: Vec<Mount>, name: &'static str, bytes: usize| {
            let work = work.clone();
            async move {
                let written = tokio::task::spawn_blocking(move || {
                    let mounted = TempMount::new(&mounts, Some(&work)).unwrap();
                    let written = fs::write(mounted.path().join(name), vec![1; bytes]);
                    mounted.close().unwrap();
                    written
                });
                written.await.unwrap()
            }
        };
        write(mounts.clone(), "small", 1 << 20).await.unwrap();
        assert!(write(mounts, "large", 20 << 20).await.is_err(), "the image is full");
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        assert!(!root.join("snapshots/1/rwlayer.img").exists());
        let mounts = store.prepare("b", "one", Labels::new()).await.unwrap();
        assert_eq!(mounts.len(), 3);
        write(mounts, "second", 1 << 20).await.unwrap();
        store.commit("two", "b", Labels::new(), "").await.unwrap();
        let mounts = store.view("v", "two", Labels::new()).await.unwrap();
        let work = work.clone();
        let seen = tokio::task::spawn_blocking(move || {
            let mounted = TempMount::new(&mounts, Some(&work)).unwrap();
            let seen = names(mounted.path());
            mounted.close().unwrap();
            seen
        });
        let seen = seen.await.unwrap();
        assert!(seen.contains(&"small".to_owned()) && seen.contains(&"second".to_owned()));
    });
}

/// `dmsetup`, which makes device nodes itself where no udev runs.
fn dmsetup(arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new("dmsetup");
    if !Path::new("/run/udev/control").exists() {
        command.env("DM_DISABLE_UDEV", "1");
    }
    command.args(arguments).output().unwrap()
}

/// A thin pool of two loop devices; removed when dropped.
struct ThinPool {
    name: String,
    devices: Vec<String>,
}

impl ThinPool {
    fn new(work: &Path, name: &str) -> Option<ThinPool> {
        load("dm-thin-pool");
        load("loop");
        let known = fs::read_to_string("/proc/misc").unwrap_or_default();
        if !known.contains("device-mapper") {
            skip("this kernel has no device-mapper");
            return None;
        }
        for program in ["dmsetup", "losetup", "mkfs.ext4"] {
            if !has_program(program) {
                return None;
            }
        }
        let mut pool = ThinPool { name: name.to_owned(), devices: Vec::new() };
        for (part, size) in [("meta", 16_u64 << 20), ("data", 1 << 30)] {
            let image = work.join(format!("{name}.{part}"));
            fs::File::create(&image).unwrap().set_len(size).unwrap();
            let output =
                Command::new("losetup").args(["--show", "-f"]).arg(&image).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            pool.devices.push(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
        let sectors = (1_u64 << 30) / 512;
        let table = format!(
            "0 {sectors} thin-pool {} {} 128 32768 1 skip_block_zeroing",
            pool.devices[0], pool.devices[1]
        );
        let made = dmsetup(&["create", name, "--table", &table]);
        if !made.status.success() {
            skip(&format!("no thin pool: {}", String::from_utf8_lossy(&made.stderr)));
            return None;
        }
        Some(pool)
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        let list = dmsetup(&["ls"]);
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let device = line.split_whitespace().next().unwrap_or_default();
            if device.starts_with(&format!("{}-snap-", self.name)) {
                dmsetup(&["remove", "--retry", device]);
            }
        }
        dmsetup(&["remove", "--retry", &self.name]);
        for device in &self.devices {
            let _ = Command::new("losetup").args(["-d", device]).output();
        }
    }
}

fn devmapper(root: &Path, pool: &str) -> DevmapperConfig {
    DevmapperConfig {
        root_path: root.to_owned(),
        pool_name: pool.to_owned(),
        base_image_size: 16 << 20,
        ..DevmapperConfig::default()
    }
}

#[test]
fn devmapper_settings_are_checked() {
    let folder = super::folder();
    let config = devmapper(folder.path(), "");
    let error = DevmapperSnapshotter::open(config).err().unwrap();
    assert_eq!(
        (error.class(), error.message()),
        (Class::NotImplemented, "devmapper not configured")
    );
    for config in [
        DevmapperConfig { base_image_size: 0, ..devmapper(folder.path(), "p") },
        DevmapperConfig { fs_type: "vfat".to_owned(), ..devmapper(folder.path(), "p") },
        devmapper(folder.path(), "a/b"),
    ] {
        let error = DevmapperSnapshotter::open(config).err().unwrap();
        assert_eq!(error.class(), Class::InvalidArgument, "{error}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn devmapper_contract() {
    in_namespace("2g", async |work| {
        // Each snapshotter numbers its devices from 1, so each gets a pool of its own.
        let pools = std::sync::Mutex::new(Vec::new());
        let new_pool = || {
            let name = format!("ironhull-{}-{}", std::process::id(), pools.lock().unwrap().len());
            let pool = ThinPool::new(&work, &name)?;
            pools.lock().unwrap().push(pool);
            Some(name)
        };
        if new_pool().is_none() {
            return;
        }
        let make = || {
            let pool = new_pool().unwrap();
            made(DevmapperSnapshotter::open(devmapper(&numbered(&work), &pool)).unwrap())
        };
        let abilities = Abilities { rebase: false, exact_usage: false };
        testsuite::run(&make, &work, abilities).await;
    });
}

#[test]
fn devmapper_devices_are_containerds() {
    in_namespace("2g", async |work| {
        let pool_name = format!("ironhull-names-{}", std::process::id());
        let Some(pool) = ThinPool::new(&work, &pool_name) else { return };
        let root = work.join("root");
        let store = DevmapperSnapshotter::open(devmapper(&root, &pool.name)).unwrap();
        assert_eq!(names(&root), [format!("{pool_name}.db"), "metadata.db".to_owned()]);
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        assert_eq!(mounts[0].source, format!("/dev/mapper/{pool_name}-snap-1"));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].options.len()), ("ext4", 0));
        let label = "containerd.io/snapshot/devmapper/fstype";
        assert_eq!(store.stat("a").await.unwrap().labels[label], "ext4");
        // Clients that replace all labels, or that one, do not know it.
        let mut info = store.stat("a").await.unwrap();
        info.labels = Labels::from([(label.to_owned(), "xfs".to_owned())]);
        let fields = [store_snapshot::UpdateField::Label(label.to_owned())];
        for fields in [&[][..], &fields] {
            assert_eq!(store.update(&info, fields).await.unwrap().labels[label], "ext4");
        }
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        assert_eq!(store.stat("one").await.unwrap().labels[label], "ext4");
        let view = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(view[0].options, ["ro"]);
        drop(store);
        // Another daemon finds them, and what was removed later goes with the cleanup.
        let config = DevmapperConfig { async_remove: true, ..devmapper(&root, &pool.name) };
        let store = DevmapperSnapshotter::open(config).unwrap();
        store.remove("v").await.unwrap();
        assert!(Path::new(&view[0].source).exists());
        store.cleanup().await.unwrap();
        assert!(!Path::new(&view[0].source).exists());
        store.remove("one").await.unwrap();
        store.cleanup().await.unwrap();
        drop(store);
        drop(pool);
    });
}

#[test]
fn devmapper_with_xfs_gives_blocks_back() {
    if !has_program("mkfs.xfs") || !has_kernel("xfs") {
        return;
    }
    in_namespace("2g", async |work| {
        let pool_name = format!("ironhull-xfs-{}", std::process::id());
        let Some(pool) = ThinPool::new(&work, &pool_name) else { return };
        let root = work.join("root");
        let config = DevmapperConfig {
            fs_type: "xfs".to_owned(),
            base_image_size: 320 << 20,
            discard_blocks: true,
            ..devmapper(&root, &pool.name)
        };
        let store = DevmapperSnapshotter::open(config).unwrap();
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        assert_eq!(
            (mounts[0].kind.as_str(), &mounts[0].options[..]),
            ("xfs", &["nouuid".to_owned()][..])
        );
        let before = store.usage("a").await.unwrap().size;
        let at = work.clone();
        let write = tokio::task::spawn_blocking(move || {
            let mounted = TempMount::new(&mounts, Some(&at)).unwrap();
            fs::write(mounted.path().join("file"), vec![1; 8 << 20]).unwrap();
            mounted.close().unwrap();
        });
        write.await.unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        assert!(store.usage("one").await.unwrap().size >= before + (8 << 20));
        // Of the same file system as its parent, on a device of its own at the same time.
        let child = store.prepare("b", "one", Labels::new()).await.unwrap();
        let look = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(look[0].options, ["nouuid", "ro"]);
        let at = work.clone();
        let both = tokio::task::spawn_blocking(move || {
            let child = TempMount::new(&child, Some(&at)).unwrap();
            let look = TempMount::new(&look, Some(&at)).unwrap();
            fs::remove_file(child.path().join("file")).unwrap();
            assert_eq!(fs::metadata(look.path().join("file")).unwrap().len(), 8 << 20);
            child.close().unwrap();
            look.close().unwrap();
        });
        both.await.unwrap();
        for key in ["v", "b", "one"] {
            store.remove(key).await.unwrap();
        }
        let status = dmsetup(&["status", &pool.name]);
        let status = String::from_utf8(status.stdout).unwrap();
        // `0 <sectors> thin-pool <transaction> <metadata> <used>/<all data blocks> ...`
        assert_eq!(
            status.split_whitespace().nth(5).and_then(|used| used.split('/').next()),
            Some("0"),
            "{status}"
        );
        drop(store);
        drop(pool);
    });
}

#[test]
fn devmapper_survives_a_crash_and_a_reboot() {
    in_namespace("2g", async |work| {
        let pool_name = format!("ironhull-crash-{}", std::process::id());
        let Some(pool) = ThinPool::new(&work, &pool_name) else { return };
        let root = work.join("root");
        let store = DevmapperSnapshotter::open(devmapper(&root, &pool.name)).unwrap();
        store.prepare("a", "", Labels::new()).await.unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        let mounts = store.prepare("b", "one", Labels::new()).await.unwrap();
        drop(store);
        // A reboot takes devices, and leaves the pool's data.
        assert!(dmsetup(&["remove", &mounts[0].source]).status.success());
        let store = DevmapperSnapshotter::open(devmapper(&root, &pool.name)).unwrap();
        assert!(Path::new(&mounts[0].source).exists(), "active ones are there again");
        assert_eq!(store.mounts("b").await.unwrap(), mounts);
        let at = work.clone();
        let write = tokio::task::spawn_blocking(move || {
            let mounted = TempMount::new(&mounts, Some(&at)).unwrap();
            fs::write(mounted.path().join("file"), "x").unwrap();
            mounted.close().unwrap();
        });
        write.await.unwrap();
        // Somebody else has a device of the name that comes next: an error, and nothing is left.
        let next = format!("{pool_name}-snap-3");
        assert!(dmsetup(&["create", &next, "--table", "0 8 error"]).status.success());
        assert!(store.prepare("c", "one", Labels::new()).await.is_err());
        assert!(store.stat("c").await.is_err());
        assert!(dmsetup(&["remove", &next]).status.success());
        store.prepare("c", "one", Labels::new()).await.unwrap();
        store.commit("two", "b", Labels::new(), "").await.unwrap();
        for key in ["c", "two", "one"] {
            store.remove(key).await.unwrap();
        }
        store.cleanup().await.unwrap();
        let list = String::from_utf8(dmsetup(&["ls"]).stdout).unwrap();
        assert!(!list.contains(&format!("{pool_name}-snap-")), "{list}");
        drop(store);
        drop(pool);
    });
}

/// On a disk of `kind` that is made with `options`, if the kernel has quotas of projects there.
fn overlay_quota(kind: &'static str, options: &'static [&'static str]) {
    if !has_kernel(kind) || !has_program(&format!("mkfs.{kind}")) {
        return;
    }
    in_namespace("512m", async move |work| {
        let image = work.join("disk.img");
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let path = text(&image);
        let arguments: Vec<&str> = options.iter().copied().chain([path.as_str()]).collect();
        run(&format!("mkfs.{kind}"), &arguments);
        let mount = Mount {
            kind: kind.to_owned(),
            source: path.clone(),
            target: String::new(),
            options: vec!["loop".to_owned(), "prjquota".to_owned()],
        };
        let disk = match TempMount::new(&[mount], Some(&work)) {
            Ok(disk) => disk,
            Err(error) => {
                say_skipped(&format!("this kernel has no quotas of projects on {kind}: {error}"));
                return;
            }
        };
        let root = disk.path().join("root");
        let store = OverlaySnapshotter::open(overlay_config(&root)).unwrap();
        let label = Labels::from([(LABEL_MAX_SIZE.to_owned(), (2 << 20).to_string())]);
        store.prepare("a", "", label).await.unwrap();
        let upper = root.join("snapshots/1/fs");
        fs::write(upper.join("small"), vec![1; 1 << 20]).unwrap();
        // As containers, without the capability that no quota of ext4 holds for.
        let large = format!("of={}", text(&upper.join("large")));
        let mut write = Command::new("setpriv");
        write.args(["--bounding-set=-sys_resource", "dd", "if=/dev/zero", &large]);
        let output = write.args(["bs=1M", "count=4"]).output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(fs::metadata(upper.join("large")).unwrap().len() <= 1 << 20);
        store.prepare("free", "", Labels::new()).await.unwrap();
        fs::write(root.join("snapshots/2/fs/large"), vec![1; 4 << 20]).unwrap();
        store.remove("a").await.unwrap();
        store.cleanup().await.unwrap();
        drop(store);
        disk.close().unwrap();
    });
}

#[test]
fn overlay_quota_bounds_what_is_written_on_xfs() {
    overlay_quota("xfs", &["-q"]);
}

#[test]
fn overlay_quota_bounds_what_is_written_on_ext4() {
    overlay_quota("ext4", &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"]);
}
