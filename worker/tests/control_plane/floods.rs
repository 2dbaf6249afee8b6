//! Floods of messages of Cap'n Proto, from peers that take nothing: what they cost the worker stays bounded,
//! and nobody else notices.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use capnp_rpc::rpc_capnp::{exception, message};
use corelane_rpc_schema::generated::worker_capnp::{gate, worker};
use futures::future::join_all;

use crate::world::World;
use crate::{TOKENS, enter, get, start, with_gate};

/// Only for telling a hang from a slow machine.
const HANG: Duration = Duration::from_secs(60);

/// What one connection may cost after the gate, and one message.
const CONNECTION_BYTES_MAX: u64 = (8 << 20) + (2 << 20);

/// What all connections may cost, and a message each.
const ALL_BYTES_MAX: u64 = (32 << 20) + (4 << 20);

fn metric(operations: SocketAddr, name: &str) -> u64 {
    let page = get(operations, "/metrics");
    let mut lines = page.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(known, _)| *known == name);
    let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {page}"));
    value.parse::<f64>().expect("a number") as u64
}

fn bytes_of(message: &Builder<HeapAllocator>) -> Vec<u8> {
    let mut bytes = Vec::new();
    capnp::serialize::write_message(&mut bytes, message).expect("memory");
    bytes
}

fn made(make: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    make(message.init_root());
    bytes_of(&message)
}

fn bootstrap(id: u32) -> Vec<u8> {
    made(|message| message.init_bootstrap().set_question_id(id))
}

/// `enter` on the bootstrap capability that question 0 asked for.
fn enter_call(id: u32, token: &str) -> Vec<u8> {
    made(|message| {
        let mut call = message.init_call();
        call.set_question_id(id);
        call.reborrow()
            .init_target()
            .init_promised_answer()
            .set_question_id(0);
        call.set_interface_id(<gate::Client as capnp::traits::HasTypeId>::TYPE_ID);
        call.set_method_id(0);
        let content = call.init_params().init_content();
        let mut params = content.init_as::<gate::enter_params::Builder<'_>>();
        params.set_token(token);
    })
}

/// A call of the worker that question 1 asked for: `list` or any other method, without parameters.
fn worker_call(id: u32, method: u16) -> Vec<u8> {
    made(|message| {
        let mut call = message.init_call();
        call.set_question_id(id);
        let mut answer = call.reborrow().init_target().init_promised_answer();
        answer.set_question_id(1);
        answer.init_transform(1).get(0).set_get_pointer_field(0);
        call.set_interface_id(<worker::Client as capnp::traits::HasTypeId>::TYPE_ID);
        call.set_method_id(method);
    })
}

fn finish(id: u32) -> Vec<u8> {
    made(|message| message.init_finish().set_question_id(id))
}

