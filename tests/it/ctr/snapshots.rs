//! `ctr snapshots`.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::{Table, World, image, words};

use crate::with_both_ctrs;

/// The chain ids of the image, lowest first.
fn chain(world: &World) -> Result<Vec<String>> {
    let table = Table::parse(&world.ctr("snapshots ls")?)?;
    ensure!(table.heads == ["KEY", "PARENT", "KIND"], "{:?}", table.heads);
    let first = table.rows.iter().find(|row| row[1].is_empty()).context("no lowest")?[0].clone();
    let second = table.rows.iter().find(|row| row[1] == first).context("no second")?[0].clone();
    ensure!(table.rows.len() == 2 && table.cell(&second, "KIND")? == "Committed", "{table:?}");
    Ok(vec![first, second])
}

/// Does what a mount command says.
fn mount(world: &World, command: &str) -> Result<()> {
    let words = words::split(command);
    let (program, arguments) = words.split_first().context("no command")?;
    ensure!(program == "mount", "{command}");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    world.run("mount", &arguments)?;
    Ok(())
}

with_both_ctrs! {
    fn list_info_and_tree(world) {
        let chain = chain(world)?;
        let info: serde_json::Value = serde_json::from_str(&world.ctr(&format!("snapshots info {}", chain[1]))?)?;
        ensure!(info["Kind"] == "Committed", "{info}");
        ensure!(info["Name"] == chain[1].as_str() && info["Parent"] == chain[0].as_str(), "{info}");
        ensure!(info["Created"].is_string() && info["Updated"].is_string(), "{info}");
        let tree = world.ctr("snapshots tree")?;
        let lines: Vec<&str> = tree.lines().map(str::trim_end).collect();
        ensure!(lines == [format!(" {}", chain[0]), format!("  \\_ {}", chain[1])], "{tree:?}");
        let error = world.ctr_fails("snapshots info nothing")?;
        ensure!(error.contains("not found"), "{error}");
        let error = world.ctr_fails("snapshots --snapshotter nothing ls")?;
        ensure!(error.contains("snapshotter not loaded: nothing: invalid argument"), "{error}");
        ensure!(Table::parse(&world.ctr("snapshots --snapshotter native ls")?)?.rows.is_empty());
        Ok(())
    }

    fn prepare_mount_write_and_commit(world) {
        let chain = chain(world)?;
        let target = world.path("files/mounted");
        fs::create_dir(&target)?;
        let place = target.display().to_string();
        let command = world.ctr(&format!("snapshots prepare --target {place} work {}", chain[1]))?;
        ensure!(command.starts_with("mount -t overlay overlay "), "{command}");
        ensure!(command == world.ctr(&format!("snapshots mounts {place} work"))?, "other mounts");
        mount(world, &command)?;
        world.run("sh", &["-c", &format!(
            "cd {place} && echo written > data/written && rm hello && mkdir -m 700 made && ln -s made link"
        )])?;
        world.run("umount", &[&place])?;
        ensure!(Table::parse(&world.ctr("snapshots ls")?)?.cell("work", "KIND")? == "Active");
        world.ctr("snapshots commit done work")?;
        let table = Table::parse(&world.ctr("snapshots ls")?)?;
        ensure!(table.row("work").is_none() && table.cell("done", "KIND")? == "Committed", "{table:?}");
        ensure!(table.cell("done", "PARENT")? == chain[1], "{table:?}");

        // A view of `ctr` 1.6 has no label that keeps it: one has to come before the collector.
        let command = e2e::wait::until("a view with a label", || {
            let command = world.ctr(&format!("snapshots view --target {place} look done"))?;
            world.ctr("snapshots label look containerd.io/gc.root=test")?;
            Ok(command)
        })?;
        ensure!(command.contains(" -o ro") || command.contains(",ro") || !command.contains("upperdir"), "{command}");
        mount(world, &command)?;
        let shown = world.run("sh", &["-c", &format!(
            "cd {place}; cat data/written data/kept; ls -d made hello 2>/dev/null; stat -c %a made; readlink link; touch x 2>/dev/null || echo read only"
        )])?;
        world.run("umount", &[&place])?;
        ensure!(shown == "written\nkept\nmade\n700\nmade\nread only\n", "{shown:?}");
        ensure!(Table::parse(&world.ctr("snapshots ls")?)?.cell("look", "KIND")? == "View");

        // What is below another one cannot be removed.
        let error = world.ctr_fails("snapshots rm done")?;
        ensure!(error.contains("cannot remove snapshot with child: failed precondition"), "{error}");
        let error = world.ctr_fails("snapshots prepare look done")?;
        ensure!(error.contains("already exists"), "{error}");
        let error = world.ctr_fails("snapshots prepare other work")?;
        ensure!(error.contains("not found"), "{error}");
        world.ctr("snapshots rm look")?;
        world.ctr("snapshots rm done")?;
        let error = world.ctr_fails("snapshots rm done")?;
        ensure!(error.contains("not found"), "{error}");
        Ok(())
    }

    fn usage_and_labels(world) {
        let chain = chain(world)?;
        let text = world.ctr("snapshots usage")?;
        let table = Table::parse(&text)?;
        ensure!(table.heads == ["KEY", "SIZE", "INODES"], "{:?}", table.heads);
        let bytes = world.ctr(&format!("snapshots usage -b {}", chain[0]))?;
        let row = words::split(bytes.lines().nth(1).context("no row")?);
        let size: u64 = row[1].parse()?;
        let busybox = fs::metadata("/bin/busybox")?.len();
        ensure!((busybox..busybox + (1 << 20)).contains(&size), "{bytes}");
        ensure!(row[2].parse::<u64>()? > 40, "{bytes}");
        let error = world.ctr_fails("snapshots usage nothing")?;
        ensure!(error.contains("not found"), "{error}");

        world.ctr(&format!("snapshots label {} a=b c=d", chain[0]))?;
        let info: serde_json::Value = serde_json::from_str(&world.ctr(&format!("snapshots info {}", chain[0]))?)?;
        ensure!(info["Labels"]["a"] == "b" && info["Labels"]["c"] == "d", "{info}");
        world.ctr(&format!("snapshots label {} a=", chain[0]))?;
        let info: serde_json::Value = serde_json::from_str(&world.ctr(&format!("snapshots info {}", chain[0]))?)?;
        ensure!(info["Labels"].get("a").is_none() && info["Labels"]["c"] == "d", "{info}");
        Ok(())
    }

    fn diff(world) {
        let chain = chain(world)?;
        world.ctr(&format!("snapshots prepare work {}", chain[1]))?;
        let place = world.path("files/mounted");
        fs::create_dir(&place)?;
        let place = place.display().to_string();
        mount(world, &world.ctr(&format!("snapshots mounts {place} work"))?)?;
        world.run("sh", &["-c", &format!("cd {place} && echo new > data/made && rm hello && chmod 711 opaque")])?;
        world.run("umount", &[&place])?;
        let archive = world.path("files/diff.tar.gz");
        let shell = |media: &str, out: &std::path::Path| -> Result<()> {
            let mut command = world.ctr_command(&format!("snapshots diff {media} work"))?;
            let file = fs::File::create(out)?;
            let output = command.stdout(file).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        shell("", &archive)?;
        let names = |archive: &std::path::Path| world.run("tar", &["-tf", &archive.display().to_string()]);
        let listing = names(&archive)?;
        let mut lines: Vec<&str> = listing.lines().collect();
        lines.sort_unstable();
        ensure!(lines == [".wh.hello", "data/", "data/made", "opaque/"], "{listing}");
        let plain = world.path("files/diff.tar");
        shell("--media-type application/vnd.oci.image.layer.v1.tar", &plain)?;
        ensure!(names(&plain)? == listing, "another media type has other entries");
        // Without --keep the content is not kept.
        let collect = || -> Result<usize> {
            world.ctr("leases create --id now")?;
            world.ctr("leases rm --sync now")?;
            Ok(world.ctr("content ls -q")?.lines().count())
        };
        ensure!(collect()? == 4, "content was kept: {}", world.ctr("content ls")?);
        shell("--keep", &archive)?;
        ensure!(collect()? == 5, "content was not kept: {}", world.ctr("content ls")?);
        // Two snapshots given: what the second one adds to the first.
        let mut command = world.ctr_command(&format!("snapshots diff {} {}", chain[0], chain[1]))?;
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::write(&archive, output.stdout)?;
        let listing = names(&archive)?;
        ensure!(listing.lines().any(|line| line == "data/.wh.hidden"), "{listing}");
        ensure!(listing.lines().any(|line| line == "hello"), "{listing}");
        world.ctr("snapshots rm work")?;
        Ok(())
    }

    fn unpack(world) {
        let chain = chain(world)?;
        // The lower one goes by itself: nothing refers to it.
        world.ctr(&format!("snapshots rm {}", chain[1]))?;
        e2e::wait::until("the collector", || {
            ensure!(Table::parse(&world.ctr("snapshots ls")?)?.rows.is_empty());
            Ok(())
        })?;
        let row = world.ctr("images ls")?;
        let digest = words::split(row.lines().nth(1).context("no image")?)[2].clone();
        let shown = world.ctr(&format!("snapshots unpack {digest}"))?;
        ensure!(shown.contains("unpacking"), "{shown}");
        ensure!(chain == self::chain(world)?, "other snapshots");
        Ok(())
    }

    fn native(world) {
        world.ctr(&format!("images rm --sync {}", e2e::world::IMAGE))?;
        world.ctr(&format!("images import {} --snapshotter native {}",
            if world.options().ctr == e2e::Maker::Forky { "--local" } else { "" },
            image::small()?.display()))?;
        let table = Table::parse(&world.ctr("snapshots --snapshotter native ls")?)?;
        ensure!(table.rows.len() == 2, "{table:?}");
        let shown = world.ctr(&format!("run --rm --snapshotter native {} n sh -c 'cat /data/same; touch /data/x; ls /data'", e2e::world::IMAGE))?;
        ensure!(shown == "second\nkept\nreplaced\nsame\nx\n", "{shown:?}");
        ensure!(Table::parse(&world.ctr("snapshots ls")?)?.rows.is_empty(), "overlayfs was used");
        Ok(())
    }
}
