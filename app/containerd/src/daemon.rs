//! The daemon's life: start, serve, stop.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api_grpc::operations::operations_server::OperationsServer;
use base_plugin::{Outcome, Plugins, types};
use base_telemetry::logs::{self, Format};
use base_telemetry::metrics::{Collect, Registry, head, sample};
use base_telemetry::process::ProcessCollector;
use futures_util::future::BoxFuture;
use runtime_supervisor::Supervisor;
use runtime_supervisor::restart::RestartMonitor;
use service_grpc::metering::MeteringLayer;
use service_grpc::server::{self, Dispatcher, GrpcService};
use service_grpc::ttrpc_events::ShimEvents;
use service_grpc::{Deprecations, OperationsService, PluginReport, Stores};
use tokio::signal::unix::{SignalKind, signal};
use tower::Layer as _;

use crate::builtins::{self, Surroundings};
use crate::config::{Loaded, PluginTables, deprecated};
use crate::v0::Asked;
use crate::{cli, http, recovery, sockets, tls};

/// Threads that serve: more do not help a daemon whose work is elsewhere.
const MAX_WORKERS: usize = 4;

/// Threads that wait for disks: each may hold a stack, and a disk has few heads.
const MAX_BLOCKING_THREADS: usize = 32;

/// Arenas of the allocator: each one keeps memory of its own.
const MALLOC_ARENAS: i32 = 2;

/// How long a stop waits for what is in flight.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Mode of the root folder: what is in it is for root alone.
const ROOT_MODE: u32 = 0o700;

/// Mode of the state folder: others may pass to sockets and fifos.
const STATE_MODE: u32 = 0o711;

/// Starts the daemon and serves until a signal ends it.
pub fn run(loaded: Loaded) -> Result<()> {
    let started = Instant::now();
    let Loaded { config, provenance, warnings } = loaded;
    let level = logs::parse_level(&config.debug.level).unwrap_or(tracing::Level::INFO);
    let format = if config.debug.format == "json" { Format::Json } else { Format::Text };
    let _level = logs::init(level, format);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    kernel_process::tune_malloc(MALLOC_ARENAS);
    tracing::info!(revision = cli::REVISION, version = cli::VERSION, "starting containerd");
    folder(&config.root, ROOT_MODE)?;
    folder(&config.state, STATE_MODE)?;
    temporary_folder(&config.temp)?;
    place_process(config.oom_score, &config.cgroup.path);
    let temporary_mounts = config.root.join("tmpmounts");
    folder(&temporary_mounts, ROOT_MODE)?;
    for error in kernel_mount::clean_temp_mounts(&temporary_mounts) {
        tracing::warn!(%error, "cleaning up temporary mounts");
    }
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers.min(MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let _entered = runtime.enter();
    let (marker, recovered) = recovery::run(&config, &runtime);
    let tables = Rc::new(PluginTables::new(&config, provenance));
    let surroundings = Rc::new(Surroundings {
        config,
        tables: Rc::clone(&tables),
        metrics: Registry::default(),
        report: PluginReport::default(),
        deprecations: Deprecations::default(),
        incomplete: marker.is_incomplete(),
        v0: std::cell::OnceCell::new(),
    });
    recovered.publish(&surroundings.metrics);
    let config = &surroundings.config;
    for what in deprecated(&config.plugins) {
        tracing::warn!("{}", what.message());
        surroundings.deprecations.note(what);
    }
    let plugins =
        builtins::graph(&surroundings).start(&config.disabled_plugins, &config.root, &config.state);
    for warning in tables.warnings(&builtins::configured()) {
        tracing::warn!("{warning}");
    }
    required(&plugins, &config.required_plugins)?;
    surroundings.report.set(plugins.list());
    let served = runtime.block_on(serve(&surroundings, plugins, started));
    // Threads that still wait for a disk are left to the end of the process.
    runtime.shutdown_background();
    if served.is_ok() {
        marker.stop();
    }
    served
}

/// Fails if a plugin that the configuration requires is not there.
fn required(plugins: &Plugins, wanted: &[String]) -> Result<()> {
    for uri in wanted {
        let found =
            plugins.list().iter().find(|loaded| format!("{}.{}", loaded.kind, loaded.id) == *uri);
        match found.map(|loaded| &loaded.outcome) {
            Some(Outcome::Loaded) => {}
            Some(Outcome::Skipped(reason)) => bail!("load required plugin {uri}: {reason}"),
            Some(Outcome::Failed(error)) => bail!("load required plugin {uri}: {error}"),
            None => bail!("required plugin {uri} not included"),
        }
    }
    Ok(())
}

/// Makes the folder for temporary files, if one is configured, and tells it to ourselves and to all
/// programs that we start.
fn temporary_folder(temp: &str) -> Result<()> {
    if temp.is_empty() {
        return Ok(());
    }
    folder(Path::new(temp), ROOT_MODE)?;
    kernel_process::set_variable("TMPDIR", temp)
        .map_err(|error| anyhow::anyhow!("export TMPDIR: {error}"))
}

/// Makes `path` with `mode`, or gives it that mode as far as we may.
fn folder(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        outcome => outcome.with_context(|| format!("chmod {}", path.display())),
    }
}

