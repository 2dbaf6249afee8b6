//! What clients may do to a worker, and what the others see of it: nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{Prng, SimIo, SimStream, check_seeds};
use corelane_io::{Io, SendBatch, Stream};
use corelane_rpc_schema::frame::{
    self, Decoded, Frame, MAGIC, ReadFlags, ReadRequest, VERSION, encode_read_request,
};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage, Hello, Message, Open};
use corelane_worker::mount::{Freshness, Mount, MountTable};

use crate::client::Refused;
use crate::oracle::Opened;
use crate::origin::Behaviour;
use crate::scene::{Cast, Scene};
use crate::worker::{mount, side_by_side};

const BLOCK: u64 = 64 << 10;

fn scene(seed: u64) -> Scene {
    let scene = Scene::new(
        seed,
        1,
        vec![mount(0, "/a", BLOCK as u32, Freshness::Immutable)],
    );
    scene.put("/a/x", 20 * BLOCK);
    scene
}

#[test]
fn a_read_that_is_fetched_is_denied_when_its_mount_was_taken_from_its_reader_meanwhile() {
    for shards in [1, 3] {
        let scene = scene(u64::from(shards));
        scene.origin.set_behaviour(Behaviour {
            latency_ns: (10_000_000, 11_000_000),
            ..Behaviour::calm()
        });
        let ended = scene.world.block_on(async {
            let cast = scene.start(shards).await;
            let opened = cast.open("/a/x").await;
            let reads = (0..20).map(|block| cast.lane.read(opened.id, block * BLOCK, 4096));
            let take_away = async {
                cast.io.sleep(Duration::from_millis(2)).await;
                let others = Mount {
                    readers: vec!["others".to_owned()],
                    ..mount(0, "/a", BLOCK as u32, Freshness::Immutable)
                };
                let table = Arc::new(MountTable::new([others]).expect("a valid table"));
                cast.worker.set_mounts(&table).await.expect("alive");
            };
            let (answers, ()) = futures::join!(futures::future::join_all(reads), take_away);
            assert!(
                cast.stat("blocks_filled").await > 0,
                "they were on their way"
            );
            for answer in answers {
                let Err(Refused::Error(error)) = answer else {
                    panic!("{answer:?}");
                };
                assert_eq!(error.code, ErrorCode::Denied, "{}", error.message);
            }
        });
        ended.expect("no crash is scheduled");
    }
}

/// A connection that speaks whatever it is told to.
struct Raw {
    stream: SimStream,
}

impl Raw {
    async fn connect(cast: &Cast) -> Self {
        let stream = cast.io.connect(cast.worker.address(0)).await;
        Raw {
            stream: stream.expect("nothing breaks connections"),
        }
    }

    async fn send(&self, bytes: &[u8]) {
        let mut batch = Box::<SendBatch>::default();
        batch.push_head(bytes);
        // The worker may have closed the connection meanwhile.
        let _ = self.stream.send(batch).await;
    }

    async fn say_hello(&self) {
        self.send(&hello()).await;
    }

    /// Reads until the worker ends the connection; the last error that it sent.
    async fn until_closed(&self) -> Option<ErrorMessage> {
        let mut held = Vec::new();
        let mut last = None;
        while let Ok(received) = self.stream.receive().await {
            if received.is_empty() {
                break;
            }
            held.extend_from_slice(&received);
            let mut start = 0;
            while let Ok(Decoded::Frame { frame, consumed }) = frame::decode(&held[start..]) {
                if let Frame::Message(header) = frame
                    && let Ok((0, Message::Error(error))) = Message::from_header(header)
                {
                    last = Some(error);
                }
                start += consumed;
            }
            held.drain(..start);
        }
        last
    }
}

fn hello_message() -> Message {
    Message::Hello(Hello {
        token: String::new(),
        client_name: "hostile".to_owned(),
    })
}

fn open_message() -> Message {
    Message::Open(Open {
        path: "/a/x".to_owned(),
    })
}

fn message(request_id: u64, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.to_frame(request_id, &mut out).expect("it fits");
    out
}

fn hello() -> Vec<u8> {
    message(1, &hello_message())
}

/// A client in good order that must not notice anything; ends when `io` says so.
async fn read_steadily(cast: &Cast, scene: &Scene, rounds: u64) -> u64 {
    let opened = cast.open("/a/x").await;
    let prng = Prng::new(scene.world.seed());
    for _ in 0..rounds {
        let start = prng.below(20) * BLOCK + prng.below(60_000);
        cast.read(&opened, start..start + 5000).await;
        cast.io.sleep(Duration::from_millis(1)).await;
    }
    rounds
}

async fn until_one_lane(cast: &Cast) {
    for _ in 0..1000 {
        if cast.stat("lanes_open").await == 1 {
            return;
        }
        cast.io.sleep(Duration::from_millis(50)).await;
    }
    panic!("a lane of a client that is gone is still open");
}

