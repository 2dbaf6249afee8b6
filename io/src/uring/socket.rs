//! The few system calls of sockets that are made at start or once a connection, not per request.
//!
//! Sockets are blocking ones: io_uring waits for them itself, and would hand a socket with
//! O_NONBLOCK back with EAGAIN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::error::IoError;

/// Connections that the kernel completes before we accept them. It caps this at
/// `net.core.somaxconn`, 4,096 by default.
const BACKLOG: libc::c_int = 4096;

/// A listening socket.
pub(crate) fn listen(address: SocketAddr) -> Result<OwnedFd, IoError> {
    let listener = TcpListener::bind(address).map_err(|error| {
        IoError::from_std(
            &error,
            "cannot listen; choose another address or port, or stop what uses it",
        )
        .with("address", address)
    })?;
    adopt(listener)
}

/// A listening socket that the standard library made.
pub(crate) fn adopt(listener: TcpListener) -> Result<OwnedFd, IoError> {
    let is_blocking = listener.set_nonblocking(false);
    is_blocking.map_err(|error| IoError::from_std(&error, "cannot make a listener wait"))?;
    // SAFETY: an open socket. The standard library listens with a short backlog; a second call
    // lengthens it, and if it fails the short one stays.
    unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
    Ok(OwnedFd::from(listener))
}

/// An unconnected socket of the family of `address`.
pub(super) fn open(address: SocketAddr) -> Result<OwnedFd, IoError> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: no pointers; the result is checked before it is owned.
    let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        let error = std::io::Error::last_os_error();
        return Err(IoError::from_std(
            &error,
            "cannot open a socket; raise the limit of open files",
        ));
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// `address` as the kernel wants it, and its length.
pub(super) fn encode(address: SocketAddr) -> (Box<libc::sockaddr_storage>, libc::socklen_t) {
    // SAFETY: an all-zero storage is a valid value of it.
    let mut storage: Box<libc::sockaddr_storage> = Box::new(unsafe { std::mem::zeroed() });
    let pointer: *mut libc::sockaddr_storage = &raw mut *storage;
    let length = match address {
        SocketAddr::V4(v4) => {
            let encoded = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from_ne_bytes(v4.ip().octets()),
                },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger than, and aligned for, every address.
            unsafe { pointer.cast::<libc::sockaddr_in>().write(encoded) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let encoded = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: v6.ip().octets(),
                },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { pointer.cast::<libc::sockaddr_in6>().write(encoded) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

fn decode(storage: &libc::sockaddr_storage) -> std::io::Result<SocketAddr> {
    let pointer: *const libc::sockaddr_storage = storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is such an address, and the storage has its size.
            let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Ok(SocketAddr::V6(SocketAddrV6::new(
                ip,
                port,
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            )))
        }
        family => Err(std::io::Error::other(format!("address family {family}"))),
    }
}

type AddressCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn address_by(call: AddressCall, socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    // SAFETY: an all-zero storage is a valid value of it.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the call writes at most `length` bytes to the storage.
    let outcome = unsafe {
        call(
            socket.as_raw_fd(),
            (&raw mut storage).cast(),
            &raw mut length,
        )
    };
    if outcome < 0 {
        return Err(std::io::Error::last_os_error());
    }
    decode(&storage)
}

/// The address that a socket is bound to.
pub(crate) fn local_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    address_by(libc::getsockname, socket)
}

/// The other end of a connected socket.
pub(super) fn peer_address(socket: &OwnedFd) -> std::io::Result<SocketAddr> {
    address_by(libc::getpeername, socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_format() {
        for text in [
            "127.0.0.1:80",
            "10.1.2.3:65535",
            "[::1]:1",
            "[fe80::1%7]:9000",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(
                decode(&encode(address).0).expect("a family we wrote"),
                address
            );
        }
    }
}
