//! One small GET with blocking calls, for what is asked before and after the clock runs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::responses::{HEAD_BYTES_MAX, read_head};

/// Longest body that is taken: a worker's metrics are some tens of KiB.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// The body of `path` at `address`, as text.
///
/// # Errors
/// When nobody answers in `deadline`, or not with status 200.
pub fn get(address: SocketAddr, path: &str, deadline: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut input = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        if let Some(head) = read_head(&input)? {
            let text = format!("{address} answers GET {path} with {}", head.status);
            if head.status != 200 || head.content_length > BODY_BYTES_MAX {
                return Err(io::Error::other(text));
            }
            let end = head.bytes + head.content_length as usize;
            if input.len() >= end {
                let body = input[head.bytes..end].to_vec();
                return String::from_utf8(body).map_err(io::Error::other);
            }
        } else if input.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other("a head over 64 KiB"));
        }
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => input.extend_from_slice(&part[..bytes]),
        }
    }
}
