//! The mount manager with real mounts, in a mount namespace of the test's own.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests; skips are printed")]

use std::fs;
use std::path::{Path, PathBuf};

use base_errors::Class;
use base_ident::{Labels, Namespace};
use kernel_mount::{Mount, mountinfo};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use store_metadata::Scope;
use store_mount::{ActivateOptions, MountManager, Owner};

/// Runs `test` in a mount namespace of its own, with a folder that is a tmpfs.
fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().to_owned();
    let result = std::thread::spawn(move || {
        #[expect(deprecated, reason = "the thread is new and has no descriptors to share")]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).unwrap();
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        rustix::mount::mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(path.clone()));
        drop(runtime);
        rustix::mount::unmount(&path, UnmountFlags::DETACH).unwrap();
    })
    .join();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn scope() -> Scope {
    Scope::new(Namespace::new("default").unwrap())
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.to_owned(),
        source: source.to_owned(),
        target: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    }
}

fn manager(work: &Path) -> MountManager {
    MountManager::open(&work.join("state"), &[work.join("root")]).unwrap()
}

/// Two folders, and an overlay of them that has to be filled in.
fn overlay(work: &Path) -> Vec<Mount> {
    for (name, file) in [("a", "one"), ("b", "two")] {
        fs::create_dir_all(work.join("root").join(name)).unwrap();
        fs::write(work.join("root").join(name).join(file), file).unwrap();
    }
    let source = |name: &str| work.join("root").join(name).display().to_string();
    let work_folder = work.join("root/w").display().to_string();
    vec![
        mount("bind", &source("a"), &["rbind", "ro"]),
        mount("bind", &source("b"), &["rbind", "ro"]),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                &format!("X-containerd.mkdir.path={work_folder}:0711"),
                &format!("X-containerd.mkdir.path={work_folder}/upper:0755"),
                &format!("X-containerd.mkdir.path={work_folder}/work:0711"),
                &format!("upperdir={work_folder}/upper,workdir={work_folder}/work"),
                "lowerdir={{ overlay 0 1 }}",
            ],
        ),
    ]
}

fn points(work: &Path) -> Vec<PathBuf> {
    let mounts = mountinfo::mounts_below(&work.join("state")).unwrap();
    mounts.into_iter().map(|mount| mount.mount_point).collect()
}

#[test]
fn a_list_is_activated_shown_and_deactivated() {
    in_namespace(async |work| {
        let manager = manager(&work);
        let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
        let options = ActivateOptions { labels: labels.clone(), ..ActivateOptions::default() };
        let made = manager.activate(&scope(), "one", &overlay(&work), options).await.unwrap();
        let targets = work.join("state/t/1");
        assert_eq!(points(&work), [targets.join("2"), targets.join("1")]);
        assert_eq!(fs::read_to_string(targets.join("2-type")).unwrap(), "bind");
        assert_eq!((made.name.as_str(), made.active.len(), made.system.len()), ("one", 2, 1));
        let system = &made.system[0];
        assert_eq!((system.kind.as_str(), system.options.len()), ("overlay", 2));
        let lower = format!("lowerdir={0}/2:{0}/1", targets.display());
        assert_eq!(system.options[1], lower);
        assert!(work.join("root/w/upper").is_dir());

        let info = manager.info(&scope(), "one").unwrap();
        assert_eq!(info.system, made.system);
        assert_eq!(info.labels, labels);
        assert_eq!(info.active[0].mount_point, targets.join("2"));
        let error = manager
            .activate(&scope(), "one", &overlay(&work), ActivateOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "mount \"one\": already exists");
        assert_eq!(manager.list(&scope(), &["labels.k==v".to_owned()]).unwrap().len(), 1);
        assert!(manager.list(&scope(), &["labels.k==x".to_owned()]).unwrap().is_empty());
        let other = Scope::new(Namespace::new("other").unwrap());
        assert!(manager.list(&other, &[]).unwrap().is_empty());

        manager.deactivate(&scope(), "one").await.unwrap();
        assert!(points(&work).is_empty() && !targets.exists());
        for error in [
            manager.deactivate(&scope(), "one").await.unwrap_err(),
            manager.info(&scope(), "one").unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "mount \"one\": not found");
        }
    });
}

#[test]
fn what_needs_nothing_is_left_to_the_caller() {
    in_namespace(async |work| {
        let manager = manager(&work);
        let options = ActivateOptions::default;
        let plain = [mount("bind", "/", &["rbind"])];
        let error = manager.activate(&scope(), "x", &plain, options()).await.unwrap_err();
        assert_eq!(
            (error.class(), error.to_string()),
            (Class::NotImplemented, "not implemented".to_owned())
        );
        // The caller says that it can do all of it.
        let allowed =
            ActivateOptions { allowed: vec!["format".to_owned(), "mkdir".to_owned()], ..options() };
        let error = manager.activate(&scope(), "x", &overlay(&work), allowed).await.unwrap_err();
        assert_eq!(error.class(), Class::NotImplemented);
        let error = manager.activate(&scope(), "", &overlay(&work), options()).await.unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(manager.list(&scope(), &[]).unwrap().is_empty());
    });
}

