//! Each target for a bounded count, with bounded memory and time.

use std::path::Path;
use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Address space that all targets together may take: an allocation beyond ends the process.
const MEMORY: u64 = 4 << 30;

/// Seconds of processor time for all targets together: an endless loop ends the process.
const SECONDS: u64 = 900;

/// The variable that makes the runs so many times longer.
const TIMES: &str = "IRONHULL_FUZZ";

fn limit(what: Resource, most: u64) {
    let now = getrlimit(what);
    let most = now.maximum.map_or(most, |maximum| maximum.min(most));
    setrlimit(what, Rlimit { current: Some(most), maximum: now.maximum }).expect("limit");
}

fn run(name: &str) {
    static LIMITS: Once = Once::new();
    LIMITS.call_once(|| {
        limit(Resource::As, MEMORY);
        limit(Resource::Cpu, SECONDS);
    });
    let target = fuzz::TARGETS.iter().find(|target| target.name == name).expect("target");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let times: usize = std::env::var(TIMES).ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    // A longer run begins elsewhere, so that it is not the short one again.
    fuzz::run(target, &corpus, target.rounds * times, times as u64);
}

macro_rules! targets {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name));
        }
    )*

        #[test]
        fn every_target_is_run() {
            let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! { tar layer gzip zstd bolt filter references documents any }
