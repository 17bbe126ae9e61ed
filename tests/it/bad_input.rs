//! Bad input: a clear error with the right code, and nothing left behind.

use std::fs;

use anyhow::{Context, Result, ensure};
use api_grpc::{containers, content, images, leases, namespaces, snapshots, tasks};
use e2e::client::Client;
use e2e::image::{self, Builder, Entry, Format, Layer};
use e2e::world::{IMAGE, Options, check, check_empty};
use e2e::{Maker, Table, World};
use tonic::{Code, Status};

use crate::skip;

fn options() -> Result<Options> {
    Options::new(Maker::Forky)
}

/// The status that `result` has to be.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("the call was not refused");
    assert!(
        status.code() == code && status.message().contains(text),
        "{status:?}, not {code:?} {text:?}"
    );
}

/// A container record for the image, with the spec that `ctr` makes.
fn container(world: &World, id: &str) -> Result<containers::Container> {
    world.ctr(&format!("containers create {IMAGE} {id} sleep 1000"))?;
    let client = world.client()?;
    let request = containers::GetContainerRequest { id: id.into() };
    let got = client.block_on(client.containers().get(client.request(request)))?;
    got.into_inner().container.context("no container in the answer")
}

fn mounts(client: &Client, key: &str) -> Result<Vec<api_shim::types::Mount>> {
    let request = snapshots::MountsRequest { snapshotter: "overlayfs".into(), key: key.into() };
    Ok(client.block_on(client.snapshots().mounts(client.request(request)))?.into_inner().mounts)
}

#[test]
fn tasks_that_cannot_be() {
    check(options(), |world| {
        let mut record = container(world, "one")?;
        let client = world.client()?;
        let create = |request: tasks::CreateTaskRequest| {
            client.block_on(client.tasks().create(client.request(request)))
        };
        let rootfs = mounts(&client, "one")?;
        let request = || tasks::CreateTaskRequest {
            container_id: "one".into(),
            rootfs: rootfs.clone(),
            ..Default::default()
        };
        refused(
            create(tasks::CreateTaskRequest { container_id: "nothing".into(), ..request() }),
            Code::NotFound,
            "container \"nothing\"",
        );

        // A mount that is not there.
        let mut wrong = rootfs.clone();
        wrong[0].r#type = "nosuchfs".into();
        let error =
            create(tasks::CreateTaskRequest { rootfs: wrong, ..request() }).expect_err("mounted");
        assert!(error.message().contains("mount"), "{error:?}");

        // A runtime that nobody has.
        for (name, id) in
            [("io.containerd.nothing.v2", "two"), ("nonsense", "three"), ("/no/such/shim", "four")]
        {
            let runtime = containers::container::Runtime { name: name.into(), options: None };
            record.id = id.into();
            record.runtime = Some(runtime);
            let request = containers::CreateContainerRequest { container: Some(record.clone()) };
            client.block_on(client.containers().create(client.request(request)))?;
            let error = create(tasks::CreateTaskRequest {
                container_id: id.into(),
                rootfs: rootfs.clone(),
                ..Default::default()
            })
            .expect_err("a task of an unknown runtime");
            // containerd says unknown; the text is what helps.
            let codes = [Code::NotFound, Code::InvalidArgument, Code::Unknown];
            assert!(codes.contains(&error.code()), "{name}: {error:?}");
            let shown = error.message();
            assert!(shown.contains(name), "{shown}");
            let request = containers::DeleteContainerRequest { id: id.into() };
            client.block_on(client.containers().delete(client.request(request)))?;
        }

        // Calls about what is not there.
        let id = || "one".to_owned();
        let start = tasks::StartRequest { container_id: id(), exec_id: String::new() };
        refused(
            client.block_on(client.tasks().start(client.request(start))),
            Code::NotFound,
            "not found",
        );
        let kill = tasks::KillRequest { container_id: id(), signal: 9, ..Default::default() };
        refused(
            client.block_on(client.tasks().kill(client.request(kill))),
            Code::NotFound,
            "not found",
        );
        let delete = tasks::DeleteTaskRequest { container_id: id() };
        refused(
            client.block_on(client.tasks().delete(client.request(delete))),
            Code::NotFound,
            "not found",
        );
        let wait = tasks::WaitRequest { container_id: id(), exec_id: String::new() };
        refused(
            client.block_on(client.tasks().wait(client.request(wait))),
            Code::NotFound,
            "not found",
        );

        // A second task for the same container.
        create(request())?;
        refused(create(request()), Code::AlreadyExists, "already exists");
        let exec = |exec: &str, json: &str| {
            let spec = prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: json.as_bytes().to_vec(),
            };
            let request = tasks::ExecProcessRequest {
                container_id: id(),
                exec_id: exec.into(),
                spec: Some(spec),
                ..Default::default()
            };
            client.block_on(client.tasks().exec(client.request(request)))
        };
        let start = tasks::StartRequest { container_id: id(), exec_id: String::new() };
        client.block_on(client.tasks().start(client.request(start.clone())))?;
        let error = client
            .block_on(client.tasks().start(client.request(start)))
            .expect_err("started twice");
        assert!(matches!(error.code(), Code::FailedPrecondition | Code::Unknown), "{error:?}");
        refused(exec("", "{}"), Code::InvalidArgument, "");
        refused(exec("a/b", "{}"), Code::InvalidArgument, "");
        let delete = tasks::DeleteTaskRequest { container_id: id() };
        let error = client
            .block_on(client.tasks().delete(client.request(delete)))
            .expect_err("deleted while it runs");
        assert!(matches!(error.code(), Code::FailedPrecondition | Code::Unknown), "{error:?}");
        world.ctr("tasks rm --force one")?;
        world.ctr("containers rm one")?;
        Ok(())
    });
}

