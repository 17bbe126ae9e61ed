//! A program with runc's command line that does not come to its end.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base_errors::{Class, Coded};
use runtime_runc::{Error, Io, Limits, OciRuntime, Reaper, RuncProgram};

/// Waits until the process has gone, as long as it takes.
async fn gone(pid: &str) {
    while Path::new("/proc").join(pid.trim()).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One test: there is one reaper per process, which takes the children of all threads.
#[tokio::test]
async fn a_program_that_hangs_is_killed_with_all_that_it_runs() {
    kernel_process::set_subreaper(true).unwrap();
    let reaper = Reaper::install().unwrap();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("runtime");
    // A wrapper: what hangs is its child.
    let script = format!(
        "#!/bin/sh\nsh -c 'echo $$ >{0}/child; sleep 1000; exit'\necho $$ >{0}/alive\n",
        folder.path().display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let limits = Limits { usual: Duration::from_secs(2), long: Duration::from_secs(3) };
    let program =
        RuncProgram::new(path.to_str().unwrap(), folder.path().into(), None, false, reaper)
            .with_limits(limits);
    let child = || std::fs::read_to_string(folder.path().join("child")).unwrap();

    let error = program.start("one", None).await.unwrap_err();
    assert_eq!(error.class(), Class::DeadlineExceeded);
    let text = format!("OCI runtime start failed: {} start: no end within 2 s", path.display());
    assert_eq!(error.to_string(), text);
    gone(&child()).await;

    let bundle = folder.path();
    let options = runtime_runc::CreateOptions {
        pid_file: &folder.path().join("pid"),
        no_pivot: false,
        no_new_keyring: false,
    };
    let error = program.create("one", bundle, options, Io::null()).await.unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error}");
    gone(&child()).await;

    let error = program.checkpoint("one", &Default::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("checkpoint: no end within 3 s"), "{error}");
    gone(&child()).await;

    // A caller that goes away takes its program with it.
    std::fs::remove_file(folder.path().join("child")).unwrap();
    let state = program.state("one");
    let begun = async {
        while !folder.path().join("child").exists() || child().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        answer = state => panic!("{answer:?}"),
        () = begun => {}
    }
    gone(&child()).await;
    assert!(!folder.path().join("alive").exists());
}
