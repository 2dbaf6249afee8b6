//! Listening sockets.
//!
//! The socket is opened as on our own ring and then handed to glommio, whose own `bind` lets any
//! other program share the port. Its invariant: one peer that went away ends nothing.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use ::glommio::GlommioError;
use ::glommio::net::TcpListener;

use super::connection::GlommioStream;
use super::core::Core;
use super::system_error;
use crate::Listener;
use crate::error::IoError;
use crate::uring::socket;

/// A listening socket of a [`GlommioIo`](super::GlommioIo).
pub struct GlommioListener {
    core: Rc<Core>,
    local_address: SocketAddr,
    listener: TcpListener,
}

impl GlommioListener {
    pub(super) fn bind(core: &Rc<Core>, address: SocketAddr) -> Result<Self, IoError> {
        GlommioListener::on(core, socket::listen(address)?)
    }

    /// Accepts on a socket that listens.
    pub(super) fn on(core: &Rc<Core>, socket: OwnedFd) -> Result<Self, IoError> {
        let local_address = socket::local_address(&socket)
            .map_err(|error| IoError::from_std(&error, "cannot read the listener's address"))?;
        // SAFETY: an open listening socket, whose ownership goes to the listener.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(GlommioListener {
            core: Rc::clone(core),
            local_address,
            listener,
        })
    }
}

/// Whether the error is of one peer or of one call, not of the listener.
fn passes(error: &GlommioError<()>) -> bool {
    matches!(
        error,
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. }
            if matches!(
                source.raw_os_error(),
                Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO)
            )
    )
}

impl Listener for GlommioListener {
    type Stream = GlommioStream;

    fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    async fn accept(&self) -> Result<GlommioStream, IoError> {
        loop {
            self.core.count_submission();
            let accepted = self.listener.accept().await;
            self.core.count_completion();
            match accepted {
                Ok(stream) => {
                    // Without an address the peer is gone already.
                    if let Ok(peer) = stream.peer_addr() {
                        return Ok(GlommioStream::new(&self.core, stream, peer));
                    }
                }
                Err(error) if passes(&error) => {}
                Err(error) => {
                    let advice =
                        "accepting failed; if descriptors ran out, raise the limit of open files";
                    return Err(system_error(&error, advice).with("listener", self.local_address));
                }
            }
        }
    }
}
