//! A descriptor that tells when a group ran out of memory, lost its last process or is gone.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;

use crate::{Error, Group, Hierarchies, Result, parse};

/// The most that is read of an events file: a dozen short lines.
const EVENTS_BYTES: usize = 4096;

/// What happened to a group since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomReport {
    /// True if the group ran out of memory.
    ///
    /// In version 1 that is the kernel's notice, which comes before the kill and which groups above
    /// share with those below; in version 2 it is a kill in this group or below it.
    pub oom: bool,
    /// How many processes the kernel has killed for it since the group was made, as far as it
    /// counts them.
    pub kills: u64,
    /// True if the group is empty now; version 2 alone tells it.
    pub empty: bool,
    /// True if the group is gone. Nothing more comes; the watch is to be dropped.
    pub removed: bool,
}

/// A watch over one group.
///
/// The descriptor becomes readable when something may have happened; then [`OomWatch::on_ready`]
/// tells what. It may also be called at any time, as before an exit is announced, so that an OOM
/// that led to the exit is announced first. Neither ever blocks.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    /// Kills that were there before, or were reported.
    kills: u64,
}

#[derive(Debug)]
enum Source {
    /// An eventfd that the memory controller signals, on OOM and on removal alike.
    V1 { events: OwnedFd, control: OwnedFd },
    /// inotify over both events files. They stay open: a new group of the same name is not ours.
    V2 { inotify: OwnedFd, memory: Option<OwnedFd>, group: OwnedFd },
}

impl OomWatch {
    /// Watches the group that a process is in.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the process or its group is gone, or has no memory controller.
    pub fn of_pid(hierarchies: &Hierarchies, pid: i32) -> Result<Self> {
        Self::open(&Group::of_pid(hierarchies, pid)?)
    }

    /// Watches a group.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group is gone or, in version 1, has no memory controller.
    pub fn open(group: &Group) -> Result<Self> {
        let source = match group {
            Group::V1(folders) => match folders.get("memory") {
                Some(folder) => Source::v1(folder)?,
                None => return Err(Error::NotFound { path: "memory".into() }),
            },
            Group::V2(folder) => Source::v2(folder)?,
        };
        // What was killed before the watch began is somebody else's report.
        let kills = source.kills()?.unwrap_or(0);
        Ok(OomWatch { source, kills })
    }

    /// What has happened since the last call, or since the watch began.
    ///
    /// # Errors
    /// The system's; a group that is gone is no error but a report.
    pub fn on_ready(&mut self) -> Result<OomReport> {
        let signalled = self.source.drain()?;
        let Some(kills) = self.source.kills()? else {
            // The kernel signals a removal as it signals an OOM; without a group there is none.
            return Ok(OomReport { removed: true, kills: self.kills, ..OomReport::default() });
        };
        let killed = kills > self.kills;
        self.kills = self.kills.max(kills);
        let (oom, empty) = match &self.source {
            Source::V1 { .. } => (signalled, false),
            Source::V2 { group, .. } => (killed, populated(group)? == Some(false)),
        };
        Ok(OomReport { oom, kills: self.kills, empty, removed: false })
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { events, .. } => events.as_fd(),
            Source::V2 { inotify, .. } => inotify.as_fd(),
        }
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Source {
    fn v1(folder: &Path) -> Result<Self> {
        let fail = |errno| Error::new("watch", folder, errno);
        let control = open(&folder.join("memory.oom_control"))?;
        let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(fail)?;
        let register = folder.join("cgroup.event_control");
        let request = format!("{} {}", events.as_raw_fd(), control.as_raw_fd());
        std::fs::write(&register, request)
            .map_err(|error| Error::io("write", &register, &error))?;
        Ok(Source::V1 { events, control })
    }

    fn v2(folder: &Path) -> Result<Self> {
        let fail = |errno| Error::new("watch", folder, errno);
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(fail)?;
        let watch = |name: &str| -> Result<OwnedFd> {
            let path = folder.join(name);
            let file = open(&path)?;
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
            inotify::add_watch(&inotify, &path, flags)
                .map_err(|errno| Error::new("watch", &path, errno))?;
            Ok(file)
        };
        let group = watch("cgroup.events")?;
        let memory = match watch("memory.events") {
            Ok(file) => Some(file),
            // A group without the memory controller still tells when it is empty.
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Source::V2 { inotify, memory, group })
    }

    /// Takes all notices. True if there was one.
    fn drain(&self) -> Result<bool> {
        match self {
            Source::V1 { events, .. } => {
                let mut count = [0; 8];
                match rustix::io::read(events, &mut count) {
                    Ok(_) => Ok(u64::from_ne_bytes(count) > 0),
                    Err(Errno::AGAIN | Errno::INTR) => Ok(false),
                    Err(errno) => Err(Error::new("read", "eventfd", errno)),
                }
            }
            Source::V2 { inotify, .. } => {
                let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
                let mut reader = inotify::Reader::new(inotify, &mut buffer);
                let mut met = false;
                loop {
                    match reader.next() {
                        Ok(_) => met = true,
                        Err(Errno::AGAIN) => return Ok(met),
                        Err(Errno::INTR) => {}
                        Err(errno) => return Err(Error::new("read", "inotify", errno)),
                    }
                }
            }
        }
    }

    /// How many were killed since the group was made; nothing if the group is gone.
    fn kills(&self) -> Result<Option<u64>> {
        let file = match self {
            Source::V1 { control, .. } => control,
            Source::V2 { memory: Some(memory), .. } => memory,
            Source::V2 { memory: None, group, .. } => {
                return Ok(populated(group)?.map(|_| 0));
            }
        };
        Ok(value(file, "oom_kill")?.map(|kills| kills.unwrap_or(0)))
    }
}

/// True if there are processes in the group or below it; nothing if it is gone.
fn populated(file: &OwnedFd) -> Result<Option<bool>> {
    Ok(value(file, "populated")?.map(|value| value.unwrap_or(0) != 0))
}

/// A value of an open events file; the outer `None` says that the group is gone.
fn value(file: &OwnedFd, key: &str) -> Result<Option<Option<u64>>> {
    let mut buffer = [0; EVENTS_BYTES];
    let length = loop {
        match rustix::io::pread(file, &mut buffer, 0) {
            Ok(length) => break length,
            Err(Errno::INTR) => {}
            Err(Errno::NODEV | Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::new("read", key, errno)),
        }
    };
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    Ok(Some(parse::keyed(text).find(|(known, _)| *known == key).map(|(_, value)| value)))
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new("open", path, errno))
}