type Flood = (&'static str, Box<dyn Fn(u32) -> Vec<u8>>);

/// Messages of every kind, by number; questions begin at 2.
fn floods() -> Vec<Flood> {
    let fixed = |what, bytes: Vec<u8>| -> Flood { (what, Box::new(move |_| bytes.clone())) };
    let echo = made(|message| {
        let provide = message.init_provide();
        let content = provide
            .init_recipient()
            .initn_as::<capnp::data::Builder<'_>>(64 << 10);
        content.fill(7);
    });
    vec![
        ("bootstrap", Box::new(|number| bootstrap(number + 2))),
        (
            "enter",
            Box::new(|number| enter_call(number + 2, "wrong-wrong-wrong")),
        ),
        ("call", Box::new(|number| worker_call(number + 2, 0))),
        (
            "call of nothing",
            Box::new(|number| worker_call(number + 2, 999)),
        ),
        (
            "call and finish",
            Box::new(|number| [worker_call(number + 2, 0), finish(number + 2)].concat()),
        ),
        (
            "results that stay",
            Box::new(|number| {
                made(|message| {
                    let mut call = message.init_call();
                    call.set_question_id(number + 2);
                    call.reborrow()
                        .init_target()
                        .init_promised_answer()
                        .set_question_id(0);
                    call.init_send_results_to().set_yourself(());
                })
            }),
        ),
        (
            "capabilities",
            Box::new(|number| {
                made(|message| {
                    let mut call = message.init_call();
                    call.set_question_id(number + 2);
                    call.reborrow()
                        .init_target()
                        .init_promised_answer()
                        .set_question_id(0);
                    let mut table = call.init_params().init_cap_table(1000);
                    for place in 0..1000 {
                        table
                            .reborrow()
                            .get(place)
                            .set_sender_hosted(number * 1000 + place);
                    }
                })
            }),
        ),
        ("finish", Box::new(|number| finish(number + 2))),
        (
            "release",
            fixed("", made(|message| message.init_release().set_id(77))).1,
        ),
        (
            "resolve",
            Box::new(|number| {
                made(|message| {
                    let mut resolve = message.init_resolve();
                    resolve.set_promise_id(number);
                    resolve.init_cap().set_sender_hosted(number);
                })
            }),
        ),
        (
            "disembargo",
            fixed(
                "",
                made(|message| {
                    let mut disembargo = message.init_disembargo();
                    disembargo
                        .reborrow()
                        .init_target()
                        .init_promised_answer()
                        .set_question_id(0);
                    disembargo.init_context().set_sender_loopback(3);
                }),
            )
            .1,
        ),
        fixed("provide", echo),
        fixed(
            "accept",
            made(|message| message.init_accept().set_question_id(9)),
        ),
        fixed(
            "join",
            made(|message| message.init_join().set_question_id(9)),
        ),
        fixed(
            "unimplemented",
            made(|message| message.init_unimplemented().init_join().set_question_id(9)),
        ),
        fixed(
            "return",
            made(|message| {
                let mut answer = message.init_return();
                answer.set_answer_id(5);
                answer.set_canceled(());
            }),
        ),
        fixed(
            "abort",
            made(|message| message.init_abort().set_type(exception::Type::Failed)),
        ),
        fixed("garbage", vec![0xa5; 64]),
        fixed("zeroes", vec![0; 64]),
    ]
}

/// A peer that takes nothing, unless it is told to.
struct Raw(TcpStream);

impl Raw {
    fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).expect("it listens");
        let wait = Some(Duration::from_millis(300));
        stream.set_write_timeout(wait).expect("a timeout");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        Raw(stream)
    }

    /// Passes the gate with question 1.
    fn entered(address: SocketAddr, token: &str) -> Raw {
        let mut raw = Raw::connect(address);
        let hello = [bootstrap(0), enter_call(1, token)].concat();
        raw.0.write_all(&hello).expect("it reads");
        for _ in 0..2 {
            let answer = capnp::serialize::read_message(&mut raw.0, ReaderOptions::new());
            let answer = answer.expect("an answer");
            let root: message::Reader<'_> = answer.get_root().expect("a message");
            assert!(matches!(root.which(), Ok(message::Return(_))));
        }
        raw
    }

    /// Sends until it is not read any more, or closed, or `count` were sent.
    fn flood(&mut self, count: u32, make: &dyn Fn(u32) -> Vec<u8>) {
        for start in (0..count).step_by(256) {
            let many: Vec<u8> = (start..start + 256).flat_map(make).collect();
            if self.0.write_all(&many).is_err() {
                return;
            }
        }
    }

    /// Whether the worker has closed it, or does so soon; what it sent is taken.
    fn is_closed(&mut self) -> bool {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            }
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < HANG, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn before_the_gate_a_flood_of_any_message_is_cut_off_at_once() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(&world, TOKENS);
    let (control, operations) = (worker.control_address(), worker.operations_address());
    for (what, make) in floods() {
        let cut = metric(operations, "corelane_control_connections_cut_total");
        let mut raw = Raw::connect(control);
        raw.0.write_all(&bootstrap(0)).expect("it reads");
        raw.flood(20_000, &*make);
        let most = metric(operations, "corelane_control_bytes");
        assert!(most < 1 << 20, "{what}: {most}");
        assert!(raw.is_closed(), "{what}");
        let is_counted = || metric(operations, "corelane_control_connections_cut_total") > cut;
        // These end the conversation by themselves.
        if !matches!(
            what,
            "release" | "disembargo" | "unimplemented" | "return" | "abort" | "garbage"
        ) && !matches!(
            what,
            "call" | "call of nothing" | "call and finish" | "resolve"
        ) {
            until(what, is_counted);
        }
        drop(raw);
        until(what, || metric(operations, "corelane_control_bytes") == 0);
    }
    until("all are gone", || {
        metric(operations, "corelane_control_connections_open") == 0
    });
    worker.stop().expect("ended well");
}

