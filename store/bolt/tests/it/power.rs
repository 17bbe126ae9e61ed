//! A loss of power: of what was written and not yet synced, any part may be missing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use store_bolt::{Db, Probe, Step};

use super::support::{Random, Tree, folder, options, read, verified};

/// What a disk writes at once.
const SECTOR: usize = 512;
/// Commits of a run.
const COMMITS: u64 = 40;
/// Random subsets of each commit's sectors.
const SUBSETS: usize = 12;

/// The file as it was when it was last synced, and as it would be after a loss of power.
#[derive(Default)]
struct Disk {
    durable: Vec<u8>,
    /// Images of the time between the last sync and now; true if the meta was written already.
    images: Vec<(bool, Vec<u8>)>,
    random: u64,
}

impl Disk {
    /// Makes images of all kinds: nothing, everything, each sector alone or missing, and some.
    fn cut(&mut self, now: &[u8], meta: bool) {
        let changed: Vec<usize> = (0..now.len())
            .step_by(SECTOR)
            .filter(|&at| {
                let end = (at + SECTOR).min(now.len());
                self.durable.get(at..end) != Some(&now[at..end])
            })
            .collect();
        let mut random = Random(self.random);
        let mut sets: Vec<Vec<usize>> = vec![Vec::new(), changed.clone()];
        for _ in 0..SUBSETS {
            let bits = random.next();
            let some = |n: usize| bits >> (n % 61) & 1 == 1;
            sets.push((0..changed.len()).filter(|n| some(*n)).map(|n| changed[n]).collect());
        }
        for at in [0, changed.len() / 2, changed.len().saturating_sub(1)] {
            if let Some(sector) = changed.get(at) {
                sets.push(vec![*sector]);
                sets.push(changed.iter().copied().filter(|other| other != sector).collect());
            }
        }
        self.random = random.next();
        for (n, set) in sets.iter().enumerate() {
            let mut image = self.durable.clone();
            // The length is no data: it may be the old one as long as nothing lies behind it.
            let end = set.iter().max().map_or(0, |at| (at + SECTOR).min(now.len()));
            let longer = if n % 2 == 0 { now.len() } else { end };
            image.resize(image.len().max(longer), 0);
            for &at in set {
                let end = (at + SECTOR).min(now.len());
                image[at..end].copy_from_slice(&now[at..end]);
            }
            self.images.push((meta, image));
        }
    }
}

fn probe(path: PathBuf, disk: &Arc<Mutex<Disk>>) -> Probe {
    let disk = Arc::clone(disk);
    Arc::new(move |step| {
        let mut disk = disk.lock().unwrap();
        match step {
            // Called before the sync: everything since the last one may be lost.
            Step::SyncPages => disk.cut(&fs::read(&path)?, false),
            Step::SyncMeta => disk.cut(&fs::read(&path)?, true),
            // Called after the sync of the pages.
            Step::WriteMeta => disk.durable = fs::read(&path)?,
            Step::Grow | Step::WritePages => {}
        }
        Ok(())
    })
}

/// The state that opens from `image`, which has to be whole.
fn opened(path: &Path, image: &[u8]) -> Tree {
    fs::write(path, image).unwrap();
    let db = Db::open(path, options(true, 4096)).unwrap();
    verified(&db)
}

#[test]
fn whatever_a_loss_of_power_leaves_of_a_commit_is_the_old_or_the_new_state() {
    for stored in [true, false] {
        run(stored);
    }
}

fn run(stored: bool) {
    let folder = folder();
    let path = folder.path().join("x.db");
    let torn = folder.path().join("torn.db");
    drop(Db::open(&path, options(stored, 4096)).unwrap());
    let disk = Arc::new(Mutex::new(Disk { random: 7 + u64::from(stored), ..Disk::default() }));
    disk.lock().unwrap().durable = fs::read(&path).unwrap();
    let db = Db::open_probed(&path, options(stored, 4096), probe(path.clone(), &disk)).unwrap();
    let mut random = Random(99);
    let mut old = read(db.view().unwrap().root()).unwrap();
    let mut seen = [0, 0];
    for n in 0..COMMITS {
        let (bucket, len, kind) = (random.below(4), random.index(7000), random.below(4));
        db.update(move |tx| {
            let name = format!("bucket-{bucket}");
            let mut bucket = tx.create_bucket_if_missing(&[b"v1", name.as_bytes()])?;
            match kind {
                0 => bucket.delete(format!("key-{}", n / 2).as_bytes()),
                _ => bucket.put(format!("key-{n}").as_bytes(), &vec![b'x'; len]),
            }
        })
        .unwrap();
        let new = read(db.view().unwrap().root()).unwrap();
        let images = std::mem::take(&mut disk.lock().unwrap().images);
        disk.lock().unwrap().durable = fs::read(&path).unwrap();
        for (meta, image) in images {
            let found = opened(&torn, &image);
            if meta {
                assert!(found == old || found == new, "commit {n}: neither old nor new");
                seen[usize::from(found == new)] += 1;
            } else {
                assert!(found == old, "commit {n}: pages without their meta changed the state");
            }
        }
        old = new;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "the meta was never torn: {seen:?}");
}

