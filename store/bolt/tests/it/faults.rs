//! A disk that fails: the old state stays, and later commits work.

use std::io;
use std::sync::{Arc, Mutex};

use base_errors::{Class, Coded};
use store_bolt::{Db, Error, Options, Probe, Step};

use super::support::{Item, folder, options, verified};

/// Fails at the `n`th step from now on, for `times` steps.
#[derive(Default)]
struct Plan {
    skip: usize,
    times: usize,
}

fn probe(plan: &Arc<Mutex<Plan>>, code: i32) -> Probe {
    let plan = plan.clone();
    Arc::new(move |_: Step| {
        let mut plan = plan.lock().unwrap();
        if plan.skip > 0 {
            plan.skip -= 1;
            return Ok(());
        }
        if plan.times > 0 {
            plan.times -= 1;
            return Err(io::Error::from_raw_os_error(code));
        }
        Ok(())
    })
}

#[test]
fn a_failed_commit_leaves_the_old_state_and_later_ones_work() {
    for stored in [true, false] {
        for code in [28 /* ENOSPC */, 5 /* EIO */] {
            for skip in 0..5 {
                for times in [1, 2, 3] {
                    one_failure(stored, code, skip, times);
                }
            }
        }
    }
}

fn one_failure(stored: bool, code: i32, skip: usize, times: usize) {
    let folder = folder();
    let path = folder.path().join("x.db");
    let plan = Arc::new(Mutex::new(Plan::default()));
    let db = Db::open_probed(&path, options(stored, 4096), probe(&plan, code)).unwrap();
    for n in 0..6u8 {
        db.update(move |tx| tx.create_bucket_if_missing(&[b"b"])?.put(&[n], &[n; 2000])).unwrap();
    }
    let before = verified(&db);
    let reader = db.view().unwrap();
    *plan.lock().unwrap() = Plan { skip, times };
    let mut errors = 0;
    // A few may fail: the first, and those that find the meta not yet taken back.
    for n in 0..6u8 {
        let result =
            db.update(move |tx| tx.create_bucket_if_missing(&[b"b"])?.put(&[100 + n], &[n; 9000]));
        match result {
            Ok(()) => break,
            Err(error) => {
                let class = if code == 28 { Class::ResourceExhausted } else { Class::Unknown };
                assert_eq!(error.class(), class, "{error}");
                errors += 1;
                assert_eq!(verified(&db), before);
            }
        }
    }
    // A commit that need not grow the file has four steps.
    // A file that cannot grow once may have room inside.
    let found_room = code == 28 && skip == 0;
    assert!(errors <= 3 && (errors > 0 || skip == 4 || found_room), "skip {skip}: {errors} errors");
    let after = verified(&db);
    let Some(Item::Bucket(bucket)) = after.items.get(&b"b"[..]) else { panic!() };
    assert_eq!(bucket.items.len(), 7);
    drop(reader);
    for n in 0..5u8 {
        db.update(move |tx| tx.create_bucket_if_missing(&[b"b"])?.put(&[n], &[n; 100])).unwrap();
        verified(&db);
    }
    let last = verified(&db);
    drop(db);
    let report = store_bolt::check(&path).unwrap();
    assert!(report.is_clean(), "skip {skip}, {times} times: {:?}", report.problems);
    assert_eq!(verified(&Db::open(&path, Options::default()).unwrap()), last);
}

#[test]
fn a_commit_that_fails_at_the_end_is_not_there_after_a_crash() {
    let folder = folder();
    let (path, copy) = (folder.path().join("x.db"), folder.path().join("copy.db"));
    let plan = Arc::new(Mutex::new(Plan::default()));
    let db = Db::open_probed(&path, options(false, 4096), probe(&plan, 5)).unwrap();
    db.update(|tx| tx.root().put(b"k", b"old")).unwrap();
    // Write and sync of the pages work, and the write of the meta; its sync fails.
    *plan.lock().unwrap() = Plan { skip: 3, times: 1 };
    assert!(db.update(|tx| tx.root().put(b"k", b"new")).is_err());
    // What a crash would leave behind now.
    std::fs::copy(&path, &copy).unwrap();
    let crashed = Db::open(&copy, Options::default()).unwrap();
    assert_eq!(crashed.view().unwrap().root().get(b"k").unwrap(), Some(&b"old"[..]));
    assert_eq!(db.view().unwrap().root().get(b"k").unwrap(), Some(&b"old"[..]));
}

