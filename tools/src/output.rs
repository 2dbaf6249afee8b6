//! What goes to standard output: a table for people, or one JSON value a line with `--json`.
//!
//! The invariant: standard output holds nothing but the answer, so that it can be piped; progress
//! and advice go to standard error. Names in tables and messages are made printable: they are chosen by others.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use corelane_worker::printable::{printable, printable_lines};
use serde::Serialize;

use crate::failure::Failure;

/// In which form answers are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON or text.
    pub fn new(json: bool) -> Self {
        Output { json }
    }

    /// Whether answers are JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether someone watches standard error and wants to see progress.
    pub fn shows_progress(self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// Prints `answer`: as JSON, or as the text that `human` makes of it.
    pub fn answer<T: Serialize>(
        self,
        answer: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            let line = serde_json::to_string(answer)
                .map_err(|error| Failure::failed(format!("the answer is no JSON: {error}")))?;
            return self.line(&line);
        }
        self.line(printable_lines(human(answer).trim_end()).as_ref())
    }

    /// Prints one line. Nothing for an empty text, which is how an empty answer looks.
    pub fn line(self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}")?;
        stdout.flush()?;
        Ok(())
    }

    /// Prints bytes as they are.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()?;
        Ok(())
    }

    /// A line on standard error, for people only.
    pub fn note(self, text: &str) {
        if !self.json {
            self.aside(text);
        }
    }

    /// A line on standard error, in whichever form answers are.
    pub fn aside(self, text: &str) {
        // Where nobody can read it, nobody misses it.
        let _ = writeln!(io::stderr(), "{}", printable_lines(text));
    }
}

/// A table with `columns`. Those whose name starts with `>` are numbers and stand to the right.
pub fn table<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let columns = columns.map(|name| Column {
        name: name.trim_start_matches('>').to_uppercase(),
        is_number: name.starts_with('>'),
    });
    table_of(&columns, rows.into_iter().map(Vec::from))
}

/// A column of a table whose columns are not known before.
pub struct Column {
    /// As it is printed.
    pub name: String,
    /// Numbers stand to the right.
    pub is_number: bool,
}

/// A table of rows with a cell for each column.
pub fn table_of(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| &column.name));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for (index, Column { is_number, .. }) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if *is_number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    trimmed(&table.to_string())
}

/// Names and values, one pair a line.
pub fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        text.push_str(&format!("{name:width$}  {}\n", printable(&value)));
    }
    text
}

/// Lines without the blanks at their ends, so that output compares and copies well.
fn trimmed(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_no_line_ends_in_blanks() {
        let rows = [
            ["/a".to_owned(), "5".to_owned()],
            ["/long".to_owned(), "12345".to_owned()],
        ];
        let text = table(["path", ">bytes"], rows);
        assert_eq!(text, "PATH   BYTES\n/a         5\n/long  12345\n");
    }

    #[test]
    fn names_make_no_lines_and_no_colours() {
        let forged = "/a\nERROR forged\u{1b}[31m".to_owned();
        let text = table(["path"], [[forged.clone()]]);
        assert_eq!(text, "PATH\n/a\\nERROR forged\\u{1b}[31m\n");
        let text = pairs([("path", forged)]);
        assert_eq!(text, "path  /a\\nERROR forged\\u{1b}[31m\n");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(
            pairs([("a", "1".to_owned()), ("long", "2".to_owned())]),
            "a     1\nlong  2\n"
        );
    }
}
