//! One entry after another, into the tree. Per file: one open, its writes, the time, one close;
//! owner and mode only where they are not right from the start.

use std::collections::HashSet;
use std::io::BufRead;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::{ApplyError, Shown};
use super::lower::{Lowers, inherit};
use super::remove::remove_all;
use super::target::{Target, Whiteouts};
use super::tree::{Folder, Tree, clean, split};
use super::whiteout::{Meaning, is_whiteout, look, put_opaque, put_whiteout, remove_others};
use crate::tar::{Entry, EntryKind, TarReader, Time};

/// Links that lead to folders that are not there: so many are followed, as by the kernel.
const MAX_LINKS: usize = 40;

/// The mode of a folder that no layer mentions.
const IMPLIED_MODE: u32 = 0o755;

/// How a file is made: never through a link, never over something.
const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a folder by its own name.
const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Applies entries to one tree.
pub(crate) struct Applier {
    tree: Tree,
    whiteouts: Whiteouts,
    lowers: Lowers,
    parent_comes_later: bool,
    /// What this layer has written, for opaque folders in a tree that holds the layers below too:
    /// eight bytes an entry, the one table that grows with the number of entries.
    written: HashSet<u64>,
    /// Folders and their times, which are set when nothing is written any more.
    folder_times: Vec<(Vec<u8>, Timestamps)>,
    /// What the process takes from modes of new files.
    umask: u32,
    uid: u32,
    gid: u32,
}

