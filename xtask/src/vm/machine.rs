//! Booting the machine for one command.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{image, quoted};
use crate::command::target_dir;

/// The machine's memory in MiB: tests with limits in it, and their root file systems on tmpfs.
const MEMORY: u64 = 1536;

/// Where the machine's memory is kept, if there is room.
const MEMORY_FOLDER: &str = "/dev/shm";

/// Between two looks at the machine.
const PACE: Duration = Duration::from_millis(50);

/// Lines of the console that are shown when the machine did not get far.
const CONSOLE_LINES: usize = 60;

/// A machine that can be booted.
pub(super) struct Machine {
    folder: PathBuf,
}

/// A command for it.
pub(super) struct Job {
    /// For the shell.
    pub(super) script: String,
    /// Folders that it sees at the paths that they have here.
    pub(super) shared: Vec<PathBuf>,
    /// When it is given up.
    pub(super) limit: Duration,
}

/// A folder for one boot, removed afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Machine {
    /// The machine, made if it is not there yet.
    pub(super) fn get() -> Result<Machine> {
        Ok(Machine { folder: image::get()? })
    }

    /// Boots, runs, and gives the exit status. The output is ours; nothing that is written to the
    /// machine's own disk stays.
    pub(super) fn run(&self, job: &Job) -> Result<u8> {
        let scratch = target_dir().join(format!("vm-{}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let scratch = Scratch(scratch.canonicalize()?);
        let at = |name: &str| scratch.0.join(name);
        fs::write(at("command"), script(job)?)?;

        let mut command = Command::new("setpriv");
        // It ends with us, however we end.
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.folder.join("linux"));
        command.arg(format!("mem={MEMORY}M")).arg("umid=machine");
        command.arg(format!("uml_dir={}", scratch.0.display()));
        // What is written goes to another file than the disk.
        let disk = self.folder.join("disk.img");
        command.arg(format!("ubd0={},{}", at("changes").display(), disk.display()));
        command.args(["root=/dev/ubda", "rw", "quiet", "panic=1", "audit=0"]);
        command.args(["systemd.show_status=0", "con=null", "con0=null,fd:2", "con1=null,fd:1"]);
        command.arg(format!("hostfolder={}", scratch.0.display()));
        command.env("TMPDIR", memory_folder(&scratch.0)).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(at("console"))?);
        let mut child = command.spawn().context("cannot start User Mode Linux")?;
        let printed = child.stdout.take().map(|mut output| {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut output, &mut std::io::stdout());
            })
        });
        let ended = wait(&mut child, job.limit)?;
        if let Some(printed) = printed {
            let _ = printed.join();
        }
        let status = fs::read_to_string(at("status")).unwrap_or_default();
        match status.trim().parse() {
            Ok(status) => Ok(status),
            Err(_) if !ended => bail!("the machine did not end within {:?}", job.limit),
            Err(_) => {
                bail!("the machine ended without a status; its console:\n{}", tail(&at("console")))
            }
        }
    }
}

/// The job as a script, with its folders.
fn script(job: &Job) -> Result<String> {
    let mut script = String::new();
    for folder in &job.shared {
        let folder = folder
            .canonicalize()
            .with_context(|| format!("the shared folder {}", folder.display()))?;
        let folder = quoted(&folder.display().to_string());
        script += &format!(
            "mkdir -p {folder} && mount -t hostfs -o hostfs={folder} none {folder} || exit 125\n"
        );
    }
    script += &job.script;
    Ok(script)
}

/// A folder with room for the machine's memory: in memory, or else `other`.
fn memory_folder(other: &Path) -> PathBuf {
    let room = rustix::fs::statvfs(MEMORY_FOLDER)
        .map_or(0, |status| status.f_bavail.saturating_mul(status.f_frsize));
    if room > MEMORY << 21 { PathBuf::from(MEMORY_FOLDER) } else { other.to_owned() }
}

/// Waits for its end; false if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let end = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(PACE);
    }
    Ok(true)
}

fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}
