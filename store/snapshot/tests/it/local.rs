//! overlayfs and native: contract, folders, leftovers, a full disk, ids.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use base_errors::Class;
use base_ident::Labels;
use kernel_mount::TempMount;
use store_snapshot::testsuite::{self, Abilities};
use store_snapshot::{
    LABEL_GID_MAPPING, LABEL_UID_MAPPING, OverlayConfig, OverlaySnapshotter, Snapshotter,
};

use super::{in_namespace, native, numbered, overlay, overlay_config, say_skipped};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn overlay_contract() {
    in_namespace("256m", async |work| {
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let store = overlay(&numbered(&work));
            Box::pin(async move { store })
        };
        testsuite::run(&make, &work, Abilities { rebase: true, exact_usage: true }).await;
    });
}

#[test]
fn overlay_contract_with_all_options() {
    in_namespace("256m", async |work| {
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let config = OverlayConfig {
                sync_remove: true,
                upperdir_label: true,
                slow_chown: true,
                mount_options: vec!["metacopy=on".to_owned()],
                ..overlay_config(&numbered(&work))
            };
            let store: std::sync::Arc<dyn Snapshotter> =
                std::sync::Arc::new(OverlaySnapshotter::open(config).unwrap());
            Box::pin(async move { store })
        };
        testsuite::run(&make, &work, Abilities { rebase: true, exact_usage: true }).await;
    });
}

#[test]
fn native_contract() {
    in_namespace("256m", async |work| {
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let store = native(&numbered(&work));
            Box::pin(async move { store })
        };
        testsuite::run(&make, &work, Abilities { rebase: false, exact_usage: true }).await;
    });
}

#[test]
fn refused_commits_name_the_snapshot() {
    in_namespace("64m", async |work| {
        for store in [overlay(&work.join("overlay")), native(&work.join("native"))] {
            store.prepare("a", "", Labels::new()).await.unwrap();
            store.commit("one", "a", Labels::new(), "").await.unwrap();
            store.prepare("b", "one", Labels::new()).await.unwrap();
            for (name, key, expected) in [
                ("one", "b", "committed snapshot one: already exists"),
                ("one", "one", "snapshot \"one\" is not active: failed precondition"),
                ("two", "one", "snapshot \"one\" is not active: failed precondition"),
            ] {
                let error = store.commit(name, key, Labels::new(), "").await.unwrap_err();
                let expected = format!("failed to commit snapshot {key}: {expected}");
                assert_eq!(error.to_string(), expected);
            }
        }
    });
}

#[test]
fn overlay_folders_are_containerds() {
    in_namespace("64m", async |work| {
        let root = work.join("overlay");
        let store = overlay(&root);
        assert_eq!(mode(&root), 0o700);
        assert_eq!(mode(&root.join("metadata.db")), 0o600);
        assert_eq!(names(&root), ["metadata.db", "snapshots"], "the trial leaves nothing");
        let trees = root.join("snapshots");
        assert_eq!(mode(&trees), 0o700);

        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        assert_eq!(
            (mounts[0].kind.as_str(), &mounts[0].source),
            ("bind", &text(&trees.join("1/fs")))
        );
        assert_eq!(mounts[0].options, ["rw", "rbind"]);
        assert_eq!(names(&trees.join("1")), ["fs", "work"]);
        assert_eq!(mode(&trees.join("1")), 0o700);
        assert_eq!(mode(&trees.join("1/fs")), 0o755);
        assert_eq!(mode(&trees.join("1/work")), 0o711);
        store.commit("one", "a", Labels::new(), "").await.unwrap();

        let mounts = store.prepare("b", "one", Labels::new()).await.unwrap();
        let shown = trees.display();
        let mut expected = vec![
            format!("workdir={shown}/2/work"),
            format!("upperdir={shown}/2/fs"),
            format!("lowerdir={shown}/1/fs"),
        ];
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            expected.push("index=off".to_owned());
        }
        assert_eq!((mounts[0].kind.as_str(), mounts[0].source.as_str()), ("overlay", "overlay"));
        assert_eq!(mounts[0].options, expected);

        let mounts = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(
            (mounts[0].kind.as_str(), &mounts[0].source),
            ("bind", &text(&trees.join("1/fs")))
        );
        assert_eq!(mounts[0].options, ["ro", "rbind"]);
        assert_eq!(names(&trees.join("3")), ["fs"]);
        store.commit("two", "b", Labels::new(), "").await.unwrap();
        let mounts = store.view("w", "two", Labels::new()).await.unwrap();
        assert_eq!(mounts[0].options[0], format!("lowerdir={shown}/2/fs:{shown}/1/fs"));

        // Removed: the record at once, the folder with the cleanup.
        store.remove("w").await.unwrap();
        assert_eq!(names(&trees), ["1", "2", "3", "4"]);
        fs::create_dir_all(trees.join("new-123/fs")).unwrap();
        fs::create_dir_all(trees.join("77/fs")).unwrap();
        store.cleanup().await.unwrap();
        assert_eq!(names(&trees), ["1", "2", "3"]);
    });
}

