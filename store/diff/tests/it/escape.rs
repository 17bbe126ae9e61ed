//! Archives that want out of their root.

use std::fs;
use std::path::Path;

use base_errors::{Class, Coded as _};
use store_diff::{ApplyError, Target, apply_tar};

use super::archive::Archive;
use super::tree::{self, is_root, read};

/// A root with a neighbour that must not change: `outside` beside `root`.
struct World {
    temp: tempfile::TempDir,
    before: tree::Tree,
}

impl World {
    fn new() -> Self {
        let temp = tree::temp();
        tree::folder(temp.path().join("outside/inner"), 0o755);
        tree::write(temp.path().join("outside/secret"), b"secret", 0o600);
        tree::folder(temp.path().join("root"), 0o755);
        let before = read(&temp.path().join("outside"));
        World { temp, before }
    }

    fn root(&self) -> std::path::PathBuf {
        self.temp.path().join("root")
    }

    fn outside(&self) -> String {
        self.temp.path().join("outside").to_str().unwrap().to_owned()
    }

    fn apply(&self, archive: &Archive) -> Result<(), ApplyError> {
        let outcome = apply_tar(&archive.bytes()[..], &Target::folder(self.root()));
        tree::assert_same(&self.before, &read(&self.temp.path().join("outside")));
        let names: Vec<_> = fs::read_dir(self.temp.path()).unwrap().collect();
        assert_eq!(names.len(), 2, "{names:?}");
        outcome
    }

    fn content(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap()
    }
}

#[test]
fn dots_end_at_the_root() {
    let world = World::new();
    world
        .apply(
            &Archive::default()
                .file("../../outside/secret", "x")
                .file("/absolute", "y")
                .file("a/../../b", "z"),
        )
        .unwrap();
    assert_eq!(world.content("outside/secret"), "x");
    assert_eq!(world.content("absolute"), "y");
    assert_eq!(world.content("b"), "z");
}

#[test]
fn links_lead_to_places_within_the_root() {
    let world = World::new();
    let outside = world.outside();
    world
        .apply(
            &Archive::default()
                .symlink("absolute", &outside)
                .file("absolute/secret", "a")
                .symlink("relative", "../outside")
                .file("relative/new", "b")
                .symlink("dots", "../../../../../..")
                .file("dots/from-dots", "c"),
        )
        .unwrap();
    // Links to nothing: their targets are made, below the root.
    assert_eq!(world.content(&format!("{}/secret", &outside[1..])), "a");
    assert_eq!(world.content("outside/new"), "b");
    assert_eq!(world.content("from-dots"), "c");
}

#[test]
fn a_file_replaces_a_link_and_is_not_written_through_it() {
    let world = World::new();
    let secret = format!("{}/secret", world.outside());
    world.apply(&Archive::default().symlink("link", &secret).file("link", "mine")).unwrap();
    assert_eq!(world.content("link"), "mine");
    assert!(!fs::symlink_metadata(world.root().join("link")).unwrap().is_symlink());
}

#[test]
fn metadata_is_not_set_through_links() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let secret = format!("{}/secret", world.outside());
    world
        .apply(
            &Archive::default()
                .symlink("link", &secret)
                .with(|entry| {
                    entry.mode = 0o4777;
                    entry.uid = 1234;
                    entry.xattrs.push((b"user.x".to_vec(), b"y".to_vec()));
                })
                .hard_link("again", "link")
                .with(|entry| {
                    entry.mode = 0o4777;
                    entry.uid = 1234;
                }),
        )
        // Links take no attributes of users: refused, not redirected.
        .unwrap_err();
    world
        .apply(
            &Archive::default()
                .symlink("link", &secret)
                .hard_link("again", "link")
                .with(|entry| entry.mode = 0o4777),
        )
        .unwrap();
}

#[test]
fn hard_links_reach_nothing_outside() {
    let world = World::new();
    let secret = format!("{}/secret", world.outside());
    for target in ["../outside/secret", &secret] {
        let error = world.apply(&Archive::default().hard_link("stolen", target)).unwrap_err();
        assert_eq!(error.class(), Class::NotFound, "{error}");
        assert!(!world.root().join("stolen").exists());
    }
    let error = world
        .apply(
            &Archive::default()
                .symlink("door", &world.outside())
                .hard_link("stolen", "door/secret"),
        )
        .unwrap_err();
    assert_eq!(error.class(), Class::NotFound, "{error}");
}

#[test]
fn a_folder_that_becomes_a_link_is_not_remembered_as_a_folder() {
    let world = World::new();
    let outside = world.outside();
    world
        .apply(
            &Archive::default()
                .folder("d/")
                .file("d/one", "1")
                .symlink("d", &outside)
                .file("d/secret", "2"),
        )
        .unwrap();
    assert_eq!(world.content(&format!("{}/secret", &outside[1..])), "2");
    // And by deletion.
    let world = World::new();
    world
        .apply(
            &Archive::default()
                .file("d/inner/one", "1")
                .file(".wh.d", "")
                .symlink("d", &outside)
                .file("d/inner/two", "2"),
        )
        .unwrap();
    assert!(!world.root().join("d/inner/one").exists());
}

#[test]
fn devices_are_replaced_and_not_written_to() {
    if !is_root() {
        return;
    }
    let world = World::new();
    world
        .apply(
            &Archive::default()
                .device("sink", 1, 3)
                .file("sink", "text")
                .file("x", "")
                .device("x", 1, 3),
        )
        .unwrap();
    assert_eq!(world.content("sink"), "text");
    assert!(fs::symlink_metadata(world.root().join("sink")).unwrap().is_file());
    use std::os::unix::fs::FileTypeExt as _;
    assert!(fs::symlink_metadata(world.root().join("x")).unwrap().file_type().is_char_device());
}

#[test]
fn kinds_replace_each_other() {
    let world = World::new();
    world
        .apply(
            &Archive::default()
                .folder("a/")
                .file("a/b/c", "1")
                .file("a", "file")
                .file("f", "file")
                .folder("f/")
                .file("f/g", "2")
                .symlink("f/g", "nowhere")
                .folder("f/g/"),
        )
        .unwrap();
    assert_eq!(world.content("a"), "file");
    assert!(fs::symlink_metadata(world.root().join("f/g")).unwrap().is_dir());
}

#[test]
fn a_file_on_the_way_and_circles_are_errors() {
    let world = World::new();
    for archive in [
        Archive::default().file("f", "").file("f/below", ""),
        Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", ""),
        Archive::default().symlink("a", "a/x").file("a/y", ""),
        Archive::default().file(".wh...", ""),
        Archive::default().file("d/.wh.", ""),
        Archive::default().entry(b'7', "contiguous", "", b""),
        Archive::default().file(&"n".repeat(300), ""),
    ] {
        let error = world.apply(&archive).unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument, "{error}");
        fs::remove_dir_all(world.root()).unwrap();
        tree::folder(world.root(), 0o755);
    }
}

#[test]
fn a_hard_link_to_itself_changes_nothing() {
    let world = World::new();
    world.apply(&Archive::default().file("f", "text").hard_link("f", "f")).unwrap();
    assert_eq!(world.content("f"), "text");
}

#[test]
fn trees_far_deeper_than_descriptors_can_be_removed() {
    let world = World::new();
    let deep = "d/".repeat(1500);
    world.apply(&Archive::default().folder(&deep).file("d/d/keep", "k").file("d", "flat")).unwrap();
    assert_eq!(world.content("d"), "flat");
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 1);
    assert!(Path::new(&world.root()).join("d").is_file());
}
