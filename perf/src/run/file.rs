//! Runs as files.

use std::fs;
use std::path::{Path, PathBuf};

use super::{FORMAT, Run, VERSION};

impl Run {
    /// Reads a run.
    ///
    /// # Errors
    /// A sentence that names the file: it cannot be read, is not a run, or is of a later version.
    pub fn read(path: &Path) -> Result<Run, String> {
        Run::read_with_text(path).map(|(_, run)| run)
    }

    /// Reads a run, and hands out the text that it was read from too.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn read_with_text(path: &Path) -> Result<(String, Run), String> {
        let fail = |reason: String| format!("{}: {reason}", path.display());
        let text = fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| fail(format!("not JSON: {error}")))?;
        if value["format"] != FORMAT {
            return Err(fail(format!(
                "not a run of corelane-perf: its `format` is not \"{FORMAT}\""
            )));
        }
        match value["version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            version => {
                return Err(fail(format!(
                    "version {} of the format; this program reads version {VERSION}",
                    version.map_or("?".to_owned(), |version| version.to_string())
                )));
            }
        }
        let run = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
        Ok((text, run))
    }

    /// Writes the run to `path`, through a file beside it, so that a reader sees all of it or nothing.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let fail = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let mut text = serde_json::to_string(self).expect("a run is plain data");
        text.push('\n');
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        fs::write(&beside, text).map_err(fail)?;
        fs::rename(&beside, path).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::RunKind;

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("run.json");
        let mut run = Run::begin(RunKind::Load, "test");
        run.is_partial = true;
        run.write(&path).expect("a writable directory");
        let read = Run::read(&path).expect("as written");
        assert_eq!(
            serde_json::to_value(&read).expect("plain data"),
            serde_json::to_value(&run).expect("plain data")
        );
    }

    #[test]
    fn what_is_not_a_run_is_refused_with_its_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("other.json");
        for (text, reason) in [
            ("{", "not JSON"),
            ("{}", "not a run"),
            (
                r#"{"format": "corelane-perf-run", "version": 99}"#,
                "version 99",
            ),
            (
                r#"{"format": "corelane-perf-run", "version": 1}"#,
                "missing field",
            ),
        ] {
            fs::write(&path, text).expect("a writable directory");
            let error = Run::read(&path).expect_err("not a run");
            assert!(
                error.contains("other.json") && error.contains(reason),
                "{error}"
            );
        }
        assert!(Run::read(&directory.path().join("absent")).is_err());
    }
}
