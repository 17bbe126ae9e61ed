//! Damage on the disk: the daemon starts, and as little as possible is lost.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::world::{IMAGE, Options};
use e2e::{Maker, World, image};

use crate::durability::{METADATA, OVERLAY, check_files, committed, reference};
use crate::skip;

fn check(body: impl FnOnce(&World) -> Result<()>) {
    check_with("", body);
}

/// The same with failpoints that the file `plan` of the world names, if it is not empty.
fn check_with(plan: &str, body: impl FnOnce(&World) -> Result<()>) {
    let outcome: Result<()> = (|| {
        let mut options = Options::new(Maker::Forky)?;
        if !plan.is_empty() {
            let plan = format!("@{{world}}/{plan}");
            options.environment.push(("IRONHULL_FAILPOINT".to_owned(), plan));
        }
        if options.daemon != Maker::Ours {
            skip!("containerd does not recover");
        }
        let world = World::with_image(options)?;
        body(&world).with_context(|| world.log())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

/// Overwrites the pages of a database from page `first` on.
fn destroy(database: &Path, first: u64) -> Result<()> {
    let file = fs::File::options().write(true).open(database)?;
    let pages = file.metadata()?.len() / 4096;
    for page in first..pages {
        file.write_all_at(&[0xA5; 4096], page * 4096)?;
    }
    Ok(())
}

/// Kills the daemon; nothing of its `meta.db` can be read any more, and there is no backup. Gives the
/// folder.
fn lose_the_records(world: &World) -> Result<PathBuf> {
    world.kill_daemon()?;
    let folder = world.root().join(METADATA);
    let _ = fs::remove_file(folder.join("meta.db.backup"));
    destroy(&folder.join("meta.db"), 0)?;
    Ok(folder)
}

fn runs(world: &World, id: &str) -> Result<()> {
    let said = world.ctr(&format!("run --rm {IMAGE} {id} echo whole"))?;
    ensure!(said == "whole\n", "{said}");
    Ok(())
}

#[test]
fn a_layer_that_lost_files_is_unpacked_anew_after_an_unclean_start() {
    check(|world| {
        world.kill_daemon()?;
        let good = reference(world)?;
        let trees = committed(world)?;
        for path in trees.values() {
            // A file without its data, and one without its name.
            for name in ["bin/busybox", "hello"] {
                let file = path.join(name);
                if file.exists() {
                    fs::File::create(&file)?;
                }
            }
            let _ = fs::remove_file(path.join("data/kept"));
        }
        ensure!(check_files(world, &good).is_err(), "nothing was damaged");
        fs::write(world.root().join("last-start"), "another-boot running\n")?;
        world.start()?;
        ensure!(world.log().contains("unpacked anew"));
        runs(world, "c1")?;
        world.kill_daemon()?;
        check_files(world, &good)?;
        // The same boot: a killed daemon loses nothing, so nothing is checked.
        world.start()?;
        ensure!(world.log().matches("everything is checked").count() == 1);
        world.ctr(&format!("images rm --sync {IMAGE}")).map(drop)
    });
}

#[test]
fn without_any_database_the_image_the_container_and_its_task_come_back() {
    check(|world| {
        world.ctr(&format!("run -d {IMAGE} c1 sleep 1000"))?;
        let folder = lose_the_records(world)?;
        world.start()?;
        // The name stood in the database alone.
        let images = world.ctr("images ls -q")?;
        let name = images.split_whitespace().next().context("no image came back")?;
        let checked = world.ctr("images check")?;
        ensure!(checked.contains("complete (") && checked.contains("true"), "{checked}");
        let tasks = world.ctr("tasks ls")?;
        ensure!(tasks.contains("c1") && tasks.contains("RUNNING"), "{tasks}");
        ensure!(world.ctr("tasks exec --exec-id e c1 echo here")? == "here\n");
        world.ctr(&format!("images tag {name} {IMAGE}"))?;
        runs(world, "c2")?;
        let kept = fs::read_dir(&folder)?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("meta.db.damaged-"));
        ensure!(kept, "the damaged file is gone");
        world.ctr("tasks kill --signal 9 c1")?;
        e2e::wait::until("the task to be deleted", || world.ctr("tasks rm c1"))?;
        world.ctr("containers rm c1").map(drop)
    });
}

#[test]
fn a_backup_takes_the_place_of_a_database_that_is_gone() {
    check(|world| {
        // The start makes the backups.
        world.stop_daemon()?;
        world.start()?;
        world.kill_daemon()?;
        let meta = world.root().join(METADATA).join("meta.db");
        let snapshots = world.root().join(OVERLAY).join("metadata.db");
        ensure!(meta.with_extension("db.backup").exists());
        destroy(&meta, 0)?;
        destroy(&snapshots, 2)?;
        world.start()?;
        ensure!(world.log().matches("the last backup").count() >= 1, "no backup was used");
        runs(world, "c1")?;
        let metrics = world.log();
        ensure!(metrics.contains("the damaged file is kept"));
        world.ctr(&format!("images rm --sync {IMAGE}")).map(drop)
    });
}

/// The disk is full when the records are made anew: what they will name must not be collected.
#[test]
fn nothing_is_collected_before_the_records_are_complete() {
    check_with("failpoints", |world| {
        lose_the_records(world)?;
        let plan = world.path("failpoints");
        // The first is for the word to the next start, which then goes into the old file.
        fs::write(&plan, "fs.atomic.sync:1=enospc;bolt.pages.write:1=enospc")?;
        world.start()?;
        let log = world.log();
        let told = log.lines().find(|line| line.contains("cannot complete the records"));
        ensure!(told.context("they were made")?.contains("No space left on device"), "{told:?}");
        let state = fs::read_to_string(world.root().join("last-start"))?;
        ensure!(state.ends_with(" incomplete\n"), "{state}");
        ensure!(world.ctr("images ls -q")?.is_empty());
        world.ctr("leases create --id refused")?;
        let refused = world.try_ctr("leases rm --sync refused")?.failed()?;
        ensure!(refused.contains("make room on the disk"), "{refused}");
        ensure!(world.stop_daemon()? == 0);
        fs::remove_file(&plan)?;
        world.start()?;
        let images = world.ctr("images ls -q")?;
        let name = images.split_whitespace().next().context("no image came back")?;
        let checked = world.ctr("images check")?;
        ensure!(checked.contains("complete (") && checked.contains("true"), "{checked}");
        world.ctr(&format!("images tag {name} {IMAGE}"))?;
        runs(world, "c1")?;
        // What nothing refers to is in the lease of what was found.
        world.collect()
    });
}

/// Starts that end while they make the records anew: each goes on where it was left.
#[test]
fn a_start_that_stops_while_it_recovers_is_followed_by_one_that_ends_it() {
    check_with("failpoints", |world| {
        lose_the_records(world)?;
        let plan = world.path("failpoints");
        for point in ["bolt.create.sync", "bolt.pages.write", "bolt.meta.sync"] {
            fs::write(&plan, format!("{point}:1=abort"))?;
            ensure!(world.start().is_err(), "{point} is not reached");
        }
        fs::remove_file(&plan)?;
        world.start()?;
        let checked = world.ctr("images check")?;
        ensure!(checked.contains("complete (") && checked.contains("true"), "{checked}");
        ensure!(!world.ctr("images ls -q")?.trim().is_empty());
        Ok(())
    });
}

#[test]
fn one_unreadable_page_does_not_take_the_rest() {
    check(|world| {
        for number in 0..40 {
            world.ctr(&format!("leases create --id lease-{number:02}"))?;
        }
        world.stop_daemon()?;
        let meta = world.root().join(METADATA).join("meta.db");
        let _ = fs::remove_file(meta.with_extension("db.backup"));
        // One page that names leases, and is in use.
        let bytes = fs::read(&meta)?;
        let needle = b"lease-33";
        let pages: Vec<u64> = (0..)
            .zip(bytes.chunks(4096))
            .filter(|(_, page)| page.windows(needle.len()).any(|window| window == needle))
            .map(|(number, _)| number)
            .collect();
        let file = fs::File::options().write(true).open(&meta)?;
        for page in pages {
            file.write_all_at(&[0; 16], page * 4096)?;
        }
        drop(file);
        world.start()?;
        let images = world.ctr("images ls -q")?;
        ensure!(images.contains(IMAGE), "{images}");
        runs(world, "c1")?;
        for id in world.ctr("leases ls -q")?.split_whitespace() {
            world.ctr(&format!("leases rm {id}"))?;
        }
        world.import(&image::small()?)?;
        world.ctr(&format!("images rm --sync {IMAGE}")).map(drop)
    });
}
