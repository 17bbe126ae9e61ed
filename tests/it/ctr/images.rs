//! `ctr images`.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::image::{self, Builder, Format, Packing};
use e2e::world::IMAGE;
use e2e::{Maker, Table, World};

use crate::{skip, with_both_ctrs};

/// The row of an image in `ctr images ls`. Its cells hold blanks, so the columns are told by hand.
fn listed(world: &World, name: &str) -> Result<String> {
    let text = world.ctr("images ls")?;
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    Ok(line.with_context(|| format!("no {name} in {text}"))?.to_owned())
}

/// The names that `ctr images ls -q` gives.
fn names(world: &World) -> Result<Vec<String>> {
    Ok(world.ctr("images ls -q")?.lines().map(str::to_owned).collect())
}

/// Imports `archive` and runs the image's program: all of its layers were applied as they should.
fn import_and_run(world: &World, archive: &std::path::Path, name: &str) -> Result<()> {
    world.import(archive)?;
    ensure!(names(world)?.contains(&name.to_owned()), "{:?}", names(world)?);
    let shown = world
        .ctr(&format!("run --rm {name} look sh -c 'ls /data /opaque; cat /data/same; /hello'"))?;
    let expected = "/data:\nkept\nreplaced\nsame\n\n/opaque:\nnew\nsecond\nhello from the image\n";
    ensure!(shown == expected, "{shown:?}");
    world.ctr(&format!("images rm --sync {name}"))?;
    Ok(())
}

