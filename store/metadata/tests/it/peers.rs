//! containerd's own programs read what we write, and we read what they write.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base_ident::filter::Filter;
use base_ident::{Labels, Namespace};
use store_metadata::{Any, Container, Runtime, Scope};
use tempfile::TempDir;

use super::support::*;

/// How long a daemon may take to answer: it reads a few pages, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The folder of one peer's programs, or the reason why there is none.
fn programs(release: &str) -> Option<PathBuf> {
    let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
        eprintln!("skipped: IRONHULL_PEERS is not set");
        return None;
    };
    let programs = Path::new(&peers).join(release).join("usr/bin");
    if !programs.join("containerd").exists() {
        eprintln!("skipped: no containerd in {}", programs.display());
        return None;
    }
    Some(programs)
}

/// A root folder, and containerd's programs on it.
struct Peer {
    programs: PathBuf,
    folder: TempDir,
}

/// A daemon that is killed when the test is done with it.
struct Daemon<'a> {
    peer: &'a Peer,
    child: Child,
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    fn new(release: &str) -> Option<Self> {
        Some(Peer { programs: programs(release)?, folder: folder() })
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("root/io.containerd.metadata.v1.bolt/meta.db")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    fn start(&self) -> Daemon<'_> {
        let folder = self.folder.path().display();
        let config = format!(
            r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
# No collection comes in between.
[plugins."io.containerd.gc.v1.scheduler"]
  startup_delay = "1h"
  schedule_delay = "1h"
  deletion_threshold = 0
[grpc]
  address = "{folder}/c.sock"
"#
        );
        let file = self.folder.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new(self.programs.join("containerd"))
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Daemon { peer: self, child };
        let end = Instant::now() + START;
        while daemon.try_ctr(&["version"]).is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            assert!(Instant::now() < end, "containerd does not answer: {log:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }
}

impl Daemon<'_> {
    fn try_ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(self.peer.programs.join("ctr"))
            .arg("--address")
            .arg(self.peer.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap_or_else(|error| panic!("ctr {arguments:?}: {error}"))
    }
}

fn spec() -> Any {
    any(
        "types.containerd.io/opencontainers/runtime-spec/1/Spec",
        r#"{"ociVersion":"1.0.2","process":{"args":["/bin/true"],"cwd":"/"},"root":{"path":"rootfs"}}"#,
    )
}

/// Records that a database of ours gets, to be read by containerd.
fn write_ours(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let metadata = open(path);
    metadata
        .update_blocking(|tx| {
            let ours = Namespace::new("ours")?;
            tx.create_namespace(&ours, &labels(&[("owner", "us")]))?;
            let scope = Scope::new(ours);
            tx.create_lease(&scope, "our-lease", &labels(&[("k", "v")]))?;
            let root = labels(&[("containerd.io/gc.root", "1"), ("size", "eleven")]);
            blob(tx, &scope, 1, &root)?;
            let mut wanted = image("example.org/ours:1", 1);
            wanted.labels = labels(&[("from", "us")]);
            tx.create_image(&scope, wanted, None)?;
            let wanted = Container {
                id: "our-container".to_owned(),
                labels: labels(&[("a", "b")]),
                image: "example.org/ours:1".to_owned(),
                runtime: Runtime { name: "io.containerd.runc.v2".to_owned(), options: None },
                spec: Some(spec()),
                ..Container::default()
            };
            tx.create_container(&scope, wanted)?;
            // Many records, so that the tree has branches and buckets of their own pages.
            for number in 0..300 {
                let mut wanted = image(&format!("example.org/many:{number:03}"), 1);
                wanted.labels = labels(&[("number", &number.to_string())]);
                tx.create_image(&scope, wanted, None)?;
            }
            for number in (0..300).step_by(3) {
                tx.delete_image(&scope, &format!("example.org/many:{number:03}"), None)?;
            }
            Ok(())
        })
        .unwrap();
}

