//! Mounts against the running kernel, each test in a mount namespace of its own. Needs root.
#![allow(unsafe_code, missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base_errors::{Class, Coded as _};
use kernel_mount::{
    Mount, TempMount, UnmountFlags, clean_temp_mounts, detach, mount_all, mountinfo, read_only,
    unmount, unmount_all, unmount_recursive,
};
use rustix::mount::{MountPropagationFlags, mount_change};

/// Runs `test` on a thread with private mounts, with an empty tmpfs to work in.
fn isolated(test: impl FnOnce(&Path) + Send) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the thread parts from the mount namespace alone, and ends here.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount_all(&[mount("tmpfs", "tmpfs", &["mode=755"])], folder.path()).unwrap();
            test(folder.path());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn folder(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn layers(base: &Path, names: impl Iterator<Item = String>) -> Vec<String> {
    names
        .enumerate()
        .map(|(index, name)| {
            let layer = folder(base.join(name));
            fs::write(layer.join(format!("file-{index}")), index.to_string()).unwrap();
            text(&layer).to_owned()
        })
        .collect()
}

fn overlay_of(base: &Path, lower: &[String]) -> (Mount, PathBuf) {
    let upper = folder(base.join("upper"));
    let work = folder(base.join("work"));
    let options = [
        format!("workdir={}", text(&work)),
        format!("upperdir={}", text(&upper)),
        format!("lowerdir={}", lower.join(":")),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    (mount("overlay", "overlay", &options), upper)
}

#[test]
fn an_overlay_of_128_layers_is_mounted_without_changing_directory() {
    isolated(|base| {
        let before = std::env::current_dir().unwrap();
        let lower = layers(base, (0..128).map(|index| format!("snapshots/{index}/fs")));
        assert!(lower.join(":").len() > 4096, "the options must not fit in a page");
        let (overlay, upper) = overlay_of(base, &lower);
        let target = folder(base.join("target"));
        mount_all(&[overlay], &target).unwrap();
        for index in 0..128 {
            let content = fs::read_to_string(target.join(format!("file-{index}"))).unwrap();
            assert_eq!(content, index.to_string());
        }
        fs::write(target.join("new"), "x").unwrap();
        assert!(upper.join("new").exists());
        let info = mountinfo::lookup(&target).unwrap();
        assert_eq!(info.kind, "overlay");
        assert!(info.super_options.contains("lowerdir="), "{}", info.super_options);
        assert_eq!(std::env::current_dir().unwrap(), before);
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        assert!(!target.join("new").exists());
    });
}

#[test]
fn layers_without_a_common_folder_are_added_one_by_one() {
    isolated(|base| {
        mount_all(&[mount("tmpfs", "tmpfs", &[])], Path::new("/mnt")).unwrap();
        let name = |index| format!("{}-{index}", "n".repeat(100));
        let mut lower = layers(base, (0..30).map(name));
        lower.extend(layers(Path::new("/mnt"), (30..60).map(name)));
        let (overlay, _) = overlay_of(base, &lower);
        let target = folder(base.join("target"));
        if let Err(error) = mount_all(&[overlay], &target) {
            // Kernels before 6.8 have no way to mount it; then nothing may be left.
            assert_eq!(error.class(), Class::InvalidArgument, "{error}");
            assert!(error.to_string().ends_with("mount options is too long"), "{error}");
            println!("skipped: this kernel has no lowerdir+");
            return;
        }
        for index in [0, 29] {
            assert!(target.join(format!("file-{index}")).exists());
        }
        assert_eq!(fs::read_dir(&target).unwrap().count(), 30);
    });
}

#[test]
fn a_read_only_bind_refuses_writes_and_keeps_what_its_source_forbids() {
    isolated(|base| {
        let source = folder(base.join("source"));
        mount_all(&[mount("tmpfs", "tmpfs", &["nosuid", "noexec"])], &source).unwrap();
        let target = folder(base.join("target"));
        mount_all(&[mount("bind", text(&source), &["rbind", "ro"])], &target).unwrap();
        let error = fs::write(target.join("x"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        fs::write(source.join("x"), "").unwrap();
        let options = mountinfo::lookup(&target).unwrap().options;
        for option in ["ro", "nosuid", "noexec"] {
            assert!(options.split(',').any(|known| known == option), "{options}");
        }
    });
}

#[test]
fn a_bind_takes_flags_and_propagation() {
    isolated(|base| {
        let source = folder(base.join("source"));
        let inner = folder(source.join("inner"));
        mount_all(&[mount("tmpfs", "tmpfs", &[])], &inner).unwrap();
        fs::write(inner.join("x"), "").unwrap();
        let target = folder(base.join("target"));
        let options = ["rbind", "rw", "nodev", "rshared"];
        mount_all(&[mount("bind", text(&source), &options)], &target).unwrap();
        assert!(target.join("inner/x").exists(), "rbind takes what is mounted below");
        let info = mountinfo::lookup(&target).unwrap();
        assert!(info.options.contains("nodev") && info.options.starts_with("rw"), "{info:?}");
        assert!(info.propagation.iter().any(|field| field.starts_with("shared:")), "{info:?}");
    });
}

#[test]
fn a_remount_changes_flags_of_what_is_mounted() {
    isolated(|base| {
        let target = folder(base.join("target"));
        mount_all(&[mount("tmpfs", "tmpfs", &[])], &target).unwrap();
        mount_all(&[mount("tmpfs", "tmpfs", &["remount", "ro"])], &target).unwrap();
        assert!(fs::write(target.join("x"), "").is_err());
        let mounts = mountinfo::mounts_below(&target).unwrap();
        assert_eq!(mounts.len(), 1, "a remount adds no mount");
    });
}

#[test]
fn a_failed_list_leaves_nothing_and_names_the_mount() {
    isolated(|base| {
        let target = folder(base.join("target"));
        let mounts = [
            mount("tmpfs", "tmpfs", &[]),
            mount("ext4", "/nonexistent/device", &["ro", "noatime"]),
        ];
        let error = mount_all(&mounts, &target).unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        assert_eq!(
            error.to_string(),
            format!(
                "failed to mount type \"ext4\", source \"/nonexistent/device\", target {target:?}, \
                 options [ro,noatime]: mount: no such file or directory"
            )
        );
        assert!(mountinfo::mounts_below(&target).unwrap().is_empty());
        let error = mount_all(&[mount("overlay", "overlay", &["nonsense"])], &target).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    });
}

#[test]
fn stacked_mounts_go_together_and_nothing_is_no_error() {
    isolated(|base| {
        let target = folder(base.join("target"));
        for _ in 0..3 {
            mount_all(&[mount("tmpfs", "tmpfs", &[])], &target).unwrap();
        }
        unmount(&target, UnmountFlags::empty()).unwrap();
        assert_eq!(mountinfo::mounts_below(&target).unwrap().len(), 2);
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        assert!(mountinfo::mounts_below(&target).unwrap().is_empty());
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        unmount_all(&base.join("nonexistent"), UnmountFlags::empty()).unwrap();
        detach(&base.join("nonexistent")).unwrap();
    });
}

#[test]
fn a_tree_of_mounts_goes_from_below() {
    isolated(|base| {
        let target = folder(base.join("tar get"));
        for below in ["", "a", "a/b", "c"] {
            let place = folder(target.join(below));
            mount_all(&[mount("tmpfs", "tmpfs", &[])], &place).unwrap();
        }
        let neighbour = folder(base.join("tar get 2"));
        mount_all(&[mount("tmpfs", "tmpfs", &[])], &neighbour).unwrap();
        unmount_recursive(&target, UnmountFlags::empty()).unwrap();
        assert!(mountinfo::mounts_below(&target).unwrap().is_empty());
        assert_eq!(mountinfo::mounts_below(&neighbour).unwrap().len(), 1);
    });
}

#[test]
fn a_busy_mount_is_detached_at_once() {
    isolated(|base| {
        let target = folder(base.join("target"));
        mount_all(&[mount("tmpfs", "tmpfs", &[])], &target).unwrap();
        let file = fs::File::create(target.join("x")).unwrap();
        detach(&target).unwrap();
        assert!(mountinfo::mounts_below(&target).unwrap().is_empty());
        file.set_len(5).unwrap();
    });
}

#[test]
fn a_target_below_the_root_cannot_leave_it() {
    isolated(|base| {
        let root = folder(base.join("root"));
        let outside = folder(base.join("outside"));
        folder(root.join("data"));
        folder(root.join(text(&outside).trim_start_matches('/')));
        std::os::unix::fs::symlink(&outside, root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../../data", root.join("upwards")).unwrap();
        for target in ["absolute", "upwards", "/../../data"] {
            let mut tmpfs = mount("tmpfs", "tmpfs", &["ro"]);
            tmpfs.target = target.to_owned();
            mount_all(&[tmpfs], &root).unwrap();
            assert!(mountinfo::mounts_below(&outside).unwrap().is_empty(), "{target}");
            let made = mountinfo::mounts_below(&root).unwrap();
            assert_eq!(made.len(), 1, "{target}");
            unmount_recursive(&root, UnmountFlags::empty()).unwrap();
        }
        std::os::unix::fs::symlink("/proc/self/cwd", root.join("magic")).unwrap();
        let mut tmpfs = mount("tmpfs", "tmpfs", &[]);
        tmpfs.target = "magic".to_owned();
        assert!(mount_all(&[tmpfs], &root).is_err());
    });
}

#[test]
fn temporary_mounts_come_and_go_with_their_folder() {
    isolated(|base| {
        let temporary = base.join("tmpmounts");
        let mounted = TempMount::new(&[mount("tmpfs", "tmpfs", &[])], Some(&temporary)).unwrap();
        let path = mounted.path().to_owned();
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with("containerd-mount"));
        assert_eq!(mountinfo::mounts_below(&path).unwrap().len(), 1);
        mounted.close().unwrap();
        assert!(!path.exists());

        let mounted = TempMount::new(&[mount("tmpfs", "tmpfs", &[])], Some(&temporary)).unwrap();
        let path = mounted.path().to_owned();
        let busy = fs::File::create(path.join("busy")).unwrap();
        drop(mounted);
        assert!(!path.exists(), "dropping does not wait for the open file");
        drop(busy);

        let failing = [mount("tmpfs", "tmpfs", &[]), mount("nonsense", "x", &[])];
        assert!(TempMount::new(&failing, Some(&temporary)).is_err());
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    });
}

#[test]
fn temporary_mounts_for_reading_leave_the_upper_folder_alone() {
    isolated(|base| {
        let lower = layers(base, (0..2).map(|index| format!("layer-{index}")));
        let (overlay, upper) = overlay_of(base, &lower);
        fs::write(upper.join("top"), "").unwrap();
        let mounted = TempMount::with_readonly_temp(&[overlay], Some(base)).unwrap();
        assert!(mounted.path().join("top").exists() && mounted.path().join("file-1").exists());
        assert!(fs::write(mounted.path().join("x"), "").is_err());
        mounted.close().unwrap();
        let bind = [mount("bind", text(&upper), &["rw", "rbind"])];
        assert_eq!(read_only(&bind)[0].options, ["rbind", "ro"]);
        // An image that its mount makes is written to that once; one that is there never.
        let path = base.join("image");
        let image = [mount("mkfs/ext4", text(&path), &["rw", "loop"])];
        assert_eq!(read_only(&image)[0].options, ["loop", "rw"]);
        fs::write(&path, "").unwrap();
        assert_eq!(read_only(&image)[0].options, ["loop", "ro", "noload"]);
    });
}

#[test]
fn leftovers_of_earlier_runs_are_cleaned() {
    isolated(|base| {
        for name in ["containerd-mount1", "containerd-mount2", "other"] {
            let path = folder(base.join(name));
            mount_all(&[mount("tmpfs", "tmpfs", &[]), mount("tmpfs", "tmpfs", &[])], &path)
                .unwrap();
        }
        folder(base.join("containerd-mount3"));
        fs::write(folder(base.join("containerd-mount4")).join("data"), "kept").unwrap();
        let failures = clean_temp_mounts(base);
        assert_eq!(failures.len(), 1, "a folder with data in it is kept: {failures:?}");
        let mut left: Vec<_> =
            fs::read_dir(base).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["containerd-mount4", "other"]);
        assert!(clean_temp_mounts(&base.join("nonexistent")).is_empty());
        unmount_recursive(&base.join("other"), UnmountFlags::empty()).unwrap();
    });
}

#[test]
fn an_image_file_is_mounted_through_a_loop_device_that_goes_with_it() {
    if !Path::new("/dev/loop-control").exists() || !Path::new("/usr/sbin/mkfs.ext4").exists() {
        println!("skipped: no loop devices or no mkfs.ext4");
        return;
    }
    isolated(|base| {
        let image = base.join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let made = std::process::Command::new("/usr/sbin/mkfs.ext4")
            .args(["-q", "-F"])
            .arg(&image)
            .status()
            .unwrap();
        assert!(made.success());
        let target = folder(base.join("target"));
        mount_all(&[mount("ext4", text(&image), &["loop"])], &target).unwrap();
        fs::write(target.join("x"), "content").unwrap();
        let device = mountinfo::lookup(&target).unwrap().source;
        assert!(device.starts_with("/dev/loop"), "{device}");
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        mount_all(&[mount("ext4", text(&image), &["loop", "ro"])], &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "content");
        assert!(fs::write(target.join("y"), "").is_err());
        let device = mountinfo::lookup(&target).unwrap().source;
        unmount_all(&target, UnmountFlags::empty()).unwrap();
        let backing = format!("/sys/block/{}/loop/backing_file", &device["/dev/".len()..]);
        // The kernel lets go of the device when the last reference is dropped, a moment later.
        let gone = (0..1000).any(|_| {
            let ours = fs::read_to_string(&backing).is_ok_and(|file| file.trim() == text(&image));
            if ours {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            !ours
        });
        assert!(gone, "the loop device is still attached");
    });
}

#[test]
fn ids_are_mapped_in_binds_and_overlays() {
    isolated(|base| {
        let source = folder(base.join("source"));
        fs::write(source.join("x"), "").unwrap();
        std::os::unix::fs::chown(source.join("x"), Some(5), Some(6)).unwrap();
        let target = folder(base.join("target"));
        let map = ["rbind", "uidmap=0:100000:65536", "gidmap=0:200000:65536"];
        if let Err(error) = mount_all(&[mount("bind", text(&source), &map)], &target) {
            // tmpfs takes maps since Linux 6.3.
            assert!(error.to_string().contains("mount_setattr"), "{error}");
            println!("skipped: this kernel does not map tmpfs: {error}");
            return;
        }
        let status = fs::metadata(target.join("x")).unwrap();
        assert_eq!((status.uid(), status.gid()), (100_005, 200_006));
        assert_eq!(mountinfo::mounts_below(&target).unwrap().len(), 1);
        unmount_all(&target, UnmountFlags::empty()).unwrap();

        let lower = [text(&source).to_owned(), text(&folder(base.join("other"))).to_owned()];
        let (mut overlay, upper) = overlay_of(base, &lower);
        overlay.options.extend(map[1..].iter().map(|option| (*option).to_owned()));
        mount_all(&[overlay], &target).unwrap();
        let status = fs::metadata(target.join("x")).unwrap();
        assert_eq!((status.uid(), status.gid()), (100_005, 200_006));
        fs::set_permissions(target.join("x"), fs::Permissions::from_mode(0o600)).unwrap();
        let status = fs::metadata(upper.join("x")).unwrap();
        assert_eq!((status.uid(), status.mode() & 0o777), (100_005, 0o600));
        assert_eq!(mountinfo::mounts_below(base).unwrap().len(), 2, "no helper mount is left");
        unmount_all(&target, UnmountFlags::empty()).unwrap();

        let bad = ["rbind", "uidmap=nonsense", "gidmap=0:1:1"];
        let error = mount_all(&[mount("bind", text(&source), &bad)], &target).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
    });
}
