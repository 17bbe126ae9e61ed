//! A daemon's side of a shim: bundles, a socket for events, calls.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_shim::bootstrap::{BootstrapParams, BootstrapResult};
use api_shim::events::{TaskExit, TaskOom};
use api_shim::task::*;
use api_shim::ttrpc_events::{EVENTS_SERVICE, Events, EventsServer, ForwardRequest};
use api_shim::types::Mount;
use api_shim::{Any, Message, runc, typeurl};
use api_ttrpc::{CallOptions, Client, Context, ListenOptions, Server, Status};
use serde_json::json;

pub(crate) const NAMESPACE: &str = "shim-test";
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");

/// How long anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything of one test.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    events: Arc<Collector>,
    server: Option<Server>,
    /// Variables for the shim.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What a shell does before it becomes the shim, in a mount namespace of its own.
    pub(crate) prelude: String,
}

/// Topics and events in the order of their arrival.
#[derive(Default)]
struct Collector(Mutex<VecDeque<(String, Any)>>);

impl Events for Collector {
    async fn forward(&self, context: &Context, request: ForwardRequest) -> Result<(), Status> {
        assert_eq!(context.namespace(), Some(NAMESPACE));
        let envelope = request.envelope.unwrap();
        assert_eq!(envelope.namespace, NAMESPACE);
        assert!(envelope.timestamp.is_some());
        let event = envelope.event.unwrap();
        self.0.lock().unwrap().push_back((envelope.topic, event));
        Ok(())
    }
}

/// A running shim.
pub(crate) struct Shim {
    pub(crate) client: TaskClient,
    pub(crate) pid: i32,
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) bundle: PathBuf,
}

/// A call that has to come back.
macro_rules! call {
    ($shim:expr, $method:ident, $request:expr) => {
        $shim.client.$method(&crate::world::options(), &$request).await
    };
}
pub(crate) use call;

