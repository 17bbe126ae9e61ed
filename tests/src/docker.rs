//! Docker on a world's daemon.
//!
//! A [`DockerHost`] is a [`World`] with a network of its own and a `dockerd` that works through
//! the world's daemon: same mount namespace, private data, socket and control groups. Containers
//! are in the containerd namespace of the world, so that what is left of them is found as for any
//! other client.

mod steps;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::image::{self, Builder, Format};
use crate::running::{self, Output, Running};
use crate::terminal::Terminal;
use crate::world::{Daemon, Options, World};
use crate::{Maker, process, wait, words};

pub use steps::Steps;

/// The name of the image that each host has.
pub const IMAGE: &str = "small:1";

/// Where a registry listens, in the network of its host.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Number of the content of the archive; another one makes it anew.
const ARCHIVE_VERSION: u32 = 1;

/// A `dockerd` and the daemon below it.
#[derive(Debug)]
pub struct DockerHost {
    engine: Maker,
    arguments: Vec<String>,
    dockerd: Mutex<Option<Daemon>>,
    world: World,
}

impl DockerHost {
    /// Starts the suite's daemon and the Docker of `engine`'s suite with more `arguments`, and loads
    /// the image [`IMAGE`].
    ///
    /// # Errors
    ///
    /// A program is missing or does not answer; the text has its log.
    pub fn new(engine: Maker, arguments: &[&str]) -> Result<DockerHost> {
        let options = Options { network: true, ..Options::new(engine)? };
        let world = World::new(options)?;
        for name in ["docker-log", "docker-config"] {
            fs::create_dir(world.path(name))?;
        }
        let host = DockerHost {
            engine,
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            dockerd: Mutex::new(None),
            world,
        };
        host.start_dockerd()?;
        host.docker(&format!("load --quiet --input {}", archive()?.display()))?;
        Ok(host)
    }

    /// The world below.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Who made Docker: [`Maker::Bookworm`] is 20.10, [`Maker::Forky`] is 28.5.
    #[must_use]
    pub fn engine(&self) -> Maker {
        self.engine
    }

    /// A file of Docker's packages.
    fn program(&self, name: &str) -> Result<PathBuf> {
        Ok(self.engine.docker()?.join("usr").join(name))
    }

    /// `program` in the world's namespaces.
    fn command(&self, program: &Path) -> Command {
        let mut command = self.world.command(program);
        command.env("DOCKER_CONFIG", self.world.path("docker-config"));
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        // The builder that is in the daemon itself; the other one is not in the packages.
        command.env("DOCKER_BUILDKIT", "0");
        command
    }

    fn socket(&self) -> PathBuf {
        self.world.path("d.sock")
    }

    /// Starts `dockerd` and waits until it answers.
    ///
    /// # Errors
    ///
    /// It does not; the text has its log.
    pub fn start_dockerd(&self) -> Result<()> {
        let mut command = self.command(&self.program("sbin/dockerd")?);
        let namespace = self.world.namespace();
        let shown = |path: PathBuf| path.display().to_string();
        for (option, value) in [
            ("--containerd", shown(self.world.socket())),
            ("--containerd-namespace", namespace.to_owned()),
            ("--containerd-plugins-namespace", format!("{namespace}-plugins")),
            ("--cgroup-parent", format!("/{namespace}")),
            ("--data-root", shown(self.world.path("docker"))),
            ("--exec-root", shown(self.world.path("docker-run"))),
            ("--pidfile", shown(self.world.path("d.pid"))),
            ("--host", format!("unix://{}", self.socket().display())),
            ("--config-file", shown(self.world.path("docker-config/daemon.json"))),
            ("--userland-proxy-path", shown(self.program("sbin/docker-proxy")?)),
            ("--init-path", shown(self.program("bin/tini-static")?)),
        ] {
            command.arg(option).arg(value);
        }
        fs::write(self.world.path("docker-config/daemon.json"), "{}")?;
        command.args(&self.arguments);
        let libraries = libraries(&self.engine.docker()?);
        command.env("LD_LIBRARY_PATH", libraries);
        let dockerd = Daemon::start(command, &self.world.path("docker-log"), self.engine)?;
        *self.dockerd()? = Some(dockerd);
        wait::until("dockerd to answer", || {
            if let Some(dockerd) = self.dockerd()?.as_mut()
                && let Some(status) = dockerd.ended()?
            {
                return Ok(Some(status));
            }
            self.docker("version --format {{.Server.Version}}").map(|_| None)
        })
        .and_then(|ended| match ended {
            None => Ok(()),
            Some(status) => bail!("dockerd ended with {status}"),
        })
        .with_context(|| format!("--log of dockerd--\n{}", self.log()))
    }

