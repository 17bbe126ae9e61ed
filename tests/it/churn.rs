//! Many lives of containers at once, with kills in between: nothing is left, no end is told twice.

use anyhow::ensure;
use e2e::churn::{Plan, run};
use e2e::world::{Options, check};
use e2e::{Maker, World};

use crate::skip;

/// 200 lives: about a minute of two cores with programs that are not optimised. The bench has the
/// full form, 2,000 lives: `cargo xtask bench --only churn`.
const PLAN: Plan = Plan { wild: 120, calm: 80, clients: 16, seed: 1 };

fn body(world: &World) -> anyhow::Result<()> {
    if !world.is_ours() {
        skip!("containerd leaves shims, sockets and bundles behind");
    }
    let figures = run(world, PLAN)?;
    eprintln!("{figures:?}");
    ensure!(figures.whole >= PLAN.calm, "{figures:?}");
    Ok(())
}

#[test]
fn lives_and_kills() {
    check(Options::new(Maker::Forky), body);
}
