//! Containers that are started again when they end: the labels of containerd's restart monitor, and
//! what they ask for.
//!
//! [`RestartMonitor`] acts on events: an exit, a changed label, a dead shim. On its interval, and
//! when the daemon starts, it looks at all containers with the label, for what no event has told.

mod monitor;

use std::collections::BTreeMap;
use std::time::SystemTime;

use api_shim::process::Status;
use api_shim::{Any, types};
use base_errors::{Class, Coded};
use base_ident::Namespace;
use futures_util::future::BoxFuture;

use crate::Runtime;

pub use monitor::RestartMonitor;

/// What a container shall be: `running` or `stopped`. Containers without it are left alone.
pub const STATUS_LABEL: &str = "containerd.io/restart.status";
/// When it is started again: see [`Policy`].
pub const POLICY_LABEL: &str = "containerd.io/restart.policy";
/// How often it was.
pub const COUNT_LABEL: &str = "containerd.io/restart.count";
/// `true` if its user has stopped it.
pub const EXPLICITLY_STOPPED_LABEL: &str = "containerd.io/restart.explicitly-stopped";
/// Where its output goes when it is started again, as a URI.
pub const LOG_URI_LABEL: &str = "containerd.io/restart.loguri";
/// The same as a path. COMPAT: containerd 1.x; since 2.0 it is told that nobody reads it.
pub const LOG_PATH_LABEL: &str = "containerd.io/restart.logpath";

/// What the plugin can do, as introspection shows it.
pub const POLICIES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Never.
    No,
    /// Whatever it ended with; also without a policy.
    Always,
    /// If its status was not zero, that often at most; zero means without a limit.
    OnFailure(u64),
    /// Always, unless its user has stopped it.
    UnlessStopped,
}

/// A label that makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// No such policy.
    #[error("restart policy {0:?} not supported")]
    Policy(String),
    /// Only failures are counted.
    #[error("restart policy {0:?}: a maximum can only be set for on-failure")]
    Maximum(String),
    /// The maximum is no number.
    #[error("restart policy {0:?}: invalid max retry count")]
    Count(String),
}

impl Coded for RestartError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }
}

impl Policy {
    /// Reads the label.
    ///
    /// # Errors
    /// [`RestartError`] if it is no policy.
    pub fn parse(label: &str) -> Result<Policy, RestartError> {
        let (name, maximum) = match label.split_once(':') {
            Some((name, maximum)) => (name, Some(maximum)),
            None => (label, None),
        };
        let plain = |policy| match maximum {
            None => Ok(policy),
            Some(_) => Err(RestartError::Maximum(label.to_owned())),
        };
        match name {
            "" | "always" => plain(Policy::Always),
            "no" => plain(Policy::No),
            "unless-stopped" => plain(Policy::UnlessStopped),
            "on-failure" => match maximum.unwrap_or("0").parse() {
                Ok(maximum) => Ok(Policy::OnFailure(maximum)),
                Err(_) => Err(RestartError::Count(label.to_owned())),
            },
            _ => Err(RestartError::Policy(label.to_owned())),
        }
    }

    /// True if a container with these labels that ended with `status` is to be started again.
    #[must_use]
    pub fn wants(self, labels: &BTreeMap<String, String>, status: u32) -> bool {
        match self {
            Policy::No => false,
            Policy::Always => true,
            Policy::OnFailure(maximum) => status != 0 && (maximum == 0 || count(labels) < maximum),
            Policy::UnlessStopped => !is_true(labels.get(EXPLICITLY_STOPPED_LABEL)),
        }
    }
}

