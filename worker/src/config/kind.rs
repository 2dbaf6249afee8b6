//! What a key may hold: reads a value from TOML or from a flag's text, and says what was expected.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::quantity::{self, DURATION_EXPECTED, SIZE_EXPECTED};

/// Highest CPU number that is believed; the kernel's own limit (`NR_CPUS`) is 8,192.
const CPU_MAX: usize = 8191;

/// The type of a key, with its bounds.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// One of a few words.
    Word(&'static [&'static str]),
    /// Text with a form of its own.
    Formed {
        /// What is expected, for messages and the documentation.
        expected: &'static str,
        /// Says what is wrong with a text.
        check: fn(&str) -> Result<(), String>,
    },
    /// `true` or `false`.
    Flag,
    /// Bytes (a second, where the key says so).
    Size {
        /// Smallest value, 0 aside where `zero_means` is set.
        min: u64,
        /// Largest value.
        max: u64,
        /// Whether only powers of two will do.
        is_power_of_two: bool,
    },
    /// A number.
    Count {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
        /// Whether only powers of two will do.
        is_power_of_two: bool,
    },
    /// A time span of at most so many seconds.
    Duration {
        /// Largest value.
        max: Duration,
    },
    /// CPU numbers.
    Cpus,
    /// An IP address and a port.
    Address,
    /// A list of texts.
    Texts,
    /// A table of texts.
    Options,
}

/// A value that was read.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing was set and there is no default.
    Absent,
    /// Text.
    Text(String),
    /// Text that is never shown.
    Secret(String),
    /// `true` or `false`.
    Flag(bool),
    /// Bytes or a count.
    Number(u64),
    /// A time span.
    Duration(Duration),
    /// CPU numbers, ascending, each once.
    Cpus(Vec<usize>),
    /// An IP address and a port.
    Address(SocketAddr),
    /// Texts.
    Texts(Vec<String>),
    /// A table of texts; may hold secrets.
    Options(BTreeMap<String, String>),
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Absent => formatter.write_str("-"),
            Value::Text(text) => write!(formatter, "{text:?}"),
            Value::Secret(_) => formatter.write_str("(secret)"),
            Value::Flag(flag) => write!(formatter, "{flag}"),
            Value::Number(number) => write!(formatter, "{number}"),
            Value::Duration(duration) => formatter.write_str(&quantity::show_duration(*duration)),
            Value::Cpus(cpus) => formatter.write_str(&show_cpus(cpus)),
            Value::Address(address) => write!(formatter, "{address}"),
            Value::Texts(texts) => write!(formatter, "{texts:?}"),
            Value::Options(options) => write!(formatter, "{:?}", options.keys()),
        }
    }
}

/// What is wrong with a value, and in which part of it, where that is known.
pub(super) struct Wrong {
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Wrong {
            span: None,
            message,
        }
    }
}

impl Kind {
    /// What a value of this kind looks like, for messages and the documentation.
    pub fn expected(&self) -> String {
        match self {
            Kind::Text | Kind::Secret => "text in quotes".to_owned(),
            Kind::Word(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                quoted.join(" or ")
            }
            Kind::Formed { expected, .. } => (*expected).to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Size {
                min,
                max,
                is_power_of_two,
            } => {
                let power = if *is_power_of_two {
                    ", a power of two"
                } else {
                    ""
                };
                let low = quantity::show_size(*min);
                match *max {
                    u64::MAX if *min == 0 => format!("{SIZE_EXPECTED}{power}"),
                    u64::MAX => format!("{SIZE_EXPECTED}{power}, at least {low}"),
                    max => format!(
                        "{SIZE_EXPECTED}{power}, {low} to {}",
                        quantity::show_size(max)
                    ),
                }
            }
            Kind::Count {
                min,
                max,
                is_power_of_two,
            } => {
                let power = if *is_power_of_two {
                    ", a power of two"
                } else {
                    ""
                };
                format!("a number from {min} to {max}{power}")
            }
            Kind::Duration { max } => {
                format!(
                    "{DURATION_EXPECTED}, at most {}",
                    quantity::show_duration(*max)
                )
            }
            Kind::Cpus => "CPU numbers such as \"0-3,8\" or [0, 1]".to_owned(),
            Kind::Address => {
                "an IP address and a port such as 127.0.0.1:7000 or [::1]:7000".to_owned()
            }
            Kind::Texts => "a list of texts such as [\"a\", \"b\"]".to_owned(),
            Kind::Options => "a table of texts such as { region = \"eu-west-1\" }".to_owned(),
        }
    }

