//! Runs: what a measuring command leaves behind, one JSON file each, with a version.
//!
//! Every command that measures (`load`, `search`, `scale`, `simulate`, `gate`, `compare-backends`) writes a [`Run`];
//! `report` reads any number of them. The invariant: a run says everything that is needed to
//! repeat it and to doubt it (machine, exact command line, workload, seed, whole histograms), and
//! a run that was cut short says so.
//!
//! | module | holds |
//! |---|---|
//! | [`point`] | one measured load: rate, latencies, cost, ceiling |
//! | [`histogram`] | latencies as counts by value |
//! | [`machine`] | CPU, kernel, mitigations, governor, devices |
//! | [`answers`] | what searches, scalings, simulations and comparisons conclude |
//! | [`mod@file`] | reading and writing |

pub mod answers;
pub mod file;
pub mod histogram;
pub mod machine;
pub mod point;

use serde::{Deserialize, Serialize};

pub use answers::{BackendsAnswer, GateAnswer, ScaleAnswer, SearchAnswer, SimulationAnswer};
pub use histogram::Latencies;
pub use machine::Machine;
pub use point::Point;

/// The first field of a run's file.
pub const FORMAT: &str = "corelane-perf-run";

/// Version of the file's layout. A reader refuses later ones.
pub const VERSION: u32 = 1;

/// What kind of command made a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// One load on one target.
    Load,
    /// The search for the highest sustainable rate.
    Search,
    /// The same load on 1 to N shards or workers.
    Scale,
    /// A fleet that exists in a model only.
    Simulate,
    /// Worker and ceilings against their bars.
    Gate,
    /// The same gate on several backends.
    CompareBackends,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// What made it.
    pub kind: RunKind,
    /// A short name for people, unique enough to tell runs of one report apart.
    pub name: String,
    /// The program's version.
    pub program: String,
    /// Milliseconds since the Unix epoch at the start.
    pub started_at_ms: u64,
    /// Whether it was ended early, so that not all that was asked for is in it.
    pub is_partial: bool,
    /// The exact command line.
    pub command: Vec<String>,
    /// Where.
    pub machine: Machine,
    /// Every measured load, in the order of measuring.
    #[serde(default)]
    pub points: Vec<Point>,
    /// What a search found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchAnswer>,
    /// What a scaling run found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<ScaleAnswer>,
    /// What a simulation found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulation: Option<SimulationAnswer>,
    /// What the gate found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<GateAnswer>,
    /// What a comparison of backends found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<BackendsAnswer>,
}

impl Run {
    /// A run that starts now on this machine, with nothing measured yet.
    pub fn begin(kind: RunKind, name: impl Into<String>) -> Run {
        Run {
            format: FORMAT.to_owned(),
            version: VERSION,
            kind,
            name: name.into(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: machine::now_ms(),
            is_partial: false,
            command: std::env::args().collect(),
            machine: Machine::look(),
            points: Vec::new(),
            search: None,
            scale: None,
            simulation: None,
            gate: None,
            backends: None,
        }
    }
}
