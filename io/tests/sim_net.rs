//! What the network of a simulated world promises.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::sim::{Fault, Faults, SimIo, SimStream, World, check_seeds};
use corelane_io::{Io, IoErrorKind, Listener, Payload, Priority, SendBatch, Stream};

/// A connected pair: the end of `client`, the end of `server`.
async fn connect(client: &SimIo, server: &SimIo) -> (SimStream, SimStream) {
    let listener = server
        .listen("127.0.0.1:0".parse().expect("an address"))
        .await
        .expect("a free port");
    let (connected, accepted) =
        futures::join!(client.connect(listener.local_address()), listener.accept());
    let (connected, accepted) = (
        connected.expect("somebody listens"),
        accepted.expect("accepting works"),
    );
    assert_eq!(connected.peer(), listener.local_address());
    assert_ne!(accepted.peer(), connected.peer());
    (connected, accepted)
}

fn batch(bytes: &[u8]) -> Box<SendBatch> {
    let mut batch = Box::<SendBatch>::default();
    batch.push_head(bytes);
    batch
}

async fn receive_all(stream: &SimStream) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    loop {
        let piece = stream.receive().await.expect("the connection holds");
        if piece.is_empty() {
            return pieces;
        }
        pieces.push(piece.to_vec());
    }
}

#[test]
fn bytes_arrive_in_order_in_odd_pieces_and_then_the_end() {
    static PAYLOAD: [u8; 3000] = [5; 3000];
    let (runs, pieces_all) = (Cell::new(0), Cell::new(0));
    check_seeds(
        "bytes_arrive_in_order_in_odd_pieces_and_then_the_end",
        50,
        |seed| {
            let world = World::new(
                seed,
                Faults {
                    stream_split: 0.9,
                    ..Faults::none()
                },
            );
            let (client, server) = (world.core(), world.core());
            let head: Vec<u8> = (0..5000u32).map(|index| index as u8).collect();
            let pieces = world
                .block_on(async {
                    let (near, far) = connect(&client, &server).await;
                    let mut batch = batch(&head);
                    batch.push_payload(Payload::Static(&PAYLOAD));
                    batch.push_head(b"tail");
                    let sending = async {
                        let (sent, batch) = near.send(batch).await;
                        sent.expect("the connection holds");
                        assert_eq!(
                            batch.bytes(),
                            8004,
                            "the batch comes back with what it holds"
                        );
                        near.close();
                    };
                    futures::join!(receive_all(&far), sending).0
                })
                .expect("no crash was scheduled");
            assert_eq!(pieces.concat(), [&head[..], &PAYLOAD, b"tail"].concat());
            runs.set(runs.get() + 1);
            pieces_all.set(pieces_all.get() + pieces.len());
        },
    );
    assert!(
        pieces_all.get() > 3 * runs.get(),
        "{} pieces in {} runs",
        pieces_all.get(),
        runs.get()
    );
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender_at_the_bound() {
    let faults = Faults {
        stream_bytes_in_flight_max: 1000,
        ..Faults::none()
    };
    let world = World::new(2, faults);
    let (client, server) = (world.core(), world.core());
    let done = Rc::new(Cell::new(false));
    let (_near, far) = world
        .block_on(async {
            let (near, far) = connect(&client, &server).await;
            let (sender, flag) = (near.clone(), Rc::clone(&done));
            client.spawn(Priority::Foreground, async move {
                sender
                    .send(batch(&[7; 10_000]))
                    .await
                    .0
                    .expect("the connection holds");
                flag.set(true);
                sender.close();
            });
            (near, far)
        })
        .expect("no crash was scheduled");
    world
        .run_for(Duration::from_secs(10))
        .expect("no crash was scheduled");
    assert!(!done.get(), "the sender waits for the receiver");
    let received = world
        .block_on(receive_all(&far))
        .expect("no crash was scheduled")
        .concat();
    assert_eq!(received, vec![7; 10_000]);
    assert!(done.get());
}

#[test]
fn a_reset_breaks_both_ends_and_is_logged() {
    let world = World::new(
        3,
        Faults {
            stream_reset: 1.0,
            ..Faults::none()
        },
    );
    let (client, server) = (world.core(), world.core());
    world
        .block_on(async {
            let (near, far) = connect(&client, &server).await;
            let (received, (sent, _)) = futures::join!(far.receive(), near.send(batch(b"x")));
            assert_eq!(
                received.expect_err("reset").kind(),
                IoErrorKind::Disconnected
            );
            assert_eq!(sent.expect_err("reset").kind(), IoErrorKind::Disconnected);
        })
        .expect("no crash was scheduled");
    assert_eq!(world.injected(Fault::StreamReset), 1);
}

#[test]
fn closing_ends_a_pending_receive_and_fails_later_sends_on_both_sides() {
    let world = World::new(4, Faults::none());
    let (client, server) = (world.core(), world.core());
    world
        .block_on(async {
            let (near, far) = connect(&client, &server).await;
            let closing = async {
                client.sleep(Duration::from_millis(1)).await;
                near.close();
            };
            let (own, ()) = futures::join!(near.receive(), closing);
            assert!(own.expect("an orderly end").is_empty());
            near.send(batch(b"x"))
                .await
                .0
                .expect_err("this end is closed");
            assert!(far.receive().await.expect("an orderly end").is_empty());
            let error = far
                .send(batch(b"x"))
                .await
                .0
                .expect_err("the other end is closed");
            assert_eq!(error.kind(), IoErrorKind::Disconnected);
        })
        .expect("no crash was scheduled");
}

#[test]
fn the_peer_of_a_killed_core_sees_the_end_and_its_port_is_free_again() {
    let world = World::new(5, Faults::none());
    let (client, server) = (world.core(), world.core());
    let address = "127.0.0.1:4000".parse().expect("an address");
    world
        .block_on(async {
            let listener = server.listen(address).await.expect("a free port");
            let taken = client.listen(address).await.map(drop);
            assert_eq!(
                taken.expect_err("the port is taken").kind(),
                IoErrorKind::InvalidInput
            );
            let stream = client.connect(address).await.expect("the backlog takes it");
            let accepted = listener.accept().await.expect("accepting works");
            world.kill_core(&server);
            assert!(
                stream
                    .receive()
                    .await
                    .expect("the kernel closes the socket")
                    .is_empty()
            );
            let refused = client.connect(address).await.map(drop);
            assert_eq!(
                refused.expect_err("nobody listens").kind(),
                IoErrorKind::Disconnected
            );
            let restarted = world.core();
            restarted
                .listen(address)
                .await
                .expect("the port is free again");
            drop((accepted, listener));
        })
        .expect("no crash was scheduled");
}

#[test]
fn connects_fail_at_the_rate_that_was_asked_for() {
    let world = World::new(
        6,
        Faults {
            connect_error: 1.0,
            ..Faults::none()
        },
    );
    let io = world.core();
    world
        .block_on(async {
            let listener = io
                .listen("0.0.0.0:0".parse().expect("an address"))
                .await
                .expect("a free port");
            let mut address = listener.local_address();
            address.set_ip("127.0.0.1".parse().expect("an address"));
            io.connect(address)
                .await
                .map(drop)
                .expect_err("every connect fails");
            world.set_faults(Faults::none());
            io.connect(address)
                .await
                .expect("the wildcard address takes it");
        })
        .expect("no crash was scheduled");
    assert_eq!(world.injected(Fault::ConnectError), 1);
}
