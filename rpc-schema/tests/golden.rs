//! The bytes in `docs/protocol.md` are those that the codec writes and reads. They are written down
//! for implementers, so a change here is a change of the protocol.

use corelane_rpc_schema::frame::{
    ChecksumMode, Decoded, Frame, ReadAnswerHead, ReadFlags, ReadRequest, ReadSource, decode,
    encode_read_answer_head, encode_read_request, page_checksum,
};
use corelane_rpc_schema::messages::{
    ErrorCode, ErrorMessage, Hello, HelloAnswer, Message, Open, OpenAnswer,
};
use corelane_rpc_schema::{ObjectId, READ_BYTES_MAX, STRIPE_BYTES, ShardId};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The bytes of the fenced block ```` ```hex NAME ````; what follows a semicolon is a remark.
fn documented(name: &str) -> Vec<u8> {
    let fence = format!("```hex {name}\n");
    let (_, after) = DOCUMENT
        .split_once(&fence)
        .unwrap_or_else(|| panic!("no block {name}"));
    let (block, _) = after.split_once("```").expect("a closed block");
    block
        .lines()
        .flat_map(|line| {
            line.split(';')
                .next()
                .unwrap_or_default()
                .split_whitespace()
        })
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn assert_documented(name: &str, bytes: &[u8]) {
    assert!(documented(name) == bytes, "{name} is now\n{}", hex(bytes));
}

const OBJECT: ObjectId = ObjectId {
    home: 0x1122_3344_5566_7788,
    version: 0x99aa_bbcc_ddee_ff00,
};

#[test]
fn a_read_request_has_the_documented_bytes() {
    let request = ReadRequest {
        request_id: 7,
        object: OBJECT,
        offset: 0x0100_1000,
        length: 5,
        flags: ReadFlags::CHECKSUMS,
    };
    let mut bytes = Vec::new();
    encode_read_request(&mut bytes, &request);
    assert_documented("read", &bytes);
    assert!(
        matches!(decode(&documented("read")), Ok(Decoded::Frame { frame: Frame::Read(found), .. }) if found == request)
    );
}

#[test]
fn a_read_answer_has_the_documented_bytes() {
    let payload = b"hello";
    let head = ReadAnswerHead {
        request_id: 7,
        source: ReadSource::Device,
        shard_hint: Some(ShardId(3)),
    };
    let mut bytes = Vec::new();
    encode_read_answer_head(
        &mut bytes,
        &head,
        5,
        ChecksumMode::Pages,
        [page_checksum(payload)],
    );
    bytes.extend_from_slice(b"hello\0\0\0");
    assert_documented("read-answer", &bytes);
    let documented = documented("read-answer");
    let Ok(Decoded::Frame {
        frame: Frame::ReadAnswer(answer, found),
        ..
    }) = decode(&documented)
    else {
        panic!("{:?}", decode(&documented));
    };
    assert_eq!((answer.head, found), (head, &payload[..]));
    assert_eq!(answer.checksums.verify(found), Ok(()));
}

fn assert_message_documented(name: &str, request_id: u64, message: Message) {
    let mut bytes = Vec::new();
    message
        .to_frame(request_id, &mut bytes)
        .expect("within the limits");
    assert_documented(name, &bytes);
    let documented = documented(name);
    let Ok(Decoded::Frame {
        frame: Frame::Message(header),
        ..
    }) = decode(&documented)
    else {
        panic!("{:?}", decode(&documented));
    };
    assert_eq!(Message::from_header(header), Ok((request_id, message)));
}

#[test]
fn a_hello_has_the_documented_bytes() {
    let hello = Hello {
        token: String::from("secret"),
        client_name: String::from("demo"),
    };
    assert_message_documented("hello", 1, Message::Hello(hello));
}

#[test]
fn a_hello_answer_has_the_documented_bytes() {
    let answer = HelloAnswer {
        worker_id: String::from("w1"),
        epoch: 2,
        shard: ShardId(0),
        shard_ports: vec![7401, 7402],
        partition_shards: vec![ShardId(0), ShardId(0), ShardId(1), ShardId(1)],
        requests_in_flight_max: 128,
        bytes_in_flight_max: 16 << 20,
        read_bytes_max: READ_BYTES_MAX,
        stripe_bytes: STRIPE_BYTES,
    };
    assert_message_documented("hello-answer", 1, Message::HelloAnswer(answer));
}

#[test]
fn an_open_has_the_documented_bytes() {
    assert_message_documented(
        "open",
        2,
        Message::Open(Open {
            path: String::from("/data/a"),
        }),
    );
}

#[test]
fn an_open_answer_has_the_documented_bytes() {
    let answer = OpenAnswer {
        object: OBJECT,
        length: 0x0100_1005,
        block_bytes: 1 << 20,
        version: String::from("\"e1\""),
        last_modified_ms: 1_700_000_000_000,
        content_type: String::new(),
    };
    assert_message_documented("open-answer", 2, Message::OpenAnswer(answer));
}

#[test]
fn an_error_has_the_documented_bytes() {
    let error = ErrorMessage {
        code: ErrorCode::Busy,
        message: String::from("over a limit"),
        retry_after_ms: 50,
    };
    assert_message_documented("error", 7, Message::Error(error));
}

#[test]
fn a_go_away_has_the_documented_bytes() {
    assert_message_documented("go-away", 0, Message::GoAway);
}
