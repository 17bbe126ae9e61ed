//! Docker as a client: an unmodified `dockerd` works through the daemon, `docker` is what tests
//! talk to. Every operation that passes with containerd's daemon passes with ours.
//!
//! One host serves many operations, because two daemons have to start for it; each operation has
//! a name, and a failure tells all that failed.

mod building;
mod checkpoints;
mod crashing;
mod images;
mod lifecycle;
mod limits;
mod networks;
mod running;
mod watching;

use e2e::Maker;
use e2e::docker::{DockerHost, check};

/// The host's image.
use e2e::docker::IMAGE;

/// Removes a container whatever it does.
fn remove(host: &DockerHost, name: &str) -> anyhow::Result<()> {
    host.docker(&format!("rm --force --volumes {name}")).map(drop)
}

/// Docker 20.10 with its own storage: containers, tasks and leases of the daemon.
#[test]
fn docker_20_10_runs_containers() {
    check(Maker::Bookworm, &[], |steps| {
        running::steps(steps);
        lifecycle::steps(steps);
        limits::steps(steps);
        watching::steps(steps);
    });
}

/// The rest of it: images, volumes, networks.
#[test]
fn docker_20_10_moves_images_and_packets() {
    check(Maker::Bookworm, &[], |steps| {
        images::steps(steps);
        building::steps(steps);
        networks::steps(steps);
    });
}

/// Daemons and shims of Docker 20.10 that are killed.
#[test]
fn docker_20_10_survives_crashes() {
    check(Maker::Bookworm, &["--live-restore"], crashing::steps);
}

/// Docker 20.10 writes containers with CRIU and lets them go on.
#[test]
fn docker_20_10_checkpoints() {
    check(Maker::Bookworm, &["--experimental"], checkpoints::steps);
}

/// Docker 28.5 with the daemon's content store, snapshots and diffs.
#[test]
fn docker_28_5_stores_in_the_daemon() {
    check(Maker::Forky, &["--feature", "containerd-snapshotter=true"], |steps| {
        images::steps(steps);
        building::steps(steps);
        running::steps(steps);
    });
}

/// Docker 28.5: its life with containers, and crashes.
#[test]
fn docker_28_5_survives_crashes() {
    let arguments = ["--feature", "containerd-snapshotter=true", "--live-restore"];
    check(Maker::Forky, &arguments, |steps| {
        lifecycle::steps(steps);
        crashing::steps(steps);
    });
}