#[test]
fn behind_the_gate_a_flood_of_any_message_stays_within_its_bounds() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(&world, TOKENS);
    let (control, operations) = (worker.control_address(), worker.operations_address());
    for (what, make) in floods() {
        let mut raw = Raw::entered(control, "training-training");
        raw.flood(100_000, &*make);
        let most = metric(operations, "corelane_control_bytes");
        assert!(most < CONNECTION_BYTES_MAX, "{what}: {most}");
        // Others are served meanwhile.
        with_gate(control, async |gate| {
            let worker = enter(&gate, "training-training").await.expect("in");
            worker.mounts_request().send().promise.await.expect(what);
        });
        drop(raw);
        until(what, || metric(operations, "corelane_control_bytes") == 0);
    }
    assert!(metric(operations, "corelane_control_connections_cut_total") > 0);
    worker.stop().expect("ended well");
}

#[test]
fn answers_that_are_never_finished_end_the_connection_and_finished_ones_do_not() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(&world, TOKENS);
    let control = worker.control_address();
    let cut = || {
        metric(
            worker.operations_address(),
            "corelane_control_connections_cut_total",
        )
    };
    // All answers are taken: it is not for its bytes that it ends.
    let mut raw = Raw::entered(control, "training-training");
    let mut taking = raw.0.try_clone().expect("a handle");
    let taker = std::thread::spawn(move || std::io::copy(&mut taking, &mut std::io::sink()));
    raw.flood(3_000, &|number| bootstrap(number + 2));
    until("it is cut off", || cut() == 1);
    let _ = taker.join().expect("no panic");

    let mut raw = Raw::entered(control, "training-training");
    let mut taking = raw.0.try_clone().expect("a handle");
    let taker = std::thread::spawn(move || {
        let mut answers = 0;
        while let Ok(answer) = capnp::serialize::read_message(&mut taking, ReaderOptions::new()) {
            let root: message::Reader<'_> = answer.get_root().expect("a message");
            assert!(matches!(root.which(), Ok(message::Return(_))), "an answer");
            answers += 1;
            if answers == 20_000 {
                break;
            }
        }
        answers
    });
    // Cancelled ones among them: each has its return all the same.
    for start in (0..20_000u32).step_by(32) {
        let many: Vec<u8> = (start..start + 32)
            .flat_map(|number| [worker_call(number + 2, 1), finish(number + 2)].concat())
            .collect();
        let wait = Some(HANG);
        raw.0.set_write_timeout(wait).expect("a timeout");
        raw.0.write_all(&many).expect("it reads");
    }
    assert_eq!(taker.join().expect("no panic"), 20_000);
    assert_eq!(cut(), 1);
    worker.stop().expect("ended well");
}

