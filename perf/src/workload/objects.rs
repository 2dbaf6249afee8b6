//! The objects of a workload: names and sizes from a seed, and files of them on request.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ceiling::{self, PAGE};
use crate::quantities::ByteSize;
use crate::random::Random;

/// A set of objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// How many.
    pub count: u32,
    /// Size of each, or the least and greatest of sizes whose logarithm is spread evenly.
    pub bytes: Sizes,
    /// What their names start with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Seed of their sizes.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

/// Sizes of objects.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sizes {
    /// All alike.
    One(ByteSize),
    /// From the least to the greatest, as many between 1 and 2 MiB as between 2 and 4 MiB.
    Spread {
        /// The least.
        min: ByteSize,
        /// The greatest.
        max: ByteSize,
    },
}

fn default_prefix() -> String {
    "object-".to_owned()
}

fn default_seed() -> u64 {
    1
}

impl Default for Objects {
    fn default() -> Objects {
        Objects {
            count: 1,
            bytes: Sizes::One(ByteSize(PAGE as u64)),
            prefix: default_prefix(),
            seed: default_seed(),
        }
    }
}

impl Objects {
    pub(super) fn check(&self, what: &str) -> Result<(), String> {
        if self.count == 0 {
            return Err(format!("[{what}] count is at least 1"));
        }
        if let Sizes::Spread { min, max } = self.bytes
            && min > max
        {
            return Err(format!("[{what}] bytes: min {min} is over max {max}"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
        if !self.prefix.chars().all(is_plain) {
            return Err(format!(
                "[{what}] prefix `{}`: letters, digits, `-`, `_` and `/` only",
                self.prefix
            ));
        }
        Ok(())
    }

    /// Name and bytes of each.
    pub fn list(&self) -> Vec<(String, u64)> {
        let mut random = Random::new(self.seed);
        (0..self.count)
            .map(|index| {
                let bytes = match self.bytes {
                    Sizes::One(size) => size.0,
                    Sizes::Spread { min, max } => {
                        let (low, high) = ((min.0 as f64).ln(), (max.0 as f64).ln());
                        let drawn = (low + random.fraction() * (high - low)).exp() as u64;
                        drawn.clamp(min.0, max.0)
                    }
                };
                (format!("{}{index:06}", self.prefix), bytes)
            })
            .collect()
    }

    /// Makes a file of each in `directory`, full of [`ceiling::page`]s, so that every target can be
    /// checked without a copy at hand. Files that are there in the right size are left.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn make_files(&self, directory: &Path) -> Result<u64, String> {
        let mut total = 0;
        for (name, bytes) in self.list() {
            let path = directory.join(&name);
            let fail = |error: std::io::Error| format!("{}: {error}", path.display());
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(fail)?;
            }
            ceiling::prepare_file(&path, bytes).map_err(fail)?;
            total += bytes;
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_sizes_and_they_stay_in_range() {
        let objects = Objects {
            count: 2_000,
            bytes: Sizes::Spread {
                min: ByteSize(100 << 10),
                max: ByteSize(150 << 20),
            },
            ..Objects::default()
        };
        let list = objects.list();
        assert_eq!(list, objects.list());
        assert!(
            list.iter()
                .all(|(_, bytes)| (100 << 10..=150 << 20).contains(bytes))
        );
        // The middle of the logarithms, about 3.9 MiB, divides them in halves.
        let below = list.iter().filter(|(_, bytes)| *bytes < 3_965_000).count();
        assert!((900..1_100).contains(&below), "{below}");
        let other = Objects { seed: 2, ..objects };
        assert_ne!(other.list(), list);
    }
}
