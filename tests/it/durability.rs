//! The daemon stops at each point where data becomes a record; the disk is full at each; the power
//! is cut. What was acknowledged is there, what is there is whole, and nothing else is left.
//!
//! The points are found in the source: `failpoint::hit("name")`. One that no step here reaches fails
//! the test, so a new one needs a step. Those of snapshotters over devices and images are in `devices`,
//! losses of power in `power`.

mod devices;
mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use api_grpc::content::AbortRequest;
use api_grpc::content::content_client::ContentClient;
use e2e::client::Client;
use e2e::world::{IMAGE, Options};
use e2e::{Maker, World, image, process, wait};

use crate::skip;

/// Where content is in a root folder.
pub(crate) const CONTENT: &str = "io.containerd.content.v1.content";
/// Where the snapshotter of these tests has its trees.
pub(crate) const OVERLAY: &str = "io.containerd.snapshotter.v1.overlayfs";
/// Where the records are.
pub(crate) const METADATA: &str = "io.containerd.metadata.v1.bolt";

/// The file that holds the plan of the next start.
const PLAN: &str = "failpoints";

/// All failpoints of the daemon's crates.
fn points() -> Result<BTreeSet<String>> {
    let sources = sources()?;
    let points: BTreeSet<String> = sources
        .values()
        .flat_map(|text| points_in(text))
        // Documentation speaks of a place and a what.
        .filter(|name| *name != "place.what" && !devices::is_point(name))
        .map(str::to_owned)
        .collect();
    ensure!(points.len() > 20, "the source has moved: {points:?}");
    Ok(points)
}

/// Files whose marks have no failpoint of the daemon, and the test that stops or breaks it there.
const ELSEWHERE: [(&str, &str, &str); 6] = [
    // Another program, or a state that a reboot takes with it.
    ("runtime/shim/src/supervise.rs", "tests/it/crash.rs", "killed_while_containers_start_and_end"),
    ("runtime/shim/src/exit_record.rs", "tests/it/crash.rs", "a_shim_that_is_killed"),
    ("service/v0/src/state.rs", "tests/it/v0/restart.rs", "killed_while_containers_start_and_end"),
    (
        "service/v0/src/event_log.rs",
        "tests/it/v0/restart.rs",
        "killed_while_containers_start_and_end",
    ),
    (
        "store/mount/src/manager.rs",
        "store/mount/tests/it.rs",
        "a_start_sets_records_and_mounts_right",
    ),
    // What is written there is the older meta; a torn one means the same.
    (
        "store/bolt/src/backup.rs",
        "store/bolt/tests/it/damage.rs",
        "a_torn_meta_falls_back_to_the_other_one",
    ),
];

/// How many lines after a mark its failpoint may be.
const NEAR: usize = 14;

/// All source files of the rings, by their path from the top.
fn sources() -> Result<BTreeMap<String, String>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let rings = ["base", "api", "kernel", "store", "image", "runtime", "service", "app", "client"];
    let mut folders: Vec<PathBuf> = rings.iter().map(|ring| top.join(ring)).collect();
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(top)?.display().to_string();
                sources.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(sources)
}

/// The failpoints in `text`.
fn points_in(text: &str) -> impl Iterator<Item = &str> {
    ["failpoint::hit(\"", "failpoint::hit_io(\""].into_iter().flat_map(move |call| {
        text.match_indices(call)
            .map(move |(at, _)| text[at + call.len()..].split('"').next().unwrap_or_default())
    })
}

/// Each `DURABILITY:` in the source has a failpoint within the next lines, or names one, or says here
/// where it is proven.
#[test]
fn every_mark_has_a_point_at_which_something_stops() -> Result<()> {
    let (sources, points) = (sources()?, points()?);
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let (mut marks, mut without) = (0, Vec::new());
    let mut excused = BTreeSet::new();
    for (name, text) in &sources {
        let lines: Vec<&str> = text.lines().collect();
        for at in 0..lines.len() {
            let Some((before, mark)) = lines[at].split_once("DURABILITY:") else { continue };
            if before.trim() != "//" {
                // Documentation speaks of the mark.
                continue;
            }
            marks += 1;
            let near = lines[at..lines.len().min(at + NEAR)].join("\n");
            let comment: String = [mark]
                .into_iter()
                .chain(lines[at + 1..].iter().map_while(|line| line.trim().strip_prefix("//")))
                .collect();
            let named = points.iter().any(|point| {
                comment.contains(&format!("({point}")) || comment.contains(&format!(", {point})"))
            });
            if named || points_in(&near).next().is_some() {
                continue;
            }
            if let Some((_, proof, test)) = ELSEWHERE.iter().find(|(file, ..)| file == name) {
                let proof = fs::read_to_string(top.join(proof))?;
                ensure!(proof.contains(&format!("fn {test}(")), "{name}: there is no test {test}");
            } else {
                without.push(format!("{name}:{}:{mark}", at + 1));
            }
            excused.insert(name.as_str());
        }
    }
    ensure!(marks > 30, "the source has moved: {marks} marks");
    ensure!(without.is_empty(), "marks without a point:\n{}", without.join("\n"));
    for (file, ..) in ELSEWHERE {
        ensure!(excused.contains(file), "{file} needs no excuse any more");
    }
    Ok(())
}

