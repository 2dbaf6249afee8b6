//! Workloads: what is read, as small TOML files that anyone can repeat.
//!
//! A workload names a set of objects, made from a seed, and one or more kinds of operations on
//! them with their shares. An operation is a chain of reads, one at a time: one for a point read,
//! a footer and some ranges for a Parquet-like query, all pieces for a whole file. The invariant:
//! file, seed and target decide every byte that is asked for; when it is asked for is the load's
//! business ([`crate::load`]).
//!
//! | module | holds |
//! |---|---|
//! | [`objects`] | names and sizes of the objects, and how they are made |
//! | [`keys`] | which place a point read takes: uniform, zipf, a hot spot that moves |
//! | [`walk`] | the reads of one operation |
//! | [`zipf`] | the sampler |
//!
//! ```toml
//! version = 1
//! name = "uniform-4k"
//! about = "4 KiB reads, uniform"
//!
//! [objects]
//! count = 4
//! bytes = "256M"
//!
//! [[operation]]
//! kind = "point"
//! read = "4K"
//! keys = "uniform"
//! ```

pub mod keys;
pub mod objects;
pub mod walk;
pub mod zipf;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::quantities::ByteSize;
pub use keys::Keys;
pub use objects::Objects;
pub use walk::{Piece, Walk, Walks};

/// Version of the file's layout.
pub const VERSION: u32 = 1;

/// Longest read of a workload: what the data plane answers at once.
pub const READ_BYTES_MAX: u64 = corelane_rpc_schema::READ_BYTES_MAX as u64;

/// The workloads that come with the program.
const BUILT_IN: [(&str, &str); 12] = [
    (
        "uniform-4k",
        include_str!("../../workloads/uniform-4k.toml"),
    ),
    (
        "uniform-64k",
        include_str!("../../workloads/uniform-64k.toml"),
    ),
    (
        "uniform-1m",
        include_str!("../../workloads/uniform-1m.toml"),
    ),
    ("zipf-4k", include_str!("../../workloads/zipf-4k.toml")),
    ("zipf-64k", include_str!("../../workloads/zipf-64k.toml")),
    ("zipf-1m", include_str!("../../workloads/zipf-1m.toml")),
    (
        "training-epoch",
        include_str!("../../workloads/training-epoch.toml"),
    ),
    ("parquet", include_str!("../../workloads/parquet.toml")),
    (
        "checkpoint-restore",
        include_str!("../../workloads/checkpoint-restore.toml"),
    ),
    (
        "read-and-fill",
        include_str!("../../workloads/read-and-fill.toml"),
    ),
    (
        "moving-hot-spot",
        include_str!("../../workloads/moving-hot-spot.toml"),
    ),
    ("smoke", include_str!("../../workloads/smoke.toml")),
];

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// What it stands for, in a sentence.
    #[serde(default)]
    pub about: String,
    /// What is read again and again.
    pub objects: Objects,
    /// What is read once, by `fill` operations: cold data that has to be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<Objects>,
    /// The kinds of operations.
    pub operation: Vec<Operation>,
}

/// A kind of operation and how often it comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Share of all operations, relative to the other kinds' shares.
    #[serde(default = "one")]
    pub share: f64,
    /// What one does.
    #[serde(flatten)]
    pub kind: Kind,
}

fn one() -> f64 {
    1.0
}

/// What an operation reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// One aligned piece of one object.
    Point {
        /// Bytes of it: a power of two, a page to 4 MiB.
        read: ByteSize,
        /// Which.
        keys: Keys,
    },
    /// A whole object, piece after piece.
    Whole {
        /// Bytes of a piece: a power of two, a page to 4 MiB.
        read: ByteSize,
        /// Which object comes next.
        order: Order,
    },
    /// A footer at the end of an object, then ranges scattered before it.
    Parquet {
        /// Bytes of the footer.
        footer: ByteSize,
        /// How many ranges.
        ranges: u32,
        /// The shortest range; whole pages.
        range_min: ByteSize,
        /// The longest range; whole pages, up to 4 MiB.
        range_max: ByteSize,
        /// Which object.
        keys: Keys,
    },
    /// The next whole object of the cold ones, piece after piece.
    Fill {
        /// Bytes of a piece: a power of two, a page to 4 MiB.
        read: ByteSize,
    },
}

/// In which order whole objects are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Each once an epoch, in another order each epoch.
    Shuffled,
    /// Each once an epoch, in the order of their names.
    InOrder,
}