/// The daemon's own OOM score and control group. Neither is worth not starting for.
fn place_process(oom_score: i32, cgroup: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    if oom_score != 0
        && let Err(error) = kernel_process::set_oom_score_adj(own, oom_score)
    {
        tracing::warn!(%error, oom_score, "cannot set our OOM score");
    }
    if cgroup.is_empty() {
        return;
    }
    let joined = kernel_cgroup::Hierarchies::load()
        .and_then(|hierarchies| kernel_cgroup::Group::create(&hierarchies, cgroup))
        .and_then(|group| group.add(own));
    if let Err(error) = joined {
        tracing::warn!(%error, cgroup, "cannot join the control group");
    }
}

/// `containerd_build_info_total`.
struct BuildInfo;

impl Collect for BuildInfo {
    fn collect(&self, text: &mut String) {
        let name = "containerd_build_info_total";
        head(text, name, "containerd build information", "counter");
        let labels = [("version", cli::VERSION), ("revision", cli::REVISION)];
        sample(text, name, &labels, "1");
    }
}

/// Opens the sockets, adopts the shims and waits for a signal.
async fn serve(surroundings: &Surroundings, plugins: Plugins, started: Instant) -> Result<()> {
    let config = &surroundings.config;
    let supervisor: Arc<Supervisor> = plugins
        .get(types::RUNTIME, "task")
        .map_err(|error| anyhow::anyhow!("the runtime is needed: {error}"))?;
    // Calls on tasks that are not adopted yet wait for them, so sockets need not.
    let adoption = supervisor.adopt_all();
    if let Some(api) = surroundings.v0.get() {
        api.restore();
    }
    let metrics = surroundings.metrics.clone();
    metrics.register(Arc::new(BuildInfo));
    metrics.register(Arc::new(ProcessCollector));
    metrics.register(Arc::new(http::OperationMetrics((*supervisor).clone())));
    if !config.debug.address.is_empty() {
        let owner = (config.debug.uid, config.debug.gid);
        let handler = http::Debug { supervisor: (*supervisor).clone() };
        http::serve(&config.debug.address, owner, handler).await.context("debug listener")?;
    }
    let metering = MeteringLayer::new(&metrics, config.metrics.grpc_histogram);
    if !config.metrics.address.is_empty() {
        let handler = http::Metrics(metrics);
        http::serve(&config.metrics.address, (0, 0), handler).await.context("metrics listener")?;
    }
    let ttrpc_path = config.ttrpc_address();
    let (uid, gid) = if config.ttrpc.address.is_empty() {
        (config.grpc.uid, config.grpc.gid)
    } else {
        (config.ttrpc.uid, config.ttrpc.gid)
    };
    let ttrpc = sockets::listen(Path::new(&ttrpc_path), uid, gid)?;
    let grpc = sockets::listen(Path::new(&config.grpc.address), config.grpc.uid, config.grpc.gid)?;
    let shims = serve_shims((*supervisor).clone(), ttrpc);
    let services = metering.layer(dispatcher(&plugins, &supervisor)?);
    let old_clients = serve_old_clients(&config.v0, services.clone()).await?;
    if let (Some(api), Some(report)) = (surroundings.v0.get(), &config.v0.report) {
        let (api, report) = (api.clone(), report.clone());
        // Nobody waits for it.
        tokio::spawn(async move { api.report(report).await });
    }
    let clients = server::serve(grpc, services);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    // A client that closes its socket must not end us.
    let mut pipe = signal(SignalKind::pipe())?;
    tracing::info!(address = config.grpc.address, "serving...");
    tracing::info!(address = ttrpc_path, "serving ttrpc...");
    // COMPAT: tools wait for this line.
    tracing::info!("containerd successfully booted in {:.6}s", started.elapsed().as_secs_f64());
    notify(sd_notify::NotifyState::Ready);
    // Restarts need to know which tasks there are.
    let restarts = plugins.get::<RestartMonitor>(types::CONTAINER_MONITOR, "restart").ok();
    let adopting = tokio::spawn(async move {
        adoption.await;
        if let Some(monitor) = restarts
            && let Err(error) = (*monitor).clone().run().await
        {
            tracing::error!(%error, "restart monitor");
        }
    });
    // The backup may know more than a database that is incomplete.
    if !surroundings.incomplete
        && let Ok(stores) = plugins.get::<Stores>(types::METADATA, "bolt")
    {
        tokio::spawn(back_up((*stores).clone()));
    }
    tokio::pin!(clients, old_clients, shims);
    loop {
        tokio::select! {
            () = &mut clients => bail!("the gRPC server ended"),
            () = &mut old_clients => bail!("the gRPC server ended"),
            ended = &mut shims => {
                ended.context("the ttrpc server ended")?;
                bail!("the ttrpc server ended");
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = dump.recv() => dump_tasks(&supervisor),
            _ = pipe.recv() => {}
        }
    }
    tracing::info!("stopping");
    notify(sd_notify::NotifyState::Stopping);
    adopting.abort();
    if tokio::time::timeout(STOP_TIMEOUT, supervisor.shutdown()).await.is_err() {
        tracing::warn!(timeout = ?STOP_TIMEOUT, "work in flight is left to the next start");
    }
    Ok(())
}

/// Copies `meta.db` from time to time, if anything has changed. Nobody waits for it.
async fn back_up(stores: Stores) {
    loop {
        tokio::time::sleep(recovery::BACKUP_INTERVAL).await;
        let metadata = stores.metadata.clone();
        let copied = tokio::task::spawn_blocking(move || {
            let path = metadata.path().to_owned();
            if recovery::worth_a_backup(&path, metadata.txid()?) {
                metadata.backup(recovery::backup_path(&path))?;
            }
            Ok::<(), base_errors::Error>(())
        });
        if let Ok(Err(error)) = copied.await {
            tracing::warn!(%error, "no backup of the metadata");
        }
    }
}

/// Listens where the command line of 0.2 says, if that is not the unix socket; gives what serves
/// there.
async fn serve_old_clients<S>(asked: &Asked, services: S) -> Result<BoxFuture<'static, ()>>
where
    S: server::Serve,
{
    let Some(address) = asked.tcp else { return Ok(Box::pin(std::future::pending())) };
    let secure = asked.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("listen on {address}"))?;
    tracing::info!(%address, tls = secure.is_some(), "serving...");
    Ok(match secure {
        None => Box::pin(server::serve_tcp(listener, services)),
        Some(tls) => {
            let secure = move |stream| tls.accept(stream);
            Box::pin(server::serve_secured(listener, services, secure))
        }
    })
}

