//! What the frame decoder promises for any input at all: no panic, no length beyond the limits, and
//! what it accepts is what it would write.

use corelane_rpc_schema::frame::{
    Decoded, DecodedHead, FRAME_BYTES_MAX, Frame, decode, decode_head, encode_lookup,
    encode_lookup_answer_head, encode_read_answer_head, encode_read_request, lookup_checksum,
    padding,
};
use corelane_rpc_schema::messages::Message;

/// Takes frames off `input` as a receiver does, with their header checksums corrected: a fuzzer
/// does not guess CRCs, and what lies behind them has to be reached.
///
/// # Panics
/// If a promise does not hold.
pub fn hold(input: &[u8]) {
    take_frames(input);
    let mut corrected = input.to_vec();
    correct_checksum(&mut corrected);
    take_frames(&corrected);
}

fn take_frames(mut input: &[u8]) {
    loop {
        let head = decode_head(input);
        match decode(input) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
            Ok(Decoded::Incomplete { needed }) => {
                assert!(needed > input.len() && needed <= FRAME_BYTES_MAX);
                return;
            }
            Ok(Decoded::Frame { frame, consumed }) => {
                assert!(consumed > 0 && consumed <= input.len() && consumed.is_multiple_of(8));
                assert!(matches!(head, Ok(DecodedHead::Head { .. })));
                check_frame(&frame, &input[..consumed]);
                input = &input[consumed..];
            }
        }
    }
}

fn check_frame(frame: &Frame<'_>, bytes: &[u8]) {
    let mut written = Vec::new();
    match frame {
        Frame::Read(request) => {
            let _ = request.check();
            encode_read_request(&mut written, request);
            assert_eq!(written, bytes);
        }
        Frame::ReadAnswer(answer, payload) => {
            let length = payload.len() as u32;
            let checksums = answer.checksums;
            let _ = checksums.verify(payload);
            encode_read_answer_head(
                &mut written,
                &answer.head,
                length,
                checksums.mode(),
                checksums.iter(),
            );
            written.extend_from_slice(payload);
            written.resize(written.len() + padding(length), 0);
            assert_eq!(written, bytes);
        }
        Frame::Lookup(head, payload) => {
            // Other checksums may come with the same payload; only the right one is ever written.
            if lookup_checksum([*payload]) == head.checksum {
                encode_lookup(&mut written, head.request_id, payload).expect("it is not too long");
                assert_eq!(written, bytes);
            }
        }
        Frame::LookupAnswer(head, payload) => {
            let length = payload.len() as u32;
            encode_lookup_answer_head(&mut written, head, length);
            written.extend_from_slice(payload);
            written.resize(written.len() + padding(length), 0);
            assert_eq!(written, bytes);
        }
        Frame::Message(header) => {
            let Ok((request_id, message)) = Message::from_header(header) else {
                return;
            };
            // Other bytes may mean the same message; what we write of it must mean it too.
            message
                .to_frame(request_id, &mut written)
                .expect("what was read is within the limits");
            let Ok(Decoded::Frame {
                frame: Frame::Message(header),
                ..
            }) = decode(&written)
            else {
                panic!("{:?}", decode(&written));
            };
            assert_eq!(Message::from_header(header), Ok((request_id, message)));
        }
    }
}

fn correct_checksum(frame: &mut [u8]) {
    let Some((prefix, rest)) = frame.split_first_chunk_mut::<16>() else {
        return;
    };
    let header_bytes = usize::from(u16::from_le_bytes([prefix[4], prefix[5]])) * 8;
    let Some(header) = rest.get(..header_bytes) else {
        return;
    };
    let mut covered = prefix[..12].to_vec();
    covered.extend_from_slice(header);
    // Short enough that the slowest way is fast enough, and needs nobody else's code.
    let mut checksum = u32::MAX;
    for byte in covered {
        checksum ^= u32::from(byte);
        for _ in 0..8 {
            checksum = (checksum >> 1) ^ (0x82f6_3b78 & (checksum & 1).wrapping_neg());
        }
    }
    prefix[12..].copy_from_slice(&(!checksum).to_le_bytes());
}