impl Workload {
    /// The names of the workloads that come with the program.
    pub fn built_in() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The workload `name`: one that comes with the program, or else a file.
    ///
    /// # Errors
    /// A sentence: there is neither, or the file is wrong and where.
    pub fn load(name: &str) -> Result<Workload, String> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Workload::parse(text).map_err(|error| format!("workload {name}: {error}"));
        }
        let text = std::fs::read_to_string(Path::new(name)).map_err(|error| {
            let known: Vec<&str> = Workload::built_in().collect();
            format!(
                "workload {name}: {error}; give a file, or one of {}",
                known.join(", ")
            )
        })?;
        Workload::parse(&text).map_err(|error| format!("workload {name}: {error}"))
    }

    /// Reads a workload's text.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Workload, String> {
        let workload: Workload = toml::from_str(text).map_err(|error| error.to_string())?;
        workload.check()?;
        Ok(workload)
    }

    /// Point reads of `read_bytes` over given objects, for loads without a file.
    pub fn points(read_bytes: u32, keys: Keys) -> Workload {
        Workload {
            version: VERSION,
            name: format!("{keys}-{}", ByteSize(u64::from(read_bytes))).to_lowercase(),
            about: String::new(),
            objects: Objects::default(),
            cold: None,
            operation: vec![Operation {
                share: 1.0,
                kind: Kind::Point {
                    read: ByteSize(u64::from(read_bytes)),
                    keys,
                },
            }],
        }
    }

    /// The workload as a file, all defaults filled in.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a workload is plain data")
    }

    /// The longest single read, in bytes.
    pub fn read_bytes_max(&self) -> u64 {
        let longest = |operation: &Operation| match &operation.kind {
            Kind::Point { read, .. } | Kind::Whole { read, .. } | Kind::Fill { read } => read.0,
            Kind::Parquet {
                footer, range_max, ..
            } => range_max.0.max(footer.0).min(READ_BYTES_MAX),
        };
        self.operation.iter().map(longest).max().unwrap_or(0)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "version {} of the layout; this program reads version {VERSION}",
                self.version
            ));
        }
        if self.operation.is_empty() {
            return Err("no [[operation]]".to_owned());
        }
        self.objects.check("objects")?;
        if let Some(cold) = &self.cold {
            cold.check("cold")?;
        }
        let shares: f64 = self.operation.iter().map(|one| one.share).sum();
        if !(shares.is_finite() && shares > 0.0) || self.operation.iter().any(|one| one.share < 0.0)
        {
            return Err("shares are not negative, and one is positive".to_owned());
        }
        self.operation
            .iter()
            .try_for_each(|one| self.check_kind(&one.kind))
    }

    fn check_kind(&self, kind: &Kind) -> Result<(), String> {
        const PAGE: u64 = corelane_rpc_schema::PAGE_BYTES as u64;
        let piece = |read: &ByteSize| {
            if read.0.is_power_of_two() && (PAGE..=READ_BYTES_MAX).contains(&read.0) {
                Ok(())
            } else {
                Err(format!(
                    "read = \"{read}\" is not a power of two from 4K to 4M"
                ))
            }
        };
        match kind {
            Kind::Point { read, keys } => piece(read).and_then(|()| keys.check()),
            Kind::Whole { read, .. } => piece(read),
            Kind::Fill { read } => {
                piece(read)?;
                match self.cold {
                    Some(_) => Ok(()),
                    None => Err("fill operations need a [cold] set of objects".to_owned()),
                }
            }
            Kind::Parquet {
                footer,
                ranges: _,
                range_min,
                range_max,
                keys,
            } => {
                let pages = [footer, range_min, range_max];
                if pages.iter().any(|size| !size.0.is_multiple_of(PAGE)) {
                    return Err("footer and ranges are whole pages of 4K".to_owned());
                }
                if range_min > range_max || range_max.0 > READ_BYTES_MAX {
                    return Err("range_min <= range_max <= 4M".to_owned());
                }
                keys.check()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_that_come_along_are_valid_and_named_as_their_files() {
        for (name, text) in BUILT_IN {
            let workload = Workload::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(workload.name, name);
            assert!(!workload.about.is_empty(), "{name}");
            assert_eq!(Workload::parse(&workload.to_toml()), Ok(workload));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let valid = BUILT_IN[0].1;
        for (from, to, reason) in [
            ("version = 1", "version = 2", "version 2"),
            ("\"4K\"", "\"3K\"", "power of two"),
            ("\"4K\"", "\"8M\"", "power of two"),
            ("uniform\"\n", "random\"\n", "expected uniform"),
            ("kind = \"point\"", "kind = \"fill\"", "unknown field"),
            ("count", "number", "unknown field"),
        ] {
            let text = valid.replace(from, to);
            assert_ne!(text, valid, "{from}");
            let error = Workload::parse(&text).expect_err(to);
            assert!(error.contains(reason), "{to}: {error}");
        }
        let error = Workload::load("no-such-workload").expect_err("there is none");
        assert!(error.contains("uniform-4k"), "{error}");
    }
}
