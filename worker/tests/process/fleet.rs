//! Two workers in front of the same folder, and the client of both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_client::fleet::{Fleet, FleetOptions, Worker};

use crate::harness::{BLOCK, Bed, Process, assert_same};

const FILES: u64 = 24;
const READERS: u64 = 4;

/// Reads from before the kill to after it, each by whole files.
const ROUNDS: u64 = 12;

/// Another bed whose mount is the folder of `bed`.
fn beside(bed: &Bed) -> Bed {
    let mut other = Bed::in_memory();
    other.cores = 1;
    other.mounts[0].uri = bed.mounts[0].uri.clone();
    other
}

fn fleet(processes: &[Process]) -> Fleet {
    let workers: Vec<Worker> = processes
        .iter()
        .enumerate()
        .map(|(number, process)| {
            Worker::active(format!("worker-{number}"), process.data[0].to_string(), 1)
        })
        .collect();
    let options = FleetOptions {
        replicas: 2,
        ..FleetOptions::default()
    };
    Fleet::new(&workers, "", options).expect("a possible fleet")
}

#[test]
fn no_read_fails_when_one_of_two_workers_is_killed() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    let files: Vec<(String, Vec<u8>)> = (0..FILES)
        .map(|seed| {
            let name = format!("of-{seed}");
            let bytes = bed.write(&name, seed, 3 * BLOCK + 100);
            (format!("/data/{name}"), bytes)
        })
        .collect();
    let other = beside(&bed);
    let mut processes = vec![bed.start(), other.start()];
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let fleet = runtime.block_on(async { fleet(&processes) });
    let files = Arc::new(files);
    let reads = Arc::new(AtomicU64::new(0));
    let (half_read, is_half_read) = std::sync::mpsc::channel();
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let (fleet, files) = (fleet.clone(), Arc::clone(&files));
            let (reads, half_read) = (Arc::clone(&reads), half_read.clone());
            runtime.spawn(async move {
                for number in 0..ROUNDS * FILES {
                    let (path, bytes) = &files[((number * 7 + reader) % FILES) as usize];
                    let (_, read) = fleet
                        .read_file(path)
                        .await
                        .unwrap_or_else(|error| panic!("{path}: {error}"));
                    assert_same(&read, bytes, path);
                    if reads.fetch_add(1, Ordering::Relaxed) == READERS * ROUNDS * FILES / 2 {
                        half_read.send(()).expect("the test waits for it");
                    }
                }
            })
        })
        .collect();
    // The readers hold theirs: if they all fail, this does not wait for ever.
    drop(half_read);
    is_half_read.recv().expect("half of the files were read");
    processes.remove(0).kill();
    for reader in readers {
        runtime.block_on(reader).expect("all its files were read");
    }
    let counters = fleet.counters();
    assert!(
        counters.unreachable > 0,
        "the lost worker was noticed: {counters:?}"
    );
    assert_eq!(reads.load(Ordering::Relaxed), READERS * ROUNDS * FILES);
}