/// How often the container was started again.
fn count(labels: &BTreeMap<String, String>) -> u64 {
    labels.get(COUNT_LABEL).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The words that Go reads as true.
fn is_true(label: Option<&String>) -> bool {
    label.is_some_and(|text| ["1", "t", "T", "TRUE", "true", "True"].contains(&text.as_str()))
}

/// Where the output of the next process goes; empty for nowhere.
fn log_uri(labels: &BTreeMap<String, String>) -> String {
    let label = |key| labels.get(key).filter(|text| !text.is_empty());
    match (label(LOG_URI_LABEL), label(LOG_PATH_LABEL)) {
        (Some(uri), _) => uri.clone(),
        (None, Some(path)) => format!("file://{path}"),
        (None, None) => String::new(),
    }
}

/// What the monitor sees of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// There is none.
    Absent,
    /// Its shim does not answer: nobody knows.
    Unsure,
    /// Its init process, and its exit status if it has ended.
    Process(Status, u32),
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// A task that is there is removed first.
    Start,
    Stop,
    /// Somebody may just be at it: if it still is so after the interval, it is started.
    StartLater,
}

/// The step for a container with these labels. `settled` says that nobody has touched the container
/// for the interval, or that its shim has died: then nobody else is about to start it.
/// `last` is the status that the task ended with which is not there any more.
fn decide(labels: &BTreeMap<String, String>, seen: Seen, settled: bool, last: Option<u32>) -> Step {
    let wants = |status| {
        let policy = labels.get(POLICY_LABEL).map_or("", String::as_str);
        match Policy::parse(policy) {
            Ok(policy) => policy.wants(labels, status),
            Err(error) => {
                tracing::error!(%error, "policy reconcile");
                false
            }
        }
    };
    let start = |wanted| match (wanted, settled) {
        (false, _) => Step::Nothing,
        (true, true) => Step::Start,
        (true, false) => Step::StartLater,
    };
    match (labels.get(STATUS_LABEL).map(String::as_str), seen) {
        // Never on doubt.
        (_, Seen::Unsure) => Step::Nothing,
        (Some("running"), Seen::Absent) => start(wants(last.unwrap_or(0))),
        // A client is between create and start, or has gone away there.
        (Some("running"), Seen::Process(Status::Created, _)) => start(wants(0)),
        (Some("running"), Seen::Process(Status::Stopped, status)) if wants(status) => Step::Start,
        (
            Some("stopped"),
            Seen::Process(Status::Created | Status::Running | Status::Paused | Status::Pausing, _),
        ) => Step::Stop,
        _ => Step::Nothing,
    }
}

/// A container, as its record has it.
#[derive(Clone, Debug)]
pub struct RestartContainer {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its spec.
    pub spec: Option<Any>,
    /// Its runtime.
    pub runtime: Runtime,
    /// The sandbox that it belongs to, if any.
    pub sandbox_id: String,
    /// The snapshotter of its root file system.
    pub snapshotter: String,
    /// The key of its root file system, empty for none.
    pub snapshot_key: String,
    /// When the record was changed.
    pub updated_at: SystemTime,
}