/// A real full disk: a tmpfs of 256 KiB, in a mount namespace of its own thread.
#[test]
fn a_full_disk_is_an_error_and_not_a_signal() {
    let outcome = std::thread::spawn(|| {
        let folder = folder();
        if let Err(error) = private_tmpfs(folder.path()) {
            return Err(format!("no private mount: {error}"));
        }
        let db = Db::open(folder.path().join("x.db"), Options::default()).unwrap();
        let mut written = 0u16;
        let error = loop {
            let result = db.update(move |tx| {
                tx.create_bucket_if_missing(&[b"b"])?.put(&written.to_be_bytes(), &[1; 3000])
            });
            match result {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
        assert!(written > 20);
        let count = |db: &Db| match verified(db).items.get(&b"b"[..]) {
            Some(Item::Bucket(bucket)) => bucket.items.len(),
            _ => 0,
        };
        assert_eq!(count(&db), usize::from(written));
        // Small changes fit where big ones were freed.
        let shrunk = db.update(|tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
            (0..10u16).try_for_each(|n| bucket.delete(&n.to_be_bytes()))
        });
        if shrunk.is_ok() {
            assert_eq!(count(&db), usize::from(written) - 10);
        }
        drop(db);
        rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        Ok(())
    })
    .join()
    .unwrap();
    if let Err(reason) = outcome {
        eprintln!("skipped: {reason}");
    }
}

fn private_tmpfs(at: &std::path::Path) -> Result<(), Error> {
    let failed = |error: rustix::io::Errno| Error::Io {
        action: "mount",
        path: at.to_path_buf(),
        source: Arc::new(error.into()),
    };
    #[expect(unsafe_code, reason = "unshare is unsafe where file descriptors could be unshared")]
    // SAFETY: only the mount namespace of this thread is unshared, no descriptors.
    unsafe {
        rustix::thread::unshare_unsafe(
            rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS,
        )
    }
    .map_err(failed)?;
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed)?;
    let size = Some(c"size=256k");
    rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), size)
        .map_err(failed)
}

#[test]
fn a_full_disk_lets_everything_be_deleted() {
    for stored in [true, false] {
        let folder = folder();
        let path = folder.path().join("x.db");
        let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let probe: Probe = {
            let full = full.clone();
            Arc::new(move |step| match step {
                Step::Grow if full.load(std::sync::atomic::Ordering::Relaxed) => {
                    Err(io::Error::from_raw_os_error(28))
                }
                _ => Ok(()),
            })
        };
        let db = Db::open_probed(&path, options(stored, 4096), probe).unwrap();
        let create = |n: u32| {
            db.update(move |tx| {
                let name = format!("container-{n}");
                let mut bucket = tx.create_bucket_if_missing(&[b"v1", b"ns", name.as_bytes()])?;
                bucket.put(b"spec", &vec![1; 3000])?;
                bucket.put(b"image", b"i")
            })
        };
        for n in 0..100 {
            create(n).unwrap();
        }
        full.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut made = 100;
        // What is free inside of the file may still be used up; the last pages may not.
        let error = loop {
            assert!(made < 10_000, "the disk never became full");
            match create(made) {
                Ok(()) => made += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
        for n in 0..made {
            let name = format!("container-{n}");
            db.update(move |tx| {
                tx.create_bucket_if_missing(&[b"v1", b"ns"])?.delete_bucket(name.as_bytes())
            })
            .unwrap_or_else(|error| panic!("delete {n} of {made}: {error}"));
        }
        verified(&db);
        // What was deleted makes room.
        create(0).unwrap();
        drop(db);
        assert!(store_bolt::check(&path).unwrap().is_clean());
    }
}