/// The bundle is the daemon's: it goes away below a task.
#[test]
fn a_bundle_that_is_gone() {
    check(options(), |world| {
        world.ctr(&format!("run -d {IMAGE} one sleep 1000"))?;
        let bundle =
            world.state().join("io.containerd.runtime.v2.task").join(world.namespace()).join("one");
        ensure!(bundle.is_dir(), "no {}", bundle.display());
        world.kill_daemon()?;
        let config = bundle.join("config.json");
        fs::remove_file(&config).with_context(|| config.display().to_string())?;
        world.start()?;
        // The daemon answers whatever is in the folder, and the container can be got rid of.
        world.ctr("tasks ls")?;
        let _ = world.try_ctr("tasks kill -s KILL one")?;
        e2e::wait::until("the task to go", || {
            let _ = world.try_ctr("tasks rm --force one")?;
            ensure!(Table::parse(&world.ctr("tasks ls")?)?.rows.is_empty());
            Ok(())
        })?;
        world.ctr("containers rm one")?;
        Ok(())
    });
}

#[test]
fn a_bundle_of_nobody() {
    check(options(), |world| {
        world.stop_daemon()?;
        let folder = world.state().join("io.containerd.runtime.v2.task").join(world.namespace());
        fs::create_dir_all(folder.join("stray"))?;
        fs::create_dir_all(folder.join("with-config"))?;
        fs::write(folder.join("with-config/config.json"), "{}")?;
        world.start()?;
        ensure!(world.ctr("tasks ls -q")?.is_empty());
        Ok(())
    });
}

