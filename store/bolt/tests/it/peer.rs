//! containerd itself: it reads what this engine writes, and the other way round.
//!
//! `IRONHULL_PEERS` names a folder with `bookworm/usr/bin/containerd` and `ctr`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use store_bolt::{Db, Error, Options};

use super::support::{Item, Tree, folder, read, verified};

/// How long the daemon may take to answer.
const START: Duration = Duration::from_secs(60);

struct Peer {
    binaries: PathBuf,
    folder: tempfile::TempDir,
}

struct Daemon<'p> {
    peer: &'p Peer,
    child: Child,
}

impl Peer {
    fn find() -> Option<Peer> {
        let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
            eprintln!("skipped: IRONHULL_PEERS is not set");
            return None;
        };
        let binaries = Path::new(&peers).join("bookworm/usr/bin");
        if !binaries.join("containerd").exists() {
            eprintln!("skipped: there is no {}/containerd", binaries.display());
            return None;
        }
        let folder = folder();
        let root = folder.path();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\n  address = \"{0}/c.sock\"\n[ttrpc]\n  address = \"{0}/c.sock.ttrpc\"\n",
            root.display()
        );
        std::fs::write(root.join("config.toml"), config).unwrap();
        Some(Peer { binaries, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn meta_db(&self) -> PathBuf {
        self.path("root/io.containerd.metadata.v1.bolt/meta.db")
    }

    fn start(&self) -> Daemon<'_> {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = Command::new(self.binaries.join("containerd"))
            .arg("--config")
            .arg(self.path("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Daemon { peer: self, child };
        let start = Instant::now();
        loop {
            if daemon.try_ctr(&["version"]).is_ok() {
                return daemon;
            }
            let ended = daemon.child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > START {
                let log = std::fs::read_to_string(self.path("log")).unwrap();
                panic!("containerd does not answer ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Daemon<'_> {
    fn try_ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(self.peer.binaries.join("ctr"))
            .arg("--address")
            .arg(self.peer.path("c.sock"))
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

    /// Ends it in order, so that it closes its databases.
    fn stop(mut self) {
        if let Some(pid) =
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn value<'t>(tree: &'t Tree, path: &[&str]) -> Option<&'t [u8]> {
    let (last, buckets) = path.split_last()?;
    let mut tree = tree;
    for name in buckets {
        let Some(Item::Bucket(next)) = tree.items.get(name.as_bytes()) else { return None };
        tree = next;
    }
    match tree.items.get(last.as_bytes())? {
        Item::Value(value) => Some(value),
        Item::Bucket(_) => None,
    }
}

#[test]
fn containerd_and_this_engine_take_turns_on_one_file() {
    let Some(peer) = Peer::find() else { return };
    // containerd writes.
    let daemon = peer.start();
    for n in 0..120 {
        let (name, label) = (format!("space-{n}"), format!("number={n}"));
        daemon.ctr(&["namespaces", "create", &name, &label]);
    }
    for n in (0..120).step_by(3) {
        daemon.ctr(&["namespaces", "remove", &format!("space-{n}")]);
    }
    for n in 0..20 {
        let id = format!("lease-{n}");
        daemon.ctr(&["-n", "space-1", "leases", "create", "--id", &id, "a=b"]);
    }
    daemon.stop();

    // This engine reads and writes.
    let path = peer.meta_db();
    let report = store_bolt::check(&path).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
    let db = Db::open(&path, Options { store_freelist: false, ..Options::default() }).unwrap();
    let tree = verified(&db);
    assert_eq!(value(&tree, &["v1", "space-1", "labels", "number"]), Some(&b"1"[..]));
    assert_eq!(value(&tree, &["v1", "space-3", "labels", "number"]), None);
    for n in 0..120u32 {
        db.update(move |tx| {
            let mut v1 = tx.create_bucket_if_missing(&[b"v1"])?;
            let name = format!("space-{n}");
            if n % 3 == 1 && n > 1 {
                v1.delete_bucket(name.as_bytes())?;
            } else {
                let mut space = v1.create_bucket_if_missing(name.as_bytes())?;
                let mut labels = space.create_bucket_if_missing(b"labels")?;
                labels.put(b"number", format!("{}", n + 1000).as_bytes())?;
                labels.put(b"padding", "x".repeat(usize::try_from(n).unwrap() * 20).as_bytes())?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    let ours = verified(&db);
    drop(db);
    assert!(store_bolt::check(&path).unwrap().free.is_none());

    // containerd reads that, and writes again.
    let daemon = peer.start();
    let listed = daemon.ctr(&["namespaces", "list"]);
    for n in 0..120 {
        let line = format!("space-{n} ");
        let expected = n % 3 != 1 || n == 1;
        assert_eq!(listed.lines().any(|text| text.starts_with(&line)), expected, "space-{n}");
        assert_eq!(listed.contains(&format!("number={}", n + 1000)), expected, "space-{n}");
    }
    assert_eq!(daemon.ctr(&["-n", "space-1", "leases", "list", "-q"]).lines().count(), 20);
    for n in 0..40 {
        daemon.ctr(&["namespaces", "create", &format!("again-{n}")]);
    }
    daemon.stop();
    let report = store_bolt::check(&path).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);

    // And once more from here, with the free list stored.
    let db = Db::open(&path, Options::default()).unwrap();
    let tree = verified(&db);
    for name in ["space-0", "space-2", "again-0", "again-39"] {
        let Some(Item::Bucket(v1)) = tree.items.get(&b"v1"[..]) else { panic!("no v1") };
        assert!(v1.items.contains_key(name.as_bytes()), "{name}");
    }
    assert_eq!(
        value(&tree, &["v1", "space-119", "labels", "padding"]),
        value(&ours, &["v1", "space-119", "labels", "padding"])
    );
    db.update(|tx| {
        (0..40).try_for_each(|n| {
            tx.create_bucket_if_missing(&[b"v1"])?.delete_bucket(format!("again-{n}").as_bytes())
        })
    })
    .unwrap();
    drop(db);
    assert!(store_bolt::check(&path).unwrap().free.is_some());
    let daemon = peer.start();
    assert!(!daemon.ctr(&["namespaces", "list", "-q"]).contains("again-"));
    daemon.ctr(&["namespaces", "create", "last"]);
    daemon.stop();
    let db = Db::open(&path, Options::default()).unwrap();
    verified(&db);
}

#[test]
fn all_databases_of_a_daemon_are_read_in_full() {
    let Some(peer) = Peer::find() else { return };
    let daemon = peer.start();
    // Two snapshots in each snapshotter that works here.
    let mut made = 0;
    for snapshotter in ["native", "overlayfs"] {
        let prepare = ["snapshots", "--snapshotter", snapshotter, "prepare", "one"];
        let commit = ["snapshots", "--snapshotter", snapshotter, "commit", "base", "one"];
        let view = ["snapshots", "--snapshotter", snapshotter, "view", "two", "base"];
        if daemon.try_ctr(&prepare).is_ok() {
            daemon.ctr(&commit);
            daemon.ctr(&view);
            made += 1;
        }
    }
    daemon.stop();
    assert!(made > 0, "no snapshotter works here");
    let mut read_in_full = 0;
    for folder in std::fs::read_dir(peer.path("root")).unwrap() {
        for name in ["meta.db", "metadata.db"] {
            let path = folder.as_ref().unwrap().path().join(name);
            if !path.exists() {
                continue;
            }
            let report = store_bolt::check(&path).unwrap();
            assert!(report.is_clean(), "{}: {:?}", path.display(), report.problems);
            let db = Db::open(&path, Options { read_only: true, ..Options::default() }).unwrap();
            let tree = read(db.view().unwrap().root()).unwrap();
            if name == "metadata.db" && tree.items.contains_key(&b"v1"[..]) {
                let base = value(&tree, &["v1", "snapshots", "default/2/base", "kind"]);
                assert_eq!(base, Some(&[3u8][..]), "{}", path.display());
            }
            read_in_full += 1;
        }
    }
    assert!(read_in_full > made);
}