/// Filters mean the same to the peer and to us, faults included.
fn same_filters(daemon: &Daemon<'_>) {
    let names: Vec<String> = std::iter::once("example.org/ours:1".to_owned())
        .chain((0..300).filter(|n| n % 3 != 0).map(|n| format!("example.org/many:{n:03}")))
        .collect();
    let filters = [
        "name==example.org/ours:1",
        "name~=example.org/many:00[0-9]",
        "name~=/many:(001|002)$/",
        "name~=|many:1.$|,labels.number!=100",
        r#"labels."number"==1"#,
        "labels.number",
        "labels.number!=1",
        "labels.from~=^$",
        "labels.none~=^$,name~=ours",
        "target.mediatype~=manifest.v1.json$",
        "target.digest",
        "name~=(",
        r#"name=="example.org\x2fours:1""#,
        "name = x",
        "name==",
        "name,",
        ",name",
        "name==/x/",
        "name=='x'",
        r#"name=="x"#,
        r#"name=="\q""#,
        r#"name=="\x4""#,
        r#"name=="\400""#,
        "name~=/a\\.b/",
        "name foo",
        "na-me==x",
        "name.==x",
        "name===x",
        "name==x y",
        "name==x ",
        "name== x",
        " name==example.org/ours:1",
        "name==.x",
        "name==a==b",
        "name==a,b==c,",
        "name==\u{e9}",
        "name==\"\u{e9}\"",
    ];
    let mut differences = Vec::new();
    for text in filters {
        let theirs = daemon
            .try_ctr(&["-n", "ours", "images", "ls", "-q", text])
            .map(|names| names.lines().map(str::to_owned).collect::<Vec<_>>())
            .map_err(|error| error.trim().trim_start_matches("ctr: ").to_owned());
        let ours = Filter::parse_all(&[text])
            .map(|filter| {
                let matches = |name: &String| {
                    let mut found = image(name, 1);
                    let (key, value) = match name.split_once("many:") {
                        Some((_, number)) => ("number", number.trim_start_matches('0')),
                        None => ("from", "us"),
                    };
                    found.labels = labels(&[(key, value)]);
                    filter.matches(&found)
                };
                let mut found: Vec<String> = names.iter().filter(|n| matches(n)).cloned().collect();
                found.sort();
                found
            })
            .map_err(|error| base_errors::Error::from(error).to_string());
        let theirs = theirs.map_err(|error| {
            // Theirs ends with the class twice.
            let text = error.rsplit("failed to list images: ").next().unwrap_or_default();
            let class = ": invalid argument";
            text.replace(&format!("{class}{class}"), class)
        });
        if ours != theirs {
            differences.push(format!("{text}\n  ours   {ours:?}\n  theirs {theirs:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The daemon of a peer reads and changes a database of ours; then we read it again.
fn reads_ours(release: &str) {
    let Some(peer) = Peer::new(release) else { return };
    write_ours(&peer.database());
    {
        let daemon = peer.start();
        assert!(daemon.ctr(&["namespaces", "ls"]).contains("owner=us"));
        let images = daemon.ctr(&["-n", "ours", "images", "ls", "-q"]);
        assert_eq!(images.lines().count(), 201);
        assert!(images.contains("example.org/ours:1"));
        let containers = daemon.ctr(&["-n", "ours", "containers", "ls"]);
        assert!(containers.contains("our-container"), "{containers}");
        let info = daemon.ctr(&["-n", "ours", "containers", "info", "our-container"]);
        assert!(info.contains("\"/bin/true\"") && info.contains("io.containerd.runc.v2"), "{info}");
        assert!(daemon.ctr(&["-n", "ours", "leases", "ls"]).contains("our-lease"));
        let content = daemon.ctr(&["-n", "ours", "content", "ls"]);
        assert!(
            content.contains(digest(1).as_str()) && content.contains("size=eleven"),
            "{content}"
        );
        same_filters(&daemon);
        daemon.ctr(&["-n", "ours", "images", "rm", "example.org/many:001"]);
        daemon.ctr(&["-n", "ours", "images", "label", "example.org/ours:1", "to=them"]);
        daemon.ctr(&["-n", "ours", "containers", "label", "our-container", "a=", "c=d"]);
        daemon.ctr(&["namespaces", "create", "theirs", "k=v"]);
    }
    let metadata = open(&peer.database());
    metadata
        .view(|tx| {
            let ours = Namespace::new("ours")?;
            assert_eq!(tx.images(&ours, &filter(&[]))?.len(), 200);
            let image = tx.image(&ours, "example.org/ours:1")?;
            assert_eq!(image.labels, labels(&[("from", "us"), ("to", "them")]));
            let container = tx.container(&ours, "our-container")?;
            assert_eq!(container.labels, labels(&[("c", "d")]));
            assert_eq!(container.spec, Some(spec()));
            assert_eq!(tx.namespace(&Namespace::new("theirs")?)?.labels, labels(&[("k", "v")]));
            Ok(())
        })
        .unwrap();
    drop(metadata);
    let report = store_bolt::check(peer.database()).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
}

/// We read a database that a peer wrote.
fn writes_theirs(release: &str) {
    let Some(peer) = Peer::new(release) else { return };
    {
        let daemon = peer.start();
        daemon.ctr(&["namespaces", "create", "theirs", "owner=them"]);
        daemon.ctr(&["-n", "theirs", "leases", "create", "--id", "their-lease", "k=v"]);
        let config = peer.folder.path().join("spec.json");
        let text = r#"{"ociVersion":"1.0.2","process":{"args":["/bin/true"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{}}"#;
        std::fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        daemon.ctr(&[
            "-n",
            "theirs",
            "containers",
            "create",
            "--config",
            &config,
            "their-container",
        ]);
        daemon.ctr(&["-n", "theirs", "containers", "label", "their-container", "a=b"]);
        let archive = peer.folder.path().join("layer");
        std::fs::write(&archive, "hello world").unwrap();
        let ingest = Command::new(peer.programs.join("ctr"))
            .arg("--address")
            .arg(peer.socket())
            .args(["-n", "theirs", "content", "ingest", "their-ref"])
            .stdin(std::fs::File::open(&archive).unwrap())
            .status()
            .unwrap();
        assert!(ingest.success());
        daemon.ctr(&["-n", "theirs", "snapshots", "--snapshotter", "native", "prepare", "prep"]);
        daemon.ctr(&[
            "-n",
            "theirs",
            "snapshots",
            "--snapshotter",
            "native",
            "commit",
            "layer",
            "prep",
        ]);
        daemon.ctr(&[
            "-n",
            "theirs",
            "snapshots",
            "--snapshotter",
            "native",
            "prepare",
            "top",
            "layer",
        ]);
    }
    let metadata = open(&peer.database());
    let theirs = Namespace::new("theirs").unwrap();
    metadata
        .view(|tx| {
            assert_eq!(tx.namespace(&theirs)?.labels, labels(&[("owner", "them")]));
            let leases = tx.leases(&theirs, &filter(&["id==their-lease"]))?;
            assert_eq!(leases.len(), 1);
            assert_eq!(leases[0].labels.get("k").map(String::as_str), Some("v"));
            let container = tx.container(&theirs, "their-container")?;
            assert_eq!(container.labels.get("a").map(String::as_str), Some("b"));
            assert!(container.runtime.name.starts_with("io.containerd.runc."), "{container:?}");
            assert!(container.created_at > std::time::UNIX_EPOCH);
            let spec = container.spec.unwrap_or_default();
            assert!(String::from_utf8_lossy(&spec.value).contains("/bin/true"));
            let blobs = tx.blobs(&theirs, &filter(&[]))?;
            assert_eq!(blobs.len(), 1);
            assert_eq!(blobs[0].size, 11);
            let top = tx.snapshot(&theirs, "native", "top")?;
            assert_eq!((top.parent.as_str(), top.backend.as_str()), ("layer", "theirs/3/top"));
            let layer = tx.snapshot(&theirs, "native", "layer")?;
            assert_eq!(layer.backend, "theirs/2/layer");
            Ok(())
        })
        .unwrap();
    let names = metadata.all_backend_snapshot_names("native").unwrap();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["theirs/2/layer", "theirs/3/top"]);
    // The sequence goes on where theirs ended.
    let scope = Scope::new(theirs);
    let reserved = metadata
        .update_blocking(move |tx| {
            Ok(tx.reserve_snapshot(&scope, "native", "next", "layer", None, &Labels::new())?)
        })
        .unwrap();
    let wanted = store_metadata::Reserved::New {
        backend: "theirs/4/next".to_owned(),
        parent: "theirs/2/layer".to_owned(),
    };
    assert_eq!(reserved, wanted);
}

/// Sandboxes as 1.7 writes them, to which we add one: containerd 2.1 takes them all over, and we read
/// them where it has put them.
#[test]
fn sandboxes_beside_v1_are_moved_by_containerd_2_1() {
    let Some(peer) = Peer::new("forky") else { return };
    let created = b"\x01\0\0\0\x0e\xe2\x93\xf9\xd8\x0b\x24\x57\xe3\xff\xff";
    let values: [(&[&str], &[u8]); 9] = [
        (&["v1", "version"], b"\x06"),
        (&["v1", "k8s.io", "labels", "a"], b"b"),
        (&["k8s.io", "sandboxes", "one", "createdat"], created),
        (&["k8s.io", "sandboxes", "one", "updatedat"], created),
        (&["k8s.io", "sandboxes", "one", "runtime", "name"], b"io.containerd.runc.v2"),
        (&["k8s.io", "sandboxes", "one", "labels", "k"], b"v"),
        (&["k8s.io", "sandboxes", "one", "extensions", "metadata"], b"\x0a\x01t\x12\x02{}"),
        (&["other", "sandboxes", "two", "createdat"], created),
        (&["other", "sandboxes", "two", "updatedat"], created),
    ];
    let database = peer.database();
    std::fs::create_dir_all(database.parent().unwrap()).unwrap();
    super::golden::seed(&database, &values);
    let namespace = Namespace::new("k8s.io").unwrap();
    let scope = Scope::new(namespace.clone());
    let list = |metadata: &store_metadata::Metadata| {
        metadata.view(|tx| Ok(tx.sandboxes(&namespace, &filter(&[]))?)).unwrap()
    };
    let metadata = open(&database);
    let more = store_metadata::Sandbox {
        id: "more".to_owned(),
        runtime: Runtime { name: "r".to_owned(), options: None },
        ..list(&metadata)[0].clone()
    };
    metadata.update_blocking(move |tx| Ok(tx.create_sandbox(&scope, more)?)).unwrap();
    let before = list(&metadata);
    assert_eq!(before.len(), 2);
    drop(metadata);
    drop(peer.start());
    let theirs = super::golden::contents(&database);
    assert_eq!(theirs["v1/version"], b"\x08");
    assert!(theirs.keys().all(|key| key.starts_with("v1/")), "{theirs:?}");
    assert_eq!(list(&open(&database)), before);
}

#[test]
fn containerd_1_6_reads_ours() {
    reads_ours("bookworm");
}

#[test]
fn containerd_1_7_reads_ours() {
    reads_ours("trixie");
}

#[test]
fn containerd_2_1_reads_ours() {
    reads_ours("forky");
}

#[test]
fn we_read_what_containerd_1_6_wrote() {
    writes_theirs("bookworm");
}

#[test]
fn we_read_what_containerd_2_1_wrote() {
    writes_theirs("forky");
}
