//! The programs of other makers that tests and benches run against, fetched from Debian's packages
//! into a folder of ours; nothing of them is installed on the machine.
//!
//! ```text
//! <target>/peers/bookworm/usr/bin/{containerd,ctr,containerd-shim-runc-v2}   containerd 1.6
//! <target>/peers/trixie/usr/bin/{containerd,ctr,containerd-shim-runc-v2}     containerd 1.7
//! <target>/peers/forky/usr/bin/{containerd,ctr,containerd-shim-runc-v2}      containerd 2.1
//! <target>/peers/forky/lib/                                                  its libc
//! <target>/peers/docker-{bookworm,forky}/usr/{bin,sbin}/{docker,dockerd,...} Docker 20.10 and 28.5
//! <target>/peers/{criu,gzip,proxies}/bin/                                    CRIU, snapshotters
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, run, say, target_dir};
use crate::{criu, gzip, host, proxies};

/// The variable that tells tests where the peers are.
pub const VARIABLE: &str = "IRONHULL_PEERS";

/// Fetches the peers that are not there yet; gives their folder.
pub fn fetch() -> Result<PathBuf> {
    let peers = target_dir().join("peers");
    fs::create_dir_all(&peers)?;
    for (suite, version) in [("bookworm", "1.6"), ("trixie", "1.7")] {
        let folder = peers.join(suite);
        if !folder.join("complete").exists() {
            say(&format!(
                "fetching containerd {version} of Debian {suite}, as a peer of the tests (not \
                 installed)"
            ));
            containerd(suite, &folder).with_context(|| format!("containerd of Debian {suite}"))?;
        }
    }
    if !peers.join("forky/complete").exists() {
        say("fetching containerd 2.1 of Debian forky, as a peer of the tests (not installed)");
        forky(&peers.join("forky")).context("containerd of Debian forky")?;
    }
    for (suite, version) in [("bookworm", "20.10"), ("forky", "28.5")] {
        let folder = peers.join(format!("docker-{suite}"));
        if !folder.join("complete").exists() {
            say(&format!("fetching Docker {version}, as a client of the tests (not installed)"));
            docker(suite, &peers, &folder).with_context(|| format!("Docker of {suite}"))?;
        }
    }
    criu::fetch(&peers);
    gzip::fetch(&peers);
    proxies::fetch(&peers);
    Ok(peers)
}

/// Docker's daemon and command line, the init program that `--init` gives to containers, and a
/// registry. Programs of forky's Docker run with the libc of Debian 12.
fn docker(suite: &str, peers: &Path, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    let packages: &[&str] = match suite {
        "bookworm" => &["docker.io", "libdevmapper1.02.1", "tini", "docker-registry"],
        _ => &["docker.io", "docker-cli", "tini-static"],
    };
    let suite = Suite::of(suite, peers)?;
    for package in packages {
        suite.unpack(package, folder)?;
    }
    fs::write(folder.join("complete"), "")?;
    Ok(())
}

/// containerd of a suite whose programs run with the libc of Debian 12.
fn containerd(suite: &str, folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let suite = Suite::new(suite, &folder.join("apt"))?;
    suite.unpack("containerd", folder)?;
    fs::write(folder.join("complete"), "")?;
    Ok(())
}

