//! Names, kinds, parents, labels: what does not look into the trees.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base_errors::Class;
use base_ident::Labels;

use super::{Test, given, inheritable, refused};
use crate::snapshotter::{Kind, UpdateField};

/// A label that reaches a backend.
fn label(name: &str, value: &str) -> (String, String) {
    (format!("containerd.io/snapshot/{name}"), value.to_owned())
}

pub(super) async fn prepare_and_commit(test: &Test) {
    let snapshots = &test.snapshots;
    let before = SystemTime::now() - Duration::from_secs(1);
    let mounts = snapshots.prepare("active", "", inheritable()).await.unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(snapshots.mounts("active").await.unwrap(), mounts);
    let info = snapshots.stat("active").await.unwrap();
    assert_eq!((info.kind, info.name.as_str(), info.parent.as_str()), (Kind::Active, "active", ""));
    assert_eq!(given(&info.labels), inheritable());
    assert!(info.created_at >= before && info.updated_at >= info.created_at, "{info:?}");

    let labels = Labels::from([label("new", "2")]);
    snapshots.commit("layer", "active", labels.clone(), "").await.unwrap();
    refused(snapshots.stat("active").await, Class::NotFound);
    let info = snapshots.stat("layer").await.unwrap();
    assert_eq!((info.kind, info.name.as_str()), (Kind::Committed, "layer"));
    assert_eq!(given(&info.labels), labels, "replaced, not inherited");
    assert!(info.created_at >= before);
    // The key is free again.
    let mounts = snapshots.prepare("active", "layer", Labels::new()).await.unwrap();
    assert_eq!(snapshots.mounts("active").await.unwrap(), mounts);
    assert_eq!(snapshots.stat("active").await.unwrap().parent, "layer");
    assert_eq!(test.names(&[]).await, ["active", "layer"]);
}

pub(super) async fn views(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("base", "", |_| ()).await;
    let mounts = snapshots.view("view", "base", Labels::new()).await.unwrap();
    assert!(
        mounts
            .iter()
            .all(|mount| mount.options.iter().any(|option| option == "ro")
                || mount.kind == "overlay")
    );
    assert_eq!(snapshots.mounts("view").await.unwrap(), mounts);
    assert_eq!(test.kind("view").await, Kind::View);
    let text = refused(
        snapshots.commit("never", "view", Labels::new(), "").await,
        Class::FailedPrecondition,
    );
    assert!(text.ends_with(" is not active: failed precondition"), "{text}");
    refused(snapshots.stat("never").await, Class::NotFound);
    assert_eq!(test.kind("view").await, Kind::View, "as it was");
    snapshots.view("empty", "", Labels::new()).await.unwrap();
    snapshots.remove("view").await.unwrap();
    snapshots.remove("empty").await.unwrap();
    assert_eq!(test.names(&[]).await, ["base"]);
}

pub(super) async fn bad_keys(test: &Test) {
    let snapshots = &test.snapshots;
    for text in [
        refused(snapshots.stat("none").await, Class::NotFound),
        refused(snapshots.mounts("none").await, Class::NotFound),
        refused(snapshots.usage("none").await, Class::NotFound),
        refused(snapshots.remove("none").await, Class::NotFound),
    ] {
        assert!(text.ends_with("snapshot none does not exist: not found"), "{text}");
    }
    refused(snapshots.commit("name", "none", Labels::new(), "").await, Class::NotFound);
    refused(snapshots.prepare("", "", Labels::new()).await, Class::InvalidArgument);

    snapshots.prepare("twice", "", Labels::new()).await.unwrap();
    refused(snapshots.prepare("twice", "", Labels::new()).await, Class::AlreadyExists);
    refused(snapshots.view("twice", "", Labels::new()).await, Class::AlreadyExists);
    test.layer("done", "", |_| ()).await;
    refused(snapshots.prepare("done", "", Labels::new()).await, Class::AlreadyExists);
    refused(snapshots.commit("done", "twice", Labels::new(), "").await, Class::AlreadyExists);
    assert_eq!(test.kind("twice").await, Kind::Active, "a failed commit changes nothing");
    refused(snapshots.mounts("done").await, Class::FailedPrecondition);
    let text = refused(
        snapshots.commit("again", "done", Labels::new(), "").await,
        Class::FailedPrecondition,
    );
    assert!(text.ends_with(" is not active: failed precondition"), "{text}");
    // Keys are names, not paths, and may be long.
    for key in ["../../x", "a/b c/ü", &"k".repeat(2000)] {
        snapshots.prepare(key, "", Labels::new()).await.unwrap();
        assert_eq!(snapshots.stat(key).await.unwrap().name, key);
        snapshots.remove(key).await.unwrap();
    }
}

