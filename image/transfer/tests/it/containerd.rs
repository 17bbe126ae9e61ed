//! Archives to and from containerd 1.6.
//!
//! `IRONHULL_PEERS` names the folder that has it as `bookworm/usr/bin/{containerd,ctr}`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use image_transfer::{ExportOptions, ImageStoreOptions};

use super::archive::{Layout, host, named, three_layers};
use super::unpack::in_mount_namespace;
use super::world::{World, any_name, temp};

/// How long the daemon may take to answer first.
const START: Duration = Duration::from_secs(30);

const NAME: &str = "docker.io/library/app:1";

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
        let child = Command::new(bin.join("containerd"))
            .arg("--config")
            .arg(folder.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
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

    fn ctr(&self, arguments: &[&str]) -> Output {
        Command::new(self.bin.join("ctr"))
            .arg("--address")
            .arg(self.folder.join("sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn archives_go_to_containerd_and_come_back() {
    let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
        println!("skipped: IRONHULL_PEERS is not set");
        return;
    };
    let bin = Path::new(&peers).join("bookworm/usr/bin");
    if !bin.join("containerd").exists() {
        println!("skipped: no containerd in {}", bin.display());
        return;
    }
    if !in_mount_namespace("containerd::archives_go_to_containerd_and_come_back") {
        return;
    }
    let world = World::new();
    let mut layout = Layout::default();
    let manifest = layout.image(&three_layers(), &host());
    let archive = layout.archive(&[named(&manifest, NAME)]);
    world.import(&archive, &any_name(None)).await.unwrap();
    let digest = world.images()[0].target.digest.clone();
    let store = ImageStoreOptions::named(NAME);
    let ours = world.export(&store, &ExportOptions::default()).await.unwrap();

    let folder = temp();
    let daemon = Daemon::start(&bin, folder.path());
    let path = folder.path().join("ours.tar");
    std::fs::write(&path, ours).unwrap();
    daemon.run(&["images", "import", "--snapshotter", "native", path.to_str().unwrap()]);
    let listed = daemon.run(&["images", "ls"]);
    assert!(
        listed.lines().any(|line| line.starts_with(NAME) && line.contains(digest.as_str())),
        "{listed}"
    );
    let path = folder.path().join("theirs.tar");
    daemon.run(&["images", "export", path.to_str().unwrap(), NAME]);
    let theirs = std::fs::read(&path).unwrap();
    let back = World::new();
    back.import(&theirs, &any_name(Some("native"))).await.unwrap();
    assert_eq!(back.images()[0].name, NAME);
    assert_eq!(back.images()[0].target.digest, digest);
    back.assert_clean().await;
}

/// A docker archive, in which neither manifest nor index has a digest of its own: both daemons make
/// the same ones.
#[tokio::test]
async fn docker_archives_get_the_manifest_that_containerd_makes() {
    let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
        println!("skipped: IRONHULL_PEERS is not set");
        return;
    };
    let bin = Path::new(&peers).join("bookworm/usr/bin");
    if !bin.join("containerd").exists() {
        println!("skipped: no containerd in {}", bin.display());
        return;
    }
    if !in_mount_namespace("containerd::docker_archives_get_the_manifest_that_containerd_makes") {
        return;
    }
    let archive = super::import::docker_archive(&three_layers(), r#"["app:1"]"#);
    let world = World::new();
    world.import(&archive, &any_name(None)).await.unwrap();
    let digest = world.images()[0].target.digest.clone();
    let folder = temp();
    let daemon = Daemon::start(&bin, folder.path());
    let path = folder.path().join("docker.tar");
    std::fs::write(&path, archive).unwrap();
    daemon.run(&["images", "import", "--snapshotter", "native", path.to_str().unwrap()]);
    let listed = daemon.run(&["images", "ls"]);
    assert!(
        listed.lines().any(|line| line.starts_with(NAME) && line.contains(digest.as_str())),
        "{digest}: {listed}"
    );
}
