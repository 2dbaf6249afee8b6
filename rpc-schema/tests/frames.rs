//! What the frame codec promises: round trips, tolerance of any split, and refusal of anything
//! damaged, for every kind of frame.

use corelane_rpc_schema::frame::{
    ChecksumMode, Decoded, DecodedHead, FRAME_BYTES_MAX, Frame, FrameError, HEAD_BYTES_MAX,
    HEADER_WORDS_MAX_READ_ANSWER, Head, PREFIX_BYTES, READ_REQUEST_BYTES, ReadAnswerHead,
    ReadFlags, ReadRequest, ReadSource, decode, decode_head, encode_read_answer_head,
    encode_read_request, lookup_checksum, padding, page_checksum,
};
use corelane_rpc_schema::messages::{
    ErrorCode, ErrorMessage, Hello, HelloAnswer, Message, Open, OpenAnswer,
};
use corelane_rpc_schema::{ObjectId, PARTITIONS_MAX, READ_BYTES_MAX, STRIPE_BYTES, ShardId};
use proptest::prelude::*;

fn read_request() -> impl Strategy<Value = ReadRequest> {
    (any::<[u64; 4]>(), any::<u32>(), 0..4u8).prop_map(
        |([request_id, home, version, offset], length, flags)| {
            let mut request = ReadRequest {
                request_id,
                object: ObjectId { home, version },
                offset,
                length,
                flags: ReadFlags::NONE,
            };
            if flags & 1 != 0 {
                request.flags = request.flags.with(ReadFlags::CHECKSUMS);
            }
            if flags & 2 != 0 {
                request.flags = request.flags.with(ReadFlags::NO_FILL);
            }
            request
        },
    )
}

#[derive(Clone, Debug)]
struct Answer {
    head: ReadAnswerHead,
    mode: ChecksumMode,
    payload: Vec<u8>,
}

impl Answer {
    fn frame(&self) -> Vec<u8> {
        let checksums: Vec<u32> = match self.mode {
            ChecksumMode::None => vec![],
            ChecksumMode::Pages => self.payload.chunks(4096).map(page_checksum).collect(),
            ChecksumMode::Range => vec![crc32c::crc32c(&self.payload)],
        };
        let payload_bytes = self.payload.len() as u32;
        let mut out = Vec::new();
        encode_read_answer_head(&mut out, &self.head, payload_bytes, self.mode, checksums);
        out.extend_from_slice(&self.payload);
        out.resize(out.len() + padding(payload_bytes), 0);
        out
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    let source = prop_oneof![
        Just(ReadSource::Dram),
        Just(ReadSource::Device),
        Just(ReadSource::UnderStore)
    ];
    let mode = prop_oneof![
        Just(ChecksumMode::None),
        Just(ChecksumMode::Pages),
        Just(ChecksumMode::Range)
    ];
    let length = prop_oneof![0..40usize, 4090..4100usize, 12_000..20_000usize];
    (
        any::<u64>(),
        source,
        proptest::option::of(0..u16::MAX),
        mode,
        length,
        any::<u8>(),
    )
        .prop_map(
            |(request_id, source, shard_hint, mode, length, first)| Answer {
                head: ReadAnswerHead {
                    request_id,
                    source,
                    shard_hint: shard_hint.map(ShardId),
                },
                mode,
                payload: (0..length)
                    .map(|index| first.wrapping_add(((index * 31) >> 3) as u8))
                    .collect(),
            },
        )
}

fn text(maximum: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..maximum / 4).prop_map(String::from_iter)
}

fn message() -> impl Strategy<Value = Message> {
    let hello_answer = (
        text(256),
        any::<[u64; 3]>(),
        any::<[u32; 2]>(),
        1..=256u16,
        0..=10u32,
    )
        .prop_map(
            |(
                worker_id,
                [epoch, bytes, stripe_bytes],
                [requests, read_bytes_max],
                shards,
                log2,
            )| {
                Message::HelloAnswer(HelloAnswer {
                    worker_id,
                    epoch,
                    shard: ShardId(shards - 1),
                    shard_ports: (0..shards).map(|shard| 7000 + shard).collect(),
                    partition_shards: (0..1u16 << log2)
                        .map(|partition| ShardId(partition % shards))
                        .collect(),
                    requests_in_flight_max: requests,
                    bytes_in_flight_max: bytes,
                    read_bytes_max,
                    stripe_bytes,
                })
            },
        );
    let open_answer = (any::<[u64; 4]>(), any::<u32>(), text(1024), text(256)).prop_map(
        |([home, object_version, length, last_modified_ms], block_bytes, version, content_type)| {
            Message::OpenAnswer(OpenAnswer {
                object: ObjectId {
                    home,
                    version: object_version,
                },
                length,
                block_bytes,
                version,
                last_modified_ms,
                content_type,
            })
        },
    );
    prop_oneof![
        (text(1024), text(64))
            .prop_map(|(token, client_name)| Message::Hello(Hello { token, client_name })),
        hello_answer,
        text(2048).prop_map(|path| Message::Open(Open { path })),
        open_answer,
        (any::<prop::sample::Index>(), text(1024), any::<u32>()).prop_map(
            |(code, message, retry_after_ms)| {
                Message::Error(ErrorMessage {
                    code: *code.get(&CODES),
                    message,
                    retry_after_ms,
                })
            }
        ),
        Just(Message::GoAway),
    ]
}

