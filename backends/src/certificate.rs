//! A certificate for this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A certificate for 127.0.0.1 that nobody vouches for but itself, and its key, as PEM files.
#[derive(Debug)]
pub struct Certificate(tempfile::TempDir);

impl Certificate {
    /// A fresh one.
    pub fn fresh() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = Self(tempfile::tempdir().unwrap());
        fs::write(certificate.cert(), made.cert.pem()).unwrap();
        fs::write(certificate.key(), made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(certificate.key(), fs::Permissions::from_mode(0o600)).unwrap();
        certificate
    }

    /// The certificate.
    pub fn cert(&self) -> PathBuf {
        self.file("cert.pem")
    }

    /// Its private key.
    pub fn key(&self) -> PathBuf {
        self.file("key.pem")
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }
}