#[test]
fn replies_that_are_not_taken_are_bounded_over_all_connections() {
    let world = World::with_files(&[("/data/big", 64 << 20)]);
    let worker = start(&world, TOKENS);
    let (control, operations) = (worker.control_address(), worker.operations_address());
    let read = |id: u32| {
        let mut message = Builder::new_default();
        let root: message::Builder<'_> = message.init_root();
        let mut call = root.init_call();
        call.set_question_id(id);
        let mut answer = call.reborrow().init_target().init_promised_answer();
        answer.set_question_id(1);
        answer.init_transform(1).get(0).set_get_pointer_field(0);
        call.set_interface_id(<worker::Client as capnp::traits::HasTypeId>::TYPE_ID);
        call.set_method_id(READ_METHOD);
        let content = call.init_params().init_content();
        let mut params = content.init_as::<worker::read_params::Builder<'_>>();
        params.set_path("/data/big");
        params.set_length(1 << 20);
        bytes_of(&message)
    };
    let mut deaf: Vec<Raw> = (0..16)
        .map(|_| Raw::entered(control, "training-training"))
        .collect();
    for raw in &mut deaf {
        let all: Vec<u8> = (2..66).flat_map(&read).collect();
        raw.0.write_all(&all).expect("it reads");
    }
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(3) {
        most = most.max(metric(operations, "corelane_control_bytes"));
        assert!(most <= ALL_BYTES_MAX, "{most}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(most > 8 << 20, "the reads are under way: {most}");
    // Whoever takes its answers is served, all the calls that it may have at a time.
    with_gate(control, async |gate| {
        let worker = enter(&gate, "training-training").await.expect("in");
        let reads = (0..64u64).map(|number| {
            let mut request = worker.read_request();
            request.get().set_path("/data/big");
            request.get().set_offset(number << 20);
            request.get().set_length(1 << 20);
            request.send().promise
        });
        for (number, answer) in join_all(reads).await.into_iter().enumerate() {
            let answer = answer.unwrap_or_else(|error| panic!("read {number}: {error}"));
            let data = answer
                .get()
                .and_then(|answer| answer.get_data())
                .expect("data");
            assert_eq!(data.len(), 1 << 20);
        }
    });
    drop(deaf);
    until("all is given back", || {
        metric(operations, "corelane_control_bytes") == 0
    });
    worker.stop().expect("ended well");
}

/// Ordinal of `read` in the schema.
const READ_METHOD: u16 = 12;

#[test]
fn connections_that_only_wait_keep_nobody_out() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(
        &world,
        &format!("{TOKENS}[limits]\ncontrol_connections = 4\n"),
    );
    let control = worker.control_address();
    let silent: Vec<Raw> = (0..12).map(|_| Raw::connect(control)).collect();
    with_gate(control, async |gate| {
        let worker = enter(&gate, "training-training").await.expect("in");
        worker
            .mounts_request()
            .send()
            .promise
            .await
            .expect("served");
    });
    drop(silent);
    worker.stop().expect("ended well");
}

#[test]
fn idle_connections_to_the_operations_port_keep_no_probe_waiting() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(&world, "[limits]\noperations_connections = 4\n");
    let operations = worker.operations_address();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..60)
        .map(|number| {
            let beginning: &[u8] = match number % 3 {
                0 => b"GET /healthz HT",
                // Whoever has asked once waits like the others.
                1 => b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
                _ => b"POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
            };
            let over = std::sync::Arc::clone(&is_over);
            std::thread::spawn(move || {
                // Each comes back as soon as it is cut off.
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut raw = Raw::connect(operations);
                    let wait = Some(Duration::from_millis(500));
                    raw.0.set_read_timeout(wait).expect("a timeout");
                    let _ = raw.0.write_all(beginning);
                    while matches!(raw.0.read(&mut [0; 256]), Ok(count) if count > 0) {}
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(200));
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let began = Instant::now();
        assert!(get(operations, "/healthz").ends_with("ok\n"));
        assert!(get(operations, "/readyz").ends_with("serving\n"));
        slowest = slowest.max(began.elapsed());
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("no panic"));
    // Without room made it is the 10 s of an idle connection.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    worker.stop().expect("ended well");
}
