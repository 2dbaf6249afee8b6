//! Text from outside on its way to people: to the log, a terminal or a page of plain text.
//!
//! Names of clients, objects and places, and what stores answer, are chosen by others. The invariant: what
//! [`printable`] gives stays on its line and changes nothing around it: no control characters, no sequences that
//! colour or move the cursor, nothing that turns the direction of writing.

use std::borrow::Cow;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// `text` with everything escaped (as `\n` or `\u{1b}`) that is not to be seen as it is.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// As [`printable`], of a text that has lines.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    if text.split('\n').all(|line| !line.chars().any(is_hidden)) {
        return Cow::Borrowed(text);
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').map(printable).collect();
    Cow::Owned(lines.join("\n"))
}

/// Control characters, line and paragraph separators, and what sets or ends a direction of writing or has no width.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes the fields of log lines, each value made [`printable`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PrintableFields;

impl<'writer> FormatFields<'writer> for PrintableFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = PrintableVisitor {
            writer,
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct PrintableVisitor<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    result: fmt::Result,
}

impl PrintableVisitor<'_> {
    fn write(&mut self, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
        let text = format!("{value:?}");
        let text = printable(&text);
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if field.name() == "message" {
            return self.writer.write_str(&text);
        }
        let name = field.name().trim_start_matches("r#");
        if self.writer.has_ansi_escapes() {
            return write!(
                self.writer,
                "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{text}"
            );
        }
        write!(self.writer, "{name}={text}")
    }
}

impl Visit for PrintableVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_ok() {
            self.result = self.write(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn text_stays_on_its_line_and_is_otherwise_as_it_was() {
        for plain in ["", "/data/a b", "ünïcode 日本 🙂", "quote \" and \\"] {
            assert!(matches!(printable(plain), Cow::Borrowed(same) if same == plain));
        }
        for (text, expected) in [
            ("x\nERROR forged", "x\\nERROR forged"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\r\tb\0", "a\\r\\tb\\u{0}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt.exe", "\\u{202e}txt.exe"),
            ("a\u{2028}b", "a\\u{2028}b"),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_lines("a\nb\u{7}\n"), "a\nb\\u{7}\n");
        assert!(matches!(printable_lines("a\nb"), Cow::Borrowed("a\nb")));
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panicked").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_field_of_an_event_makes_a_line_of_its_own() {
        for colours in [false, true] {
            let lines = Lines::default();
            let writer = lines.clone();
            let layer = tracing_subscriber::fmt::layer()
                .fmt_fields(PrintableFields)
                .with_ansi(colours)
                .with_writer(move || writer.clone());
            let forged = "x\nERROR forged\u{1b}[31m";
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::info!(client = %forged, path = forged, other = ?Some(forged), "by {forged}");
            });
            let bytes = lines.0.lock().expect("no writer panicked").clone();
            let text = String::from_utf8(bytes).expect("UTF-8");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(!text.contains("\u{1b}[31m"), "{text}");
            assert_eq!(text.matches("ERROR forged").count(), 4, "{text}");
            assert!(text.contains("by x\\nERROR"), "{text}");
        }
    }
}
