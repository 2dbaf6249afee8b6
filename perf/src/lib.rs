//! Load generator, ceilings and the gate.
//!
//! A figure means something only beside what the same machine gives to a loop that does nothing
//! but move the bytes. So everything here comes in pairs: a measure of the worker, and the same
//! measure of a bare loop ([`ceiling`]), taken in turns by one generator ([`load`]) with the same
//! sizes, depth, checksum mode and spin. See `docs/performance.md`.
//!
//! | module | holds |
//! |---|---|
//! | [`ceiling`] | the bare loops: device, network, both joined |
//! | [`workload`] | what is read: small TOML files |
//! | [`target`] | whom it is sent to: our data plane, HTTP, Redis, local files |
//! | [`load`] | when it is sent and what it took: closed and open loops |
//! | [`gate`] | ceilings and worker in interleaved rounds, the table of measures |
//! | [`cost`] | instructions of a hit, and their budget |
//! | [`runtimes`] | the bare loops on our ring, glommio and compio |
//! | [`compare`] | worker and bare loops on each of these in interleaved rounds |
//! | [`allocations`] | heap allocations by thread |
//! | [`report`] | run files in, one HTML page out |
//! | [`run`] | what a measuring command leaves behind: one JSON file |
//! | [`scale`] | the same load on 1 to N shards or workers |
//! | [`search`] | the highest sustainable rate |
//! | [`simulate`] | what a fleet would do |
//! | [`sample`] | one run and what the server and the machine did meanwhile |
//! | [`commands`] | the command line |
//! | [`server_process`] | servers as child processes, so that CPU and memory are theirs alone |
//! | [`server_metrics`] | counters from a worker's operations port |
//! | [`process`] | CPU, memory, threads and steal, from /proc |
//! | [`ring`], [`memory`], [`random`] | what the loops stand on |

pub mod allocations;
pub mod ceiling;
pub mod commands;
pub mod compare;
pub mod cost;
pub mod gate;
pub mod load;
pub mod memory;
pub mod process;
pub(crate) mod quantities;
pub mod random;
pub mod report;
pub mod ring;
pub mod run;
pub mod runtimes;
pub mod sample;
pub mod scale;
pub mod search;
pub mod server_metrics;
pub mod server_process;
pub mod simulate;
pub mod target;
pub mod workload;