const CODES: [ErrorCode; 11] = [
    ErrorCode::Internal,
    ErrorCode::Busy,
    ErrorCode::NotFound,
    ErrorCode::Denied,
    ErrorCode::Unauthenticated,
    ErrorCode::VersionChanged,
    ErrorCode::ObjectUnknown,
    ErrorCode::UnderStore,
    ErrorCode::Invalid,
    ErrorCode::Draining,
    ErrorCode::NoMount,
];

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        read_request().prop_map(|request| {
            let mut frame = Vec::new();
            encode_read_request(&mut frame, &request);
            frame
        }),
        answer().prop_map(|answer| answer.frame()),
        (any::<u64>(), message()).prop_map(|(id, message)| message_frame(id, &message)),
    ]
}

fn message_frame(request_id: u64, message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    message
        .to_frame(request_id, &mut frame)
        .expect("within the limits");
    frame
}

/// Everything that a receiver does with bytes; must never panic.
fn receive(input: &[u8]) -> Result<(), FrameError> {
    decode_head(input)?;
    match decode(input)? {
        Decoded::Frame {
            frame: Frame::Message(header),
            ..
        } => Message::from_header(header).map(drop),
        Decoded::Frame {
            frame: Frame::ReadAnswer(answer, payload),
            ..
        } => {
            let _ = answer.checksums.verify(payload);
            Ok(())
        }
        Decoded::Frame {
            frame: Frame::Lookup(head, payload),
            ..
        } => {
            let _ = lookup_checksum([payload]) == head.checksum;
            Ok(())
        }
        Decoded::Frame {
            frame: Frame::LookupAnswer(head, payload),
            ..
        } => {
            assert!(head.statistics_bytes as usize <= payload.len());
            Ok(())
        }
        Decoded::Frame {
            frame: Frame::Read(request),
            ..
        } => {
            let _ = request.check();
            Ok(())
        }
        Decoded::Incomplete { needed } => {
            assert!(
                needed > input.len() && needed <= FRAME_BYTES_MAX,
                "{needed} of {}",
                input.len()
            );
            Ok(())
        }
    }
}

