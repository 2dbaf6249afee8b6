//! Reads a TOML text into fields by the table of keys. Goes on after a mistake, so that all of
//! them are reported at once; a field with a mistake keeps its default.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Section};
use super::kind::{Kind, Value};
use super::mistake::{Mistakes, Origin, Source};

/// The values of one table.
#[derive(Clone)]
pub(super) struct Fields {
    section: &'static Section,
    origin: Origin,
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl fmt::Debug for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(self.iter().map(|(key, value)| (key.name, value)))
            .finish()
    }
}

impl Fields {
    /// The defaults of `section`.
    pub(super) fn defaults(section: &'static Section, origin: Origin) -> Self {
        let default = |key: &'static Key| {
            let value = match (key.kind, key.default) {
                (Kind::Flag, text) => Value::Flag(text == "true"),
                (Kind::Count { .. }, text) => {
                    Value::Number(text.parse().expect("the default of a count is a number"))
                }
                (_, "") => Value::Absent,
                (kind, text) => kind.read_text(text).expect("the default of a key is valid"),
            };
            (key.name, (value, Origin::Default))
        };
        Fields {
            section,
            origin,
            values: section.keys.iter().map(default).collect(),
        }
    }

    /// Where the table stands.
    pub(super) fn place(&self) -> &Origin {
        &self.origin
    }

    /// The value of a key.
    ///
    /// # Panics
    /// If the section has no such key.
    pub(super) fn get(&self, name: &str) -> &Value {
        &self.values[name].0
    }

    /// Where the value of a key stands, or the table when nobody set it.
    pub(super) fn origin(&self, name: &str) -> &Origin {
        match &self.values[name].1 {
            Origin::Default => &self.origin,
            origin => origin,
        }
    }

    /// Sets a key.
    ///
    /// # Panics
    /// If the section has no such key.
    pub(super) fn set(&mut self, name: &str, value: Value, origin: Origin) {
        *self.values.get_mut(name).expect("a key of the section") = (value, origin);
    }

    /// Sets a key from the text of a flag.
    pub(super) fn set_text(
        &mut self,
        name: &str,
        text: &str,
        origin: Origin,
        mistakes: &mut Mistakes,
    ) {
        let key = self.key(name).expect("a key of the section");
        match key.kind.read_text(text) {
            Ok(value) => self.set(name, value, origin),
            Err(message) => mistakes.add(&origin, message),
        }
    }

    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.section.keys.iter().find(|key| key.name == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static Key, &Value)> {
        self.section
            .keys
            .iter()
            .map(|key| (key, &self.values[key.name].0))
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.get(name) {
            Value::Text(text) | Value::Secret(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn cpus(&self, name: &str) -> Option<Vec<usize>> {
        match self.get(name) {
            Value::Cpus(cpus) => Some(cpus.clone()),
            _ => None,
        }
    }

    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Value::Texts(texts) => texts.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        *self.get(name) == Value::Flag(true)
    }
}

/// Everything that a file says.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) top: Fields,
    pub(super) limits: Fields,
    pub(super) s3: Fields,
    pub(super) log: Fields,
    pub(super) tokens: Vec<Fields>,
    pub(super) s3_keys: Vec<Fields>,
    pub(super) mounts: Vec<Fields>,
}

impl Document {
    pub(super) fn defaults() -> Self {
        Document {
            top: Fields::defaults(keys::TOP, Origin::Default),
            limits: Fields::defaults(keys::LIMITS, Origin::Default),
            s3: Fields::defaults(keys::S3, Origin::Default),
            log: Fields::defaults(keys::LOG, Origin::Default),
            tokens: Vec::new(),
            s3_keys: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// Takes over every key that a reload applies.
    pub(super) fn take_over(&mut self, new: &Document) {
        let pairs = [
            (&mut self.top, &new.top),
            (&mut self.limits, &new.limits),
            (&mut self.s3, &new.s3),
            (&mut self.log, &new.log),
        ];
        for (old, new) in pairs {
            for key in new.section.keys.iter().filter(|key| key.is_reloadable) {
                old.values.insert(key.name, new.values[key.name].clone());
            }
        }
        self.tokens.clone_from(&new.tokens);
        self.s3_keys.clone_from(&new.s3_keys);
        self.mounts.clone_from(&new.mounts);
    }

    /// Reads `source`.
    pub(super) fn read(source: &Source<'_>, text: &str, mistakes: &mut Mistakes) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Document::defaults();
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            mistakes.add(&source.origin(&span), error.message());
        }
        if !errors.is_empty() {
            // After a syntax error, what seems unknown or missing would mostly be its echo.
            return document;
        }
        let mut reader = Reader { source, mistakes };
        reader.table(&mut document.top, root.get_ref());
        for (key, value) in root.get_ref() {
            match key.get_ref().as_ref() {
                "limits" => reader.section(&mut document.limits, value),
                "s3" => reader.section(&mut document.s3, value),
                "log" => reader.section(&mut document.log, value),
                "token" => document.tokens = reader.list(keys::TOKEN, value),
                "s3_key" => document.s3_keys = reader.list(keys::S3_KEY, value),
                "mount" => document.mounts = reader.list(keys::MOUNT, value),
                _ => {}
            }
        }
        document
    }
}

struct Reader<'a> {
    source: &'a Source<'a>,
    mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    fn wrong(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.mistakes.add(&self.source.origin(span), message);
    }

