//! Archives that are as they should be.

use image_transfer::{ImageStoreOptions, ImportOptions, Platform, ProgressSender};
use store_content::{Store as _, read_all};

use super::archive::{Layout, config, gzip, host, layer, named, on, tar, three_layers};
use super::world::{World, any_name, digest, listen};

#[tokio::test]
async fn an_oci_layout_becomes_named_content() {
    let world = World::new();
    let mut layout = Layout::default();
    let layers = three_layers();
    let manifest = layout.image(&layers, &host());
    let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
    let (progress, mut events) = listen();
    let changes = world
        .import_with(&archive, &any_name(None), &ImportOptions::default(), &progress)
        .await
        .unwrap();
    drop(progress);
    assert_eq!(changes.len(), 1);
    assert_eq!(world.names(), ["example.test/app:1"]);
    assert_eq!(*world.changes.lock().unwrap(), ["test create example.test/app:1"]);
    let mut heard = Vec::new();
    while let Some(event) = events.recv().await {
        heard.push((event.event, event.name));
    }
    let expected = [("Importing", ""), ("saved", "example.test/app:1"), ("Completed import", "")];
    assert_eq!(heard, expected.map(|(event, name)| (event.to_owned(), name.to_owned())));
    // The manifest keeps its children.
    let target = &world.images()[0].target;
    assert!(!target.annotations.contains_key("io.containerd.import.ref-source"));
    let labels = world.store().info(&target.digest).await.unwrap().labels;
    let keys: Vec<_> = labels.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "containerd.io/gc.ref.content.config",
            "containerd.io/gc.ref.content.l.0",
            "containerd.io/gc.ref.content.l.1",
            "containerd.io/gc.ref.content.l.2",
        ]
    );
    world.assert_clean().await;
    // After a collection it is all still there, and what was only in the archive is not.
    world.metadata.collect().await.unwrap();
    let blobs = world.store().list(&[]).await.unwrap();
    assert_eq!(blobs.len(), 5, "{blobs:?}");
    // Again: the record is updated.
    world.import(&archive, &any_name(None)).await.unwrap();
    assert_eq!(world.changes.lock().unwrap()[1], "test update example.test/app:1");
    world.assert_clean().await;
}

#[tokio::test]
async fn a_compressed_archive_is_read_too() {
    let mut layout = Layout::default();
    let manifest = layout.image(&[layer(&[("a", "a")])], &host());
    let archive = gzip(&layout.archive(&[named(&manifest, "example.test/app:1")]));
    let world = World::new();
    world.import(&archive, &any_name(None)).await.unwrap();
    assert_eq!(world.names(), ["example.test/app:1"]);
    // Unless its type says what it is.
    let options =
        ImportOptions { media_type: "application/x-tar".to_owned(), ..Default::default() };
    let world = World::new();
    let progress = ProgressSender::default();
    world.import_with(&archive, &any_name(None), &options, &progress).await.unwrap_err();
    assert!(world.names().is_empty());
}

#[tokio::test]
async fn indexes_within_indexes_and_platforms() {
    let mut layout = Layout::default();
    let ours = layout.image(&[layer(&[("a", "ours")])], &host());
    let other = layout.image(&[layer(&[("a", "other")])], "s390x");
    let inner = layout.index(&[on(&ours, &host()), on(&other, "s390x")]);
    let outer = layout.index(std::slice::from_ref(&inner));
    let archive = layout.archive(&[named(&outer, "example.test/multi:1")]);
    let world = World::new();
    world.import(&archive, &any_name(None)).await.unwrap();
    assert_eq!(world.names(), ["example.test/multi:1"]);
    world.metadata.collect().await.unwrap();
    // Two indexes; manifest, config and layer of two platforms.
    assert_eq!(world.store().list(&[]).await.unwrap().len(), 8);

    // One platform: content of the other one may be missing, and is not kept.
    layout.files.retain(|(_, data)| {
        !data.windows(5).any(|window| window == b"s390x") || data.starts_with(b"{\"schema")
    });
    let archive = layout.archive(&[named(&outer, "example.test/multi:1")]);
    let world = World::new();
    let store = ImageStoreOptions { platforms: vec![Platform::host()], ..any_name(None) };
    world.import(&archive, &store).await.unwrap();
    assert_eq!(world.names(), ["example.test/multi:1"]);
    // For all platforms that is not enough.
    let world = World::new();
    let error = world.import(&archive, &any_name(None)).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(world.names().is_empty());
    world.assert_clean().await;
}

