//! Import and unpack of a large image.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::programs::gzip_helper;
use e2e::{Maker, wait};

use crate::api::{self, Lane};
use crate::image;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::{Plan, Side};

/// The most that one import may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Programs that containerd unpacks gzip with if it finds them, and the variable that forbids it.
const HELPERS: [(&str, &str); 2] =
    [("igzip", "CONTAINERD_DISABLE_IGZIP"), ("unpigz", "CONTAINERD_DISABLE_PIGZ")];

/// Where else daemons look for programs.
const PLACES: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Wall time of `ctr images import`, and the processor time of the daemon and its programs: with
/// what the daemons have themselves, and with each of the helpers.
///
/// # Errors
///
/// An import fails or leaves the image not unpacked.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let archive = image::archive()?;
    // Everything is read once, so that no side pays for the disk.
    std::io::copy(&mut fs::File::open(&archive)?, &mut std::io::sink())?;
    let mut rows = with(plan, &archive, None, [Promise::AtMost(0.4), Promise::AtMost(0.5)])?;
    for (helper, _) in HELPERS {
        match gzip_helper(helper)? {
            Some(program) => {
                let promises = [Promise::AtMost(0.6), Promise::None];
                rows.extend(with(plan, &archive, Some(&program), promises)?);
            }
            None => eprintln!("bench:   {helper} could not be fetched: not measured"),
        }
    }
    Ok(rows)
}

/// The rows with the program `helper`, or without any, whatever is installed on the machine.
fn with(
    plan: &Plan,
    archive: &Path,
    helper: Option<&Path>,
    promises: [Promise; 2],
) -> Result<Vec<Row>> {
    let name = helper.and_then(Path::file_name).and_then(OsStr::to_str);
    let forbidden = HELPERS.into_iter().filter(|(other, _)| name != Some(*other));
    let mut environment: Vec<(String, String)> =
        forbidden.map(|(_, variable)| (variable.to_owned(), "1".to_owned())).collect();
    if let Some(folder) = helper.and_then(Path::parent) {
        // The world's own folder is first as always: the shim is there.
        environment
            .push(("PATH".to_owned(), format!("{{world}}/bin:{}:{PLACES}", folder.display())));
    }
    let mut sides: Vec<Side> = plan
        .makers
        .iter()
        .map(|&maker| plan.side_in(maker, environment.clone()))
        .collect::<Result<_>>()?;
    let samples =
        rounds::interleave(plan, plan.rounds(5, 1), &mut sides, |side| import(side, archive))?;
    let beside = name.map_or_else(String::new, |name| format!(", with {name}"));
    let what = format!(
        "import and unpack of {} MB in {} gzip layers{beside}",
        image::size() / 1_000_000,
        image::layers()
    );
    let row = |what, at| Row {
        what,
        unit: Unit::Seconds,
        values: plan.medians(&samples, at),
        promise: promises[at],
    };
    Ok(vec![row(what.clone(), 0), row(format!("{what}: processor time of the daemon"), 1)])
}

/// One import into a daemon that does not have the image, which is removed again.
fn import(side: &mut Side, archive: &Path) -> Result<Vec<f64>> {
    let pid = side.world.daemon_pid()?;
    let before = processor_time(pid)?;
    // containerd 1.6 has no transfer service: there the client does it through its other services.
    let local = if side.maker == Maker::Bookworm { "--local " } else { "" };
    let line = format!("images import {local}{}", archive.display());
    let wall = side.time_ctr(Maker::Forky, &line, LIMIT)?;
    let processor = processor_time(pid)? - before;
    let runtime = api::runtime()?;
    let lane = runtime.block_on(Lane::connect(&side.world))?;
    let snapshots = runtime.block_on(lane.committed_snapshots())?;
    if snapshots != image::layers() {
        bail!("{snapshots} snapshots for {} layers", image::layers());
    }
    side.world.ctr(&format!("images rm --sync {}", image::NAME))?;
    wait::until("the image to be collected", || {
        let left = runtime.block_on(lane.committed_snapshots())?;
        let files = blobs(&side.world.root())?;
        if left > 0 || files > 0 {
            bail!("{left} snapshots, {files} blobs left")
        }
        Ok(())
    })?;
    Ok(vec![wall, processor])
}

/// How many blobs the content store has.
fn blobs(root: &Path) -> Result<usize> {
    let folder: PathBuf = root.join("io.containerd.content.v1.content/blobs/sha256");
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Seconds that `pid`, with the programs that it ran and that have ended, was on a processor.
fn processor_time(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(") ").context("no name in the state of a process")?;
    // utime, stime, cutime and cstime are the fields 14 to 17; the name was the second.
    let mut ticks = 0.0;
    for field in fields.split(' ').skip(11).take(4) {
        ticks += field.parse::<f64>()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "100 on all machines")]
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}
