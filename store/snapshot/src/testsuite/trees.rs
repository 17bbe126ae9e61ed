//! What is in the trees, through mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use base_ident::Labels;

use super::Test;

pub(super) async fn layers(test: &Test) {
    test.layer("one", "", |root| {
        fs::write(root.join("a"), "1").unwrap();
        fs::write(root.join("b"), "1").unwrap();
        fs::create_dir_all(root.join("etc/deep")).unwrap();
        fs::write(root.join("etc/deep/file"), "1").unwrap();
        symlink("a", root.join("link")).unwrap();
        fs::hard_link(root.join("a"), root.join("hard")).unwrap();
    })
    .await;
    test.layer("two", "one", |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        fs::write(root.join("a"), "2").unwrap();
        fs::write(root.join("etc/new"), "2").unwrap();
    })
    .await;
    // A sibling does not see its brother, and nobody changes the parent.
    test.layer("side", "one", |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert!(!root.join("etc/new").exists());
    })
    .await;
    test.look("two", |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "2");
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("etc/deep/file")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("etc/new")).unwrap(), "2");
        assert_eq!(fs::read_link(root.join("link")).unwrap().to_str(), Some("a"));
        let error = fs::write(root.join("c"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    })
    .await;
    test.look("one", |root| assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1")).await;
}

pub(super) async fn rename_and_delete(test: &Test) {
    test.layer("base", "", |root| {
        for folder in ["keep", "gone", "old"] {
            fs::create_dir(root.join(folder)).unwrap();
            fs::write(root.join(folder).join("file"), folder).unwrap();
        }
        fs::write(root.join("single"), "x").unwrap();
    })
    .await;
    test.layer("changed", "base", |root| {
        fs::remove_dir_all(root.join("gone")).unwrap();
        fs::remove_file(root.join("single")).unwrap();
        fs::rename(root.join("keep/file"), root.join("keep/renamed")).unwrap();
        // A folder of a lower layer cannot always be renamed: copied then, as tools do.
        if fs::rename(root.join("old"), root.join("new")).is_err() {
            fs::create_dir(root.join("new")).unwrap();
            fs::copy(root.join("old/file"), root.join("new/file")).unwrap();
            fs::remove_dir_all(root.join("old")).unwrap();
        }
    })
    .await;
    test.layer("more", "changed", |root| {
        assert!(!root.join("gone").exists() && !root.join("single").exists());
        fs::write(root.join("single"), "again").unwrap();
    })
    .await;
    test.look("more", |root| {
        let mut names: Vec<_> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["keep", "new", "single"]);
        assert_eq!(fs::read_to_string(root.join("new/file")).unwrap(), "old");
        assert_eq!(fs::read_to_string(root.join("keep/renamed")).unwrap(), "keep");
        assert!(!root.join("keep/file").exists());
        assert_eq!(fs::read_to_string(root.join("single")).unwrap(), "again");
    })
    .await;
    test.look("base", |root| assert!(root.join("gone/file").exists() && root.join("old").exists()))
        .await;
}

pub(super) async fn opaque_folders(test: &Test) {
    test.layer("base", "", |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/file"), "base").unwrap();
    })
    .await;
    test.layer("replaced", "base", |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/other"), "new").unwrap();
    })
    .await;
    test.layer("top", "replaced", |root| fs::write(root.join("dir/third"), "").unwrap()).await;
    test.look("top", |root| {
        assert!(!root.join("dir/file").exists() && !root.join("dir/sub").exists());
        assert!(root.join("dir/other").exists() && root.join("dir/third").exists());
    })
    .await;
}

pub(super) async fn owners_and_modes(test: &Test) {
    test.layer("base", "", |root| {
        assert_eq!(fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o755);
        fs::write(root.join("tool"), "").unwrap();
        fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        std::os::unix::fs::chown(root, Some(1000), Some(1001)).unwrap();
    })
    .await;
    test.layer("child", "base", |root| {
        let top = fs::metadata(root).unwrap();
        assert_eq!((top.uid(), top.gid()), (1000, 1001), "the top belongs to the parent's owner");
    })
    .await;
    test.look("child", |root| {
        assert_eq!(fs::metadata(root.join("tool")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(root).unwrap().uid(), 1000);
    })
    .await;
}

pub(super) async fn usage(test: &Test, exact: bool) {
    let snapshots = &test.snapshots;
    let mounts = snapshots.prepare("active", "", Labels::new()).await.unwrap();
    let empty = snapshots.usage("active").await.unwrap();
    test.mounted(mounts, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/large"), vec![7; 1 << 20]).unwrap();
        fs::write(root.join("small"), "x").unwrap();
        fs::hard_link(root.join("small"), root.join("same")).unwrap();
    })
    .await;
    let full = snapshots.usage("active").await.unwrap();
    snapshots.commit("layer", "active", Labels::new(), "").await.unwrap();
    let committed = snapshots.usage("layer").await.unwrap();
    if exact {
        assert_eq!(full.inodes, empty.inodes + 3, "a file of two names is one");
        assert!(
            (1 << 20..(1 << 20) + 65_536).contains(&(full.size - empty.size)),
            "{full:?} {empty:?}"
        );
        assert_eq!(committed, full, "as it was at the commit");
    } else {
        assert!(committed.size >= 1 << 20, "{committed:?}");
    }
    snapshots.view("view", "layer", Labels::new()).await.unwrap();
    assert_eq!(snapshots.usage("view").await.unwrap().size, 0);
}

/// More layers than images have; fewer where each is an image or a device that a program makes.
pub(super) async fn long_chain(test: &Test, of_folders: bool) {
    let layers: usize = if of_folders { 128 } else { 33 };
    let mut parent = String::new();
    for number in 0..layers {
        let name = format!("chain-{number}");
        if number % 16 == 0 || number == layers - 1 {
            test.layer(&name, &parent, move |root| {
                fs::write(root.join(format!("file-{number}")), number.to_string()).unwrap();
                fs::write(root.join("last"), number.to_string()).unwrap();
            })
            .await;
        } else {
            test.snapshots.prepare("step", &parent, Labels::new()).await.unwrap();
            test.snapshots.commit(&name, "step", Labels::new(), "").await.unwrap();
        }
        parent = name;
    }
    test.look(&parent, move |root| {
        assert_eq!(fs::read_to_string(root.join("last")).unwrap(), (layers - 1).to_string());
        for number in (0..layers).step_by(16) {
            let text = fs::read_to_string(root.join(format!("file-{number}"))).unwrap();
            assert_eq!(text, number.to_string());
        }
    })
    .await;
    for number in (0..layers).rev() {
        test.snapshots.remove(&format!("chain-{number}")).await.unwrap();
    }
    assert!(test.names(&[]).await.is_empty());
}

pub(super) async fn rebased_tree(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("base", "", |root| fs::write(root.join("low"), "1").unwrap()).await;
    let mounts = snapshots.prepare("loose", "", Labels::new()).await.unwrap();
    test.mounted(mounts, |root| fs::write(root.join("high"), "2").unwrap()).await;
    snapshots.commit("both", "loose", Labels::new(), "base").await.unwrap();
    test.look("both", |root| {
        assert_eq!(fs::read_to_string(root.join("low")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("high")).unwrap(), "2");
    })
    .await;
}
