//! What goes by itself.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use api_grpc::images::GetImageRequest;
use api_grpc::leases::{AddResourceRequest, ListRequest, Resource};
use e2e::client::Client;
use e2e::world::{IMAGE, Options, check};
use e2e::{Maker, image, wait};

/// Seconds of a day.
const DAY: i64 = 24 * 60 * 60;

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

crate::with_ctrs! {
    [ctr_1_6 = Bookworm, ctr_2_1 = Forky, our_ctr = Ours] crate::with_image;

    /// What a client is just bringing is held by a lease that ends by itself, should the client not.
    fn a_lease_of_an_import_is_for_a_day(world) {
        let archive = fs::read(image::small()?)?;
        let mut command = world.ctr_command(&format!("images import {} -", world.local()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        // Half of it: the import is on its way until the rest comes.
        input.write_all(&archive[..archive.len() / 2])?;
        let client = world.client()?;
        let lease = wait::until("the lease of the import", || {
            let request = client.request(ListRequest::default());
            let leases = client.block_on(client.leases().list(request))?.into_inner().leases;
            leases.into_iter().next().context("none")
        })?;
        let made = lease.created_at.context("no time")?.seconds;
        let expires = lease.labels.get("containerd.io/gc.expire").context("it never expires")?;
        let expires = base_ident::timestamp::parse(expires)?;
        let expires = i64::try_from(expires.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
        ensure!((expires - made - DAY).abs() < 60, "{lease:?}");
        child.kill()?;
        child.wait()?;
        drop(input);
        Ok(())
    }
}
