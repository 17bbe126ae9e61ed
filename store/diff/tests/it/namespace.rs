//! Tests that mount: each runs again as a process in a mount namespace of its own, so that nothing
//! it mounts can be seen, or stay, outside.

use std::process::Command;

/// Set in the inner run.
const INNER: &str = "STORE_DIFF_INNER_TEST";

/// Runs `test` in a mount namespace of its own. `name` is the test's full name.
pub(crate) fn in_mount_namespace(name: &str, test: impl FnOnce()) {
    if !super::tree::is_root() {
        return;
    }
    if std::env::var_os(INNER).is_some() {
        return test();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INNER, "1")
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
