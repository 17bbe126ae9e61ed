//! The walking differ over real stores: a changed container becomes a layer.

use std::sync::{Arc, Mutex};

use base_errors::{Error, Result};
use base_ident::Descriptor;
use kernel_mount::Mount;
use store_content::Store;
use store_diff::{ApplyOptions, CompareOptions, Differ, WalkingDiffer};
use store_metadata::Scope;
use store_snapshot::Snapshotter as _;

use super::archive::{Layout, host, named, three_layers};
use super::unpack::{files, in_mount_namespace};
use super::world::{World, any_name, digest};

#[tokio::test]
async fn a_changed_snapshot_becomes_a_layer() {
    if !in_mount_namespace("differ::a_changed_snapshot_becomes_a_layer") {
        return;
    }
    for snapshotter in ["overlayfs", "native"] {
        let world = World::new();
        let Some(snapshots) = world.snapshotter(snapshotter) else { continue };
        let layers = three_layers();
        let mut layout = Layout::default();
        let manifest = layout.image(&layers, &host());
        let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
        world.import(&archive, &any_name(Some(snapshotter))).await.unwrap();
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let top = image_transfer::chain_ids(&diff_ids).pop().unwrap();
        // A container that deletes, changes and adds.
        let upper = snapshots.prepare("box", top.as_str(), Default::default()).await.unwrap();
        let mounted = kernel_mount::TempMount::new(&upper, Some(&world.path().join("m"))).unwrap();
        std::fs::remove_dir_all(mounted.path().join("opt")).unwrap();
        std::fs::write(mounted.path().join("etc/one"), "changed").unwrap();
        std::fs::create_dir_all(mounted.path().join("new/deep")).unwrap();
        std::fs::write(mounted.path().join("new/deep/file"), "new").unwrap();
        let expected = files(mounted.path());
        mounted.close().unwrap();

        let lower = snapshots.view("base", top.as_str(), Default::default()).await.unwrap();
        let differ = WalkingDiffer::new(Some(world.path().join("tmpmounts")));
        let store = world.store();
        let mut seen = Vec::new();
        for media_type in [
            "",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ] {
            let options = CompareOptions {
                media_type: media_type.to_owned(),
                reference: "a-diff".to_owned(),
                labels: [("key".to_owned(), "value".to_owned())].into(),
                ..Default::default()
            };
            let layer = differ.compare(&store, &lower, &upper, options).await.unwrap();
            let info = store.info(&layer.digest).await.unwrap();
            assert_eq!(info.size, layer.size);
            assert_eq!(info.labels["key"], "value");
            // Applied on the same base it gives the same tree, and the diff id of its label.
            let key = format!("again-{media_type}");
            let mounts = snapshots.prepare(&key, top.as_str(), Default::default()).await.unwrap();
            let options = ApplyOptions { sync_fs: true, ..ApplyOptions::default() };
            let applied = differ.apply(&store, &layer, &mounts, options).await.unwrap();
            assert_eq!(applied.digest.as_str(), info.labels["containerd.io/uncompressed"]);
            assert_eq!(applied.media_type, "application/vnd.oci.image.layer.v1.tar");
            let base = world.path().join("m");
            let mounted =
                kernel_mount::TempMount::with_readonly_temp(&mounts, Some(&base)).unwrap();
            assert_eq!(files(mounted.path()), expected);
            mounted.close().unwrap();
            seen.push(applied);
        }
        assert!(seen.iter().all(|applied| *applied == seen[0]), "{seen:?}");
        let options = CompareOptions { media_type: "text/plain".to_owned(), ..Default::default() };
        let error = differ.compare(&store, &lower, &upper, options).await.unwrap_err();
        assert_eq!(error.to_string(), "unsupported diff media type: text/plain: not implemented");
        let mut unknown = seen[0].clone();
        unknown.media_type = "text/plain".to_owned();
        let error =
            differ.apply(&store, &unknown, &upper, ApplyOptions::default()).await.unwrap_err();
        assert_eq!(error.class(), base_errors::Class::NotImplemented);
        world.assert_clean().await;
    }
}

/// As a differ that is another program: it needs to know whose call it is, and the parent of a
/// layer.
struct Remote {
    walking: WalkingDiffer,
    scopes: Arc<Mutex<Vec<Scope>>>,
}

#[async_trait::async_trait]
impl Differ for Remote {
    async fn apply(
        &self,
        content: &dyn Store,
        layer: &Descriptor,
        mounts: &[Mount],
        options: ApplyOptions,
    ) -> Result<Descriptor> {
        if options.parent_comes_later {
            return Err(Error::not_implemented("the parent is needed"));
        }
        self.scopes.lock().unwrap().extend(options.scope.clone());
        self.walking.apply(content, layer, mounts, options).await
    }

    async fn compare(
        &self,
        content: &dyn Store,
        lower: &[Mount],
        upper: &[Mount],
        options: CompareOptions,
    ) -> Result<Descriptor> {
        self.walking.compare(content, lower, upper, options).await
    }
}

#[tokio::test]
async fn a_differ_of_another_program_is_told_whose_call_it_is() {
    if !in_mount_namespace("differ::a_differ_of_another_program_is_told_whose_call_it_is") {
        return;
    }
    for snapshotter in ["overlayfs", "native"] {
        let scopes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&scopes);
        let world = World::with_differ(|walking| Arc::new(Remote { walking, scopes }));
        let Some(snapshots) = world.snapshotter(snapshotter) else { continue };
        let mut layout = Layout::default();
        let manifest = layout.image(&three_layers(), &host());
        let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
        world.import(&archive, &any_name(Some(snapshotter))).await.unwrap();
        assert_eq!(snapshots.list(&[]).await.unwrap().len(), 3);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen.len(), 3, "{snapshotter}");
        for scope in seen {
            assert_eq!(scope.namespace, world.scope().namespace);
            assert!(scope.lease.is_some(), "the lease of the transfer");
        }
        world.assert_clean().await;
    }
}
