//! What devices may do to a worker, and what clients see of it: nothing.

use std::cell::Cell;
use std::time::Duration;

use corelane_io::Io;
use corelane_io::sim::{Fault, Faults, Hang, World, check_seeds};
use corelane_rpc_schema::frame::ReadSource;
use corelane_worker::mount::Freshness;
use corelane_worker::shard::request::ShardRequest;

use crate::content;
use crate::oracle::Opened;
use crate::scene::{Cast, REGION_BYTES, Scene};
use crate::worker::{Worker, mount};

const BLOCK_BYTES: u32 = 64 << 10;

fn scene(seed: u64, devices: usize) -> Scene {
    Scene::new(
        seed,
        devices,
        vec![mount(0, "/a", BLOCK_BYTES, Freshness::Immutable)],
    )
}

/// Puts and loads objects of some blocks; gives their paths.
async fn load_objects(scene: &Scene, cast: &Cast, count: u64) -> Vec<String> {
    let mut paths = Vec::new();
    for number in 0..count {
        let path = format!("/a/o{number}");
        scene.put(&path, 150_000 + number * 10_007);
        cast.load(&path).await;
        paths.push(path);
    }
    paths
}

/// The place on the device of page `page` of an object.
fn place_of(world: &World, device: &str, opened: &Opened, page: u64) -> u64 {
    let length = 42 * REGION_BYTES as usize;
    let expected = content::bytes(&opened.uri, opened.version, page * 4096, 4096);
    let bytes = world.device_bytes(device, 0, length);
    let place = bytes.chunks_exact(4096).position(|found| found == expected);
    place.expect("the page is on the device") as u64 * 4096
}

