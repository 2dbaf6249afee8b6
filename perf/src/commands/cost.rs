//! `corelane-perf cost`: instructions of a hit, against the checked-in budget.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cost::budget::{Budget, GROWTH_MAX};
use crate::cost::{HITS, PerHit, Place, callgrind};

#[derive(Debug, Args)]
pub struct CostArguments {
    /// Fail when a hit costs more than a twentieth over what this file says
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Write what was counted to the budget's file instead
    #[arg(long, requires = "budget")]
    write: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl CostArguments {
    pub(super) fn run(self) -> Result<(), String> {
        callgrind::check_valgrind()?;
        let dram = PerHit::count(Place::Dram, HITS)?;
        let device = PerHit::count(Place::Device, HITS)?;
        let counted = Budget::of(dram.ours, device.ours);
        if self.json {
            let rows = |hit: &PerHit| {
                let functions = hit.functions.iter().map(|(cost, name)| json!([name, cost]));
                json!({ "instructions": hit.ours, "functions": functions.collect::<Vec<_>>() })
            };
            println!(
                "{}",
                json!({ "dram_hit": rows(&dram), "device_hit": rows(&device) })
            );
        } else {
            let lines = dram.notes("a DRAM hit").chain(device.notes("a device hit"));
            lines.for_each(|line| println!("{line}"));
        }
        let Some(path) = &self.budget else {
            return Ok(());
        };
        if self.write {
            return counted.write(path);
        }
        let budget = Budget::read(path)?;
        let overruns = budget.overruns(&counted);
        if !overruns.is_empty() {
            return Err(format!(
                "{}; make it cheaper, or say why and write {} anew with --write",
                overruns.join("; "),
                path.display()
            ));
        }
        let shrunk = counted.dram_hit < budget.dram_hit * (1.0 - GROWTH_MAX)
            || counted.device_hit < budget.device_hit * (1.0 - GROWTH_MAX);
        if shrunk && !self.json {
            println!(
                "hits became cheaper: write {} anew with --write",
                path.display()
            );
        }
        Ok(())
    }
}
