//! `cargo xtask demo`: a container runs, on private folders, and nothing is left behind.
//!
//! The outer half prepares, and checks at the end that nothing is left. The inner half runs in a
//! mount namespace of its own, with a `/run` of its own, so that all mounts, sockets and fifos of
//! the daemon go with it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::build::{self, Profile};
use crate::command::{output, run as run_command, say};
use crate::host;

/// Tells the inner half its folder.
const FOLDER: &str = "IRONHULL_DEMO_FOLDER";

/// The image.
const IMAGE: &str = "docker.io/library/demo:latest";

/// How long the daemon may take to answer, and to stop: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the container does.
const SCRIPT: &str = "echo hello from a container; \
                      echo \"host name $(hostname), processes: $(ps | wc -l), user $(id -u)\"; \
                      ls /";

/// Sets up, builds and shows.
pub fn run() -> Result<()> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return inner(&PathBuf::from(folder));
    }
    host::require_root()?;
    host::install(host::DEMO)?;
    show(&build::programs(Profile::Debug)?)
}

/// Runs the demo with the programs in `binaries`.
pub fn show(binaries: &Path) -> Result<()> {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let name = format!("demo-{}", std::process::id());
    let folder = base.join(format!("ironhull-{name}"));
    fs::create_dir_all(&folder)?;
    say(&format!("all files go below {}", folder.display()));
    let shown = run_command(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(own_program())
            .arg("demo")
            .env(FOLDER, &folder)
            .env(build::VARIABLE, binaries),
    );
    if shown.is_err() {
        let log = fs::read_to_string(folder.join("containerd.log")).unwrap_or_default();
        println!("--- the daemon's log ends with");
        for line in log.lines().rev().take(40).collect::<Vec<_>>().iter().rev() {
            println!("{line}");
        }
    }
    remove_cgroups(&name);
    let left = leftovers(&folder, &name);
    let removed = fs::remove_dir_all(&folder).context("remove the folder");
    shown?;
    removed?;
    if !left.is_empty() {
        bail!("the demo left something behind:\n{}", left.join("\n"));
    }
    say("stopped; no process, mount, control group or file is left");
    Ok(())
}

/// This very program, also when a build has put another file in its place meanwhile.
fn own_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// The half that sees the daemon's mounts.
fn inner(folder: &Path) -> Result<()> {
    run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    let binaries = PathBuf::from(std::env::var_os(build::VARIABLE).context("no programs")?);
    let demo = Demo::start(folder, &binaries)?;
    let shown = demo.show();
    let stopped = demo.stop();
    shown.and(stopped)
}

/// A daemon on private folders.
struct Demo {
    folder: PathBuf,
    ctr: PathBuf,
    daemon: Child,
    namespace: String,
}

