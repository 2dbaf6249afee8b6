//! How fast recovery and the read path are. Printed, not judged, except that the work is right:
//! timing never decides a test. Run with `--release -- --ignored --nocapture speed`.

use corelane_io::sim::{Faults, World};
use corelane_rpc_schema::ShardId;
use corelane_worker::store::synthetic::{SyntheticRecords, write_synthetic};
use corelane_worker::store::{FormatOptions, StoreConfig};

use crate::bed::{Bed, Family, object};

/// CPU time of this thread: other work on the machine does not count.
fn busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|number| number.parse::<u64>().ok());
    nanoseconds.expect("a number of nanoseconds") as f64 / 1e9
}

fn recover(records: SyntheticRecords, gibibytes: u64) {
    let world = World::new(1, Faults::none());
    world.set_turns_max(u64::MAX);
    let length = gibibytes << 30;
    world.add_device("/dev/nvme0", length);
    let options = FormatOptions::new([3; 16]);
    let write = |offset: u64, bytes: &[u8]| world.write_device_bytes("/dev/nvme0", offset, bytes);
    let described = write_synthetic(options, length, records, write).expect("it fits");
    let regions = length / u64::from(options.region_bytes);
    let bed = Bed::over(world, vec!["/dev/nvme0".to_owned()], regions);
    let started = busy_seconds();
    let config = StoreConfig::new(ShardId(0), 1, 1_200_000);
    let shard = bed.open(config, Family::default()).expect("ours");
    let seconds = busy_seconds() - started;
    println!(
        "{described} blocks of {} objects: {seconds:.3} s, {:?}",
        records.objects, shard.recovery
    );
    assert_eq!(shard.recovery.blocks, described);
}

#[test]
#[ignore = "a measurement"]
fn speed_of_recovery() {
    let extent_bytes = 2 << 20;
    recover(
        SyntheticRecords {
            objects: 1_000,
            object_bytes: 1_000 * (64 << 10),
            extent_bytes,
        },
        72,
    );
    recover(
        SyntheticRecords {
            objects: 1_000_000,
            object_bytes: 4_096,
            extent_bytes,
        },
        8,
    );
}

#[test]
#[ignore = "a measurement"]
fn speed_of_reads() {
    let bed = Bed::new(40, Faults::none(), 1, 64);
    bed.world.set_turns_max(u64::MAX);
    let shard = bed.open_one();
    let meta = object(1, 32 << 20);
    bed.run(async {
        shard.append_all(&meta).await;
        shard.store.flush().await.expect("durable");
        let count = 200_000u32;
        let started = busy_seconds();
        for number in 0..count {
            let id = meta.block(number.wrapping_mul(7919) % meta.blocks());
            std::hint::black_box(shard.store.lookup(id));
            shard.store.touch(id);
        }
        println!(
            "lookup and touch: {:.1} ns",
            (busy_seconds() - started) * 1e9 / f64::from(count)
        );
        let frame = shard.pool.take().expect("a frame");
        let device = &bed.devices(&bed.world.core()).await[0];
        for with_store in [false, true, false, true] {
            let started = busy_seconds();
            for number in 0..count {
                let id = meta.block(number.wrapping_mul(7919) % meta.blocks());
                let lease = frame.lease(0..1).expect("vacant");
                if with_store {
                    let entry = shard.store.lookup(id).expect("kept");
                    let scratch = shard.pool.take().expect("a frame");
                    drop(lease);
                    let lease = scratch.lease(0..1).expect("vacant");
                    drop(scratch);
                    drop(
                        shard
                            .store
                            .read(id, entry, number % 16, lease)
                            .await
                            .expect("right"),
                    );
                } else {
                    let offset = (2 << 20) + u64::from(number % 4096) * 4096;
                    let lease = corelane_io::Device::read(device, offset, lease)
                        .await
                        .expect("read");
                    std::hint::black_box(crc32c::crc32c(lease.bytes()));
                }
            }
            let nanoseconds = (busy_seconds() - started) * 1e9 / f64::from(count);
            println!(
                "{}: {nanoseconds:.0} ns",
                if with_store {
                    "store.read"
                } else {
                    "device.read and a checksum"
                }
            );
        }
    });
}