#[test]
fn a_flipped_bit_is_a_miss_and_is_fetched_again() {
    check_seeds("a_flipped_bit_is_a_miss_and_is_fetched_again", 5, |seed| {
        let scene = scene(seed, 1);
        let ended = scene.world.block_on(async {
            let cast = scene.start(1).await;
            let path = &load_objects(&scene, &cast, 1).await[0];
            cast.stop(&scene.world).await;

            let cast = scene.start(1).await;
            let opened = cast.open(path).await;
            let fetches = scene.origin.fetches_of(opened.id);
            let place = place_of(&scene.world, "/dev/sim0", &opened, 20);
            scene.world.corrupt("/dev/sim0", place + 77, 1, seed);
            let block = u64::from(BLOCK_BYTES);
            assert_eq!(cast.read(&opened, 0..4096).await, ReadSource::Device);
            let source = cast.read(&opened, 20 * 4096..21 * 4096).await;
            assert_eq!(source, ReadSource::UnderStore, "the page is fetched again");
            assert_eq!(cast.stat("corrupt_pages").await, 1);
            assert_eq!(cast.stat("pages_corrupt_healed").await, 1);
            assert_eq!(scene.origin.fetches_of(opened.id), fetches + 1);
            cast.read_all(&opened, block).await;
            cast.stop(&scene.world).await;

            let cast = scene.start(1).await;
            let opened = cast.open(path).await;
            let source = cast.read(&opened, 20 * 4096..21 * 4096).await;
            assert_eq!(source, ReadSource::Device, "what was fetched again is kept");
            assert_eq!(cast.stat("corrupt_pages").await, 0);
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn a_read_that_the_device_fails_is_fetched_again_and_is_no_wrong_checksum() {
    let scene = scene(1, 1);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let path = &load_objects(&scene, &cast, 1).await[0];
        cast.stop(&scene.world).await;

        let cast = scene.start(1).await;
        let opened = cast.open(path).await;
        scene.world.set_faults(Faults {
            read_error: 1.0,
            ..Faults::none()
        });
        let source = cast.read(&opened, 0..4096).await;
        scene.world.set_faults(Faults::none());
        assert_eq!(source, ReadSource::UnderStore);
        assert_eq!(cast.stat("device_reads_failed").await, 1);
        assert_eq!(cast.stat("pages_corrupt_healed").await, 0);
        assert_eq!(cast.stat("corrupt_pages").await, 0);
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn a_misdirected_write_never_serves_wrong_bytes() {
    let restarts = Cell::new(0);
    check_seeds("a_misdirected_write_never_serves_wrong_bytes", 12, |seed| {
        let scene = scene(seed, 1);
        let ended = scene.world.block_on(async {
            let cast = scene.start(2).await;
            scene.world.set_faults(Faults {
                misdirected_write: 0.2,
                ..Faults::none()
            });
            let paths = load_objects(&scene, &cast, 12).await;
            scene.world.set_faults(Faults::none());
            cast.stop(&scene.world).await;
            assert!(scene.world.injected(Fault::MisdirectedWrite) > 0);

            // A superblock may have been hit; then it is for the operator to format.
            let Ok(worker) = Worker::start(&scene.world, &scene.site, 2).await else {
                return;
            };
            restarts.set(restarts.get() + 1);
            let cast = scene.cast(worker).await;
            for path in &paths {
                let opened = cast.open(path).await;
                cast.read_all(&opened, 48 << 10).await;
            }
        });
        ended.expect("no crash is scheduled");
    });
    assert!(restarts.get() > 0, "no worker came back");
}

/// Reads a page of each block of the objects side by side: more than there are buffers. Each has to end in `max`.
async fn read_pages_side_by_side(scene: &Scene, cast: &Cast, paths: &[String], max: Duration) {
    let mut objects = Vec::new();
    for path in paths {
        objects.push(cast.open(path).await);
    }
    let reads = objects.iter().flat_map(|opened| {
        let pages = (0..2).map(|block| block * u64::from(BLOCK_BYTES) + 8192);
        pages.map(move |at| async move {
            let began = scene.world.now();
            cast.read(opened, at..at + 4096).await;
            let took = scene.world.now().since(began);
            assert!(took <= max, "a read took {took:?}");
        })
    });
    futures::future::join_all(reads).await;
}

#[test]
fn reads_go_on_from_the_store_while_a_device_hangs_and_the_worker_stops_in_time() {
    let name = "reads_go_on_from_the_store_while_a_device_hangs_and_the_worker_stops_in_time";
    check_seeds(name, 4, |seed| {
        let scene = scene(seed, 2);
        let ended = scene.world.block_on(async {
            let cast = scene.start(2).await;
            let paths = load_objects(&scene, &cast, 24).await;
            cast.stop(&scene.world).await;

            let cast = scene.start(2).await;
            scene.world.hang_device("/dev/sim1", Hang::ALL);
            // Those that are the first to wait, and those that find their buffers taken.
            read_pages_side_by_side(&scene, &cast, &paths, Duration::from_secs(13)).await;
            assert!(cast.stat("reads_under_store").await > 0);
            assert!(cast.stat("reads_device").await > 0, "one device is well");
            let quick = Duration::from_secs(2);
            read_pages_side_by_side(&scene, &cast, &paths, quick).await;
            if seed % 2 == 0 {
                // What comes late may not land where others read by now.
                scene.world.answer_device("/dev/sim1");
            } else {
                scene.world.sleep(Duration::from_secs(65)).await;
                assert!(cast.stat("devices_failed").await > 0, "it was taken out");
            }
            for path in &paths {
                let opened = cast.open(path).await;
                cast.read_all(&opened, 48 << 10).await;
            }
            scene.world.hang_device("/dev/sim1", Hang::ALL);
            scene.put("/a/new", 300_000);
            let opened = cast.open("/a/new").await;
            cast.read_all(&opened, 48 << 10).await;
            let began = scene.world.now();
            cast.stop(&scene.world).await;
            let took = scene.world.now().since(began);
            assert!(took < Duration::from_secs(50), "it stopped after {took:?}");
            scene.world.answer_device("/dev/sim1");
            let cast = scene.start(2).await;
            for path in &paths {
                let opened = cast.open(path).await;
                cast.read_all(&opened, 48 << 10).await;
            }
            assert!(scene.world.injected(Fault::Unanswered) > 0);
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn what_lay_on_a_failed_device_is_served_from_the_store() {
    check_seeds(
        "what_lay_on_a_failed_device_is_served_from_the_store",
        5,
        |seed| {
            let scene = scene(seed, 2);
            let ended = scene.world.block_on(async {
                let cast = scene.start(2).await;
                let paths = load_objects(&scene, &cast, 16).await;
                cast.stop(&scene.world).await;

                let cast = scene.start(2).await;
                scene.world.fail_device("/dev/sim1");
                for _ in 0..2 {
                    for path in &paths {
                        let opened = cast.open(path).await;
                        cast.read_all(&opened, 48 << 10).await;
                    }
                }
                assert!(cast.stat("reads_device").await > 0, "one device is well");
                assert!(cast.stat("reads_under_store").await > 0, "one is not");
                let devices = cast
                    .worker
                    .ask_all(|answer| ShardRequest::Devices { answer });
                let devices = devices.await.expect("alive");
                let is_healthy = |path: &str| {
                    let mut found = devices
                        .iter()
                        .flatten()
                        .filter(|device| device.path == path);
                    found.all(|device| device.healthy)
                };
                assert!(is_healthy("/dev/sim0"));
                assert!(cast.stat("device_errors").await > 0 || !is_healthy("/dev/sim1"));
                cast.stop(&scene.world).await;

                let cast = scene.start(1).await;
                for path in &paths {
                    let opened = cast.open(path).await;
                    cast.read_all(&opened, 48 << 10).await;
                }
            });
            ended.expect("no crash is scheduled");
        },
    );
}

#[test]
fn a_restart_with_another_number_of_cores_keeps_the_cache() {
    for (seed, (before, after)) in (0..).zip([(1, 4), (4, 1), (2, 3), (3, 2), (4, 4)]) {
        let scene = scene(seed, 1 + seed as usize % 2);
        let ended = scene.world.block_on(async {
            let cast = scene.start(before).await;
            let paths = load_objects(&scene, &cast, 20).await;
            let held = cast.worker.cached().await.expect("alive");
            cast.stop(&scene.world).await;

            scene.origin.set_away(true);
            let fetches = scene.origin.fetches();
            let cast = scene.start(after).await;
            let found = cast.worker.cached().await.expect("alive");
            let blocks = |of: &crate::ledger::Holdings| -> Vec<_> {
                of.iter()
                    .map(|(object, (_, cached))| (*object, cached.blocks))
                    .collect()
            };
            assert_eq!(
                blocks(&held),
                blocks(&found),
                "{before} shards, then {after}"
            );
            for path in &paths {
                let opened = cast.open(path).await;
                let source = cast.read_all(&opened, 100_000).await;
                assert_eq!(source, ReadSource::Device, "{path}");
            }
            assert_eq!(scene.origin.fetches(), fetches, "nothing is fetched again");
        });
        ended.expect("no crash is scheduled");
    }
}

#[test]
fn a_cache_full_of_pinned_blocks_is_served_from_the_store_and_says_so() {
    check_seeds(
        "a_cache_full_of_pinned_blocks_is_served_from_the_store_and_says_so",
        3,
        |seed| {
            let scene = scene(seed, 1);
            let ended = scene.world.block_on(async {
                let cast = scene.start(1).await;
                let mut paths = Vec::new();
                for number in 0..50 {
                    let path = format!("/a/o{number}");
                    scene.put(&path, 1 << 20);
                    let meta = cast.worker.describe(0, &path).await.expect("alive");
                    let meta = meta.expect("the store is there");
                    // A pin of what is not there yet holds for what comes.
                    cast.worker
                        .pin(&meta, true)
                        .await
                        .expect("alive")
                        .expect("nothing is pinned yet");
                    let loaded = cast.worker.load(&meta).await.expect("alive");
                    loaded.expect("the store is there");
                    paths.push(path);
                }
                assert!(
                    cast.stat("not_kept_no_room").await > 0,
                    "the device is full of pins"
                );
                assert!(cast.stat("blocks_not_kept").await > 0);
                for path in &paths {
                    let opened = cast.open(path).await;
                    cast.read_all(&opened, 64 << 10).await;
                }
                assert!(cast.stat("reads_under_store").await > 0);
                assert_eq!(cast.stat("reads_failed").await, 0);
                cast.io.sleep(Duration::from_millis(10)).await;
            });
            ended.expect("no crash is scheduled");
        },
    );
}

#[test]
fn a_load_whose_flush_failed_says_that_nothing_was_kept() {
    let scene = scene(8, 1);
    let ended = scene.world.block_on(async {
        let cast = scene.start(2).await;
        scene.put("/a/x", 150_000);
        let meta = cast.worker.describe(0, "/a/x").await.expect("alive");
        let meta = meta.expect("the store is there");
        scene.world.set_faults(Faults {
            flush_drop: 1.0,
            ..Faults::none()
        });
        let loaded = cast.worker.load(&meta).await.expect("alive");
        let loaded = loaded.expect("the store is there");
        scene.world.set_faults(Faults::none());
        assert!(scene.world.injected(Fault::FlushDropped) > 0);
        assert_eq!(loaded.bytes_fetched + loaded.bytes_skipped, 0, "{loaded:?}");
        assert_eq!(loaded.bytes_not_kept, 150_000, "{loaded:?}");
        let devices = cast
            .worker
            .ask_all(|answer| ShardRequest::Devices { answer });
        for device in devices.await.expect("alive").iter().flatten() {
            assert!(!device.healthy, "{device:?}");
            assert!(!device.reason.is_empty(), "{device:?}");
        }
        // Again: now the device is out, and this is no better.
        let loaded = cast.worker.load(&meta).await.expect("alive");
        let loaded = loaded.expect("the store is there");
        assert_eq!(loaded.bytes_not_kept, 150_000, "{loaded:?}");
        let opened = cast.open("/a/x").await;
        cast.read_all(&opened, 48 << 10).await;
        let freed = cast.worker.free(&meta).await.expect("alive");
        assert!(freed.is_err(), "nothing says so at the next start");
    });
    ended.expect("no crash is scheduled");
}
