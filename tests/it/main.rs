//! Suites with real clients, real daemons and real shims.

mod bad_input;
mod cgroup_v2;
mod checkpoint;
mod churn;
mod compare;
mod crash;
mod cross;
mod ctr;
mod disk;
mod docker;
mod durability;
mod gc;
mod listeners;
mod process;
mod proxies;
mod recovery;
mod restart;
mod snapshotters;
mod swap;
mod userns;
mod v0;

use e2e::Maker;

/// The versions of `ctr` that every suite of commands runs with.
macro_rules! with_both_ctrs {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($world:ident) $body:block
    )*) => {$(
        mod $name {
            #[allow(unused_imports, reason = "not all bodies need all")]
            use super::*;

            fn body($world: &e2e::World) -> anyhow::Result<()> $body

            $(#[$doc])*
            #[test]
            fn ctr_1_6() {
                e2e::world::check(e2e::world::Options::new(e2e::Maker::Bookworm), body);
            }

            $(#[$doc])*
            #[test]
            fn ctr_2_1() {
                e2e::world::check(e2e::world::Options::new(e2e::Maker::Forky), body);
            }
        }
    )*};
}
pub(crate) use with_both_ctrs;

/// Skips a test with a printed reason.
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::say_skipped(format_args!($($reason)*));
        return Ok(());
    }};
}
pub(crate) use skip;

/// Says that the test that runs is skipped, past what is kept back of tests that pass.
fn say_skipped(reason: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped {name}: {reason}");
}

/// The three pairs of daemon and shim that Debian has, for tests that compare.
const DEBIAN: [Maker; 2] = [Maker::Bookworm, Maker::Forky];
