//! TLS on the second listener: its certificate, which is read again when its files change, and
//! the handshake.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error, info};

/// How often the files are looked at. certbot and Kubernetes replace them without a word.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long reading the files may take.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// A client that has not finished its handshake after this long does not speak TLS.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How much rustls keeps for a client that does not read, in bytes; beyond it the client is
/// waited for, as without TLS.
const MAX_BUFFERED: usize = 16 * 1024;

/// The second listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOpts {
    /// A file with the certificate of the server and those between it and its authority (PEM).
    pub certificate: PathBuf,
    /// A file with the private key of the certificate (PEM).
    pub key: PathBuf,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
}

impl TlsOpts {
    /// Checks that the certificate and its key can be used.
    ///
    /// # Errors
    ///
    /// They cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        Pem::read(self)?.parse(self).map(drop)
    }
}

/// Why a certificate and its key cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file with the certificate cannot be read.
    #[error("the certificate in WEBRTC_TLS_CERT ({}) cannot be read: {why}", .file.display())]
    Certificate {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file with the key cannot be read.
    #[error("the private key in WEBRTC_TLS_KEY ({}) cannot be read: {why}", .file.display())]
    Key {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The two do not fit, or are of a kind that rustls does not know.
    #[error(
        "the certificate in WEBRTC_TLS_CERT ({}) and the key in WEBRTC_TLS_KEY ({}) cannot be used \
         together: {}",
        .opts.certificate.display(), .opts.key.display(), of_pair(.why)
    )]
    Pair {
        /// The files.
        opts: TlsOpts,
        /// What is wrong.
        why: rustls::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

fn of_pair(why: &rustls::Error) -> String {
    match why {
        rustls::Error::InconsistentKeys(_) => "the key is that of another certificate".to_owned(),
        other => other.to_string(),
    }
}

/// A certificate with its key, both in PEM as they are in their files.
#[derive(PartialEq, Eq)]
struct Pem {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    fn read(opts: &TlsOpts) -> Result<Self, TlsError> {
        let certificate = read_file(&opts.certificate);
        let certificate = certificate.map_err(|why| wrong_certificate(opts, why.to_string()))?;
        let key = read_file(&opts.key);
        let key = key.map_err(|why| wrong_key(opts, why.to_string()))?;
        Ok(Self { certificate, key })
    }

    fn parse(&self, opts: &TlsOpts) -> Result<CertifiedKey, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|why| wrong_certificate(opts, why.to_string()))?;
        if chain.is_empty() {
            let why = "it has no certificate in PEM".to_owned();
            return Err(wrong_certificate(opts, why));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|why| {
            let why = match why {
                pem::Error::NoItemsFound => "it has no private key in PEM".to_owned(),
                why => why.to_string(),
            };
            wrong_key(opts, why)
        })?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let opts = opts.clone();
        pair.map_err(|why| TlsError::Pair { opts, why })
    }
}

/// Reads a file. A pipe would be empty the second time, or wait for ever.
fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(file)?.is_file() {
        fs::read(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

fn wrong_certificate(opts: &TlsOpts, why: String) -> TlsError {
    let file = opts.certificate.clone();
    TlsError::Certificate { file, why }
}

fn wrong_key(opts: &TlsOpts, why: String) -> TlsError {
    let file = opts.key.clone();
    TlsError::Key { file, why }
}

/// The certificate that new handshakes get.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// The certificate of a server, and how it shakes hands.
pub(super) struct Tls {
    opts: TlsOpts,
    current: Arc<Current>,
    /// What was read last, whether it can be used or not.
    seen: Pem,
    /// Why the files could not be read the last time, and whether the log says so.
    unread: Option<(String, bool)>,
    acceptor: Acceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.opts).finish()
    }
}

/// Shakes hands with clients.
#[derive(Clone)]
pub(super) struct Acceptor(TlsAcceptor);

impl Tls {
    /// Reads the certificate.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn new(opts: TlsOpts) -> Result<Self, TlsError> {
        let seen = Pem::read(&opts)?;
        let current = Current(ArcSwap::from_pointee(seen.parse(&opts)?));
        let current = Arc::new(current);
        let provider: Arc<CryptoProvider> = ring::default_provider().into();
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions();
        let config = config.map_err(TlsError::Setup)?.with_no_client_auth();
        let mut config = config.with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients keep what the server would otherwise remember of each of them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
        config.send_tls13_tickets = 1;
        Ok(Self {
            opts,
            current,
            seen,
            unread: None,
            acceptor: Acceptor(TlsAcceptor::from(Arc::new(config))),
        })
    }

    pub fn acceptor(&self) -> Acceptor {
        self.acceptor.clone()
    }

    /// Follows the files for ever: every ten seconds, and at SIGHUP.
    pub async fn follow_files(mut self) {
        let mut asked = reload_signal();
        loop {
            tokio::select! {
                () = sleep(LOOK_EVERY) => self.look(false).await,
                () = asked.next() => self.look(true).await,
            }
        }
    }

    /// Takes what is in the files, if it is new and can be used. `asked`: somebody wants to know
    /// what came of it.
    async fn look(&mut self, asked: bool) {
        let opts = self.opts.clone();
        // A disk that does not answer must not hold up the server.
        let reading = spawn_blocking(move || Pem::read(&opts));
        let read = match timeout(READ_PATIENCE, reading).await {
            Ok(Ok(Ok(read))) => read,
            Ok(Ok(Err(why))) => return self.unread(why.to_string(), asked),
            Ok(Err(_)) | Err(_) => {
                return self.unread("the files cannot be read in time".into(), asked);
            }
        };
        self.unread = None;
        if read == self.seen {
            if asked {
                info!("the certificate is the same as before");
            }
            return;
        }
        match read.parse(&self.opts) {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                info!("new connections get the new certificate");
            }
            Err(why) => error!(%why, "the old certificate stays"),
        }
        self.seen = read;
    }

    fn unread(&mut self, why: String, asked: bool) {
        if self.is_news(&why, asked) {
            error!(why, "the old certificate stays");
        }
    }

    /// Whether the log is to say that the files cannot be read: once, if it is so twice in a row,
    /// because one of them may just be replaced.
    fn is_news(&mut self, why: &str, asked: bool) -> bool {
        let before = self.unread.take().filter(|(before, _)| before == why);
        let is_told = before.as_ref().is_some_and(|(_, is_told)| *is_told);
        let tells = asked || (before.is_some() && !is_told);
        self.unread = Some((why.to_owned(), tells || is_told));
        tells
    }
}