#[test]
fn records_survive_and_ids_are_not_given_twice() {
    in_namespace("64m", async |work| {
        let root = work.join("overlay");
        {
            let store = overlay(&root);
            store.prepare("a", "", Labels::new()).await.unwrap();
            store.commit("one", "a", Labels::new(), "").await.unwrap();
            store.prepare("b", "one", Labels::new()).await.unwrap();
            store.remove("b").await.unwrap();
        }
        let store = overlay(&root);
        assert_eq!(store.stat("one").await.unwrap().name, "one");
        // A folder that a failed commit left in the way of the next id.
        fs::create_dir_all(root.join("snapshots/3/fs/old")).unwrap();
        store.prepare("c", "one", Labels::new()).await.unwrap();
        assert!(names(&root.join("snapshots/3/fs")).is_empty());
        store.cleanup().await.unwrap();
        assert_eq!(names(&root.join("snapshots")), ["1", "3"]);
    });
}

#[test]
fn a_failed_prepare_leaves_no_folder() {
    in_namespace("64m", async |work| {
        for (name, store) in
            [("overlay", overlay(&work.join("overlay"))), ("native", native(&work.join("native")))]
        {
            let trees = work.join(name).join("snapshots");
            store.prepare("a", "", Labels::new()).await.unwrap();
            assert!(store.prepare("a", "", Labels::new()).await.is_err());
            assert!(store.prepare("b", "none", Labels::new()).await.is_err());
            assert!(store.prepare("b", "a", Labels::new()).await.is_err());
            assert_eq!(names(&trees), ["1"], "{name}");
        }
    });
}

#[test]
fn native_folders_are_containerds() {
    in_namespace("64m", async |work| {
        let root = work.join("native");
        let store = native(&root);
        let trees = root.join("snapshots");
        let mounts = store.prepare("a", "", Labels::new()).await.unwrap();
        assert_eq!(mounts[0].source, trees.join("1").to_str().unwrap());
        assert_eq!(mounts[0].options, ["rbind", "rw"]);
        assert_eq!(mode(&trees.join("1")), 0o755);
        fs::write(trees.join("1/file"), "x").unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        let mounts = store.view("v", "one", Labels::new()).await.unwrap();
        assert_eq!(mounts[0].source, trees.join("1").to_str().unwrap());
        assert_eq!(mounts[0].options, ["rbind", "ro"]);
        store.prepare("b", "one", Labels::new()).await.unwrap();
        assert_eq!(names(&trees), ["1", "3"]);
        assert_eq!(fs::read_to_string(trees.join("3/file")).unwrap(), "x");
        store.remove("b").await.unwrap();
        assert_eq!(names(&trees), ["1"]);
        let error = store.commit("x", "none", Labels::new(), "").await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
    });
}

#[test]
fn folders_lost_with_the_power_are_made_again() {
    in_namespace("64m", async |work| {
        let root = work.join("overlay");
        let store = overlay(&root);
        store.prepare("a", "", Labels::new()).await.unwrap();
        store.commit("one", "a", Labels::new(), "").await.unwrap();
        store.prepare("b", "one", Labels::new()).await.unwrap();
        fs::remove_dir_all(root.join("snapshots/2")).unwrap();
        let mounts = store.mounts("b").await.unwrap();
        let work = work.clone();
        tokio::task::spawn_blocking(move || {
            TempMount::new(&mounts, Some(&work)).unwrap().close().unwrap();
        })
        .await
        .unwrap();
        assert_eq!(mode(&root.join("snapshots/2/work")), 0o711);
    });
}

#[test]
fn mapped_ids_own_the_top() {
    in_namespace("64m", async |work| {
        let root = work.join("overlay");
        let store = overlay(&root);
        let map = |uid: &str, gid: &str| {
            Labels::from([
                (LABEL_UID_MAPPING.to_owned(), uid.to_owned()),
                (LABEL_GID_MAPPING.to_owned(), gid.to_owned()),
            ])
        };
        store.prepare("base-key", "", Labels::new()).await.unwrap();
        store.commit("base", "base-key", Labels::new(), "").await.unwrap();
        let mounts = store.prepare("a", "base", map("0:1000:10", "0:2000:10")).await.unwrap();
        let top = fs::metadata(root.join("snapshots/2/fs")).unwrap();
        assert_eq!((top.uid(), top.gid()), (1000, 2000));
        let open = OverlaySnapshotter::open(overlay_config(&work.join("second"))).unwrap();
        if open.capabilities().contains(&"remap-ids") {
            assert_eq!(mounts[0].options[..2], ["uidmap=0:1000:10", "gidmap=0:2000:10"]);
        } else {
            say_skipped("in part: this kernel mounts no overlay with mapped ids");
            assert!(mounts[0].options[0].starts_with("workdir="));
        }
        let error = store.prepare("bad", "", map("x", "0:0:1")).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(store.stat("bad").await.is_err());
    });
}

