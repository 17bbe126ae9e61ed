//! Mounts that show files under other ids: a user namespace that carries the map, and detached
//! trees that get it.
#![allow(unsafe_code)]

use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::error::Failure;
use crate::mount::call_mount;
use crate::options::Options;
use crate::tree::Change;
use crate::{overlay, thread, tree};

/// The most extents of one map, the kernel's own limit.
const MAX_EXTENTS: usize = 340;

/// A user namespace with the two maps, each `container:host:size[,...]`.
///
/// The namespace lives as long as the descriptor and what is mounted with it.
pub(crate) fn user_namespace(uids: &str, gids: &str) -> Result<OwnedFd, Failure> {
    let uids = parse_map("uidmap", uids)?;
    let gids = parse_map("gidmap", gids)?;
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Failure::at("pipe"))?;
    let child = clone_waiting_child(&reader, &writer)?;
    drop(reader);
    let namespace = fill_namespace(child, &uids, &gids);
    // The child ends when the last writing end closes; the kill makes it certain.
    drop(writer);
    let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
    reap(child);
    namespace
}

/// Starts a process in a new user namespace that does nothing but wait for the pipe to close.
///
/// It has no exit signal, so that a reaper of this process does not take it for a child of its own.
fn clone_waiting_child(reader: &OwnedFd, writer: &OwnedFd) -> Result<Pid, Failure> {
    let (read_end, write_end) = (reader.as_raw_fd(), writer.as_raw_fd());
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of the memory and the
    // arguments beside the flags are null. The child runs only the branch below.
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER, 0, 0, 0, 0) };
    if result == 0 {
        // SAFETY: only plain system calls, no allocation and no lock, as after any fork of a
        // process with threads; `byte` outlives the read and _exit does not return.
        unsafe {
            libc::syscall(libc::SYS_close, write_end);
            let mut byte = 0u8;
            libc::syscall(libc::SYS_read, read_end, &raw mut byte, 1usize);
            libc::syscall(libc::SYS_exit_group, 0);
        }
        std::process::abort();
    }
    i32::try_from(result).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or_else(|| {
        let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::PERM);
        Failure::System { step: "clone user namespace", errno }
    })
}

/// Writes the maps and opens the namespace.
fn fill_namespace(child: Pid, uids: &str, gids: &str) -> Result<OwnedFd, Failure> {
    let folder = format!("/proc/{}", child.as_raw_nonzero());
    for (file, map, step) in
        [("uid_map", uids, "write uid_map"), ("gid_map", gids, "write gid_map")]
    {
        std::fs::OpenOptions::new()
            .write(true)
            .open(format!("{folder}/{file}"))
            .and_then(|mut file| file.write_all(map.as_bytes()))
            .map_err(|error| Failure::System {
                step,
                errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })?;
    }
    rustix::fs::open(format!("{folder}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::at("open user namespace"))
}

/// Waits for a child without exit signal.
fn reap(child: Pid) {
    loop {
        // SAFETY: a plain waitpid with no status wanted.
        let result = unsafe {
            libc::waitpid(child.as_raw_nonzero().get(), std::ptr::null_mut(), libc::__WALL)
        };
        if result >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

/// Turns `container:host:size[,...]` into the lines of a map file.
fn parse_map(option: &str, text: &str) -> Result<String, Failure> {
    let invalid = |reason: &str| Failure::Invalid(format!("{option}={text}: {reason}"));
    let mut lines = String::new();
    for (count, extent) in text.split(',').enumerate() {
        if count == MAX_EXTENTS {
            return Err(invalid("more than 340 extents"));
        }
        let numbers: Option<Vec<u32>> = extent.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some([inside, outside, size]) if *size > 0 => {
                lines.push_str(&format!("{inside} {outside} {size}\n"));
            }
            _ => return Err(invalid("want container:host:size")),
        }
    }
    Ok(lines)
}

/// A detached copy of the tree at `source` that shows the ids of `namespace`.
pub(crate) fn mapped_tree(
    source: &Path,
    recursive: bool,
    namespace: &OwnedFd,
) -> Result<OwnedFd, Failure> {
    tree::copy(source, recursive, Change::MappedBy(namespace.as_fd()))
}

/// A detached overlay whose lower folders show the ids of `namespace`.
///
/// The kernel wants the lower folders as paths, so the mapped ones need places. They get them in a
/// mount namespace of a short-lived thread: nothing of them is ever seen, or left, outside.
pub(crate) fn overlay(
    source: &str,
    options: &Options,
    namespace: &OwnedFd,
) -> Result<OwnedFd, Failure> {
    let Some(layers) = options.data.iter().find_map(|option| option.strip_prefix("lowerdir="))
    else {
        return Err(Failure::Invalid("an overlay without lowerdir cannot be mapped".to_owned()));
    };
    // The trees are opened here, where their paths are what the caller meant.
    let trees = overlay::split_layers(layers)
        .into_iter()
        .map(|layer| mapped_tree(Path::new(&overlay::unescape(layer)), false, namespace))
        .collect::<Result<Vec<_>, _>>()?;
    // Upper and work folder stay paths; they are made absolute before the thread moves.
    let lower: Vec<String> = (0..trees.len()).map(|index| index.to_string()).collect();
    let data: Vec<String> = options
        .data
        .iter()
        .map(|option| match option.strip_prefix("lowerdir=") {
            Some(_) => format!("lowerdir={}", lower.join(":")),
            None => option.clone(),
        })
        .collect();
    let data = data.join(",");
    thread::apart(UnshareFlags::NEWNS, move || {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(Failure::at("make mounts private"))?;
        let scratch = Path::new(scratch_folder(options));
        call_mount("tmpfs", scratch, "tmpfs", 0, "mode=700")?;
        rustix::process::chdir(scratch).map_err(Failure::at("chdir"))?;
        for (name, tree) in lower.iter().zip(&trees) {
            rustix::fs::mkdir(name, Mode::RWXU).map_err(Failure::at("mkdir"))?;
            move_mount(tree, c"", CWD, name.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(Failure::at("move_mount lowerdir"))?;
        }
        rustix::fs::mkdir("merged", Mode::RWXU).map_err(Failure::at("mkdir"))?;
        overlay::mount_here(source, Path::new("merged"), options, &data)?;
        open_tree(CWD, "merged", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(Failure::at("open_tree"))
    })
}

/// A folder that exists everywhere and that the upper and work folder are not in.
fn scratch_folder(options: &Options) -> &'static str {
    let used = |folder: &str| {
        options.data.iter().any(|option| {
            option
                .strip_prefix("upperdir=")
                .or_else(|| option.strip_prefix("workdir="))
                .is_some_and(|path| Path::new(path).starts_with(folder))
        })
    };
    ["/sys", "/dev", "/tmp"]
        .into_iter()
        .find(|folder| !used(folder) && Path::new(folder).is_dir())
        .unwrap_or("/proc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked_before_the_kernel_sees_them() {
        assert_eq!(
            parse_map("uidmap", "0:1000:10,10:5000:1").ok().as_deref(),
            Some("0 1000 10\n10 5000 1\n")
        );
        for bad in ["", "0:1", "0:1:0", "a:b:c", "0:1:2:3", "0:1:99999999999"] {
            assert!(parse_map("uidmap", bad).is_err(), "{bad}");
        }
    }
}
