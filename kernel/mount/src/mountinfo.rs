//! The kernel's table of mounts, `/proc/<pid>/mountinfo`.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{Error, Result};

/// The most that is read of the table: room for some 300,000 mounts.
const MAX_BYTES: u64 = 64 << 20;

/// The table of the calling thread: it may be in a mount namespace of its own.
const SELF: &str = "/proc/thread-self/mountinfo";

/// One line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's number.
    pub id: u32,
    /// The number of the mount it stands on.
    pub parent: u32,
    /// The device's major number.
    pub major: u32,
    /// The device's minor number.
    pub minor: u32,
    /// Which part of the file system is mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of the mount itself, with commas.
    pub options: String,
    /// Propagation: `shared:1`, `master:2`; empty for private mounts.
    pub propagation: Vec<String>,
    /// The kind of file system: `ext4`, `fuse.sshfs`.
    pub kind: String,
    /// The source as the file system tells it.
    pub source: String,
    /// Options of the file system, with commas.
    pub super_options: String,
}

/// All mounts of this process's namespace, in the table's order: a mount after its parent.
///
/// # Errors
/// [`Error::MountInfo`] if the table cannot be read.
pub fn mounts() -> Result<Vec<MountInfo>> {
    read(Path::new(SELF))
}

/// The mounts on `prefix` and below it, in the table's order.
///
/// # Errors
/// [`Error::MountInfo`] if the table cannot be read.
pub fn mounts_below(prefix: &Path) -> Result<Vec<MountInfo>> {
    // The table has real paths. A prefix that is gone can still be in it, as given.
    let prefix = std::fs::canonicalize(prefix)
        .or_else(|_| std::path::absolute(prefix))
        .unwrap_or_else(|_| prefix.to_owned());
    let mut mounts = mounts()?;
    mounts.retain(|mount| mount.mount_point.starts_with(&prefix));
    Ok(mounts)
}

/// The mount that `path` is on: the last one whose mount point is the longest prefix of it.
///
/// # Errors
/// [`Error::MountInfo`] if the table cannot be read, or nothing is mounted above `path`.
pub fn lookup(path: &Path) -> Result<MountInfo> {
    let path = std::fs::canonicalize(path).map_err(|error| failure(path, &error))?;
    mounts()?
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.as_os_str().len())
        .ok_or(Error::MountInfo { path, errno: Errno::NOENT })
}

/// Reads a table, of any process.
///
/// # Errors
/// [`Error::MountInfo`] if it cannot be read.
pub fn read(table: &Path) -> Result<Vec<MountInfo>> {
    let mut text = Vec::new();
    std::fs::File::open(table)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text))
        .map_err(|error| failure(table, &error))?;
    Ok(parse(&text))
}

fn failure(path: &Path, error: &std::io::Error) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    Error::MountInfo { path: path.to_owned(), errno }
}

/// Parses a table. Lines that are not understood are left out: one bad line costs one mount.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<MountInfo> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let (major, minor) = text(next()?)
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))?;
    let root = path(next()?);
    let mount_point = path(next()?);
    let options = text(next()?);
    let mut propagation = Vec::new();
    loop {
        match next()? {
            b"-" => break,
            field => propagation.push(text(field)),
        }
    }
    let kind = text(next()?);
    let source = text(next()?);
    // Some file systems have an empty source, and old kernels then have a field less.
    let super_options = next().map(text).unwrap_or_default();
    Some(MountInfo {
        id,
        parent,
        major,
        minor,
        root,
        mount_point,
        options,
        propagation,
        kind,
        source,
        super_options,
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `\ooo` for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) =
            (byte, after)
        {
            plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
            rest = after;
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_taken_apart() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n";
        let mounts = parse(line);
        assert_eq!(mounts.len(), 1);
        let mount = &mounts[0];
        assert_eq!((mount.id, mount.parent, mount.major, mount.minor), (36, 35, 98, 0));
        assert_eq!(mount.mount_point, Path::new("/mnt 2"));
        assert_eq!(mount.propagation, ["master:1", "shared:7"]);
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("ext3", "/dev/root"));
        assert_eq!(mount.super_options, "rw");
    }

    #[test]
    fn a_bad_line_costs_itself_alone() {
        let table = b"nonsense\n1 2 3:4 / /a rw - tmpfs tmpfs rw\n5 6 x:y / /b rw - tmpfs t rw\n";
        assert_eq!(parse(table).len(), 1);
    }

    #[test]
    fn the_table_of_this_machine_has_a_root() {
        let mounts = mounts().expect("mountinfo");
        assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
        assert_eq!(lookup(Path::new("/proc/self/stat")).expect("lookup").kind, "proc");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(table in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&table);
        }

        #[test]
        fn a_path_survives_the_kernels_escapes(name in proptest::collection::vec(1u8.., 1..40)) {
            let mut escaped = Vec::new();
            for byte in &name {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                        escaped.extend(format!("\\{byte:03o}").bytes());
                    }
                    other => escaped.push(*other),
                }
            }
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
