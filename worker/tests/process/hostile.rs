//! Clients that mean harm or are broken: closed with a reason, within the memory, unnoticed by
//! everyone else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corelane_client::Options;
use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::frame::{
    ChecksumMode, PREFIX_BYTES, ReadAnswerHead, ReadFlags, ReadRequest, encode_read_answer_head,
    encode_read_request,
};
use corelane_rpc_schema::messages::{ErrorCode, Hello, Message, Open};

use crate::harness::{Answer, BLOCK, Bed, Lane, Process, Random, assert_same, eventually};

/// What a process may hold beyond its budget (memory_over_budget_mib of the gate).
const OVER_BUDGET_BYTES: u64 = 64 << 20;

/// Reads one object over and over beside the others; must never fail.
struct Bystander {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Bystander {
    fn start(process: &Process, path: &'static str, bytes: Vec<u8>) -> Self {
        let client = process.client_with(
            "",
            Options {
                retries_max: 0,
                ..Options::default()
            },
        );
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut reads = 0;
            while !over.load(Ordering::SeqCst) {
                let (_, found) = client.read_file(path).expect("others are not affected");
                assert_same(&found, &bytes, path);
                reads += 1;
                // Enough to notice; a whole core would slow down what is waited for.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            reads
        });
        Bystander { is_over, thread }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        let reads = self.thread.join().expect("the bystander was not disturbed");
        assert!(reads > 0);
    }
}

#[track_caller]
fn assert_within_memory(process: &Process) {
    // `dram` of the bed.
    let budget = 160 << 20;
    let resident = process.resident_bytes();
    assert!(
        resident <= budget + OVER_BUDGET_BYTES,
        "{} MiB resident of a budget of {} MiB",
        resident >> 20,
        budget >> 20
    );
}

fn hello_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello = Message::Hello(Hello {
        token: String::new(),
        client_name: "x".to_owned(),
    });
    hello.to_frame(1, &mut bytes).expect("it fits");
    bytes
}

fn read_frame(object: ObjectId, length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let request = ReadRequest {
        request_id: 9,
        object,
        offset: 0,
        length,
        flags: ReadFlags::CHECKSUMS,
    };
    encode_read_request(&mut bytes, &request);
    bytes
}

