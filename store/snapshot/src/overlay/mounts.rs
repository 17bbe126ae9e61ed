//! From a snapshot's place in the tree to its mounts.

use std::path::PathBuf;

use kernel_mount::Mount;

use super::Probe;
use crate::snapshotter::Kind;

/// All that a mount depends on.
pub(super) struct Plan<'a> {
    pub(super) kind: Kind,
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// Layers, the nearest parent first.
    pub(super) lower: Vec<PathBuf>,
    pub(super) options: &'a [String],
    pub(super) idmap: Vec<String>,
}

/// Options of every overlay mount: the configured ones, then what the kernel needs.
pub(super) fn common_options(configured: &[String], probe: &Probe) -> Vec<String> {
    let has = |name: &str| configured.iter().any(|option| option.split('=').next() == Some(name));
    let mut options = configured.to_vec();
    if probe.user_xattr && !has("userxattr") {
        options.push("userxattr".to_owned());
    }
    // An index keeps a layer from being in two mounts at a time.
    if probe.index && !has("index") {
        options.push("index=off".to_owned());
    }
    options
}

/// The mounts, in containerd's order of options.
pub(super) fn plan(plan: &Plan<'_>) -> Vec<Mount> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let bind = |source: &PathBuf, mode: &str| {
        let mut options = plan.idmap.clone();
        options.extend([mode.to_owned(), "rbind".to_owned()]);
        let (kind, source) = ("bind".to_owned(), text(source));
        vec![Mount { kind, source, target: String::new(), options }]
    };
    let active = plan.kind == Kind::Active;
    match plan.lower.as_slice() {
        // Overlayfs needs a lower folder.
        [] => return bind(&plan.upper, if active { "rw" } else { "ro" }),
        [only] if !active => return bind(only, "ro"),
        _ => {}
    }
    let mut options = plan.idmap.clone();
    if active {
        options.push(format!("workdir={}", text(&plan.work)));
        options.push(format!("upperdir={}", text(&plan.upper)));
    }
    let lower: Vec<_> = plan.lower.iter().map(text).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    options.extend_from_slice(plan.options);
    let overlay = || "overlay".to_owned();
    vec![Mount { kind: overlay(), source: overlay(), target: String::new(), options }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(kind: Kind, lower: &[&str], options: &[&str], idmap: &[&str]) -> (String, String) {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let options: Vec<String> = strings(options);
        let mounts = plan(&Plan {
            kind,
            upper: "/r/9/fs".into(),
            work: "/r/9/work".into(),
            lower: lower.iter().map(PathBuf::from).collect(),
            options: &options,
            idmap: strings(idmap),
        });
        assert_eq!(mounts.len(), 1);
        (format!("{} {}", mounts[0].kind, mounts[0].source), mounts[0].options.join(","))
    }

    #[test]
    fn mounts_are_containerds() {
        let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(mounts(Kind::Active, &[], &["x"], &[]), text("bind /r/9/fs", "rw,rbind"));
        assert_eq!(mounts(Kind::View, &[], &[], &[]), text("bind /r/9/fs", "ro,rbind"));
        assert_eq!(mounts(Kind::View, &["/1"], &[], &[]), text("bind /1", "ro,rbind"));
        assert_eq!(
            mounts(Kind::View, &["/2", "/1"], &["index=off"], &[]),
            text("overlay overlay", "lowerdir=/2:/1,index=off")
        );
        assert_eq!(
            mounts(Kind::Active, &["/1"], &["volatile", "index=off"], &[]),
            text(
                "overlay overlay",
                "workdir=/r/9/work,upperdir=/r/9/fs,lowerdir=/1,volatile,index=off"
            )
        );
        assert_eq!(
            mounts(Kind::Active, &["/1"], &[], &["uidmap=0:1:2", "gidmap=0:3:2"]),
            text(
                "overlay overlay",
                "uidmap=0:1:2,gidmap=0:3:2,workdir=/r/9/work,upperdir=/r/9/fs,lowerdir=/1"
            )
        );
    }

    #[test]
    fn what_is_configured_is_not_doubled() {
        let probe = Probe { index: true, user_xattr: true, remap_ids: false };
        assert_eq!(common_options(&[], &probe), ["userxattr", "index=off"]);
        let configured = ["index=on".to_owned(), "userxattr".to_owned()];
        assert_eq!(common_options(&configured, &probe), configured);
    }
}
