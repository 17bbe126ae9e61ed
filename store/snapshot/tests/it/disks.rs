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

use super::{in_namespace, numbered, overlay_config};

type Making = Pin<Box<dyn Future<Output = Arc<dyn Snapshotter>> + Send>>;

fn made(store: impl Snapshotter + 'static) -> Making {
    let store: Arc<dyn Snapshotter> = Arc::new(store);
    Box::pin(async move { store })
}

fn has_kernel(name: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    known.lines().any(|line| line.split_whitespace().last() == Some(name))
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = std::env::split_paths(&path)
        .chain([PathBuf::from("/sbin"), PathBuf::from("/usr/sbin")])
        .any(|folder| folder.join(name).exists());
    if !here {
        println!("skipped: there is no {name}");
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
    if !has_kernel("btrfs") {
        println!("skipped: this kernel has no btrfs");
        return false;
    }
    has_program("mkfs.btrfs")
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
    if !has_kernel("erofs") {
        println!("skipped: this kernel has no erofs");
        return false;
    }
    has_program("mkfs.erofs")
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

/// A thin pool of two loop devices; removed when dropped.
struct ThinPool {
    name: String,
    devices: Vec<String>,
}

impl ThinPool {
    fn new(work: &Path, name: &str) -> Option<ThinPool> {
        let known = fs::read_to_string("/proc/misc").unwrap_or_default();
        if !known.contains("device-mapper") {
            println!("skipped: this kernel has no device-mapper");
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
        let made = Command::new("dmsetup").args(["create", name, "--table", &table]).output();
        let made = made.unwrap();
        if !made.status.success() {
            println!("skipped: no thin pool: {}", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        Some(pool)
    }
}

impl Drop for ThinPool {
    fn drop(&mut self) {
        let list = Command::new("dmsetup").arg("ls").output().unwrap();
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let device = line.split_whitespace().next().unwrap_or_default();
            if device.starts_with(&format!("{}-snap-", self.name)) {
                let _ = Command::new("dmsetup").args(["remove", "--retry", device]).output();
            }
        }
        let _ = Command::new("dmsetup").args(["remove", "--retry", &self.name]).output();
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
fn overlay_quota_bounds_what_is_written() {
    if !has_program("mkfs.xfs") || !has_kernel("xfs") {
        return;
    }
    in_namespace("512m", async |work| {
        let image = work.join("xfs.img");
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        run("mkfs.xfs", &["-q", image.to_str().unwrap()]);
        let mount = Mount {
            kind: "xfs".to_owned(),
            source: text(&image),
            target: String::new(),
            options: vec!["loop".to_owned(), "prjquota".to_owned()],
        };
        let disk = match TempMount::new(&[mount], Some(&work)) {
            Ok(disk) => disk,
            Err(error) => {
                println!("skipped: this kernel has no quotas of projects: {error}");
                return;
            }
        };
        let root = disk.path().join("root");
        let store = OverlaySnapshotter::open(overlay_config(&root)).unwrap();
        let label = Labels::from([(LABEL_MAX_SIZE.to_owned(), (2 << 20).to_string())]);
        store.prepare("a", "", label).await.unwrap();
        let upper = root.join("snapshots/1/fs");
        fs::write(upper.join("small"), vec![1; 1 << 20]).unwrap();
        let error = fs::write(upper.join("large"), vec![1; 4 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        store.prepare("free", "", Labels::new()).await.unwrap();
        fs::write(root.join("snapshots/2/fs/large"), vec![1; 4 << 20]).unwrap();
        store.remove("a").await.unwrap();
        store.cleanup().await.unwrap();
        drop(store);
        disk.close().unwrap();
    });
}
