//! TLS as a client: whom to trust, who we are, and the handshake. rustls with *ring*; nothing is trusted that was not asked for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a server is met with TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TlsSpec {
    /// The name asked for (SNI) and looked for in the certificate; `None`: what the protocol above says.
    pub server_name: Option<String>,
    /// PEM file of the only authorities to trust; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files of the client's certificate chain and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whoever answers is believed.
    pub insecure: bool,
}

/// When a file was last changed, and its size: another pair means that it was replaced.
type Stamp = Option<(SystemTime, u64)>;
type Protocols = &'static [&'static [u8]];
/// With the stamps of the files that each was made from.
type Configs = HashMap<(TlsSpec, Protocols), (Vec<Stamp>, Arc<ClientConfig>)>;

/// Configurations are made once for each kind of server: the system's authorities alone take some milliseconds to read. A file
/// that is replaced (a certificate is renewed) makes a new one.
static CONFIGS: LazyLock<Mutex<Configs>> = LazyLock::new(Mutex::default);

/// Speaks TLS over `stream`. `name` is whom to expect where the spec says nothing: a host, or an address; `protocols` go into
/// ALPN.
///
/// # Errors
/// In words for an operator: a file that cannot be used, a certificate that is not right, a peer that speaks something else.
pub async fn connect(
    stream: TcpStream,
    spec: &TlsSpec,
    name: &str,
    protocols: Protocols,
) -> Result<TlsStream<TcpStream>, String> {
    let name = spec.server_name.as_deref().unwrap_or(name);
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("`{name}` is no name of a TLS server; set server_name"))?;
    let config = configured(spec, protocols).await?;
    TlsConnector::from(config).connect(server, stream).await.map_err(|error| format!("TLS: {error}"))
}

/// The host of an authority as certificates name it: without port, and without the brackets of IPv6.
pub fn host_of(authority: &str) -> &str {
    let bare = authority.trim_matches(['[', ']']);
    if bare.parse::<IpAddr>().is_ok() {
        return bare;
    }
    match authority.rsplit_once(':') {
        Some((host, _)) => host.trim_matches(['[', ']']),
        None => authority,
    }
}

async fn configured(spec: &TlsSpec, protocols: Protocols) -> Result<Arc<ClientConfig>, String> {
    let stamps: Vec<Stamp> = files(spec).map(stamp).collect();
    let key = (spec.clone(), protocols);
    let known = |configs: &Configs| {
        configs.get(&key).filter(|(of, _)| *of == stamps).map(|(_, config)| config.clone())
    };
    if let Some(config) = known(&CONFIGS.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(config);
    }
    let wanted = spec.clone();
    // Files are read, and certificates parsed: not on the thread that everything else runs on.
    let made = tokio::task::spawn_blocking(move || make(&wanted, protocols)).await;
    let config = Arc::new(made.map_err(|error| format!("TLS: {error}"))??);
    CONFIGS.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (stamps, config.clone()));
    Ok(config)
}

fn files(spec: &TlsSpec) -> impl Iterator<Item = &PathBuf> {
    let client = spec.client.iter().flat_map(|(chain, key)| [chain, key]);
    spec.ca.iter().chain(client)
}

fn stamp(path: &PathBuf) -> Stamp {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn make(spec: &TlsSpec, protocols: Protocols) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = if spec.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(trusted(spec)?), provider)
            .build()
            .map_err(|error| format!("nobody can be trusted: {error}; name a file of authorities as `ca`"))?;
        builder.with_webpki_verifier(verifier)
    };
    let mut config = match &spec.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("the key in {} cannot be used: {error}", key.display()))?;
            builder.with_client_auth_cert(certificates(chain)?, secret).map_err(|error| {
                format!(
                    "the certificate in {} and the key in {} cannot be used: {error}",
                    chain.display(),
                    key.display()
                )
            })?
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // Each probe looks at the certificate anew: a resumed session would hide that it has expired.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn trusted(spec: &TlsSpec) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &spec.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{} holds no authority: {error}", path.display()))?;
            }
        }
        // Some that the system has may be beyond what rustls knows; the others count all the same.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |error| format!("the certificates in {} cannot be used: {error}", path.display());
    let all = CertificateDer::pem_file_iter(path).map_err(unusable)?.collect::<Result<Vec<_>, _>>();
    let all = all.map_err(unusable)?;
    if all.is_empty() { Err(format!("{} holds no certificate (PEM)", path.display())) } else { Ok(all) }
}

/// Believes everybody who holds the key of the certificate that he shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_certificates_name() {
        for (authority, host) in [
            ("shop.example", "shop.example"),
            ("shop.example:8443", "shop.example"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }
}