/// A docker archive: plain layers below folders, a link for one of them.
pub(crate) fn docker_archive(layers: &[Vec<u8>], tags: &str) -> Vec<u8> {
    let config = config(layers, &host());
    let name = format!("{}.json", digest(&config).hex());
    let manifest = format!(
        r#"[{{"Config":"{name}","RepoTags":{tags},"Layers":["a/layer.tar","b/layer.tar","c/layer.tar"]}}]"#
    );
    tar(&[
        (b'0', &name, &config),
        (b'5', "a/", b""),
        (b'0', "a/VERSION", b"1.0"),
        (b'0', "a/layer.tar", &layers[0]),
        (b'2', "b/layer.tar", b"../shared/layer.tar"),
        (b'0', "shared/layer.tar", &layers[1]),
        (b'0', "c/layer.tar", &gzip(&layers[2])),
        (b'0', "repositories", b"{}"),
        (b'0', "manifest.json", manifest.as_bytes()),
    ])
}

#[tokio::test]
async fn a_docker_archive_becomes_an_image() {
    let world = World::new();
    let archive = docker_archive(&three_layers(), r#"["app","app:2"]"#);
    world.import(&archive, &any_name(None)).await.unwrap();
    assert_eq!(world.names(), ["docker.io/library/app:2", "docker.io/library/app:latest"]);
    let target = &world.images()[0].target;
    assert_eq!(target.annotations["org.opencontainers.image.ref.name"], "2");
    let manifest = read_all(&world.store(), &target.digest).await.unwrap();
    let manifest = String::from_utf8(manifest.to_vec()).unwrap();
    let layers = three_layers();
    let packed = gzip(&layers[2]);
    let config = config(&layers, &host());
    let expected = format!(
        concat!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
            r#""config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":{}}},"#,
            r#""layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"{}","size":{}}},"#,
            r#"{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"{}","size":{}}},"#,
            r#"{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","digest":"{}","size":{}}}]}}"#
        ),
        digest(&config),
        config.len(),
        digest(&layers[0]),
        layers[0].len(),
        digest(&layers[1]),
        layers[1].len(),
        digest(&packed),
        packed.len(),
    );
    assert_eq!(manifest, expected);
    world.assert_clean().await;
}

#[tokio::test]
async fn plain_layers_are_compressed_on_request() {
    let world = World::new();
    let archive = docker_archive(&three_layers(), "null");
    let options = ImportOptions { force_compress: true, ..ImportOptions::default() };
    let store = ImageStoreOptions::named("example.test/index:1");
    let progress = ProgressSender::default();
    world.import_with(&archive, &store, &options, &progress).await.unwrap();
    assert_eq!(world.names(), ["example.test/index:1"]);
    world.metadata.collect().await.unwrap();
    let blobs = world.store().list(&[]).await.unwrap();
    // Index, manifest, config, three layers: none of them plain.
    assert_eq!(blobs.len(), 6);
    let packed: Vec<_> = blobs
        .iter()
        .filter_map(|blob| blob.labels.get("containerd.io/uncompressed"))
        .cloned()
        .collect();
    assert_eq!(packed.len(), 2);
    // From now on the compressed ones serve for the plain ones.
    world.import(&archive, &any_name(None)).await.unwrap();
    world.metadata.collect().await.unwrap();
    assert_eq!(world.store().list(&[]).await.unwrap().len(), 6);
    world.assert_clean().await;
}

#[tokio::test]
async fn two_imports_of_one_archive_do_not_disturb_each_other() {
    let world = World::new();
    let mut layout = Layout::default();
    let manifest = layout.image(&three_layers(), &host());
    let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
    let store = any_name(Some("native"));
    let imports = [(); 4].map(|()| world.import(&archive, &store));
    for outcome in futures_util::future::join_all(imports).await {
        outcome.unwrap();
    }
    assert_eq!(world.names(), ["example.test/app:1"]);
    world.assert_clean().await;
}

#[tokio::test]
async fn images_are_tagged() {
    let world = World::new();
    let mut layout = Layout::default();
    let manifest = layout.image(&[layer(&[("a", "a")])], &host());
    let archive = layout.archive(&[named(&manifest, "example.test/app:1")]);
    world.import(&archive, &any_name(None)).await.unwrap();
    let source = ImageStoreOptions::named("example.test/app:1");
    let tag = |name: &str| ImageStoreOptions::named(name);
    let scope = world.scope();
    world.transferrer.tag(&scope, &source, &tag("example.test/app:2")).await.unwrap();
    let images = world.images();
    assert_eq!(images[0].target, images[1].target);
    let error = world.transferrer.tag(&scope, &tag("none"), &tag("other")).await.unwrap_err();
    assert_eq!(error.to_string(), "image \"none\": not found");
    let error =
        world.transferrer.tag(&scope, &source, &ImageStoreOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "no image name found: not found");
}
