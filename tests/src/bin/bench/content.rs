//! Content: one large blob, and many small ones.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api_grpc::content::content_client::ContentClient;
use api_grpc::content::{DeleteContentRequest, WriteAction, WriteContentRequest};
use api_grpc::{LEASE_HEADER, MAX_MESSAGE_SIZE};
use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::api::Lane;
use crate::clients::{Clients, MANY};
use crate::drain;
use crate::report::{Promise, Row, Unit};
use crate::rounds;
use crate::side::Plan;

/// Bytes of the large blob.
const LARGE: usize = 256 << 20;

/// Bytes of one frame of it; as containerd's client.
const FRAME: usize = 1 << 20;

/// Bytes of a small blob: a manifest's.
const SMALL: usize = 4 << 10;

/// How long small blobs are written in one round.
const SPAN: Duration = Duration::from_millis(1500);

/// One blob of 256 MiB, written frame by frame and read again.
///
/// # Errors
///
/// A call fails.
pub fn large(plan: &Plan) -> Result<Vec<Row>> {
    let mut sides = Clients::of(plan, false, 1)?;
    let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, one_large)?;
    let row = |what: &str, at| Row {
        what: format!("a blob of {} MiB, {what}", LARGE >> 20),
        unit: Unit::BytesPerSecond,
        values: plan.medians(&samples, at),
        promise: Promise::AtLeast(1.5),
    };
    Ok(vec![row("written", 0), row("read", 1)])
}

/// Blobs of 4 KiB, each by a call of its own, where a sync is free and where it costs.
///
/// # Errors
///
/// A call fails, or strace is not there.
pub fn small(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (slow, place, promise) in [
        (false, "sync is free (tmpfs)", Promise::None),
        (true, "a sync costs 1 ms more", Promise::AtLeast(4.0)),
    ] {
        let mut sides = Clients::of(plan, false, MANY)?;
        if slow {
            sides = sides.into_iter().map(Clients::slowed).collect::<Result<_>>()?;
        }
        let samples = rounds::interleave(plan, plan.rounds(7, 2), &mut sides, many_small)?;
        rows.push(Row {
            what: format!("blobs of {} KiB, {MANY} clients, {place}", SMALL >> 10),
            unit: Unit::PerSecond,
            values: plan.medians(&samples, 0),
            promise,
        });
    }
    Ok(rows)
}

/// The client of the content service.
pub fn client(lane: &Lane) -> ContentClient<Channel> {
    ContentClient::new(lane.channel())
        .max_decoding_message_size(MAX_MESSAGE_SIZE)
        .max_encoding_message_size(MAX_MESSAGE_SIZE)
}

/// Makes a blob of `data` in one frame, under `lease` if there is one.
///
/// # Errors
///
/// The daemon's.
pub async fn put(lane: &Lane, lease: Option<&str>, name: &str, data: Bytes) -> Result<()> {
    let frame = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: format!("ref-{name}"),
        data,
        ..WriteContentRequest::default()
    };
    let mut request = lane.request(tokio_stream::iter([frame]));
    if let Some(lease) = lease {
        request.metadata_mut().insert(LEASE_HEADER, lease.parse()?);
    }
    let mut answers = client(lane).write(request).await.context("Content.Write")?.into_inner();
    while answers.message().await.context("Content.Write")?.is_some() {}
    Ok(())
}

/// Writes a blob that nobody has, reads it and deletes it.
fn one_large(clients: &mut Clients) -> Result<Vec<f64>> {
    let round = clients.numbers(1);
    let lane = &clients.lanes[0];
    let frame = frame(round)?;
    clients.block_on(async {
        let lease = format!("large-{round}");
        lane.create_lease(&lease).await?;
        let begin = Instant::now();
        let digest = write_frames(lane, &lease, &frame).await?;
        let written = begin.elapsed().as_secs_f64();

        let begin = Instant::now();
        let bytes = drain::read(lane, &digest).await?;
        let read = begin.elapsed().as_secs_f64();
        ensure!(bytes == LARGE, "{bytes} bytes of {LARGE}");

        let message = DeleteContentRequest { digest };
        client(lane).delete(lane.request(message)).await.context("Content.Delete")?;
        lane.delete_lease(&lease).await?;
        #[expect(clippy::cast_precision_loss, reason = "a power of two")]
        let bytes = LARGE as f64;
        Ok(vec![bytes / written, bytes / read])
    })
}

/// Small blobs per second of all clients, each of which waits for every answer.
fn many_small(clients: &mut Clients) -> Result<Vec<f64>> {
    let round = clients.numbers(1);
    let lease = format!("small-{round}");
    clients.block_on(clients.lanes[0].create_lease(&lease))?;
    let begin = Instant::now();
    let blobs: Vec<u32> = clients.at_once(MANY, |number, lane| {
        let lease = lease.clone();
        async move {
            let mut blobs = 0;
            while begin.elapsed() < SPAN {
                let name = format!("{round}-{number}-{blobs}");
                let mut data = vec![b' '; SMALL];
                data[..name.len()].copy_from_slice(name.as_bytes());
                put(&lane, Some(&lease), &name, data.into()).await?;
                blobs += 1;
            }
            Ok(blobs)
        }
    })?;
    let taken = begin.elapsed().as_secs_f64();
    // What was written goes before the next round, so that all rounds are alike.
    clients.block_on(clients.lanes[0].delete_lease_sync(&lease))?;
    Ok(vec![f64::from(blobs.iter().sum::<u32>()) / taken])
}

/// One frame, which is no other round's.
fn frame(round: usize) -> Result<Vec<u8>> {
    let mut frame = vec![0; FRAME];
    let mut state = u32::try_from(round)?.wrapping_mul(0x9e37_79b9) | 1;
    for byte in &mut frame {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = state.to_le_bytes()[1];
    }
    Ok(frame)
}

/// Writes a blob as containerd's client does: each frame is answered before the next one is sent.
async fn write_frames(lane: &Lane, lease: &str, frame: &[u8]) -> Result<String> {
    let total = i64::try_from(LARGE)?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut message = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: lease.to_owned(),
        total,
        ..WriteContentRequest::default()
    };
    sender.send(message.clone()).await?;
    let mut request = lane.request(ReceiverStream::new(receiver));
    request.metadata_mut().insert(LEASE_HEADER, lease.parse()?);
    let mut answers = client(lane).write(request).await.context("Content.Write")?.into_inner();
    let mut answer = answers.message().await.context("Content.Write")?.context("no answer")?;
    message.action = WriteAction::Write.into();
    let mut sent = 0;
    while sent < LARGE {
        message.offset = i64::try_from(sent)?;
        let mut data = frame.to_vec();
        data[..8].copy_from_slice(&sent.to_le_bytes());
        message.data = data.into();
        sender.send(message.clone()).await?;
        answer = answers.message().await.context("Content.Write")?.context("no answer")?;
        sent += FRAME;
    }
    message = WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset: total,
        total,
        expected: answer.digest,
        ..WriteContentRequest::default()
    };
    sender.send(message).await?;
    let committed = answers.message().await.context("Content.Write")?.context("no answer")?;
    Ok(committed.digest)
}