#[test]
fn the_upper_folder_is_shown_if_configured() {
    in_namespace("64m", async |work| {
        let config = OverlayConfig { upperdir_label: true, ..overlay_config(&work.join("o")) };
        let store = OverlaySnapshotter::open(config).unwrap();
        store.prepare("a", "", Labels::new()).await.unwrap();
        let key = "containerd.io/snapshot/overlay.upperdir";
        let expected = work.join("o/snapshots/1/fs");
        let mut info = store.stat("a").await.unwrap();
        assert_eq!(info.labels[key], expected.to_str().unwrap());
        assert_eq!(store.list(&[]).await.unwrap()[0].labels[key], expected.to_str().unwrap());
        info.labels.insert("containerd.io/snapshot/x".to_owned(), "y".to_owned());
        let updated = store.update(&info, &[]).await.unwrap();
        assert_eq!(updated.labels.len(), 2);
    });
}

#[test]
fn a_synchronous_removal_takes_the_folder_at_once() {
    in_namespace("64m", async |work| {
        for sync_remove in [false, true] {
            let root = work.join(format!("o-{sync_remove}"));
            let config = OverlayConfig { sync_remove, ..overlay_config(&root) };
            let store = OverlaySnapshotter::open(config).unwrap();
            store.prepare("a", "", Labels::new()).await.unwrap();
            fs::write(root.join("snapshots/1/fs/file"), "x").unwrap();
            store.remove("a").await.unwrap();
            assert_eq!(names(&root.join("snapshots")).is_empty(), sync_remove);
        }
    });
}

#[test]
fn slow_chown_lets_clients_copy_trees() {
    in_namespace("64m", async |work| {
        for slow_chown in [false, true] {
            let root = work.join(format!("o-{slow_chown}"));
            let config = OverlayConfig { slow_chown, ..overlay_config(&root) };
            let capabilities = OverlaySnapshotter::open(config).unwrap().capabilities();
            assert!(capabilities.contains(&"rebase"));
            assert_eq!(capabilities.contains(&"only-remap-ids"), !slow_chown, "{capabilities:?}");
        }
    });
}

#[test]
fn a_folder_that_cannot_carry_overlays_is_told() {
    in_namespace("64m", async |work| {
        // Overlayfs takes no /proc as a layer; and no folder can be made there.
        let error = OverlaySnapshotter::open(overlay_config(Path::new("/proc/ironhull")));
        assert!(error.is_err());
        drop(work);
    });
}

#[test]
fn a_full_disk_is_told_and_survived() {
    in_namespace("3m", async |work| {
        for (name, store) in
            [("overlay", overlay(&work.join("overlay"))), ("native", native(&work.join("native")))]
        {
            store.prepare("a", "", Labels::new()).await.unwrap();
            let tree = work.join(name).join("snapshots/1");
            let tree = if name == "overlay" { tree.join("fs") } else { tree };
            fs::write(tree.join("file"), vec![1; 300_000]).unwrap();
            store.commit("one", "a", Labels::new(), "").await.unwrap();

            let filler = work.join("filler");
            let mut file = fs::File::create(&filler).unwrap();
            while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
            let mut failed = 0;
            for number in 0..50 {
                match store.prepare(&format!("p{number}"), "one", Labels::new()).await {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.class(), Class::ResourceExhausted, "{name}: {error}");
                        failed += 1;
                    }
                }
            }
            assert!(failed > 0, "{name}: the disk is full");
            drop(file);
            fs::remove_file(&filler).unwrap();

            store.prepare("after", "one", Labels::new()).await.unwrap();
            let records = store.list(&[]).await.unwrap().len();
            assert_eq!(records, 50 - failed + 2, "{name}");
            store.cleanup().await.unwrap();
            let folders = names(&work.join(name).join("snapshots"));
            assert_eq!(folders.len(), records, "{name}: {folders:?}");
            for number in 0..50 {
                drop(store.remove(&format!("p{number}")).await);
            }
            store.remove("after").await.unwrap();
            store.cleanup().await.unwrap();
        }
    });
}
