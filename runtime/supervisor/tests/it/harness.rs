//! A daemon's surroundings without the daemon: folders, the socket for events, a supervisor.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_shim::events::{TaskDelete, TaskExit};
use api_shim::ttrpc_events::{EVENTS_SERVICE, Events, EventsServer, ForwardRequest};
use api_shim::typeurl;
use api_ttrpc::{Context, ListenOptions, Server, Status, bind};
use base_ident::Namespace;
use runtime_event::{Envelope, Exchange, Subscription};
use runtime_supervisor::{Config, CreateTask, NoContainers, Runtime, Supervisor};

/// Far beyond what anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Passes events of shims to the supervisor of the moment.
struct Ear(Arc<Mutex<Option<Supervisor>>>);

impl Events for Ear {
    async fn forward(&self, _context: &Context, request: ForwardRequest) -> Result<(), Status> {
        let supervisor = self.0.lock().unwrap().clone();
        let supervisor = supervisor.ok_or_else(Status::closed)?;
        Ok(supervisor.forward(&request)?)
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) namespace: Namespace,
    pub(crate) config: Config,
    pub(crate) exchange: Exchange,
    pub(crate) events: Subscription,
    pub(crate) supervisor: Supervisor,
    current: Arc<Mutex<Option<Supervisor>>>,
    server: Server,
    listening: tokio::task::JoinHandle<()>,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Node::with(|_| {}).await
    }

    /// A node whose configuration is changed first.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::Builder::new().prefix("ih-").tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut config = Config::new(path("root"), path("state"), path("g.sock"), path("t.sock"));
        change(&mut config);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::new(&format!("ih-{}-{number}", process::id())).unwrap();
        let exchange = Exchange::new();
        let events = exchange.subscribe::<&str>(&[]).unwrap();
        let supervisor =
            Supervisor::new(config.clone(), exchange.clone(), Arc::new(NoContainers)).unwrap();
        let current = Arc::new(Mutex::new(Some(supervisor.clone())));
        let ear = Arc::new(EventsServer::new(Ear(Arc::clone(&current))));
        let server = Server::new().register(EVENTS_SERVICE, ear);
        let listener = bind(Path::new(&config.ttrpc_address)).await.unwrap();
        let listening = tokio::spawn({
            let server = server.clone();
            async move { server.serve(listener, ListenOptions::default()).await.unwrap() }
        });
        Node { folder, namespace, config, exchange, events, supervisor, current, server, listening }
    }

    /// The daemon ends, and another one starts.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start();
    }

    /// The daemon ends; shims live on.
    pub(crate) async fn stop(&mut self) {
        *self.current.lock().unwrap() = None;
        self.supervisor.shutdown().await;
    }

    /// A new daemon starts.
    pub(crate) fn start(&mut self) {
        self.supervisor =
            Supervisor::new(self.config.clone(), self.exchange.clone(), Arc::new(NoContainers))
                .unwrap();
        *self.current.lock().unwrap() = Some(self.supervisor.clone());
    }

    /// The next event of a task; waits for it.
    pub(crate) async fn event(&mut self) -> Arc<Envelope> {
        tokio::time::timeout(PATIENCE, self.events.next()).await.expect("an event")
    }

    /// Waits for events until one has `topic`; gives all topics up to it and the event.
    pub(crate) async fn events_until(&mut self, topic: &str) -> (Vec<String>, Arc<Envelope>) {
        let mut topics = Vec::new();
        loop {
            let event = self.event().await;
            topics.push(event.topic.as_str().to_owned());
            if event.topic.as_str() == topic {
                return (topics, event);
            }
        }
    }

    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.config.bundles().join(self.namespace.as_str()).join(id)
    }

    /// Writes a program into the node's folder.
    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A task of the shim program `shim`, without a spec.
    pub(crate) fn request(&self, shim: &Path, id: &str) -> CreateTask {
        let runtime = Runtime { name: shim.display().to_string(), options: None };
        CreateTask { id: id.to_owned(), runtime, ..CreateTask::default() }
    }

    /// Ends everything and looks that nothing is left: bundles, work folders, operations, mounts
    /// and processes of this node.
    pub(crate) async fn finish(mut self) {
        self.stop().await;
        assert_eq!(self.supervisor.operations(), [], "operations in flight");
        for root in [self.config.bundles(), self.config.work()] {
            let folder = root.join(self.namespace.as_str());
            let left: Vec<_> = fs::read_dir(&folder)
                .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
                .unwrap_or_default();
            assert_eq!(left, Vec::<PathBuf>::new(), "folders");
        }
        self.server.close();
        self.listening.await.unwrap();
        let path = self.folder.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&path)).collect();
        assert_eq!(mounts, Vec::<&str>::new(), "mounts");
        until("no process of this node", || processes(&path).is_empty()).await;
    }
}

/// The pids of all processes that have `text` in their arguments.
pub(crate) fn processes(text: &str) -> Vec<u32> {
    let pids = kernel_process::pids().unwrap().into_iter();
    let has = |pid: &i32| {
        let words = kernel_process::arguments(*pid).unwrap_or_default();
        words.iter().any(|word| String::from_utf8_lossy(word).contains(text))
    };
    let others = |pid: &u32| *pid != process::id();
    pids.filter(has).filter_map(|pid| pid.try_into().ok()).filter(others).collect()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

pub(crate) fn exit_of(event: &Envelope) -> TaskExit {
    typeurl::decode(&event.event).unwrap()
}

pub(crate) fn delete_of(event: &Envelope) -> TaskDelete {
    typeurl::decode(&event.event).unwrap()
}
