//! Differences of trees: applied to the lower tree they give the upper one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use store_diff::{Target, TreeOptions, apply_tar, write_diff};

use super::tree::{self, CAPABILITY, Tree, assert_same, is_root, read, rich};

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["-a", "--sparse=always", "-T"])
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

fn diff(lower: Option<&Path>, upper: &Path) -> Vec<u8> {
    write_diff(Vec::new(), lower, upper, TreeOptions::default()).unwrap()
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = tar::Archive::new(archive);
    let entries = reader.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned()).collect()
}

/// What a layer keeps of times: whole seconds, and none of folders that it does not mention.
fn without_times(mut tree: Tree) -> Tree {
    for node in tree.values_mut() {
        node.mtime = (0, 0);
    }
    tree
}

#[test]
fn equal_trees_give_an_empty_layer() {
    if !is_root() {
        return;
    }
    let (lower, upper) = (tree::temp(), tree::temp());
    rich(lower.path());
    copy(lower.path(), upper.path());
    assert_eq!(names(&diff(Some(lower.path()), upper.path())), Vec::<String>::new());
}

#[test]
fn a_diff_applied_to_the_lower_tree_gives_the_upper() {
    if !is_root() {
        return;
    }
    let (lower, upper, applied) = (tree::temp(), tree::temp(), tree::temp());
    rich(lower.path());
    copy(lower.path(), upper.path());
    copy(lower.path(), applied.path());
    let root = upper.path();
    fs::remove_dir_all(root.join("d".repeat(120))).unwrap();
    fs::remove_file(root.join("pipe")).unwrap();
    fs::write(root.join("bin/app"), b"changed through one of three names").unwrap();
    fs::remove_file(root.join("bin/su")).unwrap();
    tree::folder(root.join("bin/su/now/a/folder"), 0o711);
    fs::remove_dir_all(root.join("var")).unwrap();
    tree::write(root.join("var"), b"now a file", 0o600);
    fs::remove_file(root.join("bin/link")).unwrap();
    symlink("elsewhere", root.join("bin/link")).unwrap();
    tree::set_xattr(root.join("bin/wall"), "security.capability", CAPABILITY);
    std::os::unix::fs::chown(root.join("null"), Some(3), Some(4)).unwrap();
    tree::folder(root.join("new"), 0o755);
    tree::write(root.join("new/one"), b"one", 0o644);
    fs::hard_link(root.join("new/one"), root.join("new/two")).unwrap();
    fs::hard_link(root.join("var"), root.join("new/var-link")).unwrap();
    tree::set_xattr(root.join("new"), "user.k", b"v");
    let layer = diff(Some(lower.path()), root);
    apply_tar(&layer[..], &Target::folder(applied.path())).unwrap();
    assert_same(&without_times(read(root)), &without_times(read(applied.path())));
    // Made again it is the same layer.
    assert_eq!(layer, diff(Some(lower.path()), root));
    // And GNU tar lists it without complaint.
    let temp = tree::temp();
    fs::write(temp.path().join("l.tar"), &layer).unwrap();
    let output = Command::new("tar").arg("-tvf").arg(temp.path().join("l.tar")).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn an_unchanged_name_of_a_new_link_comes_with_it() {
    if !is_root() {
        return;
    }
    let (lower, upper, applied) = (tree::temp(), tree::temp(), tree::temp());
    tree::folder(lower.path().join("d"), 0o750);
    tree::write(lower.path().join("d/a"), b"same", 0o644);
    tree::touch(lower.path().join("d/a"), 1_600_000_000, 0);
    copy(lower.path(), upper.path());
    copy(lower.path(), applied.path());
    fs::hard_link(upper.path().join("d/a"), upper.path().join("z")).unwrap();
    let layer = diff(Some(lower.path()), upper.path());
    assert_eq!(names(&layer), ["z", "d/", "d/a"]);
    apply_tar(&layer[..], &Target::folder(applied.path())).unwrap();
    assert_same(&without_times(read(upper.path())), &without_times(read(applied.path())));
}

#[test]
fn entries_come_in_order_with_their_folders() {
    let (lower, upper) = (tree::temp(), tree::temp());
    for root in [lower.path(), upper.path()] {
        tree::folder(root.join("a/b"), 0o755);
        tree::write(root.join("a/b/old"), b"x", 0o644);
        tree::write(root.join("a/b/same"), b"x", 0o644);
        tree::touch(root.join("a/b/same"), 1_600_000_000, 0);
    }
    fs::remove_file(upper.path().join("a/b/old")).unwrap();
    tree::write(upper.path().join("a/b/new"), b"y", 0o644);
    tree::write(upper.path().join("a-z"), b"y", 0o644);
    let layer = diff(Some(lower.path()), upper.path());
    assert_eq!(names(&layer), ["a/", "a/b/", "a/b/new", "a/b/.wh.old", "a-z"]);
}

#[test]
fn content_decides_where_times_say_nothing() {
    let (lower, upper) = (tree::temp(), tree::temp());
    for (root, data) in [(lower.path(), b"one"), (upper.path(), b"two")] {
        tree::write(root.join("whole"), data, 0o644);
        tree::touch(root.join("whole"), 1_600_000_000, 0);
        tree::write(root.join("fine"), data, 0o644);
        tree::touch(root.join("fine"), 1_600_000_000, 5);
    }
    // COMPAT: equal times with a fraction are believed.
    assert_eq!(names(&diff(Some(lower.path()), upper.path())), ["whole"]);
}

#[test]
fn an_epoch_bounds_all_times() {
    let upper = tree::temp();
    tree::write(upper.path().join("new"), b"", 0o644);
    tree::write(upper.path().join("old"), b"", 0o644);
    tree::touch(upper.path().join("new"), 2_000_000_000, 0);
    tree::touch(upper.path().join("old"), 1_000_000_000, 0);
    let options = TreeOptions { source_date_epoch: Some(1_500_000_000) };
    let layer = write_diff(Vec::new(), None, upper.path(), options).unwrap();
    let mut reader = tar::Archive::new(&layer[..]);
    let times: Vec<u64> =
        reader.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
    assert_eq!(times, [1_500_000_000, 1_000_000_000]);
}
