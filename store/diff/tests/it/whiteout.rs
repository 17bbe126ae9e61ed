//! Deletions, in a whole tree and in the upper folder of an overlay.

use std::fs;
use std::path::Path;

use store_diff::{ApplyError, Target, Whiteouts, apply_tar};

use super::archive::Archive;
use super::namespace::in_mount_namespace;
use super::tree::{self, read};

/// The layer below.
fn base() -> Archive {
    Archive::default()
        .folder("keep/")
        .file("keep/file", "base")
        .folder("gone/")
        .file("gone/file", "base")
        .folder("opaque/")
        .file("opaque/old", "base")
        .file("opaque/replaced", "base")
        .folder("opaque/sub/")
        .file("opaque/sub/old", "base")
        .folder("again/")
        .file("again/old", "base")
        .folder("way/")
        .file("way/old", "base")
        .folder("tmp/")
        .with(|entry| entry.mode = 0o1777)
        .file("tmp/old", "base")
        .file("file", "base")
        .symlink("link", "keep")
        .file("linked", "base")
}

/// The layer above: deletions of every kind.
fn upper() -> Archive {
    Archive::default()
        .file(".wh.gone", "")
        .file("opaque/new", "upper")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/replaced", "upper")
        .file("opaque/sub/new", "upper")
        .file(".wh.again", "")
        .folder("again/")
        .file("again/new", "upper")
        .file(".wh.way", "")
        .file("way/new", "upper")
        .file(".wh.file", "")
        .file(".wh.link", "")
        .file(".wh.absent", "")
        .file("keep/.wh.absent", "")
        .file("tmp/new", "upper")
        .file(".wh..wh.plnk", "")
        .file(".wh..wh..tmp", "")
        .hard_link("second-name", "linked")
}

/// What must be there then.
fn expected() -> Vec<&'static str> {
    vec![
        "again",
        "again/new",
        "keep",
        "keep/file",
        "linked",
        "opaque",
        "opaque/new",
        "opaque/replaced",
        "opaque/sub",
        "opaque/sub/new",
        "second-name",
        "tmp",
        "tmp/new",
        "tmp/old",
        "way",
        "way/new",
    ]
}

fn names(root: &Path) -> Vec<String> {
    read(root).into_keys().map(|path| path.to_str().unwrap().to_owned()).collect()
}

#[test]
fn deletions_in_a_whole_tree() {
    let temp = tree::temp();
    let target = Target::folder(temp.path());
    apply_tar(&base().bytes()[..], &target).unwrap();
    apply_tar(&upper().bytes()[..], &target).unwrap();
    assert_eq!(names(temp.path()), expected());
    assert_eq!(read(temp.path())[Path::new("tmp")].mode & 0o7777, 0o1777);
}

#[test]
fn deletions_in_an_overlay() {
    in_mount_namespace("whiteout::deletions_in_an_overlay", || {
        let temp = tree::temp();
        for name in ["lower", "upper", "work", "merged"] {
            tree::folder(temp.path().join(name), 0o755);
        }
        let path = |name: &str| temp.path().join(name);
        apply_tar(&base().bytes()[..], &Target::folder(path("lower"))).unwrap();
        let target = Target {
            root: path("upper"),
            whiteouts: Whiteouts::Overlay { user: false },
            lowers: vec![path("lower")],
            parent_comes_later: false,
        };
        apply_tar(&upper().bytes()[..], &target).unwrap();
        let mount = kernel_mount::Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", path("lower").display()),
                format!("upperdir={}", path("upper").display()),
                format!("workdir={}", path("work").display()),
            ],
        };
        mount.mount(&path("merged")).unwrap();
        let merged = read(&path("merged"));
        kernel_mount::unmount_all(&path("merged"), kernel_mount::UnmountFlags::empty()).unwrap();
        let merged_names: Vec<_> =
            merged.keys().map(|path| path.to_str().unwrap().to_owned()).collect();
        assert_eq!(merged_names, expected());
        // A folder that the layer did not mention has the mode of the one below.
        assert_eq!(merged[Path::new("tmp")].mode & 0o7777, 0o1777);
        // The hard link to a file below is a real one.
        assert_eq!(merged[Path::new("second-name")].same_as, Some("linked".into()));
    });
}

#[test]
fn a_layer_that_needs_its_parent_says_so() {
    if !tree::is_root() {
        return;
    }
    let apply = |archive: Archive| {
        let temp = tree::temp();
        let target = Target {
            root: temp.path().to_owned(),
            whiteouts: Whiteouts::Overlay { user: false },
            lowers: Vec::new(),
            parent_comes_later: true,
        };
        apply_tar(&archive.bytes()[..], &target)
    };
    apply(Archive::default().folder("a/").file("a/b", "").file(".wh.c", "")).unwrap();
    for archive in [
        Archive::default().file("a/b", ""),
        Archive::default().file("a/.wh.b", ""),
        Archive::default().hard_link("a", "b"),
    ] {
        assert!(matches!(apply(archive).unwrap_err(), ApplyError::NeedsParent { .. }));
    }
}

#[test]
fn attributes_of_overlayfs_are_not_for_layers() {
    if !tree::is_root() {
        return;
    }
    let temp = tree::temp();
    let archive = Archive::default().folder("a/").with(|entry| {
        entry.xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
        entry.xattrs.push((b"trusted.other".to_vec(), b"y".to_vec()));
    });
    apply_tar(&archive.bytes()[..], &Target::folder(temp.path())).unwrap();
    assert!(read(temp.path())[Path::new("a")].xattrs.is_empty());
    assert!(fs::read_dir(temp.path()).unwrap().count() == 1);
}
