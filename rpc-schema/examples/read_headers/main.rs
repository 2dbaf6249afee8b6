//! What a shard pays for the headers of one 4 KiB read: decoding the request and encoding the
//! answer's head with one checksum, in the fixed layouts and as Cap'n Proto messages behind the
//! same prefix and checksum.
//!
//! ```text
//! cargo run --release -p corelane-rpc-schema --example read_headers            times both
//! … --example read_headers -- fixed|capnp COUNT                                runs one, for callgrind
//! ```
//!
//! Cap'n Proto is used as cheaply as the crate allows: the request is read in place from an aligned
//! buffer, the answer is built in scratch memory that is reused.

use std::hint::black_box;
use std::time::Instant;

use capnp::message::{Builder, Reader, ReaderOptions, ScratchSpaceHeapAllocator, SegmentArray};
use corelane_rpc_schema::frame::{
    ChecksumMode, DecodedHead, Head, ReadAnswerHead, ReadFlags, ReadRequest, ReadSource,
    decode_head, encode_capnp, encode_read_answer_head, encode_read_request,
};
use corelane_rpc_schema::{ObjectId, PAGE_BYTES};

#[allow(
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated code"
)]
mod generated;

use generated::read_capnp::{read, read_answer};

fn request(index: u64) -> ReadRequest {
    ReadRequest {
        request_id: index,
        object: ObjectId {
            home: 7,
            version: 9,
        },
        offset: index * u64::from(PAGE_BYTES),
        length: PAGE_BYTES,
        flags: ReadFlags::CHECKSUMS,
    }
}

/// An aligned copy of a frame.
fn aligned(frame: &[u8]) -> Vec<capnp::Word> {
    let mut words = capnp::Word::allocate_zeroed_vec(frame.len() / 8);
    capnp::Word::words_to_bytes_mut(&mut words).copy_from_slice(frame);
    words
}

fn fixed(count: u64) -> u64 {
    let mut frame = Vec::new();
    encode_read_request(&mut frame, &request(3));
    let frame = aligned(&frame);
    let mut out = Vec::with_capacity(1024);
    let mut sum = 0;
    for _ in 0..count {
        let frame = black_box(capnp::Word::words_to_bytes(&frame));
        let Ok(DecodedHead::Head {
            head: Head::Read(request),
            ..
        }) = decode_head(frame)
        else {
            unreachable!("the frame is a READ")
        };
        sum += request.offset + request.object.home;
        out.clear();
        let head = ReadAnswerHead {
            request_id: request.request_id,
            source: ReadSource::Dram,
            shard_hint: None,
        };
        let checksum = black_box(0x1234_5678);
        encode_read_answer_head(
            &mut out,
            &head,
            request.length,
            ChecksumMode::Pages,
            [checksum],
        );
        black_box(&out);
    }
    sum
}

fn in_schema(count: u64) -> u64 {
    let mut message = Builder::new_default();
    let mut fields: read::Builder<'_> = message.init_root();
    let example = request(3);
    fields.set_request_id(example.request_id);
    fields.set_home(example.object.home);
    fields.set_version(example.object.version);
    fields.set_offset(example.offset);
    fields.set_length(example.length);
    fields.set_flags(1);
    let mut frame = Vec::new();
    encode_capnp(&mut frame, &message).expect("a small message");
    let frame = aligned(&frame);
    let mut scratch = capnp::Word::allocate_zeroed_vec(32);
    let mut allocator =
        ScratchSpaceHeapAllocator::new(capnp::Word::words_to_bytes_mut(&mut scratch));
    let mut out = Vec::with_capacity(1024);
    let mut sum = 0;
    for _ in 0..count {
        let frame = black_box(capnp::Word::words_to_bytes(&frame));
        let Ok(DecodedHead::Head {
            head: Head::Message(segment),
            ..
        }) = decode_head(frame)
        else {
            unreachable!("the frame is a message")
        };
        let segments = [segment];
        let message = Reader::new(SegmentArray::new(&segments), ReaderOptions::new());
        let request: read::Reader<'_> = message.get_root().expect("a READ");
        sum += request.get_offset() + request.get_home();
        black_box((
            request.get_version(),
            request.get_length(),
            request.get_flags(),
        ));
        out.clear();
        let mut answer = Builder::new(&mut allocator);
        let mut fields: read_answer::Builder<'_> = answer.init_root();
        fields.set_request_id(request.get_request_id());
        fields.set_checksum_mode(1);
        fields.set_shard_hint(0xffff);
        fields.init_checksums(1).set(0, black_box(0x1234_5678));
        encode_capnp(&mut out, &answer).expect("a small message");
        black_box(&out);
    }
    sum
}

/// Nanoseconds a run of `body`, the least of nine rounds: noise only adds.
fn nanoseconds(body: impl Fn(u64) -> u64) -> f64 {
    const COUNT: u64 = 1_000_000;
    let rounds = (0..9).map(|_| {
        let start = Instant::now();
        black_box(body(COUNT));
        start.elapsed().as_nanos() as f64 / COUNT as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(1);
    match arguments.next().as_deref() {
        None => {
            println!("decode a READ and encode its answer's head, ns: least of 9 rounds");
            println!("fixed layout  {:6.1}", nanoseconds(fixed));
            println!("Cap'n Proto   {:6.1}", nanoseconds(in_schema));
        }
        Some("fixed") => drop(black_box(fixed(count(arguments.next())))),
        Some("capnp") => drop(black_box(in_schema(count(arguments.next())))),
        Some(_) => println!("usage: read_headers [fixed|capnp COUNT]"),
    }
}
