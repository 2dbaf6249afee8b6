//! The memory budget: what is refused, and what a worker then takes.

use crate::harness::{BLOCK, Bed, Http, Process, assert_same};

/// What a process may hold beyond its budget (memory_over_budget_mib of the gate).
pub const OVER_BUDGET_BYTES: u64 = 64 << 20;

#[test]
fn a_budget_that_is_too_small_is_refused_with_one_that_is_kept_to() {
    let mut bed = Bed::in_memory();
    bed.dram = "64M".to_owned();
    let refusal = Process::start(&bed.write_config())
        .err()
        .expect("32 MiB a shard are too few");
    assert_eq!(refusal.code, Some(4), "{}", refusal.log);
    let (_, named) = refusal
        .log
        .split_once("set `dram` to ")
        .unwrap_or_else(|| panic!("no number: {}", refusal.log));
    let number = named.split(' ').next().expect("a word");
    bed.dram = number.trim_end_matches("iB").to_owned();
    let bytes = bed.write("object", 1, 300 * BLOCK);
    let process = bed.start();
    let budget = bed.dram.trim_end_matches('M').parse::<u64>();
    let budget = budget.expect("whole MiB") << 20;
    let client = process.client();
    let most = budget + OVER_BUDGET_BYTES;
    let idle = process.resident_bytes();
    assert!(idle <= most, "{idle} bytes idle of {budget}");
    for _ in 0..3 {
        let (_, found) = client.read_file("/data/object").expect("it can be read");
        assert_same(&found, &bytes, "within the budget");
    }
    let loaded = process.resident_bytes();
    assert!(loaded <= most, "{loaded} bytes under load of {budget}");
    process.terminate();
}

#[test]
fn a_mount_whose_blocks_the_devices_would_never_keep_is_refused_at_the_start() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nblock_size = \"512K\"");
    let refusal = Process::start(&bed.write_config())
        .err()
        .expect("a quarter of a region is 256 KiB");
    assert_eq!(refusal.code, Some(2), "{}", refusal.log);
    for part in ["/data", "512K", "1M", "256K", "block_size"] {
        assert!(refusal.log.contains(part), "{part}: {}", refusal.log);
    }
    assert!(!bed.device.exists(), "nothing was formatted");
    let key = bed.mounts[0].keys.replace("512K", "256K");
    bed.mounts[0].keys = key;
    bed.start().terminate();
}

#[test]
fn under_the_policy_noop_every_read_of_what_a_device_holds_comes_from_it() {
    for (policy, is_kept) in [("noop", false), ("s3-fifo", true)] {
        let mut bed = Bed::in_memory();
        bed.dram_policy = policy;
        let bytes = bed.write("object", 1, 2 * BLOCK);
        let process = bed.start();
        process.load("/data");
        process.terminate();
        let process = bed.start();
        let client = process.client();
        for _ in 0..4 {
            let (_, found) = client.read_file("/data/object").expect("it can be read");
            assert_same(&found, &bytes, policy);
        }
        assert!(process.counter("reads_device") > 0, "{policy}");
        assert_eq!(process.counter("reads_dram") > 0, is_kept, "{policy}");
        process.terminate();
    }
}

/// A key of 800 bytes.
pub fn long_key(number: u64) -> String {
    let folder = "k".repeat(200);
    format!("data/{folder}/{folder}/{folder}/{number:0190}")
}

pub fn request(
    http: &mut Http,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Option<u16> {
    http.ask(method, path, headers, body)
        .ok()
        .map(|answer| answer.status)
}

#[test]
fn metadata_of_long_names_and_headers_stays_within_its_part() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys = "freshness = \"always-check\"".to_owned();
    bed.sections = "[s3]\nlisten = \"127.0.0.1:0\"\nanonymous = [\"read\", \"write\"]\n".to_owned();
    let process = bed.start();
    let mut http = Http::connect(process.s3.expect("the face is open")).expect("it listens");
    let metadata = format!("x-amz-meta-a: {}", "m".repeat(1_800));
    // A thirty-second of 80 MiB a shard.
    let part = 2 * (80 << 20) / 32;
    let mut largest = 0;
    for number in 0..1_500 {
        let path = format!("/{}", long_key(number));
        assert_eq!(
            request(&mut http, "PUT", &path, &[&metadata], b""),
            Some(200)
        );
        assert_eq!(request(&mut http, "HEAD", &path, &[], b""), Some(200));
        if number % 250 == 249 {
            largest = largest.max(process.counter("metadata_bytes"));
        }
    }
    assert!(largest <= part, "{largest} of {part} bytes");
    assert!(largest > part / 4, "{largest} bytes: it was not about this");
    process.terminate();
}
