//! A daemon that runs.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::programs::Maker;
use crate::terminal::wait_child;
use crate::{process, running, wait};

/// A daemon's process. It is killed when this value is dropped; its shims are not.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    maker: Maker,
}

impl Daemon {
    /// Starts `command` with its outputs in a new file of `folder`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(mut command: Command, folder: &Path, maker: Maker) -> Result<Daemon> {
        let number = fs::read_dir(folder)?.count();
        let log = File::create(folder.join(format!("{number:03}-{maker}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start the daemon ({maker})"))?;
        Ok(Daemon { child, maker })
    }

    /// Who made it.
    #[must_use]
    pub fn maker(&self) -> Maker {
        self.maker
    }

    /// Its process id.
    #[must_use]
    #[expect(clippy::cast_possible_wrap, reason = "the kernel's ids are positive i32")]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its status if it has ended.
    ///
    /// # Errors
    ///
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(running::code))
    }

    /// SIGKILL.
    ///
    /// # Errors
    ///
    /// The kernel does not let us.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; gives the exit status.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn stop(mut self) -> Result<i32> {
        process::signal(self.pid(), Signal::TERM)?;
        match wait_child(&mut self.child, wait::PATIENCE)? {
            Some(status) => Ok(running::code(status)),
            None => bail!("the daemon ({}) did not end at SIGTERM", self.maker),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
