//! Mount options as text, sorted into flags for the kernel, data for the file system, and the few
//! that are for us.

use libc::c_ulong;

/// Flags that belong to a mount and not to its file system: a bind needs a remount to get them.
pub(crate) const PER_MOUNT: c_ulong = libc::MS_RDONLY
    | libc::MS_NOSUID
    | libc::MS_NODEV
    | libc::MS_NOEXEC
    | libc::MS_NOATIME
    | libc::MS_NODIRATIME
    | libc::MS_RELATIME
    | libc::MS_STRICTATIME;

/// Options, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `MS_*` flags, without propagation.
    pub(crate) flags: c_ulong,
    /// Flags that an option such as `rw` or `exec` took away by name.
    pub(crate) cleared: c_ulong,
    /// Propagation flags, with `MS_REC`.
    pub(crate) propagation: c_ulong,
    /// What the file system itself parses.
    pub(crate) data: Vec<String>,
    /// `loop`: the source is an image file.
    pub(crate) loop_device: bool,
    /// `direct-io` beside `loop`: the loop device bypasses the page cache.
    pub(crate) direct_io: bool,
    /// `uidmap=`: user ids, `container:host:size`, several with commas.
    pub(crate) uidmap: Option<String>,
    /// `gidmap=`: group ids.
    pub(crate) gidmap: Option<String>,
}

impl Options {
    /// Sorts options. Later ones win over earlier ones, as in `mount(8)`.
    pub(crate) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut sorted = Options::default();
        for option in options {
            if let Some((set, clear)) = flag(option) {
                sorted.flags = (sorted.flags & !clear) | set;
                sorted.cleared = (sorted.cleared & !set) | clear;
            } else if let Some(flags) = propagation(option) {
                sorted.propagation |= flags;
            } else if option == "loop" {
                sorted.loop_device = true;
            } else if let Some(map) = option.strip_prefix("uidmap=") {
                sorted.uidmap = Some(map.to_owned());
            } else if let Some(map) = option.strip_prefix("gidmap=") {
                sorted.gidmap = Some(map.to_owned());
            } else if option.is_empty() || option == "defaults" || is_comment(option) {
                // Nothing for the kernel.
            } else {
                sorted.data.push(option.to_owned());
            }
        }
        if sorted.loop_device {
            // COMPAT: `direct-io` is an option of the loop device; without `loop` it stays data.
            let before = sorted.data.len();
            sorted.data.retain(|option| option != "direct-io");
            sorted.direct_io = sorted.data.len() != before;
        }
        sorted
    }

    /// The data as the one string that `mount(2)` takes.
    pub(crate) fn joined(&self) -> String {
        self.data.join(",")
    }

    /// True for `bind` and `rbind`.
    pub(crate) fn is_bind(&self) -> bool {
        self.flags & libc::MS_BIND != 0
    }
}

/// Options that are notes for other programs: `x-systemd.*`, and the mount manager's own.
fn is_comment(option: &str) -> bool {
    option.starts_with("X-containerd.") || option.starts_with("x-")
}

/// Flags that an option sets and clears.
fn flag(option: &str) -> Option<(c_ulong, c_ulong)> {
    Some(match option {
        "async" => (0, libc::MS_SYNCHRONOUS),
        "atime" => (0, libc::MS_NOATIME),
        "bind" => (libc::MS_BIND, 0),
        "dev" => (0, libc::MS_NODEV),
        "diratime" => (0, libc::MS_NODIRATIME),
        "dirsync" => (libc::MS_DIRSYNC, 0),
        "exec" => (0, libc::MS_NOEXEC),
        "lazytime" => (libc::MS_LAZYTIME, 0),
        "mand" => (libc::MS_MANDLOCK, 0),
        "noatime" => (libc::MS_NOATIME, 0),
        "nodev" => (libc::MS_NODEV, 0),
        "nodiratime" => (libc::MS_NODIRATIME, 0),
        "noexec" => (libc::MS_NOEXEC, 0),
        "nolazytime" => (0, libc::MS_LAZYTIME),
        "nomand" => (0, libc::MS_MANDLOCK),
        "norelatime" => (0, libc::MS_RELATIME),
        "nostrictatime" => (0, libc::MS_STRICTATIME),
        "nosuid" => (libc::MS_NOSUID, 0),
        "rbind" => (libc::MS_BIND | libc::MS_REC, 0),
        "relatime" => (libc::MS_RELATIME, 0),
        "remount" => (libc::MS_REMOUNT, 0),
        "ro" => (libc::MS_RDONLY, 0),
        "rw" => (0, libc::MS_RDONLY),
        "strictatime" => (libc::MS_STRICTATIME, 0),
        "suid" => (0, libc::MS_NOSUID),
        "sync" => (libc::MS_SYNCHRONOUS, 0),
        _ => return None,
    })
}

/// The flags of a propagation option.
fn propagation(option: &str) -> Option<c_ulong> {
    Some(match option {
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_data_and_our_own_are_told_apart() {
        let options = Options::parse([
            "ro",
            "nosuid",
            "rbind",
            "rslave",
            "loop",
            "direct-io",
            "uidmap=0:1:2",
            "size=4k",
            "X-containerd.mkdir.path=/x",
            "defaults",
        ]);
        assert_eq!(options.flags, libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_BIND | libc::MS_REC);
        assert_eq!(options.propagation, libc::MS_SLAVE | libc::MS_REC);
        assert!(options.loop_device && options.direct_io);
        assert_eq!(options.uidmap.as_deref(), Some("0:1:2"));
        assert_eq!(options.joined(), "size=4k");
    }

    #[test]
    fn the_last_option_wins() {
        let options = Options::parse(["ro", "noexec", "rw"]);
        assert_eq!(options.flags, libc::MS_NOEXEC);
        assert_eq!(options.cleared, libc::MS_RDONLY);
        assert_eq!(Options::parse(["rw", "ro"]).cleared, 0);
    }
}
