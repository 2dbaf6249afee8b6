//! Rights on connections that are open: they end when the configuration says so, not when the client goes.

use super::*;
use corelane_worker::config::LocalToken;

const ROOT: &str = "root-root-root-root";
const TRAINING: &str = "training-training";

fn token(name: &str, secret: &str, more: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsecret = \"{secret}\"\n{more}\n")
}

/// Applies a configuration as SIGHUP does.
async fn reload(worker: &RunningWorker, more: &str) {
    let (stopper, config) = (worker.stopper(), configuration(more));
    tokio::task::spawn_blocking(move || stopper.reload(config))
        .await
        .expect("no panic")
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn mount(client: &worker::Client, path: &str, uri: &str) -> Result<(), capnp::Error> {
    let mut request = client.mount_request();
    let mut mount = request.get().init_mount();
    mount.set_path(path);
    mount.set_uri(uri);
    request.send().promise.await.map(drop)
}

async fn mounted(client: &worker::Client) -> Vec<String> {
    let answer = client.mounts_request().send().promise.await;
    let answer = answer.expect("mounts");
    let mounts = answer.get().expect("an answer").get_mounts();
    let paths = mounts.expect("mounts").iter().map(|mount| {
        let path = mount.get_path().expect("a path");
        path.to_string().expect("UTF-8")
    });
    paths.collect()
}

async fn unmount(client: &worker::Client, path: &str) -> Result<(), capnp::Error> {
    let mut request = client.unmount_request();
    request.get().set_path(path);
    request.send().promise.await.map(drop)
}

async fn jobs(client: &worker::Client) -> Vec<u64> {
    let answer = client.jobs_request().send().promise.await.expect("jobs");
    let jobs = answer.get().expect("an answer").get_jobs();
    jobs.expect("jobs")
        .iter()
        .map(|job| job.get_job())
        .collect()
}

async fn cancel(client: &worker::Client, job: u64) -> Result<(), capnp::Error> {
    let mut request = client.cancel_request();
    request.get().set_job(job);
    request.send().promise.await.map(drop)
}

#[track_caller]
fn refused<T>(result: Result<T, capnp::Error>, word: &str) {
    let error = result.err().expect("refused").to_string();
    assert!(error.contains(word), "{error}");
}

/// Whether every call ends in `denied` or, once the worker has closed the connection, in an error.
async fn has_no_rights(client: &worker::Client) -> bool {
    let stat = client.stats_request().send().promise.await.is_err();
    let mounts = client.mounts_request().send().promise.await.is_err();
    let jobs = client.jobs_request().send().promise.await.is_err();
    let listed = list(client, "/data", false, false).await.is_err();
    let loaded = load(client, "/data").await.is_err();
    stat && mounts
        && jobs
        && listed
        && loaded
        && mount(client, "/stolen", "s3://stolen").await.is_err()
}

/// Waits until the worker has closed the connection. Its last message says why, if it still arrives.
async fn until_closed(client: &worker::Client) {
    let closed = async {
        loop {
            match client.stats_request().send().promise.await {
                Err(error) if error.kind == capnp::ErrorKind::Disconnected => return,
                Err(error) if error.to_string().contains("is not valid any more") => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let closed = tokio::time::timeout(Duration::from_secs(60), closed).await;
    closed.expect("the worker closes the connection");
}

#[test]
fn a_token_that_is_removed_rotated_or_demoted_loses_its_rights_on_open_connections() {
    let trainer = token("training", TRAINING, "");
    let operator = token("root", ROOT, "operator = true");
    let before = format!("{trainer}{operator}");
    for (name, after, keeps_reading) in [
        ("removed", trainer.clone(), false),
        ("removed, the last one", String::new(), false),
        (
            "rotated",
            format!(
                "{trainer}{}",
                token("root", "another-root-secret", "operator = true")
            ),
            false,
        ),
        (
            "its name is another's now",
            token("root", TRAINING, "operator = true"),
            false,
        ),
        (
            "demoted",
            format!("{trainer}{}", token("root", ROOT, "")),
            true,
        ),
        (
            "renamed and demoted",
            format!("{trainer}{}", token("reader", ROOT, "")),
            true,
        ),
    ] {
        let world = World::with_files(&[("/data/a", 10)]);
        let worker = start(&world, &before);
        with_gate(worker.control_address(), async |gate| {
            let client = enter(&gate, ROOT).await.expect("its token");
            mount(&client, "/more", "s3://more")
                .await
                .expect("an operator");
            // The last one's: with no token at all, only the local one enters.
            let more = match after.as_str() {
                "" => "# [[token]]",
                after => after,
            };
            reload(&worker, more).await;
            if keeps_reading {
                refused(mount(&client, "/stolen", "s3://stolen").await, "denied: ");
                refused(unmount(&client, "/more").await, "denied: ");
                let listed = list(&client, "/data", false, false).await;
                assert_eq!(listed.expect("a reader"), names(&[("/data/a", 0)]));
            } else {
                assert!(has_no_rights(&client).await, "{name}");
                until_closed(&client).await;
            }
        });
        let mounts = with_gate(worker.control_address(), async |gate| {
            let secret = match name {
                "removed, the last one" => return vec!["/data".to_owned(), "/more".to_owned()],
                _ => TRAINING,
            };
            mounted(&enter(&gate, secret).await.expect("a token")).await
        });
        assert_eq!(mounts, ["/data", "/more"], "{name}");
        worker.stop().expect("ends in good order");
    }
}

#[test]
fn the_first_token_ends_the_rights_of_the_local_one() {
    let world = World::with_files(&[("/data/a", 10)]);
    let mut config = configuration("# [[token]]");
    config.local_token = Some(LocalToken("local-local-local-local".to_owned()));
    let worker = Worker::start_with(config, &Played(Arc::clone(&world)));
    let worker = worker.unwrap_or_else(|error| panic!("{error}"));
    with_gate(worker.control_address(), async |gate| {
        refused(enter(&gate, "").await, "denied: a token is needed");
        let client = enter(&gate, "local-local-local-local").await;
        let client = client.expect("the local token");
        mount(&client, "/more", "s3://more")
            .await
            .expect("an operator");
        reload(&worker, &token("training", TRAINING, "")).await;
        assert!(has_no_rights(&client).await);
        until_closed(&client).await;
    });
    with_gate(worker.control_address(), async |gate| {
        refused(enter(&gate, "local-local-local-local").await, "denied: ");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn loads_end_with_the_token_of_their_caller_and_go_on_with_its_rights_of_now() {
    let world = World::with_files(&[("/data/a", 11), ("/data/b", 22)]);
    world.holds_loads.store(true, Ordering::Relaxed);
    let trainer = token("training", TRAINING, "");
    let operator = token("root", ROOT, "operator = true");
    let both = format!("{trainer}{operator}");
    let worker = start(&world, &both);
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, TRAINING).await.expect("its token");
        let root = enter(&gate, ROOT).await.expect("its token");
        let job = load(&client, "/data").await.expect("started");
        // A reload by itself does not end it, the loss of the token does.
        reload(&worker, &both).await;
        assert_eq!(jobs(&root).await, [job]);
        reload(&worker, &operator).await;
        assert_eq!(outcome(&root, job).await.0, progress::State::Failed);
        assert!(has_no_rights(&client).await);
    });
    // A load that was kept while its caller loses the token, or the mount, meanwhile.
    let started = with_gate(worker.control_address(), async |gate| {
        let root = enter(&gate, ROOT).await.expect("its token");
        load(&root, "/data").await.expect("started")
    });
    worker.stop().expect("ends with an unfinished load");
    world.holds_loads.store(false, Ordering::Relaxed);
    let worker = start(&world, &trainer);
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, TRAINING).await.expect("its token");
        assert!(!jobs(&client).await.contains(&started));
        let cached = list(&client, "/", true, true).await.expect("listed");
        assert_eq!(cached, Names::new(), "nothing was loaded");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn a_resumed_load_reads_only_what_its_caller_may_read() {
    let world = World::with_files(&[("/data/a", 11)]);
    world.holds_loads.store(true, Ordering::Relaxed);
    let trainer = token("training", TRAINING, "");
    let worker = start(&world, &trainer);
    let job = with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, TRAINING).await.expect("its token");
        load(&client, "/").await.expect("started")
    });
    worker.stop().expect("ends with an unfinished load");
    world.holds_loads.store(false, Ordering::Relaxed);
    // Now the mount names other readers.
    let text = format!("{trainer}{}", token("other", ROOT, ""));
    let mut config = configuration(&text);
    for mount in &mut config.mounts {
        mount.readers = vec!["other".to_owned()];
    }
    let worker = Worker::start_with(config, &Played(Arc::clone(&world)));
    let worker = worker.unwrap_or_else(|error| panic!("{error}"));
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, TRAINING).await.expect("its token");
        let (_, objects, bytes, ..) = outcome(&client, job).await;
        assert_eq!((objects, bytes), (0, 0));
        let other = enter(&gate, ROOT).await.expect("its token");
        let cached = list(&other, "/", true, true).await.expect("listed");
        assert_eq!(cached, Names::new());
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn readers_see_and_end_their_own_jobs_and_leave_places_to_operators() {
    let world = World::with_files(&[("/data/a", 11)]);
    world.holds_loads.store(true, Ordering::Relaxed);
    let mut tokens = token("root", ROOT, "operator = true");
    for name in 0..5 {
        tokens.push_str(&token(
            &format!("r{name}"),
            &format!("secret-of-reader-{name}"),
            "",
        ));
    }
    let mut config = configuration(&tokens);
    let hidden = {
        let mut mount = config.mounts[0].clone();
        mount.path = "/hidden".to_owned();
        mount.id.0 = 1;
        mount.readers = vec!["r0".to_owned()];
        mount
    };
    config.mounts.push(hidden);
    let worker = Worker::start_with(config, &Played(Arc::clone(&world)));
    let worker = worker.unwrap_or_else(|error| panic!("{error}"));
    with_gate(worker.control_address(), async |gate| {
        let mut readers = Vec::new();
        for name in 0..5 {
            let secret = format!("secret-of-reader-{name}");
            readers.push(enter(&gate, &secret).await.expect("its token"));
        }
        let root = enter(&gate, ROOT).await.expect("its token");
        let everywhere = load(&readers[0], "/").await.expect("started");
        let open = load(&readers[0], "/data").await.expect("started");
        assert_eq!(jobs(&root).await, [everywhere, open]);
        assert_eq!(jobs(&readers[0]).await, [everywhere, open]);
        // The first is on a mount, too, that this one may not read.
        assert_eq!(jobs(&readers[1]).await, [open]);
        let mut request = readers[1].progress_request();
        request.get().set_job(everywhere);
        refused(request.send().promise.await, "not-found: ");
        refused(cancel(&readers[1], open).await, "not-found: ");
        cancel(&readers[0], everywhere).await.expect("its own");
        cancel(&root, open).await.expect("an operator");

        for (index, reader) in readers.iter().enumerate() {
            let mut count = 0;
            let refusal = loop {
                match load(reader, "/data").await {
                    Ok(_) => count += 1,
                    Err(error) => break error.to_string(),
                }
            };
            assert!(refusal.contains("busy: "), "{refusal}");
            assert_eq!(count, if index < 3 { 4 } else { 0 }, "reader {index}");
        }
        for _ in 0..4 {
            load(&root, "/data").await.expect("places are left");
        }
        refused(load(&root, "/data").await, "busy: ");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn mounts_at_run_time_stay_below_the_roots_also_after_a_restart() {
    let world = World::with_files(&[]);
    let folder = std::env::temp_dir().canonicalize().expect("a folder");
    let inside = format!("file://{}", folder.display());
    let roots = format!("mount_roots = [\"{inside}\", \"s3://\"]");
    let worker = start(&world, &roots);
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        mount(&client, "/inside", &inside).await.expect("a root");
        for uri in ["file:///etc", "file:///", "http://127.0.0.1/x"] {
            refused(mount(&client, "/x", uri).await, "denied: ");
        }
        for uri in [
            "FILE:///etc",
            "file:///tmp/../etc",
            "file:/etc",
            "s3://a/../b",
        ] {
            refused(mount(&client, "/x", uri).await, "invalid: ");
        }
        let mut request = client.mount_request();
        let mut elsewhere = request.get().init_mount();
        elsewhere.set_path("/x");
        elsewhere.set_uri("s3://bucket");
        let mut option = elsewhere.init_options(1).get(0);
        option.set_key("endpoint");
        option.set_value("http://169.254.169.254");
        refused(request.send().promise.await, "denied: ");
        assert_eq!(mounted(&client).await, ["/data", "/inside"]);
        reload(&worker, "mount_roots = [\"s3://\"]").await;
        assert_eq!(
            mounted(&client).await,
            ["/data"],
            "the roots are others now"
        );
        reload(&worker, &roots).await;
        assert_eq!(mounted(&client).await, ["/data", "/inside"]);
    });
    worker.stop().expect("ends in good order");
    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        assert_eq!(mounted(&client).await, ["/data"]);
    });
    worker.stop().expect("ends in good order");
    let worker = start(&world, &roots);
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        assert_eq!(mounted(&client).await, ["/data", "/inside"]);
        unmount(&client, "/inside").await.expect("it is there");
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn mounts_that_fail_or_come_again_use_nothing_up() {
    let world = World::with_files(&[]);
    let worker = start(&world, "");
    with_gate(worker.control_address(), async |gate| {
        let client = enter(&gate, "").await.expect("no token is needed");
        world.refuses_state.store(true, Ordering::Relaxed);
        for count in 0..1100 {
            let uri = format!("s3://bucket-{count}");
            refused(mount(&client, "/x", &uri).await, "failed: ");
        }
        world.refuses_state.store(false, Ordering::Relaxed);
        for _ in 0..1100 {
            mount(&client, "/x", "s3://again").await.expect("a slot");
            unmount(&client, "/x").await.expect("it is there");
        }
        for (path, word) in [
            (format!("/{}", "x".repeat(2048)), "2048 bytes"),
            ("/x\ny".to_owned(), "control characters"),
            ("/x\u{9b}31m".to_owned(), "control characters"),
        ] {
            refused(mount(&client, &path, "s3://again").await, word);
        }
        assert_eq!(mounted(&client).await, ["/data"]);
    });
    worker.stop().expect("ends in good order");
}

#[test]
fn the_operations_port_shows_strangers_numbers_only_and_takes_no_foreign_names() {
    let world = World::with_files(&[("/data/a", 10)]);
    let operator = token("root", ROOT, "operator = true");
    let worker = start(
        &world,
        &format!("{operator}{}", token("training", TRAINING, "")),
    );
    let address = worker.operations_address();
    let ask = |host: &str, path: &str, secret: &str| {
        let bearer = match secret {
            "" => String::new(),
            secret => format!("Authorization: Bearer {secret}\r\n"),
        };
        http(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{bearer}Connection: close\r\n\r\n"),
        )
    };
    assert!(ask("localhost", "/", ROOT).contains("s3://bucket"));
    for secret in ["", TRAINING] {
        let page = ask("localhost", "/", secret);
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(
            !page.contains("s3://bucket") && !page.contains("/data"),
            "{page}"
        );
        assert!(ask("localhost", "/slow", secret).starts_with("HTTP/1.1 200"));
        // A scraper needs the names of mounts, and not where they lead to.
        let metrics = ask("localhost", "/metrics", secret);
        assert!(
            metrics.contains("mount=\"/data\"") && !metrics.contains("s3://bucket"),
            "{metrics}"
        );
    }
    assert!(ask("localhost", "/", "wrong-wrong-wrong").starts_with("HTTP/1.1 401"));
    for path in ["/", "/metrics", "/healthz", "/v1/lookup"] {
        for host in ["evil.example", "127.0.0.1.evil.example", "x"] {
            let answer = ask(host, path, ROOT);
            assert!(
                answer.starts_with("HTTP/1.1 421"),
                "{host} {path}: {answer}"
            );
        }
    }
    for host in ["127.0.0.1:7401", "[::1]:7401", "localhost:7401"] {
        assert!(
            ask(host, "/healthz", "").starts_with("HTTP/1.1 200"),
            "{host}"
        );
    }
    let lookup = "POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert!(http(address, lookup).starts_with("HTTP/1.1 401"));
    worker.stop().expect("ends in good order");
}
