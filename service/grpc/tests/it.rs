//! The services in this process, over a unix socket.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests; skips are printed")]

mod it {
    mod contract;
    mod daemon;
    mod rules;
}
