//! Leases and what is in them.

use base_errors::Class;
use base_ident::Labels;
use store_metadata::LeaseResource;

use super::super::support::*;

#[test]
fn lease_texts() {
    let db = fresh();
    let none = Labels::new();
    let error = db
        .metadata
        .update_blocking(move |tx| Ok(tx.create_lease(&scope(), "", &none)?))
        .unwrap_err();
    assert_eq!(error.to_string(), "lease id must be provided");
    assert_eq!(error.class(), Class::Unknown);
    let id = "moby-image-sha256:0000000000000000000000000000000000000000000000000000000000000000";
    db.update(move |tx| Ok(tx.create_lease(&scope(), id, &labels(&[("k", "v")]))?));
    assert_eq!(
        db.fails(move |tx| Ok(tx.create_lease(&scope(), id, &Labels::new())?)),
        format!("lease {id:?}: already exists")
    );
    assert_eq!(db.fails(|tx| Ok(tx.delete_lease(&scope(), "x")?)), r#"lease "x": not found"#);
    let found = db.view(|tx| Ok(tx.leases(&ns(), &filter(&["labels.k==v"]))?));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, id);
    db.update(move |tx| Ok(tx.delete_lease(&scope(), id)?));
    let error = db.metadata.view(|tx| Ok(tx.lease_resources(&ns(), id)?)).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
}

#[test]
fn lease_resources_have_types() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_lease(&scope(), "l", &Labels::new())?));
    let resource =
        |kind: &str, id: &str| LeaseResource { id: id.to_owned(), kind: kind.to_owned() };
    let good = [
        resource("content", digest(1).as_str()),
        resource("images", "i"),
        resource("ingests", "r"),
        resource("snapshots/overlayfs", "s"),
    ];
    let all = good.clone();
    db.update(move |tx| {
        for resource in &all {
            tx.add_lease_resource(&scope(), "l", resource)?;
        }
        Ok(())
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)), good);
    let bad = [
        (resource("content", "x"), Class::InvalidArgument),
        (resource("content/x", "x"), Class::InvalidArgument),
        (resource("snapshots", "x"), Class::InvalidArgument),
        (resource("snapshots/a/b", "x"), Class::InvalidArgument),
        (resource("tasks", "x"), Class::NotImplemented),
    ];
    for (resource, class) in bad {
        let shown = format!("{resource:?}");
        let error = db
            .metadata
            .update_blocking(move |tx| Ok(tx.add_lease_resource(&scope(), "l", &resource)?))
            .unwrap_err();
        assert_eq!(error.class(), class, "{shown}: {error}");
    }
    db.update(move |tx| {
        for resource in &good {
            tx.delete_lease_resource(&scope(), "l", resource)?;
        }
        Ok(())
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)), []);
}

#[test]
fn what_is_created_under_a_lease_is_in_it() {
    let db = fresh();
    db.update(|tx| Ok(tx.create_lease(&scope(), "l", &Labels::new())?));
    let leased = || scope().with_lease("l");
    db.update(move |tx| {
        blob(tx, &leased(), 1, &Labels::new())?;
        tx.open_ingest(&leased(), "open", None, false)?;
        snapshot(tx, &leased(), "s", "", &Labels::new())?;
        tx.create_image(&leased(), image("forever", 1), None)?;
        let mut expires = image("expires", 1);
        expires.labels = labels(&[("containerd.io/gc.expire", "2000-01-01T00:00:00Z")]);
        Ok(tx.create_image(&leased(), expires, None)?)
    });
    let kinds: Vec<String> = db
        .view(|tx| Ok(tx.lease_resources(&ns(), "l")?))
        .into_iter()
        .map(|resource| format!("{} {}", resource.kind, resource.id))
        .collect();
    let content = format!("content {}", digest(1));
    assert_eq!(
        kinds,
        [content.as_str(), "images expires", "ingests open", "snapshots/overlayfs s"]
    );
    assert_eq!(db.view(|tx| Ok(tx.ingest(&ns(), "open")?)).expire_at, None);
}

#[test]
fn an_unknown_lease_is_not_found_and_leaves_nothing() {
    let db = fresh();
    let leased = || scope().with_lease("none");
    let text = "lease does not exist: not found";
    assert_eq!(db.fails(move |tx| blob(tx, &leased(), 1, &Labels::new())), text);
    assert_eq!(db.fails(move |tx| snapshot(tx, &leased(), "s", "", &Labels::new())), text);
    assert_eq!(db.fails(move |tx| Ok(tx.open_ingest(&leased(), "r", None, false)?)), text);
    assert_eq!(db.view(|tx| Ok(tx.namespaces()?)), []);
}

#[test]
fn what_exists_already_joins_the_lease() {
    let db = fresh();
    db.update(|tx| {
        blob(tx, &scope(), 1, &Labels::new())?;
        snapshot(tx, &scope(), "s", "", &Labels::new())?;
        Ok(tx.create_lease(&scope(), "l", &Labels::new())?)
    });
    let leased = || scope().with_lease("l");
    db.update(move |tx| Ok(tx.open_ingest(&leased(), "r", Some(&digest(1)), false)?));
    db.update(move |tx| {
        Ok(tx.reserve_snapshot(&leased(), "overlayfs", "s", "", None, &Labels::new())?)
    });
    assert_eq!(db.view(|tx| Ok(tx.lease_resources(&ns(), "l")?)).len(), 2);
}
