//! Many containers at once, and the order of their events.

use e2e::v0::load::ordered;

use super::old;

#[test]
fn fifty_containers_with_three_execs_each() {
    // A thousand: `cargo xtask bench --only v0-order`.
    old("", |_, old| old.block_on(ordered(old, 50, 16, 3)));
}

#[test]
fn two_hundred_containers_twenty_at_once() {
    old("", |_, old| old.block_on(ordered(old, 200, 20, 0)));
}
