//! One daemon with everything that is its own.

mod daemon;
mod leftovers;
mod mounts;
mod tasks;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::client::Client;
use crate::programs::Maker;
use crate::running::{self, Output, Running};
use crate::terminal::Terminal;
use crate::{image, wait, words};

pub use daemon::Daemon;
pub use mounts::MountNamespace;
pub use tasks::Task;

/// The name of the small image in worlds made by [`World::with_image`].
pub const IMAGE: &str = "docker.io/library/small:1";

/// Where worlds live: a file system in memory, so that a removal costs nothing.
const PLACE: &str = "/dev/shm";

/// The plugins that no test here needs and that would touch the machine outside a world.
const DISABLED: &[&str] = &[
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
    "io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri",
    "io.containerd.podsandbox.controller.v1.podsandbox",
];

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who made the daemon.
    pub daemon: Maker,
    /// Who made the shim that is found first.
    pub shim: Maker,
    /// Who made `ctr`.
    pub ctr: Maker,
    /// Lines at the top of the configuration, before the first table.
    pub top: String,
    /// Plugins that this daemon has to do without, beside those that no test needs.
    pub disabled: Vec<String>,
    /// Tables of the configuration.
    pub tables: String,
    /// More arguments of the daemon.
    pub arguments: Vec<String>,
    /// More environment of the daemon.
    pub environment: Vec<(String, String)>,
    /// Hide the v2 hierarchy of a hybrid layout, which crun 1.8 refuses to work with.
    pub hide_unified: bool,
    /// A network of its own, with a loopback alone.
    pub network: bool,
}

impl Options {
    /// Daemon and shim of the suite's maker, with that maker's `ctr`.
    ///
    /// # Errors
    ///
    /// The suite's maker is not known.
    pub fn new(ctr: Maker) -> Result<Options> {
        let daemon = Maker::default_daemon()?;
        Ok(Options {
            daemon,
            shim: daemon,
            ctr,
            top: String::new(),
            disabled: Vec::new(),
            tables: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            hide_unified: false,
            network: false,
        })
    }

    /// The same with another daemon and shim.
    #[must_use]
    pub fn pair(mut self, daemon: Maker, shim: Maker) -> Options {
        self.daemon = daemon;
        self.shim = shim;
        self
    }
}

/// A daemon in its own folder, mount namespace and containerd namespace.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    options: Options,
    namespace: String,
    mounts: MountNamespace,
    daemon: Mutex<Option<Daemon>>,
}

impl World {
    /// Makes the folders and starts the daemon.
    ///
    /// # Errors
    ///
    /// A program is missing, or the daemon does not answer; the text has the daemon's log.
    pub fn new(options: Options) -> Result<World> {
        let world = World::without_daemon(options)?;
        world.start()?;
        Ok(world)
    }

    /// A world whose daemon has the image [`IMAGE`].
    ///
    /// # Errors
    ///
    /// As [`World::new`], or the image cannot be imported.
    pub fn with_image(options: Options) -> Result<World> {
        let world = World::new(options)?;
        world.import(&image::small()?)?;
        Ok(world)
    }

