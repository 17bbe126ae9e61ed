//! The API of 0.2, played as Docker 1.11 to 1.13 played it.

mod bad_input;
mod command_line;
mod life;
mod load;
mod newer;
mod processes;
mod restart;
mod tls;

use anyhow::Result;
use e2e::v0::Old;
use e2e::world::{Options, check_empty};
use e2e::{Maker, World};

/// The heading of the plugin's table.
const TABLE: &str = "[plugins.\"io.containerd.grpc.v1.api-v0\"]";

/// Runs `body` in a world with `settings` in the plugin's table; nothing may be left.
fn old(settings: &str, body: impl FnOnce(&World, &Old<'_>) -> Result<()>) {
    let options = Options::new(Maker::Forky).map(|mut options| {
        options.tables = format!("{TABLE}\n{settings}\n");
        options
    });
    check_empty(options, |world| {
        if !world.is_ours() {
            crate::skip!("containerd of today has no API of 0.2");
        }
        let old = Old::new(world)?;
        body(world, &old)?;
        old.assert_clean()
    });
}
