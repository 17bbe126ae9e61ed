//! The command lines of runc, as go-runc writes them. Pure, so that a test can hold them.

use std::ffi::OsString;
use std::path::Path;

use crate::runtime::CheckpointOptions;

/// A command line in the making.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    /// The words, in order.
    pub(crate) words: Vec<OsString>,
    /// The command among them.
    pub(crate) name: &'static str,
}

impl Arguments {
    /// Begins with the global flags.
    pub(crate) fn global(root: &Path, log: Option<&Path>, systemd_cgroup: bool) -> Self {
        let mut arguments = Arguments::default();
        if !root.as_os_str().is_empty() {
            arguments.pair("--root", root);
        }
        if let Some(log) = log {
            arguments.pair("--log", log);
            arguments.pair("--log-format", "json");
        }
        arguments.flag("--systemd-cgroup", systemd_cgroup);
        arguments
    }

    /// The command.
    pub(crate) fn operation(&mut self, name: &'static str) {
        self.name = name;
        self.word(name);
    }

    /// A flag with its value.
    pub(crate) fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.words.push(name.into());
        self.words.push(value.into());
    }

    /// A flag with its value, unless the value is empty.
    pub(crate) fn path(&mut self, name: &str, value: &Path) {
        if !value.as_os_str().is_empty() {
            self.pair(name, value);
        }
    }

    /// A flag without a value.
    pub(crate) fn flag(&mut self, name: &str, set: bool) {
        if set {
            self.words.push(name.into());
        }
    }

    /// A plain argument.
    pub(crate) fn word(&mut self, word: impl Into<OsString>) {
        self.words.push(word.into());
    }

    /// The flags that checkpoint and restore share.
    pub(crate) fn checkpoint(&mut self, options: &CheckpointOptions) {
        self.path("--image-path", &options.image_path);
        self.path("--work-path", &options.work_path);
        self.path("--parent-path", &options.parent_path);
        self.flag("--tcp-established", options.open_tcp);
        self.flag("--ext-unix-sk", options.external_unix_sockets);
        self.flag("--shell-job", options.terminal);
        self.flag("--file-locks", options.file_locks);
        if !options.cgroups_mode.is_empty() {
            self.pair("--manage-cgroups-mode", &options.cgroups_mode);
        }
        for namespace in &options.empty_namespaces {
            self.pair("--empty-ns", namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_flags_come_first_and_in_order() {
        let arguments =
            Arguments::global(Path::new("/run/r"), Some(Path::new("/b/log.json")), true);
        let words: Vec<_> = arguments.words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words,
            [
                "--root",
                "/run/r",
                "--log",
                "/b/log.json",
                "--log-format",
                "json",
                "--systemd-cgroup"
            ]
        );
    }

    #[test]
    fn checkpoint_flags() {
        let mut arguments = Arguments::default();
        arguments.checkpoint(&CheckpointOptions {
            image_path: "/i".into(),
            open_tcp: true,
            empty_namespaces: vec!["network".to_owned()],
            cgroups_mode: "soft".to_owned(),
            ..Default::default()
        });
        let words: Vec<_> = arguments.words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(
            words,
            [
                "--image-path",
                "/i",
                "--tcp-established",
                "--manage-cgroups-mode",
                "soft",
                "--empty-ns",
                "network"
            ]
        );
    }
}
