//! Named points at which a test stops the process, or makes the disk fail.
//!
//! Each point where data becomes a record has a name in the source: `failpoint::hit("place.what")`.
//! A build with debug assertions reads the variable `IRONHULL_FAILPOINT`; any other build has no
//! failpoints at all, and the calls compile to nothing.
//!
//! ```text
//! plan    = point *( ";" point ) / "@" path of a file that holds a plan
//! point   = name [ ":" n ] "=" action        only the n-th hit; without n, every one
//! action  = "abort" / "enospc" / "eio"       SIGKILL at this very point; or the call fails
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

/// The variable that holds the plan.
pub const VARIABLE: &str = "IRONHULL_FAILPOINT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Fail(Errno),
}

#[derive(Debug)]
struct Point {
    name: String,
    /// The only hit that counts.
    only: Option<u64>,
    action: Action,
    hits: AtomicU64,
}

/// Stops the process or fails, if the plan says so for the point `name`.
///
/// # Errors
/// The error number that the plan asks for.
#[inline]
pub fn hit(name: &str) -> Result<(), Errno> {
    if cfg!(debug_assertions) { planned(name) } else { Ok(()) }
}

/// As [`hit`], for places that have `std::io::Error`s.
///
/// # Errors
/// As [`hit`].
#[inline]
pub fn hit_io(name: &str) -> std::io::Result<()> {
    Ok(hit(name)?)
}

fn planned(name: &str) -> Result<(), Errno> {
    static PLAN: OnceLock<Vec<Point>> = OnceLock::new();
    let plan = PLAN.get_or_init(|| {
        let Ok(text) = std::env::var(VARIABLE) else { return Vec::new() };
        let text = match text.strip_prefix('@') {
            // No file, no plan: a test writes it for one start of a daemon, and not for the next.
            Some(path) => std::fs::read_to_string(path).unwrap_or_default(),
            None => text,
        };
        parse(&text).unwrap_or_else(|reason| {
            tracing::error!(reason, "{VARIABLE} is ignored");
            Vec::new()
        })
    });
    run(plan, name)
}

fn run(plan: &[Point], name: &str) -> Result<(), Errno> {
    for point in plan.iter().filter(|point| point.name == name) {
        let hit = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
        if point.only.is_some_and(|only| only != hit) {
            continue;
        }
        match point.action {
            Action::Abort => stop(),
            Action::Fail(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Ends the process as a loss of power would: nothing runs after this.
fn stop() -> ! {
    loop {
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        std::thread::park();
    }
}

fn parse(text: &str) -> Result<Vec<Point>, String> {
    text.trim()
        .split(';')
        .filter(|point| !point.is_empty())
        .map(|point| {
            let wrong = || format!("{point:?} is not name[:n]=action");
            let (target, action) = point.split_once('=').ok_or_else(wrong)?;
            let (name, only) = match target.split_once(':') {
                Some((name, only)) => (name, Some(only.parse().map_err(|_| wrong())?)),
                None => (target, None),
            };
            let action = match action {
                "abort" => Action::Abort,
                "enospc" => Action::Fail(Errno::NOSPC),
                "eio" => Action::Fail(Errno::IO),
                _ => return Err(wrong()),
            };
            Ok(Point { name: name.to_owned(), only, action, hits: AtomicU64::new(0) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_fails_at_its_hit_alone() {
        let plan = parse("a:2=enospc;b=eio\n").unwrap();
        assert_eq!(run(&plan, "a"), Ok(()));
        assert_eq!(run(&plan, "a"), Err(Errno::NOSPC));
        assert_eq!(run(&plan, "a"), Ok(()));
        assert_eq!(run(&plan, "b"), Err(Errno::IO));
        assert_eq!(run(&plan, "b"), Err(Errno::IO));
        assert_eq!(run(&plan, "c"), Ok(()));
    }

    #[test]
    fn a_plan_that_is_not_one_says_what_is_wrong() {
        for text in ["a", "a=b", "a:x=eio"] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(text), "{reason}");
        }
        assert!(parse("").unwrap().is_empty());
    }
}