/// The options of all worlds here; none where failpoints cannot be.
fn options() -> Result<Option<Options>> {
    let options = Options::new(Maker::Forky)?;
    if options.daemon != Maker::Ours {
        return Ok(None);
    }
    let environment = vec![("IRONHULL_FAILPOINT".to_owned(), format!("@{{world}}/{PLAN}"))];
    Ok(Some(Options { environment, ..options }))
}

/// True if the daemon of `world` has ended.
fn ended(world: &World) -> bool {
    world.daemon_pid().is_ok_and(|pid| !process::runs(pid))
}

/// What the points stand in the way of: an image comes, a container is made of it, all goes. Ends
/// when the daemon does. With a daemon that lives, each step has to work at its second try, and
/// the first may only fail because the disk is full.
fn life(world: &World) -> Result<()> {
    life_on(world, "")
}

/// The same with the options `on`, which name a snapshotter.
fn life_on(world: &World, on: &str) -> Result<()> {
    let archive = image::small()?;
    let import = format!("images import {on} {}", archive.display());
    let make = format!("containers create {on} {IMAGE} c1 /bin/true");
    let remove = format!("images rm --sync {IMAGE}");
    for line in [&import, &make, "containers rm c1", &remove, "leases create --id last"] {
        step(world, line)?;
    }
    leave_an_ingest(world)?;
    step(world, "leases rm --sync last")
}

/// The reference of an ingest that is not finished.
const UNFINISHED: &str = "unfinished";

/// A client sends something else than it promised; what came is kept for another try.
fn leave_an_ingest(world: &World) -> Result<()> {
    if ended(world) {
        return Ok(());
    }
    let promised = format!("sha256:{:064}", 0);
    let line = format!("content ingest --expected-digest {promised} {UNFINISHED}");
    let data = vec![b'x'; 200_000];
    world.ctr_with_input(&line, Some(&data))?.failed().map(drop)
}

/// Gives the unfinished ingest up, if it is there.
fn give_up_the_ingest(world: &World) -> Result<()> {
    let client = Client::connect(&world.socket(), world.namespace())?;
    let mut content = ContentClient::new(client.channel());
    let request = AbortRequest { r#ref: UNFINISHED.to_owned() };
    match client.block_on(content.abort(client.request(request))) {
        Err(status) if status.code() != tonic::Code::NotFound => Err(status.into()),
        _ => Ok(()),
    }
}

fn step(world: &World, line: &str) -> Result<()> {
    if ended(world) {
        return Ok(());
    }
    let first = world.try_ctr(line)?;
    let Err(error) = first.ok() else { return Ok(()) };
    // The client hears of the end before the kernel has told us.
    let text = format!("{error:#}");
    if text.to_lowercase().contains("no space left on device") {
        // Some of it was done before the disk was full.
        return match world.try_ctr(line)?.ok() {
            Ok(_) => Ok(()),
            Err(again)
                if line.contains(" create ") && format!("{again:#}").contains("already exists") =>
            {
                Ok(())
            }
            Err(again) if line.contains(" rm ") && format!("{again:#}").contains("not found") => {
                Ok(())
            }
            Err(again) => Err(again.context(format!("second try of {line:?}"))),
        };
    }
    wait::until("the daemon to be gone, as its client says", || {
        ensure!(ended(world), "ctr {line}: {text}");
        Ok(())
    })
}

/// A digest over names, kinds, modes, sizes and contents of a tree.
pub(crate) fn digest_of_tree(top: &Path) -> Result<String> {
    let mut text = String::new();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let found = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        let inner = path.strip_prefix(top)?.display().to_string();
        let what = if found.is_dir() {
            let mut names: Vec<PathBuf> =
                fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            names.sort();
            todo.extend(names);
            String::new()
        } else if found.is_symlink() {
            fs::read_link(&path)?.display().to_string()
        } else if found.is_file() {
            image::digest(&fs::read(&path)?)
        } else {
            String::new()
        };
        text += &format!("{inner} {:o} {}:{} {what}\n", found.mode(), found.uid(), found.gid());
    }
    Ok(image::digest(text.as_bytes()))
}

