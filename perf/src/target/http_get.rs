//! GETs with blocking calls, one at a time: what is asked before and after the clock runs, and answers
//! too large for a load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::responses::{HEAD_BYTES_MAX, read_head};

/// Longest body that is taken: a worker's metrics are some tens of KiB.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Bytes of one receive.
const RECEIVE_BYTES: usize = 64 << 10;

/// A connection that is kept between GETs.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// The last answer, and room for the next bytes.
    input: Vec<u8>,
}

impl Connection {
    /// To `address`; connecting, and each receive of an answer, may take `deadline`.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn open(address: SocketAddr, deadline: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, deadline)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(deadline))?;
        Ok(Connection {
            stream,
            address,
            input: Vec::new(),
        })
    }

    /// The body of `path`, up to the next GET.
    ///
    /// # Errors
    /// When the answer does not come in time, or not with status 200.
    pub fn get(&mut self, path: &str) -> io::Result<&[u8]> {
        self.ask(path, "")
    }

    fn ask(&mut self, path: &str, lines: &str) -> io::Result<&[u8]> {
        let address = self.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n");
        self.stream.write_all(request.as_bytes())?;
        let mut filled = 0;
        let mut body = None;
        loop {
            if body.is_none()
                && let Some(head) = read_head(&self.input[..filled])?
            {
                let text = format!("{address} answers GET {path} with {}", head.status);
                if head.status != 200 || head.content_length > BODY_BYTES_MAX {
                    return Err(io::Error::other(text));
                }
                body = Some(head.bytes..head.bytes + head.content_length as usize);
            }
            match &body {
                Some(body) if filled >= body.end => return Ok(&self.input[body.clone()]),
                None if filled > HEAD_BYTES_MAX => {
                    return Err(io::Error::other("a head over 64 KiB"));
                }
                _ => {}
            }
            if self.input.len() < filled + RECEIVE_BYTES {
                self.input.resize(filled + RECEIVE_BYTES, 0);
            }
            match self.stream.read(&mut self.input[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => filled += bytes,
            }
        }
    }
}

/// The body of `path` at `address`, as text.
///
/// # Errors
/// When nobody answers in `deadline`, or not with status 200.
pub fn get(address: SocketAddr, path: &str, deadline: Duration) -> io::Result<String> {
    let mut connection = Connection::open(address, deadline)?;
    let body = connection.ask(path, "Connection: close\r\n")?;
    String::from_utf8(body.to_vec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn bodies_of_any_length_come_one_after_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let bodies = [vec![b'a'; 10], vec![b'b'; 3 << 20], Vec::new()];
        let served = bodies.clone();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            for body in served {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).expect("a request");
                    request.push(byte[0]);
                }
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).expect("sent");
                stream.write_all(&body).expect("sent");
            }
        });
        let deadline = Duration::from_secs(20);
        let mut connection = Connection::open(address, deadline).expect("connected");
        for body in &bodies {
            assert!(connection.get("/").expect("an answer") == body);
        }
        server.join().expect("no panic");
    }
}
