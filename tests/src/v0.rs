//! A client of the API of 0.2, and the bundles that it needs, as Docker 1.11 to 1.13 made them.

pub mod load;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use api_grpc::v0;
use api_grpc::v0::api_client::ApiClient;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::{World, process, running, wait, words};

/// The containerd namespace of the API's containers.
pub const NAMESPACE: &str = "v0";

/// How long one event may take.
const EVENT: Duration = Duration::from_secs(60);

/// Applets in the root file system of bundles.
const APPLETS: [&str; 9] = ["cat", "dd", "echo", "false", "head", "sh", "sleep", "stty", "true"];

/// A client of the API in one world.
#[derive(Debug)]
pub struct Old<'a> {
    world: &'a World,
    runtime: tokio::runtime::Runtime,
    rootfs: PathBuf,
}

/// An event without its time: type, container, process, status.
pub type Seen = (String, String, String, u32);

impl<'a> Old<'a> {
    /// A client of the daemon of `world`; makes a root file system for bundles.
    ///
    /// # Errors
    ///
    /// No busybox.
    pub fn new(world: &'a World) -> Result<Old<'a>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let rootfs = world.path("rootfs");
        if !rootfs.exists() {
            for folder in ["bin", "proc", "sys", "dev", "tmp"] {
                fs::create_dir_all(rootfs.join(folder))?;
            }
            let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().map(Path::new);
            let busybox = busybox.into_iter().find(|path| path.is_file());
            fs::copy(busybox.context("no busybox")?, rootfs.join("bin/busybox"))?;
            for applet in APPLETS {
                std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet))?;
            }
        }
        Ok(Old { world, runtime, rootfs })
    }

    /// Runs `future` to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// The socket does not answer.
    pub async fn connect(&self) -> Result<ApiClient<Channel>> {
        connect(&self.world.socket()).await
    }

    /// The state folder of the API.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.world.state().join("io.containerd.grpc.v1.api-v0")
    }

    /// The description of a container that runs `words`; its control group is of this world.
    #[must_use]
    pub fn spec(&self, id: &str, words: &[&str]) -> Value {
        let capabilities = json!(["CAP_KILL", "CAP_CHOWN"]);
        json!({
            "ociVersion": "1.0.0",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": words,
                "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
                "capabilities": {"bounding": capabilities, "effective": capabilities,
                                 "permitted": capabilities},
            },
            "root": {"path": self.rootfs, "readonly": true},
            "hostname": "old",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.world.namespace()),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                               {"type": "mount"}],
            },
        })
    }

    /// Writes a bundle; gives its path.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn bundle_of(&self, id: &str, spec: &Value) -> Result<String> {
        let folder = self.world.path("bundles").join(id);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("config.json"), serde_json::to_vec(spec)?)?;
        Ok(folder.display().to_string())
    }

    /// A bundle that runs `script` in a shell.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn bundle(&self, id: &str, script: &str) -> Result<String> {
        self.bundle_of(id, &self.spec(id, &["/bin/sh", "-c", script]))
    }

    /// The request for a container that runs `script`, without streams.
    ///
    /// # Errors
    ///
    /// The bundle cannot be written.
    pub fn create(&self, id: &str, script: &str) -> Result<v0::CreateContainerRequest> {
        Ok(v0::CreateContainerRequest {
            id: id.to_owned(),
            bundle_path: self.bundle(id, script)?,
            ..v0::CreateContainerRequest::default()
        })
    }

    /// The request for another process in a container.
    #[must_use]
    pub fn add(&self, id: &str, name: &str, script: &str) -> v0::AddProcessRequest {
        add(id, name, script)
    }

    /// Makes a fifo in the world's folder; gives its path.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn fifo(&self, name: &str) -> Result<String> {
        self.world.fifo(name)
    }

    /// Runs `ctr` in the namespace of the API; gives its standard output.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn ctr(&self, line: &str) -> Result<String> {
        let mut command = self.world.command(&self.world.options().ctr.ctr()?);
        command.arg("--address").arg(self.world.socket()).args(["--namespace", NAMESPACE]);
        command.args(words::split(line));
        running::run(command, None, &self.world.path("files"))?.ok()
    }

    /// The shims of this world's daemon, whatever their namespace is.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        let socket = self.world.socket().display().to_string();
        let mine = |pid: &i32| {
            let words = process::arguments(*pid);
            words.first().is_some_and(|word| word.contains("containerd-shim"))
                && words.iter().any(|word| word.contains(&socket))
        };
        process::all().into_iter().filter(mine).collect()
    }

    /// Fails unless nothing is left of the API's containers: shims, state, records.
    ///
    /// # Errors
    ///
    /// The text names what is left.
    pub fn assert_clean(&self) -> Result<()> {
        let world = self.world;
        wait::until("nothing of 0.2 to be left", || {
            let shims = self.shims();
            ensure!(shims.is_empty(), "shims {shims:?}");
            let mut folders = vec![
                world.state().join("io.containerd.runtime.v2.task").join(NAMESPACE),
                world.root().join("io.containerd.runtime.v2.task").join(NAMESPACE),
                world.inside(Path::new("/run/containerd/runc")).join(NAMESPACE),
            ];
            folders.push(self.state_dir());
            for folder in folders {
                let Ok(entries) = fs::read_dir(&folder) else { continue };
                let left: Vec<_> = entries
                    .flatten()
                    .map(|entry| entry.file_name())
                    .filter(|name| name != "events.log")
                    .collect();
                ensure!(left.is_empty(), "{} has {left:?}", folder.display());
            }
            let records = self.ctr("containers ls -q")?;
            ensure!(records.is_empty(), "records {records}");
            Ok(())
        })
    }
}

