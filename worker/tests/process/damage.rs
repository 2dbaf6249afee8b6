//! Bits that flip on the device behind the worker's back, and devices that are not a store.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::harness::{BLOCK, Bed, Process, Random, assert_same, counter, eventually};

const PAGE: usize = 4096;

/// Where the regions begin (docs/format.md).
const REGIONS: u64 = 2 << 20;

fn flip(device: &Path, offset: u64, bit: u8) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .expect("the device file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)
        .expect("within the device");
    file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], offset)
        .expect("it can be written");
    file.sync_all().expect("it can be flushed");
}

/// Offsets on the device of the pages of `bytes`, which each occur once.
fn places(device: &Path, bytes: &[u8]) -> Vec<u64> {
    let stored = fs::read(device).expect("the device file");
    let pages: std::collections::HashMap<&[u8], usize> = stored
        .chunks_exact(PAGE)
        .enumerate()
        .map(|(number, page)| (page, number))
        .collect();
    bytes
        .chunks_exact(PAGE)
        .map(|page| (pages.get(page).expect("every page is stored") * PAGE) as u64)
        .collect()
}

fn fill(bed: &Bed, path: &str, bytes: &[u8]) {
    let process = bed.start();
    let (_, found) = process.client().read_file(path).expect("it can be read");
    assert_same(&found, bytes, path);
    process.load("/data");
    process.terminate();
}

/// Reads the damaged object; every flipped page must be noticed, named and fetched again.
fn assert_healed(bed: &Bed, process: Process, bytes: &[u8], flipped: &[u64]) {
    let (_, found) = process
        .client()
        .read_file("/data/object")
        .expect("it is fetched again");
    assert_same(&found, bytes, "after the damage");
    process.load("/data");
    eventually("every flipped page was noticed", || {
        process.counter("corrupt_pages") >= flipped.len() as u64
    });
    let stats = process.control().stats().expect("stats");
    assert_eq!(counter(&stats, "blocks_healed"), flipped.len() as u64);
    assert_eq!(
        counter(&stats, "fetched_bytes"),
        (flipped.len() * BLOCK) as u64
    );
    let log = process.terminate();
    for offset in flipped {
        let place = format!("device={} offset={offset} ", bed.device.display());
        assert!(log.contains(&place), "no line with `{place}` in\n{log}");
    }

    let process = bed.start();
    let (_, found) = process
        .client()
        .read_file("/data/object")
        .expect("it was healed");
    assert_same(&found, bytes, "after the healing");
    assert_eq!(
        process.counter("fetches"),
        0,
        "what was fetched again was kept"
    );
    process.terminate();
}

/// One page of every second block of an object, at another place in each.
fn pages_to_flip(bed: &Bed, bytes: &[u8]) -> Vec<u64> {
    let places = places(&bed.device, bytes);
    let pages_a_block = BLOCK / PAGE;
    (0..places.len())
        .step_by(2 * pages_a_block)
        .enumerate()
        .map(|(number, first)| places[first + number % pages_a_block])
        .collect()
}

#[test]
fn bits_flipped_while_stopped_are_noticed_named_and_fetched_again() {
    let mut bed = Bed::on_disk();
    bed.sections = "[limits]\nscrub_reads = \"0\"\n".to_owned();
    let bytes = bed.write("object", 5, 40 * BLOCK);
    fill(&bed, "/data/object", &bytes);
    let flipped = pages_to_flip(&bed, &bytes);
    for (number, offset) in flipped.iter().enumerate() {
        flip(
            &bed.device,
            offset + (number * 211 % PAGE) as u64,
            number as u8,
        );
    }
    let process = bed.start();
    assert_healed(&bed, process, &bytes, &flipped);
}

#[test]
fn bits_flipped_while_running_are_noticed_named_and_fetched_again() {
    let mut bed = Bed::on_disk();
    bed.sections = "[limits]\nscrub_reads = \"0\"\n".to_owned();
    let bytes = bed.write("object", 6, 40 * BLOCK);
    fill(&bed, "/data/object", &bytes);
    let flipped = pages_to_flip(&bed, &bytes);
    let process = bed.start();
    assert_eq!(process.recovered_blocks, 40);
    for (number, offset) in flipped.iter().enumerate() {
        flip(
            &bed.device,
            offset + (number * 211 % PAGE) as u64,
            number as u8,
        );
    }
    assert_healed(&bed, process, &bytes, &flipped);
}

#[test]
fn the_scrubber_finds_a_flipped_bit_that_nobody_reads() {
    let mut bed = Bed::on_disk();
    bed.sections = "[limits]\nscrub_reads = \"64M\"\n".to_owned();
    let bytes = bed.write("object", 7, 8 * BLOCK);
    fill(&bed, "/data/object", &bytes);
    let offset = places(&bed.device, &bytes)[17];
    flip(&bed.device, offset + 100, 3);
    let process = bed.start();
    eventually("the scrubber notices", || {
        process.counter("corrupt_pages") == 1
    });
    let log = process.terminate();
    let place = format!("device={} offset={offset} ", bed.device.display());
    assert!(log.contains(&place), "no line with `{place}` in\n{log}");
}

