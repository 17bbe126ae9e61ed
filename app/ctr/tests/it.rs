//! Our ctr beside containerd's own, on containerd's daemons: the same words give the same output.
//!
//! Needs root, runc, busybox, and the programs of the peers in `IRONHULL_PEERS`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const OURS: &str = env!("CARGO_BIN_EXE_ctr");

/// How long a daemon may take to answer, and a command to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The image that all tests use.
const IMAGE: &str = "docker.io/library/it:1";

/// A daemon of containerd's own on private folders, in a mount namespace with a `/run` of its own.
struct Peer {
    folder: tempfile::TempDir,
    bin: PathBuf,
    daemon: Child,
    namespace: String,
}

/// What a command did.
#[derive(Debug, PartialEq)]
struct Done {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Done {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The peer of this suite, or `None` with the reason printed.
fn peer(suite: &str) -> Option<Peer> {
    let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
        eprintln!("skipped: IRONHULL_PEERS does not name the folder of containerd's programs");
        return None;
    };
    let bin = PathBuf::from(peers).join(suite).join("usr/bin");
    if !bin.join("containerd").exists() {
        eprintln!("skipped: {} has no containerd", bin.display());
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a daemon needs root");
        return None;
    }
    Some(Peer::start(suite, bin))
}

impl Peer {
    fn start(suite: &str, bin: PathBuf) -> Peer {
        let folder = tempfile::Builder::new().prefix("ctr-it-").tempdir_in("/dev/shm").unwrap();
        let path = folder.path().display();
        fs::write(
            folder.path().join("config.toml"),
            format!(
                "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\n  address = \"{path}/s\"\n\
                 [plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"{path}/opt\"\n"
            ),
        )
        .unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let paths = std::env::var("PATH").unwrap_or_default();
        // Named pipes of clients live below /run, which both sides must see: only the state of
        // shims is kept apart.
        let daemon = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(bin.join("containerd"))
            .arg("--config")
            .arg(folder.path().join("config.toml"))
            .env("PATH", format!("{}:{paths}", bin.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let namespace = format!("it-{suite}-{}", std::process::id());
        let peer = Peer { folder, bin, daemon, namespace };
        let begun = Instant::now();
        while peer.theirs(&["version"]).status != Some(0) {
            assert!(begun.elapsed() < PATIENCE, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        let archive = image(peer.folder.path());
        // Without the transfer service of newer daemons, so that both are set up alike.
        let imported = peer.theirs(&["images", "import", &archive.display().to_string()]);
        assert_eq!(imported.status, Some(0), "{imported:?}");
        peer
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &[u8]) -> Done {
        use std::io::Write as _;
        let mut command = Command::new("timeout");
        command.args(["--signal", "KILL", &PATIENCE.as_secs().to_string()]).arg(program);
        command.arg("--address").arg(self.folder.path().join("s"));
        command.args(["--namespace", &self.namespace]).args(arguments);
        command.env("TMPDIR", self.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap().into()
    }

    fn ours(&self, arguments: &[&str]) -> Done {
        self.run(Path::new(OURS), arguments, b"")
    }

    fn theirs(&self, arguments: &[&str]) -> Done {
        self.run(&self.bin.join("ctr"), arguments, b"")
    }

    /// Our output is theirs.
    fn same(&self, arguments: &[&str]) -> Done {
        let (theirs, ours) = (self.theirs(arguments), self.ours(arguments));
        let (ours_text, theirs_text) = (normal(&ours), normal(&theirs));
        let differ = |ours: &str, theirs: &str| {
            let lines = ours.lines().chain([""]).zip(theirs.lines().chain([""]));
            let first = lines.into_iter().find(|(ours, theirs)| ours != theirs);
            assert_eq!(first, None, "ctr {}: (ours, theirs)", arguments.join(" "));
            assert_eq!(ours.lines().count(), theirs.lines().count(), "{arguments:?}");
        };
        differ(&ours_text.stdout, &theirs_text.stdout);
        differ(&ours_text.stderr, &theirs_text.stderr);
        assert_eq!(ours.status, theirs.status, "{arguments:?}");
        ours
    }

    /// Runs ours; it must succeed.
    fn good(&self, arguments: &[&str]) -> String {
        let done = self.ours(arguments);
        assert_eq!(done.status, Some(0), "ctr {}: {done:?}", arguments.join(" "));
        done.stdout
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for id in self.ours(&["tasks", "ls", "-q"]).stdout.lines() {
            self.ours(&["tasks", "rm", "--force", id]);
        }
        for id in self.ours(&["containers", "ls", "-q"]).stdout.lines() {
            self.ours(&["containers", "rm", id]);
        }
        if let Some(pid) =
            i32::try_from(self.daemon.id()).ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.namespace));
        }
        let _ = fs::remove_dir(Path::new("/run/containerd/runc").join(&self.namespace));
    }
}

/// Times and what lies between two calls must not count.
fn normal(done: &Done) -> Done {
    let text = |text: &str| {
        text.lines()
            .map(|line| match (line.find("time=\""), line.find("\" level=")) {
                (Some(start), Some(end)) => format!("{}{}", &line[..start], &line[end..]),
                _ => line.replace("About a minute", "AGE").replace("Less than a second", "AGE"),
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    Done { status: done.status, stdout: text(&done.stdout), stderr: text(&done.stderr) }
}

/// A docker archive of busybox.
fn image(folder: &Path) -> PathBuf {
    let tree = folder.join("tree");
    for path in ["bin", "etc", "proc", "tmp"] {
        fs::create_dir_all(tree.join(path)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("needs Debian's busybox-static");
    for applet in ["sh", "echo", "cat", "sleep", "id", "true", "pwd"] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
        .unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:root\nwheel:x:10:root,user\nuser:x:1000:\n")
        .unwrap();
    let output = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let layer = folder.join("layer.tar");
    output(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&layer).arg("."));
    let digest = output(Command::new("sha256sum").arg(&layer));
    let digest = digest.split_whitespace().next().unwrap();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    fs::write(
        folder.join("config.json"),
        format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{{\"Env\":\
             [\"PATH=/bin\"],\"Cmd\":[\"/bin/sh\"],\"Labels\":{{\"maker\":\"it\"}}}},\"rootfs\":\
             {{\"type\":\"layers\",\"diff_ids\":[\"sha256:{digest}\"]}}}}"
        ),
    )
    .unwrap();
    fs::write(
        folder.join("manifest.json"),
        format!(
            "[{{\"Config\":\"config.json\",\"RepoTags\":[\"{IMAGE}\"],\"Layers\":[\"layer.tar\"]}}]"
        ),
    )
    .unwrap();
    let archive = folder.join("image.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-cf").arg(&archive);
    output(tar.args(["manifest.json", "config.json", "layer.tar"]));
    archive
}

/// Words whose output must be the same, byte for byte, whatever the state.
const LISTS: &[&str] = &[
    "images ls",
    "images ls -q",
    "images check",
    "images check -q",
    "images check name==nope",
    "containers ls",
    "containers ls -q",
    "c info --spec beside",
    "tasks ls",
    "t ls -q",
    "t ps beside",
    "snapshots ls",
    "snapshots usage",
    "snapshots usage -b",
    "snapshots tree",
    "snapshots info beside",
    "snapshots mounts /x beside",
    "snapshots --snapshotter native ls",
    "content ls -q",
    "content active",
    "namespaces ls",
    "namespaces ls -q",
    "leases ls",
    "plugins ls",
    "plugins ls -q",
    "plugins ls id==content",
];

/// Words that fail, with the same text and status.
const FAILURES: &[&str] = &[
    "t kill nope",
    "t ps nope",
    "t pause nope",
    "t resume nope",
    "t attach nope",
    "t start nope",
    "t metrics nope",
    "t exec --exec-id x nope ls",
    "t rm nope",
    "t rm beside",
    "t kill",
    "c info nope",
    "c rm nope",
    "c rm",
    "c rm beside",
    "c label nope a=b",
    "c create",
    "c create x",
    "run",
    "run x",
    "run nope id",
    "i tag nope x",
    "i rm nope",
    "snapshots prepare a nope",
    "snapshots mounts /x nope",
    "snapshots info nope",
    "snapshots rm nope",
    "content get",
    "content get sha256:nope",
    "content label",
    "leases rm nope",
    "ns create",
    "nope",
    "c nope",
];

fn compare(peer: &Peer) {
    peer.good(&[
        "run",
        "-d",
        "--label",
        "a=b",
        "--annotation",
        "x=y",
        "--env",
        "K=V",
        "--user",
        "user",
        "--cap-add",
        "CAP_SYS_ADMIN",
        "--cap-drop",
        "CAP_KILL",
        "--memory-limit",
        "50000000",
        "--cpus",
        "0.5",
        "--read-only",
        "--hostname",
        "box",
        "--cwd",
        "/tmp",
        "--mount",
        "type=bind,src=/tmp,dst=/host,options=rbind:ro",
        IMAGE,
        "beside",
        "/bin/sleep",
        "1000",
    ]);
    for words in LISTS {
        let done = peer.same(&words.split(' ').collect::<Vec<_>>());
        assert_eq!(done.status, Some(0), "{words}: {done:?}");
    }
    if peer.namespace.contains("forky") {
        // In 1.6 the record had fewer fields.
        peer.same(&["c", "info", "beside"]);
    }
    for words in FAILURES {
        peer.same(&words.split(' ').collect::<Vec<_>>());
    }
    // The spec that theirs makes of the same words is the same, but for the names in it.
    let words =
        ["--env", "K=V", "--net-host", "--allow-new-privs", "--rootfs-propagation", "shared"];
    let made = |id: &str, by: &dyn Fn(&[&str]) -> Done| {
        let create: Vec<&str> =
            ["c", "create"].into_iter().chain(words).chain([IMAGE, id, "/bin/true"]).collect();
        let done = by(&create);
        assert_eq!(done.status, Some(0), "{done:?}");
        peer.good(&["c", "info", "--spec", id]).replace(id, "ID")
    };
    let ours = made("ours", &|words| peer.ours(words));
    let theirs = made("theirs", &|words| peer.theirs(words));
    if peer.namespace.contains("forky") {
        assert_eq!(ours, theirs);
    } else {
        // The default spec of 1.6 is an older one.
        assert!(ours.contains("\"HOSTNAME=") && theirs.contains("\"HOSTNAME="));
    }
    live(peer);
    change(peer);
}

/// Processes: output, input, statuses.
fn live(peer: &Peer) {
    let script = "echo out; echo err >&2; id -u; exit 3";
    let done = peer.ours(&["run", "--rm", IMAGE, "once", "/bin/sh", "-c", script]);
    assert_eq!((done.status, done.stdout.as_str()), (Some(3), "out\n0\n"), "{done:?}");
    assert_eq!(done.stderr, "err\n");
    assert!(!peer.good(&["c", "ls", "-q"]).contains("once"));
    assert!(!peer.good(&["snapshots", "ls"]).contains("once"));
    // The input ends, so that the program does.
    let input = vec![b'x'; 300_000];
    let words = ["run", "--rm", IMAGE, "input", "/bin/cat"];
    let done = peer.run(Path::new(OURS), &words, &input);
    assert_eq!((done.status, done.stdout.len()), (Some(0), input.len()), "{}", done.stderr);
    let words = ["t", "exec", "--exec-id", "e", "--user", "0", "beside", "/bin/sh", "-c"];
    let done = peer.ours(&[&words[..], &["id; pwd; exit 4"]].concat());
    assert_eq!(done.status, Some(4), "{done:?}");
    assert_eq!(done.stdout, "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n/tmp\n");
    // A program that is not there: the error is told, and nothing is left.
    let done = peer.ours(&["run", "--rm", IMAGE, "broken", "/bin/nope"]);
    assert_eq!(done.status, Some(1));
    assert!(done.stderr.contains("/bin/nope"), "{done:?}");
    assert!(!peer.good(&["c", "ls", "-q"]).contains("broken"));
    peer.good(&["t", "pause", "beside"]);
    assert!(peer.same(&["t", "ls"]).stdout.contains("PAUSED"));
    peer.good(&["t", "resume", "beside"]);
    peer.good(&["t", "metrics", "beside"]);
    peer.good(&["t", "kill", "-s", "KILL", "beside"]);
    let begun = Instant::now();
    while !peer.good(&["t", "ls"]).contains("STOPPED") {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = peer.ours(&["t", "rm", "beside"]);
    assert!(done.stderr.contains("task beside exit with non-zero exit code 137"), "{done:?}");
    peer.good(&["c", "rm", "beside"]);
}

/// Commands that change things; theirs shows what ours did.
fn change(peer: &Peer) {
    peer.good(&["i", "tag", IMAGE, "docker.io/library/it:2"]);
    assert_eq!(peer.good(&["i", "label", "docker.io/library/it:2", "k=v"]), "k=v\n");
    peer.same(&["i", "ls"]);
    assert_eq!(peer.good(&["i", "rm", "docker.io/library/it:2"]), "docker.io/library/it:2\n");
    assert_eq!(peer.good(&["leases", "create", "--id", "held", "a=b"]), "held\n");
    assert!(peer.theirs(&["leases", "ls"]).stdout.contains("a=b,containerd.io/gc.expire="));
    peer.same(&["leases", "ls", "-q"]);
    assert_eq!(peer.good(&["leases", "rm", "held"]), "held\n");
    let list = peer.good(&["snapshots", "ls"]);
    let layer = list.lines().find(|line| line.contains("Committed")).unwrap();
    let layer = layer.split_whitespace().next().unwrap();
    peer.good(&["snapshots", "prepare", "work", layer]);
    peer.same(&["snapshots", "mounts", "/x", "work"]);
    peer.good(&["snapshots", "commit", "done", "work"]);
    peer.same(&["snapshots", "info", "done"]);
    peer.same(&["snapshots", "tree"]);
    assert!(
        peer.good(&["snapshots", "label", "done", "a=b"]).ends_with(",a=b\n") || {
            peer.good(&["snapshots", "info", "done"]).contains("\"a\": \"b\"")
        }
    );
    peer.good(&["snapshots", "rm", "done"]);
    let expected = "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let wrong = expected.replace("be03", "be04");
    let words = ["content", "ingest", "--expected-digest", &wrong, "one"];
    let done = peer.run(Path::new(OURS), &words, b"hello\n");
    assert_eq!(done.status, Some(1));
    let text = "ctr: failed commit on ref \"one\": commit failed: unexpected commit digest";
    assert!(done.stderr.starts_with(text), "{done:?}");
    let manifest = peer.good(&["i", "ls"]);
    let manifest = manifest.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
    peer.same(&["content", "get", manifest]);
    peer.good(&["content", "label", manifest, "a=b"]);
    assert!(peer.theirs(&["content", "ls"]).stdout.contains("a=b"));
}

#[test]
fn beside_containerd_1_6() {
    if let Some(peer) = peer("bookworm") {
        compare(&peer);
    }
}

#[test]
fn beside_containerd_2_1() {
    let Some(peer) = peer("forky") else { return };
    compare(&peer);
    // The transfer service: what ours exports, ours imports again, and it runs.
    let archive = peer.folder.path().join("export.tar").display().to_string();
    peer.good(&["i", "export", &archive, IMAGE]);
    peer.good(&["i", "rm", "--sync", IMAGE]);
    let told = peer.good(&["i", "import", &archive]);
    assert!(told.contains(IMAGE), "{told}");
    peer.same(&["i", "check"]);
    let done = peer.ours(&["run", "--rm", IMAGE, "again", "/bin/echo", "hello"]);
    assert_eq!((done.status, done.stdout.as_str()), (Some(0), "hello\n"), "{done:?}");
    // An archive that is none makes nothing.
    fs::write(&archive, "no archive").unwrap();
    assert_eq!(peer.ours(&["i", "import", &archive]).status, Some(1));
}
