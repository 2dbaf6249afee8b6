//! The listeners of a real worker: who may listen where, and what peers that take nothing or only wait cost
//! the others.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, StringArray};
use corelane_rpc_schema::frame::encode_lookup;
use corelane_rpc_schema::messages::{ErrorCode, Message};
use std::sync::Arc;

use crate::harness::{
    Answer, BLOCK, Bed, Http, Lane, Process, assert_same, bootstrap_message, eventually,
};
use crate::lookup_table::{request, write_file};

const S3: &str = "[s3]\nanonymous = [\"read\"]\n";

/// A port that is free now, below those that the kernel gives by itself.
fn free_ports(count: u16) -> u16 {
    let first = 20_000 + (std::process::id() % 5_000) as u16 * 2;
    (first..first + 2_000)
        .find(|port| {
            (*port..port + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .expect("some ports are free")
}

#[test]
fn a_port_in_use_is_a_failure_of_the_environment_for_every_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    for name in ["listen", "control", "operations", "s3.listen"] {
        let mut bed = Bed::in_memory();
        bed.cores = 1;
        bed.sections = S3.to_owned();
        if name == "listen" {
            bed.listen = address.to_string();
        }
        let path = bed.write_config();
        let mut text = std::fs::read_to_string(&path).expect("it was written");
        match name {
            "listen" => {}
            "s3.listen" => text.push_str(&format!("listen = \"{address}\"\n")),
            name => {
                text = text.replace(
                    &format!("{name} = \"127.0.0.1:0\""),
                    &format!("{name} = \"{address}\""),
                );
            }
        }
        if name != "s3.listen" {
            text.push_str("listen = \"127.0.0.1:0\"\n");
        }
        std::fs::write(&path, text).expect("it can be written");
        let refusal = Process::start(&path).err().expect("the port is taken");
        assert_eq!(refusal.code, Some(3), "{name}: {}", refusal.log);
        assert!(refusal.log.contains(name), "{name}: {}", refusal.log);
        assert!(
            refusal.log.contains(&address.to_string()),
            "{}",
            refusal.log
        );
    }
}

#[test]
fn a_worker_starts_right_after_the_last_one_was_killed() {
    let port = free_ports(5);
    let mut bed = Bed::in_memory();
    bed.listen = format!("127.0.0.1:{port}");
    bed.sections = format!("{S3}listen = \"127.0.0.1:{}\"\n", port + 4);
    let bytes = bed.write("object", 1, 3 * BLOCK);
    for _ in 0..5 {
        let process = bed.start();
        let (_, found) = process.client().read_file("/data/object").expect("served");
        assert_same(&found, &bytes, "after a start");
        process.kill();
    }
    bed.start().terminate();
}

#[test]
fn answers_to_look_ups_that_are_not_taken_are_bounded_and_others_are_served() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    std::fs::create_dir_all(bed.path("source/wide")).expect("a directory");
    let keys: ArrayRef = Arc::new((0..6000).collect::<Int64Array>());
    let names: ArrayRef = Arc::new(
        (0..6000)
            .map(|row| Some(format!("{row:0>1000}")))
            .collect::<StringArray>(),
    );
    let path = bed.path("source/wide/table.parquet");
    write_file(&path, &[("key", keys), ("name", names)], 1000);
    let process = bed.start();
    let mut asked = request(vec!["/data/wide/table.parquet".to_owned()], "key >= 0");
    asked.select = ["key", "name"].map(str::to_owned).into();
    let payload = asked.encode();
    let frame = |id: u64| {
        let mut frame = Vec::new();
        encode_lookup(&mut frame, id, &payload).expect("it fits");
        frame
    };
    let (mut taking, _) = Lane::connect(process.data[0]);
    let mut look_up = |id: u64| {
        taking.send(&frame(id)).expect("it reads");
        taking.receive()
    };
    match look_up(1) {
        Answer::LookedUp(head, payload) => {
            assert_eq!(head.rows, 6000);
            assert!(payload.len() > 5 << 20, "a long answer: {}", payload.len());
        }
        other => panic!("{other:?}"),
    }
    let before = process.resident_bytes();
    let mut deaf: Vec<Lane> = (0..4).map(|_| Lane::connect(process.data[0]).0).collect();
    for lane in &mut deaf {
        for id in 1..=120 {
            lane.send(&frame(id)).expect("it reads");
        }
    }
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(5) {
        most = most.max(process.resident_bytes().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(50));
    }
    // 480 answers of 6 MB; 32 MiB of them may wait, and some are being made.
    assert!(most < 160 << 20, "{} MiB more", most >> 20);
    assert!(process.counter("lookup_bytes_unsent") <= 32 << 20);
    // Others are served, or told to come again until those are cut off.
    let began = Instant::now();
    loop {
        match look_up(2) {
            Answer::LookedUp(..) => break,
            Answer::Message(2, Message::Error(error)) => {
                assert_eq!(error.code, ErrorCode::Busy, "{}", error.message);
                assert!(error.retry_after_ms > 0);
            }
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "not served");
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("who takes nothing is cut off", || {
        process.counter("lanes_timed_out") == 4
    });
    eventually("their answers are gone", || {
        process.counter("lookup_bytes_unsent") == 0
    });
    drop(deaf);
    process.terminate();
}

#[test]
fn lanes_that_take_nothing_do_not_stall_s3_or_other_lanes() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    bed.sections = format!("{S3}listen = \"127.0.0.1:0\"\n");
    let bytes = bed.write("object", 5, 16 * BLOCK);
    let cold = bed.write("cold", 6, 16 * BLOCK);
    let process = bed.start();
    let (mut lane, _) = Lane::connect(process.data[0]);
    let object = lane.open("/data/object").object;
    lane.read(object, 0, bytes.len() as u32);
    let mut deaf: Vec<Lane> = (0..160).map(|_| Lane::connect(process.data[0]).0).collect();
    for lane in &mut deaf {
        for id in 0..8 {
            lane.ask(10 + id, object, 0, bytes.len() as u32);
        }
    }
    let s3 = process.s3.expect("it is open");
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(8) {
        let asked = Instant::now();
        let mut http = Http::connect(s3).expect("it listens");
        for (path, wanted) in [("/data/object", &bytes), ("/data/cold", &cold)] {
            let answer = http.ask("GET", path, &[], b"").expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_same(&answer.body, wanted, path);
        }
        let (_, found) = lane.read(object, 0, bytes.len() as u32);
        assert_same(&found, &bytes, "another lane");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Without a bound it is the whole deadline of a lane, 30 s.
    assert!(slowest < Duration::from_secs(8), "{slowest:?}");
    drop(deaf);
    process.terminate();
}

#[test]
fn control_messages_that_nobody_takes_answers_to_cost_no_memory() {
    let bed = Bed::in_memory();
    let process = bed.start();
    let before = process.resident_bytes();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let address = process.control;
            std::thread::spawn(move || {
                let mut sent = 0u32;
                let mut open = Vec::new();
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(6) {
                    let mut stream = TcpStream::connect(address).expect("it listens");
                    let wait = Some(Duration::from_millis(200));
                    stream.set_write_timeout(wait).expect("a timeout");
                    while began.elapsed() < Duration::from_secs(6) {
                        let many: Vec<u8> = (0..1000u32)
                            .flat_map(|_| {
                                sent += 1;
                                bootstrap_message(sent)
                            })
                            .collect();
                        if stream.write_all(&many).is_err() {
                            break;
                        }
                    }
                    open.push(stream);
                    open.truncate(8);
                }
            })
        })
        .collect();
    let mut most = 0;
    while threads.iter().any(|thread| !thread.is_finished()) {
        most = most.max(process.resident_bytes().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert!(most < 32 << 20, "{} MiB more", most >> 20);
    process.terminate();
}

#[test]
fn a_worker_that_says_it_is_ready_serves_on_every_listener() {
    let port = free_ports(5);
    let mut bed = Bed::in_memory();
    bed.listen = format!("127.0.0.1:{port}");
    let path = bed.write_config();
    let text = std::fs::read_to_string(&path).expect("it was written");
    let fixed = |name: &str, port: u16| {
        (
            format!("{name} = \"127.0.0.1:0\""),
            format!("{name} = \"127.0.0.1:{port}\""),
        )
    };
    let (from, to) = fixed("operations", port + 3);
    let text = text.replace(&from, &to);
    let (from, to) = fixed("control", port + 4);
    std::fs::write(&path, text.replace(&from, &to)).expect("it can be written");
    let waiting = std::thread::spawn(move || {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "never ready");
            let ready = TcpStream::connect(("127.0.0.1", port + 3)).and_then(|mut stream| {
                stream.write_all(
                    b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                )?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text.starts_with("HTTP/1.1 200"))
            });
            if matches!(ready, Ok(true)) {
                break;
            }
        }
        for shard in 0..2 {
            Lane::connect(([127, 0, 0, 1], port + shard).into());
        }
        TcpStream::connect(("127.0.0.1", port + 4)).expect("the control plane");
    });
    let process = Process::start(&path).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    waiting.join().expect("everything serves once it is ready");
    process.terminate();
}
