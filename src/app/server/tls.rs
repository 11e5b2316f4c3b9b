//! TLS: the certificate that new connections get, and how it is exchanged while the gateway serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Decode as _;

use super::super::reload::Reloads;
use crate::config::{self, Http2};
use crate::lifecycle::{Lifecycle, OnPanic};

/// Why a certificate cannot be used. Nothing of a key is ever in the message.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path} cannot be read: {error}", path = path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{path} holds no certificate in PEM form", path = .0.display())]
    NoCertificate(PathBuf),
    #[error("{path} holds no private key in PEM form", path = .0.display())]
    NoKey(PathBuf),
    #[error("the key {key} does not belong to the certificate {cert}", key = key.display(), cert = cert.display())]
    Strangers { cert: PathBuf, key: PathBuf },
    #[error("the certificate {cert} cannot be served: {error}", cert = cert.display())]
    Unfit { cert: PathBuf, error: rustls::Error },
}

/// What speaks TLS with clients.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    offered: watch::Receiver<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the certificate and its key, and from then on exchanges them when their files change or SIGHUP comes.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub(crate) fn start(files: &config::Tls, http2: Http2, lifecycle: &Lifecycle) -> Result<Self, TlsError> {
        let mut files = Files::new(files, http2);
        let (offer, offered) = watch::channel(files.open()?);
        lifecycle.spawn("certificate", OnPanic::Shutdown, follow(files, offer, lifecycle.clone()));
        Ok(Self { offered })
    }

    /// Whether the certificate and its key can be served.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub(crate) fn check(files: &config::Tls) -> Result<(), TlsError> {
        Files::new(files, Http2::Auto).open().map(|_| ())
    }

    /// For one connection, with the certificate of this moment.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.offered.borrow()))
    }
}

/// Takes over what changes in the files, until the gateway ends.
async fn follow(mut files: Files, offer: watch::Sender<Arc<ServerConfig>>, lifecycle: Lifecycle) {
    let mut reloads = Reloads::new("the certificate", lifecycle.clone());
    while let Some(asked) = reloads.next().await {
        let looked = lifecycle.blocking("read the certificate", move || {
            let looked = files.look(asked);
            (files, looked)
        });
        let Ok((same, looked)) = looked.await else { return };
        files = same;
        match looked {
            Look::Same => {}
            Look::New(config) => drop(offer.send_replace(config)),
            Look::Refused(why) => tracing::warn!(%why, "the certificate stays as it was"),
        }
    }
}

/// The two files, and what they held last.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    /// What clients may speak over TLS, the best first.
    protocols: Vec<Vec<u8>>,
    /// What was seen last, whether it was taken or not.
    seen: Seen,
}

/// What a look at the files has found.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// By its digest, so that no second copy of the key is kept.
    Content([u8; 32]),
    /// A file that cannot be read, by what was said about it.
    Trouble(String),
}

enum Look {
    /// Nothing that was not seen before.
    Same,
    New(Arc<ServerConfig>),
    Refused(TlsError),
}

impl Files {
    fn new(files: &config::Tls, http2: Http2) -> Self {
        let protocols: &[&[u8]] = if http2 == Http2::Off { &[b"http/1.1"] } else { &[b"h2", b"http/1.1"] };
        let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self { cert: files.cert.clone(), key: files.key.clone(), protocols, seen: Seen::Nothing }
    }

    /// Reads and checks both.
    fn open(&mut self) -> Result<Arc<ServerConfig>, TlsError> {
        match self.look(true) {
            Look::New(config) => Ok(config),
            Look::Refused(why) => Err(why),
            // Not where one is asked for.
            Look::Same => Err(TlsError::NoCertificate(self.cert.clone())),
        }
    }

