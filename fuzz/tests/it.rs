//! Each target with its corpus, within bounds of memory and time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// One input may take that long; all of them together take a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn names(of: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(of).expect("folder");
    entries
        .map(|entry| {
            let path = entry.expect("entry").path();
            path.file_stem().expect("name").to_str().expect("text").to_owned()
        })
        .collect()
}

/// Calls the target with each input, on a thread that is watched.
fn run(name: &str) {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(fuzz::limit_memory);
    let target = *fuzz::TARGETS.iter().find(|target| target.name == name).expect("target");
    let corpus = folder("corpus").join(name);
    let mut inputs: Vec<PathBuf> =
        fs::read_dir(&corpus).expect("corpus").map(|entry| entry.expect("entry").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    let (begun, watched) = mpsc::channel();
    let calls = std::thread::spawn(move || {
        for input in inputs {
            let data = fs::read(&input).expect("input");
            // An error is a test that has failed already.
            let _ = begun.send(input);
            (target.function)(&data);
        }
    });
    let mut last = PathBuf::new();
    loop {
        match watched.recv_timeout(PATIENCE) {
            Ok(input) => last = input,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("{name} hangs with {}", last.display()),
        }
    }
    assert!(calls.join().is_ok(), "{name} panics with {}", last.display());
}

macro_rules! targets {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name));
        }
    )*

        #[test]
        fn every_target_has_a_test_a_program_a_corpus_and_words() {
            let names_of = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let known = fuzz::TARGETS.iter().map(|target| target.name.to_owned());
            assert_eq!(known.collect::<BTreeSet<_>>(), names_of);
            for place in ["cargo-fuzz/fuzz_targets", "corpus", "dictionaries"] {
                assert_eq!(names(&folder(place)), names_of, "{place}");
            }
        }
    };
}

targets! { tar layer gzip zstd bolt filter references documents any }
