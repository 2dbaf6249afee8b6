//! `corelane-perf cost`: instructions of a hit, against the checked-in budget.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cost::budget::{Budget, GROWTH_MAX};
use crate::cost::{HITS, PerHit, Script, callgrind};

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
        let mut rows = serde_json::Map::new();
        let counted = Budget::count(|script| {
            let hit = PerHit::count(script, HITS)?;
            if self.json {
                let functions = hit.functions.iter().map(|(cost, name)| json!([name, cost]));
                let functions: Vec<Value> = functions.collect();
                let row = json!({ "instructions": hit.ours, "functions": functions });
                rows.insert(script.name().replace('-', "_"), row);
            } else {
                hit.notes(script.what()).for_each(|line| println!("{line}"));
            }
            Ok::<f64, String>(hit.ours)
        })?;
        if self.json {
            println!("{}", Value::Object(rows));
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
        let shrunk = Script::ALL
            .iter()
            .any(|script| counted.of(*script) < budget.of(*script) * (1.0 - GROWTH_MAX));
        if shrunk && !self.json {
            println!(
                "hits became cheaper: write {} anew with --write",
                path.display()
            );
        }
        Ok(())
    }
}
