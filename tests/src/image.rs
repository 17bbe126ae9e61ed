//! Images for the tests, made here from busybox.

mod builder;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};

pub use builder::{Builder, Entry, Format, Layer, Packing, digest};

use crate::world::IMAGE;

/// The applets that images have as symbolic links to busybox.
const APPLETS: &[&str] = &[
    "cat", "chown", "dd", "df", "echo", "env", "false", "grep", "head", "hostname", "id", "ip",
    "kill", "ls", "mkdir", "mount", "nproc", "ps", "pwd", "rm", "seq", "sh", "sleep", "stat",
    "stty", "test", "touch", "true", "tty", "unshare", "wc", "yes",
];

/// Number of the content of [`small_layers`]; another one makes the archive anew.
const SMALL_VERSION: u32 = 1;

/// A folder that stays between runs, for what is dear to make: beside the folders of cargo.
///
/// # Errors
///
/// It cannot be made.
pub fn cache() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find our own program")?;
    let profile = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let target = profile.and_then(Path::parent).context("our own program has no folder")?;
    let folder = target.join("e2e-cache");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Makes the file `name` in the cache if it is not there: `make` writes it under another name.
///
/// # Errors
///
/// Those of `make`, or the folder cannot be written.
pub fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = cache()?;
    let place = folder.join(name);
    if !place.exists() {
        let parts = tempfile::Builder::new().prefix("making-").tempdir_in(&folder)?;
        let part = parts.path().join("part");
        make(&part)?;
        fs::rename(part, &place)?;
    }
    Ok(place)
}

/// The small image [`IMAGE`] as an OCI archive: two layers, of which the second hides a file,
/// replaces one, makes a folder opaque and adds links.
///
/// # Errors
///
/// No busybox (Debian's busybox-static), or the cache cannot be written.
pub fn small() -> Result<PathBuf> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let builder = Builder::new(IMAGE, small_layers()?);
        let key = digest(&fs::read(busybox()?)?);
        cached(&format!("small-{SMALL_VERSION}-{}.tar", &key[7..19]), |part| {
            builder.write(part, Format::Oci)
        })
    };
    let made = MADE.get_or_init(|| make().map_err(|error| format!("{error:?}")));
    made.clone().map_err(|error| anyhow!(error))
}

/// The layers of the small image.
///
/// # Errors
///
/// No busybox.
pub fn small_layers() -> Result<Vec<Layer>> {
    let mut base = vec![
        Entry::folder("bin", 0o755),
        Entry::file("bin/busybox", 0o755, fs::read(busybox()?)?),
        Entry::folder("etc", 0o755),
        Entry::file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nkeeper:x:1000:1000::/data:/bin/sh\n",
        ),
        Entry::file("etc/group", 0o644, "root:x:0:\nkeeper:x:1000:\nextra:x:2000:keeper\n"),
        Entry::folder("root", 0o700),
        Entry::folder("tmp", 0o1777),
        Entry::folder("proc", 0o555),
        Entry::folder("sys", 0o555),
        Entry::folder("dev", 0o755),
        Entry::folder("data", 0o755).owned(1000, 1000),
        Entry::file("data/hidden", 0o644, "hidden by the second layer\n"),
        Entry::file("data/replaced", 0o644, "first\n"),
        Entry::file("data/kept", 0o640, "kept\n").owned(1000, 1000),
        Entry::folder("opaque", 0o755),
        Entry::file("opaque/old", 0o644, "old\n"),
    ];
    base.extend(APPLETS.iter().map(|name| Entry::link(&format!("bin/{name}"), "busybox")));
    let second = vec![
        Entry::folder("data", 0o755).owned(1000, 1000),
        Entry::file("data/.wh.hidden", 0o600, ""),
        Entry::file("data/replaced", 0o600, "second\n"),
        Entry::hard_link("data/same", "data/replaced"),
        Entry::folder("opaque", 0o755),
        Entry::file("opaque/.wh..wh..opq", 0o600, ""),
        Entry::file("opaque/new", 0o644, "new\n"),
        Entry::link("dangling", "/nowhere"),
        Entry::file("hello", 0o755, "#!/bin/sh\necho hello from the image\n"),
    ];
    Ok(vec![Layer::gzip(base), Layer::gzip(second)])
}

/// Debian's static busybox.
fn busybox() -> Result<PathBuf> {
    ["/usr/bin/busybox", "/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .context("no busybox: install Debian's package busybox-static")
}
