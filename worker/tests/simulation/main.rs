//! A whole worker in a simulated world: shards, mesh, devices, under-store, clients and crashes,
//! all from one seed, judged by an oracle.
//!
//! `cargo test -p corelane-worker --test simulation` runs a few seeds; `CORELANE_SIM_SEEDS=1000`
//! runs that many, `CORELANE_SIM_SEED=7` only the one that failed.

mod client;
mod content;
mod device_promises;
mod lane_promises;
mod ledger;
mod life;
mod oracle;
mod origin;
mod plan;
mod random;
mod scene;
mod store_promises;
mod traffic;
mod worker;