    fn dockerd(&self) -> Result<MutexGuard<'_, Option<Daemon>>> {
        self.dockerd.lock().map_err(|_| anyhow::anyhow!("a test died with dockerd's lock"))
    }

    /// Kills `dockerd` with SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn kill_dockerd(&self) -> Result<()> {
        self.dockerd()?.take().context("dockerd does not run")?.kill()
    }

    /// Ends `dockerd` with SIGTERM; gives its exit status.
    ///
    /// # Errors
    ///
    /// It does not run or does not end.
    pub fn stop_dockerd(&self) -> Result<i32> {
        let dockerd = self.dockerd()?.take().context("dockerd does not run")?;
        dockerd.stop()
    }

    /// All that `dockerd` has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let folder = self.world.path("docker-log");
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        let texts = files.iter().map(|file| fs::read(file).unwrap_or_default());
        texts
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect::<Vec<_>>()
            .join("\n---- the next dockerd ----\n")
    }

    /// `docker` with the words of `line`.
    ///
    /// # Errors
    ///
    /// It is missing.
    pub fn docker_command(&self, line: &str) -> Result<Command> {
        let mut command = self.command(&self.program("bin/docker")?);
        command.args(words::split(line));
        Ok(command)
    }

    /// Runs `docker` to its end; gives its standard output.
    ///
    /// # Errors
    ///
    /// It fails; the text has all that it said.
    pub fn docker(&self, line: &str) -> Result<String> {
        self.try_docker(line)?.ok()
    }

    /// Runs `docker` to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// It cannot be started or does not end.
    pub fn try_docker(&self, line: &str) -> Result<Output> {
        self.docker_with_input(line, None)
    }

    /// Runs `docker`, which has to fail; gives its standard error.
    ///
    /// # Errors
    ///
    /// It does not fail.
    pub fn docker_fails(&self, line: &str) -> Result<String> {
        self.try_docker(line)?.failed()
    }

    /// Runs `docker` with a standard input.
    ///
    /// # Errors
    ///
    /// It cannot be started or does not end.
    pub fn docker_with_input(&self, line: &str, stdin: Option<&[u8]>) -> Result<Output> {
        running::run(self.docker_command(line)?, stdin, &self.world.path("files"))
    }

    /// Runs `docker build` with BuildKit in `dockerd`: by the command line of 20.10, which needs no
    /// other program for it. Gives its progress.
    ///
    /// # Errors
    ///
    /// It fails; the text has all that it said.
    pub fn build(&self, line: &str) -> Result<String> {
        let mut command = self.command(&Maker::Bookworm.docker()?.join("usr/bin/docker"));
        command.args(words::split(&format!("build --progress plain {line}")));
        command.env("DOCKER_BUILDKIT", "1");
        let output = running::run(command, None, &self.world.path("files"))?;
        let progress = output.stderr.clone();
        output.ok().map(|_| progress)
    }

    /// Starts a registry at [`REGISTRY`] and waits until it answers; it ends with the value.
    ///
    /// # Errors
    ///
    /// It is missing or does not answer.
    pub fn start_registry(&self) -> Result<Running> {
        let config = self.world.path("registry.yml");
        let storage = self.world.path("registry");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let program = Maker::Bookworm.docker()?.join("usr/bin/docker-registry");
        let mut command = self.command(&program);
        command.arg("serve").arg(&config).stdin(Stdio::null());
        let registry = Running::start(command, &self.world.path("files"))?;
        let url = format!("http://{REGISTRY}/v2/");
        wait::until("the registry to answer", || {
            self.world.run("busybox", &["wget", "-q", "-O", "-", &url]).map(drop)
        })?;
        Ok(registry)
    }

    /// Starts `docker` beside the test.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_docker(&self, line: &str) -> Result<Running> {
        let mut command = self.docker_command(line)?;
        command.stdin(Stdio::null());
        Running::start(command, &self.world.path("files"))
    }

    /// Starts `docker` at a terminal.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn docker_at_terminal(&self, line: &str) -> Result<Terminal> {
        Terminal::start(self.docker_command(line)?)
    }

    /// What `docker inspect` shows of a container (or anything else) with a template.
    ///
    /// # Errors
    ///
    /// There is no such thing.
    pub fn inspect(&self, name: &str, template: &str) -> Result<String> {
        Ok(self.docker(&format!("inspect --format '{template}' {name}"))?.trim().to_owned())
    }

    /// Waits until `docker inspect` shows `wanted`.
    ///
    /// # Errors
    ///
    /// It does not come; the text has what was shown last.
    pub fn until(&self, name: &str, template: &str, wanted: &str) -> Result<()> {
        wait::until(&format!("{wanted:?} as {template} of {name}"), || {
            let seen = self.inspect(name, template)?;
            ensure!(seen == wanted, "{seen:?}");
            Ok(())
        })
    }

    /// The process id of a container.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pid(&self, name: &str) -> Result<i32> {
        let pid = self.inspect(name, "{{.State.Pid}}")?.parse()?;
        ensure!(pid > 0, "{name} does not run");
        Ok(pid)
    }

    /// What the first of `files` that exists in a control group of the container holds.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn cgroup(&self, name: &str, files: &[&str]) -> Result<String> {
        let id = self.inspect(name, "{{.Id}}")?;
        let folders = process::cgroups(&format!("{}/{id}", self.world.namespace()));
        let paths = files.iter().flat_map(|file| folders.iter().map(move |at| at.join(file)));
        let path = paths.into_iter().find(|path| path.is_file());
        let path = path.with_context(|| format!("none of {files:?} in {folders:?}"))?;
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// Fails unless all that belonged to containers is gone, as [`World::assert_clean`]. What Docker
    /// keeps for itself may stay.
    ///
    /// # Errors
    ///
    /// The text names what is left.
    pub fn assert_clean(&self) -> Result<()> {
        // BuildKit keeps the groups above those of its own containers.
        for folder in process::cgroups(&format!("{}/buildkit", self.world.namespace())) {
            fs::remove_dir(folder)?;
        }
        // dockerd mounts the networks of its containers itself. One that was killed in the middle
        // of a run leaves a mount that it does not know any more.
        let own = format!("mount {}", self.world.path("docker").display());
        let networks = format!("mount {}/", self.world.path("docker-run/netns").display());
        self.world.assert_clean_but(|left| left == own || left.starts_with(&networks))?;
        wait::until("the folders of streams to go", || {
            let left = self.streams();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    }

    /// Removes all containers, volumes and networks, ends both daemons as an administrator does,
    /// and fails unless nothing is left.
    ///
    /// # Errors
    ///
    /// The text names what is left.
    pub fn finish(&self) -> Result<()> {
        let containers = self.docker("ps --all --quiet --no-trunc")?;
        if !containers.is_empty() {
            let all = containers.split_whitespace().collect::<Vec<_>>().join(" ");
            self.docker(&format!("rm --force --volumes {all}"))?;
        }
        self.docker("network prune --force")?;
        self.docker("volume prune --force")?;
        let status = self.stop_dockerd()?;
        ensure!(status == 0, "dockerd ended with {status}");
        self.assert_clean()?;
        let status = self.world.stop_daemon()?;
        ensure!(status == 0, "the daemon ended with {status}");
        wait::until("all processes to end", || {
            let left = self.world.processes();
            let shown: Vec<_> = left.iter().map(|&pid| process::arguments(pid)).collect();
            ensure!(shown.is_empty(), "{shown:?}");
            Ok(())
        })
    }

    /// The folders of containers' streams that `dockerd` keeps.
    #[must_use]
    pub fn streams(&self) -> Vec<PathBuf> {
        fs::read_dir(self.world.path("docker-run/containerd"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default()
    }
}

impl Drop for DockerHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of dockerd ({}) ----\n{}", self.engine, self.log());
        }
        if let Ok(mut dockerd) = self.dockerd.lock() {
            drop(dockerd.take());
        }
        for pid in self.world.processes() {
            if process::arguments(pid).first().is_some_and(|name| name.ends_with("docker-proxy")) {
                let _ = process::signal(pid, Signal::KILL);
            }
        }
    }
}

