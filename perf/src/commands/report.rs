//! `corelane-perf report`: runs as one HTML page.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use crate::report::{Report, Source, changes_as_text, page};

#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Run files, as the measuring commands write them
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where to write the page
    #[arg(long, default_value = "report.html", value_name = "FILE")]
    out: PathBuf,
    /// Earlier run files: shows what changed, on standard output too
    #[arg(long, num_args = 1.., value_name = "OLD-RUN")]
    against: Vec<PathBuf>,
    /// Title of the page [default: the names of the runs]
    #[arg(long)]
    title: Option<String>,
}

impl ReportArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let read = |paths: &[PathBuf]| -> Result<Vec<Source>, String> {
            paths.iter().map(|path| Source::read(path)).collect()
        };
        let (runs, against) = (read(&self.runs)?, read(&self.against)?);
        let names: Vec<&str> = runs.iter().map(|source| source.run.name.as_str()).collect();
        let report = Report {
            title: &self.title.unwrap_or_else(|| names.join(", ")),
            runs: &runs,
            against: &against,
        };
        fs::write(&self.out, page(&report))
            .map_err(|error| format!("cannot write {}: {error}", self.out.display()))?;
        eprintln!("wrote {}", self.out.display());
        if !against.is_empty() {
            print!("{}", changes_as_text(&report));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(run: PathBuf, out: PathBuf) -> ReportArguments {
        ReportArguments {
            runs: vec![run],
            out,
            against: Vec::new(),
            title: None,
        }
    }

    #[test]
    fn a_file_that_is_no_run_is_named_with_the_reason_and_nothing_is_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (run, out) = (
            directory.path().join("broken.json"),
            directory.path().join("out.html"),
        );
        for (text, reason) in [("{", "not JSON"), ("[]", "not a run of corelane-perf")] {
            fs::write(&run, text).expect("a writable directory");
            let error = report(run.clone(), out.clone()).run().expect_err("no run");
            assert!(
                error.contains("broken.json") && error.contains(reason),
                "{error}"
            );
        }
        let absent = directory.path().join("absent.json");
        let error = report(absent, out.clone()).run().expect_err("no file");
        assert!(
            error.contains("absent.json") && error.contains("No such file"),
            "{error}"
        );
        assert!(!out.exists());
    }
}
