//! `corelane ls`: what is below a path, and how much of it is cached.

use clap::Args;
use corelane_client::blocking::Control;
use corelane_client::control::{Entry, ListOptions};
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::{Output, table};
use crate::quantity::{ago, bytes, share};

/// Entries that one call asks for. A listing of any length is printed piece by piece, so that
/// neither side has to hold it.
const ENTRIES_PER_CALL: u32 = 1000;

/// Lists objects.
#[derive(Args, Debug)]
pub struct Ls {
    /// Directory in the worker's namespace
    #[arg(default_value = "/")]
    path: String,
    /// Whole trees instead of one level
    #[arg(long, short)]
    recursive: bool,
    /// Only what has bytes in the cache; works while the under-store is away
    #[arg(long)]
    cached: bool,
    /// At most so many entries; 0 for all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit: u64,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Line {
    path: String,
    is_directory: bool,
    length: u64,
    bytes_cached: u64,
    last_modified_ms: u64,
    version: String,
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        Line {
            path: entry.path,
            is_directory: entry.is_directory,
            length: entry.length,
            bytes_cached: entry.bytes_cached,
            last_modified_ms: entry.last_modified_ms,
            version: entry.version,
        }
    }
}

impl Line {
    fn row(&self) -> [String; 4] {
        if self.is_directory {
            let path = format!("{}/", self.path.trim_end_matches('/'));
            return ["-".to_owned(), "-".to_owned(), "-".to_owned(), path];
        }
        [
            bytes(self.length),
            share(self.bytes_cached, self.length),
            ago(self.last_modified_ms),
            self.path.clone(),
        ]
    }
}

impl Ls {
    /// Runs the command: one JSON object a line, or a table for each piece of the listing.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let control = self.connection.connect()?;
        let mut after = String::new();
        let mut printed = 0;
        let mut is_first = true;
        loop {
            let (lines, more) = self.next(&control, &after, printed)?;
            printed += lines.len() as u64;
            print(output, &lines, is_first)?;
            is_first = false;
            let Some(last) = lines.last() else {
                return Ok(());
            };
            if !more || printed == self.limit {
                return Ok(());
            }
            after.clone_from(&last.path);
        }
    }

    fn next(
        &self,
        control: &Control,
        after: &str,
        printed: u64,
    ) -> Result<(Vec<Line>, bool), Failure> {
        let limit = match self.limit {
            0 => ENTRIES_PER_CALL,
            limit => (limit - printed).min(u64::from(ENTRIES_PER_CALL)) as u32,
        };
        let options = ListOptions {
            recursive: self.recursive,
            cached_only: self.cached,
            limit,
            after: after.to_owned(),
        };
        let (entries, more) = control.list(&self.path, options)?;
        Ok((entries.into_iter().map(Line::from).collect(), more))
    }
}

fn print(output: Output, lines: &[Line], with_header: bool) -> Result<(), Failure> {
    if output.is_json() {
        return lines
            .iter()
            .try_for_each(|line| output.answer(line, |_| String::new()));
    }
    let text = table(
        [">bytes", ">cached", ">modified", "path"],
        lines.iter().map(Line::row),
    );
    let text = match text.split_once('\n') {
        Some((_, rows)) if !with_header => rows,
        _ => &text,
    };
    output.line(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_end_in_a_slash_and_objects_show_what_is_cached() {
        let directory = Entry {
            path: "/data/x".to_owned(),
            is_directory: true,
            ..Entry::default()
        };
        assert_eq!(Line::from(directory).row()[3], "/data/x/");
        let object = Entry {
            path: "/data/y".to_owned(),
            length: 2048,
            bytes_cached: 1024,
            ..Entry::default()
        };
        assert_eq!(
            Line::from(object).row(),
            ["2.0 KiB", "50.0 %", "-", "/data/y"].map(str::to_owned)
        );
    }
}