/// What the monitor asks of the records.
pub trait RestartRecords: Send + Sync + 'static {
    /// The containers of all namespaces that have [`STATUS_LABEL`].
    fn labelled(&self) -> Vec<(Namespace, String)>;

    /// A container, `None` if there is none.
    fn container(&self, namespace: &Namespace, id: &str) -> Option<RestartContainer>;

    /// What is to be mounted for a container.
    fn rootfs<'a>(
        &'a self,
        namespace: &'a Namespace,
        container: &'a RestartContainer,
    ) -> BoxFuture<'a, base_errors::Result<Vec<types::Mount>>>;

    /// Sets one label of a container.
    fn set_label<'a>(
        &'a self,
        namespace: &'a Namespace,
        id: &'a str,
        key: &'static str,
        value: String,
    ) -> BoxFuture<'a, base_errors::Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn policies_are_read() {
        for (label, policy) in [
            ("", Policy::Always),
            ("always", Policy::Always),
            ("no", Policy::No),
            ("unless-stopped", Policy::UnlessStopped),
            ("on-failure", Policy::OnFailure(0)),
            ("on-failure:3", Policy::OnFailure(3)),
        ] {
            assert_eq!(Policy::parse(label).unwrap(), policy, "{label}");
        }
        for bad in ["sometimes", "always:3", "no:", "on-failure:", "on-failure:-1", "on-failure:x"]
        {
            assert_eq!(Policy::parse(bad).unwrap_err().class(), Class::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn a_stopped_task_is_started_by_its_policy() {
        let step = |policy: &str, more: &[(&str, &str)], status| {
            let mut all = labels(&[(STATUS_LABEL, "running"), (POLICY_LABEL, policy)]);
            all.extend(labels(more));
            decide(&all, Seen::Process(Status::Stopped, status), false, None)
        };
        for (policy, more, status, expected) in [
            ("", &[][..], 0, Step::Start),
            ("always", &[(EXPLICITLY_STOPPED_LABEL, "true")], 0, Step::Start),
            ("no", &[], 1, Step::Nothing),
            ("never heard of", &[], 1, Step::Nothing),
            ("on-failure", &[], 0, Step::Nothing),
            ("on-failure", &[(COUNT_LABEL, "1000")], 1, Step::Start),
            ("on-failure:2", &[], 137, Step::Start),
            ("on-failure:2", &[(COUNT_LABEL, "1")], 137, Step::Start),
            ("on-failure:2", &[(COUNT_LABEL, "2")], 137, Step::Nothing),
            ("unless-stopped", &[], 0, Step::Start),
            ("unless-stopped", &[(EXPLICITLY_STOPPED_LABEL, "false")], 0, Step::Start),
            ("unless-stopped", &[(EXPLICITLY_STOPPED_LABEL, "1")], 0, Step::Nothing),
        ] {
            assert_eq!(step(policy, more, status), expected, "{policy} {more:?} {status}");
        }
    }

    #[test]
    fn what_runs_or_is_in_doubt_is_left_alone() {
        let running = labels(&[(STATUS_LABEL, "running")]);
        let stopped = labels(&[(STATUS_LABEL, "stopped")]);
        for status in [Status::Running, Status::Paused, Status::Pausing, Status::Unknown] {
            assert_eq!(decide(&running, Seen::Process(status, 0), true, None), Step::Nothing);
        }
        for labels in [&running, &stopped] {
            assert_eq!(decide(labels, Seen::Unsure, true, Some(1)), Step::Nothing);
        }
        let none = decide(&labels(&[]), Seen::Process(Status::Stopped, 1), true, None);
        assert_eq!(none, Step::Nothing);
        for seen in [Seen::Absent, Seen::Process(Status::Stopped, 1)] {
            assert_eq!(decide(&stopped, seen, true, None), Step::Nothing);
        }
        let unknown = Seen::Process(Status::Unknown, 0);
        assert_eq!(decide(&stopped, unknown, true, None), Step::Nothing);
        for status in [Status::Running, Status::Paused, Status::Created] {
            assert_eq!(decide(&stopped, Seen::Process(status, 0), false, None), Step::Stop);
        }
    }

    #[test]
    fn a_task_that_a_client_may_be_about_to_make_is_waited_for() {
        let always = labels(&[(STATUS_LABEL, "running")]);
        let failure = labels(&[(STATUS_LABEL, "running"), (POLICY_LABEL, "on-failure")]);
        for seen in [Seen::Absent, Seen::Process(Status::Created, 0)] {
            assert_eq!(decide(&always, seen, false, None), Step::StartLater);
            assert_eq!(decide(&always, seen, true, None), Step::Start);
            assert_eq!(decide(&failure, seen, true, None), Step::Nothing);
        }
        assert_eq!(decide(&failure, Seen::Absent, true, Some(137)), Step::Start);
    }

    #[test]
    fn the_log_has_two_labels() {
        assert_eq!(log_uri(&labels(&[])), "");
        assert_eq!(log_uri(&labels(&[(LOG_PATH_LABEL, "/var/log/a")])), "file:///var/log/a");
        let both = labels(&[(LOG_PATH_LABEL, "/a"), (LOG_URI_LABEL, "binary:///b?c=d")]);
        assert_eq!(log_uri(&both), "binary:///b?c=d");
    }
}
