//! Programs that a test starts.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{process, wait};

/// What a program said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit status; 128 and the signal's number if a signal ended it.
    pub status: i32,
}

impl Output {
    /// Standard output if the program ended with 0.
    ///
    /// # Errors
    ///
    /// It did not; the text has all that it said.
    pub fn ok(self) -> Result<String> {
        if self.status != 0 {
            bail!("{self}");
        }
        Ok(self.stdout)
    }

    /// Standard error if the program did not end with 0.
    ///
    /// # Errors
    ///
    /// It did; the text has all that it said.
    pub fn failed(self) -> Result<String> {
        if self.status == 0 {
            bail!("expected a failure: {self}");
        }
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Output { command, stdout, stderr, status } = self;
        write!(formatter, "{command}: status {status}\n--stdout--\n{stdout}\n--stderr--\n{stderr}")
    }
}

/// A program that runs beside the test. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `command` with its outputs in files below `folder` (files, not pipes: what runs on
    /// after the program does not keep the test waiting). Standard input is empty unless set.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(mut command: Command, folder: &Path) -> Result<Running> {
        let shown = show(&command);
        let number = next_number();
        let stdout = folder.join(format!("{number}.out"));
        let stderr = folder.join(format!("{number}.err"));
        command.stdout(File::create(&stdout).context("make an output file")?);
        command.stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("start {shown}"))?;
        Ok(Running { child, command: shown, stdout, stderr })
    }

    /// Its process id.
    #[must_use]
    #[expect(clippy::cast_possible_wrap, reason = "the kernel's ids are positive i32")]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until the standard output has `text`.
    ///
    /// # Errors
    ///
    /// It does not come, or the program ends without it.
    pub fn until_stdout(&mut self, text: &str) -> Result<String> {
        let what = format!("{text:?} from {}", self.command);
        wait::until(&what, || {
            let seen = self.stdout();
            if seen.contains(text) { Ok(seen) } else { bail!("{seen}\n{}", self.stderr()) }
        })
    }

    /// The exit status if it has ended.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(code))
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It does not end in time; it is killed then.
    pub fn wait(mut self) -> Result<Output> {
        let pid = self.pid();
        let ended = crate::terminal::wait_child(&mut self.child, wait::PATIENCE)?;
        let Some(status) = ended else {
            let _ = self.child.kill();
            let _ = self.child.wait();
            bail!(
                "{} (pid {pid}) did not end\n--stdout--\n{}\n--stderr--\n{}",
                self.command,
                self.stdout(),
                self.stderr()
            );
        };
        Ok(Output {
            stdout: self.stdout(),
            stderr: self.stderr(),
            status: code(status),
            command: std::mem::take(&mut self.command),
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.pid(), signal)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end, with `stdin` as its input, files in `folder`.
///
/// # Errors
///
/// It cannot be started or does not end.
pub fn run(mut command: Command, stdin: Option<&[u8]>, folder: &Path) -> Result<Output> {
    match stdin {
        None => command.stdin(Stdio::null()),
        Some(bytes) => {
            let path = folder.join(format!("{}.in", next_number()));
            fs::write(&path, bytes)?;
            command.stdin(File::open(path)?)
        }
    };
    Running::start(command, folder)?.wait()
}

/// The status as a shell gives it.
#[must_use]
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The command without the folders of its program.
fn show(command: &Command) -> String {
    let words: Vec<_> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = command.get_program().to_string_lossy().into_owned();
    format!("{program} {}", words.join(" "))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Numbers for file names.
fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How long a look at a child may sleep between two looks.
pub(crate) const CHILD_PACE: Duration = Duration::from_millis(3);
