//! Connections over loopback.

use super::*;

/// Both ends of a new connection: the one that connected and the one that `listener` accepted.
async fn connect_to(io: &CoreIo, listener: &CoreListener) -> (CoreStream, CoreStream) {
    let client = io
        .connect(listener.local_address())
        .await
        .expect("it listens");
    let server = listener.accept().await.expect("a connection");
    (client, server)
}

#[test]
fn many_pipelined_connections_get_their_own_bytes_back_in_order() {
    const CONNECTIONS: usize = 64;
    const ROUNDS: usize = 20;
    backend::run(&small(), |io| async move {
        let address = start_echo(&io).await;
        let done = Rc::new(Cell::new(0));
        for connection in 0..CONNECTIONS {
            let stream = io.connect(address).await.expect("the echo listens");
            let done = Rc::clone(&done);
            io.spawn(Priority::Foreground, async move {
                for round in 0..ROUNDS {
                    // Lengths around the size of a receive buffer.
                    let length = 1 + (connection * 977 + round * 5_381) % 9_000;
                    let bytes: Vec<u8> = (0..length)
                        .map(|at| (at * 31 + connection * 7 + round) as u8)
                        .collect();
                    send_bytes(&stream, &bytes).await;
                    assert!(
                        receive_exactly(&stream, length).await == bytes,
                        "other bytes came back"
                    );
                }
                done.set(done.get() + 1);
            });
        }
        until(&io, "all echoes", || done.get() == CONNECTIONS).await;
    })
    .expect("a core");
}

#[test]
fn a_dropped_send_closes_the_connection_and_keeps_its_payload_meanwhile() {
    backend::run(&small(), |io| async move {
        let pool = io.allocate_pool(4, 16).expect("memory");
        let listener = io.listen(loopback()).await.expect("a port");
        let (client, server) = connect_to(&io, &listener).await;
        let slice = pool
            .take()
            .expect("free")
            .lease(0..16)
            .expect("vacant")
            .seal()
            .slice(0..16 * PAGE_SIZE);
        let mut batch = Box::new(SendBatch::default());
        // Far more than the sockets hold, so that the send stays in flight.
        for _ in 0..500 {
            batch.push_payload(Payload::Frame(slice.clone()));
        }
        drop(slice);
        poll_and_drop(client.send(batch)).await;
        until(&io, "the payload", || pool.available() == 4).await;
        let (sent, _) = client
            .send({
                let mut batch = Box::new(SendBatch::default());
                batch.push_head(b"more");
                batch
            })
            .await;
        assert_eq!(sent.expect_err("closed").kind(), IoErrorKind::Disconnected);
        while !server.receive().await.expect("an orderly end").is_empty() {}
    })
    .expect("a core");
}

#[test]
fn connections_whose_readers_are_behind_do_not_keep_others_from_receiving() {
    const FLOODS: usize = 8;
    backend::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let mut unread = Vec::new();
        for _ in 0..FLOODS {
            let (flooder, stream) = connect_to(&io, &listener).await;
            unread.push(stream);
            io.spawn(Priority::Background, async move {
                let mut batch = Box::new(SendBatch::default());
                batch.push_head(&[7; 64 * 1024]);
                loop {
                    let (sent, back) = flooder.send(batch).await;
                    if sent.is_err() {
                        return;
                    }
                    batch = back;
                }
            });
        }
        // The first receive arms each connection; nobody reads on.
        for stream in &unread {
            assert!(!stream.receive().await.expect("a flood").is_empty());
        }
        io.sleep(Duration::from_millis(50)).await;
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        for round in 0..100u32 {
            send_bytes(&stream, &round.to_le_bytes()).await;
            assert_eq!(receive_exactly(&stream, 4).await, round.to_le_bytes());
        }
        // A reader that comes back finds its bytes, and more after them.
        receive_at_least(&unread[0], 4 * 1024 * 1024).await;
    })
    .expect("a core");
}

async fn receive_at_least(stream: &CoreStream, length: usize) {
    let mut bytes = 0;
    while bytes < length {
        let received = stream.receive().await.expect("a flood");
        assert!(received.iter().all(|byte| *byte == 7));
        bytes += received.len();
    }
}

