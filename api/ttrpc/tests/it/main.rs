//! Client and server against each other, and against broken peers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod service;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api_ttrpc::{
    CallOptions, Client, ListenOptions, MAX_MESSAGE_SIZE, MAX_PENDING, MethodKind, Server, Status,
    bind, code,
};
use service::{NAME, Probe, Text, frame, read_frame, request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

const NONE: CallOptions = CallOptions { timeout: None, metadata: Vec::new() };

fn server(probe: &Arc<Probe>) -> Server {
    Server::new().register(NAME, probe.clone())
}

/// A raw connection to a served probe.
fn raw(probe: &Arc<Probe>) -> (DuplexStream, JoinHandle<std::io::Result<()>>) {
    let (near, far) = duplex(64 << 10);
    let server = server(probe);
    (near, tokio::spawn(async move { server.serve_connection(far, None).await }))
}

fn pair() -> (Client, Arc<Probe>, JoinHandle<std::io::Result<()>>) {
    let probe = Arc::new(Probe::default());
    let (near, serving) = raw(&probe);
    (Client::from_stream(near), probe, serving)
}

async fn call(client: &Client, method: &str, text: &str) -> Result<String, Status> {
    call_with(client, method, text, &NONE).await
}

async fn call_with(
    client: &Client,
    method: &str,
    text: &str,
    options: &CallOptions,
) -> Result<String, Status> {
    client.call(NAME, method, &Text::new(text), options).await.map(|answer: Text| answer.text)
}

#[tokio::test]
async fn an_answer_comes_back_with_what_the_context_said() {
    let (client, _, _) = pair();
    assert_eq!(call(&client, "Echo", "hello").await.unwrap(), "hello");
    assert_eq!(call(&client, "Echo", "").await.unwrap(), "");
    let options = CallOptions::new()
        .timeout(Duration::from_secs(3600))
        .namespace("moby")
        .metadata("a", "1")
        .metadata("a", "2");
    assert_eq!(
        call_with(&client, "Context", "", &options).await.unwrap(),
        "namespace=moby a=1,2 deadline=true peer=None"
    );
    assert_eq!(
        call(&client, "Context", "").await.unwrap(),
        "namespace=- a= deadline=false peer=None"
    );
}

#[tokio::test]
async fn errors_carry_code_message_and_class() {
    let (client, _, _) = pair();
    let status = call(&client, "Fail", "container \"x\"").await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (5, "container \"x\": not found"));
    assert!(base_errors::Error::from(status).is_not_found());

    let status = call(&client, "Nothing", "").await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (12, "method Nothing"));
    let answer: Result<Text, _> = client.call("no.Such", "Echo", &Text::default(), &NONE).await;
    let status = answer.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (12, "service no.Such"));

    let status = call(&client, "Panic", "").await.unwrap_err();
    assert_eq!(status.code, code::INTERNAL);
    assert_eq!(call(&client, "Echo", "still here").await.unwrap(), "still here");
}

/// The probe's `Meet` returns only when as many calls are inside as the text says.
#[tokio::test]
async fn a_hundred_calls_run_at_once() {
    let (client, _, _) = pair();
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Meet", "100").await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "100");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_tells_the_handler() {
    let (client, probe, _) = pair();
    let options = CallOptions::new().timeout(Duration::from_millis(20));
    let status = call_with(&client, "Wait", "", &options).await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (4, "context deadline exceeded"));
    probe.cancelled.acquire().await.unwrap().forget();
    assert_eq!(call(&client, "Echo", "next").await.unwrap(), "next");
}

#[tokio::test]
async fn an_oversize_message_costs_its_call_alone() {
    let (client, probe, _) = pair();
    let large = "x".repeat(MAX_MESSAGE_SIZE);
    let status = call(&client, "Echo", &large).await.unwrap_err();
    assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
    assert!(status.message.contains("exceed maximum message size of 4194304"), "{status}");

    // An answer of five bytes too many; the request with the size is small.
    let status = call(&client, "Large", &(MAX_MESSAGE_SIZE + 5).to_string()).await.unwrap_err();
    assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
    let room = 64;
    let fits = call(&client, "Large", &(MAX_MESSAGE_SIZE - room).to_string()).await.unwrap();
    assert_eq!(fits.len(), MAX_MESSAGE_SIZE - room);
    assert_eq!(call(&client, "Echo", "next").await.unwrap(), "next");

    // A peer that does not check: the server skips the body and goes on.
    let (mut raw, _) = raw(&probe);
    let body = vec![0; MAX_MESSAGE_SIZE + 1];
    raw.write_all(&frame(1, 1, 0, &body)).await.unwrap();
    let (stream_id, _, _, answer) = read_frame(&mut raw).await;
    assert_eq!((stream_id, service::status(&answer).code), (1, code::RESOURCE_EXHAUSTED));
    raw.write_all(&frame(3, 1, 0, &request("Echo", "on"))).await.unwrap();
    assert_eq!(read_frame(&mut raw).await.0, 3);
}

