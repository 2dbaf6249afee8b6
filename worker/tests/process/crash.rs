//! SIGKILL at any instant, under load, again and again.
//!
//! `CORELANE_CRASH_ROUNDS` and `CORELANE_CRASH_SEED` run more rounds, or the same instants again
//! (as near as a real machine can repeat them).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use corelane_client::Options;

use crate::harness::{BLOCK, Bed, Process, Random, assert_same, counter};

/// Rounds by default: both tests together take a third of a minute in a debug build.
const ROUNDS: u64 = 9;

/// Clients that read at a time.
const READERS: u64 = 3;

/// Longest life of a round's worker: a load of its new files is under way for about as long.
const LIFE_MS_MAX: u64 = 500;

/// Blocks of the extents that were being written at a kill: two logs on two shards, extents of
/// 2 MiB. Where the summary was written and the blocks were not, they are found out when read.
const TORN_BLOCKS_MAX: u64 = 2 * 2 * (2 << 20) / BLOCK as u64;

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

struct File {
    path: String,
    bytes: Vec<u8>,
}

/// What all rounds share.
struct Scene {
    bed: Bed,
    files: Arc<Vec<File>>,
    random: Random,
}

impl Scene {
    fn new(device_size: &'static str, seed: u64) -> Self {
        let mut bed = Bed::on_disk();
        bed.device_size = device_size;
        Scene {
            bed,
            files: Arc::default(),
            random: Random::new(seed),
        }
    }

    /// Writes some more files, of `bytes` in all or a little more.
    fn add_files(&mut self, round: u64, bytes: usize) {
        let files = Arc::get_mut(&mut self.files).expect("no reader lives");
        let mut written = 0;
        while written < bytes {
            let length = self.random.below(9 * BLOCK as u64) as usize;
            let name = format!("{round:03}/{}", files.len());
            let bytes = self.bed.write(&name, self.random.next(), length);
            files.push(File {
                path: format!("/data/{name}"),
                bytes,
            });
            written += length;
        }
    }

    /// Reads and compares until `is_over`, in `READERS` threads.
    fn readers(
        &mut self,
        process: &Process,
        is_over: &Arc<AtomicBool>,
    ) -> Vec<std::thread::JoinHandle<u64>> {
        (0..READERS)
            .map(|_| {
                let client = process.client_with(
                    "",
                    Options {
                        retries_max: 0,
                        ..Options::default()
                    },
                );
                let files = Arc::clone(&self.files);
                let is_over = Arc::clone(is_over);
                let mut random = Random::new(self.random.next());
                std::thread::spawn(move || {
                    let mut reads = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        let file = &files[random.below(files.len() as u64) as usize];
                        let length = file.bytes.len() as u64;
                        let start = random.below(length + 1);
                        let end = start + random.below(length - start + 1);
                        let read = client
                            .open(&file.path)
                            .and_then(|object| client.read(&object, start..end));
                        match read {
                            Ok(bytes) => {
                                let expected = &file.bytes[start as usize..end as usize];
                                assert_same(
                                    &bytes,
                                    expected,
                                    &format!("{} from {start}", file.path),
                                );
                                reads += 1;
                            }
                            // Nothing but the kill may fail a read.
                            Err(error) => {
                                let patience = Instant::now() + Duration::from_secs(2);
                                while !is_over.load(Ordering::SeqCst) {
                                    assert!(Instant::now() < patience, "{}: {error}", file.path);
                                    std::thread::sleep(Duration::from_millis(5));
                                }
                            }
                        }
                    }
                    reads
                })
            })
            .collect()
    }

    /// Runs a worker under load and kills it; gives the blocks that it said were on the device.
    fn live_and_die(&mut self, process: Process) -> u64 {
        let control = process.control();
        let is_over = Arc::new(AtomicBool::new(false));
        let readers = self.readers(&process, &is_over);
        control.load("/data", true).expect("a load starts");
        let end = Instant::now() + Duration::from_millis(self.random.below(LIFE_MS_MAX));
        let mut inserted = 0;
        while Instant::now() < end {
            inserted = counter(&control.stats().expect("stats"), "blocks_inserted");
            std::thread::sleep(Duration::from_millis(self.random.below(20)));
        }
        is_over.store(true, Ordering::SeqCst);
        let recovered = process.recovered_blocks;
        process.kill();
        for reader in readers {
            reader.join().expect("a reader saw wrong bytes or an error");
        }
        recovered + inserted
    }

    fn blocks(&self) -> u64 {
        self.files
            .iter()
            .map(|file| file.bytes.len().div_ceil(BLOCK) as u64)
            .sum()
    }

    #[track_caller]
    fn assert_all(&self, process: &Process, when: &str) {
        let client = process.client();
        for file in self.files.iter() {
            let read = client.read_file(&file.path);
            let (_, bytes) = read.unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_same(&bytes, &file.bytes, &format!("{} {when}", file.path));
        }
    }
}

#[test]
fn kills_under_load_lose_no_block_that_was_written_and_serve_no_wrong_byte() {
    let seed = setting("CORELANE_CRASH_SEED", 1);
    let rounds = setting("CORELANE_CRASH_ROUNDS", ROUNDS);
    println!("CORELANE_CRASH_SEED={seed} CORELANE_CRASH_ROUNDS={rounds}");
    // Room for everything, so that nothing but a kill can lose a block.
    let mut scene = Scene::new("162M", seed);
    let mut least = 0;
    for round in 0..rounds {
        // Rounds beyond what fits find the files of earlier ones.
        if round < 24 {
            scene.add_files(round, 3 << 20);
        }
        let process = scene.bed.start();
        let recovered = process.recovered_blocks;
        assert_eq!(process.epoch, round + 1);
        assert!(
            recovered >= least,
            "round {round}: {least} blocks were written, {recovered} came back"
        );
        assert!(recovered <= scene.blocks(), "round {round}");
        assert!(process.recovery_seconds < 20.0, "round {round}");
        scene.assert_all(&process, &format!("after kill {round}"));
        least = scene.live_and_die(process);
    }
    let process = scene.bed.start();
    assert!(process.recovered_blocks >= least);
    process.load("/data");
    process.terminate();
    let process = scene.bed.start();
    assert_eq!(process.recovered_blocks, scene.blocks());
    scene.assert_all(&process, "at the end");
    assert_eq!(process.counter("fetches"), 0, "all of it was on the device");
    process.terminate();
}

#[test]
fn kills_while_regions_are_reclaimed_serve_no_wrong_byte() {
    let seed = setting("CORELANE_CRASH_SEED", 2);
    let rounds = setting("CORELANE_CRASH_ROUNDS", ROUNDS);
    println!("CORELANE_CRASH_SEED={seed} CORELANE_CRASH_ROUNDS={rounds}");
    // The smallest device, in front of more than it holds.
    let mut scene = Scene::new("34M", seed);
    scene.add_files(0, 48 << 20);
    for round in 0..rounds {
        let process = scene.bed.start();
        assert!(
            round == 0 || process.recovered_blocks > 0,
            "round {round}: an empty cache came back"
        );
        if round % 3 == 0 {
            scene.assert_all(&process, &format!("after kill {round}"));
        }
        scene.live_and_die(process);
    }
    let process = scene.bed.start();
    scene.assert_all(&process, "at the end");
    let stats = process.control().stats().expect("stats");
    assert!(counter(&stats, "regions_reclaimed") > 0);
    assert!(counter(&stats, "blocks_healed") <= TORN_BLOCKS_MAX);
    process.terminate();
}
