//! The tasks of a world, as `ctr` tells them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::World;
use crate::table::Table;
use crate::wait;

/// A task in `ctr tasks ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The process id; some daemons tell it of a task that has ended, others tell 0.
    pub pid: i32,
    /// `RUNNING`, `STOPPED`, ...
    pub status: String,
}

impl World {
    /// The tasks that the daemon knows, by their ids.
    ///
    /// # Errors
    ///
    /// `ctr` fails.
    pub fn tasks(&self) -> Result<BTreeMap<String, Task>> {
        let table = Table::parse(&self.ctr("tasks ls")?)?;
        let task = |row: &Vec<String>| -> Result<(String, Task)> {
            Ok((row[0].clone(), Task { pid: row[1].parse()?, status: row[2].clone() }))
        };
        table.rows.iter().map(task).collect()
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// The daemon does not know it.
    pub fn task(&self, id: &str) -> Result<Task> {
        let mut tasks = self.tasks()?;
        tasks.remove(id).with_context(|| format!("no task {id}: {tasks:?}"))
    }

    /// Waits until a task has `status`.
    ///
    /// # Errors
    ///
    /// It does not come to it.
    pub fn until_task(&self, id: &str, status: &str) -> Result<()> {
        wait::until(&format!("{id} to be {status}"), || {
            let task = self.task(id)?;
            ensure!(task.status == status, "{task:?}");
            Ok(())
        })
    }

    /// Ends the task of a container, whatever it does, and removes both.
    ///
    /// # Errors
    ///
    /// One of them is not there.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.ctr(&format!("tasks rm --force {id}"))?;
        self.ctr(&format!("containers rm {id}"))?;
        Ok(())
    }
}