impl Drop for Old<'_> {
    fn drop(&mut self) {
        // Only after a failure: those of a test that passes are gone.
        for pid in self.shims() {
            let _ = process::signal(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Connects to the daemon at `socket`.
///
/// # Errors
///
/// It does not answer.
pub async fn connect(socket: &Path) -> Result<ApiClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    Ok(ApiClient::new(endpoint.connect_timeout(Duration::from_secs(5)).connect().await?))
}

/// The request for another process, without streams.
#[must_use]
pub fn add(id: &str, name: &str, script: &str) -> v0::AddProcessRequest {
    v0::AddProcessRequest {
        id: id.to_owned(),
        pid: name.to_owned(),
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        user: Some(v0::User::default()),
        ..v0::AddProcessRequest::default()
    }
}

/// An event without its time.
#[must_use]
pub fn seen(event: &v0::Event) -> Seen {
    (event.r#type.clone(), event.id.clone(), event.pid.clone(), event.status)
}

/// The next event.
///
/// # Errors
///
/// The stream ends or stands still.
pub async fn next(events: &mut Streaming<v0::Event>) -> Result<v0::Event> {
    let next = tokio::time::timeout(EVENT, events.message()).await;
    next.context("no event comes")??.context("the stream has ended")
}

/// All events up to the exit of the container `id`.
///
/// # Errors
///
/// The stream ends or stands still before.
pub async fn until_exit(events: &mut Streaming<v0::Event>, id: &str) -> Result<Vec<v0::Event>> {
    let mut all = Vec::new();
    loop {
        let event = next(events).await?;
        let last = event.r#type == "exit" && event.pid == "init" && event.id == id;
        all.push(event);
        if last {
            return Ok(all);
        }
    }
}

/// Fails unless a call failed with this code and text.
///
/// # Errors
///
/// It did not, or with another.
pub fn fails<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) -> Result<()> {
    match answer {
        Ok(answer) => bail!("expected {text:?}, got {answer:?}"),
        Err(status) => {
            ensure!(
                status.code() == code && status.message() == text,
                "expected {code:?} {text:?}, got {:?} {:?}",
                status.code(),
                status.message()
            );
            Ok(())
        }
    }
}
