//! The memory budget: what is refused, and what a worker then takes.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array};
use serde_json::json;

use crate::harness::{BLOCK, Bed, Http, Lane, Process, assert_same};
use crate::lookup_table::{post, write_file};

/// What a process may hold beyond its budget (memory_over_budget_mib of the gate).
const OVER_BUDGET_BYTES: u64 = 64 << 20;

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

/// Memory that a worker says that it may take, in bytes.
fn planned_bytes(config: &Path) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_corelane-worker"))
        .arg("--config")
        .arg(config)
        .arg("--check-config")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("memory "));
    let line = line.unwrap_or_else(|| {
        panic!(
            "no memory in {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let number = line.split(' ').next().expect("a size");
    let digits = number.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let shift = match &number[digits.len()..] {
        "GiB" => 30,
        "MiB" => 20,
        "KiB" => 10,
        _ => 0,
    };
    digits.parse::<u64>().expect("a number") << shift
}

/// What was done beside each other, so that a test that does nothing fails.
#[derive(Default)]
struct Done {
    written: AtomicU64,
    listed: AtomicU64,
    looked_up: AtomicU64,
    called: AtomicU64,
    headed: AtomicU64,
    read: AtomicU64,
}

/// A key of 800 bytes.
fn long_key(number: u64) -> String {
    let folder = "k".repeat(200);
    format!("data/{folder}/{folder}/{folder}/{number:0190}")
}

fn request(
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
fn writers_listers_look_ups_calls_heads_and_slow_lanes_together_stay_within_what_is_planned() {
    let mut bed = Bed::in_memory();
    bed.dram = "256M".to_owned();
    bed.mounts[0].keys = "freshness = \"max-age=10\"".to_owned();
    bed.keys =
        "lookup_memory = \"32M\"\nlookup_working_memory = \"64M\"\nlisting_memory = \"16M\"\n"
            .to_owned();
    bed.sections =
        "[s3]\nlisten = \"127.0.0.1:0\"\nanonymous = [\"read\", \"list\", \"write\"]\n".to_owned();
    let bytes = bed.write("object", 1, 200 * BLOCK);
    for number in 0..2_000 {
        bed.write(&format!("many/{number:0100}"), number, 10);
    }
    let text = "a".repeat(4 << 20);
    let mut lists = ListBuilder::new(StringBuilder::new());
    for _ in 0..50 {
        lists.values().append_value(&text);
        lists.append(true);
    }
    let keys: ArrayRef = Arc::new((0..50).collect::<Int64Array>());
    let columns: [(&str, ArrayRef); 2] = [("k", keys), ("l", Arc::new(lists.finish()))];
    write_file(&bed.path("source").join("bomb.parquet"), &columns, 50);
    // Bodies have one byte here, and 512 MiB are planned for them.
    let planned = planned_bytes(&bed.write_config()) - (512 << 20);
    let process = bed.start();
    let s3 = process.s3.expect("the face is open");
    let (done, is_over) = (Done::default(), AtomicBool::new(false));
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (process, done, is_over, bytes) = (&process, &done, &is_over, &bytes);
        let goes_on = move || !is_over.load(Ordering::Relaxed);
        for writer in 0..3u64 {
            scope.spawn(move || {
                let metadata = format!("x-amz-meta-a: {}", "m".repeat(1_800));
                let mut http = Http::connect(s3).expect("it listens");
                for number in 0.. {
                    if !goes_on() {
                        break;
                    }
                    let path = format!("/{}", long_key(writer << 32 | number));
                    let put = request(&mut http, "PUT", &path, &[&metadata], b"x");
                    if put == Some(200) {
                        count(&done.written);
                    } else {
                        http = Http::connect(s3).expect("it listens");
                    }
                    if request(&mut http, "HEAD", &path, &[], b"").is_some() {
                        count(&done.headed);
                    } else {
                        http = Http::connect(s3).expect("it listens");
                    }
                }
            });
        }
        for lister in 0..2 {
            scope.spawn(move || {
                for number in 0u64.. {
                    if !goes_on() {
                        break;
                    }
                    let Ok(mut http) = Http::connect(s3) else {
                        continue;
                    };
                    let path =
                        format!("/data?list-type=2&prefix=many/&start-after=many/{lister}{number}");
                    if request(&mut http, "GET", &path, &[], b"") == Some(200) {
                        count(&done.listed);
                    }
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(move || {
                let asked =
                    json!({ "path": "/data/bomb.parquet", "where": "k >= 0", "select": ["l"] });
                while goes_on() {
                    let answer = post(process, &[], &asked);
                    assert!(matches!(answer.status, 422 | 503), "{}", answer.text());
                    count(&done.looked_up);
                }
            });
        }
        scope.spawn(move || {
            let control = process.control();
            while goes_on() {
                if control.stats().is_ok() {
                    count(&done.called);
                }
            }
        });
        for shard in 0..2 {
            scope.spawn(move || {
                // Asks for all that a lane may, and takes little of it.
                let (mut lane, _) = Lane::connect(process.data[shard]);
                let opened = lane.open("/data/object");
                for number in 0..64 {
                    lane.ask(100 + number, opened.object, 0, 4 * BLOCK as u32);
                }
                while goes_on() {
                    std::thread::sleep(Duration::from_millis(500));
                    let _ = lane.receive();
                }
            });
        }
        scope.spawn(move || {
            let client = process.client();
            while goes_on() {
                if let Ok((_, found)) = client.read_file("/data/object") {
                    assert_same(&found, bytes, "beside all others");
                    count(&done.read);
                }
            }
        });
        let end = Instant::now() + Duration::from_secs(12);
        let counters = [
            &done.written,
            &done.listed,
            &done.looked_up,
            &done.called,
            &done.headed,
            &done.read,
        ];
        let is_enough = || {
            counters
                .iter()
                .all(|counter| counter.load(Ordering::Relaxed) >= 3)
        };
        // On a slow machine it takes longer until all of them had their turn.
        while Instant::now() < end || !is_enough() && Instant::now() < end + crate::harness::HANG {
            std::thread::sleep(Duration::from_millis(100));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let counts = [
        &done.written,
        &done.listed,
        &done.looked_up,
        &done.called,
        &done.headed,
        &done.read,
    ]
    .map(|counter| counter.load(Ordering::Relaxed));
    eprintln!("written, listed, looked up, called, headed, read: {counts:?}");
    assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
    let peak = process.peak_resident_bytes();
    eprintln!("{} MiB, of which {} are planned", peak >> 20, planned >> 20);
    assert!(
        peak <= planned + OVER_BUDGET_BYTES,
        "{} MiB, where {} are planned",
        peak >> 20,
        planned >> 20
    );
    process.terminate();
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
