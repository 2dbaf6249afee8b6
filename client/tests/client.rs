//! The client against a server that does what the test says, over real sockets.

mod lane_server;

use std::time::Duration;

use corelane_client::{Client, Error, ErrorCode, Object, Options};
use corelane_rpc_schema::{READ_BYTES_MAX, STRIPE_BYTES, ShardId, Stripe};
use lane_server::{Fault, Server, TOKEN, bytes, owner};

fn options() -> Options {
    Options {
        back_off_first: Duration::from_millis(1),
        back_off_max: Duration::from_millis(5),
        ..Options::default()
    }
}

async fn client(server: &Server) -> Client {
    Client::connect(&server.address(), TOKEN, options())
        .await
        .expect("the server listens")
}

async fn client_and_object(server: &Server, length: u64) -> (Client, Object) {
    server.put("/data/a", "v1", length);
    let client = client(server).await;
    let object = client.open("/data/a").await.expect("the object is there");
    assert_eq!(object.length, length);
    (client, object)
}

#[tokio::test]
async fn a_range_is_cut_at_stripes_and_each_piece_asked_of_its_owner() {
    let server = Server::start(3).await;
    let (client, object) = client_and_object(&server, 3 * STRIPE_BYTES + 5).await;
    let range = STRIPE_BYTES - 5000..2 * STRIPE_BYTES + 7;
    let read = client.read(&object, range.clone()).await.expect("served");
    assert!(
        read == bytes(object.id, range.start, range.end - range.start),
        "other bytes"
    );

    let script = server.script();
    assert_eq!(script.reads.len(), 6, "{:?}", script.reads);
    for (shard, request) in &script.reads {
        let stripe = Stripe::of_offset(request.offset);
        assert_eq!(*shard, owner(object.id, stripe, 3));
        assert_eq!(
            Stripe::of_offset(request.offset + u64::from(request.length) - 1),
            stripe
        );
        assert!(request.length <= READ_BYTES_MAX);
    }
    assert!(
        script.hellos <= 3,
        "one lane a shard, not {}",
        script.hellos
    );
}

#[tokio::test]
async fn empty_and_odd_ranges_are_exact() {
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 10_000).await;
    for range in [
        0..0,
        10_000..10_000,
        0..1,
        9_999..10_000,
        4095..4097,
        1..8191,
        0..10_000,
    ] {
        let read = client.read(&object, range.clone()).await.expect("served");
        assert!(
            read == bytes(object.id, range.start, range.end - range.start),
            "{range:?}"
        );
    }
    let beyond = client.read(&object, 0..10_001).await;
    assert!(
        matches!(
            beyond,
            Err(Error::OutOfRange {
                length: 10_000,
                end: 10_001,
                ..
            })
        ),
        "{beyond:?}"
    );
}

#[tokio::test]
async fn an_answer_in_any_pieces_is_the_same_answer() {
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 100_000).await;
    server.faults(vec![Fault::Dribble; 20]);
    for length in [1, 8, 4095, 4096, 4097, 8192, 10_001] {
        let read = client
            .read(&object, 4096..4096 + length)
            .await
            .expect("served");
        assert!(read == bytes(object.id, 4096, length), "{length} bytes");
    }
    assert_eq!(client.counters().retries, 0);
}

#[tokio::test]
async fn credits_are_kept_and_used() {
    let server = Server::start(1).await;
    {
        let mut script = server.script();
        script.requests_in_flight_max = 5;
        script.bytes_in_flight_max = 20_000;
        script.answer_after = Duration::from_millis(2);
    }
    let (client, object) = client_and_object(&server, 1 << 20).await;
    let reads =
        (0..100).map(|index| client.read(&object, index * 8192..index * 8192 + 100 + index * 50));
    for (index, read) in futures::future::join_all(reads)
        .await
        .into_iter()
        .enumerate()
    {
        assert_eq!(read.expect("served").len(), 100 + index * 50);
    }
    let script = server.script();
    assert_eq!(script.requests_in_flight_most, 5);
    assert!(
        script.bytes_in_flight_most <= 20_000,
        "{}",
        script.bytes_in_flight_most
    );
}

#[tokio::test]
async fn what_passes_is_asked_again_until_it_is_right() {
    let passing = [
        Fault::Error(ErrorCode::Busy, 1),
        Fault::Error(ErrorCode::Draining, 0),
        Fault::Garbage,
        Fault::ResetMidAnswer,
        Fault::WrongLength,
        Fault::WrongId,
        Fault::NoChecksums,
        Fault::WrongByte,
        Fault::Error(ErrorCode::ObjectUnknown, 0),
    ];
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 100_000).await;
    for (index, fault) in passing.into_iter().enumerate() {
        server.faults([fault.clone()]);
        let read = client.read(&object, 4096..14_096).await;
        assert!(
            read.as_ref()
                .is_ok_and(|read| *read == bytes(object.id, 4096, 10_000)),
            "{fault:?}: {read:?}"
        );
        assert_eq!(client.counters().retries, index as u64 + 1, "{fault:?}");
    }
    assert_eq!(client.counters().checksum_mismatches, 1);
    // Garbage, reset, wrong length and wrong id each cost the connection; the rest did not.
    assert_eq!(client.counters().connections, 5);
}