#[test]
fn a_temporary_one_is_mounted_whole() {
    in_namespace(async |work| {
        let manager = manager(&work);
        let options = ActivateOptions { temporary: true, ..ActivateOptions::default() };
        let made = manager.activate(&scope(), "t", &overlay(&work), options).await.unwrap();
        assert_eq!((made.active.len(), made.system.len()), (3, 1));
        let whole = &made.active[2].mount_point;
        assert_eq!(made.system[0], mount("bind", whole.to_str().unwrap(), &["rbind"]));
        assert!(whole.join("one").exists() && whole.join("two").exists());
        manager.deactivate(&scope(), "t").await.unwrap();
        assert!(points(&work).is_empty());
    });
}

#[test]
fn a_failed_activation_leaves_nothing() {
    in_namespace(async |work| {
        let manager = manager(&work);
        for bad in [
            vec![
                mount("bind", work.to_str().unwrap(), &["rbind"]),
                mount("bind", "/nowhere", &["rbind"]),
                mount("format/bind", "{{ mount 1 }}", &["rbind"]),
            ],
            vec![
                mount("bind", work.to_str().unwrap(), &["rbind"]),
                mount("format/bind", "{{ mount 7 }}", &["rbind"]),
            ],
            vec![mount("mkdir/bind", "/", &["X-containerd.mkdir.path=/etc/ironhull-no"])],
        ] {
            let options = ActivateOptions::default();
            assert!(manager.activate(&scope(), "bad", &bad, options).await.is_err());
            assert!(manager.info(&scope(), "bad").unwrap_err().is_not_found());
            assert!(points(&work).is_empty());
            assert_eq!(fs::read_dir(work.join("state/t")).unwrap().count(), 0);
        }
        assert!(!Path::new("/etc/ironhull-no").exists());
    });
}

#[test]
fn owners_keep_an_activation() {
    in_namespace(async |work| {
        let manager = manager(&work);
        let leased = scope().with_lease("lease");
        let options = ActivateOptions::default;
        manager.activate(&leased, "leased", &overlay(&work), options()).await.unwrap();
        let label = ("containerd.io/gc.bref.container".to_owned(), "c1".to_owned());
        let owned = ActivateOptions { labels: Labels::from([label]), ..options() };
        manager.activate(&scope(), "owned", &overlay(&work), owned).await.unwrap();
        manager.activate(&scope(), "free", &overlay(&work), options()).await.unwrap();

        assert!(manager.collect(|_, _| Ok(true)).await.unwrap().is_empty());
        let failing = |_: &str, _: &Owner| Err(base_errors::Error::unavailable("no answer"));
        assert!(manager.collect(failing).await.unwrap().is_empty(), "nothing on a guess");
        // Its lease is gone, but another object names it; then that does so no more.
        let dead = Owner::Lease("lease".to_owned());
        assert!(manager.collect(|_, owner| Ok(*owner != dead)).await.unwrap().is_empty());
        let gone = manager
            .collect(|namespace, owner| {
                assert_eq!(namespace, "default");
                Ok(*owner != dead && *owner != Owner::Referrer("leased".to_owned()))
            })
            .await
            .unwrap();
        assert_eq!(gone, [("default".to_owned(), "leased".to_owned())]);
        let gone = manager.collect(|_, _| Ok(false)).await.unwrap();
        assert_eq!(gone, [("default".to_owned(), "owned".to_owned())]);
        let left = manager.list(&scope(), &[]).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(points(&work).len(), 2);
        manager.deactivate(&scope(), "free").await.unwrap();
    });
}

#[test]
fn a_start_sets_records_and_mounts_right() {
    in_namespace(async |work| {
        let options = ActivateOptions::default;
        {
            let manager = manager(&work);
            for name in ["kept", "lost"] {
                manager.activate(&scope(), name, &overlay(&work), options()).await.unwrap();
            }
        }
        // A reboot, or somebody, took the mounts of one; a crash left others without a record.
        for part in ["1", "2"] {
            let point = work.join("state/t/2").join(part);
            kernel_mount::unmount(&point, kernel_mount::UnmountFlags::empty()).unwrap();
        }
        let stray = work.join("state/t/77/1");
        fs::create_dir_all(&stray).unwrap();
        mount("bind", work.join("root/a").to_str().unwrap(), &["rbind"]).mount(&stray).unwrap();
        let manager = manager(&work);
        assert_eq!(manager.list(&scope(), &[]).unwrap().len(), 1);
        assert!(manager.info(&scope(), "kept").is_ok());
        assert!(!work.join("state/t/77").exists() && !work.join("state/t/2").exists());
        assert!(work.join("root/a/one").exists(), "what was behind a mount stays");
        assert_eq!(points(&work).len(), 2);
        manager.deactivate(&scope(), "kept").await.unwrap();
    });
}