#[test]
fn a_damaged_newest_state_falls_back_to_the_one_before() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let db = Db::open(&path, options(false, 4096)).unwrap();
    let put = |n: u8| {
        db.update(move |tx| tx.create_bucket_if_missing(&[b"b"])?.put(&[n], &[n; 1500])).unwrap();
    };
    put(1);
    put(2);
    let before = verified(&db);
    let was = fs::read(&path).unwrap();
    put(3);
    let after = verified(&db);
    drop(db);
    // A disk that acknowledged the last pages and did not keep them.
    let now = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    for at in (8192..now.len()).step_by(4096) {
        let end = (at + 4096).min(now.len());
        if was.get(at..end) != Some(&now[at..end]) {
            file.write_all_at(&[0xA5; 4096], at as u64).unwrap();
        }
    }
    drop(file);
    let found = store_bolt::examine(&path, true).unwrap();
    assert!(!found.newest.unwrap().is_clean());
    assert!(found.older.unwrap().is_clean());
    store_bolt::fall_back(&path).unwrap();
    assert!(store_bolt::examine(&path, true).unwrap().newest.unwrap().is_clean());
    let db = Db::open(&path, options(false, 4096)).unwrap();
    assert_eq!(verified(&db), before);
    db.update(|tx| tx.create_bucket_if_missing(&[b"b"])?.put(&[3], &[3; 1500])).unwrap();
    assert_eq!(verified(&db), after);
}

#[test]
fn a_backup_is_a_state_of_its_time_while_writers_go_on() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let copy = folder.path().join("x.backup");
    for stored in [true, false] {
        let db = Db::open(&path, options(stored, 4096)).unwrap();
        let writer = {
            let db = db.clone();
            std::thread::spawn(move || {
                for n in 0..300u32 {
                    db.update(move |tx| {
                        let mut bucket = tx.create_bucket_if_missing(&[b"b"])?;
                        bucket
                            .put(format!("{}", n % 40).as_bytes(), &n.to_be_bytes().repeat(99))?;
                        bucket.put(b"last", &n.to_be_bytes())
                    })
                    .unwrap();
                }
            })
        };
        let mut txid = 0;
        while !writer.is_finished() {
            let made = db.backup(&copy).unwrap();
            assert!(made.txid >= txid);
            txid = made.txid;
            let report = store_bolt::check(&copy).unwrap();
            assert!(report.is_clean() && report.txid == txid, "{report:?}");
        }
        writer.join().unwrap();
        db.backup(&copy).unwrap();
        let copied = Db::open(&copy, options(stored, 4096)).unwrap();
        assert_eq!(verified(&copied), verified(&db));
        assert!(!folder.path().join("x.backup.new").exists());
    }
}

#[test]
fn what_salvage_could_not_read_is_filled_from_a_copy() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let (copy, saved) = (folder.path().join("copy"), folder.path().join("saved"));
    let db = Db::open(&path, options(false, 4096)).unwrap();
    db.update(|tx| {
        for name in ["images", "blobs"] {
            let mut bucket = tx.create_bucket_if_missing(&[b"v1", name.as_bytes()])?;
            for n in 0..60 {
                bucket.put(format!("{name}-{n:03}").as_bytes(), &[7; 400])?;
            }
        }
        Ok::<_, store_bolt::Error>(())
    })
    .unwrap();
    db.backup(&copy).unwrap();
    db.update(|tx| {
        tx.create_bucket_if_missing(&[b"v1", b"blobs"])?.delete(b"blobs-000")?;
        tx.create_bucket_if_missing(&[b"v1", b"blobs"])?.put(b"blobs-new", b"new")
    })
    .unwrap();
    let mut wanted = verified(&db);
    drop(db);
    // One leaf of the images.
    let bytes = fs::read(&path).unwrap();
    let needle = b"images-030";
    let at = bytes.windows(needle.len()).rposition(|bytes| bytes == needle).unwrap() / 4096 * 4096;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], at as u64).unwrap();
    drop(file);
    let report = store_bolt::salvage(&path, &saved).unwrap();
    assert_eq!(report.damaged, [[b"v1".to_vec(), b"images".to_vec()]]);
    let lost = verified(&Db::open(&saved, options(false, 4096)).unwrap());
    assert_ne!(lost, wanted);
    let filled = store_bolt::fill(&copy, &saved, &report.damaged).unwrap();
    assert!(filled > 0);
    let mut found = verified(&Db::open(&saved, options(false, 4096)).unwrap());
    // Deleted since the copy, in a bucket that was whole: it stays deleted.
    (wanted.sequence, found.sequence) = (0, 0);
    assert_eq!(found, wanted);
}
