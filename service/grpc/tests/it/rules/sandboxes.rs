//! Records of sandboxes.

use api_grpc::sandbox::{
    StoreCreateRequest, StoreDeleteRequest, StoreGetRequest, StoreUpdateRequest,
};
use api_shim::types::{Sandbox, sandbox};

use super::*;

fn new(id: &str) -> Sandbox {
    Sandbox {
        sandbox_id: id.to_owned(),
        runtime: Some(sandbox::Runtime { name: "r".to_owned(), options: None }),
        spec: Some(any("spec")),
        labels: labels(&[("a", "1")]),
        extensions: [("x".to_owned(), any("x"))].into(),
        sandboxer: "shim".to_owned(),
        ..Sandbox::default()
    }
}

async fn update(world: &World, to: Sandbox, paths: &[&str]) -> Result<Response<Sandbox>, Status> {
    let fields = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = StoreUpdateRequest { sandbox: Some(to), fields };
    let answer = world.sandboxes().update(call(request)).await?;
    Ok(Response::new(answer.into_inner().sandbox.unwrap()))
}

#[tokio::test]
async fn a_sandbox_has_its_rules() {
    let world = world().await;
    let create = |sandbox| StoreCreateRequest { sandbox: Some(sandbox) };
    ok(world.sandboxes().create(call(create(new("s")))).await);
    let answer = world.sandboxes().create(call(create(new("s")))).await;
    fails(answer, Code::AlreadyExists, "");
    let none = || StoreDeleteRequest { sandbox_id: "none".to_owned() };
    fails(world.sandboxes().delete(call(none())).await, Code::NotFound, "");
    let get = StoreGetRequest { sandbox_id: "none".to_owned() };
    fails(world.sandboxes().get(call(get)).await, Code::NotFound, "");
    fails(update(&world, new("none"), &[]).await, Code::NotFound, "");
}

/// The sandbox `s` with other labels, another spec and another extension.
fn changed() -> Sandbox {
    Sandbox {
        labels: labels(&[("b", "2")]),
        spec: Some(any("other")),
        extensions: [("y".to_owned(), any("y"))].into(),
        ..new("s")
    }
}

#[tokio::test]
async fn paths_of_an_update() {
    let world = world().await;
    let request = StoreCreateRequest { sandbox: Some(new("s")) };
    ok(world.sandboxes().create(call(request)).await);
    let change = changed();
    let updated = ok(update(&world, change.clone(), &["labels.b"]).await);
    assert_eq!(updated.labels, labels(&[("a", "1"), ("b", "2")]));
    assert_eq!(updated.spec, Some(any("spec")));
    let updated = ok(update(&world, change.clone(), &["extensions.y"]).await);
    assert!(updated.extensions.contains_key("x") && updated.extensions.contains_key("y"));
    let updated = ok(update(&world, change.clone(), &["spec"]).await);
    assert_eq!(updated.spec, Some(any("other")));
    let updated = ok(update(&world, change, &[]).await);
    assert_eq!(updated.labels, labels(&[("b", "2")]));
    let runtime = Some(sandbox::Runtime { name: "other".to_owned(), options: None });
    let other = Sandbox { runtime, ..new("s") };
    fails(update(&world, other, &[]).await, Code::InvalidArgument, "untime");
    for path in ["sandboxer", "created_at", "x"] {
        fails(update(&world, new("s"), &[path]).await, Code::InvalidArgument, path);
    }
}

#[tokio::test]
async fn each_path_changes_its_field_alone() {
    let world = world().await;
    let request = StoreCreateRequest { sandbox: Some(new("s")) };
    ok(world.sandboxes().create(call(request)).await);
    let change = Sandbox {
        runtime: Some(sandbox::Runtime { name: "other".to_owned(), options: None }),
        ..changed()
    };
    let updated = ok(update(&world, change.clone(), &["labels"]).await);
    assert_eq!(updated.labels, labels(&[("b", "2")]));
    assert_eq!(updated.extensions, new("s").extensions);
    ok(update(&world, change.clone(), &["extensions"]).await);
    // A path may name the runtime; without paths it has to stay.
    let updated = ok(update(&world, change, &["runtime"]).await);
    assert_eq!(updated.runtime.unwrap().name, "other");
    let get = StoreGetRequest { sandbox_id: "s".to_owned() };
    let found = ok(world.sandboxes().get(call(get)).await).sandbox.unwrap();
    assert_eq!(found.spec, Some(any("spec")));
    let names: Vec<_> = found.extensions.keys().map(String::as_str).collect();
    assert_eq!(names, ["x", "y"], "extensions are merged");
}
