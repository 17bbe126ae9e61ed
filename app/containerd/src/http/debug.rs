//! `/debug/…`: the paths of Go's pprof and expvar, as far as they mean something here, and the
//! operations in flight.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base_telemetry::metrics::Collect as _;
use base_telemetry::process::ProcessCollector;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use runtime_supervisor::{Operation, Supervisor};

use super::{Answer, Handler, not_found, text};

/// The longest CPU profile, in seconds.
const MAX_SECONDS: u64 = 600;

/// The usual length of a CPU profile, in seconds; as Go's.
const SECONDS: u64 = 30;

const PLAIN: &str = "text/plain; charset=utf-8";

/// Answers developers.
pub struct Debug {
    /// Whose operations are shown.
    pub supervisor: Supervisor,
}

impl Handler for Debug {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/debug/vars" => {
                let mut figures = String::new();
                ProcessCollector.collect(&mut figures);
                let arguments: Vec<String> = std::env::args().collect();
                let body = serde_json::json!({ "cmdline": arguments, "process": figures });
                text(StatusCode::OK, "application/json; charset=utf-8", body.to_string())
            }
            "/debug/tasks" | "/debug/pprof/goroutine" => {
                text(StatusCode::OK, PLAIN, tasks(&self.supervisor.operations()))
            }
            "/debug/pprof/cmdline" => {
                let arguments: Vec<String> = std::env::args().collect();
                text(StatusCode::OK, PLAIN, arguments.join("\0"))
            }
            "/debug/pprof/profile" => {
                let asked = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
                let seconds = asked.map_or(Ok(SECONDS), str::parse);
                match seconds {
                    Ok(seconds) if (1..=MAX_SECONDS).contains(&seconds) => {
                        profile(Duration::from_secs(seconds)).await
                    }
                    _ => text(
                        StatusCode::BAD_REQUEST,
                        PLAIN,
                        format!("seconds must be 1 to {MAX_SECONDS}\n"),
                    ),
                }
            }
            "/debug/pprof" | "/debug/pprof/" => text(
                StatusCode::OK,
                PLAIN,
                "/debug/pprof/profile?seconds=30\tCPU profile, pprof format\n\
                 /debug/pprof/cmdline\tcommand line\n\
                 /debug/tasks\toperations in flight\n\
                 /debug/vars\tprocess figures\n",
            ),
            _ => not_found(),
        }
    }
}

/// The operations in flight as a table, the oldest first.
pub fn tasks(operations: &[Operation]) -> String {
    let mut table = format!("{} operations in flight\n", operations.len());
    let now = SystemTime::now();
    for operation in operations {
        let age = now.duration_since(operation.started).unwrap_or_default();
        let _ = write!(
            table,
            "#{} {} {}: {} for {:.3} s",
            operation.id,
            operation.kind,
            operation.object,
            operation.phase,
            age.as_secs_f64()
        );
        if let Some(deadline) = operation.deadline {
            let _ = write!(table, " of {:.3} s", deadline.as_secs_f64());
        }
        table.push('\n');
    }
    table
}

/// Samples this process for `time`.
#[cfg(feature = "profiling")]
async fn profile(time: Duration) -> Answer {
    use pprof::protos::Message as _;

    /// Samples a second; as Go's.
    const FREQUENCY: i32 = 100;

    let failed = |error: &dyn std::fmt::Display| {
        text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("cannot profile: {error}\n"))
    };
    let guard = match pprof::ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&["libc", "libgcc", "pthread", "vdso"])
        .build()
    {
        Ok(guard) => guard,
        Err(error) => return failed(&error),
    };
    tokio::time::sleep(time).await;
    let report = guard.report().build().and_then(|report| report.pprof());
    let profile = match report {
        Ok(profile) => profile,
        Err(error) => return failed(&error),
    };
    text(StatusCode::OK, "application/octet-stream", profile.encode_to_vec())
}

/// Says that profiles are not built in.
#[cfg(not(feature = "profiling"))]
async fn profile(_time: Duration) -> Answer {
    text(StatusCode::NOT_IMPLEMENTED, PLAIN, "built without the feature `profiling`\n")
}
