//! What an operator does to a running worker: ends it, changes its configuration, gives out tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use corelane_client::{Error, ErrorCode, Options};

use crate::harness::{Answer, BLOCK, Bed, HANG, Lane, Process, assert_same, eventually};

#[test]
fn sigterm_under_load_answers_what_it_took_and_exits_with_zero() {
    let bed = Bed::on_disk();
    let bytes = Arc::new(bed.write("object", 1, 60 * BLOCK));
    let process = bed.start();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|number| {
            let options = Options {
                retries_max: 0,
                ..Options::default()
            };
            let client = process.client_with("", options);
            let (bytes, is_stopping) = (Arc::clone(&bytes), Arc::clone(&is_stopping));
            std::thread::spawn(move || {
                let object = client.open("/data/object").expect("it can be opened");
                let mut reads = 0;
                loop {
                    let start = (number * 7 + reads * 3) % 50 * BLOCK as u64 + 11;
                    let end = start + 5 * BLOCK as u64;
                    match client.read(&object, start..end) {
                        Ok(found) => {
                            let expected = &bytes[start as usize..end as usize];
                            assert_same(&found, expected, "until the end");
                            reads += 1;
                        }
                        // A request that came after the signal is refused or finds nobody.
                        Err(error) => {
                            assert!(
                                is_stopping.load(Ordering::SeqCst),
                                "before the signal: {error}"
                            );
                            return reads;
                        }
                    }
                }
            })
        })
        .collect();
    let job = process.control().load("/data", true);
    job.expect("a load starts");
    eventually("reads are under way", || {
        process.counter("bytes_served") > 4 << 20
    });
    is_stopping.store(true, Ordering::SeqCst);
    process.terminate();
    for reader in readers {
        assert!(reader.join().expect("no wrong byte") > 0);
    }
    let process = bed.start();
    let (_, found) = process
        .client()
        .read_file("/data/object")
        .expect("it serves again");
    assert_same(&found, &bytes, "after the restart");
    process.terminate();
}

#[test]
fn a_second_signal_ends_a_drain_at_once_and_the_log_says_so() {
    for second in [libc::SIGTERM, libc::SIGINT] {
        let bed = Bed::on_disk();
        bed.write("object", 6, 256 * BLOCK);
        let mut process = bed.start();
        // A client that asks for more than sockets hold and reads nothing keeps the drain waiting.
        let (mut lane, _) = Lane::connect(process.data[0]);
        let object = lane.open("/data/object").object;
        for id in 0..200u64 {
            lane.ask(id + 1, object, (id % 16) * (1 << 20), 1 << 20);
        }
        eventually("answers are on their way", || {
            process.counter("bytes_served") >= 4 << 20
        });
        process.signal(libc::SIGTERM);
        eventually("it drains", || {
            process.log().contains("finishing what is under way")
        });
        process.signal(second);
        let status = process.wait();
        let log = process.log();
        assert_eq!(status.code(), Some(130), "{status}\n{log}");
        assert!(log.contains("a second signal: ending at once"), "{log}");
    }
}

