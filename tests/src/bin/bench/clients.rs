//! A side with the clients that call it.

use anyhow::Result;
use tokio::task::JoinSet;

use crate::api::{self, Lane, Template};
use crate::rounds::AsSide;
use crate::side::{Plan, Side};
use crate::slow::SlowDaemon;

/// Clients where many are meant.
pub const MANY: usize = 16;

/// A side with its clients, each with its own connection, and what a measure keeps beside them.
pub struct Clients<T = ()> {
    // Before the side: the daemon ends before its folders go.
    slow: Option<SlowDaemon>,
    /// The side.
    pub side: Side,
    runtime: tokio::runtime::Runtime,
    /// The connections.
    pub lanes: Vec<Lane>,
    /// What the measure keeps.
    pub with: T,
    next: usize,
}

impl<T> AsSide for Clients<T> {
    fn as_side(&self) -> &Side {
        &self.side
    }
}

impl Clients {
    /// So many clients for each side of `plan`; the sides have the small image if wanted.
    ///
    /// # Errors
    ///
    /// A daemon does not start.
    pub fn of(plan: &Plan, with_image: bool, count: usize) -> Result<Vec<Clients>> {
        let sides = plan.sides(with_image)?.into_iter();
        sides.map(|side| Clients::connect(side, count)).collect()
    }

    fn connect(side: Side, count: usize) -> Result<Clients> {
        let runtime = api::runtime()?;
        let lanes = runtime.block_on(Lane::connect_many(&side.world, count))?;
        Ok(Clients { slow: None, side, runtime, lanes, with: (), next: 0 })
    }

    /// With a template of containers that run `command`.
    ///
    /// # Errors
    ///
    /// The side has no image, or a call fails.
    pub fn with_template(self, command: &str) -> Result<Clients<Template>> {
        let taken = Template::take(&self.side.world, &self.lanes[0], command);
        let with = self.runtime.block_on(taken)?;
        let Clients { slow, side, runtime, lanes, with: (), next } = self;
        Ok(Clients { slow, side, runtime, lanes, with, next })
    }
}

impl<T> Clients<T> {
    /// From now on with a daemon whose syncs take time.
    ///
    /// # Errors
    ///
    /// strace is not there, or the daemon does not answer.
    pub fn slowed(mut self) -> Result<Self> {
        let count = self.lanes.len();
        self.lanes.clear();
        self.slow = Some(SlowDaemon::start(&self.side)?);
        self.lanes = self.runtime.block_on(Lane::connect_many(&self.side.world, count))?;
        Ok(self)
    }

    /// Runs `future` in the one thread of all clients.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The first of `count` numbers that no other round has: names are never used again.
    pub fn numbers(&mut self, count: usize) -> usize {
        let first = self.next;
        self.next += count;
        first
    }

    /// Has the first `count` clients work at the same time, each with its number; gives what each
    /// of them gives, in no order.
    ///
    /// # Errors
    ///
    /// The first error of a client.
    pub fn at_once<V, F>(&self, count: usize, work: impl Fn(usize, Lane) -> F) -> Result<Vec<V>>
    where
        V: Send + 'static,
        F: Future<Output = Result<V>> + Send + 'static,
    {
        self.block_on(async {
            let mut clients = JoinSet::new();
            for (number, lane) in self.lanes.iter().take(count).cloned().enumerate() {
                clients.spawn(work(number, lane));
            }
            let mut given = Vec::with_capacity(count);
            while let Some(ended) = clients.join_next().await {
                given.push(ended??);
            }
            Ok(given)
        })
    }
}
