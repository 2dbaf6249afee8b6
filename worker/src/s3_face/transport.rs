//! Plain streams and TLS, with one face.
//!
//! TLS runs on the data core, over the same stream: what arrives is decrypted into memory of its own,
//! what leaves is encrypted into the heads of a batch, so that frames are copied once there and their
//! pins end with the copy. Its invariant: no byte of an answer leaves in the clear on a TLS listener.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use corelane_io::{IoError, IoErrorKind, SendBatch, Stream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

/// Plaintext that is encrypted at a time: bounds the memory of a send.
const ENCRYPTED_AT_ONCE: usize = 256 << 10;

/// What connections are made secret with.
#[derive(Clone, Debug)]
pub struct TlsAcceptor(Arc<ServerConfig>);

impl TlsAcceptor {
    /// The certificate chain and the private key of two PEM files.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self, String> {
        let wrong = |path: &Path, error: &dyn std::fmt::Display| {
            format!(
                "cannot use {}: {error}; it must be a PEM file",
                path.display()
            )
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| wrong(certificates, &error))?;
        if chain.is_empty() {
            return Err(wrong(certificates, &"it holds no certificate"));
        }
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(certificates, &error))?
            .with_no_client_auth()
            .with_single_cert(chain, key_der)
            .map_err(|error| wrong(key, &error))?;
        Ok(TlsAcceptor(Arc::new(config)))
    }
}

/// A connection, in the clear or not.
pub enum Transport<S> {
    /// In the clear.
    Plain(S),
    /// Under TLS.
    Tls(Box<Tls<S>>),
}

/// Bytes that arrived.
pub enum Received<R> {
    /// In memory of the backend.
    Plain(R),
    /// Decrypted.
    Tls(Vec<u8>),
}

impl<R: Deref<Target = [u8]>> Deref for Received<R> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Received::Plain(bytes) => bytes,
            Received::Tls(bytes) => bytes,
        }
    }
}

/// A stream under TLS.
pub struct Tls<S> {
    stream: S,
    session: ServerConnection,
}

impl<S: Stream> Transport<S> {
    /// Takes a connection over, under TLS where there is an acceptor. The handshake is part of the
    /// first receives.
    ///
    /// # Errors
    /// When a session cannot be made.
    pub async fn accept(stream: S, tls: Option<&TlsAcceptor>) -> Result<Self, IoError> {
        let Some(acceptor) = tls else {
            return Ok(Transport::Plain(stream));
        };
        let session = ServerConnection::new(Arc::clone(&acceptor.0)).map_err(broken)?;
        Ok(Transport::Tls(Box::new(Tls { stream, session })))
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddr {
        match self {
            Transport::Plain(stream) => stream.peer(),
            Transport::Tls(tls) => tls.stream.peer(),
        }
    }

    /// Whether bytes are encrypted on their way.
    pub fn is_secret(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// The next bytes; empty at the end of the stream.
    ///
    /// # Errors
    /// When the connection broke.
    #[inline]
    pub async fn receive(&mut self) -> Result<Received<S::Received>, IoError> {
        match self {
            Transport::Plain(stream) => stream.receive().await.map(Received::Plain),
            Transport::Tls(tls) => tls.receive().await.map(Received::Tls),
        }
    }

    /// Sends a batch and gives it back.
    ///
    /// # Errors
    /// When the connection broke.
    #[inline]
    pub async fn send(&mut self, batch: Box<SendBatch>) -> (Result<(), IoError>, Box<SendBatch>) {
        match self {
            Transport::Plain(stream) => stream.send(batch).await,
            Transport::Tls(tls) => {
                let sent = tls.send(&batch).await;
                (sent, batch)
            }
        }
    }
}

impl<S: Stream> Tls<S> {
    async fn receive(&mut self) -> Result<Vec<u8>, IoError> {
        let mut plain = Vec::new();
        loop {
            // "Would block" says that there is nothing more for now; else the peer ends the stream.
            let is_ended = self.session.reader().read_to_end(&mut plain).is_ok();
            if is_ended || !plain.is_empty() {
                return Ok(plain);
            }
            let received = self.stream.receive().await?;
            if received.is_empty() {
                return Ok(plain);
            }
            let mut input: &[u8] = &received;
            while !input.is_empty() {
                self.session
                    .read_tls(&mut input)
                    .map_err(|error| IoError::from_std(&error, "cannot read TLS"))?;
                let processed = self.session.process_new_packets();
                // Answers of the handshake, and alerts that say what is wrong.
                self.send_records().await?;
                processed.map_err(broken)?;
                // The session takes no record while it holds one that nobody took.
                let _ = self.session.reader().read_to_end(&mut plain);
            }
        }
    }

    async fn send(&mut self, batch: &SendBatch) -> Result<(), IoError> {
        self.session.set_buffer_limit(None);
        let mut pending = 0;
        for part in 0..batch.parts() {
            for piece in batch.part(part).chunks(ENCRYPTED_AT_ONCE) {
                self.session
                    .writer()
                    .write_all(piece)
                    .map_err(|error| IoError::from_std(&error, "cannot encrypt"))?;
                pending += piece.len();
                if pending >= ENCRYPTED_AT_ONCE {
                    self.send_records().await?;
                    pending = 0;
                }
            }
        }
        self.send_records().await
    }

    async fn send_records(&mut self) -> Result<(), IoError> {
        if !self.session.wants_write() {
            return Ok(());
        }
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session
                .write_tls(&mut records)
                .map_err(|error| IoError::from_std(&error, "cannot write TLS"))?;
        }
        let mut batch = Box::new(SendBatch::default());
        batch.push_head(&records);
        self.stream.send(batch).await.0
    }
}

fn broken(error: rustls::Error) -> IoError {
    let sentence = format!("TLS failed: {error}; check the client's protocol and trust");
    IoError::new(IoErrorKind::Disconnected, sentence)
}
