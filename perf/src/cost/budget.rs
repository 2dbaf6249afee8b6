//! The instruction budget: a checked-in file with what a hit costs. CI fails when it grows by more
//! than a twentieth; who makes it cheaper, or dearer for a reason, writes the file anew.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::script::Script;

/// Growth that is let pass, as a share: compilers move instructions around.
pub const GROWTH_MAX: f64 = 0.05;

/// Instructions that a hit in DRAM may cost, whatever the file says.
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
    /// Of a GET of 4 KiB in DRAM through the S3 face.
    pub s3_hit: f64,
    /// The same, signed.
    pub s3_hit_signed: f64,
}

impl Budget {
    /// What `count` says of each script.
    ///
    /// # Errors
    /// The first of `count`.
    pub fn count<E>(mut count: impl FnMut(Script) -> Result<f64, E>) -> Result<Budget, E> {
        let mut rounded = |script| count(script).map(f64::round);
        Ok(Budget {
            version: VERSION,
            dram_hit: rounded(Script::DramHit)?,
            device_hit: rounded(Script::DeviceHit)?,
            s3_hit: rounded(Script::S3Hit)?,
            s3_hit_signed: rounded(Script::S3HitSigned)?,
        })
    }

    /// Instructions of a hit of `script`.
    pub fn of(&self, script: Script) -> f64 {
        match script {
            Script::DramHit => self.dram_hit,
            Script::DeviceHit => self.device_hit,
            Script::S3Hit => self.s3_hit,
            Script::S3HitSigned => self.s3_hit_signed,
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
            "# User instructions of a 4 KiB hit, 32 of them in flight, by `corelane-perf cost --budget FILE --write`.\n\
             # CI fails when a hit costs more than a twentieth over these.\n{}",
            toml::to_string(self).expect("plain numbers")
        );
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// What grew too much, a sentence each.
    pub fn overruns(&self, counted: &Budget) -> Vec<String> {
        let bar = (counted.dram_hit > DRAM_HIT_MAX).then(|| {
            format!(
                "a DRAM hit costs {:.0} instructions, over the bar of {DRAM_HIT_MAX:.0}",
                counted.dram_hit
            )
        });
        let each = Script::ALL.map(|script| (script.what(), self.of(script), counted.of(script)));
        let grown = each
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

    fn hits(dram_hit: f64, device_hit: f64, s3_hit: f64) -> Budget {
        let counted = |script| match script {
            Script::DramHit => dram_hit,
            Script::DeviceHit => device_hit,
            Script::S3Hit => s3_hit,
            Script::S3HitSigned => 2.0 * s3_hit,
        };
        Budget::count(|script| Ok::<f64, ()>(counted(script))).expect("no errors")
    }

    #[test]
    fn growth_over_a_twentieth_is_named() {
        let budget = hits(500.0, 4000.0, 3000.0);
        assert!(budget.overruns(&hits(525.0, 4200.0, 3150.0)).is_empty());
        assert!(budget.overruns(&hits(1.0, 1.0, 1.0)).is_empty());
        let overruns = budget.overruns(&hits(526.0, 4000.0, 3000.0));
        assert_eq!(overruns.len(), 1);
        assert!(overruns[0].contains("a DRAM hit costs 526"), "{overruns:?}");
        let overruns = budget.overruns(&hits(500.0, 4000.0, 3151.0));
        assert_eq!(overruns.len(), 2);
        assert!(overruns[1].contains("a signed S3 hit"), "{overruns:?}");
    }

    #[test]
    fn a_budget_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("budget.toml");
        let budget = hits(599.6, 4000.0, 3000.0);
        budget.write(&path).expect("written");
        assert_eq!(Budget::read(&path), Ok(budget));
        std::fs::write(
            &path,
            "version = 2\ndram_hit = 1.0\ndevice_hit = 1.0\ns3_hit = 1.0\ns3_hit_signed = 1.0\n",
        )
        .expect("written");
        assert!(Budget::read(&path).is_err_and(|error| error.contains("version 2")));
    }

    #[test]
    fn no_budget_lets_a_hit_pass_the_bar() {
        let budget = hits(592.0, 3552.0, 3000.0);
        assert_eq!(budget.overruns(&hits(599.0, 3552.0, 3000.0)), [""; 0]);
        let over = budget.overruns(&hits(601.0, 3552.0, 3000.0));
        assert!(
            over.len() == 1 && over[0].contains("bar of 600"),
            "{over:?}"
        );
    }
}
