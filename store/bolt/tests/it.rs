//! The engine against a model, against damage, against crashes, and against containerd itself.
#![allow(clippy::unwrap_used, reason = "tests")]

mod it {
    mod concurrency;
    mod crash;
    mod damage;
    mod faults;
    mod model;
    mod peer;
    mod power;
    pub(crate) mod support;
    mod transactions;
}