    /// Both or none: a certificate without its key, as there is for a moment while files are exchanged, is refused. What was
    /// seen already is news only where it is `asked` for.
    fn look(&mut self, asked: bool) -> Look {
        let read = self.read();
        let seen = match &read {
            Ok((cert, key)) => {
                let digest = Sha256::new().chain_update(cert.len().to_le_bytes()).chain_update(cert).chain_update(key);
                Seen::Content(digest.finalize().into())
            }
            Err(why) => Seen::Trouble(why.to_string()),
        };
        if seen == self.seen && !asked {
            return Look::Same;
        }
        self.seen = seen;
        match read.and_then(|(cert, key)| self.build(&cert, &key)) {
            Ok(config) => Look::New(config),
            Err(why) => Look::Refused(why),
        }
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|error| TlsError::Unreadable { path: path.to_owned(), error });
        Ok((read(&self.cert)?, read(&self.key)?))
    }

    fn build(&self, cert: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate(self.cert.clone()))?;
        let first = chain.first().cloned().ok_or_else(|| TlsError::NoCertificate(self.cert.clone()))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey(self.key.clone()))?;
        let unfit = |error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Strangers { cert: self.cert.clone(), key: self.key.clone() }
            }
            error => TlsError::Unfit { cert: self.cert.clone(), error },
        };
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions().map_err(unfit)?;
        let mut config = config.with_no_client_auth().with_single_cert(chain, key).map_err(unfit)?;
        config.alpn_protocols.clone_from(&self.protocols);
        self.tell(&first);
        Ok(Arc::new(config))
    }

    /// Says how long a certificate is good. One that is not is served all the same: clients refuse it, and each says so.
    fn tell(&self, certificate: &CertificateDer<'_>) {
        let cert = self.cert.display();
        let Ok(parsed) = x509_cert::Certificate::from_der(certificate) else { return };
        let (from, until) = (parsed.tbs_certificate.validity.not_before, parsed.tbs_certificate.validity.not_after);
        let now = SystemTime::now();
        if until.to_system_time() < now {
            tracing::warn!(%cert, %until, "the certificate has expired");
        } else if from.to_system_time() > now {
            tracing::warn!(%cert, %from, "the certificate is not valid yet");
        } else {
            tracing::info!(%cert, %until, "a certificate is served");
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A certificate and its key, as PEM.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn written(folder: &TempDir, (cert, key): &(String, String)) -> Files {
        let files = config::Tls { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        Files::new(&files, Http2::Auto)
    }

    fn refusal(look: Look) -> String {
        match look {
            Look::Refused(why) => why.to_string(),
            Look::Same | Look::New(_) => panic!("not refused"),
        }
    }

    #[test]
    fn a_pair_is_taken_once_and_again_when_it_changes_or_somebody_asks() {
        let folder = TempDir::new().unwrap();
        let mut files = written(&folder, &pair());
        assert_eq!(files.open().unwrap().alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        assert!(matches!(files.look(false), Look::Same));
        assert!(matches!(files.look(true), Look::New(_)));
        let (cert, key) = pair();
        std::fs::write(&files.cert, cert).unwrap();
        // Half of an exchange: told once, and mended by the other half.
        let why = refusal(files.look(false));
        assert!(why.contains("key.pem does not belong to the certificate") && why.contains("cert.pem"), "{why}");
        assert!(matches!(files.look(false), Look::Same));
        std::fs::write(&files.key, key).unwrap();
        assert!(matches!(files.look(false), Look::New(_)));
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_the_file_and_the_reason() {
        let folder = TempDir::new().unwrap();
        let (cert, key) = pair();
        for (cert, key, expected) in [
            (cert.as_str(), "", "key.pem holds no private key in PEM form"),
            ("", key.as_str(), "cert.pem holds no certificate in PEM form"),
            (&key, &key, "cert.pem holds no certificate in PEM form"),
            (&cert, &cert, "key.pem holds no private key in PEM form"),
            (&cert, &key.replace('M', "%"), "key.pem holds no private key in PEM form"),
        ] {
            let why = refusal(written(&folder, &(cert.to_owned(), key.to_owned())).look(false));
            assert!(why.ends_with(expected), "{why}");
        }
        let mut files = written(&folder, &(cert.clone(), key.clone()));
        std::fs::remove_file(&files.key).unwrap();
        let why = refusal(files.look(false));
        assert!(why.contains("key.pem cannot be read: No such file"), "{why}");
        assert!(matches!(files.look(false), Look::Same), "told once");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let why = refusal(written(&folder, &(nonsense.to_owned(), key)).look(false));
        assert!(why.contains("cert.pem cannot be served: "), "{why}");
    }

    #[test]
    fn an_expired_certificate_is_served_and_its_owner_warned() {
        let folder = TempDir::new().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        assert!(written(&folder, &(cert.pem(), key.serialize_pem())).open().is_ok());
    }
}