    fn section(&mut self, fields: &mut Fields, value: &Spanned<DeValue<'_>>) {
        let name = fields.section.name;
        match value.get_ref() {
            DeValue::Table(table) => self.table(fields, table),
            other => {
                let found = other.type_str();
                self.wrong(
                    &value.span(),
                    format!("expected a table [{name}], found {found}"),
                );
            }
        }
    }

    fn list(&mut self, section: &'static Section, value: &Spanned<DeValue<'_>>) -> Vec<Fields> {
        let name = section.name;
        let DeValue::Array(items) = value.get_ref() else {
            let found = value.get_ref().type_str();
            self.wrong(
                &value.span(),
                format!("expected tables [[{name}]], found one {found}"),
            );
            return Vec::new();
        };
        let mut list = Vec::new();
        for item in items {
            let origin = self.source.origin(&item.span());
            let mut fields = Fields::defaults(section, origin);
            match item.get_ref() {
                DeValue::Table(table) => {
                    self.table(&mut fields, table);
                    list.push(fields);
                }
                other => {
                    let found = other.type_str();
                    self.wrong(
                        &item.span(),
                        format!("expected tables [[{name}]], found {found}"),
                    );
                }
            }
        }
        list
    }

    fn table(&mut self, fields: &mut Fields, table: &DeTable<'_>) {
        for (name, value) in table {
            let is_section = fields.section.name.is_empty()
                && keys::SECTIONS
                    .iter()
                    .any(|section| section.name == name.get_ref().as_ref());
            if is_section {
                continue;
            }
            let Some(key) = fields.key(name.get_ref()) else {
                let message = unknown(fields.section, name.get_ref());
                self.wrong(&name.span(), message);
                continue;
            };
            match key.kind.read_toml(value.get_ref()) {
                Ok(value_read) => {
                    let origin = self.source.origin(&value.span());
                    fields.set(key.name, value_read, origin);
                }
                Err(wrong) => {
                    let message = format!("`{}`: {}", key.name, wrong.message);
                    self.wrong(&wrong.span.unwrap_or(value.span()), message);
                    // A required key with a wrong value is not also missing.
                    if *fields.get(key.name) == Value::Absent {
                        let origin = self.source.origin(&value.span());
                        fields.set(key.name, Value::Absent, origin);
                    }
                }
            }
        }
    }
}

/// The sentence about an unknown key, with the nearest known one or all of them.
fn unknown(section: &Section, name: &str) -> String {
    let place = match (section.name, section.is_list) {
        ("", _) => "at the top level".to_owned(),
        (name, false) => format!("in [{name}]"),
        (name, true) => format!("in [[{name}]]"),
    };
    let mut names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
    if section.name.is_empty() {
        names.extend(
            keys::SECTIONS
                .iter()
                .map(|section| section.name)
                .filter(|name| !name.is_empty()),
        );
    }
    let nearest = names
        .iter()
        .map(|known| (distance(known, name), *known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
    let elsewhere = keys::SECTIONS
        .iter()
        .find(|other| other.name != section.name && other.keys.iter().any(|key| key.name == name));
    match (nearest, elsewhere) {
        (Some((_, known)), _) => format!("unknown key `{name}` {place}; did you mean `{known}`?"),
        (None, Some(other)) if other.name.is_empty() => {
            format!(
                "unknown key `{name}` {place}; it belongs to the top level, above the first [table]"
            )
        }
        (None, Some(other)) => {
            format!(
                "unknown key `{name}` {place}; it belongs into [{}]",
                other.name
            )
        }
        (None, None) => format!(
            "unknown key `{name}` {place}; expected one of: {}",
            names.join(", ")
        ),
    }
}

/// Levenshtein distance, by the rows of Wagner and Fischer (1974).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
