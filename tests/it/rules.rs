//! Rules of the services that have no store: events, plugins, figures of tasks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api_grpc::{events, images, introspection, snapshots, tasks};
use api_shim::types::Envelope;
use e2e::client::{Client, request};
use e2e::world::{IMAGE, Options, check, check_empty};
use e2e::{Maker, World, wait};
use prost_types::{Any, Timestamp};
use tonic::{Code, Status, Streaming};

/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn options() -> Result<Options> {
    Options::new(Maker::Forky)
}

/// An event of a type that every daemon knows.
fn event(id: &str) -> Option<Any> {
    // TaskOOM, of which the container's id is field 1.
    let value = [&[0x0a, u8::try_from(id.len()).unwrap_or(0)], id.as_bytes()].concat();
    Some(Any { type_url: "containerd.events.TaskOOM".to_owned(), value })
}

fn publish(client: &Client, topic: &str, id: &str) -> Result<(), Status> {
    let message = events::PublishRequest { topic: topic.to_owned(), event: event(id) };
    client.block_on(client.events().publish(client.request(message))).map(|_| ())
}

fn forward(client: &Client, envelope: Envelope) -> Result<(), Status> {
    let message = events::ForwardRequest { envelope: Some(envelope) };
    client.block_on(client.events().forward(client.request(message))).map(|_| ())
}

fn subscribe(client: &Client, filters: &[&str]) -> Result<Streaming<Envelope>> {
    let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
    let message = events::SubscribeRequest { filters };
    Ok(client.block_on(client.events().subscribe(client.request(message)))?.into_inner())
}

fn next(client: &Client, events: &mut Streaming<Envelope>) -> Result<Envelope> {
    let next = async { tokio::time::timeout(PATIENCE, events.message()).await };
    client.block_on(next)??.context("the end of the events")
}

/// Publishes on `topic` until the subscription hears of it: it is there when its first event is. Gives
/// that event.
fn begin(
    world: &World,
    client: &Client,
    heard: &mut Streaming<Envelope>,
    topic: &str,
) -> Result<Envelope> {
    let other = world.client()?;
    wait::until("the subscription", || {
        publish(&other, topic, "x")?;
        let first = client.block_on(async {
            tokio::time::timeout(Duration::from_millis(100), heard.message()).await
        });
        first.context("nothing heard")??.context("the end of the events")
    })
}

