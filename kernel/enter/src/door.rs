//! The caller's side: this program on a read-only mount, and a command for each order.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{ARGUMENT, Order};

/// Under which number the helper finds its order.
pub(crate) const ORDER: RawFd = 3;

/// The longest answer that is read: a step and the system's text.
const MAX_ANSWER: u64 = 4 << 10;

/// The file of this program, on a mount of its own that is read-only and in no mount namespace.
#[derive(Debug)]
pub struct Door {
    program: OwnedFd,
}

/// An order on its way; it becomes the answer.
#[derive(Debug)]
pub struct Ordered {
    file: File,
}

impl Door {
    /// Opens it. It holds one descriptor.
    ///
    /// # Errors
    /// Those of [`kernel_mount::read_only_copy`].
    pub fn open() -> base_fs::Result<Self> {
        let program = kernel_mount::read_only_copy(Path::new("/proc/self/exe"))?;
        Ok(Door { program })
    }

    /// The command that carries out `order`, without standard streams yet, and the place of its
    /// answer. The command ends with 0 when the process runs.
    ///
    /// # Errors
    /// The system's, where memory or descriptors have run out.
    pub fn command(&self, order: &Order) -> io::Result<(Command, Ordered)> {
        let mut file = File::from(memfd_create("order", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(order)?)?;
        file.rewind()?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0(crate::helper::NAME).arg(ARGUMENT).env_clear();
        kernel_process::map_descriptors(&mut command, vec![(file.try_clone()?.into(), ORDER)])?;
        Ok((command, Ordered { file }))
    }
}

impl Ordered {
    /// Why the order was declined, after the command has ended with something else than 0.
    #[must_use]
    pub fn reason(mut self) -> String {
        let mut text = String::new();
        let read = self
            .file
            .rewind()
            .and_then(|()| (&self.file).take(MAX_ANSWER).read_to_string(&mut text));
        match read {
            Ok(_) => text,
            Err(error) => error.to_string(),
        }
    }
}