#[tokio::test]
async fn a_server_that_dies_fails_all_pending_calls() {
    let (client, probe, serving) = pair();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Wait", "").await })
    };
    probe.entered.acquire().await.unwrap().forget();
    serving.abort();
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (14, "ttrpc: closed"));
    client.closed().await;
    assert!(client.is_closed());
    assert_eq!(call(&client, "Echo", "").await.unwrap_err().message, "ttrpc: closed");
}

#[tokio::test]
async fn a_caller_that_dies_is_told_to_handlers_which_finish() {
    let (client, probe, serving) = pair();
    let calling = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Work", "").await })
    };
    probe.entered.acquire().await.unwrap().forget();
    client.close();
    assert_eq!(calling.await.unwrap().unwrap_err(), Status::closed());
    probe.cancelled.acquire().await.unwrap().forget();
    assert_eq!(probe.finished.load(Ordering::SeqCst), 0);
    probe.gate.add_permits(1);
    let _ = serving.await.unwrap();
    assert_eq!(probe.finished.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let (client, probe, _) = pair();
    for _ in 0..MAX_PENDING + 10 {
        let dropped = call(&client, "Wait", "");
        let dropped = tokio::time::timeout(Duration::ZERO, dropped).await;
        assert!(dropped.is_err());
        // The server's handlers go on; give them their end.
        probe.gate.add_permits(1);
        tokio::task::yield_now().await;
    }
    assert_eq!(call(&client, "Echo", "room").await.unwrap(), "room");
}

#[tokio::test]
async fn the_number_of_open_calls_is_bounded() {
    let (client, probe, _) = pair();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..MAX_PENDING {
        let client = client.clone();
        waiting.spawn(async move { call(&client, "Wait", "").await });
    }
    for _ in 0..MAX_PENDING {
        probe.entered.acquire().await.unwrap().forget();
    }
    let status = call(&client, "Echo", "").await.unwrap_err();
    assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
    probe.gate.add_permits(MAX_PENDING);
    while let Some(ended) = waiting.join_next().await {
        ended.unwrap().unwrap();
    }
    assert_eq!(call(&client, "Echo", "room").await.unwrap(), "room");
}

#[tokio::test]
async fn streams_go_each_way() {
    let (client, _, _) = pair();
    let none = None::<&Text>;

    let mut sum = client.stream(NAME, "Join", MethodKind::ClientStream, none, &NONE).await.unwrap();
    for word in ["a", "b", "c"] {
        sum.send(&Text::new(word)).await.unwrap();
    }
    sum.close_send().await.unwrap();
    assert_eq!(sum.send(&Text::new("late")).await.unwrap_err().code, code::FAILED_PRECONDITION);
    assert_eq!(sum.receive::<Text>().await.unwrap(), Some(Text::new("abc")));
    assert_eq!(sum.receive::<Text>().await.unwrap(), None);

    let letters = Text::new("xyz");
    let mut split = client
        .stream(NAME, "Split", MethodKind::ServerStream, Some(&letters), &NONE)
        .await
        .unwrap();
    for letter in ["x", "y", "z"] {
        assert_eq!(split.receive::<Text>().await.unwrap(), Some(Text::new(letter)));
    }
    assert_eq!(split.receive::<Text>().await.unwrap(), None);

    let mut both = client.stream(NAME, "Each", MethodKind::BidiStream, none, &NONE).await.unwrap();
    for word in ["one", "two"] {
        both.send(&Text::new(word)).await.unwrap();
        assert_eq!(both.receive::<Text>().await.unwrap(), Some(Text::new(word)));
    }
    both.send(&Text::new("fail")).await.unwrap();
    assert_eq!(both.receive::<Text>().await.unwrap_err(), Status::not_found("fail: not found"));
    assert_eq!(call(&client, "Echo", "unary").await.unwrap(), "unary");
}

