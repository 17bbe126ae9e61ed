//! File operations against real file systems, beside the tools that everybody trusts.
#![allow(missing_docs, clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use base_fs::{
    DirFd, ParentCache, Root, Trash, clean_path, copy_tree, disk_usage, fsync_dir, read_file,
    remove_all, write_atomic,
};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// A tree with all that a layer can hold.
fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("etc/deep/er")).unwrap();
    fs::write(top.join("etc/file"), vec![7; 100_000]).unwrap();
    fs::hard_link(top.join("etc/file"), top.join("etc/deep/second")).unwrap();
    fs::hard_link(top.join("etc/file"), top.join("third")).unwrap();
    fs::write(top.join("empty"), "").unwrap();
    symlink("/etc/passwd", top.join("link")).unwrap();
    symlink("nowhere", top.join("etc/dangling")).unwrap();
    fs::write(top.join("setuid"), "x").unwrap();
    std::os::unix::fs::chown(top.join("setuid"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(top.join("setuid"), fs::Permissions::from_mode(0o6751)).unwrap();
    std::os::unix::fs::lchown(top.join("link"), Some(12), Some(13)).unwrap();
    fs::set_permissions(top.join("etc/deep"), fs::Permissions::from_mode(0o1700)).unwrap();
    let dir = DirFd::open(top).unwrap();
    let mode = Mode::from_raw_mode(0o620);
    dir.mknod(name("pipe"), FileType::Fifo, mode, 0).unwrap();
    dir.mknod(name("socket"), FileType::Socket, mode, 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    dir.mknod(name("null"), FileType::CharacterDevice, mode, null).unwrap();
    let sparse = fs::File::create(top.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 5 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    for (path, attribute) in [("etc/file", "trusted.a"), ("etc/deep", "trusted.overlay.opaque")] {
        rustix::fs::lsetxattr(top.join(path), attribute, b"y", XattrFlags::empty()).unwrap();
    }
    fs::write(top.join(OsStr::from_bytes(b"not\xffutf8")), "").unwrap();
    for path in ["etc/deep/er", "etc/file", "link", "etc", "."] {
        let when = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: when, last_modification: when };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, top.join(path), &times, nofollow).unwrap();
    }
}

/// What `find` tells of a tree, each entry a line.
fn listing(top: &Path) -> Vec<String> {
    let output = Command::new("find")
        .arg(".")
        .args([
            "-printf",
            "%p %y %m %U %G %n %T@ %l\\n",
            "(",
            "-type",
            "f",
            "-printf",
            "%s\\n",
            ")",
        ])
        .current_dir(top)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_copy_is_what_cp_makes() {
    let base = scratch();
    let (source, ours, theirs) =
        (base.path().join("source"), base.path().join("ours"), base.path().join("theirs"));
    make_tree(&source);
    copy_tree(&source, &ours).unwrap();
    let copied =
        Command::new("cp").args(["-a", "--sparse=always"]).args([&source, &theirs]).status();
    assert!(copied.unwrap().success());
    assert_eq!(listing(&ours), listing(&theirs));
    assert_eq!(listing(&ours), listing(&source));
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"]).args([source.join("etc"), ours.join("etc")]);
    assert!(diff.status().unwrap().success());
    assert_eq!(fs::read(ours.join("sparse")).unwrap(), fs::read(source.join("sparse")).unwrap());
    let blocks = |top: &Path| fs::metadata(top.join("sparse")).unwrap().blocks();
    assert!(blocks(&ours) <= blocks(&source), "the hole is kept");
    assert_eq!(
        fs::metadata(ours.join("third")).unwrap().ino(),
        fs::metadata(ours.join("etc/deep/second")).unwrap().ino()
    );
    assert_eq!(fs::metadata(ours.join("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    let mut value = [0; 8];
    for (path, attribute) in [("etc/file", "trusted.a"), ("etc/deep", "trusted.overlay.opaque")] {
        let length = rustix::fs::lgetxattr(ours.join(path), attribute, &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"y", "{path}");
    }
}

#[test]
fn a_copy_onto_itself_or_onto_names_that_exist_is_refused() {
    let base = scratch();
    make_tree(&base.path().join("source"));
    fs::create_dir_all(base.path().join("target")).unwrap();
    fs::write(base.path().join("target/empty"), "kept").unwrap();
    let error = copy_tree(base.path().join("source"), base.path().join("target")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EXIST));
    assert_eq!(fs::read_to_string(base.path().join("target/empty")).unwrap(), "kept");
    let error = copy_tree(base.path().join("none"), base.path().join("t")).unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("/none"), "{error}");
}

#[test]
fn usage_is_what_du_counts() {
    let base = scratch();
    make_tree(base.path());
    let usage = disk_usage(base.path()).unwrap();
    let du = |flag: &str| {
        let output = Command::new("du").args(["-s", flag]).arg(base.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(usage.size, du("-B1"));
    assert_eq!(usage.inodes, du("--inodes"));
    let one = disk_usage(base.path().join("etc/file")).unwrap();
    assert_eq!(one.inodes, 1);
    assert!(disk_usage(base.path().join("none")).unwrap_err().is_not_found());
}

#[test]
fn removal_follows_no_link() {
    let base = scratch();
    let outside = base.path().join("outside");
    make_tree(&outside);
    let before = listing(&outside);
    let tree = base.path().join("tree");
    make_tree(&tree);
    symlink(&outside, tree.join("etc/escape")).unwrap();
    fs::set_permissions(tree.join("etc"), fs::Permissions::from_mode(0o000)).unwrap();
    remove_all(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(listing(&outside), before);
    symlink(&outside, &tree).unwrap();
    remove_all(&tree).unwrap();
    assert_eq!(listing(&outside), before);
    remove_all(&tree).unwrap();
    remove_all(base.path().join("none/none")).unwrap();
    assert!(remove_all("/").is_err());
}

#[test]
fn trees_deeper_than_any_path_are_walked_with_few_descriptors() {
    let base = scratch();
    let top = base.path().join("deep");
    fs::create_dir(&top).unwrap();
    let mut dir = DirFd::open(&top).unwrap();
    // 3000 levels of 3 bytes: beyond PATH_MAX, and beyond the usual limit of descriptors.
    for _ in 0..3000 {
        dir.mkdir(name("dd"), Mode::RWXU).unwrap();
        dir = dir.open_dir(name("dd")).unwrap();
    }
    drop(dir.create_file(name("file"), Mode::RUSR).unwrap());
    drop(dir);
    assert_eq!(disk_usage(&top).unwrap().inodes, 3002);
    let copy = base.path().join("copy");
    copy_tree(&top, &copy).unwrap();
    assert_eq!(disk_usage(&copy).unwrap().inodes, 3002);
    remove_all(&top).unwrap();
    remove_all(&copy).unwrap();
    assert!(!top.exists() && !copy.exists());
}

#[test]
fn nothing_leads_out_of_a_root() {
    let base = scratch();
    fs::write(base.path().join("secret"), "outside").unwrap();
    let top = base.path().join("root");
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("secret"), "inside").unwrap();
    fs::write(top.join("etc/passwd"), "inside").unwrap();
    symlink("../../../../secret", top.join("upwards")).unwrap();
    symlink(base.path().join("secret"), top.join("absolute")).unwrap();
    symlink("/etc", top.join("folder")).unwrap();
    symlink("/proc/self/root", top.join("magic")).unwrap();
    symlink("loop", top.join("loop")).unwrap();
    let root = Root::open(&top).unwrap();
    for path in ["upwards", "/upwards", "../../secret", "folder/../secret"] {
        assert_eq!(root.read(path, 100).unwrap(), b"inside", "{path}");
    }
    assert!(root.read("absolute", 100).unwrap_err().is_not_found());
    assert_eq!(root.read("folder/passwd", 100).unwrap(), b"inside");
    assert_eq!(root.read("loop", 100).unwrap_err().errno(), Some(Errno::LOOP));
    assert!(root.read("magic/etc/passwd", 1 << 20).is_err());
    assert_eq!(root.read("secret", 3).unwrap_err().errno(), Some(Errno::FBIG));
    assert_eq!(root.read("etc", 3).unwrap_err().errno(), Some(Errno::INVAL));
    assert!(!root.exists("none/none").unwrap() && root.exists("folder/passwd").unwrap());

    // The links of the real /proc, inside a root that holds it.
    let slash = Root::open("/").unwrap();
    let error = slash.read("/proc/self/exe", 10).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::LOOP), "a link of /proc is refused");

    root.create_file("upwards-new", Mode::RUSR).unwrap();
    let error = root.create_file("upwards", Mode::RUSR).unwrap_err();
    assert!(matches!(error.errno(), Some(Errno::EXIST | Errno::LOOP)), "{error}");
    root.create_dir_all("folder/new/er", Mode::RWXU).unwrap();
    assert!(top.join("etc/new/er").is_dir());
    assert!(!Path::new("/etc/new").exists());
}

#[test]
fn folders_take_names_and_no_paths() {
    let base = scratch();
    let dir = DirFd::open(base.path()).unwrap();
    for bad in ["", ".", "..", "a/b", "/etc", "a\0b"] {
        assert!(dir.mkdir(name(bad), Mode::RWXU).is_err(), "{bad:?}");
        assert!(dir.stat(name(bad)).is_err(), "{bad:?}");
        assert!(dir.remove_all(name(bad)).is_err(), "{bad:?}");
    }
    fs::write(base.path().join("file"), "").unwrap();
    symlink("file", base.path().join("link")).unwrap();
    let error = dir.chmod(name("link"), Mode::RUSR).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::LOOP));
    dir.chmod(name("file"), Mode::from_raw_mode(0o4711)).unwrap();
    assert_eq!(dir.stat(name("file")).unwrap().st_mode & 0o7777, 0o4711);
    assert!(dir.open_file(name("link"), OFlags::RDONLY, Mode::empty()).is_err());
    dir.set_xattr(name("file"), name("trusted.x"), b"value").unwrap();
    assert_eq!(dir.xattr(name("file"), name("trusted.x")).unwrap().unwrap(), b"value");
    assert_eq!(dir.xattr(name("file"), name("trusted.y")).unwrap(), None);
    assert!(dir.xattr_names(name("file")).unwrap().contains(&c"trusted.x".to_owned()));
    dir.remove_xattr(name("file"), name("trusted.x")).unwrap();
    assert_eq!(dir.xattr(name("file"), name("trusted.x")).unwrap(), None);
    assert_eq!(dir.read_link(name("link")).unwrap().to_bytes(), b"file");
    dir.link(&dir, name("link"), name("link2")).unwrap();
    assert!(FileType::from_raw_mode(dir.stat(name("link2")).unwrap().st_mode).is_symlink());
    dir.rename(name("link2"), &dir, name("link3")).unwrap();
    dir.sync().unwrap();
}

#[test]
fn parents_are_kept_until_something_is_replaced() {
    let base = scratch();
    let top = base.path();
    let mut parents = ParentCache::new(Root::open(top).unwrap());
    let (dir, file) = parents.create_parent("./a/b/../c/file", Mode::RWXU).unwrap();
    assert_eq!(file, "file");
    dir.create_file(&file, Mode::RUSR).unwrap();
    assert!(top.join("a/c/file").exists());
    // The folder is replaced by a link: the cache must be told.
    remove_all(top.join("a")).unwrap();
    fs::create_dir_all(top.join("other/c")).unwrap();
    symlink("/other", top.join("a")).unwrap();
    parents.forget();
    let (dir, file) = parents.resolve_parent("a/c/second").unwrap();
    dir.create_file(&file, Mode::RUSR).unwrap();
    assert!(top.join("other/c/second").exists());
    assert!(parents.resolve_parent("none/x").unwrap_err().is_not_found());
    for path in ["", "/", "..", "a/.."] {
        assert!(parents.resolve_parent(path).is_err(), "{path:?} is the root itself");
    }
    let many: Vec<String> = (0..100).map(|index| format!("many/{index}/x")).collect();
    for path in many.iter().chain(&many) {
        let (dir, file) = parents.create_parent(path, Mode::RWXU).unwrap();
        let _ = dir.create_file(&file, Mode::RUSR);
    }
    assert_eq!(disk_usage(top.join("many")).unwrap().inodes, 201);
}

#[test]
fn a_file_is_replaced_at_once_or_not_at_all() {
    let base = scratch();
    let path = base.path().join("file");
    for durable in [false, true] {
        write_atomic(&path, b"one", 0o666, durable).unwrap();
        assert_eq!(read_file(&path, 3).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o666, "whatever the umask");
    }
    assert_eq!(read_file(&path, 2).unwrap_err().errno(), Some(Errno::FBIG));
    symlink("file", base.path().join("link")).unwrap();
    write_atomic(base.path().join("link"), b"two", 0o600, true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one", "the link is replaced, not followed");
    fs::create_dir(base.path().join("folder")).unwrap();
    let error = write_atomic(base.path().join("folder"), b"x", 0o600, true).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ISDIR));
    assert!(write_atomic(base.path().join("none/x"), b"x", 0o600, false).is_err());
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 3, "nothing is left beside");
    fsync_dir(base.path()).unwrap();
}

