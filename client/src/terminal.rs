//! The caller's own terminal: raw mode, and its size.

use std::fs::File;
use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal that this program was started in, in raw mode; dropping it restores the mode.
#[derive(Debug)]
pub struct RawTerminal {
    file: File,
    before: Termios,
}

impl RawTerminal {
    /// Takes the terminal among the standard streams and makes it raw.
    ///
    /// # Errors
    /// If none of them is a terminal, or it does not obey.
    pub fn take() -> io::Result<RawTerminal> {
        let streams = [
            rustix::stdio::stderr().try_clone_to_owned(),
            rustix::stdio::stdout().try_clone_to_owned(),
            rustix::stdio::stdin().try_clone_to_owned(),
        ];
        // The first that is one, in the order in which containerd's console looks.
        let fd = streams.into_iter().flatten().find(|fd| isatty(fd)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::Unsupported, "provided file is not a console")
        })?;
        let before = tcgetattr(&fd)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&fd, OptionalActions::Now, &raw)?;
        Ok(RawTerminal { file: File::from(fd), before })
    }

    /// The terminal as a file, to read and to write.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Columns and rows.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn size(&self) -> io::Result<(u32, u32)> {
        let size = tcgetwinsize(&self.file)?;
        Ok((u32::from(size.ws_col), u32::from(size.ws_row)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.file, OptionalActions::Now, &self.before);
    }
}
