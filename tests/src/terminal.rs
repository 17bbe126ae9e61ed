//! Programs at a terminal of ours.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{process, running, wait};

/// A program whose three streams are a terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Terminal {
    /// Starts `command` at a new terminal of 80 columns and 24 rows.
    ///
    /// # Errors
    ///
    /// No terminal, or the program cannot be started.
    pub fn start(mut command: Command) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let side = File::from(rustix::fs::open(name.as_c_str(), flags, Mode::empty())?);
        let master = File::from(master);
        set_size(&master, 80, 24)?;
        command.stdin(Stdio::from(side.try_clone()?));
        command.stdout(Stdio::from(side.try_clone()?));
        command.stderr(Stdio::from(side));
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        drop(command);
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let reader = std::thread::spawn({
            let mut master = master.try_clone()?;
            let seen = Arc::clone(&seen);
            move || {
                let mut buffer = [0; 4096];
                // EIO is how a terminal ends.
                while let Ok(count @ 1..) = master.read(&mut buffer) {
                    if let Ok(mut seen) = seen.lock() {
                        seen.extend_from_slice(&buffer[..count]);
                    }
                }
            }
        });
        Ok(Terminal { child, master, seen, reader: Some(reader) })
    }

    /// Types `text`.
    ///
    /// # Errors
    ///
    /// The terminal is gone.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Gives the terminal another size and tells the program.
    ///
    /// # Errors
    ///
    /// The terminal or the program is gone.
    #[expect(clippy::cast_possible_wrap, reason = "the kernel's ids are positive i32")]
    pub fn resize(&mut self, columns: u16, rows: u16) -> Result<()> {
        set_size(&self.master, columns, rows)?;
        process::signal(self.child.id() as i32, Signal::WINCH)
    }

    /// All that was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        self.seen.lock().map(|seen| String::from_utf8_lossy(&seen).into_owned()).unwrap_or_default()
    }

    /// Waits until `text` is shown.
    ///
    /// # Errors
    ///
    /// It is not.
    pub fn until_shown(&self, text: &str) -> Result<String> {
        wait::until(&format!("{text:?} at the terminal"), || {
            let shown = self.shown();
            if shown.contains(text) { Ok(shown) } else { bail!("{shown:?}") }
        })
    }

    /// Gives the terminal that size until the program, which prints what `stty size` says again and
    /// again, has seen it. `ctr` looks for changes only some time after its start.
    ///
    /// # Errors
    ///
    /// The size is not seen.
    pub fn until_size(&mut self, columns: u16, rows: u16) -> Result<()> {
        let size = format!("{rows} {columns}");
        let already = self.shown().matches(&size).count();
        wait::until(&format!("the size {size}"), || {
            self.resize(columns, rows)?;
            let shown = self.shown();
            if shown.matches(&size).count() > already { Ok(()) } else { bail!("{shown:?}") }
        })
    }

    /// Waits for the end of the program; gives its status and all that was shown.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn wait(mut self) -> Result<(i32, String)> {
        let Some(status) = wait_child(&mut self.child, wait::PATIENCE)? else {
            bail!("the program at the terminal did not end: {:?}", self.shown());
        };
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok((running::code(status), self.shown()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn set_size(terminal: &File, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Waits for `child` at most that long.
///
/// # Errors
///
/// The kernel does not say.
pub fn wait_child(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(running::CHILD_PACE);
    }
}
