//! A certificate authority for tests, with what it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority whose files lie in one directory.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
    /// Its own certificate.
    pub ca: PathBuf,
}

impl Authority {
    /// A new one; `name` begins the names of its files.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("zdd test authority {name}"));
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs itself");
        let ca = dir.join(format!("{name}-ca.pem"));
        std::fs::write(&ca, issuer.pem()).expect("a file");
        Self { issuer, dir: dir.to_owned(), ca }
    }

    /// A certificate with this common name and these DNS names or addresses, and its key: `NAME.pem`, `NAME.key`.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn sign(&self, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signature");
        let (cert, pem) = (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        std::fs::write(&cert, certificate.pem()).expect("a file");
        std::fs::write(&pem, key.serialize_pem()).expect("a file");
        std::fs::set_permissions(&pem, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its mode");
        (cert, pem)
    }
}
