//! Control groups of the running machine, each test in groups of its own name. Needs root.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kernel_cgroup::{Error, Group, Hierarchies, Metrics, Mode, OomReport, OomWatch, Remains};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long an event of the kernel may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("ironhull-test-{}-{number}", std::process::id())
}

/// A group that goes away with the test.
struct Owned(Group);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.remove().unwrap();
    }
}

/// A child that waits for a line before it goes on with `script`.
fn waiting(script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", &format!("read go; {script}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn go(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

/// Waits for reports until one fits.
fn wait_for(watch: &mut OomWatch, fits: impl Fn(&OomReport) -> bool) -> OomReport {
    let end = Instant::now() + PATIENCE;
    loop {
        let report = watch.on_ready().unwrap();
        if fits(&report) {
            return report;
        }
        assert!(Instant::now() < end, "nothing but {report:?}");
        let fd = watch.as_fd();
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        let step = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        poll(&mut polled, Some(&step)).unwrap();
    }
}

#[test]
fn a_group_is_made_joined_measured_and_removed() {
    let hierarchies = Hierarchies::load().unwrap();
    let name = format!("/{}/inner", unique_name());
    let outer = name.trim_end_matches("/inner").to_owned();
    let group = Group::create(&hierarchies, &name).unwrap();
    let _outer = Owned(Group::open(&hierarchies, &outer).unwrap());
    assert_eq!(Group::open(&hierarchies, &name).unwrap(), group);
    assert_eq!(Group::create(&hierarchies, &name).unwrap(), group, "made already");
    assert_eq!(group.pids(true).unwrap(), Vec::<i32>::new());

    let mut child = waiting("exec sleep 1000");
    group.add(pid(&child)).unwrap();
    assert_eq!(Group::of_pid(&hierarchies, pid(&child)).unwrap(), group);
    assert_eq!(group.pids(false).unwrap(), [pid(&child)]);
    let outer_group = Group::open(&hierarchies, &outer).unwrap();
    assert_eq!(group.parent().as_ref(), Some(&outer_group));
    let top = outer_group.parent().unwrap();
    assert_eq!(top.parent(), None);
    assert_eq!(outer_group.pids(false).unwrap(), Vec::<i32>::new());
    assert_eq!(outer_group.pids(true).unwrap(), [pid(&child)]);
    match group.metrics().unwrap() {
        Metrics::V1(metrics) => {
            assert_eq!(metrics.pids.unwrap().current, 1);
            assert!(metrics.memory.unwrap().usage.is_some());
            assert!(metrics.memory_oom_control.is_some());
            assert!(metrics.cpu.unwrap().usage.is_some());
        }
        Metrics::V2(metrics) => assert!(metrics.cpu.is_some()),
    }
    let any = group.metrics().unwrap().to_any();
    assert!(any.type_url.starts_with("io.containerd.cgroups.v"), "{}", any.type_url);

    assert!(group.remove().is_err(), "a process is in it");
    child.kill().unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
    group.remove().unwrap();
    assert!(matches!(group.metrics(), Err(Error::NotFound { .. })));
    assert!(matches!(group.pids(true), Err(Error::NotFound { .. })));
    assert!(matches!(Group::open(&hierarchies, &name), Err(Error::NotFound { .. })));
    assert!(matches!(Group::of_pid(&hierarchies, i32::MAX), Err(Error::NotFound { .. })));
}

/// A group whose memory is limited, by whichever version has the memory controller.
fn limited() -> Option<(Owned, PathBuf)> {
    let hierarchies = Hierarchies::load().unwrap();
    if !hierarchies.controllers().iter().any(|controller| controller == "memory") {
        println!("skipped: no memory controller");
        return None;
    }
    let group = Group::create(&hierarchies, &unique_name()).unwrap();
    let folder = match &group {
        Group::V1(folders) => {
            let folder = folders["memory"].clone();
            std::fs::write(folder.join("memory.limit_in_bytes"), "8388608").unwrap();
            folder
        }
        Group::V2(folder) => {
            std::fs::write(folder.join("memory.max"), "8388608").unwrap();
            std::fs::write(folder.join("memory.swap.max"), "0").unwrap();
            folder.clone()
        }
    };
    Some((Owned(group), folder))
}

#[test]
fn running_out_of_memory_is_told() {
    let Some((group, _)) = limited() else { return };
    let mut watch = OomWatch::open(&group.0).unwrap();
    let report = watch.on_ready().unwrap();
    assert!(!report.oom && report.kills == 0 && !report.removed, "{report:?}");
    // `tail` keeps all of a file that has no line end.
    let mut child = waiting("exec tail /dev/zero");
    group.0.add(pid(&child)).unwrap();
    go(&mut child);
    let report = wait_for(&mut watch, |report| report.oom);
    assert!(!report.removed);
    assert!(!child.wait().unwrap().success());
    assert_eq!(watch.on_ready().unwrap().kills, 1);
    assert!(!watch.on_ready().unwrap().oom, "it is told once");
}

#[test]
fn a_removed_group_is_told_as_removed_and_not_as_out_of_memory() {
    let Some((group, folder)) = limited() else { return };
    let mut watch = OomWatch::open(&group.0).unwrap();
    group.0.remove().unwrap();
    // Another group of the same name is not the one that is watched.
    std::fs::create_dir(&folder).unwrap();
    let report = wait_for(&mut watch, |report| report.removed);
    assert!(!report.oom);
    assert!(watch.on_ready().unwrap().removed);
}

#[test]
fn an_empty_group_of_version_2_is_told() {
    let hierarchies = Hierarchies::load().unwrap();
    let top = match hierarchies.mode() {
        Mode::Unified => Path::new("/sys/fs/cgroup"),
        Mode::Hybrid => Path::new("/sys/fs/cgroup/unified"),
        Mode::Legacy | Mode::Unavailable => {
            println!("skipped: no version 2 here");
            return;
        }
    };
    let folder = top.join(unique_name());
    std::fs::create_dir(&folder).unwrap();
    let group = Owned(Group::V2(folder.clone()));
    let mut child = waiting("exec sleep 1000");
    group.0.add(pid(&child)).unwrap();
    let mut watch = OomWatch::open(&group.0).unwrap();
    assert_eq!(watch.on_ready().unwrap(), OomReport::default());
    child.kill().unwrap();
    child.wait().unwrap();
    let report = wait_for(&mut watch, |report| report.empty);
    assert!(!report.oom && !report.removed);
    let Metrics::V2(metrics) = group.0.metrics().unwrap() else { panic!("version 2") };
    assert!(metrics.cpu.unwrap().usage_usec > 0);
    group.0.remove().unwrap();
    assert!(watch.on_ready().unwrap().removed);
}

/// The files of a group of version 2, in a folder that is none: the same code reads them.
fn imitation(kills: u64, populated: u8) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    imitate(folder.path(), kills, populated);
    folder
}

fn imitate(folder: &Path, kills: u64, populated: u8) {
    let memory = format!("low 0\nhigh 3\nmax 9\noom {kills}\noom_kill {kills}\n");
    std::fs::write(folder.join("memory.events"), memory).unwrap();
    let group = format!("populated {populated}\nfrozen 0\n");
    std::fs::write(folder.join("cgroup.events"), group).unwrap();
}

#[test]
fn running_out_of_memory_is_told_by_version_2() {
    let folder = imitation(2, 1);
    let mut watch = OomWatch::open(&Group::V2(folder.path().to_owned())).unwrap();
    // What was before is somebody else's.
    assert!(!watch.on_ready().unwrap().oom);
    imitate(folder.path(), 3, 1);
    let report = wait_for(&mut watch, |report| report.oom);
    assert_eq!((report.kills, report.empty, report.removed), (3, false, false));
    assert!(!watch.on_ready().unwrap().oom, "it is told once");
    // Two at once, and nobody is left.
    imitate(folder.path(), 5, 0);
    let report = wait_for(&mut watch, |report| report.empty);
    assert_eq!((report.oom, report.kills), (true, 5));
    // It may be asked without a notice, as before an exit is told.
    std::fs::write(folder.path().join("memory.events"), "oom_kill 6\n").unwrap();
    assert!(watch.on_ready().unwrap().oom);
}

#[test]
fn a_group_of_version_2_without_memory_controller_has_no_lack_of_memory() {
    let folder = imitation(0, 1);
    std::fs::remove_file(folder.path().join("memory.events")).unwrap();
    let mut watch = OomWatch::open(&Group::V2(folder.path().to_owned())).unwrap();
    std::fs::write(folder.path().join("cgroup.events"), "populated 0\n").unwrap();
    let report = wait_for(&mut watch, |report| report.empty);
    assert!(!report.oom);
    let nothing = folder.path().join("missing");
    assert!(matches!(OomWatch::open(&Group::V2(nothing)), Err(Error::NotFound { .. })));
}

#[test]
fn what_a_dead_maker_has_left_is_found_in_every_hierarchy() {
    let hierarchies = Hierarchies::load().unwrap();
    let name = format!("/{}/inner", unique_name());
    let group = Owned(Group::create(&hierarchies, name.trim_end_matches("/inner")).unwrap());
    assert!(Remains::find(&hierarchies, &name).unwrap().is_empty());
    // A part of it, and the folder that is no part of a group of version 1.
    let mut made: Vec<PathBuf> = match &group.0 {
        Group::V1(folders) => folders.values().take(1).map(|folder| folder.join("inner")).collect(),
        Group::V2(folder) => vec![folder.join("inner")],
    };
    let unified = Path::new("/sys/fs/cgroup/unified").join(name.trim_start_matches('/'));
    if kernel_cgroup::mode() == Mode::Hybrid {
        made.push(unified);
    }
    for folder in &made {
        std::fs::create_dir_all(folder.join("deeper")).unwrap();
    }
    let mut child = waiting("exec sleep 1000");
    std::fs::write(made.last().unwrap().join("cgroup.procs"), pid(&child).to_string()).unwrap();
    let remains = Remains::find(&hierarchies, &name).unwrap();
    assert_eq!(remains.pids().into_iter().collect::<Vec<_>>(), [pid(&child)]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(remains.pids().is_empty());
    remains.remove().unwrap();
    assert!(made.iter().all(|folder| !folder.exists()), "{made:?}");
    if let Some(above) = made.last().and_then(|folder| folder.parent())
        && kernel_cgroup::mode() == Mode::Hybrid
    {
        std::fs::remove_dir(above).unwrap();
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    let hierarchies = Hierarchies::load().unwrap();
    for name in ["", "/", "/../x", "a/../../b"] {
        assert!(matches!(Group::create(&hierarchies, name), Err(Error::InvalidPath { .. })));
        assert!(matches!(Group::open(&hierarchies, name), Err(Error::InvalidPath { .. })));
    }
}