/// containerd of forky, which is linked to a newer libc: it is pointed to its own copy.
fn forky(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let suite = Suite::new("forky", &folder.join("apt"))?;
    suite.unpack("containerd", folder)?;
    let libraries = folder.join("libc6");
    suite.unpack("libc6", &libraries)?;
    let lib = folder.join("lib");
    fs::create_dir_all(&lib)?;
    let loader = lib.join("ld-linux-x86-64.so.2");
    for name in ["libc.so.6", "ld-linux-x86-64.so.2", "libresolv.so.2", "libpthread.so.0"] {
        let from = libraries.join("usr/lib/x86_64-linux-gnu").join(name);
        fs::copy(&from, lib.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    for program in ["containerd", "ctr", "containerd-shim-runc-v2"] {
        let program = folder.join("usr/bin").join(program);
        let mut patchelf = Command::new("patchelf");
        patchelf.arg("--set-interpreter").arg(&loader);
        patchelf.arg("--force-rpath").arg("--set-rpath").arg(&lib).arg(&program);
        run(&mut patchelf)?;
    }
    fs::write(folder.join("complete"), "")?;
    Ok(())
}

/// Package lists of one Debian suite, beside the machine's own.
pub struct Suite {
    folder: PathBuf,
}

impl Suite {
    /// Reads the lists of `name` from the mirror that the machine uses.
    pub fn new(name: &str, folder: &Path) -> Result<Suite> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let list = format!("deb [trusted=yes] {} {name} main\n", mirror());
        fs::write(folder.join("sources.list"), list)?;
        let suite = Suite { folder: folder.to_owned() };
        // The lists are asked for a second time before the try counts as failed: mirrors hiccup.
        output(suite.apt_get().arg("update"))
            .or_else(|_| output(suite.apt_get().arg("update")))
            .with_context(|| format!("cannot read the package lists of Debian {name}"))?;
        Ok(suite)
    }

    /// The lists of `name` that were read for its containerd; they are read if they are not there.
    pub fn of(name: &str, peers: &Path) -> Result<Suite> {
        let folder = peers.join(name).join("apt");
        if folder.join("sources.list").exists() && folder.join("lists").exists() {
            return Ok(Suite { folder });
        }
        Suite::new(name, &folder)
    }

    /// The package manager with these lists.
    pub fn apt_get(&self) -> Command {
        let mut command = host::apt_get();
        command.current_dir(&self.folder);
        let option = |key: &str, value: String| format!("{key}={value}");
        for text in [
            option("Dir::Etc::sourcelist", self.folder.join("sources.list").display().to_string()),
            option("Dir::Etc::sourceparts", "-".to_owned()),
            option("Dir::State::lists", self.folder.join("lists").display().to_string()),
            option("Dir::Cache", self.folder.join("cache").display().to_string()),
            // Mirrors may serve a suite under development whose release file has expired.
            option("Acquire::Check-Valid-Until", "false".to_owned()),
            option("Acquire::Check-Date", "false".to_owned()),
        ] {
            command.args(["-o", &text]);
        }
        command
    }

    /// Downloads `package` and unpacks it below `folder`.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let download = || output(self.apt_get().args(["download", package]));
        // Lists that are old name packages that mirrors no longer have.
        if download().is_err() {
            output(self.apt_get().arg("update"))?;
            download()?;
        }
        let prefix = format!("{package}_");
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&prefix) && name.ends_with(".deb") {
                fs::create_dir_all(folder)?;
                return run(Command::new("dpkg").arg("-x").arg(&path).arg(folder));
            }
        }
        bail!("apt-get download {package} left no package in {}", self.folder.display())
    }
}

/// The mirror in the machine's own package sources, or Debian's.
fn mirror() -> String {
    let mut sources = String::new();
    for file in ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"] {
        sources += &fs::read_to_string(file).unwrap_or_default();
        sources.push('\n');
    }
    mirror_in(&sources).unwrap_or_else(|| "http://deb.debian.org/debian".to_owned())
}

/// The first mirror in the text of package sources, of either format, that is not for security.
fn mirror_in(sources: &str) -> Option<String> {
    sources
        .lines()
        .filter_map(|line| {
            if let Some(uris) = line.strip_prefix("URIs:") {
                return uris.split_whitespace().next();
            }
            line.strip_prefix("deb ")?.split_whitespace().find(|word| word.contains("://"))
        })
        .find(|uri| !uri.contains("security"))
        .map(|uri| uri.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn mirrors_of_both_formats() {
        let deb822 = "# x\nTypes: deb\nURIs: http://mirror.test/debian/\nSuites: bookworm\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("http://mirror.test/debian"));
        let classic = "deb http://security.test/debian-security b main\n\
                       deb [trusted=yes] http://mirror.test/debian b main\n";
        assert_eq!(mirror_in(classic).as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(mirror_in(""), None);
    }
}