with_both_ctrs! {
    fn list(world) {
        let text = world.ctr("images ls")?;
        let heads: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(heads == ["REF", "TYPE", "DIGEST", "SIZE", "PLATFORMS", "LABELS"], "{heads:?}");
        let row = listed(world, IMAGE)?;
        ensure!(row.contains("application/vnd.oci.image.manifest.v1+json sha256:"), "{row}");
        ensure!(row.contains("linux/amd64") || row.contains("linux/arm64"), "{row}");
        ensure!(names(world)? == [IMAGE], "{:?}", names(world)?);
        ensure!(world.ctr("images ls -q name==nothing")?.is_empty(), "a filter finds too much");
        ensure!(world.ctr("images ls -q name~=small")?.trim() == IMAGE, "a filter finds nothing");
        Ok(())
    }

    fn check(world) {
        let text = world.ctr("images check")?;
        let row = text.lines().find(|line| line.starts_with(IMAGE)).context("not there")?;
        ensure!(row.contains("complete (3/3)"), "{text}");
        ensure!(row.trim_end().ends_with("true"), "not unpacked: {text}");
        ensure!(world.ctr("images check -q")?.trim() == IMAGE, "not ready");
        Ok(())
    }

    fn tag_and_remove(world) {
        let other = "docker.io/library/other:2";
        let local = world.local();
        ensure!(world.ctr(&format!("images tag {local} {IMAGE} {other}"))?.trim() == other, "other text");
        if world.options().ctr == Maker::Bookworm || !local.is_empty() {
            let error = world.ctr_fails(&format!("images tag {local} {IMAGE} {other}"))?;
            ensure!(error.contains("already exists"), "{error}");
        }
        world.ctr(&format!("images tag {local} --force {IMAGE} {other}"))?;
        ensure!(names(world)? == [other, IMAGE], "{:?}", names(world)?);
        let target = |row: &str| row.split_whitespace().nth(2).map(str::to_owned);
        ensure!(target(&listed(world, IMAGE)?) == target(&listed(world, other)?), "other digests");
        ensure!(world.ctr(&format!("images rm {IMAGE}"))?.trim() == IMAGE, "other text");
        ensure!(world.ctr(&format!("run --rm {other} a echo still there"))? == "still there\n");
        world.ctr(&format!("images rm --sync {other}"))?;
        ensure!(names(world)?.is_empty(), "left");
        // Nothing refers to the content now: the collector has run when the answer comes.
        let content = world.ctr("content ls -q")?;
        ensure!(content.trim().is_empty(), "content is left: {content}");
        let snapshots = Table::parse(&world.ctr("snapshots ls")?)?;
        ensure!(snapshots.rows.is_empty(), "snapshots are left: {snapshots:?}");
        let error = world.try_ctr("images rm nothing:1")?;
        ensure!(error.stderr.contains("not found"), "{error}");
        Ok(())
    }

    fn labels(world) {
        world.ctr(&format!("images label {IMAGE} colour=green size=small"))?;
        ensure!(listed(world, IMAGE)?.contains("colour=green,"), "{}", listed(world, IMAGE)?);
        let found = world.ctr("images ls -q labels.colour==green")?;
        ensure!(found.trim() == IMAGE, "{found}");
        world.ctr(&format!("images label {IMAGE} colour="))?;
        let row = listed(world, IMAGE)?;
        ensure!(!row.contains("colour") && row.contains("size=small"), "{row}");
        world.ctr(&format!("images label --replace-all {IMAGE} only=one"))?;
        let row = listed(world, IMAGE)?;
        ensure!(!row.contains("size=") && row.contains("only=one"), "{row}");
        Ok(())
    }

    fn mount_and_unmount(world) {
        let target = world.path("files/mounted");
        fs::create_dir(&target)?;
        let target = target.display().to_string();
        let shown = world.ctr(&format!("images mount {IMAGE} {target}"))?;
        ensure!(shown.contains(&target), "{shown}");
        let listing = world.run("ls", &["-A", &target])?;
        for name in ["bin", "dangling", "data", "etc", "hello", "opaque"] {
            ensure!(listing.lines().any(|line| line == name), "no {name} in {listing}");
        }
        let modes = world.run(
            "stat",
            &[
                "-c", "%a %u:%g %F",
                &format!("{target}/data"), &format!("{target}/data/kept"), &format!("{target}/tmp"),
                &format!("{target}/dangling"), &format!("{target}/bin/busybox"),
            ],
        )?;
        let expected = "755 1000:1000 directory\n640 1000:1000 regular file\n1777 0:0 directory\n\
                        777 0:0 symbolic link\n755 0:0 regular file\n";
        ensure!(modes == expected, "{modes}");
        world.ctr(&format!("images unmount --rm {target}"))?;
        ensure!(world.run("ls", &["-A", &target])?.is_empty(), "still mounted");
        let snapshots = Table::parse(&world.ctr("snapshots ls")?)?;
        ensure!(snapshots.rows.len() == 2, "{snapshots:?}");
        Ok(())
    }

    fn import_of_all_formats(world) {
        for (number, (format, packing)) in [
            (Format::Oci, Packing::Plain),
            (Format::Oci, Packing::Zstd),
            (Format::Docker, Packing::Plain),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("docker.io/library/format:{number}");
            let mut layers = image::small_layers()?;
            layers.iter_mut().for_each(|layer| layer.packing = packing);
            let archive = world.path(&format!("files/format{number}.tar"));
            Builder::new(&name, layers).write(&archive, format)?;
            import_and_run(world, &archive, &name).with_context(|| format!("{format:?} {packing:?}"))?;
        }
        Ok(())
    }

    fn import_of_a_docker_archive_by_skopeo(world) {
        let archive = world.path("files/skopeo.tar");
        let name = "docker.io/library/skopeo:1";
        world.run("skopeo", &[
            "--tmpdir", &world.path("files").display().to_string(), "--insecure-policy", "copy", "--quiet",
            &format!("oci-archive:{}", image::small()?.display()),
            &format!("docker-archive:{}:skopeo:1", archive.display()),
        ])?;
        import_and_run(world, &archive, name)
    }

    fn import_of_an_image_by_umoci(world) {
        let layout = world.path("files/layout").display().to_string();
        let image = format!("{layout}:v1");
        let hello = world.path("files/hello");
        fs::write(&hello, "#!/bin/sh\necho by umoci\n")?;
        world.run("chmod", &["755", &hello.display().to_string()])?;
        world.run("umoci", &["init", "--layout", &layout])?;
        world.run("umoci", &["new", "--image", &image])?;
        world.run("umoci", &["insert", "--image", &image, "/bin/busybox", "/bin/busybox"])?;
        world.run("umoci", &["insert", "--image", &image, &hello.display().to_string(), "/hello"])?;
        world.run("umoci", &["config", "--image", &image, "--config.env", "A=b"])?;
        let archive = world.path("files/umoci.tar").display().to_string();
        world.run("tar", &["-C", &layout, "-cf", &archive, "."])?;
        let local = world.local();
        world.ctr(&format!("images import {local} --base-name docker.io/library/umoci {archive}"))?;
        let name = "docker.io/library/umoci:v1";
        ensure!(names(world)?.contains(&name.to_owned()), "{:?}", names(world)?);
        let shown = world.ctr(&format!(
            "run --rm {name} u /bin/busybox sh -c 'echo $A; /bin/busybox cat /hello'"
        ))?;
        ensure!(shown == "b\n#!/bin/sh\necho by umoci\n", "{shown:?}");
        Ok(())
    }

    fn import_by_the_client_itself(world) {
        if world.options().ctr == Maker::Bookworm {
            skip!("ctr 1.6 always does it itself");
        }
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        let shown = world.ctr(&format!("images import --local {}", image::small()?.display()))?;
        ensure!(shown.contains("unpacking") && shown.contains(IMAGE), "{shown}");
        ensure!(world.ctr(&format!("run --rm {IMAGE} a /hello"))? == "hello from the image\n");
        Ok(())
    }

    fn import_without_unpacking(world) {
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        let local = world.local();
        world.ctr(&format!("images import {local} --no-unpack {}", image::small()?.display()))?;
        let row = world.ctr("images check")?;
        ensure!(row.contains("complete (3/3)") && row.contains("false"), "{row}");
        Ok(())
    }

    fn export_and_import_again(world) {
        let before = listed(world, IMAGE)?;
        let archive = world.path("files/exported.tar");
        // `ctr` 2.1 with its own daemon now and then ends before the archive is whole.
        let local = if world.is_ours() || world.options().ctr == Maker::Bookworm { "" } else { "--local" };
        world.ctr(&format!("images export {local} {} {IMAGE}", archive.display()))?;
        let listing = world.run("tar", &["-tf", &archive.display().to_string()])?;
        for name in ["oci-layout", "index.json", "manifest.json", "blobs/sha256/"] {
            ensure!(listing.contains(name), "no {name} in {listing}");
        }
        // Another maker's program takes it as well.
        let seen = world.run("skopeo", &[
            "--tmpdir", &world.path("files").display().to_string(), "inspect",
            &format!("oci-archive:{}", archive.display()),
        ])?;
        ensure!(seen.contains("\"maker\": \"e2e\""), "{seen}");
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        world.import(&archive)?;
        let columns = |row: &str| row.split_whitespace().take(5).map(str::to_owned).collect::<Vec<_>>();
        ensure!(columns(&listed(world, IMAGE)?) == columns(&before), "{before}");
        ensure!(world.ctr(&format!("run --rm {IMAGE} a /hello"))? == "hello from the image\n");
        Ok(())
    }
}
