//! Sizes, durations, rates and cores as they are written on the command line and in workloads.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written `4096`, `4K`, `1M` or `8G` (powers of 1024); in TOML a text, or a
/// whole number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        size(text).map(ByteSize)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K"), (0, "")];
        let (shift, unit) = units
            .into_iter()
            .find(|(shift, _)| self.0.is_multiple_of(1 << shift))
            .expect("every number is a multiple of one");
        write!(formatter, "{}{unit}", self.0 >> shift)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(bytes) => bytes.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads `4096`, `4K`, `1M`, `8G`: powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("expected a size such as 4096, 4K, 1M or 8G, found `{text}`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        _ => return Err(expected()),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(expected)
}

/// Like [`size`], for sizes of single reads.
pub(crate) fn read_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    if bytes > u64::from(corelane_rpc_schema::READ_BYTES_MAX) || !bytes.is_power_of_two() {
        return Err(format!("expected a power of two up to 4M, found `{text}`"));
    }
    Ok(bytes as u32)
}

/// Reads a rate: `20000`, `20k`, `1.5M` a second (powers of 1000).
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let expected = || format!("expected a rate a second such as 500, 20k or 1.5M, found `{text}`");
    let (digits, factor) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1e3),
        None => text
            .strip_suffix('M')
            .map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let number: f64 = digits.parse().map_err(|_| expected())?;
    let rate = number * factor;
    if rate.is_finite() && rate > 0.0 {
        Ok(rate)
    } else {
        Err(expected())
    }
}

/// Reads `50us`, `2ms`, `1s`, `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected a duration such as 0, 50us, 2ms or 1s, found `{text}`");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| expected())?;
    match &text[digits.len()..] {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "" if number == 0 => Ok(Duration::ZERO),
        _ => Err(expected()),
    }
}

/// The server's core and the generator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Where the server runs.
    pub server: usize,
    /// Where the load comes from.
    pub load: usize,
}

/// Reads `SERVER,LOAD`.
pub(crate) fn cores(text: &str) -> Result<Cores, String> {
    let expected =
        || format!("expected two different cores SERVER,LOAD such as 0,1, found `{text}`");
    let (server, load) = text.split_once(',').ok_or_else(expected)?;
    let number = |text: &str| text.trim().parse().map_err(|_| expected());
    let cores = Cores {
        server: number(server)?,
        load: number(load)?,
    };
    if cores.server == cores.load {
        Err(expected())
    } else {
        Ok(cores)
    }
}

/// A whole number with thousands apart: 1,234,567.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_written_or_refused() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("8G"), Ok(8 << 30));
        assert_eq!(read_size("4K"), Ok(4096));
        assert_eq!(duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(cores("0,1"), Ok(Cores { server: 0, load: 1 }));
        for text in ["", "0", "K", "4Q", "-1", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(read_size("3000").is_err());
        assert!(duration("5").is_err());
        assert!(cores("1,1").is_err());
        assert!(cores("1").is_err());
        assert_eq!(rate("1.5M"), Ok(1_500_000.0));
        assert_eq!(rate("20k"), Ok(20_000.0));
        for text in ["", "k", "0", "-5", "inf", "nan"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_in_their_largest_whole_unit() {
        for (bytes, text) in [(1, "1"), (4096, "4K"), (1536, "1536"), (3 << 29, "1536M")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(999.6), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
