//! Recovery: how long a core takes to read a million block records back into memory, and how much
//! longer that is than only reading the same bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use corelane_io::{Device, Io, PAGE_SIZE};
use corelane_rpc_schema::BLOCK_BYTES_MIN;
use corelane_worker::store::synthetic::{REGIONS_OFFSET, SyntheticRecords, write_synthetic};
use corelane_worker::store::{FormatOptions, Recovery, StoreConfig};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::bench::Bench;
use super::measure::{Bar, Measure, median};
use super::store::{on_core, open};
use crate::process::{self, ThreadUsage};

/// Bytes of a region of the device.
const REGION: u64 = 64 << 20;

/// Pages of a read.
const READ_PAGES: u64 = 16;

/// Blocks of a recovery at full size.
const RECOVERED_BLOCKS: u64 = 1_000_000;

/// Shapes of the million blocks: the dearest, an object record for each block, and a usual one.
/// Only records are written; the blocks' pages are holes of a sparse file.
pub(super) const ONE_PAGE_OBJECTS: u64 = 4096;
const MEBIBYTE_OBJECTS: u64 = 1 << 20;

pub(super) fn recovery_seconds(bench: &mut Bench) -> Result<Measure, String> {
    let blocks = if bench.options.quick {
        RECOVERED_BLOCKS / 100
    } else {
        RECOVERED_BLOCKS
    };
    let (seconds, last) = recoveries(bench, blocks, ONE_PAGE_OBJECTS)?;
    let (usual, usual_last) = recoveries(bench, blocks, MEBIBYTE_OBJECTS)?;
    let mut measure = Measure::of_values("recovery_seconds", "s", &seconds, Bar::AtMost(1.0))
        .with_note(format!(
            "one block of one page an object, on tmpfs: {}",
            last.describe(blocks)
        ))
        .with_note(format!(
            "sixteen blocks of 64 KiB an object, on tmpfs: {:.3} s; {}",
            median(&usual),
            usual_last.describe(blocks)
        ));
    if last.found.blocks < blocks || usual_last.found.blocks < blocks {
        measure = measure.without_verdict("not all blocks came back");
    }
    if bench.options.quick {
        measure = measure.without_verdict("a hundredth of the blocks only");
    }
    Ok(measure)
}

/// The times of as many recoveries as there are rounds, and the last one.
fn recoveries(
    bench: &Bench,
    blocks: u64,
    object_bytes: u64,
) -> Result<(Vec<f64>, Recovered), String> {
    let path = bench.fast_directory().join("recovery");
    describe_blocks(&path, blocks, object_bytes, 0)?;
    let mut seconds = Vec::new();
    let mut last = None;
    for _ in 0..bench.options.rounds {
        let recovered = recover(&path, bench.options.server_core, blocks)?;
        seconds.push(recovered.seconds);
        last = Some(recovered);
    }
    std::fs::remove_file(&path).map_err(|error| error.to_string())?;
    let last = last.ok_or("at least one round is needed")?;
    Ok((seconds, last))
}

/// Makes a sparse device file of at least `length_min` bytes that holds the records of `blocks` blocks. Gives what a recovery
/// cannot do without: offset and bytes of the first page and of the footer of each region.
pub(super) fn describe_blocks(
    path: &Path,
    blocks: u64,
    object_bytes: u64,
    length_min: u64,
) -> Result<Vec<(u64, u64)>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let blocks_per_object = object_bytes.div_ceil(u64::from(BLOCK_BYTES_MIN));
    let bytes = blocks * object_bytes.min(u64::from(BLOCK_BYTES_MIN));
    // Half as much again for summaries and footers, and the least that a device must have.
    let length = (bytes * 3 / 2).max(40 * REGION).max(length_min);
    let length = length.next_multiple_of(REGION) + 16 * REGION;
    let file = File::create(path).map_err(|error| failed(&error))?;
    file.set_len(length).map_err(|error| failed(&error))?;
    let records = SyntheticRecords {
        objects: (blocks / blocks_per_object) as u32,
        object_bytes,
        extent_bytes: StoreConfig::default().flush_bytes as u32,
    };
    let (mut failure, mut needed) = (None, Vec::new());
    let options = FormatOptions::new([0x67; 16]);
    let described = write_synthetic(options, length, records, |offset, bytes| {
        if failure.is_none() {
            failure = file.write_all_at(bytes, offset).err();
        }
        let end = offset + bytes.len() as u64;
        let is_footer = offset > REGION && (end - REGIONS_OFFSET).is_multiple_of(REGION);
        if is_footer {
            needed.push((end - REGION, PAGE_SIZE as u64));
            needed.push((offset, bytes.len() as u64));
        }
    })
    .map_err(|error| failed(&error))?;
    match failure.or_else(|| file.sync_all().err()) {
        Some(error) => Err(failed(&error)),
        None if described < blocks => Err(format!("only {described} of {blocks} blocks fit")),
        None => Ok(needed),
    }
}