/// The folder of libraries in unpacked packages.
fn libraries(folder: &Path) -> PathBuf {
    let triplet = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };
    folder.join(format!("lib/{triplet}-linux-gnu"))
}

/// The image [`IMAGE`] as an archive of `docker save`.
///
/// # Errors
///
/// No busybox, or the cache cannot be written.
pub fn archive() -> Result<PathBuf> {
    let builder = Builder::new(IMAGE, image::small_layers()?);
    let tars: Vec<Vec<u8>> = builder.layers.iter().map(image::Layer::tar).collect::<Result<_>>()?;
    let key = image::digest(&tars.concat());
    image::cached(&format!("docker-{ARCHIVE_VERSION}-{}.tar", &key[7..19]), |part| {
        builder.write(part, Format::Docker)
    })
}

/// Runs `body` on a new host, and fails if a step of it fails or anything is left behind.
///
/// # Panics
///
/// On any failure: it is the last frame of a test.
pub fn check(engine: Maker, arguments: &[&str], body: impl FnOnce(&mut Steps<'_>)) {
    match DockerHost::new(engine, arguments) {
        Err(error) => panic!("{error:?}"),
        Ok(host) => {
            let mut steps = Steps::new(&host);
            body(&mut steps);
            steps.step_of_ours("nothing is left", DockerHost::finish);
            if let Err(error) = steps.finish() {
                // The host is still there: its log is printed while this panic unwinds.
                panic!("{error:?}");
            }
        }
    }
}