    /// A world whose daemon is not started yet.
    ///
    /// # Errors
    ///
    /// A program is missing.
    pub fn without_daemon(options: Options) -> Result<World> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::Builder::new().prefix("ih").rand_bytes(6).tempdir_in(PLACE)?;
        for name in ["bin", "tmp", "files", "log"] {
            fs::create_dir(folder.path().join(name))?;
        }
        let world = World {
            namespace: format!("e2e-{}-{number}", std::process::id()),
            mounts: MountNamespace::new(options.hide_unified, options.network)?,
            daemon: Mutex::new(None),
            options,
            folder,
        };
        world.use_shim(world.options.shim)?;
        Ok(world)
    }

    /// Writes the configuration for a daemon.
    fn write_configuration(&self) -> Result<PathBuf> {
        let path = self.path("config.toml");
        let names =
            DISABLED.iter().copied().chain(self.options.disabled.iter().map(String::as_str));
        let disabled: Vec<String> = names.map(|name| format!("{name:?}")).collect();
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [{}]\n{}\n[grpc]\n  address = {:?}\n{}\n",
            self.root(),
            self.state(),
            disabled.join(", "),
            self.options.top,
            self.socket(),
            self.options.tables.replace("{world}", &self.folder.path().display().to_string()),
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Puts the shim of `maker` first in the daemon's `PATH`; for shims started from now on.
    ///
    /// # Errors
    ///
    /// It is missing.
    pub fn use_shim(&self, maker: Maker) -> Result<()> {
        let place = self.path("bin/containerd-shim-runc-v2");
        let _ = fs::remove_file(&place);
        Ok(symlink(maker.shim()?, place)?)
    }

    /// Starts the daemon that the options name, and waits until it answers.
    ///
    /// # Errors
    ///
    /// It does not; the text has its log.
    pub fn start(&self) -> Result<()> {
        self.start_as(self.options.daemon)
    }

    /// Starts the daemon of `maker` on this world's folders.
    ///
    /// # Errors
    ///
    /// It does not answer; the text has its log.
    pub fn start_as(&self, maker: Maker) -> Result<()> {
        self.launch(maker)?;
        let what = format!("the daemon ({maker}) to answer");
        wait::until(&what, || {
            if let Some(daemon) = self.daemon()?.as_mut()
                && let Some(status) = daemon.ended()?
            {
                return Ok(Some(status));
            }
            self.client()?.version().map(|_| None)
        })
        .and_then(|ended| match ended {
            None => Ok(()),
            Some(status) => bail!("the daemon ({maker}) ended with {status}"),
        })
        .with_context(|| format!("--log of the daemon--\n{}", self.log()))
    }

    /// Starts the daemon of `maker` and does not wait.
    ///
    /// # Errors
    ///
    /// The program is missing.
    pub fn launch(&self, maker: Maker) -> Result<()> {
        let mut command = self.command(&maker.daemon()?);
        command.arg("--config").arg(self.write_configuration()?);
        command.args(&self.options.arguments);
        command.envs(self.options.environment.iter().map(|(key, value)| {
            (key, value.replace("{world}", &self.folder.path().display().to_string()))
        }));
        let daemon = Daemon::start(command, &self.path("log"), maker)?;
        *self.daemon()? = Some(daemon);
        Ok(())
    }

    fn daemon(&self) -> Result<std::sync::MutexGuard<'_, Option<Daemon>>> {
        self.daemon.lock().map_err(|_| anyhow::anyhow!("a test died with the daemon's lock"))
    }

    /// Kills the daemon with SIGKILL and waits for its end.
    ///
    /// # Errors
    ///
    /// No daemon runs.
    pub fn kill_daemon(&self) -> Result<()> {
        self.daemon()?.take().context("no daemon runs")?.kill()
    }

    /// Ends the daemon with SIGTERM; gives its exit status.
    ///
    /// # Errors
    ///
    /// No daemon runs, or it does not end.
    pub fn stop_daemon(&self) -> Result<i32> {
        let daemon = self.daemon()?.take().context("no daemon runs")?;
        daemon.stop()
    }

    /// The process id of the daemon.
    ///
    /// # Errors
    ///
    /// No daemon runs.
    pub fn daemon_pid(&self) -> Result<i32> {
        Ok(self.daemon()?.as_ref().context("no daemon runs")?.pid())
    }

    /// All that daemons of this world have logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut files: Vec<PathBuf> = fs::read_dir(self.path("log"))
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        files
            .iter()
            .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned())
            .collect::<Vec<_>>()
            .join("\n---- the next daemon ----\n")
    }

    /// A path in the world's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a fifo in the world's folder of files; gives its path.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn fifo(&self, name: &str) -> Result<String> {
        let path = self.path("files").join(name);
        make_fifo(&path)?;
        Ok(path.display().to_string())
    }

    /// A path as the world's own processes see it: `/run/containerd` and mounts are theirs.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.mounts.inside(path)
    }

    /// The processes of this world that are not in containers: daemons, shims, clients.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        self.mounts.processes()
    }

    /// What lasts.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// What a reboot ends.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("c.sock")
    }

    /// The containerd namespace that no other world has.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the world is made of.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// True if the daemon is the one under test, false while the suites prove themselves.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.options.daemon == Maker::Ours
    }

    /// `program` in the world's mount namespace, with the world's `PATH` and nothing else.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.mounts.command(program);
        let bin = self.path("bin");
        command.env_clear();
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
        command.env("TMPDIR", self.path("tmp")).env("HOME", self.path("tmp"));
        command
    }

    /// `ctr` with the words of `line`.
    ///
    /// # Errors
    ///
    /// It is missing.
    pub fn ctr_command(&self, line: &str) -> Result<Command> {
        let mut command = self.command(&self.options.ctr.ctr()?);
        command.arg("--address").arg(self.socket()).args(["--namespace", &self.namespace]);
        command.args(words::split(line));
        Ok(command)
    }

    /// Runs `ctr` to its end; gives its standard output.
    ///
    /// # Errors
    ///
    /// It fails; the text has all that it said.
    pub fn ctr(&self, line: &str) -> Result<String> {
        self.try_ctr(line)?.ok()
    }

    /// Runs `ctr` to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// It cannot be started or does not end.
    pub fn try_ctr(&self, line: &str) -> Result<Output> {
        self.ctr_with_input(line, None)
    }

    /// Runs `ctr`, which has to fail; gives its standard error.
    ///
    /// # Errors
    ///
    /// It does not fail.
    pub fn ctr_fails(&self, line: &str) -> Result<String> {
        self.try_ctr(line)?.failed()
    }

    /// Runs `ctr` with a standard input.
    ///
    /// # Errors
    ///
    /// It cannot be started or does not end.
    pub fn ctr_with_input(&self, line: &str, stdin: Option<&[u8]>) -> Result<Output> {
        running::run(self.ctr_command(line)?, stdin, &self.path("files"))
    }

    /// Starts `ctr` beside the test.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_ctr(&self, line: &str) -> Result<Running> {
        let mut command = self.ctr_command(line)?;
        command.stdin(std::process::Stdio::null());
        Running::start(command, &self.path("files"))
    }

    /// Starts `ctr` at a terminal.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn ctr_at_terminal(&self, line: &str) -> Result<Terminal> {
        Terminal::start(self.ctr_command(line)?)
    }

    /// Runs a program in the world's mount namespace; gives its standard output.
    ///
    /// # Errors
    ///
    /// It fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(Path::new(program));
        command.args(arguments);
        running::run(command, None, &self.path("files"))?.ok()
    }

    /// Imports an archive; `ctr` 2.1 does it itself if the daemon is too old for its transfer
    /// service.
    ///
    /// # Errors
    ///
    /// `ctr` fails.
    pub fn import(&self, archive: &Path) -> Result<String> {
        self.ctr(&format!("images import {} {}", self.local(), archive.display()))
    }

    /// Gives the daemon content by `ctr content ingest` with `arguments`, and keeps it by a label;
    /// gives its digest.
    ///
    /// # Errors
    ///
    /// `ctr` fails.
    pub fn ingest(&self, arguments: &str, bytes: &[u8]) -> Result<String> {
        let digest = image::digest(bytes);
        // Nothing refers to it: the label has to come before the collector.
        wait::until("the content to be there with a label", || {
            self.ctr_with_input(&format!("content ingest {arguments}"), Some(bytes))?.ok()?;
            self.ctr(&format!("content label {digest} containerd.io/gc.root=test"))
        })?;
        Ok(digest)
    }

    /// Has the daemon collect what nothing needs. There is no other collection before something is
    /// deleted: what a test makes after this without a lease stays.
    ///
    /// # Errors
    ///
    /// `ctr` fails.
    pub fn collect(&self) -> Result<()> {
        self.ctr("leases create --id collect")?;
        self.ctr("leases rm --sync collect").map(drop)
    }

    /// What `ctr` 2.1 has to be told where it would use the transfer service: `--local` if the
    /// daemon that runs is too old for it.
    #[must_use]
    pub fn local(&self) -> &'static str {
        let maker = self.daemon().ok().and_then(|daemon| Some(daemon.as_ref()?.maker()));
        let old = maker == Some(Maker::Bookworm) && self.options.ctr != Maker::Bookworm;
        if old { "--local" } else { "" }
    }

    /// Removes the sockets that containerd leaves where a shim was killed.
    ///
    /// # Errors
    ///
    /// A socket cannot be removed.
    pub fn forgive_sockets(&self) -> Result<()> {
        for path in leftovers::entries(&self.inside(Path::new("/run/containerd/s"))) {
            fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Removes the fifos that `ctr exec` leaves when the exec could not be started: its own fault.
    ///
    /// # Errors
    ///
    /// A folder cannot be removed.
    pub fn forgive_fifos(&self) -> Result<()> {
        for path in leftovers::entries(&self.inside(Path::new("/run/containerd/fifo"))) {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    /// A new connection to the daemon.
    ///
    /// # Errors
    ///
    /// The socket does not answer.
    pub fn client(&self) -> Result<Client> {
        Client::connect(&self.socket(), &self.namespace)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the daemon ({}) ----\n{}", self.options.daemon, self.log());
        }
        if let Ok(mut daemon) = self.daemon.lock() {
            drop(daemon.take());
        }
        self.end_processes();
        self.remove_cgroups();
    }
}

/// Makes a fifo for its owner alone.
///
/// # Errors
///
/// The system's.
pub fn make_fifo(path: &Path) -> Result<()> {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
        .with_context(|| path.display().to_string())
}

/// Runs `body` in a world with the image, and fails if it fails or leaves anything behind.
///
/// # Panics
///
/// On any failure: it is the last frame of a test.
pub fn check(options: Result<Options>, body: impl FnOnce(&World) -> Result<()>) {
    let outcome = options.and_then(World::with_image);
    finish(outcome, body);
}

/// As [`check`], in a world without an image.
///
/// # Panics
///
/// On any failure.
pub fn check_empty(options: Result<Options>, body: impl FnOnce(&World) -> Result<()>) {
    let outcome = options.and_then(World::new);
    finish(outcome, body);
}

/// As [`check`], in a world whose daemon the body starts itself.
///
/// # Panics
///
/// On any failure.
pub fn check_without_daemon(options: Result<Options>, body: impl FnOnce(&World) -> Result<()>) {
    let outcome = options.and_then(World::without_daemon);
    finish(outcome, body);
}

fn finish(world: Result<World>, body: impl FnOnce(&World) -> Result<()>) {
    match world {
        Err(error) => panic!("{error:?}"),
        Ok(world) => {
            if let Err(error) = body(&world).and_then(|()| world.assert_clean()) {
                // The world is still there: its log is printed while this panic unwinds.
                panic!("{error:?}");
            }
        }
    }
}