pub(super) async fn parents(test: &Test) {
    let snapshots = &test.snapshots;
    refused(snapshots.prepare("child", "none", Labels::new()).await, Class::NotFound);
    refused(snapshots.view("child", "none", Labels::new()).await, Class::NotFound);
    snapshots.prepare("active", "", Labels::new()).await.unwrap();
    let text =
        refused(snapshots.prepare("child", "active", Labels::new()).await, Class::InvalidArgument);
    assert!(text.ends_with("is not committed snapshot: invalid argument"), "{text}");
    refused(snapshots.stat("child").await, Class::NotFound);
    // Nothing is left behind: the key is free.
    snapshots.prepare("child", "", Labels::new()).await.unwrap();
}

pub(super) async fn remove_order(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("one", "", |_| ()).await;
    test.layer("two", "one", |_| ()).await;
    snapshots.prepare("top", "two", Labels::new()).await.unwrap();
    snapshots.view("look", "one", Labels::new()).await.unwrap();
    for key in ["one", "two"] {
        let text = refused(snapshots.remove(key).await, Class::FailedPrecondition);
        assert!(text.ends_with("cannot remove snapshot with child: failed precondition"), "{text}");
    }
    snapshots.remove("top").await.unwrap();
    snapshots.remove("two").await.unwrap();
    refused(snapshots.remove("one").await, Class::FailedPrecondition);
    snapshots.remove("look").await.unwrap();
    snapshots.remove("one").await.unwrap();
    refused(snapshots.remove("one").await, Class::NotFound);
    assert!(test.names(&[]).await.is_empty());
}

pub(super) async fn labels(test: &Test) {
    let snapshots = &test.snapshots;
    let first = Labels::from([label("a", "1"), label("b", "2"), label("empty", "")]);
    snapshots.prepare("active", "", first).await.unwrap();
    let mut info = snapshots.stat("active").await.unwrap();
    assert_eq!(given(&info.labels), Labels::from([label("a", "1"), label("b", "2")]));
    let one = |name: &str| UpdateField::Label(label(name, "").0);
    let steps = [
        (
            Labels::from([label("a", "3")]),
            vec![one("a")],
            Labels::from([label("a", "3"), label("b", "2")]),
        ),
        (Labels::from([label("b", "")]), vec![one("b")], Labels::from([label("a", "3")])),
        (Labels::new(), vec![one("a")], Labels::new()),
        (
            Labels::from([label("c", "4")]),
            vec![UpdateField::Labels],
            Labels::from([label("c", "4")]),
        ),
        (Labels::from([label("d", "5")]), vec![], Labels::from([label("d", "5")])),
    ];
    for (new, fields, expected) in steps {
        info.labels = new;
        let answer = snapshots.update(&info, &fields).await.unwrap();
        assert_eq!(given(&answer.labels), expected);
        let seen = snapshots.stat("active").await.unwrap();
        assert_eq!((given(&seen.labels), seen.kind), (expected, Kind::Active));
        assert!(seen.updated_at >= seen.created_at);
    }
    info.name = "none".to_owned();
    refused(snapshots.update(&info, &[]).await, Class::NotFound);
}

