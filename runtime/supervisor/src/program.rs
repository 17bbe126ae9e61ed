//! Running the program of a shim: `start`, `delete`, and asking for its version.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_shim::task::DeleteResponse;
use api_shim::{Any, Message as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::bootstrap::{Bootstrap, Dialect};
use crate::bundle::Bundle;
use crate::{Config, ShimError};

/// The most that is read of what a program writes: an answer, or an error with a stack trace.
const MAX_OUTPUT: u64 = 64 << 10;
/// How long the output may stay open after the program has ended. A shim that it left behind
/// should have closed it.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);
/// How long a program may take to tell its version.
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// How often a cleanup that was interrupted is run: a busy machine needs a second time at most.
const DELETES: u32 = 3;
/// How the words begin of a process that was killed.
const SIGNALLED: &str = "signal: ";
/// The most programs whose dialect is remembered; a node has a handful.
const MAX_REMEMBERED: usize = 256;

/// Runs shim programs, and remembers what dialect each speaks.
pub(crate) struct Programs {
    config: Arc<Config>,
    dialects: Mutex<HashMap<PathBuf, (Identity, Dialect)>>,
}

/// Tells one state of a file from another: device, inode, size, time of change.
type Identity = (u64, u64, u64, i64, i64);

/// What a program wrote, and how it ended.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Programs {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Programs { config, dialects: Mutex::default() }
    }

    /// Starts a shim for `bundle` and tells how it can be reached.
    ///
    /// Not cancel-safe: a shim may be left behind; its `delete` command takes it away.
    pub(crate) async fn start(
        &self,
        program: &Path,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<Bootstrap, ShimError> {
        let dialect = self.dialect(program).await;
        let namespace = bundle.namespace.as_str();
        let input = dialect.input(&self.config, namespace, &bundle.id, options);
        let mut command = self.command(program, bundle, &[]);
        command.arg("start");
        let limit = self.config.timeouts.shim_start;
        let output = run("start", program, command, &input, limit).await?;
        if !output.status.success() {
            let output_text = [&*output.stdout, &*output.stderr].concat();
            let text = String::from_utf8_lossy(output_text.trim_ascii()).into_owned();
            let status = status_text(output.status);
            return Err(ShimError::Failed { output: text, status });
        }
        Bootstrap::parse(&output.stdout)
    }

    /// Cleans up what a dead shim left, and tells how its task ended. One that takes too long, or
    /// is killed, has done a part of its work, and is run again.
    pub(crate) async fn delete(
        &self,
        program: &Path,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<DeleteResponse, ShimError> {
        for _ in 1..DELETES {
            match self.delete_once(program, bundle, options).await {
                Err(error) if was_interrupted(&error) => {
                    tracing::warn!(task = %bundle.object(), %error, "the cleanup was interrupted");
                }
                ended => return ended,
            }
        }
        self.delete_once(program, bundle, options).await
    }

    async fn delete_once(
        &self,
        program: &Path,
        bundle: &Bundle,
        options: Option<&Any>,
    ) -> Result<DeleteResponse, ShimError> {
        let path = bundle.path.to_string_lossy().into_owned();
        let mut command = self.command(program, bundle, &["-bundle", &path]);
        command.arg("delete");
        let input = options.map(Any::encode_to_vec).unwrap_or_default();
        let limit = self.config.timeouts.shim_cleanup;
        let output = run("delete", program, command, &input, limit).await?;
        let warnings = String::from_utf8_lossy(output.stderr.trim_ascii()).into_owned();
        if !output.status.success() {
            let status = status_text(output.status);
            return Err(ShimError::Failed { output: warnings, status });
        }
        if !warnings.is_empty() {
            tracing::warn!(task = %bundle.object(), "cleanup warnings {warnings}");
        }
        DeleteResponse::decode(&*output.stdout)
            .map_err(|error| ShimError::Answer { command: "delete", reason: error.to_string() })
    }

    /// The arguments, folder and environment that every command of a shim gets.
    fn command(&self, program: &Path, bundle: &Bundle, more: &[&str]) -> Command {
        let config = &self.config;
        let mut command = Command::new(program);
        command
            .args(["-namespace", bundle.namespace.as_str()])
            .args(["-address", &config.grpc_address])
            .arg("-publish-binary")
            .arg(&config.containerd_binary)
            .args(["-id", &bundle.id])
            .args(more);
        if config.debug {
            command.arg("-debug");
        }
        command
            .current_dir(&bundle.path)
            .env("GOMAXPROCS", "2")
            // COMPAT: a constant since 1.7; shims answer with the version they have.
            .env("MAX_SHIM_VERSION", "2")
            .env("TTRPC_ADDRESS", &config.ttrpc_address)
            .env("GRPC_ADDRESS", &config.grpc_address)
            .env("NAMESPACE", bundle.namespace.as_str())
            .envs(config.shim_env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// The dialect of a program; asked once for each state of its file.
    async fn dialect(&self, program: &Path) -> Dialect {
        let Ok(metadata) = std::fs::metadata(program) else { return Dialect::Options };
        let identity = (
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        );
        let known = {
            let dialects = self.dialects.lock().unwrap_or_else(PoisonError::into_inner);
            dialects.get(program).copied()
        };
        if let Some((known, dialect)) = known
            && known == identity
        {
            return dialect;
        }
        let mut command = Command::new(program);
        command.arg("-v").current_dir("/");
        let dialect = match run("version", program, command, &[], VERSION_LIMIT).await {
            Ok(output) => Dialect::of_version(&String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                tracing::debug!(%error, "shim does not tell its version");
                Dialect::Options
            }
        };
        let mut dialects = self.dialects.lock().unwrap_or_else(PoisonError::into_inner);
        if dialects.len() >= MAX_REMEMBERED {
            dialects.clear();
        }
        dialects.insert(program.to_owned(), (identity, dialect));
        dialect
    }
}

/// Runs a program to its end. It is killed when the limit passes or the future is dropped.
async fn run(
    name: &'static str,
    program: &Path,
    mut command: Command,
    input: &[u8],
    limit: Duration,
) -> Result<Output, ShimError> {
    let failed = |source| ShimError::Spawn { command: name, program: program.to_owned(), source };
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // As containerd does, so that signals for the daemon's terminal do not reach it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let work = async {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is as good: it may have ended already.
            let _ = stdin.write_all(input).await;
        }
        let out = child.stdout.take();
        let err = child.stderr.take();
        let status = {
            let read_out = async {
                if let Some(out) = out {
                    let _ = out.take(MAX_OUTPUT).read_to_end(&mut stdout).await;
                }
            };
            let read_err = async {
                if let Some(err) = err {
                    let _ = err.take(MAX_OUTPUT).read_to_end(&mut stderr).await;
                }
            };
            let mut read = std::pin::pin!(async { tokio::join!(read_out, read_err) });
            let mut open = true;
            let status = loop {
                tokio::select! {
                    _ = &mut read, if open => open = false,
                    status = child.wait() => break status,
                }
            };
            if open {
                let _ = tokio::time::timeout(OUTPUT_GRACE, read).await;
            }
            status.map_err(failed)?
        };
        Ok(Output { status, stdout, stderr })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ShimError::Timeout { command: name, program: program.to_owned(), limit }),
    }
}

/// True if a program did not come to its own end.
fn was_interrupted(error: &ShimError) -> bool {
    match error {
        ShimError::Timeout { .. } => true,
        ShimError::Failed { status, .. } => status.starts_with(SIGNALLED),
        _ => false,
    }
}

/// How a process ended, in Go's words.
fn status_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("{SIGNALLED}{signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}
