//! The API of 0.2 beside the services of today, in the same daemon: one engine, so one speed.

use std::time::Instant;

use anyhow::{Context, Result};
use api_grpc::containers::Container;
use api_grpc::containers::container::Runtime;
use api_grpc::v0;
use api_shim::typeurl;
use e2e::Maker;
use e2e::v0::{Old, load, until_exit};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;

use crate::api::Lane;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Starts at once.
const STARTS: usize = 16;

/// The most by which the old API may be slower.
const MARGIN: f64 = 1.1;

/// From the call to the first byte that the program writes, by both APIs in turn.
///
/// # Errors
///
/// A container fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let side = plan.side(Maker::Ours, false)?;
    let old = Old::new(&side.world)?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=plan.rounds(9, 2) {
        for api in 0..2 {
            rounds::check()?;
            let at = (round + api) % 2;
            let time = old.block_on(wave(&side.world, &old, round, at == 0))?;
            if plan.samples {
                eprintln!("bench:   {}: {time:.4}", ["0.2", "today"][at]);
            }
            if round > 0 {
                times[at].push(time);
            }
        }
    }
    let [old_api, today] = times.map(|mut times| rounds::middle(&mut times));
    let row = |what: &str, value, promise| Row {
        what: format!("call to first instruction, {STARTS} at once: {what}"),
        unit: Unit::Seconds,
        values: vec![(Maker::Ours, value)],
        promise,
    };
    Ok(vec![
        row("tasks.Create and Start", today, Promise::None),
        row("CreateContainer of 0.2", old_api, Promise::Within(today * MARGIN)),
    ])
}

/// A thousand containers with three execs each, their events in order.
///
/// # Errors
///
/// An exit is lost, double or out of order.
pub fn order(plan: &Plan) -> Result<Vec<Row>> {
    let count = if plan.quick { 100 } else { 1000 };
    let side = plan.side(Maker::Ours, false)?;
    let old = Old::new(&side.world)?;
    let begin = Instant::now();
    old.block_on(load::ordered(&old, count, 20, 3))?;
    #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    Ok(vec![Row {
        what: format!("{count} containers of 0.2 with three execs each, all exits in order"),
        unit: Unit::PerSecond,
        values: vec![(Maker::Ours, rate)],
        promise: Promise::None,
    }])
}

/// Starts at once; gives the mean time of one, in seconds.
async fn wave(world: &e2e::World, old: &Old<'_>, round: usize, old_api: bool) -> Result<f64> {
    let lane = Lane::connect(world).await?;
    let mut client = old.connect().await?;
    let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
    let mut starts = JoinSet::new();
    let mut ids = Vec::new();
    for number in 0..STARTS {
        let id = format!("first-{round}-{number}-{old_api}");
        let output = old.fifo(&id)?;
        let spec = old.spec(&id, &["/bin/echo", "x"]);
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&output)?;
        if old_api {
            let request = v0::CreateContainerRequest {
                id: id.clone(),
                bundle_path: old.bundle_of(&id, &spec)?,
                stdout: output,
                ..v0::CreateContainerRequest::default()
            };
            let mut client = client.clone();
            starts.spawn(async move {
                let begin = Instant::now();
                client.create_container(request).await?;
                first_byte(receiver, begin).await
            });
        } else {
            let container = Container {
                id: id.clone(),
                runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
                spec: Some(typeurl::encode_json(typeurl::SPEC, serde_json::to_vec(&spec)?)),
                ..Container::default()
            };
            lane.create_container(container).await?;
            let (lane, id) = (lane.clone(), id.clone());
            starts.spawn(async move {
                let begin = Instant::now();
                lane.start_in_bundle(&id, &output).await?;
                first_byte(receiver, begin).await
            });
        }
        ids.push(id);
    }
    let mut sum = 0.0;
    while let Some(ended) = starts.join_next().await {
        sum += ended??;
    }
    for id in &ids {
        if !old_api {
            lane.end(id).await?;
        }
    }
    if old_api {
        let mut left = ids;
        while let Some(id) = left.first().cloned() {
            for event in until_exit(&mut events, &id).await? {
                left.retain(|left| event.r#type != "exit" || event.id != *left);
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "sixteen")]
    Ok(sum / STARTS as f64)
}

/// Seconds from `begin` until the program has written.
async fn first_byte(mut output: pipe::Receiver, begin: Instant) -> Result<f64> {
    output.read_u8().await.context("nothing was written")?;
    Ok(begin.elapsed().as_secs_f64())
}