#[test]
fn snapshots_and_images_that_cannot_be() {
    check(options(), |world| {
        let client = world.client()?;
        // Keeps them from the collector.
        let labels = || [("containerd.io/gc.root".to_owned(), "test".to_owned())].into();
        let prepare = |snapshotter: &str, key: &str, parent: &str| {
            let request = snapshots::PrepareSnapshotRequest {
                snapshotter: snapshotter.into(),
                key: key.into(),
                parent: parent.into(),
                labels: labels(),
            };
            client.block_on(client.snapshots().prepare(client.request(request)))
        };
        refused(
            prepare("nothing", "a", ""),
            Code::InvalidArgument,
            "snapshotter not loaded: nothing",
        );
        refused(prepare("overlayfs", "a", "no-parent"), Code::NotFound, "no-parent");
        prepare("overlayfs", "a", "")?;
        refused(prepare("overlayfs", "a", ""), Code::AlreadyExists, "already exists");
        let commit = |name: &str, key: &str| {
            let request = snapshots::CommitSnapshotRequest {
                snapshotter: "overlayfs".into(),
                name: name.into(),
                key: key.into(),
                labels: labels(),
                ..Default::default()
            };
            client.block_on(client.snapshots().commit(client.request(request)))
        };
        refused(commit("b", "nothing"), Code::NotFound, "nothing");
        commit("b", "a")?;
        refused(commit("c", "b"), Code::FailedPrecondition, "");
        refused(prepare("overlayfs", "b", ""), Code::AlreadyExists, "already exists");
        let remove = |key: &str| {
            let request = snapshots::RemoveSnapshotRequest {
                snapshotter: "overlayfs".into(),
                key: key.into(),
            };
            client.block_on(client.snapshots().remove(client.request(request)))
        };
        refused(remove("nothing"), Code::NotFound, "nothing");
        remove("b")?;

        let image = |name: &str, digest: &str| {
            let target = api_shim::types::Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                digest: digest.into(),
                size: 5,
                ..Default::default()
            };
            let image =
                images::Image { name: name.into(), target: Some(target), ..Default::default() };
            let request = images::CreateImageRequest { image: Some(image), ..Default::default() };
            client.block_on(client.images().create(client.request(request)))
        };
        let digest = image::digest(b"12345");
        refused(image("", &digest), Code::InvalidArgument, "");
        refused(image("x", "nonsense"), Code::InvalidArgument, "");
        refused(image("x", "sha256:12"), Code::InvalidArgument, "");
        refused(image(IMAGE, &digest), Code::AlreadyExists, IMAGE);
        let update = images::UpdateImageRequest {
            image: Some(images::Image {
                name: "missing".into(),
                target: Some(api_shim::types::Descriptor {
                    media_type: "x".into(),
                    digest,
                    size: 5,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        refused(
            client.block_on(client.images().update(client.request(update))),
            Code::NotFound,
            "missing",
        );
        ensure!(world.ctr("images ls -q")?.trim() == IMAGE);
        Ok(())
    });
}

#[test]
fn names_and_labels() {
    check_empty(options(), |world| {
        let client = world.client()?;
        let namespace = |name: &str, value: &str| {
            let namespace = namespaces::Namespace {
                name: name.into(),
                labels: [("key".to_owned(), value.to_owned())].into_iter().collect(),
            };
            let request = namespaces::CreateNamespaceRequest { namespace: Some(namespace) };
            client.block_on(client.namespaces().create(client.request(request)))
        };
        for name in ["", "-a", "a/b", "a..b", "a_", "../x", "a\n"] {
            refused(namespace(name, ""), Code::InvalidArgument, "");
        }
        refused(
            namespace(&"n".repeat(77), ""),
            Code::InvalidArgument,
            "greater than maximum length",
        );
        // Key and value together may have 4096 bytes.
        refused(
            namespace("labelled", &"v".repeat(4094)),
            Code::InvalidArgument,
            "greater than maximum size",
        );
        namespace("labelled", &"v".repeat(4093))?;
        refused(namespace("labelled", ""), Code::AlreadyExists, "already exists");

        let record = |id: &str, value: &str| containers::CreateContainerRequest {
            container: Some(containers::Container {
                id: id.into(),
                labels: [("key".to_owned(), value.to_owned())].into_iter().collect(),
                runtime: Some(containers::container::Runtime {
                    name: "io.containerd.runc.v2".into(),
                    options: None,
                }),
                spec: Some(prost_types::Any { type_url: "x".into(), value: b"{}".to_vec() }),
                ..Default::default()
            }),
        };
        let create = |request: containers::CreateContainerRequest| {
            client.block_on(client.containers().create(client.request(request)))
        };
        for id in ["", "-a", "a/b", "../../etc", "a b", "ä"] {
            refused(create(record(id, "")), Code::InvalidArgument, "");
        }
        refused(create(record(&"i".repeat(77), "")), Code::InvalidArgument, "");
        refused(
            create(record("one", &"v".repeat(4094))),
            Code::InvalidArgument,
            "greater than maximum size",
        );
        let mut without = record("one", "");
        without.container.iter_mut().for_each(|container| container.runtime = None);
        refused(create(without), Code::InvalidArgument, "");

        // No namespace, or one that cannot be.
        let list = || containers::ListContainersRequest::default();
        let none = client.block_on(client.containers().list(tonic::Request::new(list())));
        refused(none, Code::FailedPrecondition, "namespace is required");
        let wrong = client.block_on(client.containers().list(e2e::client::request("a/b", list())));
        refused(wrong, Code::InvalidArgument, "");
        let filter = containers::ListContainersRequest { filters: vec!["id==\"".into()] };
        refused(
            client.block_on(client.containers().list(client.request(filter))),
            Code::InvalidArgument,
            "",
        );

        let lease = |id: &str| {
            let request = leases::CreateRequest { id: id.into(), ..Default::default() };
            client.block_on(client.leases().create(client.request(request)))
        };
        lease("mine")?;
        refused(lease("mine"), Code::AlreadyExists, "already exists");
        ensure!(world.ctr("containers ls -q")?.is_empty());
        Ok(())
    });
}

/// One message of a content write.
fn write(
    action: content::WriteAction,
    reference: &str,
    offset: i64,
    data: &'static [u8],
) -> content::WriteContentRequest {
    content::WriteContentRequest {
        action: action.into(),
        r#ref: reference.into(),
        offset,
        data: data.into(),
        ..Default::default()
    }
}

/// The last answer to these messages.
fn send(
    client: &Client,
    messages: Vec<content::WriteContentRequest>,
) -> Result<content::WriteContentResponse, Status> {
    client.block_on(async {
        let stream = tokio_stream::iter(messages);
        let mut answers = client.content().write(client.request(stream)).await?.into_inner();
        let mut last = content::WriteContentResponse::default();
        while let Some(answer) = answers.message().await? {
            last = answer;
        }
        Ok(last)
    })
}

#[test]
fn content_that_is_not_what_it_says() {
    use content::WriteAction::{Commit, Stat, Write};
    check_empty(options(), |world| {
        let client = world.client()?;
        let mut commit = write(Commit, "a", 0, b"");
        commit.expected = image::digest(b"other");
        refused(
            send(
                &client,
                vec![
                    write(Write, "a", 0, b"bytes"),
                    content::WriteContentRequest { offset: 5, ..commit.clone() },
                ],
            ),
            Code::FailedPrecondition,
            "unexpected commit digest",
        );
        let mut sized = write(Commit, "b", 5, b"");
        sized.total = 7;
        refused(
            send(&client, vec![write(Write, "b", 0, b"bytes"), sized]),
            Code::FailedPrecondition,
            "size",
        );
        refused(send(&client, vec![write(Write, "", 0, b"bytes")]), Code::InvalidArgument, "");
        if world.is_ours() {
            // containerd looks at it in the commit alone.
            let mut nonsense = write(Stat, "c", 0, b"");
            nonsense.expected = "md5:123".into();
            refused(send(&client, vec![nonsense]), Code::InvalidArgument, "");
        }
        refused(send(&client, vec![write(Write, "d", 9, b"bytes")]), Code::OutOfRange, "");
        // The right digest, and the same again.
        let right = || {
            let mut commit = write(Commit, "e", 5, b"");
            commit.expected = image::digest(b"bytes");
            // Keeps it from the collector.
            commit.labels.insert("containerd.io/gc.root".into(), "test".into());
            vec![write(Write, "e", 0, b"bytes"), commit]
        };
        let answer = send(&client, right())?;
        ensure!(answer.digest == image::digest(b"bytes"), "{answer:?}");
        let mut again = write(Stat, "f", 0, b"");
        again.expected = image::digest(b"bytes");
        refused(send(&client, vec![again]), Code::AlreadyExists, "already exists");
        // Only what was committed is there.
        ensure!(world.ctr("content ls -q")?.trim() == image::digest(b"bytes"));
        let read = |offset: i64| {
            client.block_on(async {
                let request = content::ReadContentRequest {
                    digest: image::digest(b"bytes"),
                    offset,
                    size: 0,
                };
                let mut answers =
                    client.content().read(client.request(request)).await?.into_inner();
                let mut bytes = Vec::new();
                while let Some(answer) = answers.message().await? {
                    bytes.extend_from_slice(&answer.data);
                }
                Ok::<_, Status>(bytes)
            })
        };
        ensure!(read(2)? == b"tes");
        refused(read(6), Code::OutOfRange, "");
        for reference in ["a", "b", "d"] {
            let request = content::AbortRequest { r#ref: reference.into() };
            let _ = client.block_on(client.content().abort(client.request(request)));
        }
        ensure!(
            Table::parse(&world.ctr("content active")?)?.rows.is_empty(),
            "{}",
            world.ctr("content active")?
        );
        Ok(())
    });
}

/// Imports an archive that cannot be imported; nothing of it stays.
fn import_fails(world: &World, archive: &std::path::Path, name: &str) -> Result<String> {
    let error = match world.options().daemon {
        Maker::Bookworm => {
            world.ctr_fails(&format!("images import --local {}", archive.display()))?
        }
        _ => world.ctr_fails(&format!("images import {}", archive.display()))?,
    };
    if world.is_ours() {
        let names = world.ctr("images ls -q")?;
        ensure!(!names.contains(name), "the image is listed: {names}");
        let snapshots = Table::parse(&world.ctr("snapshots ls")?)?;
        ensure!(!snapshots.rows.iter().any(|row| row[2] == "Active"), "{snapshots:?}");
    }
    Ok(error)
}

#[test]
fn archives_that_are_broken() {
    check_empty(options(), |world| {
        let small = fs::read(image::small()?)?;
        let file = |name: &str| world.path(&format!("files/{name}.tar"));
        fs::write(file("noise"), [7; 5000])?;
        import_fails(world, &file("noise"), IMAGE)?;
        fs::write(file("cut"), &small[..small.len() / 2])?;
        import_fails(world, &file("cut"), IMAGE)?;
        fs::write(file("empty"), [])?;
        import_fails(world, &file("empty"), IMAGE)?;

        // A blob whose bytes are not those of its name.
        let mut builder = Builder::new("docker.io/library/bad:1", image::small_layers()?);
        builder.spoil = Some(|files| {
            let layer = files.iter_mut().max_by_key(|(_, bytes)| bytes.len());
            if let Some((_, bytes)) = layer {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x55;
            }
        });
        builder.write(&file("digest"), Format::Oci)?;
        let error = import_fails(world, &file("digest"), "bad")?;
        ensure!(error.contains("digest") || error.contains("commit"), "{error}");

        // A blob that is missing.
        builder.spoil = Some(|files| {
            let layer =
                files.iter().max_by_key(|(_, bytes)| bytes.len()).map(|(name, _)| name.clone());
            layer.and_then(|name| files.remove(&name));
        });
        builder.write(&file("missing"), Format::Oci)?;
        import_fails(world, &file("missing"), "bad")?;

        // An index that is not JSON.
        builder.spoil = Some(|files| {
            files.insert("index.json".to_owned(), b"{\"manifests\": [".to_vec());
        });
        builder.write(&file("json"), Format::Oci)?;
        import_fails(world, &file("json"), "bad")?;
        if world.is_ours() {
            // containerd 1.6 keeps the record of an image that is not whole.
            ensure!(world.ctr("images ls -q")?.is_empty());
        }
        // The daemon is well.
        world.import(&image::small()?)?;
        ensure!(world.ctr(&format!("run --rm {IMAGE} one /hello"))? == "hello from the image\n");
        Ok(())
    });
}

#[test]
fn layers_that_climb_out() {
    check_empty(options(), |world| {
        let outside = world.path("files/outside");
        fs::create_dir(&outside)?;
        let place = outside.display().to_string();
        let climbing: Vec<(&str, Vec<Entry>)> = vec![
            (
                "dots",
                vec![Entry::file(&format!("../../../../../../../..{place}/dots"), 0o644, "x")],
            ),
            ("absolute", vec![Entry::file(&format!("{place}/absolute"), 0o644, "x")]),
            ("link", vec![Entry::link("out", &place), Entry::file("out/link", 0o644, "x")]),
            (
                "climbing link",
                vec![
                    Entry::link("up", "../../../../../../../../.."),
                    Entry::file(&format!("up{place}/climbing"), 0o644, "x"),
                ],
            ),
            (
                "hard link",
                vec![Entry::hard_link("hard", "../../../../../../../../../etc/hostname")],
            ),
            (
                "hard link by link",
                vec![Entry::link("out", "/etc"), Entry::hard_link("hard", "out/hostname")],
            ),
            (
                "whiteout",
                vec![Entry::file(
                    &format!("../../../../../../../../..{place}/.wh.kept"),
                    0o644,
                    "",
                )],
            ),
            (
                "whiteout by link",
                vec![Entry::link("out", &place), Entry::file("out/.wh.kept", 0o644, "")],
            ),
            (
                "opaque by link",
                vec![Entry::link("out", &place), Entry::file("out/.wh..wh..opq", 0o644, "")],
            ),
            (
                "odd whiteout",
                vec![Entry::file(".wh..", 0o644, ""), Entry::file("a/.wh...", 0o644, "")],
            ),
        ];
        fs::write(outside.join("kept"), "kept")?;
        let image_size = image::small_layers()?;
        for (what, entries) in climbing {
            let mut layers = image_size.clone();
            layers.push(Layer::gzip(entries));
            let archive = world.path("files/climbing.tar");
            Builder::new("docker.io/library/climbing:1", layers).write(&archive, Format::Oci)?;
            let local = if world.options().daemon == Maker::Bookworm { "--local" } else { "" };
            // Refused, or kept inside of the image's own root: both are right.
            let output = world.try_ctr(&format!("images import {local} {}", archive.display()))?;
            let left: Vec<_> =
                fs::read_dir(&outside)?.flatten().map(|entry| entry.file_name()).collect();
            ensure!(left == ["kept"], "{what} wrote outside: {left:?}\n{output}");
            if output.status == 0 && !what.contains("whiteout") && !what.contains("opaque") {
                let hard = world.ctr(
                    "run --rm docker.io/library/climbing:1 one sh -c 'cat /hard 2>/dev/null; true'",
                )?;
                let host = fs::read_to_string("/etc/hostname").unwrap_or_default();
                ensure!(
                    host.is_empty() || !hard.contains(host.trim()),
                    "{what}: the host's file is in the image"
                );
            }
            world.try_ctr("images rm --sync docker.io/library/climbing:1")?;
        }
        Ok(())
    });
}

/// A fifo for standard input that nobody ever opens must not hang the start, nor later calls.
#[test]
fn an_input_that_nobody_opens() {
    check(options(), |world| {
        if !world.is_ours() {
            skip!("containerd's own shim hangs in create until the caller gives up");
        }
        container(world, "one")?;
        let client = world.client()?;
        let request = tasks::CreateTaskRequest {
            container_id: "one".into(),
            rootfs: mounts(&client, "one")?,
            stdin: world.fifo("stdin")?,
            ..Default::default()
        };
        client.block_on(client.tasks().create(client.request(request)))?;
        let start = tasks::StartRequest { container_id: "one".into(), exec_id: String::new() };
        client.block_on(client.tasks().start(client.request(start)))?;
        ensure!(Table::parse(&world.ctr("tasks ls")?)?.cell("one", "STATUS")? == "RUNNING");
        let spec = serde_json::json!({"args": ["cat"], "cwd": "/", "env": ["PATH=/bin"]});
        let exec = tasks::ExecProcessRequest {
            container_id: "one".into(),
            exec_id: "e".into(),
            stdin: world.fifo("exec-stdin")?,
            spec: Some(prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: spec.to_string().into_bytes(),
            }),
            ..Default::default()
        };
        client.block_on(client.tasks().exec(client.request(exec)))?;
        let start = tasks::StartRequest { container_id: "one".into(), exec_id: "e".into() };
        client.block_on(client.tasks().start(client.request(start)))?;
        world.ctr("tasks kill -s KILL one")?;
        let wait = tasks::WaitRequest { container_id: "one".into(), exec_id: String::new() };
        let exit = client.block_on(client.tasks().wait(client.request(wait)))?.into_inner();
        ensure!(exit.exit_status == 137, "{exit:?}");
        let delete = tasks::DeleteTaskRequest { container_id: "one".into() };
        client.block_on(client.tasks().delete(client.request(delete)))?;
        world.ctr("containers rm one")?;
        Ok(())
    });
}
