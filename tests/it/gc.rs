//! What goes by itself.

use anyhow::{Context, Result, ensure};
use api_grpc::images::GetImageRequest;
use api_grpc::leases::{AddResourceRequest, Resource};
use e2e::client::Client;
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, wait};

/// A lease that expires gives back what it held, without any call that would trigger a collection.
#[test]
fn a_lease_expires_by_time_alone() {
    check(Options::new(Maker::Bookworm), |world| {
        if !world.is_ours() {
            println!("skipped: containerd waits for another trigger");
            return Ok(());
        }
        let client = Client::connect(&world.socket(), world.namespace())?;
        let request = client.request(GetImageRequest { name: IMAGE.to_owned() });
        let image = client.block_on(client.images().get(request))?.into_inner().image;
        let target = image.and_then(|image| image.target).context("no target")?;
        world.ctr("leases create --id short -x 6s")?;
        let resource = Resource { id: target.digest, r#type: "content".to_owned() };
        let request = AddResourceRequest { id: "short".to_owned(), resource: Some(resource) };
        client.block_on(client.leases().add_resource(client.request(request)))?;
        world.ctr(&format!("images rm {IMAGE}"))?;
        // These only read.
        wait::until("the lease to expire", || -> Result<()> {
            let leases = world.ctr("leases ls -q")?;
            ensure!(!leases.contains("short"), "{leases}");
            Ok(())
        })?;
        wait::until("what it held to go", || -> Result<()> {
            let left = world.ctr("content ls -q")?;
            ensure!(left.is_empty(), "{left}");
            let snapshots = world.ctr("snapshots ls")?;
            ensure!(snapshots.lines().count() == 1, "{snapshots}");
            Ok(())
        })
    });
}
