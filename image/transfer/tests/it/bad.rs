//! Archives that are not as they should be: a clear error, and nothing stays.

use base_errors::Class;
use store_content::Store as _;

use super::archive::{Layout, gzip, host, layer, named, tar};
use super::world::{World, any_name};

/// Imports and expects a failure that leaves nothing.
async fn refuse(archive: &[u8], class: Class, text: &str) {
    let world = World::new();
    let error = world.import(archive, &any_name(Some("native"))).await.unwrap_err();
    assert!(error.to_string().contains(text), "{error} has not {text}");
    assert_eq!(error.class(), class, "{error}");
    assert!(world.names().is_empty());
    assert!(world.changes.lock().unwrap().is_empty());
    world.assert_clean().await;
    world.metadata.collect().await.unwrap();
    assert!(world.store().list(&[]).await.unwrap().is_empty());
    let snapshots = world.snapshotter("native").unwrap();
    assert!(store_snapshot::Snapshotter::list(&snapshots, &[]).await.unwrap().is_empty());
}

fn good() -> (Layout, String) {
    let mut layout = Layout::default();
    let manifest = layout.image(&[layer(&[("a", "a")]), layer(&[("b", "b")])], &host());
    (layout, manifest)
}

const NAME: &str = "example.test/app:1";

#[tokio::test]
async fn no_archive_at_all() {
    refuse(b"", Class::InvalidArgument, "unrecognized image format").await;
    refuse(&[b'x'; 4000], Class::InvalidArgument, "archive/tar").await;
    refuse(&tar(&[(b'0', "readme", b"hello")]), Class::InvalidArgument, "unrecognized").await;
}

#[tokio::test]
async fn a_cut_archive() {
    let (layout, manifest) = good();
    let archive = layout.archive(&[named(&manifest, NAME)]);
    refuse(&archive[..1600], Class::DataLoss, "unexpected EOF").await;
    let packed = gzip(&archive);
    refuse(&packed[..packed.len() - 20], Class::DataLoss, "unexpected EOF").await;
}

#[tokio::test]
async fn a_blob_that_has_not_its_digest() {
    let (mut layout, manifest) = good();
    layout.files[0].1.push(b' ');
    let archive = layout.archive(&[named(&manifest, NAME)]);
    refuse(&archive, Class::FailedPrecondition, "failed to ingest \"blobs/sha256/").await;
}

#[tokio::test]
async fn a_layer_that_is_missing() {
    let (mut layout, manifest) = good();
    layout.files.remove(1);
    refuse(&layout.archive(&[named(&manifest, NAME)]), Class::NotFound, "not found").await;
}

#[tokio::test]
async fn a_manifest_that_is_missing() {
    let (mut layout, manifest) = good();
    layout.files.pop();
    refuse(&layout.archive(&[named(&manifest, NAME)]), Class::NotFound, "not found").await;
}

#[tokio::test]
async fn a_layer_that_is_damaged_inside() {
    let mut layout = Layout::default();
    let plain = layer(&[("a", "a")]);
    // The blob has the digest that its descriptor says, and is not what the config says.
    let other = layer(&[("a", "b")]);
    let config = layout.blob(
        "application/vnd.oci.image.config.v1+json",
        &super::archive::config(&[plain], &host()),
    );
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&other));
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{blob}]}}"#);
    let manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let archive = layout.archive(&[named(&manifest, NAME)]);
    refuse(&archive, Class::Unknown, "wrong diff id calculated on extraction \"sha256:").await;
}

#[tokio::test]
async fn a_layer_that_is_no_layer() {
    let mut layout = Layout::default();
    let config = layout.blob(
        "application/vnd.oci.image.config.v1+json",
        &super::archive::config(&[layer(&[])], &host()),
    );
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", b"not a layer");
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{blob}]}}"#);
    let manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let archive = layout.archive(&[named(&manifest, NAME)]);
    refuse(&archive, Class::DataLoss, "failed to extract layer sha256:").await;
}

#[tokio::test]
async fn documents_that_are_none() {
    let layout: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let with_index =
        |index: &[u8]| tar(&[(b'0', "oci-layout", layout), (b'0', "index.json", index)]);
    refuse(&tar(&[(b'0', "oci-layout", layout)]), Class::InvalidArgument, "missing index.json")
        .await;
    refuse(&with_index(b"{"), Class::InvalidArgument, "unmarshal index").await;
    refuse(
        &with_index(br#"{"manifests":[{"digest":"sha256:12","size":1}]}"#),
        Class::InvalidArgument,
        "invalid checksum digest length",
    )
    .await;
    refuse(
        &with_index(br#"{"manifests":[],"layers":[]}"#),
        Class::InvalidArgument,
        "unexpected mixed index and manifest",
    )
    .await;
    refuse(
        &tar(&[(b'0', "oci-layout", br#"{"imageLayoutVersion":"9"}"#)]),
        Class::InvalidArgument,
        "unsupported OCI version 9",
    )
    .await;
    refuse(
        &tar(&[(b'0', "manifest.json", br#"[{"Config":"x.json"}]"#)]),
        Class::InvalidArgument,
        "image config \"x.json\" not found",
    )
    .await;
    refuse(
        &tar(&[
            (b'0', "x.json", b"{}"),
            (b'0', "manifest.json", br#"[{"Config":"x.json","Layers":["l.tar"]}]"#),
        ]),
        Class::InvalidArgument,
        "layer \"l.tar\" not found",
    )
    .await;
    refuse(
        &tar(&[
            (b'0', "x.json", b"{}"),
            (b'2', "l.tar", b"nowhere"),
            (b'0', "manifest.json", br#"[{"Config":"x.json","Layers":["l.tar"]}]"#),
        ]),
        Class::InvalidArgument,
        "no target for symlink layer from \"l.tar\" to \"nowhere\"",
    )
    .await;
    let huge = vec![b' '; 21 << 20];
    refuse(&tar(&[(b'0', "manifest.json", &huge)]), Class::InvalidArgument, "too many").await;
    let huge = vec![b' '; 9 << 20];
    refuse(&with_index(&huge), Class::ResourceExhausted, "too many").await;
}

#[tokio::test]
async fn a_config_that_does_not_fit_the_manifest() {
    let mut layout = Layout::default();
    let one = layer(&[("a", "a")]);
    let config = layout.blob(
        "application/vnd.oci.image.config.v1+json",
        &super::archive::config(&[one.clone(), one.clone()], &host()),
    );
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&one));
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{blob}]}}"#);
    let manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let archive = layout.archive(&[named(&manifest, NAME)]);
    refuse(&archive, Class::InvalidArgument, "number of layers and diffIDs don't match: 1 != 2")
        .await;
}

#[tokio::test]
async fn a_stream_that_breaks() {
    let world = World::new();
    let (layout, manifest) = good();
    let archive = layout.archive(&[named(&manifest, NAME)]);
    let chunks = vec![
        Ok(bytes::Bytes::copy_from_slice(&archive[..3000])),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ];
    let error = world
        .transferrer
        .import(
            &world.scope(),
            futures_util::stream::iter(chunks),
            &Default::default(),
            &any_name(None),
            &Default::default(),
        )
        .await
        .unwrap_err();
    assert!(error.to_string().contains("connection reset"), "{error}");
    assert!(world.names().is_empty());
    world.assert_clean().await;
}