proptest! {
    #[test]
    fn a_read_request_comes_back_as_it_went(request in read_request(), rest in any::<Vec<u8>>()) {
        let mut bytes = vec![];
        encode_read_request(&mut bytes, &request);
        bytes.extend(rest);
        let decoded = Decoded::Frame { frame: Frame::Read(request), consumed: READ_REQUEST_BYTES };
        prop_assert_eq!(decode(&bytes), Ok(decoded));
    }

    #[test]
    fn a_read_answer_comes_back_as_it_went(answer in answer(), rest in any::<Vec<u8>>()) {
        let mut bytes = answer.frame();
        let whole = bytes.len();
        bytes.extend(rest);
        let Ok(Decoded::Frame { frame: Frame::ReadAnswer(decoded, payload), consumed }) = decode(&bytes) else {
            panic!("{:?}", decode(&bytes));
        };
        prop_assert_eq!((decoded.head, consumed), (answer.head, whole));
        prop_assert_eq!(whole % 8, 0);
        prop_assert_eq!(decoded.checksums.mode(), answer.mode);
        prop_assert_eq!(decoded.checksums.verify(payload), Ok(()));
        prop_assert_eq!(payload, answer.payload);
    }

    #[test]
    fn a_message_comes_back_as_it_went_from_any_alignment(
        id in any::<u64>(), message in message(), shift in 0..8usize,
    ) {
        let mut bytes = vec![0xaa; shift];
        message.to_frame(id, &mut bytes).expect("within the limits");
        let Ok(Decoded::Frame { frame: Frame::Message(header), consumed }) = decode(&bytes[shift..]) else {
            panic!("{:?}", decode(&bytes[shift..]));
        };
        prop_assert_eq!(consumed, bytes.len() - shift);
        prop_assert_eq!(Message::from_header(header), Ok((id, message)));
    }

    #[test]
    fn every_split_is_incomplete_and_then_the_frame(frame in any_frame(), split in any::<prop::sample::Index>()) {
        let split = split.index(frame.len());
        match decode(&frame[..split]) {
            Ok(Decoded::Incomplete { needed }) => prop_assert!(split < needed && needed <= frame.len()),
            other => panic!("{other:?}"),
        }
        if let Ok(DecodedHead::Incomplete { needed }) = decode_head(&frame[..split]) {
            prop_assert!(split < needed && needed <= frame.len());
        }
        let whole = matches!(decode(&frame), Ok(Decoded::Frame { consumed, .. }) if consumed == frame.len());
        prop_assert!(whole);
    }

    #[test]
    fn one_changed_byte_is_always_noticed(
        frame in any_frame(), at in any::<prop::sample::Index>(), change in 1..=u8::MAX,
    ) {
        let mut damaged = frame.clone();
        let at = at.index(frame.len());
        damaged[at] ^= change;
        match decode(&damaged) {
            Err(_) => {}
            Ok(Decoded::Incomplete { .. }) => prop_assert!((4..6).contains(&at), "byte {at} lengthened the header"),
            Ok(Decoded::Frame { frame: Frame::ReadAnswer(answer, payload), .. }) => {
                prop_assert!(at >= frame.len() - payload.len() - 7, "byte {at} is in the head");
                let noticed = answer.checksums.verify(payload).is_err();
                prop_assert!(noticed || answer.checksums.mode() == ChecksumMode::None);
            }
            Ok(other) => panic!("byte {at} changed: {other:?}"),
        }
    }

    #[test]
    fn garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = receive(&garbage);
    }

    #[test]
    fn garbage_with_a_good_checksum_never_panics(
        kind in 0..5u8, words in 0..20u16, payload_bytes in 0..100u32,
        body in proptest::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 300),
    ) {
        let _ = receive(&sealed(kind, words, payload_bytes, body));
    }
}

/// A frame with the given prefix and `body` behind it, whose checksum holds.
fn sealed(kind: u8, words: u16, payload_bytes: u32, body: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![0x43, 0x4c, 1, kind];
    frame.extend(words.to_le_bytes());
    frame.extend([0, 0]);
    frame.extend(payload_bytes.to_le_bytes());
    let header = &body[..usize::from(words) * 8];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), header);
    frame.extend(checksum.to_le_bytes());
    frame.extend(body);
    frame
}

#[test]
fn the_largest_hello_answer_fits() {
    let answer = HelloAnswer {
        worker_id: "w".repeat(256),
        shard_ports: vec![u16::MAX; 256],
        partition_shards: vec![ShardId(255); PARTITIONS_MAX as usize],
        ..HelloAnswer::default()
    };
    message_frame(1, &Message::HelloAnswer(answer));
}

#[test]
fn the_longest_read_fits_and_all_its_lengths_are_at_their_limits() {
    let answer = Answer {
        head: ReadAnswerHead::default(),
        mode: ChecksumMode::Pages,
        payload: vec![7; READ_BYTES_MAX as usize],
    };
    let frame = answer.frame();
    assert_eq!(frame.len(), HEAD_BYTES_MAX + READ_BYTES_MAX as usize);
    assert!(frame.len() <= FRAME_BYTES_MAX);
    assert_eq!(receive(&frame), Ok(()));
}

#[test]
fn an_error_message_is_cut_and_always_sent() {
    let error = ErrorMessage {
        code: ErrorCode::Busy,
        message: "ä".repeat(4000),
        retry_after_ms: 3,
    };
    let frame = message_frame(9, &Message::Error(error));
    let Ok(Decoded::Frame {
        frame: Frame::Message(header),
        ..
    }) = decode(&frame)
    else {
        panic!("{:?}", decode(&frame));
    };
    let Ok((9, Message::Error(error))) = Message::from_header(header) else {
        panic!("an error for request 9")
    };
    assert_eq!(
        (error.code, error.message),
        (ErrorCode::Busy, "ä".repeat(512))
    );
}

#[test]
fn a_path_over_its_limit_is_refused_by_the_sender_and_by_the_receiver() {
    let open = Message::Open(Open {
        path: "p".repeat(2049),
    });
    let mut out = vec![1];
    let refusal = Err(FrameError::FieldTooLong {
        field: "path",
        length: 2049,
        maximum: 2048,
    });
    assert_eq!(open.to_frame(1, &mut out), refusal);
    assert_eq!(out, [1]);
}