/// As Go's server, whose texts these are.
#[tokio::test]
async fn stream_ids_are_odd_and_grow() {
    let probe = Arc::new(Probe::default());
    let (mut raw, _) = raw(&probe);
    for (stream_id, kind, text) in [
        (2, 1, "StreamID must be odd for client initiated streams"),
        (5, 1, ""),
        (5, 1, "StreamID cannot be re-used and must increment"),
        (3, 1, "StreamID cannot be re-used and must increment"),
        (5, 3, "StreamID is no longer active"),
    ] {
        raw.write_all(&frame(stream_id, kind, 0, &request("Echo", "x"))).await.unwrap();
        let (answered, kind, _, body) = read_frame(&mut raw).await;
        assert_eq!((answered, kind), (stream_id, 2));
        assert_eq!(service::status(&body).message, text);
    }
    raw.write_all(&frame(7, 1, 0, b"\xff\xff")).await.unwrap();
    let (_, _, _, body) = read_frame(&mut raw).await;
    assert_eq!(service::status(&body).code, code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn shutdown_lets_running_calls_finish() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let probe = Arc::new(Probe::default());
    let server = server(&probe);
    let listener = bind(&path).await.unwrap();
    let serving = {
        let server = server.clone();
        tokio::spawn(async move { server.serve(listener, ListenOptions::default()).await })
    };
    let client = Client::connect(&path).await.unwrap();
    let running = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Wait", "answer").await })
    };
    probe.entered.acquire().await.unwrap().forget();
    server.shutdown();
    assert!(!serving.is_finished());
    probe.gate.add_permits(1);
    assert_eq!(running.await.unwrap().unwrap(), "answer");
    serving.await.unwrap().unwrap();
    client.closed().await;
    assert!(Client::connect(&path).await.is_err());

    // The dead socket is replaced, a living one is not.
    let _living = bind(&path).await.unwrap();
    let error = bind(&path).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn close_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let probe = Arc::new(Probe::default());
    let server = server(&probe);
    let listener = bind(&path).await.unwrap();
    let serving = {
        let server = server.clone();
        tokio::spawn(async move { server.serve(listener, ListenOptions::default()).await })
    };
    let client = Client::connect(&path).await.unwrap();
    let running = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Wait", "").await })
    };
    probe.entered.acquire().await.unwrap().forget();
    server.close();
    serving.await.unwrap().unwrap();
    assert_eq!(running.await.unwrap().unwrap_err(), Status::closed());
}

#[tokio::test]
async fn another_user_is_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let probe = Arc::new(Probe::default());
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    for (uid, admitted) in [(own, true), (own + 1, false)] {
        let path = folder.path().join(uid.to_string());
        let listener = bind(&path).await.unwrap();
        let server = server(&probe);
        tokio::spawn(async move {
            server.serve(listener, ListenOptions { require_uid: Some(uid) }).await
        });
        let client = Client::connect(&path).await.unwrap();
        let answer = call(&client, "Context", "").await;
        if admitted {
            let (text, pid) = (answer.unwrap(), std::process::id());
            assert!(text.contains(&format!("pid: Some({pid}), uid: {own}")), "{text}");
        } else {
            assert_eq!(answer.unwrap_err(), Status::closed());
        }
    }
}

/// Frames with a right header and random bodies, and bytes without any form: no panic, and the
/// process serves on.
#[tokio::test]
async fn random_bytes_do_no_harm() {
    let probe = Arc::new(Probe::default());
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..400 {
        let length = usize::try_from(random() % 300).unwrap();
        let mut bytes: Vec<u8> = (0..length).map(|_| random().to_le_bytes()[0]).collect();
        if round % 2 == 0 {
            let id = u32::from(random().to_le_bytes()[0]);
            let [kind, flags, ..] = random().to_le_bytes();
            bytes = frame(id, kind % 5, flags % 8, &bytes);
            bytes.extend(frame(id | 1, 1, flags % 8, &request("Each", "x")));
            bytes.extend(frame(id | 1, 3, flags % 8, b"\x0a\xff"));
        }

        let (mut to_server, serving) = raw(&probe);
        to_server.write_all(&bytes).await.unwrap();
        to_server.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let _ = to_server.read_to_end(&mut answers).await;
        drop(to_server);
        assert!(serving.await.is_ok(), "the server panicked on {bytes:?}");

        let (mut to_client, far) = duplex(64 << 10);
        let client = Client::from_stream(far);
        let calling = tokio::spawn({
            let client = client.clone();
            async move { call(&client, "Echo", "x").await }
        });
        read_frame(&mut to_client).await;
        to_client.write_all(&bytes).await.unwrap();
        drop(to_client);
        assert!(calling.await.is_ok(), "the client panicked on {bytes:?}");
        client.closed().await;
    }
    let (near, _serving) = raw(&probe);
    assert_eq!(call(&Client::from_stream(near), "Echo", "well").await.unwrap(), "well");
}
