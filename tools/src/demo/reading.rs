//! Reading what the worker serves and comparing it with what is in the folder.
//!
//! The invariant: every byte that is counted as compared came over the wire and was held against
//! the source; a byte more or less is a wrong byte too.

use std::time::{Duration, Instant};

use bytes::Bytes;
use corelane_client::{Client, Object, Sources};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::files::{Numbers, SourceFile};
use crate::failure::Failure;

/// Longest latency that is told apart from longer ones, microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// What a random read asks for.
const PAGE_BYTES: u64 = 4096;

/// Compared and counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Bytes held against the source.
    pub bytes: u64,
    /// Of them, those that differed.
    pub wrong_bytes: u64,
    /// Where they came from.
    pub sources: Sources,
}

impl Comparison {
    fn of(answer: &[u8], source: &[u8], sources: Sources) -> Self {
        let differing = if answer == source {
            0
        } else {
            let pairs = answer
                .iter()
                .zip(source)
                .filter(|(left, right)| left != right)
                .count();
            pairs + answer.len().abs_diff(source.len())
        };
        Comparison {
            bytes: source.len() as u64,
            wrong_bytes: differing as u64,
            sources,
        }
    }
}

impl std::ops::AddAssign for Comparison {
    fn add_assign(&mut self, other: Comparison) {
        self.bytes += other.bytes;
        self.wrong_bytes += other.wrong_bytes;
        self.sources += other.sources;
    }
}

/// A file of the folder, opened through the worker.
#[derive(Clone)]
pub struct Opened {
    object: Object,
    source: Bytes,
}

/// Opens every file.
pub async fn open_all(
    client: &Client,
    mount: &str,
    files: &[SourceFile],
) -> Result<Vec<Opened>, Failure> {
    let mut opened = Vec::with_capacity(files.len());
    for file in files {
        let object = client.open(&format!("{mount}/{}", file.name)).await?;
        opened.push(Opened {
            object,
            source: file.bytes.clone(),
        });
    }
    Ok(opened)
}

/// Reads every file from its first to its last byte.
pub async fn read_all(client: &Client, opened: &[Opened]) -> Result<Comparison, Failure> {
    let mut sum = Comparison::default();
    for file in opened {
        let (answer, sources) = client
            .read_with_sources(&file.object, 0..file.object.length)
            .await?;
        sum += Comparison::of(&answer, &file.source, sources);
    }
    Ok(sum)
}

/// Rate and latencies of random reads of a page.
pub struct Speed {
    /// A second.
    pub reads_per_second: f64,
    /// Microseconds, of reads that were alone on the wire.
    pub latency_us: Histogram<u64>,
    /// All of them compared.
    pub comparison: Comparison,
}

/// Reads the next `count` pages without measuring anything.
pub async fn touch(
    client: &Client,
    pages: &mut Pages,
    count: usize,
) -> Result<Comparison, Failure> {
    let mut sum = Comparison::default();
    for _ in 0..count {
        let Some(page) = pages.next() else { break };
        sum += page.read(client).await?;
    }
    Ok(sum)
}

/// Reads pages one by one for the latencies, then many at a time for the rate.
pub async fn read_pages(
    client: &Client,
    pages: &mut Pages,
    alone: Duration,
    depth: usize,
    together: Duration,
) -> Result<Speed, Failure> {
    let mut latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .map_err(|error| Failure::failed(format!("no histogram: {error}")))?;
    let mut comparison = Comparison::default();
    let began = Instant::now();
    for _ in 0..pages.alone_max() {
        let Some(page) = pages.next().filter(|_| began.elapsed() < alone) else {
            break;
        };
        let asked = Instant::now();
        let read = page.read(client).await?;
        latency_us.saturating_record(asked.elapsed().as_micros() as u64);
        comparison += read;
    }
    let (reads_per_second, read) = read_together(client, pages, depth, together).await?;
    comparison += read;
    Ok(Speed {
        reads_per_second,
        latency_us,
        comparison,
    })
}

async fn read_together(
    client: &Client,
    pages: &mut Pages,
    depth: usize,
    duration: Duration,
) -> Result<(f64, Comparison), Failure> {
    let mut reads = JoinSet::new();
    let mut start = |reads: &mut JoinSet<_>| {
        if let Some(page) = pages.next() {
            let client = client.clone();
            reads.spawn(async move { page.read(&client).await });
        }
    };
    let began = Instant::now();
    for _ in 0..depth {
        start(&mut reads);
    }
    let mut count = 0;
    let mut comparison = Comparison::default();
    while let Some(read) = reads.join_next().await {
        comparison +=
            read.map_err(|error| Failure::failed(format!("a read panicked: {error}")))??;
        count += 1;
        if began.elapsed() < duration {
            start(&mut reads);
        }
    }
    Ok((f64::from(count) / began.elapsed().as_secs_f64(), comparison))
}

