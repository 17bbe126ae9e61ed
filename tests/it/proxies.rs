//! `[proxy_plugins]`: snapshotters of other makers, and a content store that is another daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::world::{IMAGE, Options, check_empty};
use e2e::{Maker, Running, Table, World, image, programs, wait};
use rustix::process::Signal;

use crate::skip;

/// A snapshotter that runs beside the daemon.
struct Snapshotter {
    /// The plugin's name.
    name: &'static str,
    program: &'static str,
    /// Its arguments; `{world}` is the world's folder.
    arguments: &'static str,
    /// Its file `config.json` in the world's folder, if it has one.
    settings: &'static str,
    /// Where it keeps its trees.
    trees: &'static str,
}

const SOCI: Snapshotter = Snapshotter {
    name: "soci",
    program: "soci-snapshotter-grpc",
    arguments: "--address {world}/proxy.sock --root {world}/proxy",
    settings: "",
    trees: "proxy/snapshotter/snapshots",
};

const NYDUS: Snapshotter = Snapshotter {
    name: "nydus",
    program: "containerd-nydus-grpc",
    arguments: "--address {world}/proxy.sock --root {world}/proxy --fs-driver nodev --daemon-mode none --log-to-stdout",
    settings: "",
    trees: "proxy/snapshots",
};

const OVERLAYBD: Snapshotter = Snapshotter {
    name: "overlaybd",
    program: "overlaybd-snapshotter",
    arguments: "{world}/config.json",
    settings: r#"{"root": "{world}/proxy", "address": "{world}/proxy.sock", "verbose": "info", "rwMode": "overlayfs", "autoRemoveDev": false, "exporterConfig": {"enable": false}}"#,
    trees: "proxy/snapshots",
};

/// Starts it in the world, and waits for its socket.
fn start(world: &World, snapshotter: &Snapshotter, program: &Path) -> Result<Running> {
    let inside = |text: &str| text.replace("{world}", &world.path("").display().to_string());
    if !snapshotter.settings.is_empty() {
        fs::write(world.path("config.json"), inside(snapshotter.settings))?;
    }
    let socket = world.path("proxy.sock");
    let _ = fs::remove_file(&socket);
    let mut command: Command = world.command(program);
    command.args(inside(snapshotter.arguments).split_whitespace());
    // It leaves files of its own there.
    command.env("TMPDIR", world.path("files"));
    let mut running = Running::start(command, &world.path("files"))?;
    wait::until("the snapshotter's socket", || {
        if let Some(status) = running.ended()? {
            anyhow::bail!("ended with {status}: {}{}", running.stdout(), running.stderr());
        }
        ensure!(socket.exists(), "{}{}", running.stdout(), running.stderr());
        Ok(())
    })?;
    Ok(running)
}

/// The keys of the namespace's snapshots.
fn keys(world: &World, name: &str) -> Result<Vec<String>> {
    let table = Table::parse(&world.ctr(&format!("snapshots --snapshotter {name} ls"))?)?;
    Ok(table.cells("KEY")?.into_iter().map(str::to_owned).collect())
}