pub(super) async fn filters(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("one", "", |_| ()).await;
    test.layer("two", "one", |_| ()).await;
    snapshots.prepare("top", "two", Labels::from([label("x", "y")])).await.unwrap();
    snapshots.view("look", "one", Labels::new()).await.unwrap();
    assert_eq!(test.names(&[]).await, ["look", "one", "top", "two"]);
    assert_eq!(test.names(&["name==one"]).await, ["one"]);
    assert_eq!(test.names(&["kind==committed"]).await, ["one", "two"]);
    assert_eq!(test.names(&["kind==active"]).await, ["top"]);
    assert_eq!(test.names(&["kind==view"]).await, ["look"]);
    assert_eq!(test.names(&["parent==one"]).await, ["look", "two"]);
    assert_eq!(test.names(&["labels.\"containerd.io/snapshot/x\"==y"]).await, ["top"]);
    assert_eq!(test.names(&["name==one", "name==top"]).await, ["one", "top"]);
    assert!(test.names(&["name==one,parent==two"]).await.is_empty());
    refused(snapshots.list(&["name==\"".to_owned()]).await, Class::InvalidArgument);
}

pub(super) async fn cleanup(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("kept", "", |root| std::fs::write(root.join("file"), "kept").unwrap()).await;
    snapshots.prepare("gone", "kept", Labels::new()).await.unwrap();
    let mounts = snapshots.prepare("active", "kept", Labels::new()).await.unwrap();
    snapshots.remove("gone").await.unwrap();
    snapshots.cleanup().await.unwrap();
    snapshots.cleanup().await.unwrap();
    test.mounted(mounts, |root| {
        assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "kept");
        std::fs::write(root.join("new"), "").unwrap();
    })
    .await;
    refused(snapshots.stat("gone").await, Class::NotFound);
}

pub(super) async fn concurrent(test: &Test) {
    test.layer("base", "", |_| ()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let snapshots = Arc::clone(&test.snapshots);
        tasks.spawn(async move {
            let key = format!("own-{number}");
            snapshots.prepare(&key, "base", Labels::new()).await.unwrap();
            if number % 4 == 0 {
                snapshots.cleanup().await.unwrap();
            }
            snapshots.mounts(&key).await.unwrap();
            let name = format!("layer-{number}");
            snapshots.commit(&name, &key, Labels::new(), "").await.unwrap();
            // One of all wins.
            usize::from(snapshots.prepare("same", "base", Labels::new()).await.is_ok())
        });
    }
    let mut winners = 0;
    while let Some(result) = tasks.join_next().await {
        winners += result.unwrap();
    }
    assert_eq!(winners, 1);
    assert_eq!(test.names(&[]).await.len(), 18);
    // What the losers made does not keep anything alive.
    test.snapshots.remove("same").await.unwrap();
    for number in 0..16 {
        test.snapshots.remove(&format!("layer-{number}")).await.unwrap();
    }
    test.snapshots.remove("base").await.unwrap();
}

pub(super) async fn rebase(test: &Test) {
    let snapshots = &test.snapshots;
    test.layer("base", "", |_| ()).await;
    test.layer("other", "", |_| ()).await;
    snapshots.prepare("loose", "", Labels::new()).await.unwrap();
    refused(snapshots.commit("x", "loose", Labels::new(), "none").await, Class::NotFound);
    snapshots.commit("moved", "loose", Labels::new(), "base").await.unwrap();
    assert_eq!(snapshots.stat("moved").await.unwrap().parent, "base");
    refused(snapshots.remove("base").await, Class::FailedPrecondition);
    // Its own parent may be named.
    snapshots.prepare("bound", "base", Labels::new()).await.unwrap();
    snapshots.commit("bound-layer", "bound", Labels::new(), "base").await.unwrap();
    snapshots.remove("bound-layer").await.unwrap();
    snapshots.remove("moved").await.unwrap();
    snapshots.remove("base").await.unwrap();
}
