//! Signals by name and number.

use rustix::process::Signal;

use crate::pidfd::process_id;
use crate::{Error, Result};

/// The highest signal number of Linux on the machines that we run on.
pub const MAX_SIGNAL: i32 = 64;

/// The real-time signals as programs see them: the C library keeps two for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Names without `SIG`, by number, the usual name of a number first.
const NAMES: &[(&str, i32)] = &[
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// The number of a signal as a client spells it: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
///
/// # Errors
/// [`Error::UnknownSignal`], whose text is containerd's: `unknown signal "x"`.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::UnknownSignal { text: text.to_owned() };
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=MAX_SIGNAL).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    real_time(name).ok_or_else(unknown)
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n`.
fn real_time(name: &str) -> Option<i32> {
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        match rest.strip_prefix('+') {
            Some(offset) => RTMIN.checked_add(i32::from(digits(offset)?))?,
            None if rest.is_empty() => RTMIN,
            None => return None,
        }
    } else {
        let rest = name.strip_prefix("RTMAX")?;
        match rest.strip_prefix('-') {
            Some(offset) => RTMAX - i32::from(digits(offset)?),
            None if rest.is_empty() => RTMAX,
            None => return None,
        }
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// A number without a sign.
fn digits(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The name of a signal with `SIG`; nothing if there is no such number.
#[must_use]
pub fn signal_name(number: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
        return Some(format!("SIG{name}"));
    }
    match number {
        RTMIN => Some("SIGRTMIN".to_owned()),
        RTMAX => Some("SIGRTMAX".to_owned()),
        number if (RTMIN..RTMAX).contains(&number) => Some(format!("SIGRTMIN+{}", number - RTMIN)),
        _ => None,
    }
}

/// Sends a signal to a process by its id. For children that have not been reaped, and where no
/// descriptor is at hand; else [`crate::PidFd::send_signal`].
///
/// # Errors
/// [`Error::NotFound`] if there is no such process, [`Error::UnknownSignal`].
pub fn send_signal(pid: i32, signal: i32) -> Result<()> {
    let id = process_id(pid)?;
    rustix::process::kill_process(id, to_signal(signal)?).map_err(Error::system("kill", pid))
}

/// A signal as the system calls take it.
pub(crate) fn to_signal(number: i32) -> Result<Signal> {
    if !(1..=MAX_SIGNAL).contains(&number) {
        return Err(Error::UnknownSignal { text: number.to_string() });
    }
    // SAFETY: the number is one of a signal. The two that the C library keeps for itself are
    // refused by nobody else either; they end up in other programs only.
    Ok(unsafe { Signal::from_raw_unchecked(number) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn signals_are_known_by_all_their_spellings() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("KILL", 9),
            ("SIGCLD", libc::SIGCHLD),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse_signal(text).ok(), Some(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-9", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN++1", "X"]
        {
            let error = parse_signal(text).expect_err(text);
            assert_eq!(error.to_string(), format!("unknown signal {text:?}"));
        }
    }

    #[test]
    fn every_name_leads_back_to_its_number() {
        for number in 1..=MAX_SIGNAL {
            if let Some(name) = signal_name(number) {
                assert_eq!(parse_signal(&name).ok(), Some(number), "{name}");
            } else {
                assert!((32..34).contains(&number), "{number} has no name");
            }
        }
    }

    #[test]
    fn groups_are_never_signalled() {
        for pid in [0, -1, i32::MIN] {
            assert!(matches!(send_signal(pid, 15), Err(Error::NotFound { .. })));
        }
        assert!(matches!(send_signal(1, 0), Err(Error::UnknownSignal { .. })));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,20}") {
            if let Ok(number) = parse_signal(&text) {
                prop_assert!((1..=MAX_SIGNAL).contains(&number));
            }
        }
    }
}
