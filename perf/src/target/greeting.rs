//! Hello and open, with blocking calls: everything that happens before the clock runs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::frame::{
    Decoded, DecodedHead, Frame, Head, ReadFlags, ReadRequest, decode, decode_head,
    encode_read_request,
};
use corelane_rpc_schema::messages::{Hello, HelloAnswer, Message, Open, OpenAnswer};

/// How long a server may take to answer one of these.
const DEADLINE: Duration = Duration::from_secs(60);

/// A connection that said hello, and what the server answered.
///
/// # Errors
/// When the server cannot be reached or refuses; the text says why.
pub fn connect(address: SocketAddr, token: &str) -> io::Result<(TcpStream, HelloAnswer)> {
    let stream = super::connect(address)?;
    // The first open of an object may wait for its under-store.
    stream.set_read_timeout(Some(DEADLINE))?;
    let hello = Message::Hello(Hello {
        token: match token {
            "" => corelane_client::local_token::find(&address.to_string()).unwrap_or_default(),
            given => given.to_owned(),
        },
        client_name: "corelane-perf".to_owned(),
    });
    match ask(&stream, &hello)? {
        Message::HelloAnswer(answer) => Ok((stream, answer)),
        other => Err(refused("hello", &other)),
    }
}

/// Opens `path`.
///
/// # Errors
/// When the server refuses; the text says why.
pub fn open(stream: &TcpStream, path: &str) -> io::Result<OpenAnswer> {
    match ask(
        stream,
        &Message::Open(Open {
            path: path.to_owned(),
        }),
    )? {
        Message::OpenAnswer(answer) => Ok(answer),
        other => Err(refused(path, &other)),
    }
}

/// Reads a whole object once in order, in pieces of `read_bytes_max` at most, and checks it.
///
/// # Errors
/// When the server refuses a read or a byte is wrong.
pub fn read_all(stream: &TcpStream, object: &OpenAnswer, read_bytes_max: u32) -> io::Result<()> {
    let piece = u64::from(read_bytes_max.min(1 << 20));
    let mut offset = 0;
    while offset < object.length {
        let length = piece.min(object.length - offset) as u32;
        read(stream, object.object, offset, length)?;
        offset += u64::from(length);
    }
    Ok(())
}

/// Reads `length` bytes of `object` from `offset` on, inside one stripe, and checks them.
///
/// # Errors
/// When the server refuses or a byte is wrong.
pub fn read(mut stream: &TcpStream, object: ObjectId, offset: u64, length: u32) -> io::Result<()> {
    let mut bytes = Vec::new();
    let request = ReadRequest {
        request_id: 1,
        object,
        offset,
        length,
        flags: ReadFlags::CHECKSUMS,
    };
    encode_read_request(&mut bytes, &request);
    stream.write_all(&bytes)?;
    bytes.clear();
    loop {
        let needed = match decode(&bytes).map_err(io::Error::other)? {
            Decoded::Incomplete { needed } => needed,
            Decoded::Frame {
                frame: Frame::ReadAnswer(answer, payload),
                ..
            } => {
                return answer.checksums.verify(payload).map_err(io::Error::other);
            }
            Decoded::Frame {
                frame: Frame::Message(header),
                ..
            } => {
                let (_, message) = Message::from_header(header).map_err(io::Error::other)?;
                return Err(refused(&format!("a read at {offset}"), &message));
            }
            Decoded::Frame {
                frame: Frame::Read(_) | Frame::Lookup(..) | Frame::LookupAnswer(..),
                ..
            } => {
                return Err(io::Error::other(
                    "another frame where the answer to a READ was expected",
                ));
            }
        };
        let start = bytes.len();
        bytes.resize(needed, 0);
        stream.read_exact(&mut bytes[start..])?;
    }
}

fn refused(what: &str, answer: &Message) -> io::Error {
    let text = match answer {
        Message::Error(error) => format!("{what}: {}", error.message),
        other => format!("{what}: an answer that does not belong to it: {other:?}"),
    };
    io::Error::other(text)
}

/// Sends `message` as the only request in flight and waits for its answer.
fn ask(mut stream: &TcpStream, message: &Message) -> io::Result<Message> {
    let mut bytes = Vec::new();
    message.to_frame(1, &mut bytes).map_err(io::Error::other)?;
    stream.write_all(&bytes)?;
    bytes.clear();
    loop {
        // Never more than the frame needs, so that nothing of what follows is swallowed.
        let needed = match decode_head(&bytes).map_err(io::Error::other)? {
            DecodedHead::Incomplete { needed } => needed,
            DecodedHead::Head {
                head: Head::Message(header),
                ..
            } => {
                return Message::from_header(header)
                    .map(|(_, message)| message)
                    .map_err(io::Error::other);
            }
            DecodedHead::Head { .. } => {
                return Err(io::Error::other("a READ where a message was expected"));
            }
        };
        let start = bytes.len();
        bytes.resize(needed, 0);
        stream.read_exact(&mut bytes[start..])?;
    }
}