impl Applier {
    /// Opens the tree.
    pub(crate) fn open(target: &Target) -> Result<Self, ApplyError> {
        let root = target.root.as_os_str().as_encoded_bytes();
        Ok(Applier {
            tree: Tree::open(&target.root).map_err(ApplyError::at("open", root))?,
            whiteouts: target.whiteouts,
            lowers: Lowers::new(&target.lowers),
            parent_comes_later: target.parent_comes_later,
            written: HashSet::new(),
            folder_times: Vec::new(),
            umask: umask(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        })
    }

    /// Applies a whole archive.
    pub(crate) fn apply<R: BufRead>(mut self, reader: &mut TarReader<R>) -> Result<(), ApplyError> {
        while let Some(entry) = reader.next_entry()? {
            self.entry(reader, &entry)?;
        }
        for (path, times) in std::mem::take(&mut self.folder_times) {
            let failed = ApplyError::at("utimensat", &path);
            // A later entry may have deleted or replaced it.
            match self.tree.find(&path) {
                Ok(Some(folder)) => rustix::fs::futimens(&folder.fd, &times).map_err(failed)?,
                Ok(None) | Err(Errno::NOTDIR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    fn entry<R: BufRead>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: &Entry,
    ) -> Result<(), ApplyError> {
        let path = clean(&entry.name);
        // COMPAT: an entry for the root itself changes nothing.
        if path.is_empty() {
            return Ok(());
        }
        let meaning = Meaning::of(&path)?;
        if meaning == Meaning::Ignore {
            return Ok(());
        }
        let (parent, name) = split(&path);
        let folder = self.folder(parent, &path)?;
        match meaning {
            Meaning::Entry => {}
            Meaning::Opaque => return self.opaque(&folder, &path),
            Meaning::Delete(deleted) => return self.delete(&folder, deleted, entry, &path),
            Meaning::Ignore => return Ok(()),
        }
        match entry.kind {
            EntryKind::File => self.file(reader, entry, &folder, name, &path)?,
            EntryKind::Directory => self.directory(entry, &folder, name, &path)?,
            EntryKind::Symlink => self.symlink(entry, &folder, name, &path)?,
            EntryKind::HardLink => self.hard_link(entry, &folder, name, &path)?,
            EntryKind::CharDevice => {
                self.node(entry, FileType::CharacterDevice, &folder, name, &path)?;
            }
            EntryKind::BlockDevice => {
                self.node(entry, FileType::BlockDevice, &folder, name, &path)?;
            }
            EntryKind::Fifo => self.node(entry, FileType::Fifo, &folder, name, &path)?,
            EntryKind::Other(flag) => {
                return Err(ApplyError::Type { flag, path: Shown::new(&path) });
            }
        }
        if self.whiteouts == Whiteouts::Remove {
            self.written.insert(folder.mark(name));
        }
        Ok(())
    }

    // === Folders on the way ===

    /// The folder at a clean path, made if it is not there.
    fn folder(&mut self, path: &[u8], entry: &[u8]) -> Result<Rc<Folder>, ApplyError> {
        match self.tree.find(path) {
            Ok(Some(folder)) => Ok(folder),
            Ok(None) | Err(Errno::NOTDIR) => self.make_folders(path, entry, 0),
            Err(errno) => Err(ApplyError::at("open", path)(errno)),
        }
    }

    /// Makes what is missing of a path, one part after another.
    fn make_folders(
        &mut self,
        path: &[u8],
        entry: &[u8],
        links: usize,
    ) -> Result<Rc<Folder>, ApplyError> {
        let levels = || ApplyError::Levels { path: Shown::new(entry) };
        if links > MAX_LINKS {
            return Err(levels());
        }
        let mut folder = self.tree.root();
        let ends: Vec<usize> = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(index, _)| index)
            .chain([path.len()])
            .collect();
        for end in ends {
            let prefix = &path[..end];
            let name = split(prefix).1;
            let found = match self.tree.find(prefix) {
                Err(Errno::NOTDIR) if self.take_whiteout(&folder, name, prefix)? => {
                    self.tree.find(prefix)
                }
                found => found,
            };
            let found = found.map_err(ApplyError::at("mkdir", prefix))?;
            folder = match found {
                Some(found) => found,
                None => {
                    let mode = Mode::from_raw_mode(IMPLIED_MODE);
                    match rustix::fs::mkdirat(&folder.fd, name, mode) {
                        Ok(()) => self.implied_folder(&folder, name, prefix)?,
                        Err(Errno::EXIST) => {
                            // A link to a folder that does not exist, yet.
                            let target = rustix::fs::readlinkat(&folder.fd, name, Vec::new())
                                .map_err(ApplyError::at("mkdir", prefix))?;
                            let target = target.as_bytes();
                            let target = if target.starts_with(b"/") {
                                clean(target)
                            } else {
                                clean(&[split(prefix).0, b"/", target].concat())
                            };
                            self.make_folders(&target, entry, links + 1)?;
                            let made = self.tree.find(prefix);
                            made.map_err(ApplyError::at("open", prefix))?.ok_or_else(levels)?
                        }
                        Err(errno) => return Err(ApplyError::at("mkdir", prefix)(errno)),
                    }
                }
            };
        }
        Ok(folder)
    }

    /// Makes way for a folder where this layer has deleted one: removes the whiteout, makes the
    /// folder, and has it hide what is below. True if that was the case.
    fn take_whiteout(
        &mut self,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<bool, ApplyError> {
        let Whiteouts::Overlay { user } = self.whiteouts else { return Ok(false) };
        let failed = ApplyError::at("mkdir", path);
        match look(folder, name).map_err(&failed)? {
            Some(stat) if is_whiteout(&stat) => {}
            _ => return Ok(false),
        }
        rustix::fs::unlinkat(&folder.fd, name, AtFlags::empty()).map_err(&failed)?;
        rustix::fs::mkdirat(&folder.fd, name, Mode::from_raw_mode(IMPLIED_MODE))
            .map_err(&failed)?;
        let made = open(folder, name, FOLDER).map_err(&failed)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(IMPLIED_MODE)).map_err(&failed)?;
        put_opaque(&made, user).map_err(ApplyError::at("setxattr", path))?;
        self.tree.remember(path, made).map_err(failed)?;
        Ok(true)
    }

    /// A folder that the layer goes through without an entry of its own.
    fn implied_folder(
        &mut self,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<Rc<Folder>, ApplyError> {
        if self.parent_comes_later {
            return Err(ApplyError::NeedsParent { path: Shown::new(path) });
        }
        let failed = ApplyError::at("mkdir", path);
        let made = open(folder, name, FOLDER).map_err(&failed)?;
        match self.lowers.folder(path).map_err(ApplyError::at("open", path))? {
            Some(below) => inherit(&made, &below).map_err(ApplyError::at("copy", path))?,
            None => {
                rustix::fs::fchmod(&made, Mode::from_raw_mode(IMPLIED_MODE)).map_err(&failed)?
            }
        }
        if self.whiteouts == Whiteouts::Remove {
            self.written.insert(folder.mark(name));
        }
        self.tree.remember(path, made).map_err(failed)
    }

    // === Deletions ===

    fn opaque(&mut self, folder: &Folder, path: &[u8]) -> Result<(), ApplyError> {
        match self.whiteouts {
            Whiteouts::Overlay { user } => {
                put_opaque(&folder.fd, user).map_err(ApplyError::at("setxattr", path))
            }
            Whiteouts::Remove => {
                self.tree.forget();
                remove_others(folder, &self.written, 0).map_err(ApplyError::at("remove", path))?;
                Ok(())
            }
        }
    }

    fn delete(
        &mut self,
        folder: &Folder,
        name: &[u8],
        entry: &Entry,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        self.tree.forget();
        match self.whiteouts {
            Whiteouts::Remove => {
                remove_all(folder.fd.as_fd(), name).map_err(ApplyError::at("remove", path))
            }
            Whiteouts::Overlay { .. } => {
                put_whiteout(folder, name).map_err(ApplyError::at("mknod", path))?;
                self.own(entry, folder, name).map_err(ApplyError::at("chown", path))
            }
        }
    }

    /// Removes what is at `name`, whatever it is; gives what it was.
    fn clear(
        &mut self,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Stat>, ApplyError> {
        let failed = ApplyError::at("remove", path);
        let stat = look(folder, name).map_err(&failed)?;
        if let Some(stat) = &stat {
            let kind = FileType::from_raw_mode(stat.st_mode);
            if matches!(kind, FileType::Directory | FileType::Symlink) {
                self.tree.forget();
            }
            remove_all(folder.fd.as_fd(), name).map_err(failed)?;
        }
        Ok(stat)
    }

    /// Makes something at `name`; what is there already gives way first.
    fn replace<T>(
        &mut self,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
        operation: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(folder, name, path)?;
                make()
            }
            made => made,
        }
        .map_err(ApplyError::at(operation, path))
    }

    // === Entries ===

    fn file<R: BufRead>(
        &mut self,
        reader: &mut TarReader<R>,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let file = self.replace(folder, name, path, "open", || {
            rustix::fs::openat(&folder.fd, name, CREATE, mode)
        })?;
        match &entry.sparse {
            None => {
                let mut written = 0;
                while written < entry.size {
                    written += write_chunk(reader, &file, None, u64::MAX, path)?;
                }
            }
            Some(segments) => {
                for segment in segments {
                    let mut written = 0;
                    while written < segment.length {
                        let offset = Some(segment.offset + written);
                        let left = segment.length - written;
                        written += write_chunk(reader, &file, offset, left, path)?;
                    }
                }
                rustix::fs::ftruncate(&file, entry.size)
                    .map_err(ApplyError::at("ftruncate", path))?;
            }
        }
        let owned = folder.special || entry.uid != self.uid || entry.gid != self.gid;
        if owned {
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(ApplyError::at("chown", path))?;
        }
        self.xattrs(entry, path, |key, value| {
            rustix::fs::fsetxattr(&file, key, value, XattrFlags::empty())
        })?;
        if self.needs_mode(entry.mode, folder) {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(ApplyError::at("chmod", path))?;
        }
        rustix::fs::futimens(&file, &times(entry)).map_err(ApplyError::at("utimensat", path))
    }

    fn directory(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let failed = ApplyError::at("mkdir", path);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let mut is_new = true;
        let mut hides_below = None;
        if let Err(errno) = rustix::fs::mkdirat(&folder.fd, name, mode) {
            if errno != Errno::EXIST {
                return Err(failed(errno));
            }
            let stat = look(folder, name).map_err(&failed)?;
            is_new = !stat
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
            if is_new {
                if let (Whiteouts::Overlay { user }, Some(true)) =
                    (self.whiteouts, stat.as_ref().map(is_whiteout))
                {
                    // Deleted and made again by this layer: without the mark the deleted folder's
                    // files would show through.
                    hides_below = Some(user);
                }
                self.clear(folder, name, path)?;
                rustix::fs::mkdirat(&folder.fd, name, mode).map_err(&failed)?;
            }
        }
        let made = open(folder, name, FOLDER).map_err(&failed)?;
        if let Some(user) = hides_below {
            put_opaque(&made, user).map_err(ApplyError::at("setxattr", path))?;
        }
        let foreign = entry.uid != self.uid || entry.gid != self.gid;
        if foreign || !is_new || folder.special {
            rustix::fs::fchown(
                &made,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(ApplyError::at("chown", path))?;
        }
        self.xattrs(entry, path, |key, value| {
            rustix::fs::fsetxattr(&made, key, value, XattrFlags::empty())
        })?;
        if !is_new || self.needs_mode(entry.mode, folder) {
            rustix::fs::fchmod(&made, Mode::from_raw_mode(entry.mode))
                .map_err(ApplyError::at("chmod", path))?;
        }
        if !is_new {
            // Its descriptor may be in the cache with what was true before.
            self.tree.forget();
        }
        self.folder_times.push((path.to_vec(), times(entry)));
        self.tree.remember(path, made).map_err(failed)?;
        Ok(())
    }

    fn symlink(
        &mut self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        self.replace(folder, name, path, "symlink", || {
            rustix::fs::symlinkat(&entry.link[..], &folder.fd, name)
        })?;
        self.metadata(entry, folder, name, path)
    }

    fn node(
        &mut self,
        entry: &Entry,
        kind: FileType,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(entry.major, entry.minor),
        };
        self.replace(folder, name, path, "mknod", || {
            rustix::fs::mknodat(&folder.fd, name, kind, mode, device)
        })?;
        self.metadata(entry, folder, name, path)
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        folder: &Rc<Folder>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let failed = ApplyError::at("link", path);
        let target = clean(&entry.link);
        let (target_parent, target_name) = split(&target);
        let mut source = self.tree.find(target_parent).map_err(&failed)?;
        let mut stat = match &source {
            Some(source) => look(source, target_name).map_err(&failed)?,
            None => None,
        };
        if stat.is_none() {
            if self.parent_comes_later {
                return Err(ApplyError::NeedsParent { path: Shown::new(&target) });
            }
            // A file of a layer below becomes one of this layer, as in a mounted overlay.
            if self.lowers.has(&target).map_err(&failed)? {
                let made = self.folder(target_parent, &target)?;
                self.lowers.copy_up(&target, &made, target_name).map_err(&failed)?;
                stat = look(&made, target_name).map_err(&failed)?;
                source = Some(made);
            }
        }
        let (Some(source), Some(stat)) = (source, stat) else {
            return Err(failed(Errno::NOENT));
        };
        if self.hides(&stat) {
            return Err(failed(Errno::NOENT));
        }
        let link =
            || rustix::fs::linkat(&source.fd, target_name, &folder.fd, name, AtFlags::empty());
        match link() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = look(folder, name).map_err(&failed)?;
                let is_same = there.is_some_and(|there| {
                    (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)
                });
                if !is_same {
                    self.clear(folder, name, path)?;
                    link().map_err(&failed)?;
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        self.metadata(entry, folder, name, path)
    }

    /// True if what is there only says that something is deleted.
    fn hides(&self, stat: &Stat) -> bool {
        matches!(self.whiteouts, Whiteouts::Overlay { .. }) && is_whiteout(stat)
    }

    // === Metadata ===

    /// Owner, attributes, mode and times of what is not a file or folder. Nothing is followed.
    fn metadata(
        &self,
        entry: &Entry,
        folder: &Folder,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let is_link = entry.kind == EntryKind::Symlink;
        let stat = match entry.kind {
            EntryKind::Symlink => None,
            _ => look(folder, name).map_err(ApplyError::at("stat", path))?,
        };
        let is_owned = match &stat {
            Some(stat) => stat.st_uid == entry.uid && stat.st_gid == entry.gid,
            None => false,
        };
        if !is_owned
            && (stat.is_some() || folder.special || entry.uid != self.uid || entry.gid != self.gid)
        {
            self.chown(entry, folder, name).map_err(ApplyError::at("chown", path))?;
        }
        if !entry.xattrs.is_empty() {
            // There is no call for attributes by folder and name; this path stays in the folder,
            // and a link at its end is not followed.
            let by_folder =
                [format!("/proc/self/fd/{}/", folder.fd.as_raw_fd()).as_bytes(), name].concat();
            self.xattrs(entry, path, |key, value| {
                rustix::fs::lsetxattr(&by_folder[..], key, value, XattrFlags::empty())
            })?;
        }
        // The mode of a link means nothing; a hard link may be one too.
        let is_link = is_link
            || stat
                .as_ref()
                .is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        let has_mode =
            stat.as_ref().is_some_and(|stat| is_owned && stat.st_mode & 0o7777 == entry.mode);
        if !is_link && !has_mode {
            self.chmod(entry, folder, name).map_err(ApplyError::at("chmod", path))?;
        }
        rustix::fs::utimensat(&folder.fd, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ApplyError::at("utimensat", path))
    }

    fn chown(&self, entry: &Entry, folder: &Folder, name: &[u8]) -> Result<(), Errno> {
        rustix::fs::chownat(
            &folder.fd,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    /// Changes the mode through a descriptor of the thing itself, so that no link is followed.
    fn chmod(&self, entry: &Entry, folder: &Folder, name: &[u8]) -> Result<(), Errno> {
        let node = open(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        let stat = rustix::fs::fstat(&node)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(());
        }
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode))
    }

    /// The owner of a whiteout.
    fn own(&self, entry: &Entry, folder: &Folder, name: &[u8]) -> Result<(), Errno> {
        if entry.uid == self.uid && entry.gid == self.gid && !folder.special {
            return Ok(());
        }
        self.chown(entry, folder, name)
    }

    fn xattrs(
        &self,
        entry: &Entry,
        path: &[u8],
        set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), ApplyError> {
        for (key, value) in &entry.xattrs {
            // Notes of overlayfs itself are not for a layer to write.
            let is_reserved = key.starts_with(b"trusted.")
                || (self.whiteouts == Whiteouts::Overlay { user: true }
                    && key.starts_with(b"user.overlay."));
            let outcome = if is_reserved { Err(Errno::OPNOTSUPP) } else { set(key, value) };
            match outcome {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => {
                    let key = Shown::new(key);
                    tracing::warn!("ignored xattr {key} in archive");
                }
                Err(errno) => return Err(ApplyError::at("setxattr", path)(errno)),
            }
        }
        Ok(())
    }

    /// True if a new file does not have this mode from its creation.
    fn needs_mode(&self, mode: u32, folder: &Folder) -> bool {
        folder.special || mode & 0o7000 != 0 || mode & self.umask != 0
    }
}

fn open(folder: &Folder, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(&folder.fd, name, flags, Mode::empty())
}

/// Writes what is at hand of the entry's data, at most `limit` bytes, at the file's position or at
/// `offset`; gives the number of bytes.
fn write_chunk<R: BufRead>(
    reader: &mut TarReader<R>,
    file: &OwnedFd,
    offset: Option<u64>,
    limit: u64,
    path: &[u8],
) -> Result<u64, ApplyError> {
    let chunk = reader.data()?;
    let length = usize::try_from(limit).map_or(chunk.len(), |limit| limit.min(chunk.len()));
    let written = loop {
        let written = match offset {
            None => rustix::io::write(file, &chunk[..length]),
            Some(offset) => rustix::io::pwrite(file, &chunk[..length], offset),
        };
        match written {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(ApplyError::at("write", path)(Errno::NOSPC)),
            Ok(written) => break written,
            Err(errno) => return Err(ApplyError::at("write", path)(errno)),
        }
    };
    reader.consume(written);
    Ok(written as u64)
}

/// Access and change times of an entry. Access is never before the change.
fn times(entry: &Entry) -> Timestamps {
    let access = entry.atime.map_or(entry.mtime, |atime| atime.max(entry.mtime));
    Timestamps { last_access: bound(access), last_modification: bound(entry.mtime) }
}

/// COMPAT: times before 1970, and those that nanoseconds in 63 bits cannot hold, become 1970.
fn bound(time: Time) -> Timespec {
    const MAX: Time = Time { seconds: 9_223_372_036, nanos: 854_775_807 };
    if time.seconds < 0 || time > MAX {
        return Timespec { tv_sec: 0, tv_nsec: 0 };
    }
    Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) }
}

/// The process's umask, without changing it. Unknown: as if it took everything.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Umask:"))
        .and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o777)
}
