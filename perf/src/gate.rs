//! The gate: ceilings and worker in one go, on one machine, in interleaved rounds.
//!
//! Every measure of the table is a function of a [`Bench`] that gives a [`Measure`]. The
//! invariant: worker and ceiling are measured by the same generator with the same sizes, depth,
//! checksum mode and spin, in turns, and a round in which the hypervisor took the CPU away is
//! repeated rather than believed.
//!
//! | module | holds |
//! |---|---|
//! | [`measure`] | what a measure is, and the JSON |
//! | [`rounds`] | interleaving, repetition, medians, spread |
//! | `bench` | files, options and what was seen on the way |
//! | `worker` | the worker as a child process |
//! | `served` | measures over the wire |
//! | `open` | measures in an open loop |
//! | `two_shards` | what a second shard costs |
//! | `large_index` | what ten million blocks cost a hit |
//! | `peers` | against Redis and nginx |
//! | `s3` | the S3 face: reads, signatures, listings |
//! | `lookup` | look-ups in Parquet objects: a table of its own |
//! | `pairs` | what these five have in common |
//! | `quiet` | memory, allocations, idle CPU |
//! | `recovery` | recovery, in seconds and against bare reads |
//! | `store` | hit rate, write amplification, index memory |
//! | `ideal` | the in-memory S3-FIFO that the hit rate is compared with |

pub mod bench;
mod ideal;
mod large_index;
mod lookup;
pub mod measure;
mod mixed;
mod open;
mod pairs;
mod peers;
mod quiet;
mod recovery;
pub mod rounds;
mod s3;
mod served;
mod store;
mod two_shards;
pub mod worker;

pub use bench::{Bench, Options};
pub use measure::{Bar, Machine, Measure, Report};

/// A measure of the table: its name, and how it is taken.
type Take = fn(&mut Bench) -> Result<Measure, String>;

/// All measures, in the order of the table. Memory comes last but one, since it looks back at all
/// loads before it.
const MEASURES: [(&str, Take); 32] = [
    ("dram_4k_pipelined", served::dram_4k_pipelined),
    ("dram_4k_64x1", served::dram_4k_64x1),
    ("dram_1m", served::dram_1m),
    ("device_4k_cpu", served::device_4k_cpu),
    ("fast_device_4k", served::fast_device_4k),
    ("dram_depth1_added_us", served::dram_depth1_added_us),
    ("device_depth1_added_us", served::device_depth1_added_us),
    ("instructions_per_hit", quiet::instructions_per_hit),
    ("index_bytes_per_block", store::index_bytes_per_block),
    ("recovery_seconds", recovery::recovery_seconds),
    ("recovery_on_drive", recovery::recovery_on_drive),
    ("allocations_per_hit", quiet::allocations_per_hit),
    ("hit_rate_vs_ideal", store::hit_rate_vs_ideal),
    ("write_amplification", store::write_amplification),
    ("open_loop_tail", open::open_loop_tail),
    ("cost_at_10m_blocks", large_index::cost_at_10m_blocks),
    ("two_shards_cpu", two_shards::two_shards_cpu),
    ("mesh_hop_cpu", two_shards::mesh_hop_cpu),
    ("reads_beside_fill", open::reads_beside_fill),
    ("against_redis_depth1", peers::against_redis_depth1),
    ("against_redis_pipelined", peers::against_redis_pipelined),
    ("against_nginx", peers::against_nginx),
    ("s3_4k_signed", s3::s3_4k_signed),
    ("s3_4k_unsigned", s3::s3_4k_unsigned),
    ("s3_4k_unsigned_ceiling", s3::s3_4k_unsigned_ceiling),
    ("s3_first_byte", s3::s3_first_byte),
    ("s3_device_4k", s3::s3_device_4k),
    ("s3_1m", s3::s3_1m),
    ("s3_two_shards_cpu", s3::s3_two_shards_cpu),
    ("s3_signature_ns", s3::s3_signature_ns),
    ("s3_list_1000_ms", s3::s3_list_1000_ms),
    ("memory_over_budget_mib", quiet::memory_over_budget_mib),
];

/// The one that wants an otherwise idle worker, taken at the very end.
const IDLE: (&str, Take) = ("idle_cpu_percent", quiet::idle_cpu_percent);

/// The names of all measures.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| *name)
}

fn all() -> impl Iterator<Item = &'static (&'static str, Take)> {
    MEASURES.iter().chain([&IDLE])
}

/// The names of the measures of look-ups.
pub fn lookup_names() -> impl Iterator<Item = &'static str> {
    lookup::MEASURES.iter().map(|(name, _)| *name)
}

/// Takes the measures that `options` ask for. One that cannot be taken is in the report with the
/// reason; the others go on.
///
/// # Errors
/// When nothing can be measured at all: no such directory, no such core.
pub fn run(options: Options) -> Result<Report, String> {
    take_all(options, &all().collect::<Vec<_>>())
}

/// The same for the measures of look-ups.
///
/// # Errors
/// As [`run`].
pub fn run_lookup(options: Options) -> Result<Report, String> {
    take_all(options, &lookup::MEASURES.iter().collect::<Vec<_>>())
}

fn take_all(options: Options, table: &[&(&'static str, Take)]) -> Result<Report, String> {
    let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    let mut bench = Bench::new(options, &known)?;
    for (name, take) in table {
        if !bench.options.wants(name) {
            continue;
        }
        bench.say(&format!("{name} ..."));
        let measure = take(&mut bench).unwrap_or_else(|reason| Measure::not_taken(name, reason));
        bench.say(&measure.to_string());
        bench.measures.push(measure);
    }
    Ok(bench.into_report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_of_the_table_is_taken_once() {
        let mut found: Vec<&str> = names().collect();
        found.sort_unstable();
        let mut wanted = vec![
            "dram_4k_pipelined",
            "dram_4k_64x1",
            "dram_1m",
            "device_4k_cpu",
            "fast_device_4k",
            "dram_depth1_added_us",
            "device_depth1_added_us",
            "instructions_per_hit",
            "index_bytes_per_block",
            "recovery_seconds",
            "recovery_on_drive",
            "allocations_per_hit",
            "hit_rate_vs_ideal",
            "write_amplification",
            "open_loop_tail",
            "cost_at_10m_blocks",
            "two_shards_cpu",
            "mesh_hop_cpu",
            "reads_beside_fill",
            "against_redis_depth1",
            "against_redis_pipelined",
            "against_nginx",
            "s3_4k_signed",
            "s3_4k_unsigned",
            "s3_4k_unsigned_ceiling",
            "s3_first_byte",
            "s3_device_4k",
            "s3_1m",
            "s3_two_shards_cpu",
            "s3_signature_ns",
            "s3_list_1000_ms",
            "memory_over_budget_mib",
            "idle_cpu_percent",
        ];
        wanted.sort_unstable();
        assert_eq!(found, wanted);
    }
}
