//! The instruction budget: a checked-in file with what a hit costs. CI fails when it grows by more
//! than a twentieth; who makes it cheaper, or dearer for a reason, writes the file anew.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Growth that is let pass, as a share: compilers move instructions around.
pub const GROWTH_MAX: f64 = 0.05;

/// What a hit in DRAM may cost at all, whatever the file says.
pub const DRAM_HIT_MAX: f64 = 600.0;

/// Version of the file's layout.
const VERSION: u32 = 1;

/// Instructions of hits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    version: u32,
    /// Of a hit in DRAM.
    pub dram_hit: f64,
    /// Of a hit on the device, its checksum included.
    pub device_hit: f64,
}

impl Budget {
    /// As counted.
    pub fn of(dram_hit: f64, device_hit: f64) -> Budget {
        Budget {
            version: VERSION,
            dram_hit: dram_hit.round(),
            device_hit: device_hit.round(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn read(path: &Path) -> Result<Budget, String> {
        let fail = |reason: String| format!("{}: {reason}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let budget: Budget = toml::from_str(&text).map_err(|error| fail(error.to_string()))?;
        if budget.version != VERSION {
            return Err(fail(format!(
                "version {}; this program reads version {VERSION}",
                budget.version
            )));
        }
        Ok(budget)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let text = format!(
            "# User instructions of a pipelined 4 KiB hit, by `corelane-perf cost --budget FILE --write`.\n\
             # CI fails when a hit costs more than a twentieth over these.\n{}",
            toml::to_string(self).expect("plain numbers")
        );
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What grew too much, a sentence each.
    pub fn overruns(&self, counted: &Budget) -> Vec<String> {
        let pairs = [
            ("a DRAM hit", self.dram_hit, counted.dram_hit),
            ("a device hit", self.device_hit, counted.device_hit),
        ];
        let bar = (counted.dram_hit > DRAM_HIT_MAX).then(|| {
            format!(
                "a DRAM hit costs {:.0} instructions, over the bar of {DRAM_HIT_MAX:.0}",
                counted.dram_hit
            )
        });
        let grown = pairs
            .into_iter()
            .filter(|(_, budget, counted)| *counted > budget * (1.0 + GROWTH_MAX));
        let grown = grown.map(|(what, budget, counted)| {
            format!(
                "{what} costs {counted:.0} instructions, {:.1} % over its budget of {budget:.0}",
                100.0 * (counted / budget - 1.0)
            )
        });
        bar.into_iter().chain(grown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_over_a_twentieth_is_named() {
        let budget = Budget::of(500.0, 4000.0);
        assert!(budget.overruns(&Budget::of(525.0, 4200.0)).is_empty());
        assert!(budget.overruns(&Budget::of(1.0, 1.0)).is_empty());
        let overruns = budget.overruns(&Budget::of(526.0, 4000.0));
        assert_eq!(overruns.len(), 1);
        assert!(overruns[0].contains("a DRAM hit costs 526"), "{overruns:?}");
    }

    #[test]
    fn a_budget_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("budget.toml");
        let budget = Budget::of(599.6, 4000.0);
        budget.write(&path).expect("written");
        assert_eq!(Budget::read(&path), Ok(budget));
        std::fs::write(&path, "version = 2\ndram_hit = 1.0\ndevice_hit = 1.0\n").expect("written");
        assert!(Budget::read(&path).is_err_and(|error| error.contains("version 2")));
    }

    #[test]
    fn no_budget_lets_a_hit_pass_the_bar() {
        let budget = Budget::of(592.0, 3552.0);
        assert_eq!(budget.overruns(&Budget::of(599.0, 3552.0)), [""; 0]);
        let over = budget.overruns(&Budget::of(601.0, 3552.0));
        assert!(
            over.len() == 1 && over[0].contains("bar of 600"),
            "{over:?}"
        );
    }
}
