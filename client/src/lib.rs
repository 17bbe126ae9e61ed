//! The Rust client of the API, used by ctr and by the tests.
