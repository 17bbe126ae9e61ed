//! Layers become snapshots.

use std::collections::BTreeMap;
use std::path::Path;

use image_transfer::{ImageStoreOptions, UnpackConfiguration, chain_ids};
use store_content::Store as _;
use store_snapshot::{Kind, Snapshotter as _};

use super::archive::{Layout, THREE_LAYERS, host, layer, named, three_layers};
use super::world::{World, any_name, digest, temp};

/// Files of a tree with their contents.
pub(crate) fn files(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

/// Runs the test again in a mount namespace of its own, where what it mounts stays.
pub(crate) fn in_mount_namespace(name: &str) -> bool {
    const INNER: &str = "IMAGE_TRANSFER_INNER_TEST";
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

async fn unpacks(snapshotter: &str) {
    let world = World::new();
    let Some(snapshots) = world.snapshotter(snapshotter) else { return };
    let layers = three_layers();
    let mut layout = Layout::default();
    let manifest = layout.image(&layers, &host());
    let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
    world.import(&archive, &any_name(Some(snapshotter))).await.unwrap();
    world.assert_clean().await;
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    let chain = chain_ids(&diff_ids);
    for (index, id) in chain.iter().enumerate() {
        let info = snapshots.stat(id.as_str()).await.unwrap();
        assert_eq!(info.kind, Kind::Committed);
        let parent = index.checked_sub(1).map_or("", |below| chain[below].as_str());
        assert_eq!(info.parent, parent);
        assert_eq!(info.labels["containerd.io/snapshot.ref"], id.as_str());
    }
    // The tree.
    let mounts = snapshots.view("look", chain[2].as_str(), Default::default()).await.unwrap();
    let base = temp();
    let mounted = kernel_mount::TempMount::with_readonly_temp(&mounts, Some(base.path())).unwrap();
    let expected: BTreeMap<_, _> =
        THREE_LAYERS.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
    assert_eq!(files(mounted.path()), expected);
    mounted.close().unwrap();
    snapshots.remove("look").await.unwrap();
    // Labels: the config keeps the snapshots, layers know their diff ids.
    let blobs = world.store().list(&[]).await.unwrap();
    let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    let configs: Vec<_> = blobs.iter().filter_map(|blob| blob.labels.get(&label)).collect();
    assert_eq!(configs, [chain[2].as_str()]);
    let uncompressed =
        blobs.iter().filter(|blob| blob.labels.contains_key("containerd.io/uncompressed")).count();
    assert_eq!(uncompressed, 3);
    // A collection leaves all of it.
    world.metadata.collect().await.unwrap();
    assert_eq!(snapshots.list(&[]).await.unwrap().len(), 3);
    // Once more: nothing is applied again. One layer more: only that one.
    let image = &world.images()[0];
    let wish = UnpackConfiguration {
        snapshotter: snapshotter.to_owned(),
        ..UnpackConfiguration::default()
    };
    let scope = world.scope();
    let unpacked =
        world.transferrer.unpack(&scope, &image.target, &wish, &Default::default()).await.unwrap();
    assert_eq!(unpacked.applied, 0);
    assert_eq!(unpacked.chain_id.as_ref(), Some(&chain[2]));
    let mut layers = layers;
    layers.push(layer(&[("more", "m")]));
    let mut layout = Layout::default();
    let manifest = layout.image(&layers, &host());
    let archive = layout.archive(&[named(&manifest, "example.test/app:2")]);
    world.import(&archive, &any_name(Some(snapshotter))).await.unwrap();
    assert_eq!(snapshots.list(&[]).await.unwrap().len(), 4);
    world.assert_clean().await;
}

#[tokio::test]
async fn overlayfs_unpacks() {
    if in_mount_namespace("unpack::overlayfs_unpacks") {
        unpacks("overlayfs").await;
    }
}

#[tokio::test]
async fn native_unpacks() {
    if in_mount_namespace("unpack::native_unpacks") {
        unpacks("native").await;
    }
}

#[tokio::test]
async fn a_failed_layer_leaves_no_extraction() {
    if !in_mount_namespace("unpack::a_failed_layer_leaves_no_extraction") {
        return;
    }
    for snapshotter in ["overlayfs", "native"] {
        let world = World::new();
        let Some(snapshots) = world.snapshotter(snapshotter) else { continue };
        let mut layers: Vec<_> =
            (0..6).map(|index| layer(&[(&format!("file-{index}"), "x")])).collect();
        let good = layers.clone();
        let mut layout = Layout::default();
        // The config promises another third layer.
        layers[2] = layer(&[("other", "x")]);
        let config = super::archive::config(&layers, &host());
        let config = layout.blob("application/vnd.oci.image.config.v1+json", &config);
        let blobs: Vec<_> = good
            .iter()
            .map(|layer| {
                let packed = super::archive::gzip(layer);
                layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &packed)
            })
            .collect();
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, blobs.join(","));
        let manifest =
            layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
        let error = world.import(&archive, &any_name(Some(snapshotter))).await.unwrap_err();
        assert!(error.to_string().starts_with("wrong diff id calculated"), "{error}");
        assert!(world.names().is_empty());
        world.assert_clean().await;
        // The layers below the bad one were right; they go with the lease.
        world.metadata.collect().await.unwrap();
        assert!(snapshots.list(&[]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn unknown_snapshotters_and_platforms_are_refused() {
    let world = World::new();
    let mut layout = Layout::default();
    let manifest = layout.image(&[layer(&[("a", "a")])], "s390x");
    let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
    let error = world.import(&archive, &any_name(Some("absent"))).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unable to initialize unpacker: no unpack platforms defined: invalid argument"
    );
    // An image of another platform is stored, not unpacked.
    world.import(&archive, &any_name(Some("native"))).await.unwrap();
    assert_eq!(world.names(), ["example.test/app:1"]);
    assert!(world.snapshotter("native").unwrap().list(&[]).await.unwrap().is_empty());
    // And not found if only this platform is wanted.
    let index = layout.index(&[super::archive::on(&manifest, "s390x")]);
    let archive = layout.archive(&[named(&index, "example.test/app:2")]);
    let store =
        ImageStoreOptions { platforms: vec![image_transfer::Platform::host()], ..any_name(None) };
    let error = world.import(&archive, &store).await.unwrap_err();
    assert_eq!(error.to_string(), "image might be filtered out");
    assert!(world.path().exists());
}
