//! What clients see of the services: names, methods, numbers, reflection, health.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod golden;
mod peer;
mod served;
