//! Processes killed in the middle of their writes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use store_bolt::{Db, Error};

use super::support::{Random, folder, options, verified};

/// Set for the child: the path of the database and the seed.
const CHILD: &str = "STORE_BOLT_CRASH_CHILD";
/// How many children are killed.
const KILLS: u64 = 200;
/// Threads of a child that write.
const WRITERS: u64 = 3;

/// The part of the child: writes for ever, and prints each number once its commit is durable.
#[test]
fn child() {
    let Ok(argument) = std::env::var(CHILD) else { return };
    let (seed, path) = argument.split_once(':').unwrap();
    let seed: u64 = seed.parse().unwrap();
    let db = Db::open(Path::new(path), options(seed.is_multiple_of(2), 4096)).unwrap();
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let db = db.clone();
            std::thread::spawn(move || write(&db, writer, seed))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn write(db: &Db, writer: u64, seed: u64) {
    let mut random = Random(seed * WRITERS + writer + 1);
    let name = format!("writer-{writer}");
    loop {
        let (kind, n, len) = (random.below(10), random.below(50), random.index(6000));
        let name = name.clone();
        let number = db
            .update(move |tx| {
                let mut bucket = tx.create_bucket_if_missing(&[name.as_bytes()])?;
                let key = format!("key-{n}");
                match kind {
                    0..5 => bucket.put(key.as_bytes(), &vec![1; len])?,
                    5..7 => bucket.delete(key.as_bytes())?,
                    7 | 8 => {
                        let nested = format!("bucket-{}", n % 10);
                        let mut nested = bucket.create_bucket_if_missing(nested.as_bytes())?;
                        nested.put(key.as_bytes(), &vec![2; len % 500])?;
                    }
                    _ => match bucket.delete_bucket(format!("bucket-{}", n % 10).as_bytes()) {
                        Ok(()) | Err(Error::BucketNotFound { .. }) => {}
                        Err(error) => return Err(error),
                    },
                }
                bucket.next_sequence()
            })
            .unwrap();
        #[expect(clippy::print_stdout, reason = "the parent reads it")]
        {
            println!("ack {writer} {number}");
        }
    }
}

#[test]
fn two_hundred_kills_lose_nothing_that_was_acknowledged() {
    let folder = folder();
    let path = folder.path().join("x.db");
    let mut acknowledged = [0u64; 3];
    let mut random = Random(0xfeed_beef);
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "it::crash::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{}:{}", round + 1, path.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some commits, then some time, then the end.
        let mut wait = 1 + random.below(20);
        let mut note = |line: &str| {
            // The harness prints its own words before the first acknowledgement.
            let Some((_, line)) = line.split_once("ack ") else { return false };
            let (writer, number) = line.split_once(' ').unwrap();
            let Ok(number) = number.parse() else { return false };
            acknowledged[writer.parse::<usize>().unwrap()] = number;
            true
        };
        while wait > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            wait -= u64::from(note(&line));
        }
        std::thread::sleep(Duration::from_micros(random.below(1500)));
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            // The last line may be cut off: a shorter number is no acknowledgement that counts.
            if line.len() >= "ack 0 1".len() {
                note(&line);
            }
        }
        child.wait().unwrap();
        let report = store_bolt::check(&path).unwrap();
        assert!(report.is_clean(), "kill {round}: {:?}", report.problems);
        let db = Db::open(&path, options(round.is_multiple_of(3), 4096)).unwrap();
        verified(&db);
        let tx = db.view().unwrap();
        for (writer, least) in acknowledged.iter().enumerate() {
            let Some(bucket) = tx.bucket(format!("writer-{writer}").as_bytes()).unwrap() else {
                assert_eq!(*least, 0);
                continue;
            };
            let sequence = bucket.sequence();
            assert!(
                sequence >= *least,
                "writer {writer}: {least} was promised, {sequence} is there"
            );
        }
    }
    assert!(acknowledged.iter().all(|number| *number > 0));
}
