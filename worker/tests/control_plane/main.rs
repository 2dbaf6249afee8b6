//! The control plane and the assembly around it, against shards that the test plays: they answer
//! letters from a small world in memory, so that every answer is known.

mod floods;
mod rights;
mod world;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use corelane_rpc_schema::generated::worker_capnp::{gate, progress, worker};
use corelane_worker::config::{Config, WorkerFlags};
use corelane_worker::start::{RunningWorker, Worker};
use futures::AsyncReadExt;
use tokio_util::compat::TokioAsyncReadCompatExt;
use world::{Played, World};

const TOKENS: &str = "[[token]]\nname = \"training\"\nsecret = \"training-training\"\n\
                      [[token]]\nname = \"root\"\nsecret = \"root-root-root-root\"\noperator = true\n";

fn start(world: &Arc<World>, more: &str) -> RunningWorker {
    Worker::start_with(configuration(more), &Played(Arc::clone(world)))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Without tokens, everyone enters: tests that are not about them bring none.
fn configuration(more: &str) -> Config {
    let insecure = !more.contains("[[token]]");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\noperations = \"127.0.0.1:0\"\ncores = [0, 1]\n\
         devices = [\"/nonexistent\"]\ndevice_size = \"8G\"\ninsecure = {insecure}\n{more}\n\
         [[mount]]\npath = \"/data\"\nuri = \"s3://bucket\"\n"
    );
    let config = Config::on_cpus(Path::new("w.toml"), &text, &WorkerFlags::default(), &[0, 1]);
    config.unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Runs `test` with the gate of the worker at `address`.
fn with_gate<T, F: Future<Output = T>>(
    address: SocketAddr,
    test: impl FnOnce(gate::Client) -> F,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("the worker listens");
        stream.set_nodelay(true).expect("an option");
        let (reader, writer) = stream.compat().split();
        let network = twoparty::VatNetwork::new(
            reader,
            writer,
            rpc_twoparty_capnp::Side::Client,
            Default::default(),
        );
        let mut system = RpcSystem::new(Box::new(network), None);
        let gate: gate::Client = system.bootstrap(rpc_twoparty_capnp::Side::Server);
        let system = tokio::task::spawn_local(system);
        let result = test(gate).await;
        system.abort();
        result
    })
}

async fn enter(gate: &gate::Client, token: &str) -> Result<worker::Client, capnp::Error> {
    let mut request = gate.enter_request();
    request.get().set_token(token);
    request.send().promise.await?.get()?.get_worker()
}

type Names = Vec<(String, u64)>;

async fn list(
    worker: &worker::Client,
    path: &str,
    recursive: bool,
    cached_only: bool,
) -> Result<Names, capnp::Error> {
    let names = RefCell::new(Names::new());
    loop {
        let mut request = worker.list_request();
        let mut params = request.get();
        params.set_path(path);
        params.set_recursive(recursive);
        params.set_cached_only(cached_only);
        params.set_limit(2);
        params.set_after(
            names
                .borrow()
                .last()
                .map_or("", |(path, _): &(String, u64)| path.as_str()),
        );
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        for entry in answer.get_entries()? {
            names
                .borrow_mut()
                .push((entry.get_path()?.to_string()?, entry.get_bytes_cached()));
        }
        if !answer.get_more() {
            return Ok(names.into_inner());
        }
    }
}

async fn load(worker: &worker::Client, path: &str) -> Result<u64, capnp::Error> {
    let mut request = worker.load_request();
    request.get().set_path(path);
    request.get().set_recursive(true);
    Ok(request.send().promise.await?.get()?.get_job())
}

/// State, objects done, bytes done, bytes skipped, wrong blocks of a job once it has ended.
async fn outcome(worker: &worker::Client, job: u64) -> (progress::State, u64, u64, u64, u64) {
    loop {
        let mut request = worker.progress_request();
        request.get().set_job(job);
        let answer = request.send().promise.await.expect("the job is known");
        let progress = answer
            .get()
            .expect("an answer")
            .get_progress()
            .expect("progress");
        let state = progress.get_state().expect("a known state");
        if state != progress::State::Running {
            let (objects, bytes) = (progress.get_objects_done(), progress.get_bytes_done());
            if progress.get_kind().expect("a text") == "verify" {
                assert_eq!(bytes, progress.get_bytes_total(), "what is done is all");
            }
            return (
                state,
                objects,
                bytes,
                progress.get_bytes_skipped(),
                progress.get_blocks_wrong(),
            );
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn names(entries: &[(&str, u64)]) -> Names {
    entries
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), *bytes))
        .collect()
}

fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the operations port listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str) -> String {
    http(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

#[test]
fn probes_are_answered_while_requests_for_pages_wait_for_each_other() {
    let world = World::with_files(&[]);
    world.holds_stats.store(true, Ordering::Relaxed);
    // One request at a time, eight connections, and eight more for loopback.
    let worker = start(&world, "[limits]\noperations_connections = 1\n");
    let address = worker.operations_address();
    let request = |path| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let ask = |path| {
        let mut stream = TcpStream::connect(address).expect("the operations port listens");
        stream
            .write_all(request(path).as_bytes())
            .expect("a new connection takes a request");
        stream
    };
    let served = ask("/metrics");
    // Behind the request before it.
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    let _waiting: Vec<TcpStream> = (0..20).map(|_| ask("/metrics")).collect();
    for _ in 0..3 {
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    }
    served.set_nonblocking(true).expect("an option");
    let answered = served.peek(&mut [0]).map_err(|error| error.kind());
    assert_eq!(
        answered,
        Err(std::io::ErrorKind::WouldBlock),
        "still served"
    );
    worker.stop().expect("ends in good order");
}

#[test]
fn nothing_is_reachable_without_a_token_and_readers_change_nothing() {
    let world = World::with_files(&[("/data/a", 10)]);
    let worker = start(&world, TOKENS);
    with_gate(worker.control_address(), async |gate| {
        for wrong in ["", "wrong-wrong-wrong"] {
            let error = enter(&gate, wrong)
                .await
                .err()
                .expect("refused")
                .to_string();
            assert!(error.contains("denied: "), "{error}");
        }
        let reader = enter(&gate, "training-training").await.expect("its token");
        assert_eq!(
            list(&reader, "/data", false, false)
                .await
                .expect("may read"),
            names(&[("/data/a", 0)])
        );
        let error = reader
            .mount_request()
            .send()
            .promise
            .await
            .err()
            .expect("no operator")
            .to_string();
        assert!(error.contains("not an operator's"), "{error}");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn a_load_is_seen_in_listings_and_what_is_cached_is_listed_with_the_store_away() {
    let world = World::with_files(&[
        ("/data/a-b", 5),
        ("/data/a/x", 3 << 20),
        ("/data/a/y", 7),
        ("/data/b", 0),
    ]);
    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        let job = load(&client, "/data/a").await.expect("started");
        assert_eq!(
            outcome(&client, job).await,
            (progress::State::Done, 2, (3 << 20) + 7, 0, 0)
        );
        let again = load(&client, "/data/a").await.expect("started");
        assert_eq!(
            outcome(&client, again).await.3,
            (3 << 20) + 7,
            "all was cached already"
        );

        let folder = [
            ("/data/a-b", 0),
            ("/data/a/", (3 << 20) + 7),
            ("/data/b", 0),
        ];
        assert_eq!(
            list(&client, "/data", false, false).await.expect("listed"),
            names(&folder)
        );
        assert_eq!(
            list(&client, "/", false, false).await.expect("listed"),
            names(&[("/data/", 0)])
        );
        let below = [("/data/a/x", 3 << 20), ("/data/a/y", 7)];
        world.is_store_away.store(true, Ordering::Relaxed);
        assert_eq!(
            list(&client, "/", true, true)
                .await
                .expect("needs no store"),
            names(&below)
        );
        let cached = [("/data/a/", (3 << 20) + 7)];
        assert_eq!(
            list(&client, "/data", false, true)
                .await
                .expect("needs no store"),
            names(&cached)
        );
        let error = list(&client, "/data", true, false)
            .await
            .expect_err("the store is away")
            .to_string();
        assert!(error.contains("unavailable: s3://bucket"), "{error}");

        let mut request = client.verify_request();
        request.get().set_path("/data");
        let job = request
            .send()
            .promise
            .await
            .expect("started")
            .get()
            .expect("an answer")
            .get_job();
        assert_eq!(
            outcome(&client, job).await,
            (progress::State::Failed, 2, (3 << 20) + 7, 0, 2)
        );

        let mut request = client.free_request();
        request.get().set_path("/data/a");
        request.get().set_recursive(true);
        let freed = request.send().promise.await.expect("freed");
        assert_eq!(freed.get().expect("an answer").get_blocks(), 4);
        assert_eq!(
            list(&client, "/", true, true).await.expect("listed"),
            Names::new()
        );
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn a_folder_of_very_many_cached_names_is_listed_page_by_page() {
    let paths: Vec<String> = (0..100_100)
        .map(|number| format!("/data/{number:06}/x"))
        .collect();
    let files: Vec<(&str, u64)> = paths.iter().map(|path| (path.as_str(), 5)).collect();
    let world = World::with_files(&files);
    world.hold_all();
    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        for (after, first, more) in [("", 0, true), ("/data/100096/", 100_097, false)] {
            let mut request = client.list_request();
            let mut params = request.get();
            params.set_path("/data");
            params.set_cached_only(true);
            params.set_limit(3);
            params.set_after(after);
            let answer = request.send().promise.await.expect("listed");
            let answer = answer.get().expect("an answer");
            let entries = answer.get_entries().expect("entries");
            assert_eq!((entries.len(), answer.get_more()), (3, more), "{after}");
            for (entry, number) in entries.iter().zip(first..) {
                let path = entry.get_path().expect("a text");
                assert_eq!(path, format!("/data/{number:06}/").as_str());
                assert_eq!(entry.get_bytes_cached(), 5);
            }
        }
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn plain_reads_end_with_the_object_and_are_bounded() {
    let world = World::with_files(&[("/data/a", 1000)]);
    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        let mut request = client.read_request();
        request.get().set_path("/data/a");
        request.get().set_offset(990);
        request.get().set_length(100);
        let answer = request.send().promise.await.expect("read");
        let data = answer.get().expect("an answer").get_data().expect("data");
        assert_eq!(
            data,
            (990u64..1000).map(|byte| byte as u8).collect::<Vec<u8>>()
        );
        for (path, length, wanted) in [
            ("/data/a", (1 << 20) + 1, "invalid: "),
            ("/data/none", 1, "not-found: "),
            ("/elsewhere", 1, "not-found: no mount covers /elsewhere"),
            ("data", 1, "invalid: "),
        ] {
            let mut request = client.read_request();
            request.get().set_path(path);
            request.get().set_length(length);
            let error = request.send().promise.await.err().expect(path).to_string();
            assert!(error.contains(wanted), "{path}: {error}");
        }
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn mounts_and_unfinished_loads_go_on_after_a_restart() {
    let world = World::with_files(&[("/data/a", 11), ("/data/b", 22)]);
    world.holds_loads.store(true, Ordering::Relaxed);
    let worker = start(&world, "");
    let job = with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        let mut request = client.mount_request();
        let mut mount = request.get().init_mount();
        mount.set_path("/more/");
        mount.set_uri("s3://more/");
        request.send().promise.await.expect("mounted");
        load(&client, "/data").await.expect("started")
    });
    worker
        .stop()
        .expect("ends in good order, the load unfinished");
    world.holds_loads.store(false, Ordering::Relaxed);

    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        assert_eq!(
            outcome(&client, job).await,
            (progress::State::Done, 2, 33, 0, 0)
        );
        let mounts = client
            .mounts_request()
            .send()
            .promise
            .await
            .expect("mounts");
        let mounts = mounts
            .get()
            .expect("an answer")
            .get_mounts()
            .expect("mounts");
        let paths: Vec<String> = mounts
            .iter()
            .map(|mount| mount.get_path().unwrap().to_string().unwrap())
            .collect();
        assert_eq!(paths, ["/data", "/more"]);
        let mut request = client.unmount_request();
        request.get().set_path("/data");
        let error = request
            .send()
            .promise
            .await
            .err()
            .expect("the file's mount")
            .to_string();
        assert!(
            error.contains("stands in the configuration file"),
            "{error}"
        );
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn a_shard_that_fails_takes_the_worker_down_with_a_sentence() {
    let world = World::with_files(&[]);
    let worker = start(&world, "");
    world.fails.store(true, Ordering::Relaxed);
    let error = worker.wait().expect_err("a shard failed");
    assert_eq!(error.exit_code(), 1);
    assert!(
        error
            .to_string()
            .contains("shard 0 failed: its device is gone"),
        "{error}"
    );
}

#[test]
fn connections_beyond_the_limit_are_closed_and_others_go_on() {
    let world = World::with_files(&[]);
    let worker = start(&world, "[limits]\ncontrol_connections = 1");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("the first fits");
        let mut second = TcpStream::connect(worker.control_address()).expect("the kernel accepts");
        second
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let closed = tokio::task::spawn_blocking(move || second.read(&mut [0; 1]))
            .await
            .expect("no panic");
        assert!(
            matches!(closed, Ok(0))
                || closed.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
        );
        client
            .stats_request()
            .send()
            .promise
            .await
            .expect("the first is served");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn the_operations_port_tells_metrics_and_health_and_refuses_the_rest() {
    let world = World::with_files(&[]);
    let worker = start(&world, "");
    let address = worker.operations_address();
    let metrics = get(address, "/metrics");
    let id = corelane_worker::store::public_id("the-set");
    let info = format!("corelane_worker_info{{id=\"{id}\"");
    assert!(!metrics.contains("the-set"), "{metrics}");
    for wanted in [
        info.as_str(),
        "HTTP/1.1 200 OK",
        "corelane_reads_dram_total{shard=\"1\"} 3",
        "corelane_under_store_requests_total{mount=\"/data\"} 9",
    ] {
        assert!(metrics.contains(wanted), "{wanted} in {metrics}");
    }
    for (path, wanted) in [
        ("/healthz", "200 OK"),
        ("/readyz", "200 OK"),
        ("/slow", "\"requests\": []"),
        ("/x", "404"),
    ] {
        assert!(get(address, path).contains(wanted), "{path}");
    }
    let post = http(
        address,
        "POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(post.starts_with("HTTP/1.1 405"), "{post}");
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(20_000)
    );
    let answer = http(address, &long);
    assert!(!answer.contains("200 OK"), "{answer}");
    worker.stop().expect("ends in good order");
    assert!(
        TcpStream::connect(address).is_err(),
        "nothing listens any more"
    );
}
