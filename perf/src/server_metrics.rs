//! Counters of a worker, from its operations port: what `/proc` does not tell.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::target::http_get;

/// Counters that cost is told by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerCounters {
    /// System calls that entered the rings.
    pub ring_enters: f64,
    /// Bytes received from under-stores. The fetch threads copy each once, into the frame that
    /// serves it from then on; cached bytes are not copied by the worker's code at all.
    pub bytes_fetched: f64,
    /// Pieces of S3 answers by source: DRAM, device, under-store.
    pub s3_reads: [f64; 3],
}

impl WorkerCounters {
    /// Of the worker whose operations port is at `address`, all shards and mounts together.
    ///
    /// # Errors
    /// When nobody answers there, or not with these counters.
    pub fn of(address: SocketAddr) -> io::Result<WorkerCounters> {
        let text = http_get::get(address, "/metrics", Duration::from_secs(10))?;
        let counter = |name: &str| {
            sum(&text, name).ok_or_else(|| {
                io::Error::other(format!(
                    "{address} has no counter {name}; is it a worker's operations port?"
                ))
            })
        };
        Ok(WorkerCounters {
            ring_enters: counter("corelane_loop_enters_total")?,
            bytes_fetched: sum(&text, "corelane_under_store_bytes_total").unwrap_or(0.0),
            s3_reads: ["dram", "device", "under_store"].map(|source| {
                let name = format!("corelane_s3_reads_{source}_total");
                sum(&text, &name).unwrap_or(0.0)
            }),
        })
    }

    /// With those of another worker.
    #[must_use]
    pub fn with(self, other: WorkerCounters) -> WorkerCounters {
        self.each(other, |one, another| one + another)
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: WorkerCounters) -> WorkerCounters {
        self.each(earlier, |now, before| now - before)
    }

    fn each(self, other: WorkerCounters, join: impl Fn(f64, f64) -> f64) -> WorkerCounters {
        WorkerCounters {
            ring_enters: join(self.ring_enters, other.ring_enters),
            bytes_fetched: join(self.bytes_fetched, other.bytes_fetched),
            s3_reads: [0, 1, 2].map(|source| join(self.s3_reads[source], other.s3_reads[source])),
        }
    }
}

/// The values of metric `name` in `text` (Prometheus' format), all labels together.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_shards_are_added_and_longer_names_are_others() {
        let text = "# HELP a_total x\na_total{shard=\"0\"} 5\na_total{shard=\"1\"} 7\na_total_more 9\nb_total 1\n";
        assert_eq!(sum(text, "a_total"), Some(12.0));
        assert_eq!(sum(text, "b_total"), Some(1.0));
        assert_eq!(sum(text, "c_total"), None);
    }
}
