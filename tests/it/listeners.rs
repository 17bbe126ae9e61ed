//! The metrics and debug listeners.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Maker;
use e2e::world::{Options, check_empty};

/// One GET; the status and the body.
fn get(mut stream: impl Read + Write, path: &str) -> Result<(u16, Vec<u8>)> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end =
        answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no end of the head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, answer[end + 4..].to_vec()))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn metrics_count_calls() {
    let port = free_port().expect("no free port");
    let options = Options::new(Maker::Forky).map(|options| Options {
        tables: format!("[metrics]\n  address = \"127.0.0.1:{port}\"\n"),
        ..options
    });
    check_empty(options, |world| {
        let read = || -> Result<String> {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            let (status, body) = get(stream, "/v1/metrics")?;
            ensure!(status == 200, "status {status}");
            Ok(String::from_utf8(body)?)
        };
        let value = |text: &str, labels: &[&str]| -> Option<f64> {
            let line = text.lines().find(|line| {
                line.starts_with("grpc_server_handled_total{")
                    && labels.iter().all(|label| line.contains(label))
            })?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let listed = [
            "grpc_code=\"OK\"",
            "grpc_method=\"List\"",
            "grpc_service=\"containerd.services.images.v1.Images\"",
            "grpc_type=\"unary\"",
        ];
        let before = value(&read()?, &listed).unwrap_or(0.0);
        world.ctr("images ls")?;
        world.ctr("images ls")?;
        world.ctr_fails("containers info nothing")?;
        let text = read()?;
        ensure!(value(&text, &listed) == Some(before + 2.0), "{before}\n{text}");
        let missing =
            ["grpc_code=\"NotFound\"", "grpc_method=\"Get\"", "containers.v1.Containers", "unary"];
        ensure!(value(&text, &missing) == Some(1.0), "{text}");
        for name in [
            "grpc_server_started_total",
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
        ] {
            ensure!(text.lines().any(|line| line.starts_with(name)), "no {name} in {text}");
        }
        // Streams count as well.
        let (status, _) = get(TcpStream::connect(("127.0.0.1", port))?, "/nothing")?;
        ensure!(status == 404, "status {status}");
        Ok(())
    });
}

#[test]
fn debug_listener_gives_profiles_and_tasks() {
    let options = Options::new(Maker::Forky).map(|options| Options {
        tables: "[debug]\n  address = \"{world}/debug.sock\"\n".to_owned(),
        ..options
    });
    check_empty(options, |world| {
        let ask = |path: &str| -> Result<(u16, Vec<u8>)> {
            let stream = UnixStream::connect(world.path("debug.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            get(stream, path)
        };
        let (status, profile) = ask("/debug/pprof/profile?seconds=1")?;
        // Go's tools read protobuf, packed by gzip or not; what is sampled is named in it.
        let mut plain = profile.clone();
        if profile.starts_with(&[0x1f, 0x8b]) {
            plain.clear();
            flate2::read::GzDecoder::new(profile.as_slice()).read_to_end(&mut plain)?;
        }
        ensure!(status == 200, "status {status}");
        ensure!(plain.windows(3).any(|bytes| bytes == b"cpu"), "{} bytes", plain.len());
        let (status, tasks) = ask("/debug/pprof/goroutine?debug=2")?;
        ensure!(status == 200 && !tasks.is_empty(), "{status}");
        let (status, vars) = ask("/debug/vars")?;
        ensure!(status == 200, "{status}");
        let vars: serde_json::Value = serde_json::from_slice(&vars)?;
        ensure!(vars["cmdline"].is_array(), "{vars}");
        let (status, _) = ask("/nothing")?;
        ensure!(status == 404, "{status}");
        // The profiler keeps a temporary file open until the daemon ends.
        for entry in std::fs::read_dir(world.path("tmp"))?.flatten() {
            ensure!(entry.file_name().to_string_lossy().starts_with(".tmp"), "{entry:?}");
            std::fs::remove_file(entry.path())?;
        }
        Ok(())
    });
}