#[test]
fn a_full_disk_is_told_and_leaves_the_old_file() {
    // The child has a disk of four pages mounted over the folder, and fills it first.
    let base = scratch();
    let path = base.path().join("file");
    write_atomic(&path, b"old", 0o600, false).unwrap();
    let mounted = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount -t tmpfs -o size=16k t \"$1\" && cd \"$1\" && head -c 64k /dev/zero > full; exec \"$2\" --exact full_disk_child --ignored --nocapture", "sh"])
        .arg(base.path())
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    assert!(mounted.success());
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
#[ignore = "runs inside the test of a full disk"]
fn full_disk_child() {
    use base_errors::{Class, Coded as _};
    let error = write_atomic("new", &[1; 100_000], 0o600, true).unwrap_err();
    assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("new"), "{error}");
    assert_eq!(fs::read_dir(".").unwrap().count(), 1, "the half file is gone");
}

#[test]
fn trash_takes_trees_at_once_and_is_emptied_later() {
    let base = scratch();
    let trash = Trash::open(base.path().join("trash")).unwrap();
    for index in 0..3 {
        let tree = base.path().join("tree");
        make_tree(&tree);
        let discarded = trash.discard(&tree).unwrap().unwrap();
        assert!(!tree.exists() && discarded.path().exists());
        if index == 0 {
            discarded.remove().unwrap();
        }
    }
    assert!(trash.discard(base.path().join("none")).unwrap().is_none());
    let again = Trash::open(trash.folder()).unwrap();
    assert_eq!(again.empty().unwrap(), 2);
    assert_eq!(again.empty().unwrap(), 0);
}

proptest::proptest! {
    #[test]
    fn a_clean_path_stays_below(path in "(\\.\\./|\\./|/|[a-c]{1,3}/?){0,12}") {
        let clean = clean_path(&path);
        proptest::prop_assert!(!clean.is_absolute());
        let all_normal = clean
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        proptest::prop_assert!(all_normal);
        proptest::prop_assert_eq!(clean_path(&clean), clean);
    }
}
