//! Images become archives.

use image_transfer::{ExportOptions, ImageStoreOptions, Platform};
use store_content::Store as _;

use super::archive::{Layout, host, layer, named, on, three_layers};
use super::world::{World, any_name};

fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = store_diff::tar::TarReader::new(archive);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.name).unwrap());
    }
    names
}

fn file(archive: &[u8], name: &str) -> String {
    let mut reader = store_diff::tar::TarReader::new(archive);
    while let Some(entry) = reader.next_entry().unwrap() {
        if entry.name == name.as_bytes() {
            return String::from_utf8(reader.data().unwrap().to_vec()).unwrap();
        }
    }
    panic!("no {name}");
}

async fn imported() -> World {
    let world = World::new();
    let mut layout = Layout::default();
    let one = layout.image(&three_layers(), &host());
    let other = layout.image(&[layer(&[("x", "y")])], "s390x");
    let index = layout.index(&[on(&other, "s390x"), on(&one, &host())]);
    let archive = layout.archive(&[
        named(&one, "docker.io/library/app:1"),
        named(&index, "docker.io/library/multi:1"),
    ]);
    world.import(&archive, &any_name(None)).await.unwrap();
    world
}

#[tokio::test]
async fn an_exported_image_imports_as_the_same() {
    let world = imported().await;
    let store = ImageStoreOptions::named("docker.io/library/app:1");
    let archive = world.export(&store, &ExportOptions::default()).await.unwrap();
    let listed = names(&archive);
    // Two folders, manifest, config, three layers, and three documents, in their order.
    assert_eq!(listed.len(), 10);
    assert!(listed.is_sorted(), "{listed:?}");
    assert_eq!(listed[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(listed[7..], ["index.json", "manifest.json", "oci-layout"]);
    assert_eq!(file(&archive, "oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = file(&archive, "index.json");
    assert!(index.contains(
        r#""annotations":{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.ref.name":"1"}"#
    ), "{index}");
    let docker = file(&archive, "manifest.json");
    assert!(docker.contains(r#""RepoTags":["app:1"],"Layers":["blobs/sha256/"#), "{docker}");
    // There and back.
    let other = World::new();
    other.import(&archive, &any_name(None)).await.unwrap();
    let digests = |world: &World| -> Vec<_> {
        let images = world.images().into_iter();
        images
            .filter(|image| image.name.ends_with("app:1"))
            .map(|image| image.target.digest)
            .collect()
    };
    assert_eq!(digests(&world), digests(&other));
    // The same archive again, to the byte.
    assert_eq!(archive, world.export(&store, &ExportOptions::default()).await.unwrap());
    world.assert_clean().await;
}

#[tokio::test]
async fn platforms_choose_manifests() {
    let world = imported().await;
    let store = ImageStoreOptions::named("docker.io/library/multi:1");
    let count = async |options: ExportOptions| {
        let archive = world.export(&store, &options).await?;
        let names = names(&archive);
        Ok::<_, base_errors::Error>(
            names
                .iter()
                .filter(|name| name.starts_with("blobs/sha256/") && name.len() > 13)
                .count(),
        )
    };
    // The index, and manifest, config and layers of the wanted platforms.
    assert_eq!(count(ExportOptions::default()).await.unwrap(), 6);
    let all = ExportOptions { all_platforms: true, ..ExportOptions::default() };
    assert_eq!(count(all).await.unwrap(), 9);
    let s390x = vec![Platform::parse("linux/s390x").unwrap()];
    let other = ExportOptions { platforms: s390x, ..ExportOptions::default() };
    assert_eq!(count(other).await.unwrap(), 4);
    let absent = vec![Platform::parse("linux/mips").unwrap()];
    let error =
        count(ExportOptions { platforms: absent, ..ExportOptions::default() }).await.unwrap_err();
    assert_eq!(error.to_string(), "no manifest found for platform: not found");
    let plain = ExportOptions { skip_compatibility_manifest: true, ..ExportOptions::default() };
    let archive = world.export(&store, &plain).await.unwrap();
    assert!(!names(&archive).contains(&"manifest.json".to_owned()));
}

#[tokio::test]
async fn missing_images_and_content_are_told() {
    let world = imported().await;
    let export =
        async |name: &str| world.export(&ImageStoreOptions::named(name), &Default::default()).await;
    let error = export("absent").await.unwrap_err();
    assert_eq!(error.to_string(), "image \"absent\": not found");
    let target = world.images()[0].target.digest.clone();
    let labels = world.store().info(&target).await.unwrap().labels;
    let layer = labels["containerd.io/gc.ref.content.l.0"].parse().unwrap();
    world.store().delete(&layer).await.unwrap();
    let error = export("docker.io/library/app:1").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    world.assert_clean().await;
}

#[tokio::test]
async fn an_export_nobody_reads_ends() {
    let world = imported().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let store = ImageStoreOptions::named("docker.io/library/app:1");
    let error = world
        .transferrer
        .export(&world.scope(), &store, &Default::default(), sender, &Default::default())
        .await
        .unwrap_err();
    assert_eq!(error.class(), base_errors::Class::Cancelled, "{error}");
    world.assert_clean().await;
}