pub(crate) fn options() -> CallOptions {
    CallOptions::new().timeout(PATIENCE).namespace(NAMESPACE)
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let bin = folder.path().join("image/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["proc", "dev", "sys", "tmp"] {
            fs::create_dir(folder.path().join("image").join(name)).unwrap();
        }
        fs::copy("/bin/busybox", bin.join("busybox")).expect("needs Debian's busybox-static");
        for applet in ["sh", "cat", "sleep", "stty", "echo", "true", "kill", "head", "yes", "tail"]
        {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        let mut world = World {
            folder,
            events: Arc::default(),
            server: None,
            environment: Vec::new(),
            prelude: String::new(),
        };
        world.listen();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ttrpc_socket(&self) -> PathBuf {
        self.path("d.sock.ttrpc")
    }

    /// The daemon begins to take events.
    pub(crate) fn listen(&mut self) {
        let _ = fs::remove_file(self.ttrpc_socket());
        let listener = tokio::net::UnixListener::bind(self.ttrpc_socket()).unwrap();
        let service = Arc::new(EventsServer::from_arc(Arc::clone(&self.events)));
        let server = Server::new().register(EVENTS_SERVICE, service);
        self.server = Some(server.clone());
        tokio::spawn(async move { server.serve(listener, ListenOptions::default()).await });
    }

    /// The daemon is gone.
    pub(crate) fn stop_listening(&mut self) {
        self.server.take().unwrap().close();
        fs::remove_file(self.ttrpc_socket()).unwrap();
    }

    /// Writes a bundle whose container runs `args`.
    pub(crate) fn bundle(&self, id: &str, args: &[&str]) -> PathBuf {
        self.bundle_with(id, args, |_| {})
    }

    pub(crate) fn bundle_with(
        &self,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut serde_json::Value),
    ) -> PathBuf {
        let bundle = self.path(id);
        fs::create_dir(&bundle).unwrap();
        fs::create_dir(bundle.join("work")).unwrap();
        let mut spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin", "TERM=xterm"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.group()),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            },
        });
        change(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    /// The control group of this world's containers.
    fn group(&self) -> String {
        let name = self.folder.path().file_name().unwrap().to_str().unwrap();
        format!("shim-test-{}", name.trim_start_matches('.'))
    }

    /// The command line that a daemon writes.
    pub(crate) fn command(&self, bundle: &Path, id: &str, action: &[&str]) -> Command {
        let mut command = if self.prelude.is_empty() {
            Command::new(SHIM)
        } else {
            let mut command = Command::new("unshare");
            let script = format!("set -e; {}; exec \"$0\" \"$@\"", self.prelude);
            command.args(["--mount", "sh", "-c", &script, SHIM]);
            command
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(self.path("d.sock"))
            .args(["-publish-binary", "/bin/true", "-id", id])
            .args(action)
            .current_dir(bundle)
            .env("TTRPC_ADDRESS", self.ttrpc_socket())
            .env("TMPDIR", self.folder.path())
            .env_remove("XDG_RUNTIME_DIR")
            .env("MAX_SHIM_VERSION", "2");
        command
    }

    /// Starts a shim in the dialect of today.
    pub(crate) async fn start(&self, bundle: &Path, id: &str) -> Shim {
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            socket_dir: self.path("s").to_str().unwrap().to_owned(),
            ..Default::default()
        };
        let output = run(self.command(bundle, id, &["start"]), &params.encode_to_vec());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        let result = BootstrapResult::decode(&*output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        let address = fs::read_to_string(bundle.join("address")).unwrap();
        assert_eq!(address, result.address);
        Shim::connect(&address, id, bundle).await
    }

    /// A shim for which this machine has control groups of version 2 alone. False, with a reason,
    /// where that cannot be.
    pub(crate) fn unify(&mut self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        let Some(place) = unified.and_then(|line| line.split(' ').nth(1)) else {
            eprintln!("skipped: no version 2 of control groups is mounted");
            return false;
        };
        if place != "/sys/fs/cgroup" {
            self.prelude = format!("mount --bind {place} /sys/fs/cgroup");
        }
        true
    }

    /// Kills the shim, as nothing in it could prevent.
    pub(crate) async fn murder(&self, shim: &Shim) {
        let process = rustix::process::Pid::from_raw(shim.pid).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", shim.pid));
        eventually("the shim's death", || is_dead(&stat)).await;
    }

    /// Runs `delete` as a daemon does that finds a dead shim.
    pub(crate) fn clean_up(&self, bundle: &Path, id: &str) -> DeleteResponse {
        let action = ["-bundle", bundle.to_str().unwrap(), "delete"];
        let output = run(self.command(bundle, id, &action), b"");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        DeleteResponse::decode(&*output.stdout).unwrap()
    }

    /// Options with a private root of the runtime.
    pub(crate) fn options(&self, binary: &str) -> Any {
        typeurl::encode(&runc::Options {
            binary_name: binary.to_owned(),
            root: self.path("runc").to_str().unwrap().to_owned(),
            ..Default::default()
        })
    }

    /// A request to create a container with its rootfs bound from the image.
    pub(crate) fn create(&self, shim: &Shim) -> CreateTaskRequest {
        CreateTaskRequest {
            id: shim.id.clone(),
            bundle: shim.bundle.to_str().unwrap().to_owned(),
            rootfs: vec![Mount {
                r#type: "bind".to_owned(),
                source: self.path("image").to_str().unwrap().to_owned(),
                options: vec!["rbind".to_owned(), "rw".to_owned()],
                ..Default::default()
            }],
            options: Some(self.options("")),
            ..Default::default()
        }
    }

    /// Makes a fifo.
    pub(crate) fn fifo(&self, name: &str) -> String {
        let path = self.path(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// How many events have arrived.
    pub(crate) fn event_count(&self) -> usize {
        self.events.0.lock().unwrap().len()
    }

    /// The topics that have arrived.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.events.0.lock().unwrap().iter().map(|(topic, _)| topic.clone()).collect()
    }

    /// Waits until so many events are there; gives their topics.
    pub(crate) async fn wait_for_events(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} events"), || self.topics().len() >= count).await;
        self.topics()
    }

    /// All exit events.
    pub(crate) fn exits(&self) -> Vec<TaskExit> {
        let events = self.events.0.lock().unwrap();
        let exits = events.iter().filter(|(topic, _)| topic == "/tasks/exit");
        exits.map(|(_, event)| typeurl::decode(event).unwrap()).collect()
    }

    /// All events of lacking memory.
    pub(crate) fn ooms(&self) -> Vec<TaskOom> {
        let events = self.events.0.lock().unwrap();
        let ooms = events.iter().filter(|(topic, _)| topic == "/tasks/oom");
        ooms.map(|(_, event)| typeurl::decode(event).unwrap()).collect()
    }

    /// Asks the shim to leave and checks that nothing is left.
    pub(crate) async fn end(&self, shim: Shim) {
        // The shim may close the connection before its answer is read.
        let _ = call!(shim, shutdown, ShutdownRequest { id: shim.id.clone(), now: false });
        self.gone(&shim).await;
    }

    /// Waits until the container `id` has `count` processes. What was killed may take a moment to die.
    pub(crate) async fn processes(&self, shim: &Shim, id: &str, count: usize) {
        soon(&format!("{count} processes of {id}"), async || {
            let pids = call!(shim, pids, PidsRequest { id: id.to_owned() });
            pids.map_or(0, |answer| answer.processes.len()) == count
        })
        .await;
    }

    /// Checks that neither shim nor container is left.
    pub(crate) async fn gone(&self, shim: &Shim) {
        shim.left().await;
        self.nothing_left();
    }

    pub(crate) fn nothing_left(&self) {
        let here = self.folder.path().to_str().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(here), "a mount is left");
        let states = self.path("runc").join(NAMESPACE);
        let left = fs::read_dir(states).map_or(0, Iterator::count);
        assert_eq!(left, 0, "state of the runtime is left");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let group = hierarchy.path().join(self.group());
            let below = fs::read_dir(&group).into_iter().flatten().flatten();
            let left: Vec<_> =
                below.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
            assert!(left.is_empty(), "control groups are left: {left:?}");
        }
        let names = fs::read_dir(self.folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_str().unwrap().starts_with("pty-")), "{names:?}");
        for process in fs::read_dir("/proc").unwrap().flatten() {
            if let Ok(command) = fs::read(process.path().join("cmdline")) {
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                let dead = is_dead(&process.path().join("stat"));
                assert!(dead || !command.contains(here), "a process is left: {command}");
            }
        }
    }
}