#[tokio::test]
async fn retries_are_bounded() {
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 100_000).await;
    let refused = |code| matches!(code, Some(ErrorCode::Busy));
    server.faults(vec![Fault::Error(ErrorCode::Busy, 0); 100]);
    let error = client.read(&object, 0..1).await.expect_err("always busy");
    assert!(refused(error.code()), "{error}");
    assert_eq!(
        server.script().reads.len() as u32,
        1 + options().retries_max
    );

    server.faults(vec![Fault::ResetMidAnswer; 100]);
    let error = client.read(&object, 0..1).await.expect_err("always reset");
    assert!(matches!(error, Error::Disconnected { .. }), "{error}");
    assert_eq!(
        server.script().reads.len() as u32,
        2 * (1 + options().retries_max)
    );

    server.faults(vec![Fault::WrongByte; 100]);
    let error = client
        .read(&object, 0..4097)
        .await
        .expect_err("wrong twice");
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(client.counters().checksum_mismatches, 2);

    server.faults(vec![Fault::Error(ErrorCode::ObjectUnknown, 0); 100]);
    let opens = server.script().opens;
    let error = client.read(&object, 0..1).await.expect_err("unknown twice");
    assert_eq!(error.code(), Some(ErrorCode::ObjectUnknown));
    assert_eq!(server.script().opens, opens + 1);
}

#[tokio::test]
async fn what_is_final_is_not_asked_again() {
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 100_000).await;
    for code in [
        ErrorCode::Denied,
        ErrorCode::Invalid,
        ErrorCode::UnderStore,
        ErrorCode::Internal,
    ] {
        server.faults([Fault::Error(code, 0)]);
        let error = client.read(&object, 0..1).await.expect_err("refused");
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(error.to_string().contains("/data/a"), "{error}");
    }
    let error = client.open("/data/b").await.expect_err("not there");
    assert_eq!(error.code(), Some(ErrorCode::NotFound));
    assert_eq!(client.counters().retries, 0);
}

