//! The local store: layout on disk, leftovers, a full disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use base_errors::Class;
use base_ident::{Algorithm, Labels, timestamp};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use store_content::testsuite::{self, Abilities, bytes, digest, put, read};
use store_content::{Hasher, LocalStore, Store, WriteOptions};

use super::{folder, local, temporary};

fn options(reference: &str, total: u64) -> WriteOptions {
    WriteOptions { reference: reference.to_owned(), total, expected: None }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn ingest(root: &Path, reference: &str) -> PathBuf {
    let name = Hasher::hash(Algorithm::Sha256, reference.as_bytes());
    root.join("content/ingest").join(name.hex())
}

#[test]
fn contract() {
    super::run(async {
        let folders = Mutex::new(Vec::new());
        let make = || -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            let folder = folder();
            let store = local(&folder);
            folders.lock().unwrap().push(folder);
            Box::pin(async move { store })
        };
        testsuite::run(&make, Abilities { labels: false, running_digest: true }).await;
    });
}

#[test]
fn layout_is_containerds() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        for size in [100, 200_000] {
            let data = bytes(1, size);
            let blob = put(&*store, "ref", &data, Labels::new()).await;
            let path = folder.path().join("content/blobs/sha256").join(blob.hex());
            assert_eq!(fs::read(&path).unwrap(), data);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
            let parent = path.parent().unwrap();
            assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o7777, 0o755);
        }
        assert!(names(&folder.path().join("content/ingest")).is_empty());
        assert_eq!(names(&folder.path().join("content")), ["blobs", "ingest"]);

        for size in [100, 200_000] {
            let reference = format!("default/1/ref {size}");
            let mut writer = store.writer(options(&reference, 300_000)).await.unwrap();
            writer.write(bytes(2, size)).await.unwrap();
            drop(writer);
            // Opening waits until the files are there.
            let started = store.writer(options(&reference, 0)).await.unwrap();
            let started = started.status().await.unwrap().started_at;
            let ingest = ingest(folder.path(), &reference);
            assert_eq!(names(&ingest), ["data", "ref", "startedat", "total", "updatedat"]);
            assert_eq!(fs::read_to_string(ingest.join("ref")).unwrap(), reference);
            assert_eq!(fs::read_to_string(ingest.join("total")).unwrap(), "300000");
            assert_eq!(fs::read(ingest.join("data")).unwrap(), bytes(2, size));
            let text = fs::read_to_string(ingest.join("startedat")).unwrap();
            assert_eq!(timestamp::parse(&text).unwrap(), started);
            assert!(text.ends_with('Z'), "{text}");
        }
    });
}

#[test]
fn a_small_blob_has_no_ingest_files() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        let mut writer = store.writer(options("small", 0)).await.unwrap();
        writer.write(bytes(3, 4096)).await.unwrap();
        assert!(names(&folder.path().join("content/ingest")).is_empty());
        assert_eq!(store.status("small").await.unwrap().offset, 4096, "but it has a state");
        writer.commit(4096, None, Labels::new()).await.unwrap();
        assert!(names(&folder.path().join("content/ingest")).is_empty());
    });
}

/// What containerd leaves when it is stopped in the middle.
fn containerds_ingest(root: &Path, reference: &str, data: &[u8]) -> PathBuf {
    let ingest = ingest(root, reference);
    fs::create_dir_all(&ingest).unwrap();
    fs::write(ingest.join("ref"), reference).unwrap();
    fs::write(ingest.join("startedat"), "2024-05-06T07:08:09.123456789Z").unwrap();
    fs::write(ingest.join("updatedat"), "2024-05-06T07:08:10Z").unwrap();
    fs::write(ingest.join("total"), "3000").unwrap();
    fs::write(ingest.join("data"), data).unwrap();
    ingest
}

#[test]
fn an_ingest_of_containerd_is_resumed() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        let data = bytes(4, 3000);
        containerds_ingest(folder.path(), "default/1/x", &data[..1000]);
        let status = store.status("default/1/x").await.unwrap();
        assert_eq!((status.offset, status.total), (1000, 3000));
        assert_eq!(status.started_at, timestamp::parse("2024-05-06T07:08:09.123456789Z").unwrap());
        assert_eq!(store.list_statuses(&[]).await.unwrap(), [status]);
        let mut writer = store.writer(options("default/1/x", 3000)).await.unwrap();
        assert_eq!(writer.digest().unwrap(), digest(&data[..1000]), "hashed again");
        writer.write(data.slice(1000..)).await.unwrap();
        let blob = writer.commit(3000, Some(&digest(&data)), Labels::new()).await.unwrap();
        assert_eq!(read(&*store, &blob).await, data);
    });
}

