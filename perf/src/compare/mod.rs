//! Our ring beside glommio and compio, in one call: the worker on each backend, and the bare loops
//! of each runtime.
//!
//! The claim that our own ring earns its keep stays measured rather than remembered. The
//! invariant is the gate's: what is compared is measured by one generator with the same sizes,
//! depth, checksum mode and spin, in interleaved rounds on the same cores; what this program was
//! built without is left out by name, not silently.
//!
//! | module | holds |
//! |---|---|
//! | [`figures`] | what one contestant gave in one round, and over all |
//! | [`report`] | rows, the table, the JSON |
//! | `workers` | rows of the worker on its backends |
//! | `loops` | rows of the bare loops |

pub mod figures;
mod loops;
pub mod report;
mod workers;

use crate::gate::{Bench, Options};
use crate::runtimes::Runtime;
pub use report::{Report, Row};

/// Runs the rows that `options` ask for. One that cannot be measured is in the report with the
/// reason; the others go on.
///
/// # Errors
/// When nothing can be measured at all: no such directory, no such row.
pub fn run(options: Options) -> Result<Report, String> {
    let names: Vec<&str> = workers::names().chain(loops::names()).collect();
    let bench = Bench::new(options, &names)?;
    let left_out = left_out();
    for text in &left_out {
        bench.say(text);
    }
    let mut rows = workers::run(&bench);
    rows.extend(loops::run(&bench));
    Ok(Report {
        machine: bench.into_report().machine,
        rows,
        left_out,
    })
}

/// What this program was built without, and how to build it.
fn left_out() -> Vec<String> {
    let missing = Runtime::ALL
        .iter()
        .filter(|runtime| !runtime.is_built())
        .map(|runtime| {
            let what = match runtime {
                Runtime::Compio => "the bare loops",
                _ => "the worker and the bare loops",
            };
            format!(
                "left out: {what} on {name}, which this program was built without; build it with \
                 `cargo build --release -p corelane-perf --features glommio,compio`",
                name = runtime.name()
            )
        });
    missing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let mut names: Vec<&str> = workers::names().chain(loops::names()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn what_was_not_built_is_named_with_the_way_to_build_it() {
        let missing = Runtime::ALL.iter().filter(|runtime| !runtime.is_built());
        let texts = left_out();
        assert_eq!(texts.len(), missing.count());
        assert!(
            texts
                .iter()
                .all(|text| text.contains("--features glommio,compio"))
        );
    }
}
