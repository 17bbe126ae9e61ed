//! Figures of control groups, as the shims read them.

use api_shim::task::{StatsRequest, StatsResponse};
use api_shim::types::Metric;
use base_ident::Namespace;
use base_ident::filter::Filter;
use futures_util::StreamExt as _;

use crate::TaskError;
use crate::connection::CallError;
use crate::delete::now;
use crate::supervisor::Supervisor;
use crate::task::Task;

/// How many shims are asked for their figures at once.
const WIDTH: usize = 16;

impl Supervisor {
    /// The figures of the tasks of a namespace that match any of `filters` (`id`, `namespace`), of
    /// all if there is none. A shim that does not answer in time is left out, and not asked again
    /// until it answers.
    ///
    /// # Errors
    /// Invalid argument if a filter does not parse.
    pub async fn metrics<S: AsRef<str>>(
        &self,
        namespace: &Namespace,
        filters: &[S],
    ) -> base_errors::Result<Vec<Metric>> {
        let filter = Filter::parse_all(filters).map_err(TaskError::Filter)?;
        let mut tasks = self.inner.live_in(namespace);
        tasks.retain(|task| !task.is_silent());
        tasks.retain(|task| {
            filter.matches(&|path: &[&str]| match path.first().copied() {
                Some("id") => Some(task.id().to_owned()),
                Some("namespace") => Some(namespace.as_str().to_owned()),
                _ => None,
            })
        });
        let figures = futures_util::stream::iter(tasks)
            .map(|task| async move { self.stats(&task).await })
            .buffered(WIDTH);
        Ok(figures.filter_map(std::future::ready).collect().await)
    }

    async fn stats(&self, task: &Task) -> Option<Metric> {
        let timestamp = Some(now());
        let limit = Some(self.inner.config.timeouts.shim_stats);
        let _operation = self.inner.operation("stats", &task.bundle.namespace, task.id(), limit);
        let request = StatsRequest { id: task.id().to_owned() };
        let answer: Result<StatsResponse, CallError> =
            task.connection.call("Stats", &request, limit).await;
        match answer {
            Ok(answer) => Some(Metric { timestamp, id: task.id().to_owned(), data: answer.stats }),
            Err(error) => {
                if !error.is_not_found() {
                    let error = base_errors::Error::from(error);
                    tracing::error!(task = %task.bundle.object(), %error, "collecting metrics");
                }
                None
            }
        }
    }
}
