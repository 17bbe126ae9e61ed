//! Mount namespaces, so that no mount of a test is seen by the machine.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process;

/// Folders that programs know by name. Each is an empty one in a namespace of ours.
const PRIVATE: [&str; 3] = ["/run/containerd", "/var/lib/containerd", "/etc/containerd"];

/// A mount namespace that lives as long as this value and the processes in it.
#[derive(Debug)]
pub struct MountNamespace {
    holder: Child,
    network: bool,
}

impl MountNamespace {
    /// Makes one. `hide_unified` unmounts the v2 hierarchy of a hybrid layout in it; `network`
    /// makes a network namespace beside it, with a loopback that is up.
    ///
    /// # Errors
    ///
    /// No right to (tests run as root), or no `unshare`.
    pub fn new(hide_unified: bool, network: bool) -> Result<MountNamespace> {
        let mut script = String::from("set -e\n");
        for folder in PRIVATE {
            // `/run/containerd` is made on the machine if it is not there: nothing can be mounted
            // onto a folder that does not exist. The others are needed only if they exist.
            if folder == "/run/containerd" {
                std::fs::create_dir_all(folder)?;
            }
            if Path::new(folder).is_dir() {
                script += &format!("mount -t tmpfs -o mode=711 ironhull-test {folder}\n");
            }
        }
        if hide_unified && Path::new("/sys/fs/cgroup/unified").is_dir() {
            script += "umount /sys/fs/cgroup/unified\n";
        }
        if network {
            script += "ip link set lo up\n";
        }
        script += "echo ready\nexec sleep infinity\n";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]);
        command.args(network.then_some("--net"));
        command.args(["--", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = command.spawn().context("start unshare")?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.trim() != "ready" {
            let _ = holder.kill();
            let status = holder.wait()?;
            bail!("cannot make a mount namespace ({status}): tests run as root");
        }
        Ok(MountNamespace { holder, network })
    }

    /// `program` in this namespace; its process id is the one that the command gets.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()));
        if self.network {
            command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        }
        command.arg("--").arg(program);
        command
    }

    /// The processes in this namespace, without the one that keeps it.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let namespace = |pid: String| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let holder = self.holder.id().to_string();
        let mine = namespace(holder.clone());
        process::all()
            .into_iter()
            .filter(|pid| mine.is_some() && pid.to_string() != holder)
            .filter(|pid| namespace(pid.to_string()) == mine)
            .collect()
    }

    /// `path` as processes in this namespace see it.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The mount points in this namespace that are not there from its start.
    ///
    /// # Errors
    ///
    /// The namespace is gone.
    pub fn mount_points(&self) -> Result<Vec<String>> {
        let path = format!("/proc/{}/mountinfo", self.holder.id());
        let text = std::fs::read_to_string(&path).context(path)?;
        Ok(text
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| !PRIVATE.contains(point))
            .map(str::to_owned)
            .collect())
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
