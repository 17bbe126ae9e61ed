//! A head start for whoever is about to move processes between groups.
//!
//! Moving a process takes a lock of the kernel that every fork takes too, for reading. So that
//! forks are cheap, the first writer waits until all processors have passed a quiet state, which
//! takes about ten milliseconds; whoever comes in the next ten does not wait again. A runtime needs
//! about that time to get to its first move, so the wait is over by then if it has begun beside the
//! start of the runtime, and if the lock is taken now and then until the runtime has come to it.
//! Where the groups are mounted with `favordynmods` nobody waits, and nothing is lost.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::hierarchy::{Hierarchy, Mode, membership_of, mode};
use crate::parse::Membership;

/// The stack of the thread that waits: it opens two files.
const STACK_BYTES: usize = 64 << 10;

/// How often the lock is taken, and the pause between: well below the ten milliseconds, and for
/// longer than a runtime takes to its last move. One that takes longer than this tenth of a second
/// waits by itself.
const TAKES: u32 = 32;
const PAUSE: Duration = Duration::from_millis(3);

/// The hierarchies of version 1 that serve, with the folder of their usual mount. Any does; the
/// lock is one for all.
const LEGACY: [(&str, &str); 2] = [("name=systemd", "systemd"), ("pids", "pids")];

/// Leads that are held, and whether a thread serves them.
static HELD: AtomicUsize = AtomicUsize::new(0);
static SERVED: AtomicBool = AtomicBool::new(false);

/// While it is held, at most for a tenth of a second, moves do not wait.
#[derive(Debug)]
#[must_use = "a lead that is dropped at once is none"]
pub struct Lead(());

/// Says that processes will be moved soon. Returns at once; a thread does the waiting, one for the
/// whole process.
///
/// The thread moves this process into the group where it is, which changes nothing but takes the
/// lock. That it cannot, in whatever manner, is no failure: the wait comes later.
pub fn expect_moves() -> Lead {
    HELD.fetch_add(1, Ordering::Relaxed);
    if !SERVED.swap(true, Ordering::Relaxed) {
        let thread = std::thread::Builder::new().name("cgroup-lead".to_owned());
        if thread.stack_size(STACK_BYTES).spawn(serve).is_err() {
            SERVED.store(false, Ordering::Relaxed);
        }
    }
    Lead(())
}

impl Drop for Lead {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve() {
    for _ in 0..TAKES {
        if stay().is_none() || HELD.load(Ordering::Relaxed) == 0 {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    SERVED.store(false, Ordering::Relaxed);
}

/// Moves this process into the group where it is. Nothing if that group is not to be seen.
fn stay() -> Option<()> {
    let pid = i32::try_from(std::process::id()).ok()?;
    let group = own_group(mode(), &membership_of(pid).ok()?)?;
    let mut members = OpenOptions::new().write(true).open(group.join("cgroup.procs")).ok()?;
    // 0 is the process that writes.
    members.write_all(b"0").ok()
}

/// The folder of one group that a process is in.
fn own_group(mode: Mode, membership: &Membership) -> Option<PathBuf> {
    let legacy = || {
        LEGACY
            .iter()
            .find_map(|(controller, folder)| Some((*folder, membership.legacy.get(*controller)?)))
    };
    let unified = |folder| Some((folder, membership.unified.as_ref()?));
    let (folder, group) = match mode {
        Mode::Unavailable => None,
        Mode::Legacy => legacy(),
        Mode::Hybrid => unified("unified").or_else(legacy),
        Mode::Unified => unified(""),
    }?;
    Hierarchy::usual(folder).folder(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::membership;

    #[test]
    fn the_group_is_named_by_the_mode() {
        let both = membership("5:pids:/p\n1:name=systemd:/s/t\n0::/u\n");
        let folder = |mode| own_group(mode, &both);
        assert_eq!(folder(Mode::Unified), Some("/sys/fs/cgroup/u".into()));
        assert_eq!(folder(Mode::Hybrid), Some("/sys/fs/cgroup/unified/u".into()));
        assert_eq!(folder(Mode::Legacy), Some("/sys/fs/cgroup/systemd/s/t".into()));
        assert_eq!(folder(Mode::Unavailable), None);
        assert_eq!(own_group(Mode::Unified, &membership("0::/../other\n")), None);
        let pids = own_group(Mode::Legacy, &membership("5:pids:/\n"));
        assert_eq!(pids, Some("/sys/fs/cgroup/pids/".into()));
    }

    #[test]
    fn a_process_stays_where_it_is() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let before = membership_of(pid).expect("membership");
        assert_eq!(stay(), Some(()), "the group of this process takes it");
        drop((expect_moves(), expect_moves()));
        assert_eq!(HELD.load(Ordering::Relaxed), 0, "leads that are still held");
        assert_eq!(membership_of(pid).expect("membership"), before);
    }
}