#[test]
fn unreadable_ingests_are_made_anew() {
    super::run(async {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("empty time", |ingest| fs::write(ingest.join("startedat"), "").unwrap()),
            ("no time", |ingest| fs::remove_file(ingest.join("updatedat")).unwrap()),
            ("no data", |ingest| fs::remove_file(ingest.join("data")).unwrap()),
            ("other ref", |ingest| fs::write(ingest.join("ref"), "foreign").unwrap()),
            ("data is a folder", |ingest| {
                fs::remove_file(ingest.join("data")).unwrap();
                fs::create_dir(ingest.join("data")).unwrap();
            }),
        ];
        for (name, damage) in damages {
            let folder = folder();
            let store = local(&folder);
            damage(&containerds_ingest(folder.path(), "bad", b"old bytes"));
            containerds_ingest(folder.path(), "good", b"xy");
            let good = store.list_statuses(&["ref==good".to_owned()]).await.unwrap();
            assert_eq!(good.len(), 1, "{name}: one bad ingest does not hide the others");
            for size in [10, 100_000] {
                let data = bytes(5, size);
                let mut writer = store.writer(options("bad", 0)).await.unwrap();
                assert_eq!(writer.status().await.unwrap().offset, 0, "{name}");
                writer.write(data.clone()).await.unwrap();
                let blob = writer.commit(0, Some(&digest(&data)), Labels::new()).await.unwrap();
                assert_eq!(read(&*store, &blob).await, data, "{name}");
            }
        }
    });
}

#[test]
fn an_aborted_writer_cannot_commit() {
    super::run(async {
        for size in [10, 200_000] {
            let folder = folder();
            let store = local(&folder);
            let mut writer = store.writer(options("gone", 0)).await.unwrap();
            writer.write(bytes(6, size)).await.unwrap();
            store.abort("gone").await.unwrap();
            assert_eq!(store.status("gone").await.unwrap_err().class(), Class::NotFound);
            assert!(writer.commit(0, None, Labels::new()).await.is_err());
            drop(writer);
            let writer = store.writer(options("gone", 0)).await.unwrap();
            assert_eq!(writer.status().await.unwrap().offset, 0);
            assert!(store.list(&[]).await.unwrap().is_empty());
        }
    });
}

#[test]
fn a_second_store_sees_what_is_there() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        let blob = put(&*store, "a", &bytes(7, 10), Labels::new()).await;
        let mut writer = store.writer(options("open", 0)).await.unwrap();
        writer.write(bytes(8, 100_000)).await.unwrap();
        drop(writer);
        drop(store.writer(options("open", 0)).await.unwrap());
        drop(store);
        let store = local(&folder);
        assert_eq!(store.info(&blob).await.unwrap().size, 10);
        assert_eq!(store.status("open").await.unwrap().offset, 100_000);
        // What is no digest does not matter.
        fs::write(folder.path().join("content/blobs/sha256/README"), "x").unwrap();
        fs::create_dir(folder.path().join("content/blobs/md5")).unwrap();
        assert_eq!(store.list(&[]).await.unwrap().len(), 1);
    });
}

#[test]
fn labels_are_not_for_this_store() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        let blob = put(&*store, "a", &bytes(9, 10), Labels::new()).await;
        let info = store.info(&blob).await.unwrap();
        let error = store.update(&info, &[]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "update not supported on immutable content store: failed precondition"
        );
    });
}

#[test]
fn time_of_the_commit() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        for size in [10, 100_000] {
            let mut writer = store.writer(options("time", 0)).await.unwrap();
            writer.write(bytes(size, usize::try_from(size).unwrap())).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            let before = SystemTime::now() - std::time::Duration::from_millis(20);
            let blob = writer.commit(0, None, Labels::new()).await.unwrap();
            assert!(store.info(&blob).await.unwrap().created_at >= before);
        }
    });
}

