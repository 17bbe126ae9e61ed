//! File systems that a helper program mounts: kinds `fuse.<name>` and `fuse3.<name>`.

use std::path::Path;
use std::process::Command;

use crate::error::Failure;

/// The most of a helper's output that an error shows.
const SHOWN_OUTPUT: usize = 1024;

/// The helper program and the name after the prefix, if `kind` is one of a helper.
pub(crate) fn helper(kind: &str) -> Option<(&'static str, &str)> {
    let helpers = [("mount.fuse3", "fuse3."), ("mount.fuse", "fuse.")];
    helpers.into_iter().find_map(|(program, prefix)| {
        kind.strip_prefix(prefix).filter(|name| !name.is_empty()).map(|name| (program, name))
    })
}

/// Runs the helper and waits for it.
pub(crate) fn mount(
    program: &'static str,
    name: &str,
    source: &str,
    target: &Path,
    options: &[String],
) -> Result<(), Failure> {
    let failure = |reason: String| Failure::Helper { program, reason };
    let mut command = Command::new(program);
    command.arg(source).arg(target);
    for option in options {
        command.arg("-o").arg(option);
    }
    command.arg("-t").arg(name);
    let output = command.output().map_err(|error| failure(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text: String = text.trim().chars().take(SHOWN_OUTPUT).collect();
    Err(failure(format!("{}: {text}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_with_a_prefix_have_a_helper() {
        assert_eq!(helper("fuse3.overlayfs"), Some(("mount.fuse3", "overlayfs")));
        assert_eq!(helper("fuse.x"), Some(("mount.fuse", "x")));
        assert_eq!(helper("fuse"), None);
        assert_eq!(helper("fuse3."), None);
    }
}