/// Each way of being wrong has its own reason, and the reason reaches the peer.
#[test]
fn every_refusal_says_why() {
    let request = || {
        let mut frame = Vec::new();
        encode_read_request(
            &mut frame,
            &ReadRequest {
                request_id: 1,
                ..ReadRequest::default()
            },
        );
        frame
    };
    let changed = |at: usize, value: u8| {
        let mut frame = request();
        frame[at] = value;
        frame
    };
    let mut read_with_flag = vec![0; 40];
    read_with_flag[36] = 4;
    let mut bad_source = vec![0; 16];
    bad_source[8] = 3;
    let mut bad_mode = vec![0; 16];
    bad_mode[9] = 9;
    let mut huge_count = vec![0; 24];
    huge_count[9] = 2;
    huge_count[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut padded = vec![0; 24];
    (padded[9], padded[12], padded[23]) = (2, 1, 1);
    let cases: [(Vec<u8>, &str); 14] = [
        (b"GET / HTTP/1.1\r\n".to_vec(), "0x4547 instead of 0x4c43"),
        (changed(2, 2), "protocol version 2 is not 1"),
        (changed(3, 9), "header kind 9 is unknown"),
        (changed(4, 6), "a header of kind 2 cannot have 6 words"),
        (
            sealed(1, 513, 0, vec![0; 513 * 8]),
            "a header of kind 1 cannot have 513 words",
        ),
        (
            sealed(3, HEADER_WORDS_MAX_READ_ANSWER + 1, 0, vec![0; 516 * 8]),
            "kind 3 cannot have 515 words",
        ),
        (changed(6, 1), "bytes 6 and 7 of the prefix is not zero"),
        (
            changed(8, 1),
            "a frame of kind 2 cannot carry 1 payload bytes",
        ),
        (
            sealed(3, 2, READ_BYTES_MAX + 1, vec![0; 16]),
            "kind 3 cannot carry 4194305 payload bytes",
        ),
        (changed(20, 1), "the header's CRC-32C is"),
        (
            sealed(2, 5, 0, read_with_flag),
            "READ flags 0x4 are unknown",
        ),
        (sealed(3, 2, 0, bad_source), "source 3 is unknown"),
        (sealed(3, 2, 0, bad_mode), "checksum mode 9 is unknown"),
        (
            sealed(3, 3, 4, huge_count),
            "4294967295 checksums in 3 header words do not fit 4 payload bytes",
        ),
    ];
    for (frame, reason) in cases {
        let error = decode(&frame).expect_err(reason);
        assert!(
            error.to_string().contains(reason),
            "{error} should say: {reason}"
        );
        let Message::Error(message) = error.to_message() else {
            panic!("not an error message")
        };
        assert!(message.message.contains(reason), "{message:?}");
    }
    let error = decode(&sealed(3, 3, 0, padded)).expect_err("padding");
    assert_eq!(
        error,
        FrameError::Reserved {
            field: "padding of the checksums"
        }
    );
}

#[test]
fn a_prefix_that_lies_is_refused_before_its_payload_comes() {
    let frame = sealed(3, 2, READ_BYTES_MAX, vec![0; 16]);
    let Ok(DecodedHead::Head {
        head: Head::ReadAnswer(_),
        consumed: 32,
        payload_bytes: READ_BYTES_MAX,
    }) = decode_head(&frame)
    else {
        panic!("{:?}", decode_head(&frame));
    };
    let mut damaged = frame;
    damaged[10] = 0x20;
    assert!(matches!(
        decode(&damaged),
        Err(FrameError::HeaderChecksum { .. })
    ));
    assert_eq!(
        decode(&[]),
        Ok(Decoded::Incomplete {
            needed: PREFIX_BYTES
        })
    );
}

#[test]
fn a_message_that_points_at_itself_is_refused() {
    // A root whose list of ports claims half a gigabyte.
    let honest = Message::HelloAnswer(HelloAnswer {
        shard_ports: vec![1],
        partition_shards: vec![ShardId(0)],
        stripe_bytes: STRIPE_BYTES,
        ..HelloAnswer::default()
    });
    let frame = message_frame(1, &honest);
    let mut refused = 0;
    for at in PREFIX_BYTES..frame.len() {
        let mut body = frame[PREFIX_BYTES..].to_vec();
        body[at - PREFIX_BYTES] = 0xff;
        let words = (body.len() / 8) as u16;
        refused += u32::from(receive(&sealed(1, words, 0, body)).is_err());
    }
    assert!(refused > 20, "only {refused} damaged messages were refused");
}