#[test]
fn a_listener_of_the_kernel_is_taken_over() {
    backend::run(&small(), |io| async move {
        let bound = std::net::TcpListener::bind(loopback()).expect("a port");
        bound.set_nonblocking(true).expect("an open socket");
        let address = bound.local_addr().expect("a bound socket");
        let listener = io.adopt_listener(bound).expect("a listening socket");
        assert_eq!(listener.local_address(), address);
        let (client, server) = connect_to(&io, &listener).await;
        send_bytes(&client, b"through it").await;
        assert_eq!(receive_exactly(&server, 10).await, b"through it");
    })
    .expect("a core");
}

#[test]
fn a_peer_that_never_reads_stalls_its_own_connection_only() {
    backend::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let (_silent, stream) = connect_to(&io, &listener).await;
        let outcome = Rc::new(Cell::new(None));
        let (sender, slot) = (stream.clone(), Rc::clone(&outcome));
        io.spawn(Priority::Foreground, async move {
            let mut batch = Box::new(SendBatch::default());
            (0..4_000).for_each(|_| batch.push_payload(Payload::Static(&[1; 16 * 1024])));
            slot.set(Some(
                sender.send(batch).await.0.map_err(|error| error.kind()),
            ));
        });
        let address = start_echo(&io).await;
        let other = io.connect(address).await.expect("the echo listens");
        for _ in 0..100 {
            send_bytes(&other, b"still here").await;
            receive_exactly(&other, 10).await;
        }
        assert!(outcome.get().is_none(), "64 MB do not fit the sockets");
        stream.close();
        until(&io, "the end of the send", || outcome.get().is_some()).await;
        assert_eq!(outcome.get(), Some(Err(IoErrorKind::Disconnected)));
    })
    .expect("a core");
}

#[test]
fn a_batch_of_thousands_of_parts_arrives_whole() {
    for options in backend::ways_to_send() {
        backend::run(&options, |io| async move {
            let listener = io.listen(loopback()).await.expect("a port");
            let (client, server) = connect_to(&io, &listener).await;
            let pool = io.allocate_pool(1, 1).expect("memory");
            for _ in 0..3 {
                let mut lease = pool
                    .take()
                    .expect("given back")
                    .lease(0..1)
                    .expect("vacant");
                (0..=u8::MAX)
                    .zip(lease.bytes_mut().chunks_mut(16))
                    .for_each(|(at, chunk)| chunk.fill(at));
                let frame = lease.seal();
                let mut batch = Box::new(SendBatch::default());
                let mut expected = Vec::new();
                for part in 0..3_000usize {
                    batch.push_head(&(part as u32).to_le_bytes());
                    expected.extend_from_slice(&(part as u32).to_le_bytes());
                    let slice = frame.slice(part..part + 500);
                    expected.extend_from_slice(slice.bytes());
                    batch.push_payload(Payload::Frame(slice));
                }
                drop(frame);
                let sender = client.clone();
                io.spawn(Priority::Foreground, async move {
                    let (sent, mut back) = sender.send(batch).await;
                    sent.expect("the peer reads");
                    back.clear();
                });
                assert!(receive_exactly(&server, expected.len()).await == expected);
                until(&io, "the payload", || pool.available() == 1).await;
            }
        })
        .expect("a core");
    }
}

#[test]
fn closing_ends_what_waits_and_the_peer_sees_the_end() {
    backend::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let (client, server) = connect_to(&io, &listener).await;
        let closer = client.clone();
        io.spawn(Priority::Background, async move { closer.close() });
        assert!(client.receive().await.expect("an orderly end").is_empty());
        assert!(server.receive().await.expect("an orderly end").is_empty());
        // Dropping the last handle is closing, too.
        let (client, server) = connect_to(&io, &listener).await;
        send_bytes(&client, b"last words").await;
        drop(client);
        receive_exactly(&server, 10).await;
        assert!(server.receive().await.expect("an orderly end").is_empty());
    })
    .expect("a core");
}

#[test]
fn connecting_to_nobody_says_so() {
    backend::run(&small(), |io| async move {
        let address = io.listen(loopback()).await.expect("a port").local_address();
        io.sleep(Duration::from_millis(5)).await;
        let error = io
            .connect(address)
            .await
            .err()
            .expect("nobody listens there");
        assert_eq!(error.kind(), IoErrorKind::Disconnected);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    })
    .expect("a core");
}
