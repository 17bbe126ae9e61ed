//! Thousands of execs through one shim, which has to remember none of them.
//!
//! The runtime is an example of this crate that does as little as one can, so that the shim's work
//! is what is measured; `IRONHULL_EXECS_RUNTIME` names another one, and `IRONHULL_EXECS` another
//! number.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::world::{World, call};

/// Execs that are measured: enough to see sixteen bytes of each. `IRONHULL_EXECS=20000` sees three.
const EXECS: usize = 4_000;

/// Execs before the first look: buffers and tables have their size by then.
const WARM_UP: usize = 1_000;

/// How often it is looked at on the way.
const PARTS: usize = 8;

/// Execs at once.
const WORKERS: usize = 8;

/// What may be left of one exec: nothing. A page or two come and go with the moment of the look.
const SLACK: u64 = 64 << 10;

/// The example of that name, which is built beside the shim.
fn tiny_runtime() -> PathBuf {
    let shim = Path::new(env!("CARGO_BIN_EXE_containerd-shim-runc-v2"));
    shim.with_file_name("examples").join("tiny-runtime")
}

/// The private and changed memory of a process, in bytes.
fn private_dirty(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn execs_leave_no_memory() {
    let world = World::new().await;
    let bundle = world.bundle("one", &["sleep", "100000"]);
    let shim = Arc::new(world.start(&bundle, "one").await);
    let mut create = world.create(&shim);
    let real = std::env::var("IRONHULL_EXECS_RUNTIME").ok();
    let status = match &real {
        Some(runtime) => {
            create.options = Some(world.options(runtime));
            0
        }
        None => {
            create.options = Some(world.options(tiny_runtime().to_str().unwrap()));
            7
        }
    };
    shim.run(create).await;
    let number = std::env::var("IRONHULL_EXECS").ok().and_then(|text| text.parse().ok());
    let number = number.unwrap_or(EXECS);
    many(&shim, 0, WARM_UP, status).await;
    all_told(&world, WARM_UP).await;
    let before = private_dirty(shim.pid);
    let begin = std::time::Instant::now();
    let mut seen = Vec::new();
    for part in 0..PARTS {
        many(&shim, WARM_UP + part * (number / PARTS), number / PARTS, status).await;
        all_told(&world, WARM_UP + (part + 1) * (number / PARTS)).await;
        seen.push(private_dirty(shim.pid) >> 10);
    }
    println!(
        "{number} execs in {:?}: {} kB private after {WARM_UP} before, then {seen:?} kB",
        begin.elapsed(),
        before >> 10,
    );
    // What the first rush has taken may be given back late.
    let first = seen[..PARTS / 2].iter().min().unwrap();
    let last = seen.last().unwrap();
    assert!(*last <= first + (SLACK >> 10), "it grows: {seen:?} kB");
    // One that the daemon was slow to take is told again: a busy machine may show some twice.
    let wanted = WARM_UP + number / PARTS * PARTS;
    let told = || world.exits().into_iter().map(|exit| exit.id).collect::<BTreeSet<_>>().len();
    crate::world::eventually("every exit to be told", || told() == wanted).await;
    let shim = Arc::into_inner(shim).unwrap();
    shim.remove().await;
    world.end(shim).await;
}

/// Waits until the daemon has all events of so many execs: what waits for it is no leak.
async fn all_told(world: &World, execs: usize) {
    // Created and started; then added, started and ended, each.
    let count = 2 + 3 * execs;
    crate::world::eventually("all events", || world.event_count() >= count).await;
}

/// Runs so many execs, some at once, each to its end.
async fn many(shim: &Arc<crate::world::Shim>, first: usize, count: usize, status: u32) {
    let next = Arc::new(AtomicUsize::new(first));
    let workers = (0..WORKERS).map(|_| {
        let (shim, next) = (Arc::clone(shim), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= first + count {
                    return;
                }
                let request = shim.exec_request(&format!("x{number}"), &["true"]);
                call!(shim, exec, request).unwrap();
                let exec_id = format!("x{number}");
                call!(shim, start, shim.start_request(&exec_id)).unwrap();
                let end = call!(shim, wait, shim.wait_request(&exec_id)).unwrap();
                assert_eq!(end.exit_status, status);
                call!(shim, delete, shim.delete_request(&exec_id)).unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}