/// The committed snapshots of a world whose daemon is down: the client's key, and the folder.
pub(crate) fn committed(world: &World) -> Result<BTreeMap<String, PathBuf>> {
    let folder = world.inside(&world.root()).join(OVERLAY);
    let database = world.root().join(OVERLAY).join("metadata.db");
    if !folder.join("metadata.db").exists() {
        return Ok(BTreeMap::new());
    }
    let daemon = Maker::Ours.daemon()?.display().to_string();
    let dump = world.run(&daemon, &["bolt", "dump", &database.display().to_string()])?;
    let mut found = BTreeMap::new();
    let (mut key, mut id, mut kind) = (String::new(), 0, String::new());
    // A bucket's values follow its name, in the order of their keys: id, inodes, kind.
    for line in dump.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once("/ sequence") {
            key = name.trim_matches('"').splitn(3, '/').nth(2).unwrap_or_default().to_owned();
        } else if let Some(value) = line.strip_prefix("\"id\" = ") {
            id = escaped(value)?;
        } else if let Some(value) = line.strip_prefix("\"kind\" = ") {
            value.clone_into(&mut kind);
            if kind == "\"\\x03\"" {
                found.insert(key.clone(), folder.join(format!("snapshots/{id}/fs")));
            }
        }
    }
    Ok(found)
}

/// A number of one byte as the dump shows it.
fn escaped(text: &str) -> Result<u8> {
    let text = text.trim_matches('"');
    Ok(match text.strip_prefix("\\x") {
        Some(hex) => u8::from_str_radix(hex, 16)?,
        None => match text {
            "\\t" => 9,
            "\\n" => 10,
            "\\r" => 13,
            _ => *text.as_bytes().first().context("an empty id")?,
        },
    })
}

/// What the committed trees of the image are like, by key.
pub(crate) fn reference(world: &World) -> Result<BTreeMap<String, String>> {
    committed(world)?.into_iter().map(|(key, path)| Ok((key, digest_of_tree(&path)?))).collect()
}

/// A daemon that is down has left databases that are clean, blobs that are what they are called, and
/// committed trees that are whole.
pub(crate) fn check_files(world: &World, good: &BTreeMap<String, String>) -> Result<()> {
    let daemon = Maker::Ours.daemon()?.display().to_string();
    let root = world.root();
    for database in [root.join(METADATA).join("meta.db"), root.join(OVERLAY).join("metadata.db")] {
        // A crash before the first write leaves an empty file, or none.
        if fs::metadata(world.inside(&database)).is_ok_and(|found| found.len() > 0) {
            world
                .run(&daemon, &["bolt", "check", &database.display().to_string()])
                .with_context(|| format!("{} is damaged", database.display()))?;
        }
    }
    let blobs = world.inside(&root).join(CONTENT).join("blobs/sha256");
    for entry in fs::read_dir(&blobs).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = image::digest(&fs::read(&path)?);
        ensure!(found == format!("sha256:{name}"), "blob {name} has the bytes of {found}");
    }
    for (key, path) in committed(world)? {
        let found = digest_of_tree(&path)?;
        ensure!(good.get(&key) == Some(&found), "the tree of {key} is not whole");
    }
    Ok(())
}

/// After a restart everything works, and a collection leaves nothing.
pub(crate) fn check_service(world: &World) -> Result<()> {
    check_service_on(world, "")?;
    nothing_in(&world.inside(&world.root()).join(OVERLAY).join("snapshots"))
}

