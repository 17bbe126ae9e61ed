//! Archives of images, byte for byte the same each time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The time that all entries have: 2021-01-01.
const TIME: u64 = 1_609_459_200;

/// `sha256:...` of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What an entry is.
#[derive(Clone, Debug)]
enum Kind {
    Folder,
    File(Vec<u8>),
    Link(String),
    HardLink(String),
}

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    path: String,
    mode: u32,
    owner: (u64, u64),
    kind: Kind,
}

impl Entry {
    fn new(path: &str, mode: u32, kind: Kind) -> Entry {
        Entry { path: path.to_owned(), mode, owner: (0, 0), kind }
    }

    /// A folder.
    #[must_use]
    pub fn folder(path: &str, mode: u32) -> Entry {
        Entry::new(path, mode, Kind::Folder)
    }

    /// A file.
    #[must_use]
    pub fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Entry {
        Entry::new(path, mode, Kind::File(bytes.into()))
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(path: &str, target: &str) -> Entry {
        Entry::new(path, 0o777, Kind::Link(target.to_owned()))
    }

    /// Another name of a file.
    #[must_use]
    pub fn hard_link(path: &str, target: &str) -> Entry {
        Entry::new(path, 0o644, Kind::HardLink(target.to_owned()))
    }

    /// The same with another owner and group.
    #[must_use]
    pub fn owned(mut self, user: u64, group: u64) -> Entry {
        self.owner = (user, group);
        self
    }

    /// Writes it; names are written as they are, also those that climb out of the layer.
    fn write(&self, archive: &mut tar::Builder<impl Write>) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        let name = self.path.as_bytes();
        let field = &mut header.as_old_mut().name;
        field.get_mut(..name.len()).context("a name of more than 100 bytes")?.copy_from_slice(name);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(TIME);
        header.set_size(0);
        let mut bytes: &[u8] = &[];
        let (kind, target) = match &self.kind {
            Kind::Folder => (tar::EntryType::Directory, None),
            Kind::File(content) => {
                bytes = content;
                header.set_size(content.len() as u64);
                (tar::EntryType::Regular, None)
            }
            Kind::Link(target) => (tar::EntryType::Symlink, Some(target)),
            Kind::HardLink(target) => (tar::EntryType::Link, Some(target)),
        };
        header.set_entry_type(kind);
        if let Some(target) = target {
            header.set_link_name_literal(target)?;
        }
        header.set_cksum();
        Ok(archive.append(&header, bytes)?)
    }
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its entries, in their order.
    pub entries: Vec<Entry>,
    /// How it is packed.
    pub packing: Packing,
}

impl Layer {
    /// A layer packed by gzip.
    #[must_use]
    pub fn gzip(entries: Vec<Entry>) -> Layer {
        Layer { entries, packing: Packing::Gzip }
    }

    /// The archive, unpacked.
    ///
    /// # Errors
    ///
    /// A name is too long.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            entry.write(&mut archive)?;
        }
        Ok(archive.into_inner()?)
    }

    fn pack(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(match self.packing {
            Packing::Plain => bytes.to_vec(),
            Packing::Zstd => zstd::encode_all(bytes, 3)?,
            Packing::Gzip => {
                let level = flate2::Compression::default();
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
                writer.write_all(bytes)?;
                writer.finish()?
            }
        })
    }

    fn media_type(&self) -> &'static str {
        match self.packing {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The layout of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An OCI layout.
    Oci,
    /// What `docker save` writes (layers unpacked).
    Docker,
}

/// Damages the files of an archive, by their names.
pub type Spoil = fn(&mut BTreeMap<String, Vec<u8>>);

/// An image that is made.
#[derive(Clone, Debug)]
pub struct Builder {
    /// Its name, such as `docker.io/library/small:1`.
    pub name: String,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// The `config` of its configuration.
    pub config: Value,
    /// Bytes written in place of each layer's blob under the digest of the right ones, and the
    /// like: changes blobs (`blobs/sha256/...` in an OCI layout) just before they are written.
    pub spoil: Option<Spoil>,
}

impl Builder {
    /// An image of `layers` that runs a shell.
    #[must_use]
    pub fn new(name: &str, layers: Vec<Layer>) -> Builder {
        let config = json!({
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/",
            "Labels": {"maker": "e2e"},
        });
        Builder { name: name.to_owned(), layers, config, spoil: None }
    }

    /// Writes the archive to `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path, format: Format) -> Result<()> {
        let mut files = match format {
            Format::Oci => self.oci()?,
            Format::Docker => self.docker()?,
        };
        if let Some(spoil) = self.spoil {
            spoil(&mut files);
        }
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        for (name, bytes) in &files {
            Entry::file(name, 0o644, bytes.clone()).write(&mut archive)?;
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }

    /// The configuration.
    fn configuration(&self, diff_ids: &[String]) -> Vec<u8> {
        let history: Vec<Value> =
            diff_ids.iter().map(|_| json!({"created": "2021-01-01T00:00:00Z"})).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "created": "2021-01-01T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        config.to_string().into_bytes()
    }

    fn oci(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let mut blob = |media_type: &str, bytes: Vec<u8>| {
            let digest = digest(&bytes);
            let descriptor =
                json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
            files.insert(format!("blobs/{}", digest.replace(':', "/")), bytes);
            descriptor
        };
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for layer in &self.layers {
            let plain = layer.tar()?;
            diff_ids.push(digest(&plain));
            layers.push(blob(layer.media_type(), layer.pack(&plain)?));
        }
        let config =
            blob("application/vnd.oci.image.config.v1+json", self.configuration(&diff_ids));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest =
            blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        manifest["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        files.insert("index.json".to_owned(), index.to_string().into_bytes());
        files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        Ok(files)
    }

    fn docker(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let mut diff_ids = Vec::new();
        let mut names = Vec::new();
        for layer in &self.layers {
            let plain = layer.tar()?;
            let digest = digest(&plain);
            let name = format!("{}/layer.tar", &digest[7..39]);
            files.insert(name.clone(), plain);
            diff_ids.push(digest);
            names.push(name);
        }
        let config = self.configuration(&diff_ids);
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": names}]);
        files.insert(config_name, config);
        files.insert("manifest.json".to_owned(), manifest.to_string().into_bytes());
        Ok(files)
    }
}