/// A page of a file.
struct Page {
    file: Opened,
    offset: u64,
}

impl Page {
    async fn read(&self, client: &Client) -> Result<Comparison, Failure> {
        let end = (self.offset + PAGE_BYTES).min(self.file.object.length);
        let (answer, sources) = client
            .read_with_sources(&self.file.object, self.offset..end)
            .await?;
        let source = &self.file.source[self.offset as usize..end as usize];
        Ok(Comparison::of(&answer, source, sources))
    }
}

/// Pages of files in random order.
pub struct Pages {
    files: Vec<Opened>,
    /// File and offset.
    order: Vec<(usize, u64)>,
    next: usize,
    repeats: bool,
}

impl Pages {
    /// Each page once: none of them is in DRAM because of an earlier read of the same pages.
    pub fn once(files: Vec<Opened>) -> Self {
        Pages::new(files, usize::MAX, false)
    }

    /// The last `count` pages of the files, again and again: after some rounds they are in DRAM.
    pub fn again_and_again(files: Vec<Opened>, count: usize) -> Self {
        Pages::new(files, count, true)
    }

    fn new(files: Vec<Opened>, count: usize, repeats: bool) -> Self {
        let mut order: Vec<(usize, u64)> = files
            .iter()
            .enumerate()
            .flat_map(|(index, file)| {
                let offsets = (0..file.object.length).step_by(PAGE_BYTES as usize);
                offsets.map(move |offset| (index, offset))
            })
            .collect();
        // Neighbours, because DRAM is kept in frames of several pages.
        order.drain(..order.len().saturating_sub(count));
        shuffle(&mut order);
        Pages {
            files,
            order,
            next: 0,
            repeats,
        }
    }

    /// Reads that may be done one by one, so that enough pages are left for those together.
    fn alone_max(&self) -> usize {
        if self.repeats {
            usize::MAX
        } else {
            self.order.len() / 4
        }
    }

    fn next(&mut self) -> Option<Page> {
        if self.next == self.order.len() && self.repeats {
            self.next = 0;
        }
        let (file, offset) = *self.order.get(self.next)?;
        self.next += 1;
        Some(Page {
            file: self.files[file].clone(),
            offset,
        })
    }
}

/// Fisher and Yates, with the same numbers at each run.
fn shuffle<T>(items: &mut [T]) {
    let mut numbers = Numbers::new(items.len() as u64);
    for last in (1..items.len()).rev() {
        items.swap(last, numbers.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(length: usize) -> Opened {
        Opened {
            object: Object {
                path: "/a".to_owned(),
                id: Default::default(),
                length: length as u64,
                version: String::new(),
                block_bytes: 1 << 20,
                last_modified_ms: 0,
                content_type: String::new(),
            },
            source: Bytes::from(vec![0; length]),
        }
    }

    #[test]
    fn one_flipped_byte_or_a_missing_end_is_counted() {
        let wrong = |answer: &[u8]| Comparison::of(answer, b"abcd", Sources::default()).wrong_bytes;
        assert_eq!(wrong(b"abcd"), 0);
        assert_eq!(wrong(b"abXd"), 1);
        assert_eq!(wrong(b"abc"), 1);
        assert_eq!(wrong(b"abcdef"), 2);
        assert_eq!(wrong(b""), 4);
    }

    #[test]
    fn every_page_comes_once_also_the_short_last_one() {
        let mut pages = Pages::once(vec![opened(3 * 4096 + 1), opened(0), opened(4096)]);
        let mut seen: Vec<_> = std::iter::from_fn(|| pages.next())
            .map(|page| (page.file.object.length, page.offset))
            .collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                (4096, 0),
                (12_289, 0),
                (12_289, 4096),
                (12_289, 8192),
                (12_289, 12_288)
            ]
        );
    }

    #[test]
    fn a_hot_set_goes_round() {
        let mut pages = Pages::again_and_again(vec![opened(100 * 4096)], 3);
        let offsets: Vec<u64> = (0..6)
            .filter_map(|_| pages.next())
            .map(|page| page.offset)
            .collect();
        assert_eq!(offsets[..3], offsets[3..]);
        assert!(Pages::again_and_again(vec![opened(0)], 3).next().is_none());
    }
}