#[test]
fn requests_that_were_sent_before_sigterm_are_answered() {
    let bed = Bed::on_disk();
    let bytes = bed.write("object", 2, 16 * BLOCK);
    let process = bed.start();
    let (mut lane, _) = Lane::connect(process.data[0]);
    let object = lane.open("/data/object").object;
    // The first answer shows that the others, which came with it, were taken too.
    for id in 0..16u64 {
        lane.ask(100 + id, object, id * BLOCK as u64, BLOCK as u32);
    }
    let mut answered = Vec::new();
    let mut stopping = None;
    loop {
        match lane.receive() {
            Answer::Read(head, found) => {
                let start = (head.request_id - 100) as usize * BLOCK;
                assert_same(&found, &bytes[start..start + BLOCK], "an answer");
                answered.push(head.request_id);
            }
            Answer::Closed => break,
            Answer::Message(..) | Answer::LookedUp(..) => {}
        }
        if stopping.is_none() {
            process.signal(libc::SIGTERM);
            stopping = Some(());
        }
        if answered.len() == 16 {
            break;
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (100..116).collect::<Vec<_>>());
    drop(lane);
    process.ended_well();
}

#[test]
fn the_default_client_lives_through_a_restart_on_the_same_ports() {
    let mut bed = Bed::on_disk();
    let bytes = bed.write("object", 3, 8 * BLOCK);
    // Below the ports that the kernel gives to clients, which are many while tests run: those of the
    // stopped worker would be taken before it comes back. Shard 1 has the next one.
    let port = 20_000 + std::process::id() % 6_000 * 2;
    bed.listen = format!("127.0.0.1:{port}");
    // Each start has a local token of its own.
    bed.needs_token = true;
    let process = bed.start();
    let client = process.client_with(
        "",
        Options {
            retries_max: 12,
            ..Options::default()
        },
    );
    let object = client.open("/data/object").expect("it can be opened");
    client
        .read(&object, 0..object.length)
        .expect("it can be read");
    process.kill();
    let process = bed.start();
    let found = client
        .read(&object, 0..object.length)
        .expect("the client connects anew");
    assert_same(&found, &bytes, "over a restart");
    assert!(client.counters().retries > 0);
    process.terminate();
}

#[test]
fn sighup_takes_over_mounts_limits_and_tokens_and_a_mistake_changes_nothing() {
    let mut bed = Bed::in_memory();
    let bytes = bed.write("object", 4, BLOCK);
    bed.needs_token = true;
    let process = bed.start();
    let client = process.client();
    client.read_file("/data/object").expect("it is mounted");
    assert!(matches!(
        Lane::silent(process.data[1]).hello(""),
        Answer::Message(_, corelane_rpc_schema::messages::Message::Error(_))
    ));
    let local = corelane_client::local_token::find(&process.data[1].to_string());
    let mut lane = Lane::silent(process.data[1]);
    lane.hello(&local.expect("the worker is this user's"));
    let opened = lane.open("/data/object");

    bed.add_mount("/more", "more", "freshness = \"immutable\"");
    std::fs::write(bed.path("more").join("a"), b"new").expect("an object");
    bed.sections = "[limits]\nunder_store_requests = 3\n".to_owned();
    bed.write_config();
    process.signal(libc::SIGHUP);
    eventually("the mount is there", || client.read_file("/more/a").is_ok());
    eventually("the log says so", || {
        process.log().contains("limits.under_store_requests")
    });

    bed.sections = "[limits]\nunder_store_requests = \"many\"\n".to_owned();
    bed.mounts.pop();
    bed.write_config();
    process.signal(libc::SIGHUP);
    eventually("the log names the mistake", || {
        let log = process.log();
        log.contains("nothing was changed") && log.contains("under_store_requests")
    });
    client
        .read_file("/more/a")
        .expect("a mistake changes nothing");

    bed.sections = "[[token]]\nname = \"trainer\"\nsecret = \"0123456789abcdef\"\n".to_owned();
    bed.cores = 1;
    bed.write_config();
    process.signal(libc::SIGHUP);
    // Configured tokens end the local one, on lanes that are open, too.
    let error = lane.closing_error().expect("the worker says why");
    assert_eq!(error.code, ErrorCode::Unauthenticated, "{}", error.message);
    assert_eq!(opened.length, bytes.len() as u64);
    let known = process.client_with("0123456789abcdef", Options::default());
    let (_, found) = known.read_file("/data/object").expect("the token is known");
    assert_same(&found, &bytes, "with a token");
    assert!(known.read_file("/more/a").is_err(), "the mount is gone");
    eventually("the log says what needs a restart", || {
        let log = process.log();
        log.contains("takes effect at the next start only") && log.contains("cores")
    });
    process.terminate();
}

#[test]
fn lanes_of_tokens_that_are_removed_or_rotated_read_nothing_and_are_closed() {
    let mut bed = Bed::in_memory();
    bed.write("object", 6, BLOCK);
    let token =
        |name: &str, secret: &str| format!("[[token]]\nname = \"{name}\"\nsecret = \"{secret}\"\n");
    let (stays, goes) = ("secret-that-stays", "secret-that-leaked");
    let stayer = token("stayer", stays);
    bed.sections = format!("{stayer}{}", token("goer", goes));
    let process = bed.start();
    for after in [
        stayer.clone(),
        format!("{stayer}{}", token("goer", "secret-of-another")),
    ] {
        bed.sections = format!("{stayer}{}", token("goer", goes));
        bed.write_config();
        process.signal(libc::SIGHUP);
        let enter = |address, secret: &str| {
            let mut lane = Lane::silent(address);
            let answer = lane.hello(secret);
            let is_in = matches!(
                answer,
                Answer::Message(1, corelane_rpc_schema::messages::Message::HelloAnswer(_))
            );
            is_in.then_some(lane)
        };
        let mut lanes = Vec::new();
        for address in &process.data {
            eventually("the token is known", || enter(*address, goes).is_some());
            let mut lane = enter(*address, goes).expect("it is known");
            let object = lane.open("/data/object");
            assert_eq!(lane.read(object.object, 0, 4096).1.len(), 4096);
            lanes.push(lane);
        }
        let mut kept = enter(process.data[0], stays).expect("its token");
        bed.sections = after;
        bed.write_config();
        process.signal(libc::SIGHUP);
        for mut lane in lanes {
            let error = lane.closing_error().expect("the worker says why");
            assert_eq!(error.code, ErrorCode::Unauthenticated, "{}", error.message);
        }
        for address in &process.data {
            assert!(enter(*address, goes).is_none());
        }
        let object = kept.open("/data/object");
        assert_eq!(kept.read(object.object, 0, 4096).1.len(), 4096);
    }
    process.terminate();
}

#[test]
fn unknown_tokens_are_refused_and_mounts_let_only_their_readers_in() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nreaders = [\"trainer\"]");
    bed.sections = ["trainer", "other"]
        .map(|name| format!("[[token]]\nname = \"{name}\"\nsecret = \"secret-of-the-{name}\"\n"))
        .concat();
    let bytes = bed.write("object", 5, 2 * BLOCK);
    let process = bed.start();
    for (what, token) in [
        ("an unknown", "secret-of-nobody"),
        ("half a", "secret-of-the-"),
    ] {
        for address in &process.data {
            let mut lane = Lane::silent(*address);
            match lane.hello(token) {
                Answer::Message(_, corelane_rpc_schema::messages::Message::Error(error)) => {
                    assert_eq!(
                        error.code,
                        ErrorCode::Unauthenticated,
                        "{what} token: {}",
                        error.message
                    );
                    assert!(
                        !error.message.contains("secret-of"),
                        "{what} token: {}",
                        error.message
                    );
                }
                other => panic!("{what} token: {other:?}"),
            }
            assert!(
                lane.closing_error().is_none(),
                "{what} token: then it is closed"
            );
        }
        let address = process.control.to_string();
        let refused = corelane_client::blocking::Control::connect(&address, token, HANG);
        assert!(refused.is_err(), "{what} token on the control plane");
    }
    let trainer = process.client_with("secret-of-the-trainer", Options::default());
    let (object, found) = trainer.read_file("/data/object").expect("it may");
    assert_same(&found, &bytes, "as a reader");

    let other = process.client_with("secret-of-the-other", Options::default());
    let denied = |error: &Error| error.code() == Some(ErrorCode::Denied);
    let error = other.open("/data/object").expect_err("it may not open");
    assert!(denied(&error), "{error}");
    // Nor with an id that it was told, from DRAM, aligned or not.
    for range in [0..4096, 5..17, 0..object.length] {
        let error = other.read(&object, range).expect_err("it may not read");
        assert!(denied(&error), "{error}");
    }
    // Being no operator, neither may change anything.
    let control = process.control_with("secret-of-the-trainer");
    assert!(control.free("/data/object", false).is_err());
    assert!(control.unmount("/data").is_err());
    assert!(
        process
            .control_with("secret-of-the-other")
            .stat("/data/object")
            .is_err()
    );
    assert!(
        process
            .control_with("secret-of-the-other")
            .read("/data/object", 0, 10)
            .is_err()
    );
    let log = process.terminate();
    assert!(!log.contains("secret-of"), "a secret in the log:\n{log}");
}

#[test]
fn mistakes_of_the_configuration_end_the_start_with_exit_code_two_and_their_place() {
    let mut bed = Bed::in_memory();
    bed.sections = "[limits]\nscrub_reads = \"fast\"\n".to_owned();
    let refusal = Process::start(&bed.write_config())
        .err()
        .expect("it is refused");
    assert_eq!(refusal.code, Some(2), "{}", refusal.log);
    assert!(refusal.log.contains("worker.toml"), "{}", refusal.log);
    assert!(refusal.log.contains("scrub_reads"), "{}", refusal.log);
    assert!(!bed.device.exists(), "nothing was created");
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_one_sentence() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    bed.listen = taken.local_addr().expect("it has one").to_string();
    let refusal = Process::start(&bed.write_config())
        .err()
        .expect("it is refused");
    assert_eq!(refusal.code, Some(3), "{}", refusal.log);
    assert!(refusal.log.contains(&bed.listen), "{}", refusal.log);
    assert!(!refusal.log.contains("panicked"), "{}", refusal.log);
}