/// A prefix with the right magic and version and the rest as given.
fn prefix(kind: u8, words: u16, payload_bytes: u32) -> Vec<u8> {
    let mut out = MAGIC.to_le_bytes().to_vec();
    out.extend([VERSION, kind]);
    out.extend(words.to_le_bytes());
    out.extend([0, 0]);
    out.extend(payload_bytes.to_le_bytes());
    out.extend([0; 4]);
    out
}

#[test]
fn who_breaks_the_protocol_is_told_why_and_nobody_else_notices() {
    let name = "who_breaks_the_protocol_is_told_why_and_nobody_else_notices";
    check_seeds(name, 10, |seed| {
        let scene = scene(seed);
        let mut garbage = vec![0; 300];
        Prng::new(seed).fill(&mut garbage);
        let mut read = Vec::new();
        encode_read_request(
            &mut read,
            &ReadRequest {
                request_id: 1,
                length: 1,
                ..Default::default()
            },
        );
        let mut anonymous_read = Vec::new();
        encode_read_request(
            &mut anonymous_read,
            &ReadRequest {
                length: 1,
                ..Default::default()
            },
        );
        let mut anonymous_lookup = Vec::new();
        frame::encode_lookup(&mut anonymous_lookup, 0, &[1, 2, 3]).expect("it fits");
        let mut answer = hello();
        Message::GoAway.to_frame(0, &mut answer).expect("it fits");
        Message::Error(ErrorMessage {
            code: ErrorCode::Busy,
            message: String::new(),
            retry_after_ms: 0,
        })
        .to_frame(3, &mut answer)
        .expect("it fits");
        let mut damaged = [hello(), read.clone()].concat();
        *damaged.last_mut().expect("it has bytes") ^= 1;
        let cases = [
            ("garbage", garbage),
            ("a message of 512 KiB", prefix(1, u16::MAX, 0)),
            ("a payload of 4 GiB", prefix(3, 2, u32::MAX)),
            ("a read with a payload", prefix(2, 5, 4096)),
            ("a read before the hello", read),
            ("an answer from a client", answer),
            ("a damaged frame", damaged),
            ("a hello with id 0", message(0, &hello_message())),
            (
                "an open with id 0",
                [hello(), message(0, &open_message())].concat(),
            ),
            ("a read with id 0", [hello(), anonymous_read].concat()),
            ("a look-up with id 0", [hello(), anonymous_lookup].concat()),
        ];
        let ended = scene.world.block_on(async {
            let cast = scene.start(1).await;
            let hostile = async {
                for (what, bytes) in &cases {
                    let raw = Raw::connect(&cast).await;
                    // In pieces of any size: a frame may arrive byte by byte.
                    for piece in bytes.chunks(1 + seed as usize * 7) {
                        raw.send(piece).await;
                    }
                    let reason = raw.until_closed().await;
                    let reason =
                        reason.unwrap_or_else(|| panic!("{what} was closed without a reason"));
                    let expected = if *what == "a read before the hello" {
                        ErrorCode::Unauthenticated
                    } else {
                        ErrorCode::Invalid
                    };
                    assert_eq!(reason.code, expected, "{what}: {reason:?}");
                    assert!(reason.message.len() > 10, "{what}: {reason:?}");
                }
            };
            futures::join!(hostile, read_steadily(&cast, &scene, 50));
            until_one_lane(&cast).await;
            assert_eq!(cast.stat("lanes_failed").await, cases.len() as u64);
            assert_eq!(cast.stat("reads_failed").await, 0);
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn who_does_not_say_hello_or_sends_half_of_it_is_closed() {
    let scene = scene(1);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let silent = Raw::connect(&cast).await;
        let half = Raw::connect(&cast).await;
        let hello = hello();
        half.send(&hello[..hello.len() / 2]).await;
        let began = cast.now();
        futures::join!(
            silent.until_closed(),
            half.until_closed(),
            read_steadily(&cast, &scene, 50)
        );
        assert!(cast.now().since(began) < Duration::from_secs(30));
        assert_eq!(cast.stat("lanes_timed_out").await, 2);
        until_one_lane(&cast).await;
    });
    ended.expect("no crash is scheduled");
}

/// So many requests for whole blocks of an object, over and over.
fn block_reads(opened: &Opened, count: u64) -> Vec<u8> {
    let mut reads = Vec::new();
    for request_id in 1..=count {
        encode_read_request(
            &mut reads,
            &ReadRequest {
                request_id,
                object: opened.id,
                offset: request_id % 20 * BLOCK,
                length: BLOCK as u32,
                flags: ReadFlags::CHECKSUMS,
            },
        );
    }
    reads
}

#[test]
fn who_reads_slowly_gets_everything() {
    let scene = scene(3);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let opened = cast.open("/a/x").await;
        cast.read_all(&opened, BLOCK).await;
        let slow = Raw::connect(&cast).await;
        slow.say_hello().await;
        let reads = block_reads(&opened, 32);
        let reading = async {
            let mut left = 32 * BLOCK;
            while left > 0 {
                let received = slow.stream.receive().await;
                let received = received.expect("nothing breaks connections");
                assert!(!received.is_empty(), "cut off with {left} bytes to come");
                left = left.saturating_sub(received.len() as u64);
                // 25 KB/s: all that a lane may have unanswered takes longer than the deadline.
                let pause = Duration::from_micros(40 * received.len() as u64);
                cast.io.sleep(pause).await;
            }
        };
        futures::join!(slow.send(&reads), reading);
        assert_eq!(cast.stat("lanes_timed_out").await, 0);
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn who_never_reads_is_cut_off_and_the_memory_comes_back() {
    check_seeds(
        "who_never_reads_is_cut_off_and_the_memory_comes_back",
        5,
        |seed| {
            let scene = scene(seed);
            let ended = scene.world.block_on(async {
                let cast = scene.start(1).await;
                let opened = cast.open("/a/x").await;
                cast.read_all(&opened, BLOCK).await;
                let deaf = Raw::connect(&cast).await;
                deaf.say_hello().await;
                let reads = block_reads(&opened, 200);
                let rounds = read_steadily(&cast, &scene, 200);
                futures::join!(deaf.send(&reads), rounds);
                let began = cast.now();
                until_one_lane(&cast).await;
                assert!(cast.now().since(began) < Duration::from_secs(60));
                assert_eq!(cast.stat("lanes_timed_out").await, 1);
                assert_eq!(cast.stat("reads_failed").await, 0);
                drop(deaf);
                // All memory is there again: a reader of everything is never told "busy".
                cast.read_all(&opened, 4 * BLOCK).await;
            });
            ended.expect("no crash is scheduled");
        },
    );
}

#[test]
fn more_connections_than_a_worker_takes_are_closed_and_those_it_has_go_on() {
    let mut scene = scene(4);
    scene.site.tuning.lanes_max = 4;
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let idle: Vec<Raw> = futures::future::join_all((0..3).map(|_| Raw::connect(&cast))).await;
        for raw in &idle {
            raw.say_hello().await;
        }
        cast.io.sleep(Duration::from_millis(5)).await;
        let one_too_many = Raw::connect(&cast).await;
        one_too_many.until_closed().await;
        assert_eq!(cast.stat("lanes_refused").await, 1);
        read_steadily(&cast, &scene, 10).await;
        drop(idle);
        until_one_lane(&cast).await;
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn a_stop_answers_what_is_under_way_and_says_goodbye() {
    check_seeds(
        "a_stop_answers_what_is_under_way_and_says_goodbye",
        10,
        |seed| {
            let scene = scene(seed);
            let ended = scene.world.block_on(async {
                let cast = scene.start(1).await;
                let opened = cast.open("/a/x").await;
                let reads = (0..12u64).map(|number| {
                    let (crowd, lane) = (Rc::clone(&cast.crowd), cast.lane.clone());
                    let (opened, io): (_, SimIo) = (opened.clone(), cast.io.clone());
                    async move {
                        let start = number * BLOCK;
                        let read = crowd.read(&lane, &opened, start..start + 4096);
                        let read = read.await.is_some();
                        (read, io.now())
                    }
                });
                let reads = side_by_side(&cast.io, reads);
                let stop = async {
                    cast.io.sleep(Duration::from_micros(300)).await;
                    let began = cast.now();
                    cast.worker
                        .stop(&scene.world)
                        .await
                        .expect("nothing else ends the worker");
                    cast.now().since(began)
                };
                let (reads, took) = futures::join!(reads, stop);
                assert!(
                    reads.iter().all(|(read, _)| *read),
                    "a read under way was dropped"
                );
                assert!(!cast.lane.is_usable(), "the client was told");
                assert!(took < Duration::from_secs(5), "the stop took {took:?}");
            });
            ended.expect("no crash is scheduled");
        },
    );
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let mut scene = scene(5);
    scene.site.tuning.lanes_max = 4;
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let silent: Vec<Raw> =
            futures::future::join_all((0..20).map(|_| Raw::connect(&cast))).await;
        cast.io.sleep(Duration::from_millis(5)).await;
        assert_eq!(cast.stat("lanes_refused").await, 0);
        let raw = Raw::connect(&cast).await;
        raw.say_hello().await;
        read_steadily(&cast, &scene, 10).await;
        drop((silent, raw));
        until_one_lane(&cast).await;
    });
    ended.expect("no crash is scheduled");
}
