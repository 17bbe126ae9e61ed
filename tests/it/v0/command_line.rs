//! `docker-containerd`, started as Docker did: without any file.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use api_grpc::health::{HealthCheckRequest, HealthClient, ServingStatus};
use api_grpc::v0;
use api_grpc::v0::api_client::ApiClient;
use e2e::v0::{Old, connect, until_exit};
use e2e::world::{Options, check_without_daemon};
use e2e::{Maker, World, process, wait};
use rustix::process::Signal;
use tonic::transport::Endpoint;

use crate::skip;

/// A daemon that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(world: &World, program: &Path, words: &[&str]) -> Result<Daemon> {
    let mut command: Command = world.command(program);
    command.args(words).args(["--debug", "--start-timeout", "2m"]);
    if !words.contains(&"--metrics-interval") {
        command.arg("--metrics-interval=0");
    }
    command.args(["--shim", "docker-containerd-shim", "--runtime", "runc", "--state-dir"]);
    command.arg(world.path("old"));
    let log = std::fs::File::create(world.path("log/old"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Daemon(command.spawn()?))
}

fn stop(mut daemon: Daemon, signal: Signal) -> Result<()> {
    process::signal(i32::try_from(daemon.0.id())?, signal)?;
    let status = daemon.0.wait()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn body(world: &World) -> Result<()> {
    let program = world.path("bin/docker-containerd");
    symlink(Maker::Ours.daemon()?, &program)?;
    let socket = world.socket();
    let listen = format!("unix://{}", socket.display());
    let daemon = start(world, &program, &["-l", &listen])?;
    let old = Old::new(world)?;
    let answers = || {
        wait::until("the old daemon to answer", || {
            old.block_on(async {
                let mut client = connect(&socket).await?;
                Ok(client.get_server_version(v0::GetServerVersionRequest {}).await?.into_inner())
            })
        })
        .with_context(|| std::fs::read_to_string(world.path("log/old")).unwrap_or_default())
    };
    let version = answers()?;
    ensure!((version.major, version.minor, version.patch) == (0, 2, 3), "{version:?}");
    old.block_on(async {
        let mut client = connect(&socket).await?;
        client.create_container(old.create("one", "sleep 1000")?).await?;
        anyhow::Ok(())
    })?;
    ensure!(world.path("old/one/state.json").is_file() && world.path("old/events.log").is_file());
    stop(daemon, Signal::INT)?;
    // The other way to say it, on the same state.
    let words = ["v0", "-l", &listen];
    let daemon = start(world, &Maker::Ours.daemon()?, &words)?;
    answers()?;
    old.block_on(async {
        let mut client = connect(&socket).await?;
        let timestamp = Some(api_shim::Timestamp { seconds: 1, nanos: 0 });
        let request = v0::EventsRequest { timestamp, ..v0::EventsRequest::default() };
        let mut events = client.events(request).await?.into_inner();
        let signal = v0::SignalRequest { id: "one".into(), pid: "init".into(), signal: 9 };
        client.signal(signal).await?;
        let all = until_exit(&mut events, "one").await?;
        ensure!(all.len() == 2, "{all:?}");
        anyhow::Ok(())
    })?;
    wait::until("the shim to end", || {
        ensure!(old.shims().is_empty());
        Ok(())
    })?;
    stop(daemon, Signal::TERM)?;

    // Metrics, to a server and to the standard output; what developers want to see.
    let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    let graphite = server.local_addr()?.to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let debug = format!("127.0.0.1:{port}");
    let flags = ["--graphite-address", &graphite, "--metrics-interval", "50ms"];
    let words = [&["-l", &listen, "--pprof-address", &debug], &flags[..]].concat();
    let daemon = start(world, &program, &words)?;
    answers()?;
    let mut text = String::new();
    server.accept()?.0.read_to_string(&mut text)?;
    ensure!(text.lines().any(|line| line.starts_with("metrics.containers.count 0 ")), "{text}");
    ensure!(text.lines().any(|line| line.starts_with("metrics.goroutines.value ")), "{text}");
    let mut stream = std::net::TcpStream::connect(&debug)?;
    stream.write_all(b"GET /debug/vars HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.0 200") && page.contains("docker-containerd"), "{page}");
    old.block_on(async {
        let channel =
            Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect().await?;
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        ensure!(answer.into_inner().status() == ServingStatus::Serving);
        anyhow::Ok(())
    })?;
    stop(daemon, Signal::TERM)?;
    let daemon = start(world, &program, &["-l", &listen, "--metrics-interval", "50ms"])?;
    wait::until("figures on the standard output", || {
        let said = std::fs::read_to_string(world.path("log/old"))?;
        let line = said.lines().find(|line| line.ends_with(" counter event-subscribers"));
        ensure!(line.is_some_and(|line| line.starts_with("[containerd] 20")), "{said}");
        Ok(())
    })?;
    stop(daemon, Signal::TERM)?;

    // TCP, on loopback alone.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = format!("tcp://127.0.0.1:{port}");
    let daemon = start(world, &program, &["-l", &listen])?;
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    wait::until("the old daemon to answer on TCP", || {
        old.block_on(async {
            let mut client = ApiClient::new(endpoint.connect().await?);
            Ok(client.state(v0::StateRequest::default()).await?)
        })
    })?;
    stop(daemon, Signal::TERM)?;
    let mut open = start(world, &program, &["-l", &format!("tcp://0.0.0.0:{port}")])?;
    ensure!(!open.0.wait()?.success());
    Ok(())
}

#[test]
fn the_command_line_of_0_2() {
    check_without_daemon(Options::new(Maker::Forky), |world| {
        if !world.is_ours() {
            skip!("containerd of today has no such command line");
        }
        body(world)
    });
}
