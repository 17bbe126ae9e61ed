//! The command line of containerd 0.2: `docker-containerd`, or `containerd v0`.
//!
//! It needs no configuration file. Everything that lasts or runs is below its state folder:
//!
//! ```text
//! <state-dir>/<id>/          containers, and events.log, in 0.2's layout
//! <state-dir>/.containerd/   root and state of the newer parts, and their sockets
//! ```

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use service_v0::{Address, Report, Sink};

use crate::config::{Config, Loaded, Provenance, parse_duration};
use crate::{daemon, tls};

/// The name under which Docker 1.11 to 1.13 start their daemon.
const NAME: &str = "docker-containerd";
/// The word that means the same.
const WORD: &str = "v0";
/// Descriptors that a daemon of many containers may need.
const OPEN_FILES: u64 = 1 << 20;
/// The plugin's table in the configuration.
const PLUGIN: &str = "io.containerd.grpc.v1.api-v0";

/// What this command line asks for beside what a configuration says.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Where to listen, if not on a unix socket.
    pub tcp: Option<SocketAddr>,
    /// With what that listener is made safe.
    pub tls: Option<tls::Files>,
    /// Reports of metrics.
    pub report: Option<Report>,
}

/// High performance container daemon: the API of containerd 0.2
#[derive(Debug, Parser)]
#[command(name = NAME, version = crate::cli::LONG_VERSION, disable_version_flag = true)]
struct Arguments {
    /// Enable debug output in the logs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set)]
    debug: bool,
    /// Set log level
    #[arg(long, default_value = "")]
    log_level: String,
    /// Runtime state directory
    #[arg(long, default_value = "/run/containerd")]
    state_dir: PathBuf,
    /// Interval for flushing metrics to the store
    #[arg(long, default_value = "5m0s")]
    metrics_interval: String,
    /// proto://address on which the GRPC API will listen
    #[arg(short, long, default_value = "unix:///run/containerd/containerd.sock")]
    listen: String,
    /// Certificate for a tcp:// address
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificate authorities of clients; without them only loopback addresses are served
    #[arg(long, requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Name or path of the OCI compliant runtime to use when executing containers
    #[arg(short, long, default_value = "runc")]
    runtime: String,
    /// Specify additional runtime args
    #[arg(long, allow_hyphen_values = true)]
    runtime_args: Vec<String>,
    /// Name or path of shim; kept for old callers, containers run below ours
    #[arg(long, default_value = "containerd-shim")]
    shim: String,
    /// http address to listen for pprof events
    #[arg(long, default_value = "")]
    pprof_address: String,
    /// Timeout duration for waiting on a container to start before it is killed
    #[arg(long, default_value = "30s")]
    start_timeout: String,
    /// Number of past events to keep in the event log
    #[arg(long, default_value_t = 500)]
    retain_count: usize,
    /// Address of graphite server
    #[arg(long, default_value = "")]
    graphite_address: String,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The words for this command line if it is meant: by the program's name, or by the first word.
pub fn words() -> Option<Vec<OsString>> {
    words_of(std::env::args_os().collect())
}

fn words_of(mut words: Vec<OsString>) -> Option<Vec<OsString>> {
    let named = |word: &OsString| Path::new(word).file_name() == Some(OsStr::new(NAME));
    if words.first().is_some_and(named) {
        return Some(words);
    }
    if words.get(1).is_some_and(|word| word == WORD) {
        words.remove(1);
        return Some(words);
    }
    None
}

/// Does what `words` ask for.
pub fn run(words: Vec<OsString>) -> Result<()> {
    let arguments = Arguments::parse_from(words);
    let loaded = arguments.loaded()?;
    // As 0.2; a container costs a few.
    if let Err(error) = kernel_process::raise_nofile(OPEN_FILES) {
        bail!("raise the limit of open files: {error}");
    }
    daemon::run(loaded)
}

impl Arguments {
    /// The reports of metrics that the flags ask for.
    ///
    /// COMPAT: debugging means reports on the standard output. An address alone is enough for
    /// reports to it, which 0.2 sent only while debugging.
    fn report(&self, warnings: &mut Vec<String>) -> Result<Option<Report>> {
        let interval = duration("metrics-interval", &self.metrics_interval)?;
        let sink = if self.graphite_address.is_empty() {
            if !self.debug {
                return Ok(None);
            }
            Sink::Stdout
        } else {
            Sink::graphite(&self.graphite_address)?
        };
        if interval.is_zero() {
            if !self.graphite_address.is_empty() {
                let text = "--graphite-address has no effect without a --metrics-interval";
                warnings.push(text.to_owned());
            }
            return Ok(None);
        }
        Ok(Some(Report { interval, sink }))
    }

