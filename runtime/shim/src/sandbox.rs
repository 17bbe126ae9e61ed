//! The sandbox service: a shim that holds a group of containers, without any process of its own.
//!
//! The sandbox is the shim itself: it is ready once it was started, and has ended once it was
//! stopped. Its containers are made through the task service; to stop the sandbox kills them, and
//! to shut it down deletes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api_shim::sandbox::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, Sandbox, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use api_shim::types::{Metric, Platform};
use api_ttrpc::{Context, Status};
use base_errors::{Error, Result};
use base_ident::validate_identifier;
use kernel_cgroup::Group;
use tokio::sync::watch;

use crate::lock;
use crate::service::Service;

/// Sandboxes of one shim; one is the rule.
const MAX_SANDBOXES: usize = 64;

/// How long containers may take to end when the sandbox is stopped, if the caller does not say: all
/// of them are killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The sandboxes of this shim.
pub(crate) struct Sandboxes {
    service: Arc<Service>,
    all: Mutex<BTreeMap<String, Arc<State>>>,
}

/// One sandbox: when it was started, when it was stopped.
#[derive(Default)]
struct State {
    started: Mutex<Option<SystemTime>>,
    stopped: watch::Sender<Option<SystemTime>>,
}

impl Sandboxes {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Sandboxes { service, all: Mutex::default() }
    }

    fn find(&self, id: &str) -> Result<Arc<State>> {
        let missing = || Error::not_found(format!("sandbox {id}"));
        lock(&self.all).get(id).cloned().ok_or_else(missing)
    }

    fn add(&self, id: &str) -> Result<()> {
        validate_identifier(id)?;
        let mut all = lock(&self.all);
        if all.contains_key(id) {
            return Err(Error::already_exists(format!("sandbox {id}")));
        }
        if all.len() >= MAX_SANDBOXES {
            return Err(Error::resource_exhausted(format!("{MAX_SANDBOXES} sandboxes")));
        }
        all.insert(id.to_owned(), Arc::default());
        self.service.set_sandboxes(all.len());
        Ok(())
    }

    /// The control group that all containers are in, if it is theirs alone.
    fn group(&self) -> Option<Group> {
        let groups: Vec<Group> =
            self.service.all().iter().filter_map(|one| lock(&one.group).clone()).collect();
        let parent = groups.first()?.parent()?;
        if groups.iter().any(|group| group.parent().as_ref() != Some(&parent)) {
            return None;
        }
        let ours: BTreeSet<i32> =
            groups.iter().filter_map(|group| group.pids(true).ok()).flatten().collect();
        let there = parent.pids(true).ok()?;
        there.iter().all(|pid| ours.contains(pid)).then_some(parent)
    }

    fn begin(&self, id: &str) -> Result<StartSandboxResponse> {
        let state = self.find(id)?;
        let mut started = lock(&state.started);
        if started.is_some() {
            return Err(Error::already_exists(format!("sandbox {id} runs")));
        }
        let now = SystemTime::now();
        *started = Some(now);
        Ok(StartSandboxResponse {
            pid: std::process::id(),
            created_at: Some(now.into()),
            ..Default::default()
        })
    }
}

impl State {
    fn stop(&self) {
        self.stopped.send_if_modified(|stopped| {
            let first = stopped.is_none();
            if first {
                *stopped = Some(SystemTime::now());
            }
            first
        });
    }
}

impl Sandbox for Sandboxes {
    async fn create_sandbox(
        &self,
        _: &Context,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse, Status> {
        self.add(&request.sandbox_id)?;
        Ok(CreateSandboxResponse {})
    }

    async fn start_sandbox(
        &self,
        _: &Context,
        request: StartSandboxRequest,
    ) -> Result<StartSandboxResponse, Status> {
        Ok(self.begin(&request.sandbox_id)?)
    }

    async fn platform(&self, _: &Context, _: PlatformRequest) -> Result<PlatformResponse, Status> {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform = Platform {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            ..Default::default()
        };
        Ok(PlatformResponse { platform: Some(platform) })
    }

    async fn stop_sandbox(
        &self,
        _: &Context,
        request: StopSandboxRequest,
    ) -> Result<StopSandboxResponse, Status> {
        let state = self.find(&request.sandbox_id)?;
        if lock(&self.all).len() == 1 {
            let told = Duration::from_secs(request.timeout_secs.into());
            let limit = if told.is_zero() { STOP_LIMIT } else { told };
            self.service.kill_all(limit).await?;
        }
        state.stop();
        Ok(StopSandboxResponse {})
    }

    async fn wait_sandbox(
        &self,
        context: &Context,
        request: WaitSandboxRequest,
    ) -> Result<WaitSandboxResponse, Status> {
        let state = self.find(&request.sandbox_id)?;
        let mut stopped = state.stopped.subscribe();
        let ended = tokio::select! {
            ended = stopped.wait_for(Option::is_some) => ended.ok().and_then(|ended| *ended),
            () = context.cancelled() => return Err(Status::closed()),
        };
        Ok(WaitSandboxResponse { exit_status: 0, exited_at: ended.map(Into::into) })
    }

    async fn sandbox_status(
        &self,
        _: &Context,
        request: SandboxStatusRequest,
    ) -> Result<SandboxStatusResponse, Status> {
        let state = self.find(&request.sandbox_id)?;
        let (started, stopped) = (*lock(&state.started), *state.stopped.borrow());
        let ready = started.is_some() && stopped.is_none();
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: if ready { std::process::id() } else { 0 },
            state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.to_owned(),
            created_at: started.map(Into::into),
            exited_at: stopped.map(Into::into),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &Context, _: PingRequest) -> Result<PingResponse, Status> {
        Ok(PingResponse {})
    }

    async fn shutdown_sandbox(
        &self,
        _: &Context,
        request: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse, Status> {
        // A sandbox that is gone is what was asked for.
        let left = {
            let mut all = lock(&self.all);
            if let Some(state) = all.remove(&request.sandbox_id) {
                state.stop();
            }
            self.service.set_sandboxes(all.len());
            all.len()
        };
        if left == 0 {
            if let Err(error) = self.service.kill_all(STOP_LIMIT).await {
                tracing::warn!(%error, sandbox = request.sandbox_id, "shut down");
            }
            self.service.delete_all().await;
            self.service.leave_if_empty();
        }
        Ok(ShutdownSandboxResponse {})
    }

    async fn sandbox_metrics(
        &self,
        _: &Context,
        request: SandboxMetricsRequest,
    ) -> Result<SandboxMetricsResponse, Status> {
        self.find(&request.sandbox_id)?;
        // COMPAT: a sandbox without anything to measure has an answer without metrics.
        let Some(group) = self.group() else { return Ok(SandboxMetricsResponse::default()) };
        let metrics = group.metrics().map_err(Error::from)?;
        let metric = Metric {
            timestamp: Some(SystemTime::now().into()),
            id: request.sandbox_id,
            data: Some(metrics.to_any()),
        };
        Ok(SandboxMetricsResponse { metrics: Some(metric) })
    }
}