/// A prefix as a client might send it to make the worker wait for, or take memory for, the rest.
fn prefix(kind: u8, words: u16, payload: u32) -> Vec<u8> {
    let mut bytes = vec![0x43, 0x4c, 1, kind];
    bytes.extend_from_slice(&words.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&payload.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    assert_eq!(bytes.len(), PREFIX_BYTES);
    bytes
}

#[test]
fn broken_frames_close_their_lane_with_a_reason_and_nobody_else_notices() {
    let bed = Bed::in_memory();
    let bytes = bed.write("object", 1, 3 * BLOCK);
    let process = bed.start();
    let object = Lane::connect(process.data[0]).0.open("/data/object").object;
    let bystander = Bystander::start(&process, "/data/object", bytes);

    let mut answer = Vec::new();
    encode_read_answer_head(
        &mut answer,
        &ReadAnswerHead::default(),
        0,
        ChecksumMode::None,
        [],
    );
    let mut flipped = read_frame(object, 4096);
    flipped[30] ^= 1;
    let after_hello = [
        (
            "not a frame",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("a header of 512 KiB", prefix(1, u16::MAX, 0)),
        ("a payload of 4 GiB", prefix(2, 5, u32::MAX)),
        ("a payload with a message", prefix(1, 8, 4 << 20)),
        ("an unknown kind", prefix(9, 5, 0)),
        ("an answer", answer),
        ("a flipped bit", flipped),
        ("zeroes", vec![0; 4096]),
    ];
    for (what, garbage) in after_hello {
        for address in &process.data {
            let (mut lane, _) = Lane::connect(*address);
            lane.send(&garbage).expect("the worker reads");
            let error = lane
                .closing_error()
                .unwrap_or_else(|| panic!("{what}: closed without a reason"));
            assert_eq!(error.code, ErrorCode::Invalid, "{what}: {}", error.message);
            assert!(!error.message.is_empty(), "{what}");
        }
    }
    // No hello, and a wrong start altogether.
    for (what, first) in [
        ("a read before hello", read_frame(object, 4096)),
        ("garbage before hello", vec![0xff; 64]),
    ] {
        let mut lane = Lane::silent(process.data[0]);
        lane.send(&first).expect("the worker reads");
        assert!(
            lane.closing_error().is_some(),
            "{what}: closed without a reason"
        );
    }
    bystander.end();
    assert!(process.counter("lanes_failed") >= 18);
    assert_within_memory(&process);
    process.terminate();
}

#[test]
fn random_bytes_and_frames_cut_anywhere_never_hurt_the_worker() {
    let bed = Bed::in_memory();
    let bytes = bed.write("object", 2, 2 * BLOCK);
    let process = bed.start();
    let object = Lane::connect(process.data[0]).0.open("/data/object").object;
    let bystander = Bystander::start(&process, "/data/object", bytes);
    let mut open = Vec::new();
    let message = Message::Open(Open {
        path: "/data/object".to_owned(),
    });
    message.to_frame(2, &mut open).expect("it fits");
    let sound: Vec<u8> = [hello_frame(), open, read_frame(object, 4096)].concat();
    let mut random = Random::new(3);
    for round in 0..300u64 {
        let mut lane = Lane::silent(process.data[(round % 2) as usize]);
        let mut sent = sound.clone();
        for _ in 0..random.below(4) {
            let place = random.below(sent.len() as u64) as usize;
            sent[place] = random.next() as u8;
        }
        sent.truncate(random.below(sent.len() as u64 + 1) as usize);
        // It may have been closed halfway through.
        let _ = lane.send(&sent);
    }
    bystander.end();
    eventually("all those lanes are gone", || {
        process.counter("lanes_open") <= 1
    });
    assert_within_memory(&process);
    process.terminate();
}

#[test]
fn a_lane_that_says_nothing_or_half_a_frame_is_closed_with_the_reason() {
    let bed = Bed::in_memory();
    let process = bed.start();
    let silent = Lane::silent(process.data[0]);
    let mut half_hello = Lane::silent(process.data[1]);
    let hello = hello_frame();
    half_hello
        .send(&hello[..hello.len() / 2])
        .expect("the worker reads");
    let (mut half_read, _) = Lane::connect(process.data[0]);
    let object = ObjectId {
        home: 1,
        version: 1,
    };
    let read = read_frame(object, 4096);
    half_read
        .send(&read[..read.len() - 1])
        .expect("the worker reads");
    let (mut idle, _) = Lane::connect(process.data[1]);
    for (mut lane, reason) in [
        (silent, "no hello"),
        (half_hello, "no hello"),
        (half_read, "the rest of a frame"),
    ] {
        let error = lane.closing_error().expect("a reason");
        assert!(error.message.contains(reason), "{}", error.message);
    }
    assert_eq!(process.counter("lanes_timed_out"), 3);
    // One that said hello and has nothing to ask may wait for as long as it likes.
    idle.ask(4, object, 0, 4096);
    assert!(matches!(
        idle.receive(),
        Answer::Message(4, Message::Error(_))
    ));
    process.terminate();
}

#[test]
fn wrong_requests_are_answered_with_an_error_and_the_lane_goes_on() {
    let bed = Bed::in_memory();
    let bytes = bed.write("object", 4, BLOCK);
    let process = bed.start();
    let (mut lane, _) = Lane::connect(process.data[0]);
    let object = lane.open("/data/object").object;
    let unknown = ObjectId {
        home: 12345,
        version: 678,
    };
    let length = BLOCK as u32;
    for (what, object, offset, length, code) in [
        ("no bytes", object, 0, 0, ErrorCode::Invalid),
        ("too many bytes", object, 0, u32::MAX, ErrorCode::Invalid),
        ("beyond the end", object, 1, length, ErrorCode::Invalid),
        (
            "far beyond the end",
            object,
            1 << 40,
            4096,
            ErrorCode::Invalid,
        ),
        (
            "the largest offset",
            object,
            u64::MAX,
            1,
            ErrorCode::Invalid,
        ),
        (
            "across stripes",
            object,
            (16 << 20) - 1,
            2,
            ErrorCode::Invalid,
        ),
        (
            "an unknown object",
            unknown,
            0,
            4096,
            ErrorCode::ObjectUnknown,
        ),
        (
            "an unknown object far away",
            unknown,
            1 << 45,
            4096,
            ErrorCode::ObjectUnknown,
        ),
    ] {
        lane.ask(5, object, offset, length);
        match lane.receive() {
            Answer::Message(5, Message::Error(error)) => {
                assert_eq!(error.code, code, "{what}: {}", error.message);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    for (path, code) in [
        ("/data/absent", ErrorCode::NotFound),
        ("/nowhere/object", ErrorCode::NoMount),
        ("/data/../../etc/passwd", ErrorCode::Invalid),
        ("", ErrorCode::NoMount),
    ] {
        lane.send_message(
            6,
            &Message::Open(Open {
                path: path.to_owned(),
            }),
        );
        match lane.receive() {
            Answer::Message(6, Message::Error(error)) => {
                assert_eq!(error.code, code, "`{path}`: {}", error.message);
            }
            other => panic!("`{path}`: {other:?}"),
        }
    }
    let (_, found) = lane.read(object, 0, length);
    assert_same(&found, &bytes, "after all that");
    process.terminate();
}

#[test]
fn floods_of_unread_answers_stay_within_the_memory_and_others_are_served() {
    let bed = Bed::in_memory();
    let bytes = bed.write("object", 5, 16 * BLOCK);
    let small = bed.write("small", 6, 9000);
    let process = bed.start();
    let (mut lane, hello) = Lane::connect(process.data[0]);
    let object = lane.open("/data/object").object;
    lane.read(object, 0, bytes.len() as u32);
    let bystander = Bystander::start(&process, "/data/small", small);
    let mut flooders = Vec::new();
    for number in 0..8 {
        let (mut lane, _) = Lane::connect(process.data[number % 2]);
        for id in 0..u64::from(hello.requests_in_flight_max) {
            // All within the credits; not one answer is read.
            if (id + 1) * bytes.len() as u64 > hello.bytes_in_flight_max {
                break;
            }
            lane.ask(10 + id, object, 0, bytes.len() as u32);
        }
        flooders.push(lane);
    }
    assert_within_memory(&process);
    // Who comes now is served as well, long before the flooders are cut off.
    let newcomer = process.client();
    for _ in 0..10 {
        newcomer.read_file("/data/small").expect("it is served");
    }
    assert_eq!(process.counter("lanes_timed_out"), 0);
    bystander.end();
    // The flooders change their mind: every answer is there and right.
    for mut lane in flooders {
        match lane.receive() {
            Answer::Read(_, found) => assert_same(&found, &bytes, "a late answer"),
            other => panic!("{other:?}"),
        }
    }
    process.terminate();
}

#[test]
fn two_thousand_idle_connections_cost_little_and_disturb_nobody() {
    let bed = Bed::in_memory();
    let bytes = bed.write("object", 7, 2 * BLOCK);
    let process = bed.start();
    let bystander = Bystander::start(&process, "/data/object", bytes);
    let mut lanes: Vec<Lane> = (0..2000)
        .map(|number| Lane::silent(process.data[number % 2]))
        .collect();
    let hello = hello_frame();
    for lane in &mut lanes {
        lane.send(&hello).expect("the worker reads");
    }
    for lane in &mut lanes {
        let answer = lane.receive();
        assert!(
            matches!(answer, Answer::Message(1, Message::HelloAnswer(_))),
            "{answer:?}"
        );
    }
    assert!(process.counter("lanes_open") >= 2000);
    assert_within_memory(&process);
    bystander.end();
    drop(lanes);
    eventually("they are gone", || process.counter("lanes_open") == 0);
    process.terminate();
}

#[test]
fn names_of_clients_make_no_lines_of_the_log() {
    let mut bed = Bed::in_memory();
    bed.sections = "[log]\nlevel = \"debug\"\n".to_owned();
    bed.write("object", 1, 100);
    let process = bed.start();
    for address in &process.data {
        let mut lane = Lane::silent(*address);
        let hello = Hello {
            token: String::new(),
            client_name: "x\nERROR forged\u{1b}[31m\u{202e}".to_owned(),
        };
        lane.send_message(1, &Message::Hello(hello));
        lane.receive();
        // A broken frame: the lane is closed, and the log says whose it was.
        lane.send(&[0xff; 64]).expect("it is taken");
        assert!(lane.closing_error().is_some());
    }
    let log = process.terminate();
    assert!(
        log.contains("x\\nERROR forged\\u{1b}[31m\\u{202e}"),
        "{log}"
    );
    assert!(
        log.lines().all(|line| !line.starts_with("ERROR forged")),
        "{log}"
    );
    assert!(
        !log.contains('\u{1b}') && !log.contains('\u{202e}'),
        "{log}"
    );
}
