//! Suites with real clients, real daemons and real shims.

mod bad_input;
mod bad_tasks;
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
mod logging;
mod process;
mod proxies;
mod recovery;
mod restart;
mod rules;
mod snapshotters;
mod swap;
mod userns;
mod v0;

/// Tests that run once for each version of `ctr` that is named, by a function that makes a world for
/// it and runs the body there: `[<name of the test> = <maker>, ...] <function>; fn name(world) {...}`.
macro_rules! with_ctrs {
    ($ctrs:tt $run:path; $(
        $(#[$doc:meta])*
        fn $name:ident($world:ident) $body:block
    )*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports, reason = "not all bodies need all")]
            use super::*;

            fn body($world: &e2e::World) -> anyhow::Result<()> $body

            $crate::tests_of_body!($ctrs $run);
        }
    )*};
}
pub(crate) use with_ctrs;

/// The tests of one body of [`with_ctrs`].
macro_rules! tests_of_body {
    ([$($test:ident = $maker:ident),*] $run:path) => {$(
        #[test]
        fn $test() {
            $run(e2e::Maker::$maker, body);
        }
    )*};
}
pub(crate) use tests_of_body;

/// The versions of `ctr` that every suite of commands runs with.
macro_rules! with_both_ctrs {
    ($($tests:tt)*) => {
        $crate::with_ctrs! { [ctr_1_6 = Bookworm, ctr_2_1 = Forky] $crate::with_image; $($tests)* }
    };
}
pub(crate) use with_both_ctrs;

/// The versions for suites that are quick.
macro_rules! with_all_ctrs {
    ($($tests:tt)*) => {
        $crate::with_ctrs! {
            [ctr_1_6 = Bookworm, ctr_1_7 = Trixie, ctr_2_1 = Forky] $crate::with_image; $($tests)*
        }
    };
}
pub(crate) use with_all_ctrs;

/// Runs `body` in a world with the image and the `ctr` of `maker`.
fn with_image(maker: e2e::Maker, body: impl FnOnce(&e2e::World) -> anyhow::Result<()>) {
    e2e::world::check(e2e::world::Options::new(maker), body);
}

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
