//! TCP with TLS on both sides. Whoever has no certificate of a known authority does not get as far as a request.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, version::TLS13};

use super::caller::Caller;
use super::connection::Connection;
use crate::desired::RemoteSpec;

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 64;
/// After a connection could not be taken (no file descriptors left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why TCP is not served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error("{}: {wrong}\nhelp: {way_out}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
        /// What would help.
        way_out: String,
    },
    /// Certificate and key are not of each other.
    #[error("{} and {} do not belong together: {wrong}\nhelp: write both anew, from one certificate request", .cert.display(), .key.display())]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says.
        wrong: String,
    },
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}\nhelp: agent.api.listen must be an address of this host and a port that is free"
    )]
    Listen {
        /// `agent.api.listen`.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A file's identity and age: whether it was replaced or written since.
type Stamp = [(u64, u64, i64, i64); 3];

/// A TCP listener and the certificates it uses, read again when one of the files has changed.
#[derive(Debug)]
pub struct Remote {
    listener: TcpListener,
    spec: RemoteSpec,
    present: Mutex<(Stamp, Arc<ServerConfig>)>,
}

impl Remote {
    /// Listens, and reads the files. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a file cannot be used or the address cannot be had.
    pub async fn bind(spec: &RemoteSpec) -> Result<Remote, TlsError> {
        let present = Mutex::new((stamp(spec), Arc::new(read(spec)?)));
        let listener = TcpListener::bind(spec.listen)
            .await
            .map_err(|source| TlsError::Listen { address: spec.listen, source })?;
        Ok(Remote { listener, spec: spec.clone(), present })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// What the files say now. Files that cannot be used are told once, and what was there before stays.
    fn present(&self) -> Arc<ServerConfig> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.spec);
        if present.0 != now {
            present.0 = now;
            match read(&self.spec) {
                Ok(config) => {
                    present.1 = Arc::new(config);
                    tracing::info!("the API's certificates have changed: new connections use them");
                }
                Err(error) => tracing::error!("the API keeps the certificates it had: {error}"),
            }
        }
        present.1.clone()
    }

    /// Takes connections for as long as `taken` is read; each that has shown its certificate is sent there.
    pub(super) async fn accept(self, taken: mpsc::Sender<Connection>) {
        let room = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            if taken.is_closed() {
                return;
            }
            let (acceptor, taken) = (TlsAcceptor::from(self.present()), taken.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE, shake(acceptor, stream, address)).await {
                    Ok(Ok(connection)) => drop(taken.send(connection).await),
                    Ok(Err(error)) => tracing::warn!(%address, %error, "refused a connection to the API"),
                    Err(_) => {
                        tracing::warn!(%address, "refused a connection to the API: no handshake in time")
                    }
                }
                drop(permit);
            });
        }
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: std::net::SocketAddr,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
    let caller = shown
        .and_then(|certificate| Caller::remote(address, certificate))
        .ok_or_else(|| io::Error::other("its certificate cannot be read"))?;
    Ok(Connection::new(stream, caller))
}

fn stamp(spec: &RemoteSpec) -> Stamp {
    [&spec.cert, &spec.key, &spec.client_ca].map(|path| {
        fs::metadata(path)
            .map_or((0, 0, 0, 0), |there| (there.ino(), there.size(), there.mtime(), there.mtime_nsec()))
    })
}

fn read(spec: &RemoteSpec) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&spec.cert, "cert")?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&spec.client_ca, "client_ca")? {
        roots.add(authority).map_err(|error| TlsError::File {
            path: spec.client_ca.clone(),
            wrong: format!("an authority in it cannot be used: {error}"),
            way_out: "write the certificates of the authorities that sign callers' certificates, as PEM"
                .to_owned(),
        })?;
    }
    let provider = Arc::new(default_provider());
    let file = |path: &Path, wrong: String| TlsError::File {
        path: path.to_owned(),
        wrong,
        way_out: "agent.api: write it as PEM".to_owned(),
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| file(&spec.client_ca, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| file(&spec.cert, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private_key(&spec.key)?)
        .map_err(|error| TlsError::Pair {
            cert: spec.cert.clone(),
            key: spec.key.clone(),
            wrong: error.to_string(),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |wrong: String| TlsError::File {
        path: path.to_owned(),
        wrong,
        way_out: format!("agent.api.{key} is one or more certificates as PEM"),
    };
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| failed(error.to_string()))?;
    if all.is_empty() { Err(failed("there is no certificate in it".to_owned())) } else { Ok(all) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |wrong: String, way_out: String| TlsError::File { path: path.to_owned(), wrong, way_out };
    let there = fs::metadata(path)
        .map_err(|error| failed(error.to_string(), "agent.api.key is one private key as PEM".to_owned()))?;
    if there.permissions().mode() & 0o007 != 0 {
        let way_out = format!("chmod 600 {}", path.display());
        return Err(failed("everybody can read this private key".to_owned(), way_out));
    }
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| failed(error.to_string(), "agent.api.key is one private key as PEM".to_owned()))
}