/// Runs `test` in a mount namespace of its own, on a file system of `size` bytes.
pub(super) fn on_small_disk(size: &str, test: impl FnOnce(PathBuf) + Send + 'static) {
    let folder = temporary();
    let path = folder.path().to_owned();
    let data = std::ffi::CString::new(format!("size={size}")).unwrap();
    std::thread::spawn(move || {
        #[expect(deprecated, reason = "the safe form is this one")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(&*data)).unwrap();
        test(path.clone());
        rustix::mount::unmount(&path, UnmountFlags::DETACH).unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_full_disk_is_told_and_survived() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    on_small_disk("2m", |root| {
        // Threads for files are made after the namespace was left, so they share it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = LocalStore::open(root.join("content")).unwrap();
            let kept = put(&store, "kept", &bytes(10, 1 << 20), Labels::new()).await;

            let mut writer = store.writer(options("large", 0)).await.unwrap();
            let mut failed = None;
            for part in 0..64 {
                if let Err(error) = writer.write(bytes(part, 64 << 10)).await {
                    failed = Some(error);
                    break;
                }
            }
            let error = match failed {
                Some(error) => error,
                None => writer.commit(0, None, Labels::new()).await.unwrap_err(),
            };
            assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
            drop(writer);
            drop(store.writer(options("large", 0)).await.unwrap());
            store.abort("large").await.unwrap();

            // Filled to the last page, a small blob fails as well and leaves nothing.
            let filler = root.join("filler");
            let mut file = fs::File::create(&filler).unwrap();
            // A thread that still holds the aborted ingest's file gives its pages back a little
            // later: they are taken, too.
            for _ in 0..50 {
                while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let mut writer = store.writer(options("small", 0)).await.unwrap();
            writer.write(bytes(11, 4096)).await.unwrap();
            let error = writer.commit(0, None, Labels::new()).await.unwrap_err();
            assert_eq!(error.class(), Class::ResourceExhausted, "{error}");
            assert!(error.to_string().ends_with(": resource exhausted"), "{error}");
            drop(writer);
            drop(file);
            fs::remove_file(&filler).unwrap();
            drop(store.writer(options("small", 0)).await.unwrap());

            let blobs = store.list(&[]).await.unwrap();
            assert!(blobs.len() == 1 && blobs[0].digest == kept, "{blobs:?}");
            put(&store, "small", &bytes(11, 4096), Labels::new()).await;
        });
    });
}

#[test]
fn an_abort_right_after_a_drop_leaves_nothing() {
    super::run(async {
        let folder = folder();
        let store = local(&folder);
        for round in 0..200 {
            let size = if round % 2 == 0 { 10 } else { 70_000 };
            let mut writer = store.writer(options("raced", 0)).await.unwrap();
            writer.write(bytes(round, size)).await.unwrap();
            drop(writer);
            // The dropped writer is just now making or completing its files.
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            store.abort("raced").await.unwrap();
            assert!(store.list_statuses(&[]).await.unwrap().is_empty(), "round {round}");
            let writer = store.writer(options("raced", 0)).await.unwrap();
            assert_eq!(writer.status().await.unwrap().offset, 0, "round {round}");
            drop(writer);
            store.abort("raced").await.unwrap();
        }
    });
}

#[test]
fn ingests_that_nobody_can_name_are_removed_at_the_next_open() {
    let folder = folder();
    for reference in ["whole", "no reference", "no data", "no time", "another"] {
        let path = ingest(folder.path(), reference);
        fs::create_dir_all(&path).unwrap();
        let now = timestamp::format(SystemTime::now());
        for (name, text) in
            [("ref", reference), ("data", "seven b"), ("startedat", &now), ("updatedat", &now)]
        {
            fs::write(path.join(name), text).unwrap();
        }
    }
    // What a loss of power makes of them.
    fs::write(ingest(folder.path(), "no reference").join("ref"), "").unwrap();
    fs::remove_file(ingest(folder.path(), "no data").join("data")).unwrap();
    fs::write(ingest(folder.path(), "no time").join("startedat"), "").unwrap();
    fs::write(ingest(folder.path(), "another").join("ref"), "whole").unwrap();
    super::run(async {
        let store = local(&folder);
        assert_eq!(store.status("whole").await.unwrap().offset, 7);
        let whole = ingest(folder.path(), "whole");
        let name = whole.file_name().unwrap().to_str().unwrap();
        assert_eq!(names(&folder.path().join("content/ingest")), [name]);
    });
}