    /// Reads the text of a flag, or a TOML string.
    pub(super) fn read_text(&self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Secret => Ok(Value::Secret(text.to_owned())),
            Kind::Word(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Formed { check, .. } => check(text).map(|()| Value::Text(text.to_owned())),
            Kind::Size { .. } => self.bounded(quantity::parse_size(text)?),
            Kind::Duration { max } => match quantity::parse_duration(text)? {
                duration if duration <= *max => Ok(Value::Duration(duration)),
                _ => Err(self.refusal(&format!("`{text}`"))),
            },
            Kind::Cpus => parse_cpus(text).map(Value::Cpus),
            Kind::Address => text
                .parse()
                .map(Value::Address)
                .map_err(|_| self.refusal(&format!("`{text}`"))),
            _ => Err(self.refusal(&format!("the text \"{text}\""))),
        }
    }

    /// Reads a TOML value.
    pub(super) fn read_toml(&self, value: &DeValue<'_>) -> Result<Value, Wrong> {
        match (self, value) {
            (_, DeValue::String(text)) => Ok(self.read_text(text)?),
            (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
            (Kind::Size { .. } | Kind::Count { .. }, DeValue::Integer(integer)) => {
                let number = u64::from_str_radix(integer.as_str(), integer.radix())
                    .map_err(|_| self.refusal(integer.as_str()))?;
                Ok(self.bounded(number)?)
            }
            (Kind::Duration { .. }, DeValue::Integer(integer)) if integer.as_str() == "0" => {
                Ok(Value::Duration(Duration::ZERO))
            }
            (Kind::Cpus, DeValue::Array(items)) => {
                let mut cpus = Vec::new();
                for item in items {
                    cpus.push(self.cpu(item)?);
                }
                Ok(Value::Cpus(sorted(cpus)))
            }
            (Kind::Texts, DeValue::Array(items)) => {
                let texts: Result<Vec<String>, Wrong> =
                    items.iter().map(|item| self.part(item, item)).collect();
                Ok(Value::Texts(texts?))
            }
            (Kind::Options, DeValue::Table(table)) => {
                let mut options = BTreeMap::new();
                for (key, value) in table {
                    options.insert(key.get_ref().to_string(), self.part(value, value)?);
                }
                Ok(Value::Options(options))
            }
            (_, other) => Err(self.refusal(other.type_str()).into()),
        }
    }

    fn part(
        &self,
        at: &Spanned<DeValue<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<String, Wrong> {
        value
            .get_ref()
            .as_str()
            .map(ToOwned::to_owned)
            .ok_or_else(|| Wrong {
                span: Some(at.span()),
                message: self.refusal(value.get_ref().type_str()),
            })
    }

    fn cpu(&self, item: &Spanned<DeValue<'_>>) -> Result<usize, Wrong> {
        let number = item
            .get_ref()
            .as_integer()
            .and_then(|integer| usize::from_str_radix(integer.as_str(), integer.radix()).ok());
        number.filter(|cpu| *cpu <= CPU_MAX).ok_or_else(|| Wrong {
            span: Some(item.span()),
            message: self.refusal(item.get_ref().type_str()),
        })
    }

    fn bounded(&self, number: u64) -> Result<Value, String> {
        let (Kind::Size {
            min,
            max,
            is_power_of_two,
        }
        | Kind::Count {
            min,
            max,
            is_power_of_two,
        }) = self
        else {
            unreachable!("only numbers have bounds");
        };
        let fits =
            (*min..=*max).contains(&number) && (!is_power_of_two || number.is_power_of_two());
        fits.then_some(Value::Number(number))
            .ok_or_else(|| self.refusal(&number.to_string()))
    }

    fn refusal(&self, found: &str) -> String {
        format!("expected {}, found {found}", self.expected())
    }
}

fn sorted(mut cpus: Vec<usize>) -> Vec<usize> {
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// CPU numbers in a text such as `0-3,8`, the form of `taskset -c` and of the kernel.
///
/// # Errors
/// One sentence that says what was expected.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("expected {}, found `{text}`", Kind::Cpus.expected());
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        if first > last || last > CPU_MAX {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(sorted(cpus))
}

/// CPU numbers in the kernel's form, such as `0-3,8`. `cpus` is ascending.
pub fn show_cpus(cpus: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => runs.push((*cpu, *cpu)),
        }
    }
    let shown: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cpu_lists_read_back_as_shown(cpus in proptest::collection::btree_set(0..CPU_MAX, 1..40)) {
            let cpus: Vec<usize> = cpus.into_iter().collect();
            prop_assert_eq!(parse_cpus(&show_cpus(&cpus)), Ok(cpus));
        }
    }

    #[test]
    fn cpu_lists_that_make_no_sense_are_refused() {
        for wrong in ["", "3-1", "a", "1,,2", "0-99999", "-1"] {
            assert!(parse_cpus(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_cpus("4, 0-2, 1"), Ok(vec![0, 1, 2, 4]));
    }
}
