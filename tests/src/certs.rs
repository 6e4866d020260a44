//! A certificate authority for tests, with what it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

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
        self.signed(name, names, |_| ())
    }

    /// The same, valid in these years only: from the first day of one to the first day of the other.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn sign_for(&self, name: &str, names: &[&str], years: (i32, i32)) -> (PathBuf, PathBuf) {
        self.signed(name, names, |params| {
            params.not_before = date_time_ymd(years.0, 1, 1);
            params.not_after = date_time_ymd(years.1, 1, 1);
        })
    }

    fn signed(
        &self,
        name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
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
