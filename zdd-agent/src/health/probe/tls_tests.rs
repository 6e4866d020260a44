//! HTTPS and gRPC over TLS against real servers: rustls on both sides, certificates made for the test.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::testing::{Dir, LONG, attempt, authority, http, provider, why};
use super::*;
use crate::health::spec::{GrpcCheck, HttpCheck};
use crate::tls::TlsSpec;

struct Signed {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: KeyPair,
}

fn signed(
    by: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Signed {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, by).unwrap();
    Signed { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
}

impl Signed {
    fn secret(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// Serves `HTTP/1.1 200` over TLS until the test ends, and tells the server names that were asked for.
async fn server(
    own: &Signed,
    clients: Option<&CertifiedIssuer<'static, KeyPair>>,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Option<String>>) {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(issuer) => {
            let mut roots = RootCertStore::empty();
            roots.add(issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(own.chain.clone(), own.secret()).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            drop(tell.send(stream.get_ref().1.server_name().map(str::to_owned)));
            let mut head = [0; 1024];
            if stream.read(&mut head).await.unwrap_or(0) > 0 {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await);
                drop(stream.shutdown().await);
            }
        }
    });
    (address, told)
}

fn https(ca: &Path, host: Option<&str>) -> HttpCheck {
    let tls = TlsSpec { ca: Some(ca.to_path_buf()), ..TlsSpec::default() };
    HttpCheck { host: host.map(str::to_owned), tls: Some(tls), ..http() }
}

#[tokio::test]
async fn a_certificate_of_the_named_authority_passes_and_the_host_is_asked_for() {
    let (dir, issuer) = (Dir::new(), authority());
    let ca = dir.file("ca.pem", &issuer.pem());
    let (address, mut names) = server(&signed(&issuer, "shop.example", |_| ()), None).await;
    let probe = Probe::Http(https(&ca, Some("shop.example:8443")));
    assert_eq!(attempt(address, probe, LONG).await, Ok(()));
    assert_eq!(names.recv().await.unwrap().as_deref(), Some("shop.example"));
    // The name in the certificate may be another one than the Host header.
    let mut check = https(&ca, Some("internal.example"));
    check.tls.as_mut().unwrap().server_name = Some("shop.example".into());
    assert_eq!(attempt(address, Probe::Http(check), LONG).await, Ok(()));
}

#[tokio::test]
async fn without_a_host_the_address_must_be_in_the_certificate() {
    let (dir, issuer) = (Dir::new(), authority());
    let ca = dir.file("ca.pem", &issuer.pem());
    let (address, mut names) = server(&signed(&issuer, "127.0.0.1", |_| ()), None).await;
    assert_eq!(attempt(address, Probe::Http(https(&ca, None)), LONG).await, Ok(()));
    assert_eq!(names.recv().await.unwrap(), None, "an address is no server name (RFC 6066)");
    let said = why(address, Probe::Http(https(&ca, Some("shop.example")))).await;
    assert!(said.contains("not valid for name \"shop.example\""), "{said}");
}

#[tokio::test]
async fn another_authority_an_expired_and_a_foreign_certificate_do_not_pass_unless_anybody_may() {
    let (dir, issuer, stranger) = (Dir::new(), authority(), authority());
    let ca = dir.file("ca.pem", &issuer.pem());
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    for (own, word) in [
        (signed(&stranger, "shop.example", |_| ()), "UnknownIssuer"),
        (signed(&issuer, "shop.example", expired), "expired"),
    ] {
        let (address, _names) = server(&own, None).await;
        let mut check = https(&ca, Some("shop.example"));
        let said = why(address, Probe::Http(check.clone())).await;
        assert!(said.starts_with("TLS: ") && said.contains(word), "{said}");
        // The system's authorities do not know it either.
        check.tls = Some(TlsSpec::default());
        let said = why(address, Probe::Http(check.clone())).await;
        assert!(said.contains(word) || said.contains("UnknownIssuer"), "{said}");
        check.tls = Some(TlsSpec { insecure: true, ..TlsSpec::default() });
        assert_eq!(attempt(address, Probe::Http(check), LONG).await, Ok(()));
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it() {
    let (dir, issuer) = (Dir::new(), authority());
    let ca = dir.file("ca.pem", &issuer.pem());
    let client = signed(&issuer, "zdd.example", |_| ());
    let (cert, key) = (dir.file("cert.pem", &client.pem), dir.file("key.pem", &client.key.serialize_pem()));
    let (address, _names) = server(&signed(&issuer, "shop.example", |_| ()), Some(&issuer)).await;
    let mut check = https(&ca, Some("shop.example"));
    assert!(attempt(address, Probe::Http(check.clone()), LONG).await.is_err(), "without one");
    check.tls.as_mut().unwrap().client = Some((cert, key.clone()));
    assert_eq!(attempt(address, Probe::Http(check.clone()), LONG).await, Ok(()));
    // A file that is replaced counts from the next probe on, also by one that is of no use.
    std::fs::write(&key, "no key at all").unwrap();
    let said = why(address, Probe::Http(check)).await;
    assert!(said.contains("key.pem") && said.contains("cannot be used"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let (dir, issuer) = (Dir::new(), authority());
    let (address, _names) = server(&signed(&issuer, "shop.example", |_| ()), None).await;
    let said = why(address, Probe::Http(https(&dir.0.join("none.pem"), None))).await;
    assert!(said.contains("none.pem"), "{said}");
    let empty = dir.file("empty.pem", "");
    let said = why(address, Probe::Http(https(&empty, None))).await;
    assert!(said.contains("holds no certificate"), "{said}");
}

#[tokio::test]
async fn a_peer_that_begins_a_handshake_and_stops_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 2048];
        let _ = stream.read(&mut hello).await;
        // The head of a record (RFC 8446, 5.1) that never comes.
        stream.write_all(&[22, 3, 3, 0x20, 0]).await.unwrap();
        std::future::pending::<()>().await;
    });
    let check = HttpCheck { tls: Some(TlsSpec { insecure: true, ..TlsSpec::default() }), ..http() };
    let answer = attempt(address, Probe::Http(check), 300).await;
    assert_eq!(answer, Err(ProbeFailure::TimedOut(Duration::from_millis(300))));
}

#[tokio::test]
async fn a_peer_without_tls_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            tokio::spawn(async move { stream.read(&mut [0; 2048]).await });
        }
    });
    let tls = Some(TlsSpec { insecure: true, ..TlsSpec::default() });
    let said = why(address, Probe::Http(HttpCheck { tls: tls.clone(), ..http() })).await;
    assert!(said.starts_with("TLS: "), "{said}");
    let said = why(address, Probe::Grpc(GrpcCheck { tls, ..GrpcCheck::default() })).await;
    assert!(said.starts_with("TLS: "), "{said}");
}
