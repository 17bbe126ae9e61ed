//! How a process ended.

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The status as shells and containerd tell it: what the process gave to `exit` (0 to 255),
    /// or 128 and the number of the signal that ended it.
    pub status: u32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// True if it left a core file.
    pub core: bool,
}

/// What containerd adds to the signal's number.
const SIGNAL_BASE: u32 = 128;

impl Exit {
    /// The end by `exit`.
    #[must_use]
    pub fn with_code(code: u8) -> Self {
        Exit { status: u32::from(code), signal: None, core: false }
    }

    /// Reads the number that `wait(2)` tells: the code in its second byte, or a signal in the
    /// first.
    pub(crate) fn from_raw(raw: i32) -> Option<Self> {
        let signal = raw & 0x7f;
        if signal == 0 {
            return Some(Exit::with_code(u8::try_from((raw >> 8) & 0xff).ok()?));
        }
        let status = SIGNAL_BASE + u32::try_from(signal).ok()?;
        Some(Exit { status, signal: Some(signal), core: raw & 0x80 != 0 })
    }

    /// Reads what `waitid(2)` told.
    pub(crate) fn from_wait(status: &rustix::process::WaitIdStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Exit {
                status: u32::try_from(code & 0xff).ok()?,
                signal: None,
                core: false,
            });
        }
        let signal = status.terminating_signal()?;
        let status_number = SIGNAL_BASE + u32::try_from(signal).ok()?;
        Some(Exit { status: status_number, signal: Some(signal), core: status.dumped() })
    }
}
