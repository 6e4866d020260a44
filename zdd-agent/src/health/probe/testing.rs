//! What the tests of all probes need.

use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::health::spec::HttpCheck;

/// Long enough for a busy machine.
pub const LONG: u64 = 20_000;

pub fn question(address: SocketAddr, probe: Probe, timeout_ms: u64) -> Question {
    Question {
        service: "web".into(),
        version: "v1".into(),
        address,
        probe,
        timeout: Duration::from_millis(timeout_ms),
        depends: Vec::new(),
    }
}

/// One attempt of its own.
pub async fn attempt(address: SocketAddr, probe: Probe, timeout_ms: u64) -> Answer {
    super::probe(&question(address, probe, timeout_ms), &mut Session::default()).await.0
}

/// What an attempt says when it fails.
pub async fn why(address: SocketAddr, probe: Probe) -> String {
    attempt(address, probe, LONG).await.expect_err("it must not pass").to_string()
}

pub fn http() -> HttpCheck {
    HttpCheck { path: "/health".into(), ..HttpCheck::default() }
}

/// A directory that goes with the test.
pub struct Dir(pub std::path::PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("zdd-{}-probe-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    pub fn file(&self, name: &str, text: &str) -> std::path::PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

pub fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    // Authorities of one name would be told apart by their signatures only.
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("authority {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// *ring* for the servers of the tests.
pub fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<std::sync::Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| std::sync::Arc::new(rustls::crypto::ring::default_provider())).clone()
}