impl Acceptor {
    /// Shakes hands. None if the client does not, or not in time.
    pub async fn accept(self, stream: TcpStream) -> Option<Box<TlsStream<TcpStream>>> {
        let handshake = self.0.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(MAX_BUFFERED));
        });
        // In a box, so that the task does not reserve room for it at other times.
        match timeout(HANDSHAKE_PATIENCE, Box::pin(handshake)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(why)) => {
                debug!(%why, "a client did not shake hands: does it speak TLS?");
                None
            }
            Err(_) => {
                debug!("a client did not shake hands in time");
                None
            }
        }
    }
}

/// Asks to look at the files now.
struct ReloadSignal(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

#[cfg(unix)]
fn reload_signal() -> ReloadSignal {
    use tokio::signal::unix::{SignalKind, signal};

    let listen: io::Result<_> = signal(SignalKind::hangup());
    ReloadSignal(listen.ok())
}

#[cfg(not(unix))]
fn reload_signal() -> ReloadSignal {
    ReloadSignal()
}

impl ReloadSignal {
    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{net::TcpListener, task::yield_now, time::Instant};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A new certificate and its key, in files of a folder.
    fn write_pair(opts: &TlsOpts) -> Vec<u8> {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&opts.certificate, pair.cert.pem()).unwrap();
        fs::write(&opts.key, pair.signing_key.serialize_pem()).unwrap();
        pair.cert.der().to_vec()
    }

    fn files() -> (tempfile::TempDir, TlsOpts) {
        let folder = tempfile::tempdir().unwrap();
        let opts = TlsOpts {
            certificate: folder.path().join("cert.pem"),
            key: folder.path().join("key.pem"),
            port: 0,
        };
        (folder, opts)
    }

    impl Current {
        fn der(&self) -> Vec<u8> {
            self.0.load().cert[0].to_vec()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_certificate_is_used_within_ten_seconds_and_a_broken_one_never() {
        let (_folder, opts) = files();
        let first = write_pair(&opts);
        let tls = Tls::new(opts.clone()).unwrap();
        let current = tls.current.clone();
        let _following = AbortOnDropHandle::new(tokio::spawn(tls.follow_files()));
        assert_eq!(current.der(), first);
        fs::write(&opts.certificate, "broken").unwrap();
        sleep(LOOK_EVERY * 2).await;
        assert_eq!(current.der(), first);
        // The key of another certificate, as while one of the two files is replaced.
        let second = write_pair(&opts);
        let key = fs::read(&opts.key).unwrap();
        write_pair(&opts);
        fs::write(&opts.key, &key).unwrap();
        sleep(LOOK_EVERY * 2).await;
        assert_eq!(current.der(), first);
        assert_ne!(second, first);
        let third = write_pair(&opts);
        let changed = Instant::now();
        while current.der() != third {
            assert!(changed.elapsed() <= LOOK_EVERY);
            sleep(Duration::from_millis(100)).await;
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_shake_hands_is_given_up() {
        let (_folder, opts) = files();
        write_pair(&opts);
        let tls = Tls::new(opts).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let (stream, _) = accepted.unwrap();
        let began = Instant::now();
        assert!(tls.acceptor().accept(stream).await.is_none());
        assert!(began.elapsed() >= HANDSHAKE_PATIENCE);
    }

    #[test]
    fn files_that_cannot_be_read_are_told_once_if_it_is_so_twice_in_a_row() {
        let (_folder, opts) = files();
        write_pair(&opts);
        let mut tls = Tls::new(opts).unwrap();
        let told = ["a", "a", "a", "b", "b"].map(|why| tls.is_news(why, false));
        assert_eq!(told, [false, true, false, false, true]);
        assert!(tls.is_news("b", true));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let (_folder, opts) = files();
        let error = || Tls::new(opts.clone()).unwrap_err().to_string();
        assert!(error().contains("WEBRTC_TLS_CERT"), "{}", error());
        fs::create_dir(&opts.certificate).unwrap();
        assert!(error().contains("not a regular file"), "{}", error());
        fs::remove_dir(&opts.certificate).unwrap();
        write_pair(&opts);
        let key = fs::read(&opts.key).unwrap();
        fs::write(&opts.key, "x").unwrap();
        assert!(error().contains("no private key in PEM"), "{}", error());
        write_pair(&opts);
        fs::write(&opts.key, key).unwrap();
        assert!(error().contains("cannot be used together"), "{}", error());
        fs::write(&opts.certificate, "").unwrap();
        assert!(error().contains("no certificate in PEM"), "{}", error());
    }
}