#[test]
fn a_damaged_block_without_its_under_store_is_an_error_and_never_wrong_bytes() {
    let bed = Bed::on_disk();
    let bytes = bed.write("object", 8, 4 * BLOCK);
    fill(&bed, "/data/object", &bytes);
    let offset = places(&bed.device, &bytes)[BLOCK / PAGE + 2];
    flip(&bed.device, offset, 0);
    fs::rename(bed.path("source"), bed.path("away")).expect("the under-store goes away");
    let process = bed.start();
    let client = process.client();
    let object = client.open("/data/object").expect("its record is there");
    let error = client
        .read(&object, 0..object.length)
        .expect_err("a block is gone");
    assert!(error.to_string().contains("object"), "{error}");
    let block = BLOCK as u64;
    for range in [0..block, 2 * block..4 * block] {
        let found = client
            .read(&object, range.clone())
            .expect("these are whole");
        assert_same(
            &found,
            &bytes[range.start as usize..range.end as usize],
            "the rest",
        );
    }
    process.terminate();
}

#[test]
fn flips_anywhere_in_the_regions_and_the_saved_state_never_give_a_wrong_byte() {
    let bed = Bed::on_disk();
    let bytes = bed.write("object", 9, 100 * BLOCK);
    let length = || fs::metadata(&bed.device).expect("the device file").len();
    let mut random = Random::new(9);
    for round in 0..5 {
        fill(&bed, "/data/object", &bytes);
        for _ in 0..200 {
            // The first superblock goes as a whole in one round; the second always stays.
            let start = if round == 4 { 128 << 10 } else { REGIONS };
            let offset = start + random.below(length() - start);
            flip(&bed.device, offset, random.next() as u8);
        }
        if round == 3 {
            (0..PAGE as u64).for_each(|offset| flip(&bed.device, offset, 1));
        }
    }
    fill(&bed, "/data/object", &bytes);
}

/// Starts where a start must be refused; gives the exit code and the sentence.
fn refused(bed: &Bed) -> (Option<i32>, String) {
    match Process::start(&bed.write_config()) {
        Ok(_) => panic!("{} was accepted", bed.device.display()),
        Err(refusal) => (refusal.code, refusal.log),
    }
}

/// Exit code of a refused device.
const DEVICE_REFUSED: Option<i32> = Some(4);

#[test]
fn what_is_not_a_store_is_refused_with_what_was_found_and_the_command_and_left_alone() {
    type Damage = (&'static str, fn(&mut [u8]));
    let damage: [Damage; 5] = [
        ("zeroes", |page| page.fill(0)),
        ("5555", |page| page.fill(0x55)),
        ("damaged", |page| page[70] ^= 1),
        ("format version 2", |page| page[8] = 2),
        ("damaged", |page| page[100] ^= 0x80),
    ];
    let bed = Bed::on_disk();
    bed.start().terminate();
    let sound = fs::read(&bed.device).expect("the device file");
    for (found, change) in damage {
        let mut bytes = sound.clone();
        for copy in [0, 64 << 10] {
            change(&mut bytes[copy..copy + PAGE]);
        }
        fs::write(&bed.device, &bytes).expect("the device file");
        let (code, log) = refused(&bed);
        assert_eq!(code, DEVICE_REFUSED, "{found}: {log}");
        assert!(log.contains(found), "{found}: {log}");
        let command = format!("corelane device format {}", bed.device.display());
        assert!(log.contains(&command), "{found}: {log}");
        assert!(
            fs::read(&bed.device).expect("it is there") == bytes,
            "{found}: it was written to"
        );
    }
    fs::write(&bed.device, b"a letter to my aunt").expect("the device file");
    let (code, log) = refused(&bed);
    assert_eq!(code, DEVICE_REFUSED, "{log}");
    assert_eq!(
        fs::read(&bed.device).expect("it is there"),
        b"a letter to my aunt"
    );
    fs::write(&bed.device, &sound[..40 << 20]).expect("the device file");
    let (code, log) = refused(&bed);
    assert_eq!(code, DEVICE_REFUSED, "a device that was cut: {log}");
}

#[test]
fn a_second_worker_on_the_same_device_is_refused_and_the_first_goes_on() {
    let bed = Bed::on_disk();
    let bytes = bed.write("object", 10, 3 * BLOCK);
    let process = bed.start();
    let (code, log) = refused(&bed);
    assert_eq!(code, DEVICE_REFUSED, "{log}");
    assert!(log.contains(&bed.device.display().to_string()), "{log}");
    assert!(log.contains("in use") || log.contains("another"), "{log}");
    let (_, found) = process
        .client()
        .read_file("/data/object")
        .expect("the first serves");
    assert_same(&found, &bytes, "from the first");
    process.terminate();
    // The lock went with its holder, also with one that was killed.
    let process = bed.start();
    process.kill();
    bed.start().terminate();
}