/// The same with the options `on`, which name a snapshotter, but for what that leaves.
fn check_service_on(world: &World, on: &str) -> Result<()> {
    let checked = world.ctr(&format!("images check {on}"))?;
    for line in checked.lines().skip(1) {
        ensure!(line.contains("complete ("), "an image lost content: {line}");
    }
    let archive = image::small()?;
    world.ctr(&format!("images import {on} {} {}", world.local(), archive.display()))?;
    let checked = world.ctr(&format!("images check {on}"))?;
    ensure!(checked.contains("complete (") && checked.contains("true"), "{checked}");
    world.ctr(&format!("containers create {on} {IMAGE} c2 /bin/true"))?;
    for id in world.ctr("containers ls -q")?.split_whitespace() {
        world.ctr(&format!("containers rm {id}"))?;
    }
    for key in world.ctr(&format!("snapshots {on} ls"))?.lines().skip(1) {
        // Of containers whose record the crash took.
        if let (Some(key), true) = (key.split_whitespace().next(), key.contains("Active")) {
            // The collector may come first.
            if let Err(error) = world.try_ctr(&format!("snapshots {on} rm {key}"))?.ok() {
                ensure!(format!("{error:#}").contains("not found"), "{error:#}");
            }
        }
    }
    for name in world.ctr("images ls -q")?.split_whitespace() {
        world.ctr(&format!("images rm {name}"))?;
    }
    for id in world.ctr("leases ls -q")?.split_whitespace() {
        world.ctr(&format!("leases rm {id}"))?;
    }
    give_up_the_ingest(world)?;
    world.collect()?;
    let snapshots = world.ctr(&format!("snapshots {on} ls"))?;
    ensure!(snapshots.lines().count() == 1, "{snapshots}");
    let content = world.inside(&world.root()).join(CONTENT);
    nothing_in(&content.join("blobs/sha256"))?;
    nothing_in(&content.join("ingest"))
}

/// A collection leaves nothing in `folder`.
fn nothing_in(folder: &Path) -> Result<()> {
    wait::until("the collection to take everything", || {
        let left: Vec<_> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        ensure!(left.is_empty(), "{}: {left:?}", folder.display());
        Ok(())
    })
}

/// What the trees of the image are like, from a world where nothing goes wrong.
fn good(options: &Options) -> Result<BTreeMap<String, String>> {
    let world = World::with_image(options.clone())?;
    world.kill_daemon()?;
    let good = reference(&world)?;
    ensure!(good.len() == 2, "the image has two layers: {good:?}");
    Ok(good)
}

/// A world whose daemon starts with a plan. A new root needs room; the backup is made by a start that
/// finds something.
fn planned(options: &Options, point: &str, plan: &str) -> Result<World> {
    let world = World::without_daemon(options.clone())?;
    if point.starts_with("recovery.") {
        damage(&world, point)?;
    } else if point.starts_with("bolt.backup") || plan.ends_with("enospc") {
        world.start()?;
        world.kill_daemon()?;
    }
    start_by(&world, plan)?;
    Ok(world)
}

/// Starts the daemon with a plan. It may end by it before it answers.
fn start_by(world: &World, plan: &str) -> Result<()> {
    fs::write(world.path(PLAN), plan)?;
    if let Err(error) = world.start() {
        ensure!(ended(world), "{error:?}");
    }
    Ok(())
}

/// Leaves what makes a start reach `point` of the recovery.
fn damage(world: &World, point: &str) -> Result<()> {
    world.start()?;
    world.import(&image::small()?)?;
    world.ctr("leases create --id damaged is=to-be-damaged")?;
    // The start makes backups.
    world.stop_daemon()?;
    world.start()?;
    world.stop_daemon()?;
    let database = world.root().join(METADATA).join("meta.db");
    match point {
        "recovery.database.name" => fs::write(&database, vec![0xa5; 64 << 10])?,
        "recovery.record.remove" => {
            // The time of a lease, which is before its labels, has a version that nobody knows.
            let mut bytes = fs::read(&database)?;
            let places = |bytes: &[u8], text: &[u8]| -> Vec<usize> {
                (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text)).collect()
            };
            let records = places(&bytes, b"to-be-damaged");
            let times = places(&bytes, b"createdat");
            for record in records {
                if let Some(time) = times.iter().rfind(|time| **time < record) {
                    bytes[time + b"createdat".len()] = 0x7f;
                }
            }
            fs::write(&database, bytes)?;
        }
        "recovery.tree.exchanged" => {
            for tree in committed(world)?.values() {
                let _ = fs::remove_file(tree.join("hello"));
                let _ = fs::remove_file(tree.join("bin/busybox"));
            }
        }
        _ => bail!("nothing here makes a start reach {point}"),
    }
    Ok(fs::write(world.root().join("last-start"), "another-boot running\n")?)
}

/// The image of before the damage is there.
fn image_is_whole(world: &World) -> Result<()> {
    let checked = world.ctr("images check")?;
    let line = checked.lines().find(|line| line.starts_with(IMAGE));
    let line = line.with_context(|| format!("the image is gone: {checked}"))?;
    ensure!(line.contains("complete (") && line.ends_with("true"), "{line}");
    Ok(())
}