    /// The configuration that the flags stand for.
    fn loaded(&self) -> Result<Loaded> {
        duration("start-timeout", &self.start_timeout)?;
        let mut warnings = Vec::new();
        let state_dir = std::path::absolute(&self.state_dir).context("--state-dir")?;
        let ours = state_dir.join(".containerd");
        let mut config = Config {
            root: ours.join("root"),
            state: ours.join("state"),
            imports: Vec::new(),
            ..Config::default()
        };
        let sockets = ours.join("sockets");
        config.ttrpc.address = text(&sockets.join("ttrpc"))?;
        let certificate = self.tls_cert.clone().zip(self.tls_key.clone());
        config.v0 = Asked {
            tcp: None,
            tls: certificate.map(|(certificate, key)| tls::Files {
                certificate,
                key,
                clients: self.tls_ca.clone(),
            }),
            report: self.report(&mut warnings)?,
        };
        match Address::parse(&self.listen, self.tls_ca.is_some())? {
            Address::Unix(path) => {
                if config.v0.tls.is_some() {
                    bail!("--tls-cert is for tcp:// alone, not for {}", self.listen);
                }
                config.grpc.address = text(&path)?;
            }
            Address::Tcp(address) => {
                config.grpc.address = text(&sockets.join("grpc"))?;
                config.v0.tcp = Some(address);
            }
        }
        config.debug.address.clone_from(&self.pprof_address);
        config.debug.level = if self.debug { "debug".to_owned() } else { self.log_level.clone() };
        config.check()?;
        let table = toml::Table::try_from(BTreeMap::from([
            ("start_timeout", toml::Value::from(self.start_timeout.clone())),
            ("retain_count", toml::Value::from(i64::try_from(self.retain_count)?)),
            ("runtime", toml::Value::from(self.runtime.clone())),
            ("runtime_args", toml::Value::from(self.runtime_args.clone())),
            ("state_dir", toml::Value::from(text(&state_dir)?)),
        ]))?;
        config.plugins.insert(PLUGIN.to_owned(), table);
        config.required_plugins = vec![PLUGIN.to_owned()];
        Ok(Loaded { config, provenance: Provenance::default(), warnings })
    }
}

fn duration(flag: &str, text: &str) -> Result<Duration> {
    parse_duration(text).with_context(|| format!("--{flag}: {text:?} is no duration"))
}

fn text(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is no text", path.display()))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(line: &str) -> Result<Loaded> {
        let mut words = vec![NAME];
        words.extend(line.split_whitespace());
        Arguments::try_parse_from(words)?.loaded()
    }

    #[test]
    fn the_name_and_the_word_mean_this_command_line() {
        let words = |line: &str| {
            let words = line.split(' ').map(OsString::from).collect();
            words_of(words).map(|words| words.len())
        };
        assert_eq!(words("/usr/bin/docker-containerd -l x"), Some(3));
        assert_eq!(words("containerd v0 --debug"), Some(2));
        assert_eq!(words("containerd --config v0"), None);
        assert_eq!(words("containerd"), None);
    }

    #[test]
    fn the_command_lines_of_docker() {
        let old =
            loaded("-l /var/run/docker/c.sock --runtime docker-runc --debug --metrics-interval=0");
        let config = old.unwrap().config;
        assert_eq!(
            (config.grpc.address.as_str(), config.debug.level.as_str()),
            ("/var/run/docker/c.sock", "debug")
        );
        let new = loaded(
            "-l unix:///var/run/docker/libcontainerd/docker-containerd.sock --shim docker-containerd-shim \
             --metrics-interval=0 --start-timeout 2m --state-dir /var/run/docker/libcontainerd/containerd \
             --runtime docker-runc --runtime-args --systemd-cgroup=true --runtime-args --root=/x",
        );
        let config = new.unwrap().config;
        let table = &config.plugins[PLUGIN];
        assert_eq!(table["start_timeout"].as_str(), Some("2m"));
        assert_eq!(table["runtime_args"].as_array().unwrap().len(), 2);
        assert_eq!(table["state_dir"].as_str(), Some("/var/run/docker/libcontainerd/containerd"));
        assert!(config.state.starts_with("/var/run/docker/libcontainerd/containerd/.containerd"));
    }

    #[test]
    fn defaults_are_those_of_0_2() {
        let config = loaded("").unwrap().config;
        assert_eq!(config.grpc.address, "/run/containerd/containerd.sock");
        let table = &config.plugins[PLUGIN];
        assert_eq!(table["runtime"].as_str(), Some("runc"));
        assert_eq!(table["retain_count"].as_integer(), Some(500));
        assert_eq!(table["start_timeout"].as_str(), Some("30s"));
    }

    #[test]
    fn reports_of_metrics() {
        let report = |line: &str| loaded(line).unwrap().config.v0.report;
        assert_eq!(report(""), None);
        assert_eq!(report("--debug --metrics-interval=0"), None);
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let stdout = Report { interval: minutes(5), sink: Sink::Stdout };
        assert_eq!(report("--debug"), Some(stdout));
        let sink = Sink::Graphite("localhost:2003".to_owned());
        let graphite = Report { interval: minutes(1), sink };
        assert_eq!(
            report("--graphite-address localhost:2003 --metrics-interval 1m"),
            Some(graphite)
        );
        let off = loaded("--graphite-address localhost:2003 --metrics-interval 0s").unwrap();
        assert!(off.config.v0.report.is_none() && off.warnings.len() == 1);
    }

    #[test]
    fn bad_flags_are_refused() {
        let tcp = |line: &str| loaded(line).unwrap().config.v0;
        assert!(tcp("--listen tcp://127.0.0.1:7000").tls.is_none());
        assert!(tcp("--listen tcp://127.0.0.1:7000 --tls-cert c --tls-key k").tls.is_some());
        assert!(tcp("--listen tcp://:7000 --tls-cert c --tls-key k --tls-ca a").tcp.is_some());
        for bad in [
            "--listen tcp://0.0.0.0:7000",
            "--listen tcp://0.0.0.0:7000 --tls-cert c --tls-key k",
            "--listen tcp://127.0.0.1:7000 --tls-cert c",
            "--listen tcp://127.0.0.1:7000 --tls-ca a",
            "--tls-cert c --tls-key k",
            "--graphite-address nowhere",
            "--metrics-interval often",
            "--listen http://x",
            "--start-timeout soon",
            "--retain-count -1",
            "--no-such-flag",
            "--log-level loud",
        ] {
            assert!(loaded(bad).is_err(), "{bad}");
        }
    }
}
