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

/// What is started: it lives until all have started, so that nobody's end costs somebody's start.
const PROGRAM: &str = "echo x; exec sleep 1000";

/// The most by which the old API may be slower.
const MARGIN: f64 = 1.1;

/// How exactly two rates that are the same can be told apart here.
const NOISE: f64 = 0.95;

/// From the call to the first byte that the program writes, and how many starts there are in a
/// second, by both APIs in turn.
///
/// # Errors
///
/// A container fails.
pub fn measure(plan: &Plan) -> Result<Vec<Row>> {
    let side = plan.side(Maker::Ours, false)?;
    let old = Old::new(&side.world)?;
    let mut waves = [Vec::new(), Vec::new()];
    for round in 0..=plan.rounds(9, 2) {
        for api in 0..2 {
            rounds::check()?;
            let at = (round + api) % 2;
            let wave = old.block_on(wave(&side.world, &old, round, at == 0))?;
            if plan.samples {
                eprintln!("bench:   {}: {wave:.4?}", ["0.2", "today"][at]);
            }
            if round > 0 {
                waves[at].push(wave);
            }
        }
    }
    let [old_api, today] = waves.map(|waves| {
        let mut times: Vec<f64> = waves.iter().map(|wave| wave.mean).collect();
        let mut rates: Vec<f64> = waves.iter().map(|wave| wave.rate).collect();
        Wave { mean: rounds::middle(&mut times), rate: rounds::middle(&mut rates) }
    });
    let row = |what: String, unit, value, promise| Row {
        what,
        unit,
        values: vec![(Maker::Ours, value)],
        promise,
    };
    let time = |what: &str, value, promise| {
        let what = format!("call to first instruction, {STARTS} at once: {what}");
        row(what, Unit::Seconds, value, promise)
    };
    let rate = |what: &str, value, promise| {
        row(format!("starts, {STARTS} at once: {what}"), Unit::PerSecond, value, promise)
    };
    Ok(vec![
        time("Tasks.Create and Start", today.mean, Promise::None),
        time("CreateContainer of 0.2", old_api.mean, Promise::Within(today.mean * MARGIN)),
        rate("Containers.Create, Tasks.Create and Start", today.rate, Promise::None),
        rate("CreateContainer of 0.2", old_api.rate, Promise::NotBelow(today.rate * NOISE)),
    ])
}

/// What starts at once took.
#[derive(Clone, Copy, Debug)]
struct Wave {
    /// The mean time of one, in seconds.
    mean: f64,
    /// How many there are in a second.
    rate: f64,
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

/// Starts at once.
async fn wave(world: &e2e::World, old: &Old<'_>, round: usize, old_api: bool) -> Result<Wave> {
    let lane = Lane::connect(world).await?;
    let mut client = old.connect().await?;
    let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
    let mut starts = JoinSet::new();
    let mut ids = Vec::new();
    let all = Instant::now();
    for number in 0..STARTS {
        let id = format!("first-{round}-{number}-{old_api}");
        let output = old.fifo(&id)?;
        let spec = old.spec(&id, &["/bin/sh", "-c", PROGRAM]);
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
            let (lane, id) = (lane.clone(), id.clone());
            starts.spawn(async move {
                // The record is part of what clients do, but not of the time of a task.
                lane.create_container(container).await?;
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
    let taken = all.elapsed().as_secs_f64();
    for id in &ids {
        if old_api {
            let signal = v0::SignalRequest { id: id.clone(), pid: "init".to_owned(), signal: 9 };
            client.signal(signal).await?;
        } else {
            lane.kill(id).await?;
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
    Ok(Wave { mean: sum / STARTS as f64, rate: STARTS as f64 / taken })
}

/// Seconds from `begin` until the program has written.
async fn first_byte(mut output: pipe::Receiver, begin: Instant) -> Result<f64> {
    output.read_u8().await.context("nothing was written")?;
    Ok(begin.elapsed().as_secs_f64())
}
