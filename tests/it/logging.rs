//! Output that goes to files and to programs of the user: `--log-uri` of every `ctr`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::world::IMAGE;
use e2e::{World, process, wait};

use crate::with_ctrs;

/// Output of a process that writes and ends at once.
const MUCH: u64 = 64 << 20;

/// A container that counts in its output.
const COUNTER: &str = "sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done'";

/// The lines of a log: two streams come in any order.
fn lines(log: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(log).with_context(|| log.display().to_string())?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

/// Waits until a counter's log has this many lines; each number must be there once, in order.
fn counted(log: &Path, least: usize) -> Result<usize> {
    wait::until("the counter to be logged", || {
        let text = fs::read_to_string(log)?;
        // The last line may be half there.
        let whole = &text[..=text.rfind('\n').context("nothing yet")?];
        let count = whole.lines().count();
        for (number, line) in whole.lines().enumerate() {
            ensure!(line == number.to_string(), "{line:?} where {number} should be");
        }
        ensure!(count >= least, "{count}");
        Ok(count)
    })
}

/// The counter goes on being logged while there is no daemon, and with the next one.
fn outlives_the_daemon(world: &World, log: &Path) -> Result<()> {
    let before = counted(log, 5)?;
    world.kill_daemon()?;
    let without = counted(log, before + 20)?;
    world.start()?;
    counted(log, without + 20)?;
    Ok(())
}

/// A logger that copies both streams to `$2.out` and `$2.err`, and tells for whom at their end.
fn logger(world: &World) -> Result<PathBuf> {
    let script = world.path("files/logger");
    let text = "#!/bin/sh\nsleep 0.1\nexec 5>&-\ncat <&4 >\"$2.err\" &\ncat <&3 >\"$2.out\"\nwait\n\
                echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $1 $3 $4\" >\"$2.end\"\n";
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// No logger runs any more.
fn no_logger(world: &World, script: &Path) -> Result<()> {
    let script = script.display().to_string();
    wait::until("the logger to end", || {
        let left = process::with_argument(|word| word == script);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    ensure!(world.shims().len() <= 1, "{:?}", world.shims());
    Ok(())
}

with_ctrs! {
    [ctr_1_6 = Bookworm, ctr_2_1 = Forky, our_ctr = Ours] crate::with_image;

    fn files(world) {
        let folder = world.path("files/new/folder");
        let log = folder.join("one.log");
        let uri = format!("--log-uri file://{}", log.display());
        let both = "sh -c 'echo out; echo err >&2; exit 3'";
        for life in 1..=2 {
            let output = world.try_ctr(&format!("run --rm {uri} {IMAGE} one {both}"))?;
            ensure!(output.status == 3 && output.stdout.is_empty(), "{output}");
            // The second life is added to the first.
            let mut wanted = [vec!["err"; life], vec!["out"; life]].concat();
            wanted.sort_unstable();
            ensure!(lines(&log)? == wanted, "{life}: {:?}", lines(&log)?);
        }
        let mode = fs::metadata(&log)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o644, "{mode:o}");

        let blank = format!("--log-uri file://{}/with%20blank.log", folder.display());
        let much = format!("sh -c 'yes | head -c {MUCH}'");
        world.ctr(&format!("run --rm {blank} {IMAGE} one {much}"))?;
        let size = fs::metadata(folder.join("with blank.log"))?.len();
        ensure!(size == MUCH, "{size} of {MUCH} bytes of a container");
        fs::remove_file(folder.join("with blank.log"))?;

        let counter = folder.join("counter.log");
        world.ctr(&format!("run -d --log-uri file://{} {IMAGE} one {COUNTER}", counter.display()))?;
        let exec = |name: &str, command: &str| -> Result<PathBuf> {
            let log = folder.join(name);
            let line = format!("tasks exec --exec-id {name} --log-uri file://{}", log.display());
            let output = world.try_ctr(&format!("{line} one {command}"))?;
            ensure!(output.status == 3 || output.status == 0, "{output}");
            Ok(log)
        };
        ensure!(lines(&exec("e1", both)?)? == ["err", "out"]);
        let log = exec("e2", &much)?;
        let size = fs::metadata(&log)?.len();
        ensure!(size == MUCH, "{size} of {MUCH} bytes of an exec");
        fs::remove_file(log)?;
        outlives_the_daemon(world, &counter)?;
        world.remove("one")
    }

    fn programs(world) {
        let script = logger(world)?;
        let log = world.path("files/log");
        let uri = format!("--log-uri 'binary://{}?to={}&more=a%20b'", script.display(), log.display());
        let text = |end: &str| Ok::<_, anyhow::Error>(fs::read_to_string(format!("{}.{end}", log.display()))?);
        let output = world.try_ctr(&format!("run --rm {uri} {IMAGE} one sh -c 'seq 1 100000; echo err >&2; exit 4'"))?;
        ensure!(output.status == 4, "{output}");
        let out = text("out")?;
        ensure!(out.lines().count() == 100_000 && out.ends_with("\n100000\n"), "{} bytes", out.len());
        ensure!(text("err")? == "err\n");
        // containerd brings the pairs of the query in any order: ours is the client's.
        let told = text("end")?;
        ensure!(told.starts_with(&format!("one {} ", world.namespace())), "{told}");
        if world.is_ours() {
            ensure!(told.ends_with(" to more a b\n"), "{told}");
        }
        no_logger(world, &script)?;

        // As a task of a container that is there, and for an exec of it.
        world.ctr(&format!("containers create {IMAGE} one sleep 1000"))?;
        world.ctr(&format!("tasks start -d {uri} one"))?;
        let exec_log = world.path("files/exec");
        let exec_uri = format!("--log-uri 'binary://{}?to={}'", script.display(), exec_log.display());
        let line = format!("tasks exec --exec-id e {exec_uri} one sh -c 'echo from exec; exit 5'");
        let output = world.try_ctr(&line)?;
        ensure!(output.status == 5, "{output}");
        ensure!(fs::read_to_string(world.path("files/exec.out"))? == "from exec\n");
        // COMPAT: a logger is told the id of the process that it logs.
        let told = fs::read_to_string(world.path("files/exec.end"))?;
        ensure!(told.starts_with(&format!("e {} ", world.namespace())), "{told}");
        let counter = world.path("files/counter");
        let counter_uri = format!("--log-uri 'binary://{}?to={}'", script.display(), counter.display());
        world.ctr(&format!("tasks exec -d --exec-id c {counter_uri} one {COUNTER}"))?;
        outlives_the_daemon(world, &world.path("files/counter.out"))?;
        world.remove("one")?;
        ensure!(text("out")?.is_empty(), "the next life begins anew");
        no_logger(world, &script)
    }

    fn that_cannot_be(world) {
        let folder = world.path("files/folder");
        fs::create_dir(&folder)?;
        let file = world.path("files/file");
        fs::write(&file, "")?;
        let silent = world.path("files/silent");
        fs::write(&silent, "no program")?;
        for (uri, text) in [
            ("http://example.com/x".to_owned(), "unknown STDIO scheme http"),
            (format!("file://{}", folder.display()), "is a directory"),
            (format!("file://{}/below", file.display()), "not a directory"),
            ("binary:///no/such/logger".to_owned(), "/no/such/logger: no such file or directory"),
            (format!("binary://{}", silent.display()), "permission denied"),
        ] {
            let error = world.ctr_fails(&format!("run --rm --log-uri '{uri}' {IMAGE} one true"))?;
            ensure!(error.contains(text), "{uri}: {error}");
            ensure!(world.ctr("containers ls -q")?.is_empty(), "{uri}: a container is left");
        }
        // A task whose exec cannot be logged goes on.
        world.ctr(&format!("run -d --null-io {IMAGE} one sleep 1000"))?;
        for uri in ["http://example.com/x", "binary:///no/such/logger"] {
            let line = format!("tasks exec --exec-id e --log-uri {uri} one true");
            ensure!(!world.ctr_fails(&line)?.is_empty());
        }
        ensure!(world.ctr("tasks exec --exec-id e one echo well")? == "well\n");
        ensure!(world.task("one")?.status == "RUNNING");
        // One that ends at once, and never reads: its container is told as soon as it writes.
        fs::write(&silent, "#!/bin/sh\nexit 1\n")?;
        fs::set_permissions(&silent, fs::Permissions::from_mode(0o755))?;
        let uri = format!("--log-uri binary://{}", silent.display());
        let output = world.try_ctr(&format!("run --rm {uri} {IMAGE} two sh -c 'yes; exit 6'"))?;
        ensure!(output.status == 6, "{output}");
        world.remove("one")
    }
}
