//! Damaged files: never a panic, never an endless loop, and the other meta where there is one.

use std::path::Path;

use base_errors::{Class, Coded};
use store_bolt::{Bucket, Db, Entry, Error, Options};

use super::support::{Random, Tree, folder, options, verified};

/// A file with all that the format has: branches, overflow, inline and nested buckets, free pages.
fn sample(path: &Path, stored: bool, page_size: u32) -> Vec<Tree> {
    let db = Db::open(path, options(stored, page_size)).unwrap();
    let mut states = Vec::new();
    for round in 0..4u8 {
        db.update(move |tx| {
            let mut bucket = tx.create_bucket_if_missing(&[b"v1", b"default", b"objects"])?;
            for n in 0..80u8 {
                let mut object =
                    bucket.create_bucket_if_missing(format!("object-{n}").as_bytes())?;
                object.put(b"createdat", &[round; 15])?;
                object.create_bucket_if_missing(b"labels")?.put(b"k", &[n; 20])?;
            }
            bucket.put(b"large", &vec![round; 3 * 4096])?;
            bucket.delete_bucket(format!("object-{}", round * 3).as_bytes())?;
            let mut flat = tx.create_bucket_if_missing(&[b"flat"])?;
            for n in 0..300u16 {
                flat.put(&n.to_be_bytes(), &[round; 40])?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        states.push(verified(&db));
    }
    states
}

/// Reads everything there is, at most `budget` entries: a damaged file may hold itself.
fn walk(bucket: Bucket<'_>, budget: &mut u64) -> u64 {
    let mut errors = 0;
    for entry in bucket.iter() {
        if *budget == 0 {
            return errors;
        }
        *budget -= 1;
        match entry {
            Ok((key, Entry::Value(value))) => {
                std::hint::black_box((key.first(), value.last()));
            }
            Ok((_, Entry::Bucket(bucket))) => errors += walk(bucket, budget),
            Err(_) => errors += 1,
        }
    }
    errors
}

/// Opens, reads, checks, dumps, changes. Only the way in which it ends is looked at.
fn exercise(path: &Path) {
    let _ = store_bolt::check(path);
    let mut text = String::new();
    let _ = store_bolt::dump(path, &mut text);
    let Ok(db) = Db::open(path, Options::default()) else { return };
    let tx = db.view().unwrap();
    walk(tx.root(), &mut 20_000);
    let _ = tx.root().path(&[b"v1", b"default", b"objects", b"object-7", b"labels"]);
    if let Ok(Some(flat)) = tx.bucket(b"flat") {
        let _ = flat.get(&100u16.to_be_bytes());
        let _ = flat.range_from(&200u16.to_be_bytes()).take(50).count();
    }
    for what in 0..5u8 {
        let result = db.update(move |tx| {
            match what {
                0 => tx.create_bucket_if_missing(&[b"new"])?.put(b"k", &[1; 100])?,
                1 => {
                    let mut flat = tx.create_bucket_if_missing(&[b"flat"])?;
                    (0..200u16).try_for_each(|n| flat.delete(&n.to_be_bytes()))?;
                }
                2 => {
                    let path: [&[u8]; 3] = [b"v1", b"default", b"objects"];
                    tx.create_bucket_if_missing(&path)?.delete_bucket(b"object-7")?;
                }
                3 => tx.root().delete_bucket(b"v1")?,
                _ => tx.root().delete_bucket(b"flat")?,
            }
            Ok::<_, Error>(())
        });
        assert!(!matches!(result, Err(Error::Panicked { .. })), "{result:?}");
    }
    walk(db.view().unwrap().root(), &mut 20_000);
}

#[test]
fn a_torn_meta_falls_back_to_the_other_one() {
    for (stored, page_size) in [(true, 4096u32), (false, 4096), (true, 16384), (false, 65536)] {
        let folder = folder();
        let (path, torn) = (folder.path().join("x.db"), folder.path().join("torn.db"));
        let states = sample(&path, stored, page_size);
        let bytes = std::fs::read(&path).unwrap();
        let last = states.len() - 1;
        // Commit 1 was the creation, so the last commit has an odd or even number as `states` has.
        let newest = (states.len() + 1) % 2;
        for slot in [0, 1] {
            let meta = slot * usize::try_from(page_size).unwrap() + 16;
            for at in (meta..meta + 64).step_by(if page_size == 4096 { 1 } else { 7 }) {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x5a;
                std::fs::write(&torn, bytes).unwrap();
                let report = store_bolt::check(&torn).unwrap();
                assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
                assert_eq!(report.problems[0].page, slot as u64);
                let db = Db::open(&torn, options(stored, page_size)).unwrap();
                let expected = if slot == newest { last - 1 } else { last };
                assert_eq!(verified(&db), states[expected], "byte {at} of slot {slot}");
                db.update(|tx| tx.root().put(b"k", b"v")).unwrap();
                verified(&db);
                drop(db);
                if slot == newest {
                    assert!(store_bolt::check(&torn).unwrap().is_clean(), "it is mended");
                }
            }
            let mut bytes = bytes.clone();
            bytes[meta - 16..meta + 64].fill(0);
            std::fs::write(&torn, &bytes).unwrap();
            verified(&Db::open(&torn, options(stored, page_size)).unwrap());
        }
    }
}

#[test]
fn two_damaged_metas_are_an_error_that_says_so() {
    let folder = folder();
    let path = folder.path().join("x.db");
    sample(&path, true, 4096);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[16 + 60] ^= 1;
    bytes[4096 + 16] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Db::open(&path, Options::default()).unwrap_err();
    assert_eq!(error.class(), Class::DataLoss);
    assert!(error.to_string().contains("no valid meta"), "{error}");
    std::fs::write(&path, b"this is no database").unwrap();
    let error = Db::open(&path, Options::default()).unwrap_err();
    assert_eq!(error.class(), Class::DataLoss);
    assert_eq!(std::fs::read(&path).unwrap(), b"this is no database", "it is left alone");
}

#[test]
fn a_file_cut_off_anywhere_opens_or_is_refused() {
    let folder = folder();
    let (path, cut) = (folder.path().join("x.db"), folder.path().join("cut.db"));
    sample(&path, true, 4096);
    let bytes = std::fs::read(&path).unwrap();
    let lengths = (0..bytes.len())
        .step_by(1000)
        .chain((0..200).map(|n| n * 3))
        .chain([4096, 8191, 8192, 12287, 16384]);
    let mut refused = 0;
    for len in lengths {
        std::fs::write(&cut, &bytes[..len]).unwrap();
        refused += u32::from(Db::open(&cut, Options::default()).is_err());
        // Opening an empty file makes a database of it; the others are as they were.
        std::fs::write(&cut, &bytes[..len]).unwrap();
        exercise(&cut);
    }
    assert!(refused > 100);
}

#[test]
fn random_damage_never_panics_or_hangs() {
    let folder = folder();
    let (path, bad) = (folder.path().join("x.db"), folder.path().join("bad.db"));
    let mut random = Random(0x1234_5678_9abc_def1);
    for (stored, page_size, rounds) in
        [(true, 4096u32, 900), (false, 4096, 900), (true, 1024, 300), (false, 16384, 100)]
    {
        let _ = std::fs::remove_file(&path);
        sample(&path, stored, page_size);
        let bytes = std::fs::read(&path).unwrap();
        let size = usize::try_from(page_size).unwrap();
        for round in 0..rounds {
            let mut bytes = bytes.clone();
            for _ in 0..=random.below(6) {
                // Mostly where structure is: the start of a page.
                let page = 2 + random.index(bytes.len() / size - 2);
                let within = match round % 3 {
                    0 => random.index(16),
                    1 => random.index(200),
                    _ => random.index(size),
                };
                let at = page * size + within;
                match random.below(4) {
                    0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => {
                        // A number that might be a page: makes loops and double use.
                        let id = random.below((bytes.len() / size) as u64);
                        let at = at.min(bytes.len() - 8) / 8 * 8;
                        bytes[at..at + 8].copy_from_slice(&id.to_le_bytes());
                    }
                    _ => {
                        let from = random.index(bytes.len() / size) * size;
                        bytes.copy_within(from..from + size, page * size);
                    }
                }
            }
            std::fs::write(&bad, bytes).unwrap();
            exercise(&bad);
        }
    }
}

/// Where the first page with these flags that holds `key` starts.
fn page_of(bytes: &[u8], flags: u8, key: &[u8]) -> usize {
    (2..bytes.len() / 4096)
        .map(|page| page * 4096)
        .find(|at| {
            let page = &bytes[*at..*at + 4096];
            page[8] == flags && page.windows(key.len()).any(|window| window == key)
        })
        .unwrap()
}

#[test]
fn a_damaged_page_costs_its_own_entries_and_no_others() {
    let folder = folder();
    let (path, saved) = (folder.path().join("x.db"), folder.path().join("saved.db"));
    let db = Db::open(&path, options(false, 4096)).unwrap();
    db.update(|tx| {
        let mut flat = tx.create_bucket_if_missing(&[b"flat"])?;
        for n in 0..1000u32 {
            flat.put(format!("key-{n:04}").as_bytes(), &[1; 40])?;
        }
        tx.create_bucket_if_missing(&[b"other"])?.put(b"k", b"v")
    })
    .unwrap();
    let used = usize::try_from(db.stats().pages).unwrap() * 4096;
    drop(db);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = page_of(&bytes, 2, b"key-0500");
    bytes[at..at + 16].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();

    let report = store_bolt::check(&path).unwrap();
    assert_eq!(report.problems[0].page, (at / 4096) as u64, "{:?}", report.problems);
    let db = Db::open(&path, options(false, 4096)).unwrap();
    let tx = db.view().unwrap();
    assert_eq!(tx.root().path(&[b"other"]).unwrap().unwrap().get(b"k").unwrap(), Some(&b"v"[..]));
    let flat = tx.bucket(b"flat").unwrap().unwrap();
    let error = flat.get(b"key-0500").unwrap_err();
    assert_eq!(error.class(), Class::DataLoss);
    assert!(error.to_string().contains(&format!("page {}:", at / 4096)), "{error}");
    let (good, bad) = flat.iter().fold((0, 0), |(good, bad), entry| match entry {
        Ok(_) => (good + 1, bad),
        Err(_) => (good, bad + 1),
    });
    assert!(good > 900 && bad == 1, "{good} and {bad}");
    // Writing elsewhere works, and takes no page that might still be salvaged.
    db.update(|tx| tx.create_bucket_if_missing(&[b"other"])?.put(b"k", b"w")).unwrap();
    drop((tx, db));
    let now = std::fs::read(&path).unwrap();
    assert!(now[2 * 4096..used] == bytes[2 * 4096..used], "a page was used again");

    let report = store_bolt::salvage(&path, &saved).unwrap();
    assert_eq!(report.problems.len(), 1);
    let db = Db::open(&saved, Options::default()).unwrap();
    let tree = verified(&db);
    assert_eq!(tree.items.len(), 2);
    assert_eq!(db.view().unwrap().bucket(b"flat").unwrap().unwrap().iter().count(), good);
}

#[test]
fn a_damaged_stored_free_list_is_rebuilt() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let states = sample(&path, true, 4096);
    let mut bytes = std::fs::read(&path).unwrap();
    for page in 2..bytes.len() / 4096 {
        if bytes[page * 4096 + 8] == 0x10 {
            bytes[page * 4096 + 16..page * 4096 + 24].fill(0xee);
        }
    }
    std::fs::write(&path, bytes).unwrap();
    assert!(!store_bolt::check(&path).unwrap().is_clean());
    let db = Db::open(&path, options(true, 4096)).unwrap();
    db.update(|tx| tx.root().put(b"k", b"v")).unwrap();
    let mut expected = states.last().unwrap().clone();
    expected.items.insert(b"k".to_vec(), super::support::Item::Value(b"v".to_vec()));
    assert_eq!(verified(&db), expected);
    assert!(db.stats().free_pages > 0);
}
