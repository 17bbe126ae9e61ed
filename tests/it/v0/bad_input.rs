//! Requests that cannot work, and clients that do not read.

use anyhow::{Context, Result, ensure};
use api_grpc::v0;
use e2e::v0::{Old, fails, until_exit};
use tonic::Code;

use super::old;

fn kill(id: &str) -> v0::SignalRequest {
    v0::SignalRequest { id: id.to_owned(), pid: "init".to_owned(), signal: 9 }
}

async fn refused(old: &Old<'_>) -> Result<()> {
    let mut client = old.connect().await?;
    let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
    let state = old.state_dir().display().to_string();
    let create = |id: &str, bundle: &str| v0::CreateContainerRequest {
        id: id.to_owned(),
        bundle_path: bundle.to_owned(),
        ..v0::CreateContainerRequest::default()
    };
    fails(client.create_container(create("a", "")).await, Code::Unknown, "empty bundle path")?;
    fails(
        client.create_container(create("a", "/no/such")).await,
        Code::NotFound,
        "open /no/such/config.json: no such file or directory",
    )?;
    let good = old.bundle("a", "sleep 1000")?;
    fails(
        client.create_container(create("", &good)).await,
        Code::AlreadyExists,
        &format!("mkdir {state}: file exists"),
    )?;
    ensure!(client.create_container(create("../b", &good)).await.is_err());
    ensure!(client.create_container(create(&"x".repeat(300), &good)).await.is_err());
    let odd = old.bundle("odd", "true")?;
    std::fs::remove_file(format!("{odd}/config.json"))?;
    std::fs::create_dir(format!("{odd}/config.json"))?;
    let text = format!("read {odd}/config.json: is a directory");
    fails(client.create_container(create("a", &odd)).await, Code::Unknown, &text)?;
    let odd = old.bundle_of("garbage", &serde_json::Value::from("no object"))?;
    ensure!(client.create_container(create("a", &odd)).await.is_err());
    for stream in ["/no/such/folder/fifo", "relative"] {
        let request =
            v0::CreateContainerRequest { stdout: stream.to_owned(), ..create("a", &good) };
        ensure!(client.create_container(request).await.is_err(), "{stream}");
    }
    let request = v0::CreateContainerRequest { checkpoint: "a/b".into(), ..create("a", &good) };
    ensure!(client.create_container(request).await.is_err());
    // The runtime says why.
    let missing = old.bundle_of("bad", &old.spec("bad", &["/no/such/program"]))?;
    let error = client.create_container(create("bad", &missing)).await.err().context("made")?;
    ensure!(
        error.code() == Code::Unknown
            && error.message().starts_with("oci runtime error: ")
            && error.message().contains("/no/such/program"),
        "{error:?}"
    );
    // The name is free at once, and nobody was told.
    client.create_container(create("bad", &good)).await?;
    fails(
        client.create_container(create("bad", &good)).await,
        Code::AlreadyExists,
        &format!("mkdir {state}/bad: file exists"),
    )?;
    for (name, code, text) in [
        ("", Code::Unknown, "process id cannot be empty".to_owned()),
        ("init", Code::AlreadyExists, format!("mkdir {state}/bad/init: file exists")),
        ("..", Code::AlreadyExists, format!("mkdir {state}: file exists")),
        ("a/b", Code::NotFound, format!("mkdir {state}/bad/a/b: no such file or directory")),
    ] {
        fails(client.add_process(old.add("bad", name, "true")).await, code, &text)?;
    }
    let add =
        v0::AddProcessRequest { args: vec!["/no/such".to_owned()], ..old.add("bad", "e", "") };
    let error = client.add_process(add).await.err().context("ran")?;
    ensure!(error.message().starts_with("oci runtime error: "), "{error:?}");
    client.add_process(old.add("bad", "e", "sleep 1000")).await?;
    fails(
        client.add_process(old.add("bad", "e", "true")).await,
        Code::AlreadyExists,
        &format!("mkdir {state}/bad/e: file exists"),
    )?;
    let empty = v0::AddProcessRequest { id: "bad".into(), pid: "f".into(), ..Default::default() };
    ensure!(client.add_process(empty).await.is_err());
    client.signal(kill("bad")).await?;
    let all = until_exit(&mut events, "bad").await?;
    let kinds: Vec<_> = all.iter().map(|event| event.r#type.as_str()).collect();
    ensure!(kinds == ["start-container", "start-process", "exit", "exit"], "{all:?}");
    Ok(())
}

#[test]
fn what_cannot_work_is_refused_in_0_2s_words() {
    old("", |_, old| old.block_on(refused(old)));
}

/// Two subscribers: one never reads, the other gets everything, in time.
#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    old("", |_, old| {
        old.block_on(async {
            let mut idle = old.connect().await?;
            let stuck = idle.events(v0::EventsRequest::default()).await?.into_inner();
            let mut client = old.connect().await?;
            let mut events = client.events(v0::EventsRequest::default()).await?.into_inner();
            client.create_container(old.create("busy", "sleep 1000")?).await?;
            for number in 0..30 {
                client.add_process(old.add("busy", &format!("e{number}"), "true")).await?;
            }
            client.signal(kill("busy")).await?;
            let all = until_exit(&mut events, "busy").await?;
            ensure!(all.len() == 62, "{}", all.len());
            drop(stuck);
            anyhow::Ok(())
        })
    });
}