#[tokio::test]
async fn a_wrong_token_is_refused_at_once() {
    let server = Server::start(1).await;
    let error = Client::connect(&server.address(), "wrong", options())
        .await
        .expect_err("refused");
    assert_eq!(error.code(), Some(ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn a_lane_that_went_silent_is_replaced_after_the_timeout() {
    let server = Server::start(1).await;
    server.put("/data/a", "v1", 10_000);
    let options = Options {
        request_timeout: Duration::from_millis(50),
        ..options()
    };
    let client = Client::connect(&server.address(), TOKEN, options.clone())
        .await
        .expect("listens");
    let object = client.open("/data/a").await.expect("there");

    server.faults([Fault::Silence]);
    let read = client
        .read(&object, 0..10)
        .await
        .expect("the second lane answers");
    assert_eq!(read, bytes(object.id, 0, 10));
    assert_eq!(client.counters().connections, 2);

    server.faults(vec![Fault::Silence; 100]);
    let error = client
        .read(&object, 0..10)
        .await
        .expect_err("always silent");
    assert!(
        matches!(&error, Error::Timeout { what, .. } if what.contains("/data/a")),
        "{error}"
    );
    assert_eq!(
        client.counters().connections,
        2 + u64::from(options.retries_max)
    );
}

#[tokio::test]
async fn a_request_that_timed_out_keeps_its_credit_while_the_lane_lives() {
    let server = Server::start(1).await;
    server.script().requests_in_flight_max = 2;
    server.put("/data/a", "v1", 10_000);
    let options = Options {
        request_timeout: Duration::from_millis(200),
        retries_max: 0,
        ..options()
    };
    let client = Client::connect(&server.address(), TOKEN, options)
        .await
        .expect("listens");
    let object = client.open("/data/a").await.expect("there");
    // The second answer shows that the lane is alive, so that the timeout of the first leaves it open.
    server.faults([Fault::Silence]);
    let (silent, answered) = tokio::join!(client.read(&object, 0..10), client.read(&object, 0..10));
    assert!(matches!(silent, Err(Error::Timeout { .. })), "{silent:?}");
    answered.expect("served");
    for read in futures::future::join_all((0..10).map(|_| client.read(&object, 0..10))).await {
        read.expect("served one after the other");
    }
    assert_eq!(server.script().requests_in_flight_most, 2);
    assert_eq!(client.counters().connections, 1);
}

#[tokio::test]
async fn versions_never_mix() {
    let server = Server::start(2).await;
    let (client, old) = client_and_object(&server, 2 * STRIPE_BYTES).await;
    let new = server.put("/data/a", "v2", 5000);
    let error = client
        .read(&old, 0..2 * STRIPE_BYTES)
        .await
        .expect_err("the version is gone");
    assert!(matches!(error, Error::VersionChanged { .. }), "{error}");

    // The worker says "changed" in the middle of a file: it is read again from the new version.
    server.faults([Fault::Error(ErrorCode::VersionChanged, 0)]);
    let (object, read) = client
        .read_file("/data/a")
        .await
        .expect("the new version is there");
    assert_eq!(object.id, new);
    assert!(read == bytes(new, 0, 5000), "other bytes");

    server.faults(vec![Fault::Error(ErrorCode::VersionChanged, 0); 100]);
    let error = client
        .read_file("/data/a")
        .await
        .expect_err("it never stops changing");
    assert!(matches!(error, Error::VersionChanged { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_object_that_has_changed_meanwhile_is_a_changed_one() {
    let server = Server::start(1).await;
    let (client, old) = client_and_object(&server, 5000).await;
    server.faults([Fault::Error(ErrorCode::ObjectUnknown, 0)]);
    server
        .script()
        .objects
        .insert(String::from("/data/old"), (old.id, 5000));
    server.put("/data/a", "v2", 5000);
    let error = client
        .read(&old, 0..10)
        .await
        .expect_err("the path has another version");
    assert!(matches!(error, Error::VersionChanged { .. }), "{error}");
}

#[tokio::test]
async fn a_lane_that_is_asked_to_go_away_answers_what_is_under_way_and_is_replaced() {
    let server = Server::start(1).await;
    let (client, object) = client_and_object(&server, 1 << 20).await;
    server.script().answer_after = Duration::from_millis(5);
    server.faults([Fault::GoAway]);
    let reads = (0..20).map(|index| client.read(&object, index * 4096..index * 4096 + 4096));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.expect("no read fails").len(), 4096);
    }
    assert_eq!(client.counters().retries, 0);
    client.read(&object, 0..10).await.expect("over a new lane");
    assert_eq!(client.counters().connections, 2);
}

#[tokio::test]
async fn the_owner_that_an_answer_names_is_asked_next_time() {
    let server = Server::start(3).await;
    let (client, object) = client_and_object(&server, 10_000).await;
    let told = ShardId((owner(object.id, Stripe(0), 3).0 + 1) % 3);
    server.faults([Fault::Hint(told)]);
    client
        .read(&object, 0..10)
        .await
        .expect("served by the old owner");
    client
        .read(&object, 0..10)
        .await
        .expect("served by the new owner");
    assert_eq!(server.script().reads[1].0, told);
    // A hint to a shard that does not exist is not believed.
    server.faults([Fault::Hint(ShardId(9))]);
    client.read(&object, 0..10).await.expect("served");
    client.read(&object, 0..10).await.expect("served");
    assert_eq!(server.script().reads[3].0, told);
}

#[tokio::test]
async fn a_restarted_worker_with_other_ports_is_found_again() {
    let server = Server::start(2).await;
    let (client, object) = client_and_object(&server, 2 * STRIPE_BYTES).await;
    client
        .read(&object, 0..2 * STRIPE_BYTES)
        .await
        .expect("served");
    let first = server.addresses[0];
    drop(server);

    // Only the port that the client was given is the same; now it leads to another set of shards.
    let server = loop {
        // The tasks of the dropped server end when they are next polled.
        tokio::task::yield_now().await;
        if tokio::net::TcpStream::connect(first).await.is_err() {
            break Server::start_at(first, 3).await;
        }
    };
    server.put("/data/a", "v1", 2 * STRIPE_BYTES);
    server.script().epoch = 2;
    let read = client
        .read(&object, 0..2 * STRIPE_BYTES)
        .await
        .expect("served by the new worker");
    assert!(read == bytes(object.id, 0, 2 * STRIPE_BYTES), "other bytes");
    assert_eq!(client.worker().epoch, 2);
    assert_eq!(client.worker().shard_ports.len(), 3);
}

#[test]
fn the_blocking_client_reads_too() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime for the server");
    let server = runtime.block_on(Server::start(2));
    let id = server.put("/data/a", "v1", 40_000);
    let client = corelane_client::blocking::Client::connect(&server.address(), TOKEN, options())
        .expect("the server listens");
    let (object, read) = client.read_file("/data/a").expect("served");
    assert_eq!(object.id, id);
    assert!(read == bytes(id, 0, 40_000), "other bytes");
}

#[tokio::test]
async fn no_worker_is_an_error_that_names_the_address() {
    let error = Client::connect("127.0.0.1:1", TOKEN, options())
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(error, Error::Connect { .. }) && error.to_string().contains("127.0.0.1:1"),
        "{error}"
    );
}