impl Demo {
    fn start(folder: &Path, binaries: &Path) -> Result<Demo> {
        let config = folder.join("config.toml");
        fs::write(
            &config,
            format!(
                "version = 3\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
                 [grpc]\n  address = \"{0}/containerd.sock\"\n",
                folder.display()
            ),
        )?;
        say("starting containerd");
        let log = fs::File::create(folder.join("containerd.log"))?;
        let mut path = std::ffi::OsString::from(binaries);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let daemon = Command::new(binaries.join("containerd"))
            .arg("--config")
            .arg(&config)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let namespace = name.trim_start_matches("ironhull-").to_owned();
        let mut demo =
            Demo { folder: folder.to_owned(), ctr: binaries.join("ctr"), daemon, namespace };
        let begun = Instant::now();
        while let Err(error) = output(demo.command().arg("version")) {
            if let Some(status) = demo.daemon.try_wait()? {
                bail!("containerd ended at once: {status}");
            }
            if begun.elapsed() > PATIENCE {
                let _ = demo.daemon.kill();
                return Err(error.context("containerd does not answer"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(demo)
    }

    /// Our ctr on our daemon.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.folder.join("containerd.sock"));
        command.args(["--namespace", &self.namespace]);
        command
    }

    /// Runs ctr with `arguments` and shows both.
    fn ctr(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ ctr {}", arguments.join(" "));
        std::io::stdout().flush()?;
        run_command(self.command().args(arguments).stdin(Stdio::null()))
    }

    fn show(&self) -> Result<()> {
        say("making an image of busybox, and importing it");
        let archive = image(&self.folder.join("image"))?;
        self.ctr(&["version"])?;
        self.ctr(&["images", "import", &archive.display().to_string()])?;
        say("running a container");
        self.ctr(&["run", "--rm", IMAGE, "hello", "/bin/sh", "-c", SCRIPT])?;
        say("and one in the background");
        self.ctr(&["run", "-d", IMAGE, "background", "/bin/sleep", "1000"])?;
        say("the state of things");
        for arguments in [
            ["images", "ls"],
            ["containers", "ls"],
            ["tasks", "ls"],
            ["snapshots", "ls"],
            ["plugins", "ls"],
        ] {
            self.ctr(&arguments)?;
        }
        say("cleaning up");
        self.ctr(&["tasks", "kill", "--signal", "SIGKILL", "background"])?;
        let begun = Instant::now();
        while let Err(error) = output(self.command().args(["tasks", "rm", "background"])) {
            if begun.elapsed() > PATIENCE {
                return Err(error.context("the container does not end"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ctr(&["containers", "rm", "background"])?;
        self.ctr(&["images", "rm", "--sync", IMAGE])
    }

    /// Ends the daemon as a service manager does.
    fn stop(mut self) -> Result<()> {
        say("stopping containerd");
        let pid = i32::try_from(self.daemon.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(pid.context("no pid")?, Signal::TERM)?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.daemon.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("containerd ended with {status}");
            }
            if begun.elapsed() > PATIENCE {
                let _ = self.daemon.kill();
                bail!("containerd did not stop within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Makes a docker archive of busybox with the commands that the demo uses.
fn image(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    for path in ["bin", "etc", "proc", "root", "tmp"] {
        fs::create_dir_all(tree.join(path))?;
    }
    let busybox = host::find("busybox").context("busybox is not installed")?;
    fs::copy(&busybox, tree.join("bin/busybox"))?;
    for applet in ["sh", "ls", "echo", "ps", "wc", "id", "hostname", "sleep"] {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    let layer = folder.join("layer.tar");
    run_command(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&layer).arg("."))?;
    let digest = output(Command::new("sha256sum").arg(&layer))?;
    let digest = digest.split_whitespace().next().context("sha256sum said nothing")?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    fs::write(
        folder.join("config.json"),
        format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\
             \"config\":{{\"Env\":[\"PATH=/bin\"],\"Cmd\":[\"/bin/sh\"]}},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{digest}\"]}}}}"
        ),
    )?;
    fs::write(
        folder.join("manifest.json"),
        format!(
            "[{{\"Config\":\"config.json\",\"RepoTags\":[\"{IMAGE}\"],\
             \"Layers\":[\"layer.tar\"]}}]"
        ),
    )?;
    let archive = folder.join("demo.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).arg("-cf").arg(&archive);
    run_command(tar.args(["manifest.json", "config.json", "layer.tar"]))?;
    Ok(archive)
}

/// The control groups of our namespace, in all hierarchies.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies
        .chain([root.to_owned()])
        .map(|hierarchy| hierarchy.join(name))
        .filter(|group| group.is_dir())
        .collect()
}

/// runc removes a container's group, but not the namespace's above it.
fn remove_cgroups(name: &str) {
    for group in cgroups(name) {
        let _ = fs::remove_dir(group);
    }
}

/// What is left of the demo: processes, mounts, control groups.
fn leftovers(folder: &Path, name: &str) -> Vec<String> {
    let folder = folder.display().to_string();
    let own = std::process::id().to_string();
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&folder) {
            left.push(format!("process {pid}: {line}"));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    left.extend(
        mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount: {line}")),
    );
    left.extend(cgroups(name).iter().map(|group| format!("control group: {}", group.display())));
    left
}
