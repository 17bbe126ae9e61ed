//! Where a layer goes: a folder, and how deletions are written there.

use std::path::PathBuf;

use kernel_mount::Mount;

/// How the deletions of a layer are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// What is deleted is removed: for a tree that holds all layers below.
    Remove,
    /// They are written as overlayfs keeps them: a character device 0:0 for a deleted name, the
    /// attribute `trusted.overlay.opaque` on a folder that hides the one below.
    Overlay {
        /// The mount has `userxattr`: the attribute is `user.overlay.opaque`.
        user: bool,
    },
}

/// The tree that a layer is applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its root, which exists.
    pub root: PathBuf,
    /// How deletions are carried out.
    pub whiteouts: Whiteouts,
    /// The roots of the layers below, the nearest first, if `root` does not hold their files:
    /// folders that a layer does not mention take their owner and mode from there.
    pub lowers: Vec<PathBuf>,
    /// The layers below come later. A layer that needs them now is refused as
    /// [`NeedsParent`](super::ApplyError::NeedsParent).
    pub parent_comes_later: bool,
}

impl Target {
    /// A folder that holds the whole tree.
    #[must_use]
    pub fn folder(root: impl Into<PathBuf>) -> Self {
        Target {
            root: root.into(),
            whiteouts: Whiteouts::Remove,
            lowers: Vec::new(),
            parent_comes_later: false,
        }
    }

    /// The folder behind a mount list that can be written to without mounting anything: the upper
    /// folder of an overlay, or the source of a bind mount. None: it must be mounted.
    #[must_use]
    pub fn of_mounts(mounts: &[Mount], parent_comes_later: bool) -> Option<Self> {
        let [mount] = mounts else { return None };
        let is_mapped = mount
            .options
            .iter()
            .any(|option| option.starts_with("uidmap=") || option.starts_with("gidmap="));
        if is_mapped || !mount.target.is_empty() {
            return None;
        }
        let has = |wanted: &str| mount.options.iter().any(|option| option == wanted);
        let value =
            |key: &str| mount.options.iter().rev().find_map(|option| option.strip_prefix(key));
        match mount.kind.as_str() {
            // An escaped colon in a lower folder's name is left to the kernel.
            "overlay" if !has("ro") => {
                let upper = value("upperdir=")?;
                let lowers = value("lowerdir=").unwrap_or_default();
                if lowers.contains('\\') || lowers.contains("::") {
                    return None;
                }
                let lowers = lowers.split(':').filter(|lower| !lower.is_empty());
                Some(Target {
                    root: upper.into(),
                    whiteouts: Whiteouts::Overlay { user: has("userxattr") },
                    lowers: lowers.map(PathBuf::from).collect(),
                    parent_comes_later: false,
                })
            }
            "bind" if !has("ro") => Some(Target {
                root: mount.source.clone().into(),
                whiteouts: if parent_comes_later {
                    Whiteouts::Overlay { user: false }
                } else {
                    Whiteouts::Remove
                },
                lowers: Vec::new(),
                parent_comes_later,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn overlays_and_binds_are_written_directly() {
        let overlay = mount("overlay", "overlay", &["workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]);
        let target = Target::of_mounts(&[overlay], false).unwrap();
        assert_eq!(target.root, PathBuf::from("/u"));
        assert_eq!(target.lowers, [PathBuf::from("/b"), PathBuf::from("/a")]);
        assert_eq!(target.whiteouts, Whiteouts::Overlay { user: false });
        let bind = mount("bind", "/s", &["rw", "rbind"]);
        let target = Target::of_mounts(std::slice::from_ref(&bind), false).unwrap();
        assert_eq!(target, Target::folder("/s"));
        let target = Target::of_mounts(&[bind], true).unwrap();
        assert_eq!(target.whiteouts, Whiteouts::Overlay { user: false });
    }

    #[test]
    fn what_needs_the_kernel_is_mounted() {
        for mount in [
            mount("overlay", "overlay", &["lowerdir=/b:/a"]),
            mount(
                "overlay",
                "overlay",
                &["upperdir=/u", "workdir=/w", "lowerdir=/a", "uidmap=0:1:2"],
            ),
            mount("bind", "/s", &["ro", "rbind"]),
            mount("ext4", "/dev/x", &[]),
        ] {
            assert_eq!(Target::of_mounts(&[mount], false), None);
        }
        assert_eq!(Target::of_mounts(&[], false), None);
    }
}
