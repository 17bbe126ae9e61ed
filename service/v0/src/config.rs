//! What the API has to know.

use std::path::PathBuf;
use std::time::Duration;

use base_ident::Namespace;

/// Events that are kept for replay, unless the configuration says otherwise; as in 0.2.
pub(crate) const RETAIN_COUNT: usize = 500;

/// How long a start may take, unless the configuration says otherwise; as in 0.2.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The settings of the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace in which its containers are seen by the newer services.
    pub namespace: Namespace,
    /// Where what clients told and the log of events are kept, in 0.2's layout; on tmpfs.
    pub state_dir: PathBuf,
    /// Where programs that are made from runtime arguments are kept; must not be mounted `noexec`.
    pub root: PathBuf,
    /// How many events are kept for replay; zero keeps all.
    pub retain_count: usize,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// How many starts run at once.
    pub max_concurrent_starts: usize,
    /// The OCI runtime of containers that name none.
    pub runtime: String,
    /// Its global arguments.
    pub runtime_args: Vec<String>,
    /// What clients are told as revision.
    pub revision: String,
}

impl Config {
    /// 0.2's defaults for the given folders.
    #[must_use]
    pub fn new(namespace: Namespace, state_dir: PathBuf, root: PathBuf) -> Self {
        Config {
            namespace,
            state_dir,
            root,
            retain_count: RETAIN_COUNT,
            start_timeout: START_TIMEOUT,
            max_concurrent_starts: 10,
            runtime: "runc".to_owned(),
            runtime_args: Vec::new(),
            revision: String::new(),
        }
    }
}