#[test]
fn a_daemon_that_stops_at_any_point_leaves_nothing_half_done() {
    for_all_points(
        |world, point, good| {
            life(world).with_context(|| format!("at {point}"))?;
            ensure!(ended(world), "no step reaches the failpoint {point}");
            fs::remove_file(world.path(PLAN))?;
            if point.starts_with("recovery.") {
                // What was damaged before is mended by the next start.
                world.start()?;
                image_is_whole(world)?;
                world.kill_daemon()?;
            }
            check_files(world, good)?;
            world.start()?;
            check_service(world)
        },
        "abort",
    );
}

#[test]
fn a_disk_that_is_full_at_any_point_gives_an_error_and_keeps_everything() {
    for_all_points(
        |world, point, good| {
            if point.starts_with("recovery.") {
                image_is_whole(world)?;
            }
            life(world).with_context(|| format!("at {point}"))?;
            ensure!(!ended(world), "a full disk ended the daemon");
            fs::remove_file(world.path(PLAN))?;
            check_service(world)?;
            world.kill_daemon()?;
            check_files(world, good)
        },
        "enospc",
    );
}

fn for_all_points(
    body: impl Fn(&World, &str, &BTreeMap<String, String>) -> Result<()>,
    action: &str,
) {
    let outcome: Result<()> = (|| {
        let Some(options) = options()? else { skip!("failpoints are in our daemon alone") };
        let good = good(&options)?;
        let only = std::env::var("IRONHULL_POINT").ok();
        for point in
            points()?.iter().filter(|point| only.as_ref().is_none_or(|only| only == *point))
        {
            let world = planned(&options, point, &format!("{point}:1={action}"))?;
            body(&world, point, &good)
                .with_context(|| format!("{point}={action}\n{}", world.log()))?;
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

/// Whoever does without leaves it to the snapshotter.
#[test]
fn the_differ_does_not_flush_where_sync_fs_is_off() {
    let outcome: Result<()> = (|| {
        let Some(options) = options()? else { skip!("failpoints are in our daemon alone") };
        for sync_fs in [true, false] {
            let table = "[plugins.\"io.containerd.service.v1.diff-service\"]\n";
            let tables = format!("{table}  sync_fs = {sync_fs}\n");
            let world = World::without_daemon(Options { tables, ..options.clone() })?;
            fs::write(world.path(PLAN), "diff.layer.sync:1=abort")?;
            world.start()?;
            let imported = world.import(&image::small()?).is_ok();
            ensure!(imported != sync_fs, "sync_fs = {sync_fs}\n{}", world.log());
        }
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}

/// A root on a file system that is full: what needs room is refused by a clear error, and everything
/// can be deleted.
#[test]
fn on_a_full_disk_everything_can_be_deleted() {
    let outcome: Result<()> = (|| {
        let Some(options) = options()? else { skip!("containerd needs room to delete") };
        let world = World::without_daemon(options)?;
        fs::create_dir_all(world.root())?;
        let root = world.root().display().to_string();
        world.run("mount", &["-t", "tmpfs", "-o", "size=24m", "tmpfs", &root])?;
        world.start()?;
        world.import(&image::small()?)?;
        for number in 0..5 {
            world.ctr(&format!("containers create {IMAGE} c{number} /bin/true"))?;
        }
        // Nothing is left for anybody.
        let filler = world.inside(&world.root()).join("filler");
        let mut file = fs::File::create(&filler)?;
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        drop(file);
        let mut refused = None;
        for number in 5..400 {
            let output =
                world.try_ctr(&format!("containers create {IMAGE} c{number} /bin/true"))?;
            if let Err(error) = output.ok() {
                refused = Some(format!("{error:#}"));
                break;
            }
        }
        let refused = refused.context("the disk never became full")?;
        ensure!(refused.contains("resource exhausted"), "{refused}");
        for id in world.ctr("containers ls -q")?.split_whitespace() {
            world.ctr(&format!("containers rm {id}")).context("delete on a full disk")?;
        }
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        fs::remove_file(&filler)?;
        check_service(&world)?;
        if world.stop_daemon()? != 0 {
            bail!("the daemon did not stop cleanly");
        }
        world.run("umount", &[&root])?;
        Ok(())
    })();
    if let Err(error) = outcome {
        panic!("{error:?}");
    }
}