/// Serves the events of shims; only processes of our own user may connect.
async fn serve_shims(
    supervisor: Supervisor,
    listener: tokio::net::UnixListener,
) -> std::io::Result<()> {
    let server = api_ttrpc::Server::new().register(
        api_shim::ttrpc_events::EVENTS_SERVICE,
        Arc::new(api_shim::ttrpc_events::EventsServer::new(ShimEvents(supervisor))),
    );
    let own = rustix::process::geteuid().as_raw();
    server.serve(listener, api_ttrpc::ListenOptions { require_uid: Some(own) }).await
}

/// All services of the plugins, with reflection.
fn dispatcher(plugins: &Plugins, supervisor: &Supervisor) -> Result<Dispatcher> {
    let services = plugins
        .all::<GrpcService>(types::GRPC)
        .map_err(|error| anyhow::anyhow!("gRPC services: {error}"))?;
    let mut dispatcher = Dispatcher::default();
    for service in services.values() {
        dispatcher.add((**service).clone());
    }
    // No plugin, so that the list of plugins stays containerd's.
    let operations = OperationsServer::new(OperationsService(supervisor.clone()));
    dispatcher.add(GrpcService::new(operations));
    dispatcher.add(GrpcService::new(api_grpc::reflection_v1()?));
    dispatcher.add(GrpcService::new(api_grpc::reflection_v1alpha()?));
    Ok(dispatcher)
}

/// Tells systemd; without systemd, nobody.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// SIGUSR1: the operations in flight, to the log and to a file.
fn dump_tasks(supervisor: &Supervisor) {
    let table = http::tasks(&supervisor.operations());
    let path = std::env::temp_dir().join(format!("containerd.{}.stacks.log", std::process::id()));
    if let Err(error) = fs::write(&path, &table) {
        tracing::warn!(%error, path = %path.display(), "cannot write the dump");
    }
    tracing::info!("=== BEGIN task dump ===\n{table}=== END task dump ===");
}
