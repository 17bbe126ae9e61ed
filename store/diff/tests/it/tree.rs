//! Trees to compare: all that `stat`, links, attributes and contents tell.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What a name in a tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    pub(crate) size: u64,
    pub(crate) device: u64,
    /// Digest of a file, target of a link.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    pub(crate) same_as: Option<PathBuf>,
}

pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// Reads a tree, without its root.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut inodes = BTreeMap::new();
    read_folder(root, Path::new(""), &mut tree, &mut inodes);
    // An overlay counts hidden names of a lower file as links of it.
    let mut names = BTreeMap::<_, usize>::new();
    for first in tree.values().filter_map(|node| node.same_as.clone()) {
        *names.entry(first).or_default() += 1;
    }
    for node in tree.values_mut() {
        node.same_as.take_if(|first| names[first] == 1);
    }
    tree
}

fn read_folder(
    root: &Path,
    below: &Path,
    tree: &mut Tree,
    inodes: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(below)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = below.join(&name);
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        let kind = stat.file_type();
        let content = if kind.is_file() {
            hash(&full)
        } else if kind.is_symlink() {
            fs::read_link(&full).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let is_device = kind.is_char_device() || kind.is_block_device();
        let same_as = if !kind.is_dir() && stat.nlink() > 1 {
            Some(inodes.entry((stat.dev(), stat.ino())).or_insert_with(|| path.clone()).clone())
        } else {
            None
        };
        let node = Node {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            size: if kind.is_file() { stat.size() } else { 0 },
            device: if is_device { stat.rdev() } else { 0 },
            content,
            xattrs: xattrs(&full),
            same_as,
        };
        tree.insert(path.clone(), node);
        if kind.is_dir() {
            read_folder(root, &path, tree, inodes);
        }
    }
}

/// A digest of data; holes are skipped, so that huge sparse files are cheap.
fn hash(path: &Path) -> Vec<u8> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs::File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut hasher = Sha256::new();
    if size < 64 << 20 {
        let mut data = Vec::new();
        file.read_to_end(&mut data).unwrap();
        hasher.update(&data);
        return hasher.finalize().to_vec();
    }
    let mut position = 0;
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(position)) {
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        file.seek(SeekFrom::Start(start)).unwrap();
        let mut data = vec![0; usize::try_from(end - start).unwrap()];
        file.read_exact(&mut data).unwrap();
        // Blocks of zeroes are the same as holes.
        for (index, block) in data.chunks(4096).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                hasher.update((start + index as u64 * 4096).to_le_bytes());
                hasher.update(block);
            }
        }
        position = end;
    }
    hasher.finalize().to_vec()
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = [0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| {
            let mut value = [0_u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// Says where two trees differ first.
#[track_caller]
pub(crate) fn assert_same(left: &Tree, right: &Tree) {
    for (path, node) in left {
        assert_eq!(Some(node), right.get(path), "at {}", path.display());
    }
    for path in right.keys() {
        assert!(left.contains_key(path), "only in the second: {}", path.display());
    }
}

/// A folder on memory: unlinking there is cheap.
pub(crate) fn temp() -> tempfile::TempDir {
    let base = Path::new("/dev/shm");
    if base.is_dir() { tempfile::tempdir_in(base).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(crate) fn write(path: impl AsRef<Path>, data: impl AsRef<[u8]>, mode: u32) {
    fs::write(&path, data).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn folder(path: impl AsRef<Path>, mode: u32) {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path.as_ref(), name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

pub(crate) fn node(path: impl AsRef<Path>, kind: rustix::fs::FileType, device: (u32, u32)) {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.as_ref(),
        kind,
        rustix::fs::Mode::from_raw_mode(0o640),
        rustix::fs::makedev(device.0, device.1),
    )
    .unwrap();
}

/// Sets the time of a name itself.
pub(crate) fn touch(path: impl AsRef<Path>, seconds: i64, nanos: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(
        rustix::fs::CWD,
        path.as_ref(),
        &times,
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

/// True when run by root: who is not can make neither owners nor devices.
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root for owners and devices");
    }
    is_root
}

/// A value of `security.capability`: version 2, effective, `net_bind_service`.
pub(crate) const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A tree with one of everything.
pub(crate) fn rich(root: &Path) {
    use rustix::fs::FileType;
    folder(root.join("bin"), 0o755);
    folder(root.join("tmp"), 0o1777);
    folder(root.join("var/lib/app"), 0o2750);
    folder(root.join("empty"), 0o700);
    write(root.join("bin/app"), vec![b'a'; 300_000], 0o755);
    write(root.join("bin/su"), b"su", 0o4755);
    write(root.join("bin/wall"), b"wall", 0o2755);
    write(root.join("bin/group-writable"), b"w", 0o666);
    write(root.join("none"), b"", 0o000);
    write(root.join("var/lib/app/data"), b"data", 0o640);
    std::os::unix::fs::chown(root.join("var/lib/app/data"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(root.join("var/lib/app"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(root.join("bin/wall"), Some(0), Some(5)).unwrap();
    fs::set_permissions(root.join("bin/wall"), fs::Permissions::from_mode(0o2755)).unwrap();
    fs::set_permissions(root.join("var/lib/app"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::hard_link(root.join("bin/app"), root.join("bin/app-again")).unwrap();
    fs::hard_link(root.join("bin/app"), root.join("var/app-elsewhere")).unwrap();
    symlink("app", root.join("bin/link")).unwrap();
    symlink("/bin/app", root.join("absolute")).unwrap();
    symlink("../../../../outside", root.join("dangling")).unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        root.join("bin/link"),
        Some(rustix::fs::Uid::from_raw(7)),
        Some(rustix::fs::Gid::from_raw(8)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    node(root.join("null"), FileType::CharacterDevice, (1, 3));
    node(root.join("disk"), FileType::BlockDevice, (8, 300));
    node(root.join("pipe"), FileType::Fifo, (0, 0));
    set_xattr(root.join("bin/app"), "security.capability", CAPABILITY);
    set_xattr(root.join("bin/su"), "user.note", b"line\nand\0nul");
    set_xattr(root.join("empty"), "user.folder", b"yes");
    let long = format!("{}/{}", "d".repeat(120), "e".repeat(180));
    folder(root.join(&long), 0o755);
    write(root.join(&long).join("f".repeat(200)), b"long", 0o644);
    symlink("t".repeat(300), root.join("long-target")).unwrap();
    write(root.join("umlaut-\u{e4}\u{f6}"), b"utf-8", 0o644);
    write(root.join(std::ffi::OsStr::from_bytes(b"latin-\xe4")), b"latin", 0o644);
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt as _;
    sparse.write_all_at(b"head", 0).unwrap();
    sparse.write_all_at(&[7; 5000], 1 << 20).unwrap();
    sparse.set_len((3 << 20) + 17).unwrap();
    // Deepest first, so that folders keep theirs.
    let names: Vec<PathBuf> = read(root).into_keys().rev().collect();
    for (index, name) in names.iter().enumerate() {
        let index = i64::try_from(index).unwrap();
        touch(root.join(name), 1_500_000_000 + index, index * 1_000_003 % 1_000_000_000);
    }
}
