//! The setting for clients of 1.0.

use anyhow::{Result, ensure};
use e2e::world::{IMAGE, Options, check_empty};
use e2e::{Maker, World, image, wait};

use crate::skip;

const SETTING: &str = "[plugins.\"io.containerd.grpc.v1.events\"]\nonly_types_of = \"1.0\"\n";

fn body(world: &World) -> Result<()> {
    if !world.is_ours() {
        skip!("containerd of today has no such setting");
    }
    let events = world.start_ctr("events")?;
    // The stream is there once an event comes through.
    wait::until("the first event", || {
        let name = format!("probe{}", events.stdout().len());
        world.try_ctr(&format!("namespaces create {name}"))?;
        let shown = events.stdout();
        world.try_ctr(&format!("namespaces rm {name}"))?;
        ensure!(shown.contains("/namespaces/create"), "{shown}");
        Ok(())
    })?;
    world.import(&image::small()?)?;
    world.ctr(&format!("images rm {IMAGE}"))?;
    wait::until("the last event", || {
        let shown = events.stdout();
        ensure!(shown.contains("/images/delete"), "{shown}");
        Ok(())
    })?;
    let shown = events.stdout();
    ensure!(shown.contains("/images/create"), "{shown}");
    ensure!(!shown.contains("/content/create"), "{shown}");
    Ok(())
}

#[test]
fn clients_of_1_0_get_what_they_know() {
    let options = Options::new(Maker::Forky).map(|mut options| {
        options.tables = SETTING.to_owned();
        options
    });
    check_empty(options, body);
}

/// The runtime of 1.0 by its name, with its own type of options, as `ctr` up to 1.6 sends them.
#[test]
fn the_runtime_of_1_0_is_the_one_of_today() {
    let options = Options::new(Maker::Bookworm);
    check_empty(options, |world| {
        if !world.is_ours() {
            skip!("containerd of today has no runtime of that name");
        }
        world.import(&image::small()?)?;
        let line = "run --rm --runtime io.containerd.runtime.v1.linux";
        let said = world.ctr(&format!("{line} {IMAGE} first /bin/busybox echo hello"))?;
        ensure!(said == "hello\n", "{said:?}");
        world.ctr(&format!("images rm {IMAGE}"))?;
        Ok(())
    });
}