impl Drop for World {
    /// Cleans up after a test that has failed.
    fn drop(&mut self) {
        let here = self.folder.path().to_str().unwrap().to_owned();
        let runtime_root = self.path("runc").join(NAMESPACE);
        for state in fs::read_dir(&runtime_root).into_iter().flatten().flatten() {
            let mut runc = Command::new("runc");
            runc.arg("--root")
                .arg(&runtime_root)
                .args(["delete", "--force"])
                .arg(state.file_name());
            let _ = runc.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let name = process.file_name();
            let (Some(name), Ok(command)) =
                (name.to_str(), fs::read(process.path().join("cmdline")))
            else {
                continue;
            };
            if String::from_utf8_lossy(&command).contains(&here)
                && let Some(pid) = name.parse().ok().and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)) {
            if target.starts_with(&here) {
                let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
            }
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // A shim that took the machine for one of version 2 has handed down what there was.
            if hierarchy.file_name() == "unified" && !self.prelude.is_empty() {
                for name in ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"] {
                    let control = hierarchy.path().join("cgroup.subtree_control");
                    let _ = fs::write(control, format!("-{name}"));
                }
            }
            let group = hierarchy.path().join(self.group());
            for below in fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(below.path());
            }
            let _ = fs::remove_dir(&group);
        }
    }
}

impl Shim {
    pub(crate) async fn connect(address: &str, id: &str, bundle: &Path) -> Self {
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
        let client = TaskClient::new(Client::connect(&socket).await.unwrap());
        let mut shim =
            Shim { client, pid: 0, id: id.to_owned(), socket, bundle: bundle.to_owned() };
        let answer = call!(shim, connect, ConnectRequest { id: id.to_owned() }).unwrap();
        shim.pid = answer.shim_pid.try_into().unwrap();
        shim
    }

    /// Waits until the shim has left, and its socket with it.
    pub(crate) async fn left(&self) {
        let process = PathBuf::from(format!("/proc/{}/stat", self.pid));
        eventually("the shim to leave", || is_dead(&process)).await;
        assert!(!self.socket.exists(), "the socket is left");
    }

    pub(crate) fn start_request(&self, exec_id: &str) -> StartRequest {
        StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned() }
    }

    pub(crate) fn wait_request(&self, exec_id: &str) -> WaitRequest {
        WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned() }
    }

    pub(crate) fn delete_request(&self, exec_id: &str) -> DeleteRequest {
        DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned() }
    }

    pub(crate) fn state_request(&self, exec_id: &str) -> StateRequest {
        StateRequest { id: self.id.clone(), exec_id: exec_id.to_owned() }
    }

    /// Creates and starts the container.
    pub(crate) async fn run(&self, create: CreateTaskRequest) -> u32 {
        call!(self, create, create).unwrap();
        call!(self, start, self.start_request("")).unwrap().pid
    }

    /// Runs an exec to its end and deletes it; gives its status.
    pub(crate) async fn exec_to_end(&self, request: ExecProcessRequest) -> u32 {
        let exec_id = request.exec_id.clone();
        call!(self, exec, request).unwrap();
        call!(self, start, self.start_request(&exec_id)).unwrap();
        let end = call!(self, wait, self.wait_request(&exec_id)).unwrap();
        let deleted = call!(self, delete, self.delete_request(&exec_id)).unwrap();
        assert_eq!(deleted.exit_status, end.exit_status);
        end.exit_status
    }

    pub(crate) fn kill_request(&self, signal: u32) -> KillRequest {
        KillRequest { id: self.id.clone(), signal, ..Default::default() }
    }

    pub(crate) fn exec_request(&self, exec_id: &str, args: &[&str]) -> ExecProcessRequest {
        let process = json!({
            "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
        });
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: Some(typeurl::encode_json(typeurl::PROCESS, process.to_string().into_bytes())),
            ..Default::default()
        }
    }

    /// Kills the container, waits for its end and deletes it.
    pub(crate) async fn remove(&self) -> DeleteResponse {
        let _ = call!(self, kill, self.kill_request(9));
        call!(self, wait, self.wait_request("")).unwrap();
        call!(self, delete, self.delete_request("")).unwrap()
    }
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async || holds()).await;
}

/// Waits until the answer to a question of the shim is yes.
pub(crate) async fn soon(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited in vain for {what}");
}

/// True if there is no such process, or nothing of it but its exit status.
fn is_dead(stat: &Path) -> bool {
    let Ok(text) = fs::read_to_string(stat) else { return true };
    text.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

/// Reads a fifo to its end, on a thread.
pub(crate) fn read_all(path: &str) -> tokio::sync::oneshot::Receiver<Vec<u8>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let _ = sender.send(fs::read(path).unwrap());
    });
    receiver
}