/// The folders of trees.
fn trees(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

/// An image comes and goes with the snapshotter, and so does a container; a snapshotter that is
/// killed costs nobody else anything, and works again when it is back.
fn with_snapshotter(snapshotter: &Snapshotter, ctr: Maker) {
    let Snapshotter { name, .. } = snapshotter;
    let options = Options::new(ctr).map(|mut options| {
        options.tables = format!(
            "[proxy_plugins.{name}]\n  type = \"snapshot\"\n  address = \"{{world}}/proxy.sock\"\n"
        );
        options
    });
    check_empty(options, |world| {
        let Some(program) = programs::snapshotter(snapshotter.program)? else {
            skip!("no {} of Debian forky was fetched", snapshotter.program);
        };
        let proxy = start(world, snapshotter, &program)?;
        let plugins = world.ctr("plugins ls")?;
        let line = plugins.lines().find(|line| line.split_whitespace().nth(1) == Some(*name));
        ensure!(line.is_some_and(|line| line.trim_end().ends_with("ok")), "{plugins}");

        let archive = image::small()?;
        // The transfer service unpacks to snapshotters that are set up for it.
        let local = if world.options().ctr == Maker::Bookworm { "" } else { "--local" };
        let import = format!("images import {local} --snapshotter {name} {}", archive.display());
        world.ctr(&import)?;
        let layers = keys(world, name)?;
        ensure!(layers.len() == 2, "{layers:?}");
        ensure!(trees(&world.path(snapshotter.trees))?.len() == 2);
        let own = format!("--snapshotter {name}");
        let output = world.ctr(&format!("run --rm {own} {IMAGE} one echo hello"))?;
        ensure!(output == "hello\n", "{output}");

        // What a container writes is its own, and stays while the container is there.
        world.ctr(&format!("run -d {own} {IMAGE} two sh -c 'echo mine > /file; sleep 1000'"))?;
        ensure!(keys(world, name)?.len() == 3);
        wait::until("the file", || {
            let seen = world.ctr("tasks exec --exec-id e two cat /file")?;
            ensure!(seen == "mine\n", "{seen}");
            Ok(())
        })?;

        // One that hangs keeps nobody else waiting; nor does one that is killed, whose own
        // snapshots cannot be had. Tasks run on.
        proxy.signal(Signal::STOP)?;
        world.ctr(&format!("images import {local} {}", archive.display()))?;
        let output = world.ctr(&format!("run --rm {IMAGE} other echo others"))?;
        ensure!(output == "others\n", "{output}");
        drop(proxy);
        world.ctr_fails(&format!("snapshots {own} prepare three {}", layers[0]))?;
        ensure!(world.ctr("tasks exec --exec-id f two cat /file")? == "mine\n");

        let proxy = start(world, snapshotter, &program)?;
        wait::until("the snapshotter to be found again", || {
            world.ctr(&format!("snapshots {own} prepare three {}", layers[0]))
        })?;
        world.ctr(&format!("snapshots {own} rm three"))?;
        world.ctr("tasks rm --force two")?;
        world.ctr("containers rm two")?;
        world.ctr(&format!("images rm --sync {IMAGE}"))?;
        wait::until("the snapshots to go", || {
            let (keys, trees) = (keys(world, name)?, trees(&world.path(snapshotter.trees))?);
            ensure!(keys.is_empty() && trees.is_empty(), "{keys:?} {trees:?}");
            Ok(())
        })?;
        drop(proxy);
        Ok(())
    });
}

#[test]
fn soci() {
    with_snapshotter(&SOCI, Maker::Bookworm);
}

#[test]
fn nydus() {
    with_snapshotter(&NYDUS, Maker::Forky);
}

#[test]
fn overlaybd() {
    with_snapshotter(&OVERLAYBD, Maker::Bookworm);
}

/// A daemon that keeps what it is given until it is told otherwise: nobody has a lease there.
fn content_server() -> Result<Options> {
    let mut options = Options::new(Maker::Bookworm)?.pair(Maker::Ours, Maker::Ours);
    options.tables =
        "[plugins.\"io.containerd.gc.v1.scheduler\"]\n  startup_delay = \"24h\"\n  mutation_threshold = 0\n".to_owned();
    Ok(options)
}

/// A daemon whose content store is that of the daemon at `socket`.
fn content_client(socket: &Path) -> Result<Options> {
    let mut options = Options::new(Maker::Bookworm)?.pair(Maker::Ours, Maker::Ours);
    options.disabled = vec!["io.containerd.content.v1.content".to_owned()];
    options.tables = format!(
        "[proxy_plugins.remote]\n  type = \"content\"\n  address = {:?}\n",
        socket.display().to_string()
    );
    Ok(options)
}

#[test]
fn content_of_another_daemon() {
    check_empty(content_server(), |server| {
        let blobs = || -> Result<Vec<String>> {
            let text = server.ctr("--namespace default content ls -q")?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        check_empty(content_client(&server.socket()), |world| {
            let plugins = world.ctr("plugins ls")?;
            ensure!(
                plugins.lines().any(|line| line.starts_with("io.containerd.content.v1")
                    && line.contains(" remote ")
                    && line.trim_end().ends_with("ok")),
                "{plugins}"
            );
            world.import(&image::small()?)?;
            let output = world.ctr(&format!("run --rm {IMAGE} one echo hello"))?;
            ensure!(output == "hello\n", "{output}");
            // What only the import needed is collected first.
            world.ctr("leases create --id turn")?;
            world.ctr("leases rm --sync turn")?;
            let own: Vec<String> = world.ctr("content ls -q")?.lines().map(str::to_owned).collect();
            ensure!(own.len() >= 4, "{own:?}");
            let all = blobs()?;
            ensure!(own.iter().all(|digest| all.contains(digest)), "{own:?} in {all:?}");
            ensure!(!world.root().join("io.containerd.content.v1.content").exists());

            // Written by a client, read again, and bad bytes refused.
            let digest = image::digest(b"some bytes");
            world.ingest(&format!("--expected-digest {digest} ref"), b"some bytes")?;
            ensure!(world.ctr(&format!("content get {digest}"))? == "some bytes");
            let bad = format!("content ingest --expected-digest {} bad", image::digest(b"other"));
            world.ctr_with_input(&bad, Some(b"bytes"))?.failed()?;

            // Another namespace shares the bytes, and what nobody needs is taken away there too.
            let other = "--namespace other";
            world.ctr(&format!("{other} images import {}", image::small()?.display()))?;
            world.ctr(&format!("images rm --sync {IMAGE}"))?;
            let all = blobs()?;
            ensure!(own.iter().all(|digest| all.contains(digest)), "{own:?} in {all:?}");
            world.ctr(&format!("{other} images rm --sync {IMAGE}"))?;
            wait::until("the other daemon's content to go", || {
                let left = blobs()?;
                ensure!(left == [digest.clone()], "{left:?}");
                Ok(())
            })?;
            world.ctr(&format!("content rm {digest}"))?;
            Ok(())
        });
        Ok(())
    });
}

/// The other daemon finds the content by the namespace that comes with each call.
#[test]
fn layers_are_applied_by_another_daemon() {
    check_empty(content_server(), |server| {
        let options = content_client(&server.socket()).map(|mut options| {
            options.ctr = Maker::Forky;
            options.tables += &format!(
                "[proxy_plugins.far]\n  type = \"diff\"\n  address = {:?}\n\
                 [plugins.\"io.containerd.service.v1.diff-service\"]\n  default = [\"far\"]\n\
                 [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n  snapshotter = \"overlayfs\"\n  differ = \"far\"\n",
                server.socket().display().to_string()
            );
            options
        });
        check_empty(options, |world| {
            let archive = image::small()?;
            // By the client, which asks the diff service; then by the transfer service.
            for local in ["--local", ""] {
                world.ctr(&format!(
                    "--namespace default images import {local} {}",
                    archive.display()
                ))?;
                let list = world.ctr("--namespace default snapshots ls")?;
                ensure!(Table::parse(&list)?.rows.len() == 2, "{local}: {list}");
                let trees = world.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
                let hello = trees_with(&trees, "fs/hello")?;
                ensure!(hello == 1, "{local}: {hello} layers have the file");
                // In a namespace that the other daemon does not know it finds nothing.
                let error =
                    world.ctr_fails(&format!("images import {local} {}", archive.display()))?;
                ensure!(error.contains("not found"), "{local}: {error}");
                world.ctr(&format!("--namespace default images rm --sync {IMAGE}"))?;
                wait::until("the snapshots to go", || {
                    ensure!(trees_with(&trees, "fs")? == 0);
                    Ok(())
                })?;
            }
            Ok(())
        });
        Ok(())
    });
}

/// How many folders in `folder` have a file of this name.
fn trees_with(folder: &Path, name: &str) -> Result<usize> {
    Ok(trees(folder)?.iter().filter(|tree| tree.join(name).exists()).count())
}

#[test]
fn two_content_stores_are_refused() {
    check_empty(content_server(), |server| {
        let mut options = content_client(&server.socket())?;
        options.disabled.clear();
        let world = World::without_daemon(options)?;
        let failed = world.start().err().context("a daemon with two content stores")?;
        let text = format!("{failed:?}");
        ensure!(
            text.contains(
                "multiple plugins registered for io.containerd.content.v1: content, remote"
            ),
            "{text}"
        );
        Ok(())
    });
}
