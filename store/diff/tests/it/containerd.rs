//! The same layers through containerd 1.6: the trees must be equal.
//!
//! `IRONHULL_PEERS` names the folder that has it as `bookworm/usr/bin/{containerd,ctr}`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use store_diff::media::Compression;
use store_diff::tar::{TarWriter, WriteEntry};
use store_diff::{Target, TreeOptions, apply_layer, write_diff};

use super::archive::Archive;
use super::namespace::in_mount_namespace;
use super::tree::{self, assert_same, read, rich};

const IMAGE: &str = "example.test/rich:1";

/// How long the daemon may take to answer first.
const START: Duration = Duration::from_secs(30);

struct Daemon {
    child: Child,
    bin: PathBuf,
    folder: PathBuf,
}

impl Daemon {
    fn start(bin: &Path, folder: &Path) -> Self {
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.opt\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = \"{0}/sock\"\n[ttrpc]\naddress = \"{0}/sock.ttrpc\"\n",
            folder.display()
        );
        std::fs::write(folder.join("config.toml"), config).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(bin.join("containerd"))
            .arg("--config")
            .arg(folder.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { child, bin: bin.to_owned(), folder: folder.to_owned() };
        let deadline = Instant::now() + START;
        while !daemon.ctr(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(self.bin.join("ctr"))
            .arg("--address")
            .arg(self.folder.join("sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) {
        let output = self.ctr(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(data: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in Sha256::digest(data) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// An OCI layout of one image with these layers.
fn layout(layers: &[Vec<u8>]) -> Vec<u8> {
    let mut archive = Archive::default();
    let mut blobs = Vec::new();
    let mut add = |media_type: &str, data: &[u8]| {
        let digest = hex(data);
        blobs.push((digest.clone(), data.to_vec()));
        format!(
            r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{}}}"#,
            data.len()
        )
    };
    let descriptors: Vec<_> =
        layers.iter().map(|layer| add("application/vnd.oci.image.layer.v1.tar", layer)).collect();
    let diff_ids: Vec<_> =
        layers.iter().map(|layer| format!(r#""sha256:{}""#, hex(layer))).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = add("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{}]}}"#,
        descriptors.join(",")
    );
    let manifest = add("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    let named = manifest
        .replace("}", &format!(r#","annotations":{{"io.containerd.image.name":"{IMAGE}"}}}}"#));
    archive = archive
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", &format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#));
    for (digest, data) in blobs {
        archive = archive.entry(b'0', &format!("blobs/sha256/{digest}"), "", &data);
    }
    archive.bytes()
}

#[test]
fn containerd_makes_the_same_tree_of_the_same_layers() {
    in_mount_namespace("containerd::containerd_makes_the_same_tree_of_the_same_layers", || {
        let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
            println!("skipped: IRONHULL_PEERS is not set");
            return;
        };
        let bin = Path::new(&peers).join("bookworm/usr/bin");
        if !bin.join("containerd").exists() {
            println!("skipped: no containerd in {}", bin.display());
            return;
        }
        let (source, temp) = (tree::temp(), tree::temp());
        rich(source.path());
        let base = write_diff(Vec::new(), None, source.path(), TreeOptions::default()).unwrap();
        let upper = Archive::default()
            .folder("bin/")
            .file("bin/.wh.su", "")
            .file("bin/app", "replaced")
            .with(|entry| entry.mode = 0o4711)
            .folder("tmp/")
            .with(|entry| entry.mode = 0o1777)
            .file("tmp/new", "new")
            .folder("var/")
            .file("var/.wh..wh..opq", "")
            .file("var/only", "only")
            .symlink("none", "bin")
            .file("null", "a file now")
            .with(|entry| (entry.uid, entry.gid) = (7, 8))
            .hard_link("bin/second", "bin/app")
            .with(|entry| entry.mode = 0o4711)
            .file("empty/implied/file", "implied")
            .bytes();
        // Fractions of seconds and times of access come by PAX alone; one raw layer has them.
        let mut writer = TarWriter::new(Vec::new());
        let records = b"30 mtime=1500000000.123456789\n";
        let pax = WriteEntry {
            name: b"pax".to_vec(),
            flag: b'x',
            size: records.len() as u64,
            ..WriteEntry::default()
        };
        writer.entry(&pax).unwrap();
        writer.data(records).unwrap();
        let entry =
            WriteEntry { name: b"fine".to_vec(), flag: b'0', mode: 0o600, ..WriteEntry::default() };
        writer.entry(&entry).unwrap();
        let fine = writer.finish().unwrap();
        let layers = [base, upper, fine];

        let ours = temp.path().join("ours");
        tree::folder(&ours, 0o755);
        for layer in &layers {
            apply_layer(
                &layer[..],
                Compression::Detect,
                &Target::folder(&ours),
                &AtomicBool::new(false),
            )
            .unwrap();
        }
        let daemon = Daemon::start(&bin, temp.path());
        let archive = temp.path().join("image.tar");
        std::fs::write(&archive, layout(&layers)).unwrap();
        for snapshotter in ["native", "overlayfs"] {
            let target = temp.path().join(snapshotter);
            tree::folder(&target, 0o755);
            let (archive, target_text) = (archive.to_str().unwrap(), target.to_str().unwrap());
            daemon.run(&["images", "import", "--snapshotter", snapshotter, archive]);
            daemon.run(&["images", "mount", "--snapshotter", snapshotter, IMAGE, target_text]);
            let mut theirs = read(&target);
            kernel_mount::unmount_all(&target, kernel_mount::UnmountFlags::empty()).unwrap();
            let mut expected = read(&ours);
            // It writes only capabilities; attributes of users come from the layer as well. The
            // times of folders that no layer sets are those of the run.
            for tree in [&mut theirs, &mut expected] {
                tree.get_mut(Path::new("empty")).unwrap().mtime = (0, 0);
                tree.get_mut(Path::new("empty/implied")).unwrap().mtime = (0, 0);
            }
            println!("{snapshotter}: {} names compared", expected.len());
            assert_same(&expected, &theirs);
        }
    });
}
