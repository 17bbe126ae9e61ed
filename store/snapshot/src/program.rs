//! Running the programs that make file systems and devices.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::SnapshotError;

/// The longest run of a program: a file system is made in seconds, also on a slow disk.
const DEADLINE: Duration = Duration::from_secs(300);
/// The pause between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(2);
/// The most of its output that is kept.
const MAX_OUTPUT: u64 = 64 << 10;

/// What a program said.
pub(crate) struct Output {
    /// It ended with 0.
    pub(crate) success: bool,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs a program to its end, with more environment, and gives what it said. Blocks; after [`DEADLINE`] it is killed.
///
/// # Errors
/// If it does not start, or does not end.
pub(crate) fn output<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: &[S],
    environment: &[(&str, &str)],
) -> Result<Output, SnapshotError> {
    let fail = |reason: String| SnapshotError::Program { program: program.to_owned(), reason };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let out = scope.spawn(move || stdout.map(read_all).unwrap_or_default());
        let err = scope.spawn(move || stderr.map(read_all).unwrap_or_default());
        let start = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if start.elapsed() > DEADLINE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break Err(fail(format!("was killed after {} seconds", DEADLINE.as_secs())));
                }
                Ok(None) => std::thread::sleep(PAUSE),
                Err(error) => break Err(fail(error.to_string())),
            }
        };
        let (stdout, stderr) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        Ok(Output { success: status?.success(), stdout, stderr })
    })
}

/// Runs a program that has to succeed; gives its standard output.
///
/// # Errors
/// With what it said, if it fails.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(
    program: &str,
    arguments: &[S],
) -> Result<String, SnapshotError> {
    let output = output(program, arguments, &[])?;
    if output.success {
        return Ok(output.stdout);
    }
    let reason = format!("{}{}", output.stderr, output.stdout).trim().to_owned();
    Err(SnapshotError::Program { program: program.to_owned(), reason })
}

/// Reads to the end, and keeps the first part.
fn read_all(mut stream: impl std::io::Read) -> String {
    let mut kept = Vec::new();
    let _ = stream.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
    // The rest is read all the same, so that the program does not stand still.
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
