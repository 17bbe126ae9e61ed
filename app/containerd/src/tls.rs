//! TLS for the listener of 0.2's command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What gRPC is called when connections are made.
const HTTP2: &[u8] = b"h2";

/// The files with which a listener is made safe; all are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Our certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The roots of the certificates that clients have to show; without it nobody is asked for one.
    pub clients: Option<PathBuf>,
}

/// What makes connections safe with `files`.
///
/// # Errors
/// A file cannot be read, or does not have in it what it should have.
pub fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let certificates = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("private key {}", files.key.display()))?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS")?;
    let config = match &files.clients {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path)? {
                roots.add(certificate).with_context(|| format!("root {}", path.display()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.context("roots of clients")?)
        }
    };
    let mut config = config
        .with_single_cert(certificates, key)
        .with_context(|| format!("certificate {}", files.certificate.display()))?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a file; there is one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let context = || format!("certificate {}", path.display());
    let found = CertificateDer::pem_file_iter(path).with_context(context)?;
    let found = found.collect::<Result<Vec<_>, _>>().with_context(context)?;
    ensure!(!found.is_empty(), "certificate {}: there is none in it", path.display());
    Ok(found)
}
