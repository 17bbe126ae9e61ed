//! Our client against real shims of containerd, which are written in Go.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#![allow(clippy::print_stdout, reason = "a skipped test says why")]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use api_shim::task::{
    ConnectRequest, KillRequest, SERVICE_V2, SERVICE_V3, ShutdownRequest, StateRequest,
    TASK_METHODS, TaskClient,
};
use api_ttrpc::{CallOptions, Client, Status};

#[test]
fn the_task_service_has_exactly_its_methods() {
    assert_eq!(
        TASK_METHODS.join(" "),
        "State Create Start Delete Pids Pause Resume Checkpoint Kill Exec ResizePty CloseIO \
         Update Wait Stats Connect Shutdown"
    );
    assert_eq!(
        api_shim::sandbox::SANDBOX_METHODS.join(" "),
        "CreateSandbox StartSandbox Platform StopSandbox WaitSandbox SandboxStatus PingSandbox \
         ShutdownSandbox SandboxMetrics"
    );
    assert_eq!(api_shim::ttrpc_events::EVENTS_METHODS, ["Forward"]);
    assert_eq!(SERVICE_V3, "containerd.task.v3.Task");
    assert_eq!(api_shim::sandbox::SANDBOX_SERVICE, "containerd.runtime.sandbox.v1.Sandbox");
    assert_eq!(
        api_shim::ttrpc_events::EVENTS_SERVICE,
        "containerd.services.events.ttrpc.v1.Events"
    );
}

#[tokio::test]
async fn the_shim_of_containerd_1_6_understands_us() {
    let Some(shim) = Shim::start("bookworm") else { return };
    let client = shim.connect(SERVICE_V2).await;
    converse(&client, &shim).await;
    // This shim knows version 2 alone.
    let v3 = TaskClient::new(client.client().clone());
    let status = v3.connect(&options(), &ConnectRequest { id: shim.id() }).await.unwrap_err();
    assert_eq!(status, Status::unimplemented("service containerd.task.v3.Task"));
    end(&client, &shim).await;
}

#[tokio::test]
async fn the_shim_of_containerd_2_understands_us() {
    let Some(shim) = Shim::start("forky") else { return };
    let client = shim.connect(SERVICE_V3).await;
    converse(&client, &shim).await;
    end(&client, &shim).await;
}

fn options() -> CallOptions {
    CallOptions::new().timeout(Duration::from_secs(60)).namespace("api-shim-test")
}

/// Calls with answers, with errors, many at once, and of no known method.
async fn converse(client: &TaskClient, shim: &Shim) {
    let id = shim.id();
    let answer = client.connect(&options(), &ConnectRequest { id: id.clone() }).await.unwrap();
    assert_eq!(answer.task_pid, 0);
    let command = std::fs::read(format!("/proc/{}/cmdline", answer.shim_pid)).unwrap();
    assert!(command.windows(id.len()).any(|window| window == id.as_bytes()));

    let request = StateRequest { id: id.clone(), exec_id: String::new() };
    let status = client.state(&options(), &request).await.unwrap_err();
    assert_eq!(status.code, api_ttrpc::code::NOT_FOUND);
    assert!(base_errors::Error::from(status).is_not_found());

    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (client, id) = (client.clone(), id.clone());
        calls.spawn(async move {
            let request = KillRequest { id, signal: 9, ..Default::default() };
            client.kill(&options(), &request).await.unwrap_err().code
        });
    }
    assert_eq!(calls.join_all().await, vec![api_ttrpc::code::NOT_FOUND; 100]);

    let raw = client.client();
    let answer: Result<(), _> = raw.call(client.service(), "Nothing", &(), &options()).await;
    assert_eq!(answer.unwrap_err(), Status::unimplemented("method Nothing"));
}

/// The shim goes, and its connection with it.
async fn end(client: &TaskClient, shim: &Shim) {
    let request = ShutdownRequest { id: shim.id(), now: true };
    // The shim may be gone before its answer is written.
    match client.shutdown(&options(), &request).await {
        Ok(()) => {}
        Err(status) => assert_eq!(status, Status::closed()),
    }
    client.client().closed().await;
    let status = client.connect(&options(), &ConnectRequest { id: shim.id() }).await.unwrap_err();
    assert_eq!(status, Status::closed());
}

/// A real shim, started as the daemon does it, in a bundle of its own.
struct Shim {
    bundle: tempfile::TempDir,
    socket: PathBuf,
    /// Open for reading, or the shim would not start.
    _log: File,
    pid: Option<u32>,
}

impl Shim {
    fn start(peer: &str) -> Option<Shim> {
        let Some(peers) = std::env::var_os("IRONHULL_PEERS") else {
            println!("skipped: IRONHULL_PEERS is not set, no shim to talk to");
            return None;
        };
        let program = Path::new(&peers).join(peer).join("usr/bin/containerd-shim-runc-v2");
        if !program.exists() {
            println!("skipped: no {}", program.display());
            return None;
        }
        let bundle = tempfile::Builder::new().prefix("api-shim-").tempdir().unwrap();
        let log = bundle.path().join("log");
        std::fs::write(bundle.path().join("config.json"), "{}").unwrap();
        assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
        // Open for both, so that neither side waits for the other.
        let log = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(&log);
        let mut shim = Shim { bundle, socket: PathBuf::new(), _log: log.unwrap(), pid: None };

        let daemon = shim.bundle.path().join("containerd.sock");
        let output = Command::new(program)
            .args(["-namespace", "api-shim-test", "-address"])
            .arg(&daemon)
            .args(["-publish-binary", "/bin/true", "-id", &shim.id(), "start"])
            .env("TTRPC_ADDRESS", shim.bundle.path().join("containerd.sock.ttrpc"))
            .env("GRPC_ADDRESS", &daemon)
            .env("NAMESPACE", "api-shim-test")
            .current_dir(shim.bundle.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        shim.pid = shim.find_pid();
        shim.socket = PathBuf::from(address(&text));
        Some(shim)
    }

    /// The name of the bundle is unique, and so is the id.
    fn id(&self) -> String {
        self.bundle.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    async fn connect(&self, service: &'static str) -> TaskClient {
        TaskClient::with_service(Client::connect(&self.socket).await.unwrap(), service)
    }

    /// The process whose command line names our id.
    fn find_pid(&self) -> Option<u32> {
        let id = self.id();
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let mut command = Vec::new();
            File::open(entry.path().join("cmdline")).ok()?.read_to_end(&mut command).ok()?;
            command.split(|byte| *byte == 0).any(|word| word == id.as_bytes()).then_some(pid)
        })
    }
}

/// `O_NONBLOCK` of Linux on every architecture that we build for.
const O_NONBLOCK: i32 = 0o4000;

/// The path in what `start` printed: bare, or in the JSON of newer shims.
fn address(text: &str) -> String {
    let address = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(json) => {
            assert_eq!(json["protocol"], "ttrpc");
            json["address"].as_str().unwrap().to_owned()
        }
        Err(_) => text.trim().to_owned(),
    };
    address.strip_prefix("unix://").unwrap_or(&address).to_owned()
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Usually it has gone by itself.
        if let Some(pid) = self.pid
            && self.find_pid() == Some(pid)
        {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        if !self.socket.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}
