//! `docker-containerd` on TCP with TLS.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use api_grpc::v0;
use api_grpc::v0::api_client::ApiClient;
use e2e::world::{Options, check_without_daemon};
use e2e::{Maker, World, process, wait};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::skip;

/// A daemon that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a certificate authority, and certificates that it made for a server and a client.
fn certificates(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for (name, address) in [("server", "127.0.0.1"), ("client", "client")] {
        let key = KeyPair::generate()?;
        let made = CertificateParams::new(vec![address.to_owned()])?.signed_by(&key, &issuer)?;
        fs::write(folder.join(format!("{name}.pem")), made.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}

fn start(world: &World, listen: &str, flags: &[&str]) -> Result<Daemon> {
    let mut command = world.command(&Maker::Ours.daemon()?);
    command.args(["v0", "-l", listen, "--state-dir"]).arg(world.path("old"));
    for flag in flags {
        let (flag, file) = flag.split_once(' ').context("a flag without a file")?;
        command.arg(flag).arg(world.path("tls").join(file));
    }
    let log = fs::File::create(world.path("log/old"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Daemon(command.spawn()?))
}

fn stop(mut daemon: Daemon) -> Result<()> {
    process::signal(i32::try_from(daemon.0.id())?, Signal::TERM)?;
    ensure!(daemon.0.wait()?.success());
    Ok(())
}

/// A call over TLS, with the client's certificate or without one.
async fn call(folder: &Path, port: u16, known: bool) -> Result<v0::StateResponse> {
    let certificate = |name: &str| CertificateDer::from_pem_file(folder.join(name));
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = if known {
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
        config.with_client_auth_cert(vec![certificate("client.pem")?], key)?
    } else {
        config.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let mut client = ApiClient::new(channel(stream).await?);
    Ok(client.state(v0::StateRequest::default()).await?.into_inner())
}

/// A channel over a connection that is there.
async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("only once"));
        std::future::ready(stream)
    });
    Ok(Endpoint::from_static("http://127.0.0.1").connect_with_connector(connector).await?)
}

fn body(world: &World) -> Result<()> {
    let folder = world.path("tls");
    certificates(&folder)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let own = ["--tls-cert server.pem", "--tls-key server.key"];
    let all = [own[0], own[1], "--tls-ca ca.pem"];

    // All addresses, as clients show who they are.
    let daemon = start(world, &format!("tcp://0.0.0.0:{port}"), &all)?;
    wait::until("the daemon to answer", || {
        runtime
            .block_on(call(&folder, port, true))
            .with_context(|| fs::read_to_string(world.path("log/old")).unwrap_or_default())
    })?;
    ensure!(runtime.block_on(call(&folder, port, false)).is_err(), "an unknown client was served");
    let plain = runtime.block_on(async {
        let address = format!("http://127.0.0.1:{port}");
        let channel = Endpoint::from_shared(address)?.connect().await?;
        anyhow::Ok(ApiClient::new(channel).state(v0::StateRequest::default()).await?)
    });
    ensure!(plain.is_err(), "a client without TLS was served");
    // One that says nothing keeps nobody out.
    let _silent = std::net::TcpStream::connect(("127.0.0.1", port))?;
    runtime.block_on(call(&folder, port, true))?;
    stop(daemon)?;

    // Here nobody else can connect, so that nobody need be asked.
    let daemon = start(world, &format!("tcp://127.0.0.1:{port}"), &own)?;
    wait::until("the daemon to answer", || runtime.block_on(call(&folder, port, false)))?;
    stop(daemon)?;

    for (listen, flags) in [
        (format!("tcp://0.0.0.0:{port}"), &own[..]),
        (
            format!("tcp://0.0.0.0:{port}"),
            &["--tls-cert client.pem", "--tls-key server.key", all[2]],
        ),
        (format!("tcp://127.0.0.1:{port}"), &["--tls-cert none.pem", "--tls-key server.key"]),
        (format!("tcp://127.0.0.1:{port}"), &["--tls-cert server.key", "--tls-key server.key"]),
        (format!("unix://{}", world.socket().display()), &own[..]),
    ] {
        let mut daemon = start(world, &listen, flags)?;
        ensure!(!daemon.0.wait()?.success(), "{listen} {flags:?}");
        let said = fs::read_to_string(world.path("log/old"))?;
        ensure!(!said.contains("panicked") && !said.is_empty(), "{said}");
    }
    Ok(())
}

#[test]
fn tcp_with_tls() {
    check_without_daemon(Options::new(Maker::Forky), |world| {
        if !world.is_ours() {
            skip!("containerd of today has no such command line");
        }
        body(world)
    });
}
