//! What a process may use, and who dies first when memory runs out.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Error, Result, procfs};

/// The adjustment that decides who is killed first when memory runs out: -1000 (never) to 1000.
/// 0 as process id means this process.
///
/// # Errors
/// [`Error::NotFound`] if there is no such process.
pub fn oom_score_adj(pid: i32) -> Result<i32> {
    let path = procfs::path(pid, "oom_score_adj");
    let text = procfs::read(pid, &path)?;
    text.trim().parse().map_err(|_| Error::Format { path })
}

/// Sets the adjustment. Lowering it needs CAP_SYS_RESOURCE; a caller without it warns and goes on.
///
/// # Errors
/// `EACCES` without the capability, `EINVAL` outside -1000 to 1000.
pub fn set_oom_score_adj(pid: i32, adjustment: i32) -> Result<()> {
    let path = procfs::path(pid, "oom_score_adj");
    std::fs::write(&path, adjustment.to_string()).map_err(|error| Error::proc(&path, &error))
}

/// Raises this process's limit of open descriptors to `wanted`, or as far as its hard limit lets
/// it; never lowers it. Returns the limit after it.
///
/// # Errors
/// The system's.
pub fn raise_nofile(wanted: u64) -> Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(now) = current else { return Ok(u64::MAX) };
    let target = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    if target <= now {
        return Ok(now);
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum })
        .map_err(Error::system("setrlimit", 0))?;
    Ok(target)
}

/// Makes this process the one that orphans below it are given to, or not.
///
/// # Errors
/// None in practice.
pub fn set_subreaper(on: bool) -> Result<()> {
    let reaper = on.then(rustix::process::getpid);
    rustix::process::set_child_subreaper(reaper).map_err(Error::system("prctl", 0))
}

/// True if orphans below this process are given to it.
///
/// # Errors
/// None in practice.
pub fn is_subreaper() -> Result<bool> {
    rustix::process::child_subreaper()
        .map(|reaper| reaper.is_some())
        .map_err(Error::system("prctl", 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adjustment_is_written_and_read() {
        let before = oom_score_adj(0).expect("read");
        // Raising needs no capability. Where this test runs it is not at its highest already.
        let raised = (before + 1).min(1000);
        set_oom_score_adj(0, raised).expect("write");
        assert_eq!(oom_score_adj(0).expect("read"), raised);
        assert!(set_oom_score_adj(0, 1001).is_err());
    }

    #[test]
    fn descriptors_are_raised_but_never_lowered() {
        let now = raise_nofile(0).expect("limit");
        assert!(now > 0);
        assert_eq!(raise_nofile(1).expect("limit"), now);
        assert!(raise_nofile(now + 1).expect("limit") >= now);
    }

    #[test]
    fn subreaper_is_switched_on_and_off() {
        set_subreaper(true).expect("set");
        assert!(is_subreaper().expect("get"));
        set_subreaper(false).expect("set");
        assert!(!is_subreaper().expect("get"));
    }
}