#[track_caller]
fn refused(answer: Result<(), Status>) {
    let status = answer.expect_err("the call was not refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

/// Topics begin with `/`, their parts are identifiers; the server gives time and namespace.
#[test]
fn publish_stamps_time_and_namespace_and_checks_the_topic() {
    check_empty(options(), |world| {
        let client = world.client()?;
        for topic in ["", "topic", "/", "//", "/a//b", "/a b", "/-a", "/a/"] {
            refused(publish(&client, topic, "x"));
        }
        let mut heard = subscribe(&client, &[r#"topic~="^/testing""#])?;
        begin(world, &client, &mut heard, "/testing/first")?;
        publish(&client, "/testing/topic-1.a_b", "y")?;
        loop {
            let envelope = next(&client, &mut heard)?;
            ensure!(envelope.namespace == world.namespace(), "{envelope:?}");
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            let told = envelope.timestamp.context("no time")?.seconds;
            ensure!((told - i64::try_from(now.as_secs())?).abs() < 300, "{envelope:?}");
            if envelope.topic == "/testing/topic-1.a_b" {
                ensure!(envelope.event == event("y"), "{envelope:?}");
                return Ok(());
            }
        }
    });
}

/// What is forwarded keeps the namespace and the time that the caller says, and must have them.
#[test]
fn forward_needs_time_and_namespace_and_keeps_them() {
    check_empty(options(), |world| {
        let client = world.client()?;
        let good = || Envelope {
            timestamp: Some(Timestamp { seconds: 1_000_000, nanos: 5 }),
            namespace: "elsewhere".to_owned(),
            topic: "/testing/forwarded".to_owned(),
            event: event("x"),
        };
        refused(forward(&client, Envelope { timestamp: None, ..good() }));
        refused(forward(&client, Envelope { namespace: String::new(), ..good() }));
        refused(forward(&client, Envelope { namespace: "a b".to_owned(), ..good() }));
        refused(forward(&client, Envelope { topic: "testing".to_owned(), ..good() }));
        let mut heard = subscribe(&client, &[r#"topic=="/testing/forwarded""#])?;
        let other = world.client()?;
        let mut told = None;
        wait::until("the event", || {
            forward(&other, good())?;
            told = client.block_on(async {
                tokio::time::timeout(Duration::from_millis(100), heard.message()).await.ok()
            });
            ensure!(told.is_some(), "nothing heard");
            Ok(())
        })?;
        let told = told.context("nothing")??.context("the end of the events")?;
        ensure!(told == good(), "{told:?}");
        Ok(())
    });
}

/// Any of the filters; `event.<field>`; nothing of what was told before.
#[test]
fn subscribe_takes_any_of_its_filters_and_replays_nothing() {
    check_empty(options(), |world| {
        let client = world.client()?;
        publish(&client, "/testing/before", "x")?;
        let filters = [
            r#"topic=="/testing/one""#,
            "event.container_id==wanted",
            "namespace==elsewhere",
            r#"topic=="/testing/before""#,
            r#"topic=="/testing/begin""#,
        ];
        let mut heard = subscribe(&client, &filters)?;
        let first = begin(world, &client, &mut heard, "/testing/begin")?;
        ensure!(
            first.topic == "/testing/begin",
            "what was told before the subscription: {first:?}"
        );
        publish(&client, "/testing/two", "x")?;
        publish(&client, "/testing/two", "wanted")?;
        publish(&client, "/testing/one", "y")?;
        let elsewhere =
            events::PublishRequest { topic: "/testing/z".to_owned(), event: event("z") };
        client.block_on(client.events().publish(request("elsewhere", elsewhere)))?;
        let mut told = Vec::new();
        while told.len() < 3 {
            let envelope = next(&client, &mut heard)?;
            if envelope.topic != "/testing/begin" {
                told.push(envelope);
            }
        }
        let seen: Vec<_> = told.iter().map(|envelope| envelope.event.clone()).collect();
        ensure!(seen == [event("wanted"), event("y"), event("z")], "{told:?}");
        ensure!(subscribe(&client, &["topic=="]).is_err(), "a filter that is none");
        Ok(())
    });
}

/// Plugins are found by `type` and `id`.
#[test]
fn filters_of_plugins() {
    check_empty(options(), |world| {
        let client = world.client()?;
        let found = |filters: &[&str]| -> Result<Vec<String>> {
            let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
            let message = introspection::PluginsRequest { filters };
            let answer =
                client.block_on(client.introspection().plugins(client.request(message)))?;
            let mut ids: Vec<_> =
                answer.into_inner().plugins.into_iter().map(|plugin| plugin.id).collect();
            ids.sort();
            Ok(ids)
        };
        ensure!(found(&["type==io.containerd.snapshotter.v1,id==native"])? == ["native"]);
        ensure!(found(&["id==native", "id==overlayfs"])? == ["native", "overlayfs"]);
        let snapshotters = found(&["type==io.containerd.snapshotter.v1"])?;
        ensure!(snapshotters.contains(&"overlayfs".to_owned()), "{snapshotters:?}");
        ensure!(found(&["type~=snapshotter"])? == snapshotters);
        ensure!(found(&["id==nothing"])?.is_empty());
        ensure!(found(&["nothing==x"])?.is_empty());
        ensure!(found(&["id=="]).is_err(), "a filter that is none");
        Ok(())
    });
}

/// Figures of tasks are found by `id` and `namespace`; by the runtime they never are.
#[test]
fn filters_of_metrics() {
    check(options(), |world| {
        for id in ["one", "two"] {
            world.ctr(&format!("run -d {IMAGE} {id} sleep 1000"))?;
        }
        let client = world.client()?;
        let found = |filter: &str| -> Result<String> {
            let message = tasks::MetricsRequest { filters: vec![filter.to_owned()] };
            let answer = client.block_on(client.tasks().metrics(client.request(message)))?;
            let mut ids: Vec<_> =
                answer.into_inner().metrics.into_iter().map(|metric| metric.id).collect();
            ids.sort();
            Ok(ids.join(" "))
        };
        ensure!(found("id==one")? == "one");
        ensure!(found("id!=one")? == "two");
        ensure!(found(&format!("namespace=={}", world.namespace()))? == "one two");
        ensure!(found("namespace==elsewhere")?.is_empty());
        ensure!(found("runtime==io.containerd.runc.v2")?.is_empty());
        let message = tasks::MetricsRequest { filters: vec!["id==\"".to_owned()] };
        let answer = client.block_on(client.tasks().metrics(client.request(message)));
        ensure!(answer.is_err(), "a filter that is none");
        for id in ["one", "two"] {
            world.remove(id)?;
        }
        Ok(())
    });
}

/// A collection tells of snapshots and images that it removes; of content it does not, which is
/// told of when a client deletes it.
#[test]
fn a_collection_tells_of_images_and_snapshots_and_not_of_content() {
    check_empty(options(), |world| {
        let client = world.client()?;
        let mut heard = subscribe(
            &client,
            &[
                r#"topic~="^/(images|snapshot|content)/(delete|remove)$""#,
                r#"topic=="/testing/begin""#,
            ],
        )?;
        begin(world, &client, &mut heard, "/testing/begin")?;
        // Content that nothing needs, and some that a client deletes.
        world.ctr_with_input("content ingest garbage", Some(b"garbage"))?.ok()?;
        let digest = world.ingest("deleted", b"deleted")?;
        world.ctr(&format!("content rm {digest}"))?;
        let expired = ("containerd.io/gc.expire".to_owned(), "2000-01-01T00:00:00Z".to_owned());
        let image = images::Image {
            name: "expired".to_owned(),
            labels: [expired].into(),
            target: Some(api_shim::types::Descriptor {
                media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
                digest: digest.clone(),
                size: 7,
                ..api_shim::types::Descriptor::default()
            }),
            ..images::Image::default()
        };
        let message = images::CreateImageRequest { image: Some(image), source_date_epoch: None };
        client.block_on(client.images().create(client.request(message)))?;
        let message = snapshots::PrepareSnapshotRequest {
            snapshotter: "native".to_owned(),
            key: "unneeded".to_owned(),
            ..snapshots::PrepareSnapshotRequest::default()
        };
        client.block_on(client.snapshots().prepare(client.request(message)))?;
        world.ctr("leases create --id trigger")?;
        world.ctr("leases rm --sync trigger")?;
        let mut told = Vec::new();
        while !["/images/delete", "/snapshot/remove"]
            .iter()
            .all(|topic| told.iter().any(|told| told == topic))
        {
            told.push(next(&client, &mut heard)?.topic);
        }
        publish(&client, "/testing/begin", "x")?;
        loop {
            told.push(next(&client, &mut heard)?.topic);
            if told.last().is_some_and(|topic| topic == "/testing/begin") {
                break;
            }
        }
        let of_content = told.iter().filter(|topic| *topic == "/content/delete").count();
        ensure!(of_content == 1, "{told:?}");
        Ok(())
    });
}
