//! A client of HTTP/1.1 that sends any bytes and shows all that comes back.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::harness::HANG;

/// The head of a request without a body; `lines` each with their line end.
pub fn request(method: &str, target: &str, lines: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

/// The head of a GET.
pub fn get(target: &str) -> String {
    request("GET", target, "")
}

/// A request with a body and its length.
pub fn with_body(method: &str, target: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let lines = format!("{lines}Content-Length: {}\r\n", body.len());
    [request(method, target, &lines).as_bytes(), body].concat()
}

/// One answer.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(400)];
        write!(
            formatter,
            "{} {:?} {} bytes: {}",
            self.status,
            self.headers,
            self.body.len(),
            String::from_utf8_lossy(shown)
        )
    }
}

impl Answer {
    /// The value of a header that is there at most once.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// The value of a header that must be there.
    #[track_caller]
    pub fn expect(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What stands in the first `<name>` of the body.
    #[track_caller]
    pub fn element(&self, name: &str) -> String {
        let text = self.text();
        let (start, end) = (format!("<{name}>"), format!("</{name}>"));
        let inside = text
            .split_once(&start)
            .and_then(|(_, rest)| rest.split_once(&end));
        let (inside, _) = inside.unwrap_or_else(|| panic!("no <{name}>: {self:?}"));
        inside.to_owned()
    }

    /// Fails unless it has this status and, in its body, this error code.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.element("Code"), code, "{self:?}");
        assert_eq!(self.expect("content-type"), "application/xml");
        assert_eq!(
            self.element("RequestId"),
            self.expect("x-amz-request-id"),
            "{self:?}"
        );
    }
}

/// What came back.
#[derive(Debug)]
pub enum Received {
    Answer(Answer),
    /// A head, and fewer bytes behind it than it promised.
    Cut(Answer),
    /// The end of the connection.
    Closed,
}

/// A connection.
pub struct Connection<S = TcpStream> {
    pub stream: S,
    held: Vec<u8>,
}

impl Connection {
    #[track_caller]
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the face takes connections");
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(HANG)).expect("an option");
        stream.set_write_timeout(Some(HANG)).expect("an option");
        Connection::over(stream)
    }

    /// A connection on which little arrives before it is read.
    #[track_caller]
    pub fn with_little_room(address: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        // Before it connects: the window follows from it.
        socket.set_recv_buffer_size(64 << 10).expect("an option");
        socket.connect(&address.into()).expect("it is taken");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(HANG)).expect("an option");
        stream.set_write_timeout(Some(HANG)).expect("an option");
        Connection::over(stream)
    }

    /// Sends no more.
    pub fn finish(&self) {
        // A peer that has closed already is as well.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl<S: Read + Write> Connection<S> {
    pub fn over(stream: S) -> Self {
        Connection {
            stream,
            held: Vec::new(),
        }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("it is taken");
        self.stream.flush().expect("it is taken");
    }

    /// Sends as much as the other end takes; whether that was all.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok() && self.stream.flush().is_ok()
    }

    /// More bytes; false at the end.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let start = self.held.len();
        self.held.resize(start + (256 << 10), 0);
        let read = self.stream.read(&mut self.held[start..]);
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no answer and no end: {error}")
            }
            // A reset, or TLS without its closing alert.
            Err(_) => 0,
        };
        self.held.truncate(start + count);
        count > 0
    }

    /// The next bytes of the connection, whatever they are; none at its end.
    #[track_caller]
    pub fn raw(&mut self) -> Vec<u8> {
        if self.held.is_empty() {
            self.fill();
        }
        std::mem::take(&mut self.held)
    }

    /// What comes next, where HEAD was asked for or not.
    #[track_caller]
    pub fn receive(&mut self, is_head: bool) -> Received {
        let end = loop {
            if let Some(at) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                assert!(self.held.is_empty(), "half a head: {:?}", self.held);
                return Received::Closed;
            }
        };
        let rest = self.held.split_off(end);
        let head = std::mem::replace(&mut self.held, rest);
        let mut answer = parse(&head);
        let has_body =
            !is_head && answer.status != 100 && answer.status != 204 && answer.status != 304;
        let length = if has_body {
            answer.expect("content-length").parse().expect("a number")
        } else {
            0
        };
        while self.held.len() < length {
            if !self.fill() {
                answer.body = std::mem::take(&mut self.held);
                return Received::Cut(answer);
            }
        }
        let rest = self.held.split_off(length);
        answer.body = std::mem::replace(&mut self.held, rest);
        Received::Answer(answer)
    }

    /// The head of the next answer and what came of its body so far.
    #[track_caller]
    pub fn answer_begun(&mut self) -> Answer {
        loop {
            if let Some(at) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                let mut answer = parse(&self.held[..at + 4]);
                answer.body = self.held[at + 4..].to_vec();
                return answer;
            }
            assert!(self.fill(), "closed without an answer");
        }
    }

    /// The next answer, to a GET or whatever has a body.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        match self.receive(false) {
            Received::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The next answer, to a HEAD.
    #[track_caller]
    pub fn answer_to_head(&mut self) -> Answer {
        match self.receive(true) {
            Received::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    /// Sends and receives.
    #[track_caller]
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        let is_head = bytes.as_ref().starts_with(b"HEAD ");
        self.send(bytes);
        if is_head {
            self.answer_to_head()
        } else {
            self.answer()
        }
    }

    /// Fails unless the other end closed, with nothing before.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let more = self.raw();
        assert!(
            more.is_empty(),
            "not closed: {:?}",
            String::from_utf8_lossy(&more[..more.len().min(400)])
        );
    }
}

/// A head, which must be one that no client could misread.
#[track_caller]
fn parse(head: &[u8]) -> Answer {
    let text = std::str::from_utf8(head).expect("heads are text here");
    let mut lines = text.strip_suffix("\r\n\r\n").expect("an end").split("\r\n");
    let first = lines.next().expect("a line");
    let status = first.strip_prefix("HTTP/1.1 ").expect("a status line");
    let status: u16 = status[..3].parse().expect("three digits");
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").expect("a name and a value");
            assert!(
                value
                    .bytes()
                    .all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f),
                "a control character in {line:?}"
            );
            (name.to_ascii_lowercase(), value.to_owned())
        })
        .collect();
    let answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    if status != 100 {
        assert_eq!(answer.expect("x-amz-request-id").len(), 16);
        assert_eq!(answer.expect("server"), "Corelane");
        assert_eq!(answer.expect("date").len(), 29);
        assert_eq!(answer.header("transfer-encoding"), None, "{answer:?}");
    }
    answer
}