/// One recovery.
struct Recovered {
    seconds: f64,
    usage: ThreadUsage,
    found: Recovery,
}

impl Recovered {
    /// What it found and what the core did meanwhile, in a sentence.
    fn describe(&self, blocks: u64) -> String {
        let (found, usage) = (&self.found, &self.usage);
        format!(
            "{} of {blocks} blocks of {} objects came back from {} regions ({} without a footer), {} MiB of metadata \
             read; {:.3} s in user code, {:.3} s in the kernel, {} pages first touched",
            found.blocks,
            found.objects,
            found.regions,
            found.regions_walked,
            found.bytes_read >> 20,
            usage.user_seconds,
            usage.system_seconds,
            usage.page_faults
        )
    }
}

fn recover(path: &Path, core: usize, blocks: u64) -> Result<Recovered, String> {
    let path: PathBuf = path.to_owned();
    on_core(core, move |io| async move {
        let (begin, before) = (Instant::now(), process::thread_usage());
        let (store, recovery) = open(&io, &path, blocks as usize + 1).await?;
        let taken = begin.elapsed().as_secs_f64();
        let usage = process::thread_usage().since(before);
        store.close().await.map_err(|error| error.to_string())?;
        Ok(Recovered {
            seconds: taken,
            usage,
            found: recovery,
        })
    })
}

/// Recovery from a file on the drive against reading, of each region, the first page and the
/// footer with as many reads in flight, and nothing else.
pub(super) fn recovery_on_drive(bench: &mut Bench) -> Result<Measure, String> {
    let blocks = if bench.options.quick {
        RECOVERED_BLOCKS / 100
    } else {
        RECOVERED_BLOCKS
    };
    let path = bench.directory().join("recovery");
    let needed = describe_blocks(&path, blocks, MEBIBYTE_OBJECTS, 0)?;
    let bytes: u64 = needed.iter().map(|(_, bytes)| bytes).sum();
    let (mut pairs, mut last) = (Vec::new(), String::new());
    for _ in 0..bench.options.rounds {
        let bare = read_bare(&path, bench.options.server_core, &needed)?;
        let recovered = recover(&path, bench.options.server_core, blocks)?;
        last = recovered.describe(blocks);
        if recovered.found.blocks < blocks {
            return Err(format!("not all blocks came back: {last}"));
        }
        pairs.push((recovered.seconds, bare));
    }
    std::fs::remove_file(&path).map_err(|error| error.to_string())?;
    let measure = Measure::of_pairs("recovery_on_drive", "s", &pairs, Bar::RatioAtMost(1.3))
        .with_note(format!(
            "{blocks} blocks of 64 KiB, sixteen an object; {} MiB of first pages and footers; {last}",
            bytes >> 20
        ));
    Ok(if bench.options.quick {
        measure.without_verdict("a hundredth of the blocks only")
    } else {
        measure
    })
}

/// Seconds that reading `extents` takes, with as many reads in flight as a recovery has.
fn read_bare(path: &Path, core: usize, extents: &[(u64, u64)]) -> Result<f64, String> {
    let path: PathBuf = path.to_owned();
    let step = READ_PAGES * PAGE_SIZE as u64;
    let reads: Vec<(u64, u64)> = extents
        .iter()
        .flat_map(|(offset, bytes)| {
            let end = offset + bytes;
            let starts = (*offset..end).step_by(step as usize);
            starts.map(move |start| (start, (end - start).min(step)))
        })
        .collect();
    on_core(core, move |io| async move {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let device = io
            .open_device(&path)
            .await
            .map_err(|error| failed(&error))?;
        let in_flight = StoreConfig::default().reads_in_flight;
        let pool = io
            .allocate_pool(in_flight, READ_PAGES as usize)
            .map_err(|error| failed(&error))?;
        let begin = Instant::now();
        stream::iter(reads)
            .map(|(offset, bytes)| {
                let frame = pool.take().expect("a frame for each read in flight");
                let lease = frame
                    .lease(0..bytes as usize / PAGE_SIZE)
                    .expect("a fresh frame is vacant");
                drop(frame);
                let device = &device;
                async move { device.read(offset, lease).await.map(drop) }
            })
            .buffer_unordered(in_flight)
            .try_collect::<()>()
            .await
            .map_err(|error| failed(&error))?;
        Ok(begin.elapsed().as_secs_f64())
    })
}
