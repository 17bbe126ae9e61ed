//! The upper folder of an overlay gives the layer that a walk of the two whole trees gives.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use kernel_mount::{Mount, UnmountFlags, unmount};
use store_diff::{Target, TreeOptions, apply_tar, write_diff, write_overlay_diff};

use super::archive::Archive;
use super::namespace::in_mount_namespace;
use super::tree;

fn overlay(work: &Path) -> Mount {
    let shown = work.display();
    Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options: vec![
            format!("workdir={shown}/work"),
            format!("upperdir={shown}/upper"),
            format!("lowerdir={shown}/second:{shown}/first"),
        ],
    }
}

/// The layers below, with deletions between them.
fn layers(work: &Path) {
    for name in ["first", "second", "upper", "work", "merged", "below"] {
        fs::create_dir(work.join(name)).unwrap();
    }
    tree::rich(&work.join("first"));
    let more = Archive::default()
        .folder("keep/")
        .file("keep/one", "1")
        .file("keep/two", "2")
        .folder("keep/deep/")
        .file("keep/deep/three", "3")
        .folder("replaced/")
        .file("replaced/old", "old")
        .file("replaced/both", "old")
        .folder("becomes-file/")
        .file("becomes-file/x", "x")
        .file("becomes-folder", "x")
        .file("untouched", "x");
    apply_tar(more.bytes().as_slice(), &Target::folder(work.join("first"))).unwrap();
    fs::create_dir(work.join("second/keep")).unwrap();
    fs::write(work.join("second/keep/four"), "4").unwrap();
}

/// Changes of every kind, through the overlay.
fn change(root: &Path) {
    fs::write(root.join("keep/one"), "changed").unwrap();
    fs::remove_file(root.join("keep/two")).unwrap();
    fs::remove_file(root.join("keep/four")).unwrap();
    fs::remove_dir_all(root.join("keep/deep")).unwrap();
    // Hides what is below, and has a name of it again.
    fs::remove_dir_all(root.join("replaced")).unwrap();
    fs::create_dir(root.join("replaced")).unwrap();
    fs::write(root.join("replaced/both"), "new").unwrap();
    fs::write(root.join("replaced/aaa"), "new").unwrap();
    fs::remove_dir_all(root.join("becomes-file")).unwrap();
    fs::write(root.join("becomes-file"), "now").unwrap();
    fs::remove_file(root.join("becomes-folder")).unwrap();
    fs::create_dir(root.join("becomes-folder")).unwrap();
    fs::write(root.join("becomes-folder/in"), "now").unwrap();
    // Made and deleted again: no trace.
    fs::write(root.join("brief"), "").unwrap();
    fs::remove_file(root.join("brief")).unwrap();
    fs::write(root.join("keep/brief"), "").unwrap();
    fs::remove_file(root.join("keep/brief")).unwrap();
    // Copied up, but the same.
    let content = fs::read(root.join("untouched")).unwrap();
    let times = fs::metadata(root.join("untouched")).unwrap().modified().unwrap();
    fs::write(root.join("untouched"), content).unwrap();
    fs::File::options()
        .write(true)
        .open(root.join("untouched"))
        .unwrap()
        .set_modified(times)
        .unwrap();
    // One of three names of a file below.
    fs::write(root.join("bin/app"), "changed through one name").unwrap();
    fs::write(root.join("new"), "new").unwrap();
    fs::hard_link(root.join("new"), root.join("new-link")).unwrap();
    fs::hard_link(root.join("untouched"), root.join("other-name")).unwrap();
    symlink("new", root.join("symlink")).unwrap();
    fs::set_permissions(root.join("keep"), fs::Permissions::from_mode(0o711)).unwrap();
    tree::set_xattr(root.join("new"), "user.k", b"v");
}

#[test]
fn the_upper_folder_gives_the_same_bytes_as_a_walk() {
    in_mount_namespace("overlay::the_upper_folder_gives_the_same_bytes_as_a_walk", || {
        let folder = tree::temp();
        let work = folder.path();
        layers(work);
        let mount = overlay(work);
        mount.mount(&work.join("merged")).unwrap();
        change(&work.join("merged"));
        let mut below = mount.clone();
        below.options.drain(..2);
        below.mount(&work.join("below")).unwrap();
        for epoch in [None, Some(1_000_000_000)] {
            let options = TreeOptions { source_date_epoch: epoch };
            let (lower, merged) = (work.join("below"), work.join("merged"));
            let walked = write_diff(Vec::new(), Some(&lower), &merged, options).unwrap();
            let quick = write_overlay_diff(Vec::new(), &lower, &work.join("upper"), options);
            let quick = quick.unwrap().expect("a plain upper folder");
            assert!(walked.len() > 4096, "there is a difference");
            assert_eq!(names(&walked), names(&quick));
            assert!(walked == quick, "the same names, but not the same bytes");
        }
        for point in ["below", "merged"] {
            unmount(&work.join(point), UnmountFlags::empty()).unwrap();
        }
    });
}

#[test]
fn an_upper_folder_that_means_more_is_not_taken() {
    in_mount_namespace("overlay::an_upper_folder_that_means_more_is_not_taken", || {
        let folder = tree::temp();
        let work = folder.path();
        layers(work);
        for (name, value) in [
            ("trusted.overlay.redirect", &b"elsewhere"[..]),
            ("trusted.overlay.opaque", b"x"),
            ("trusted.overlay.metacopy", b""),
        ] {
            let odd = work.join("upper/odd");
            fs::create_dir(&odd).unwrap();
            tree::set_xattr(&odd, name, value);
            let made = write_overlay_diff(
                Vec::new(),
                &work.join("first"),
                &work.join("upper"),
                TreeOptions::default(),
            );
            assert!(made.unwrap().is_err_and(|output| output.is_empty()), "{name}");
            fs::remove_dir(&odd).unwrap();
        }
    });
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = tar::Archive::new(archive);
    let entries = reader.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect()
}
