//! `ctr namespaces`, `ctr containers`, `ctr leases`.

use anyhow::{Context, ensure};
use e2e::Table;
use e2e::world::IMAGE;

use crate::with_all_ctrs;

with_all_ctrs! {
    fn namespaces(world) {
        let table = Table::parse(&world.ctr("namespaces ls")?)?;
        ensure!(table.heads == ["NAME", "LABELS"], "{:?}", table.heads);
        ensure!(table.row(world.namespace()).is_some(), "{table:?}");
        world.ctr("namespaces create other-one a=b")?;
        ensure!(Table::parse(&world.ctr("namespaces ls")?)?.cell("other-one", "LABELS")? == "a=b");
        let error = world.ctr_fails("namespaces create other-one")?;
        ensure!(error.contains("already exists"), "{error}");
        world.ctr("namespaces label other-one c=d a=")?;
        ensure!(Table::parse(&world.ctr("namespaces ls")?)?.cell("other-one", "LABELS")? == "c=d");
        let names = world.ctr("namespaces ls -q")?;
        ensure!(names.lines().eq([world.namespace(), "other-one"]), "{names}");
        ensure!(world.ctr("namespaces rm other-one")?.trim() == "other-one");
        // `ctr` does not mind that it is gone.
        world.ctr("namespaces rm other-one")?;
        // One with content in it stays.
        let error = world.try_ctr(&format!("namespaces rm {}", world.namespace()))?;
        ensure!(error.stderr.contains("must be empty") && error.stderr.contains("failed precondition"), "{error}");
        Ok(())
    }

    fn invalid_namespaces(world) {
        for name in ["a/b", "-a", "a..b", "a b", "ä"] {
            let error = world.ctr_fails(&format!("namespaces create '{name}'"))?;
            ensure!(error.contains("invalid argument") || error.contains("flag provided but not defined"), "{name}: {error}");
        }
        let long = "a".repeat(77);
        let error = world.ctr_fails(&format!("namespaces create {long}"))?;
        ensure!(error.contains("greater than maximum length") && error.contains("invalid argument"), "{error}");
        world.ctr(&format!("namespaces create {}", &long[..76]))?;
        Ok(())
    }

    fn what_a_namespace_says_where_nobody_names_it(world) {
        let label = format!("namespaces label {} containerd.io/defaults/snapshotter", world.namespace());
        world.ctr(&format!("{label}=native"))?;
        world.ctr(&format!("run --rm {IMAGE} first true"))?;
        world.ctr(&format!("containers create {IMAGE} second true"))?;
        world.ctr(&format!("containers create --snapshotter overlayfs {IMAGE} third true"))?;
        let info = |id: &str| -> anyhow::Result<serde_json::Value> {
            Ok(serde_json::from_str(&world.ctr(&format!("containers info {id}"))?)?)
        };
        ensure!(info("second")?["Snapshotter"] == "native", "{}", info("second")?);
        ensure!(info("third")?["Snapshotter"] == "overlayfs", "{}", info("third")?);
        ensure!(world.ctr("snapshots --snapshotter native ls")?.contains("second"));
        world.ctr("containers rm second third")?;
        world.ctr(&format!("{label}="))?;
        world.ctr(&format!("containers create {IMAGE} fourth true"))?;
        ensure!(info("fourth")?["Snapshotter"] == "overlayfs", "{}", info("fourth")?);
        world.ctr("containers rm fourth")?;
        Ok(())
    }

    fn containers(world) {
        world.ctr(&format!("containers create --label a=b {IMAGE} first sleep 1000"))?;
        let table = Table::parse(&world.ctr("containers ls")?)?;
        ensure!(table.heads == ["CONTAINER", "IMAGE", "RUNTIME"], "{:?}", table.heads);
        ensure!(table.row("first").context("not listed")? == ["first", IMAGE, "io.containerd.runc.v2"], "{table:?}");
        let info: serde_json::Value = serde_json::from_str(&world.ctr("containers info first")?)?;
        ensure!(info["ID"] == "first" && info["Image"] == IMAGE, "{info}");
        ensure!(info["Runtime"]["Name"] == "io.containerd.runc.v2", "{info}");
        ensure!(info["Snapshotter"] == "overlayfs" && info["SnapshotKey"] == "first", "{info}");
        ensure!(info["Labels"]["a"] == "b" && info["Labels"]["io.containerd.image.config.stop-signal"] == "SIGTERM", "{info}");
        ensure!(info["Spec"]["process"]["args"] == serde_json::json!(["sleep", "1000"]), "{info}");
        let env = info["Spec"]["process"]["env"].to_string();
        ensure!(env.contains("FROM_IMAGE=yes"), "{env}");
        let spec: serde_json::Value = serde_json::from_str(&world.ctr("containers info --spec first")?)?;
        ensure!(spec["process"]["args"] == info["Spec"]["process"]["args"], "{spec}");

        let error = world.ctr_fails(&format!("containers create {IMAGE} first"))?;
        ensure!(error.contains("already exists"), "{error}");
        ensure!(world.ctr("containers ls -q")? == "first\n");
        world.ctr("containers label first c=d a=")?;
        let info: serde_json::Value = serde_json::from_str(&world.ctr("containers info first")?)?;
        ensure!(info["Labels"]["c"] == "d" && info["Labels"].get("a").is_none(), "{info}");
        ensure!(world.ctr("containers ls -q labels.c==d")? == "first\n");
        ensure!(world.ctr("containers ls -q labels.c==e")?.is_empty());

        // A container with a task is not deleted.
        world.ctr("tasks start -d first")?;
        let error = world.ctr_fails("containers rm first")?;
        ensure!(error.contains("cannot delete a non stopped container"), "{error}");
        world.ctr("tasks kill -s KILL first")?;
        e2e::wait::until("the task to end", || { world.ctr("tasks rm first")?; Ok(()) })?;
        world.ctr("containers rm first")?;
        ensure!(world.ctr("containers ls -q")?.is_empty());
        ensure!(Table::parse(&world.ctr("snapshots ls")?)?.row("first").is_none(), "its snapshot is left");
        let error = world.ctr_fails("containers info first")?;
        ensure!(error.contains("not found"), "{error}");
        let error = world.ctr_fails(&format!("containers create {IMAGE} 'not valid'"))?;
        ensure!(error.contains("invalid argument"), "{error}");
        // `ctr` has made its snapshot by then, which is left to the collector.
        world.ctr("leases create --id now")?;
        world.ctr("leases rm --sync now")?;
        ensure!(Table::parse(&world.ctr("snapshots ls")?)?.rows.len() == 2, "a snapshot is left");
        Ok(())
    }

    fn leases(world) {
        let shown = world.ctr("leases create --id mine a=b")?;
        ensure!(shown.trim() == "mine", "{shown}");
        let text = world.ctr("leases ls")?;
        let heads: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(heads == ["ID", "CREATED", "AT", "LABELS"], "{heads:?}");
        let row = text.lines().find(|line| line.starts_with("mine")).context("not listed")?;
        ensure!(row.contains("a=b") && row.contains("containerd.io/gc.expire="), "{row}");
        let error = world.ctr_fails("leases create --id mine")?;
        ensure!(error.contains("already exists"), "{error}");
        let made = world.ctr("leases create")?;
        ensure!(world.ctr("leases ls -q")?.lines().any(|line| line == made.trim()));
        world.ctr(&format!("leases rm {}", made.trim()))?;
        world.ctr("leases rm --sync mine")?;
        ensure!(world.ctr("leases ls -q")?.is_empty());
        let error = world.try_ctr("leases rm mine")?;
        ensure!(error.stderr.contains("not found"), "{error}");
        Ok(())
    }

    fn a_lease_keeps_content(world) {
        world.ctr("leases create --id keep")?;
        // The lease is named by the client's library only; here by the header of a call.
        let client = world.client()?;
        let digest = e2e::image::digest(b"kept");
        let add = |kind: &str, id: &str| api_grpc::leases::AddResourceRequest {
            id: "keep".into(),
            resource: Some(api_grpc::leases::Resource { id: id.into(), r#type: kind.into() }),
        };
        // Before it is there: a collection may come at any time.
        client.block_on(client.leases().add_resource(client.request(add("content", &digest))))?;
        world.ctr_with_input("content ingest kept", Some(b"kept"))?.ok()?;
        let other = e2e::image::digest(b"not kept");
        world.ctr_with_input("content ingest other", Some(b"not kept"))?.ok()?;
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        let left = world.ctr("content ls -q")?;
        ensure!(left.trim() == digest, "{left} (and not {other})");
        world.ctr("leases rm --sync keep")?;
        ensure!(world.ctr("content ls -q")?.is_empty());
        Ok(())
    }
}
