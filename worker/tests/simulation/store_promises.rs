//! What the under-store may do to a worker, and how often the worker asks it.

use std::rc::Rc;
use std::time::Duration;

use corelane_io::sim::{Prng, check_seeds};
use corelane_io::{Io, Priority};
use corelane_rpc_schema::frame::ReadSource;
use corelane_worker::mount::{Admission, Freshness, Mount};

use crate::client::Lane;
use crate::origin::{Behaviour, version_number};
use crate::scene::Scene;
use crate::worker::{mount, side_by_side};

const BLOCK: u64 = 64 << 10;

#[test]
fn a_version_change_during_a_read_gives_the_old_or_the_new_and_no_mixture() {
    let name = "a_version_change_during_a_read_gives_the_old_or_the_new_and_no_mixture";
    check_seeds(name, 12, |seed| {
        let freshness = [
            Freshness::AlwaysCheck,
            Freshness::MaxAge(Duration::from_millis(5)),
        ][seed as usize % 2];
        let scene = Scene::new(seed, 1, vec![mount(0, "/a", BLOCK as u32, freshness)]);
        scene.origin.set_behaviour(Behaviour {
            lease_ns: (1_000, 400_000),
            ..Behaviour::calm()
        });
        scene.put("/a/x", 10 * BLOCK + 5);
        let ended = scene.world.block_on(async {
            let cast = scene.start(2).await;
            let prng = Prng::new(seed);
            let (origin, io) = (scene.origin.clone(), cast.io.clone());
            let overwrites = async move {
                for _ in 0..30 {
                    io.sleep(Duration::from_nanos(prng.below(6_000_000))).await;
                    // The same length: a mixture would have it too.
                    origin.put("https://origin.sim/a/x", 10 * BLOCK + 5, io.now());
                }
            };
            let readers = (0..3).map(|_| {
                let (crowd, lane) = (Rc::clone(&cast.crowd), cast.lane.clone());
                async move {
                    for _ in 0..20 {
                        let opened = crowd.open(&lane, "/a/x").await.expect("the store is there");
                        // One read over many blocks: judged as a whole.
                        if crowd.read(&lane, &opened, 0..opened.length).await.is_some() {
                            crowd.read(&lane, &opened, BLOCK - 9..BLOCK + 9).await;
                        }
                    }
                }
            });
            cast.io.spawn(Priority::Foreground, overwrites);
            side_by_side(&cast.io, readers).await;
            cast.io.sleep(Duration::from_millis(300)).await;
            let opened = cast.open("/a/x").await;
            let last = scene
                .origin
                .current("https://origin.sim/a/x")
                .expect("it is there");
            assert_eq!(opened.version, last.number);
            cast.read(&opened, 0..opened.length).await;
            assert!(cast.crowd.tally.reads.get() > 0);
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn a_version_that_comes_with_another_length_is_another_object_also_after_a_restart() {
    let name = "a_version_that_comes_with_another_length_is_another_object_also_after_a_restart";
    check_seeds(name, 4, |seed| {
        let mounts = vec![mount(0, "/a", BLOCK as u32, Freshness::AlwaysCheck)];
        let scene = Scene::new(seed, 1, mounts);
        let prng = Prng::new(seed);
        let uri = "https://origin.sim/a/x";
        // Within a page, a block and a stripe, and beyond each.
        let lengths = [
            1000,
            5 * BLOCK + 7,
            40,
            (16 << 20) + BLOCK,
            BLOCK,
            BLOCK + 1,
            0,
            1000,
        ];
        // Strong and weak ETags.
        for label in [1, 3] {
            let first = prng.below(lengths.len() as u64) as usize;
            let ended = scene.world.block_on(async {
                for turn in 0..4 {
                    let cast = scene.start(1 + (turn % 3) as u16).await;
                    for step in 0..3 {
                        let length = lengths[(first + turn + step) % lengths.len()];
                        scene.origin.put_as(uri, Some(label), length, cast.now());
                        let opened = cast.open("/a/x").await;
                        assert_eq!((opened.version, opened.length), (label, length));
                        cast.read_all(&opened, 1 << 18).await;
                        // Not all of them fit the device together.
                        let meta = cast.worker.describe(0, "/a/x").await.expect("alive");
                        let meta = meta.expect("the store is there");
                        let loaded = cast.worker.load(&meta).await.expect("alive");
                        loaded.expect("the store is there");
                        cast.read_all(&opened, 1 << 18).await;
                    }
                    if turn % 2 == 0 {
                        cast.stop(&scene.world).await;
                    } else {
                        cast.worker.kill(&scene.world);
                        scene.world.kill_core(&cast.io);
                    }
                }
            });
            ended.expect("no crash is scheduled");
        }
    });
}

#[test]
fn a_length_that_is_a_lie_costs_errors_and_nothing_else() {
    let name = "a_length_that_is_a_lie_costs_errors_and_nothing_else";
    check_seeds(name, 8, |seed| {
        let freshness = [Freshness::AlwaysCheck, Freshness::Immutable][seed as usize % 2];
        let scene = Scene::new(seed, 1, vec![mount(0, "/a", BLOCK as u32, freshness)]);
        scene.put("/a/x", 5 * BLOCK + 7);
        let ended = scene.world.block_on(async {
            let cast = scene.start(2).await;
            let behave = |lie| {
                let behaviour = Behaviour {
                    lie,
                    ..Behaviour::calm()
                };
                scene.origin.set_behaviour(behaviour);
            };
            behave(1.0);
            for _ in 0..10 {
                let opened = cast.open("/a/x").await;
                let range = 0..opened.length.min(BLOCK);
                let read = cast.crowd.read(&cast.lane, &opened, range).await;
                assert!(read.is_none(), "{opened:?}");
            }
            assert!(scene.origin.lies() > 0);
            behave(0.0);
            // What was remembered of a lie goes with the first read.
            let lied = cast.open("/a/x").await;
            let range = 0..lied.length.min(BLOCK);
            let _ = cast.crowd.read(&cast.lane, &lied, range).await;
            let opened = cast.open("/a/x").await;
            assert_eq!(opened.length, 5 * BLOCK + 7);
            cast.read_all(&opened, BLOCK).await;
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn many_readers_of_one_block_make_one_request() {
    check_seeds("many_readers_of_one_block_make_one_request", 10, |seed| {
        let scene = Scene::new(
            seed,
            1,
            vec![mount(0, "/a", BLOCK as u32, Freshness::Immutable)],
        );
        scene.put("/a/x", BLOCK);
        let ended = scene.world.block_on(async {
            let cast = scene.start(3).await;
            let mut lanes = Vec::new();
            for shard in 0..3 {
                let lane = Lane::connect(&cast.io, cast.worker.address(shard), "").await;
                lanes.push(lane.expect("nothing breaks connections"));
            }
            let readers = (0..30u64).map(|number| {
                let (crowd, lane) = (Rc::clone(&cast.crowd), lanes[number as usize % 3].clone());
                async move {
                    let opened = crowd.open(&lane, "/a/x").await.expect("it opens");
                    let start = number * 1000;
                    let read = crowd.read(&lane, &opened, start..start + 900).await;
                    read.expect("it can be read");
                    opened.id
                }
            });
            let id = side_by_side(&cast.io, readers).await[0];
            assert_eq!(scene.origin.fetches_of(id), 1);
            assert_eq!(scene.origin.describes(), 1);
        });
        ended.expect("no crash is scheduled");
    });
}

#[test]
fn a_block_that_comes_after_its_object_was_freed_is_for_its_reader_alone() {
    let mounts = vec![mount(0, "/a", BLOCK as u32, Freshness::Immutable)];
    let scene = Scene::new(1, 1, mounts);
    scene.put("/a/x", 4 * BLOCK);
    scene.origin.set_behaviour(Behaviour {
        latency_ns: (10_000_000, 11_000_000),
        ..Behaviour::calm()
    });
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let opened = cast.open("/a/x").await;
        let meta = cast.worker.describe(0, "/a/x").await.expect("alive");
        let meta = meta.expect("it is there");
        let free = async {
            cast.io.sleep(Duration::from_millis(2)).await;
            assert_eq!(cast.stat("fetches").await, 1, "it is on its way");
            assert_eq!(cast.stat("blocks_filled").await, 0);
            cast.worker
                .free(&meta)
                .await
                .expect("alive")
                .expect("freed");
        };
        let whole = 0..4 * BLOCK;
        let (source, ()) = futures::join!(cast.read(&opened, whole.clone()), free);
        assert_eq!(source, ReadSource::UnderStore, "its reader has it");
        cast.io.sleep(Duration::from_millis(100)).await;
        let held = async || {
            let cached = cast.worker.cached().await.expect("alive");
            cached.get(&meta.id).map_or(0, |(_, held)| held.blocks)
        };
        assert_eq!(held().await, 0, "it was freed");
        let opened = cast.open("/a/x").await;
        assert_eq!(cast.read(&opened, whole).await, ReadSource::UnderStore);
        cast.io.sleep(Duration::from_millis(100)).await;
        assert_eq!(held().await, 4, "what comes later is kept");
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn blocks_of_a_stripe_that_are_more_than_the_memory_come_in_parts() {
    let mounts = vec![mount(0, "/a", BLOCK as u32, Freshness::Immutable)];
    let mut scene = Scene::new(1, 1, mounts);
    scene.site.tuning.tier_frames_min = 8;
    scene.put("/a/x", 16 * BLOCK);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let meta = cast.load("/a/x").await;
        let cached = cast.worker.cached().await.expect("alive");
        assert_eq!(cached[&meta.id].1.blocks, 16);
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn second_touch_admits_on_the_second_fetch() {
    let second = Mount {
        admission: Admission::SecondTouch,
        key_indexes: Vec::new(),
        ..mount(0, "/a", BLOCK as u32, Freshness::Immutable)
    };
    let other = mount(1, "/b", BLOCK as u32, Freshness::Immutable);
    let mut scene = Scene::new(1, 1, vec![second, other]);
    scene.site.tuning.tier_frames_min = 8;
    scene.put("/a/x", BLOCK);
    scene.put("/b/y", 64 * BLOCK);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let opened = cast.open("/a/x").await;
        let held = async || {
            // What is admitted is written within the delay of a flush.
            cast.io.sleep(Duration::from_millis(50)).await;
            let cached = cast.worker.cached().await.expect("alive");
            cached
                .get(&opened.id)
                .map_or(0, |(_, cached)| cached.blocks)
        };
        assert_eq!(cast.read_all(&opened, BLOCK).await, ReadSource::UnderStore);
        assert_eq!(held().await, 0, "fetched once");
        assert_eq!(cast.stat("blocks_not_admitted").await, 1);
        let others = cast.open("/b/y").await;
        cast.read_all(&others, BLOCK).await;
        cast.read_all(&others, BLOCK).await;
        assert_eq!(cast.read_all(&opened, BLOCK).await, ReadSource::UnderStore);
        assert_eq!(scene.origin.fetches_of(opened.id), 2);
        assert_eq!(held().await, 1, "fetched twice");
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn read_ahead_runs_before_a_reader_in_order_and_backs_off_from_one_that_jumps() {
    let scene = Scene::new(
        2,
        1,
        vec![mount(0, "/a", BLOCK as u32, Freshness::Immutable)],
    );
    scene.put("/a/in-order", 48 * BLOCK);
    scene.put("/a/at-random", 200 * BLOCK);
    let ended = scene.world.block_on(async {
        let cast = scene.start(1).await;
        let opened = cast.open("/a/in-order").await;
        cast.read_all(&opened, 16 << 10).await;
        let ahead = cast.stat("blocks_read_ahead").await;
        // Between 18 and 30, as the seed has it.
        assert!(
            ahead >= 16,
            "{ahead} of 48 blocks came before they were asked for"
        );
        let used = cast.stat("blocks_read_ahead_used").await;
        assert!(
            used >= ahead / 2 && used <= ahead,
            "{used} of {ahead} blocks were used"
        );
        assert!(
            scene.origin.fetches_of(opened.id) < 48,
            "neighbours are joined: {} requests",
            scene.origin.fetches_of(opened.id)
        );
        cast.read_all(&opened, 16 << 10).await;
        cast.read_all(&opened, 16 << 10).await;
        let ahead = cast.stat("blocks_read_ahead").await;
        let used = cast.stat("blocks_read_ahead_used").await;
        assert!(
            used <= ahead,
            "{used} uses of {ahead} blocks: each counts once"
        );
        let opened = cast.open("/a/at-random").await;
        let prng = Prng::new(5);
        for _ in 0..60 {
            let start = prng.below(200) * BLOCK + 4096;
            cast.read(&opened, start..start + 4096).await;
        }
        let for_nothing = cast.stat("blocks_read_ahead").await - ahead;
        assert!(
            for_nothing <= 6,
            "{for_nothing} blocks were fetched for a reader that jumps"
        );
    });
    ended.expect("no crash is scheduled");
}

#[test]
fn with_the_store_away_what_is_fresh_opens_and_what_is_not_says_why() {
    let scene = Scene::new(
        3,
        1,
        vec![
            mount(0, "/always", BLOCK as u32, Freshness::AlwaysCheck),
            mount(
                1,
                "/aged",
                BLOCK as u32,
                Freshness::MaxAge(Duration::from_secs(1)),
            ),
            mount(2, "/immutable", BLOCK as u32, Freshness::Immutable),
        ],
    );
    for path in ["/always/x", "/aged/x", "/immutable/x"] {
        scene.put(path, 2 * BLOCK);
    }
    let ended = scene.world.block_on(async {
        let cast = scene.start(2).await;
        for path in ["/always/x", "/aged/x", "/immutable/x"] {
            let meta = cast.load(path).await;
            assert_eq!(version_number(&meta.version), 1);
        }
        scene.origin.set_away(true);
        assert!(cast.crowd.open(&cast.lane, "/always/x").await.is_none());
        let aged = cast.open("/aged/x").await;
        cast.read_all(&aged, BLOCK).await;
        cast.io.sleep(Duration::from_secs(2)).await;
        assert!(cast.crowd.open(&cast.lane, "/aged/x").await.is_none());
        // What was opened before stays readable: the bytes are those of its version.
        cast.read_all(&aged, BLOCK).await;
        let immutable = cast.open("/immutable/x").await;
        cast.read_all(&immutable, BLOCK).await;
        assert_eq!(cast.crowd.tally.errors.get(), 2);
    });
    ended.expect("no crash is scheduled");
}
