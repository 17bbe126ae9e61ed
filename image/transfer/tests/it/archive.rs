//! Image archives, made by hand.

use std::io::Write as _;

use store_diff::tar::{TarWriter, WriteEntry};

use super::world::digest;

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A tar of entries: flag, name, link or data.
pub(crate) fn tar(entries: &[(u8, &str, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (flag, name, data) in entries {
        let is_file = *flag == b'0';
        let entry = WriteEntry {
            name: name.as_bytes().to_vec(),
            link: if is_file { Vec::new() } else { data.to_vec() },
            flag: *flag,
            mode: if *flag == b'5' { 0o755 } else { 0o644 },
            size: if is_file { data.len() as u64 } else { 0 },
            mtime: 1_600_000_000,
            ..WriteEntry::default()
        };
        writer.entry(&entry).unwrap();
        if is_file {
            writer.data(data).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// A layer of files.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<_> = files
        .iter()
        .map(|(name, data)| {
            let flag = if name.ends_with('/') { b'5' } else { b'0' };
            (flag, *name, data.as_bytes())
        })
        .collect();
    tar(&entries)
}

pub(crate) fn config(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", digest(layer))).collect();
    format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .into_bytes()
}

/// The architecture of this machine, as images spell it.
pub(crate) fn host() -> String {
    image_transfer::Platform::host().architecture
}

/// An OCI layout under construction.
#[derive(Default)]
pub(crate) struct Layout {
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Layout {
    /// Adds a blob; gives its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, data: &[u8]) -> String {
        let digest = digest(data);
        self.files.push((format!("blobs/sha256/{}", digest.hex()), data.to_vec()));
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, data.len())
    }

    /// Adds an image with gzip layers; gives the manifest's descriptor.
    pub(crate) fn image(&mut self, layers: &[Vec<u8>], architecture: &str) -> String {
        let config = config(layers, architecture);
        let config = self.blob("application/vnd.oci.image.config.v1+json", &config);
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(layer)))
            .collect();
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes())
    }

    /// Adds an index of descriptors; gives its own.
    pub(crate) fn index(&mut self, manifests: &[String]) -> String {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","));
        self.blob("application/vnd.oci.image.index.v1+json", index.as_bytes())
    }

    /// The archive with these manifests in its index.
    pub(crate) fn archive(&self, manifests: &[String]) -> Vec<u8> {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, manifests.join(","));
        let mut entries: Vec<(u8, &str, &[u8])> =
            vec![(b'5', "blobs/", b""), (b'5', "blobs/sha256/", b"")];
        for (name, data) in &self.files {
            entries.push((b'0', name, data));
        }
        entries.push((b'0', "index.json", index.as_bytes()));
        entries.push((b'0', "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
        tar(&entries)
    }
}

/// A descriptor with the annotations of a name.
pub(crate) fn named(descriptor: &str, name: &str) -> String {
    with(descriptor, &format!(r#""annotations":{{"io.containerd.image.name":"{name}"}}"#))
}

/// A descriptor with a platform.
pub(crate) fn on(descriptor: &str, architecture: &str) -> String {
    with(descriptor, &format!(r#""platform":{{"architecture":"{architecture}","os":"linux"}}"#))
}

fn with(descriptor: &str, field: &str) -> String {
    format!("{},{field}}}", descriptor.strip_suffix('}').unwrap())
}

/// Three layers; the second deletes and links, the third builds on folders of the first.
pub(crate) fn three_layers() -> Vec<Vec<u8>> {
    vec![
        layer(&[("etc/", ""), ("etc/one", "1"), ("etc/gone", "x"), ("opt/", ""), ("opt/a", "a")]),
        tar(&[
            (b'5', "etc/", b""),
            (b'0', "etc/.wh.gone", b""),
            (b'0', "etc/two", b"2"),
            (b'1', "etc/two-again", b"etc/two"),
            (b'5', "opt/", b""),
            (b'0', "opt/.wh..wh..opq", b""),
            (b'0', "opt/b", b"b"),
        ]),
        // No entry for `etc/`: this layer needs its parent.
        layer(&[("etc/three", "3")]),
    ]
}

/// What they are together.
pub(crate) const THREE_LAYERS: [(&str, &str); 5] = [
    ("etc/one", "1"),
    ("etc/three", "3"),
    ("etc/two", "2"),
    ("etc/two-again", "2"),
    ("opt/b", "b"),
];
