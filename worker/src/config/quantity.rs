//! Sizes and durations as people write them: `8G`, `64MiB`, `1.5GB`, `30s`, `250us`.
//!
//! K, M, G, T, P and KiB … PiB are powers of 1024, as with `truncate -s` and `dd`; KB … PB are
//! powers of 1000, as on a drive's label. Arithmetic is exact: what is not a whole number of bytes
//! or nanoseconds is refused rather than rounded.

use std::time::Duration;

/// What a size may look like; ends error messages.
pub const SIZE_EXPECTED: &str = "a size such as 512M, 64MiB or 8G";

/// What a duration may look like; ends error messages.
pub const DURATION_EXPECTED: &str = "a duration such as 50us, 10ms, 30s, 5m or 1h";

const SIZE_UNITS: [(&str, u64); 18] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("bytes", 1),
];

const DURATION_UNITS: [(&str, u64); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
    ("d", 86_400 * 1_000_000_000),
];

/// Bytes in a text such as `64MiB`.
///
/// # Errors
/// One sentence that says what was expected.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS).ok_or_else(|| format!("`{text}` is not {SIZE_EXPECTED}"))
}

/// The duration in a text such as `30s`. Zero needs no unit.
///
/// # Errors
/// One sentence that says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    scaled(text, &DURATION_UNITS)
        .map(Duration::from_nanos)
        .ok_or_else(|| format!("`{text}` is not {DURATION_EXPECTED}"))
}

/// `bytes` in the largest binary unit that divides it, such as `64MiB`.
pub fn show_size(bytes: u64) -> String {
    let units = [
        ("PiB", 50),
        ("TiB", 40),
        ("GiB", 30),
        ("MiB", 20),
        ("KiB", 10),
    ];
    units
        .into_iter()
        .find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, shift)| format!("{}{unit}", bytes >> shift),
        )
}

/// `duration` in the largest unit that divides it, such as `30s`.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0".to_owned();
    }
    let (unit, scale) = DURATION_UNITS
        .into_iter()
        .rev()
        .find(|(_, scale)| nanos.is_multiple_of(u128::from(*scale)))
        .expect("one nanosecond divides everything");
    format!("{}{unit}", nanos / u128::from(scale))
}

/// The number in front of a unit, times that unit's scale; `None` if it is not exactly that.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let scale = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // Eighteen digits are more than any size needs, and keep the products below inside u128.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 18 || whole.len() > 20 {
        return None;
    }
    let denominator = 10u128.pow(fraction.len() as u32);
    let parts = fraction.parse::<u128>().ok()? * u128::from(scale);
    if parts % denominator != 0 {
        return None;
    }
    let total = whole.parse::<u128>().ok()? * u128::from(scale) + parts / denominator;
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_storage_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("8G", 8 << 30),
            ("64MiB", 64 << 20),
            ("64 mib", 64 << 20),
            ("1.5k", 1536),
            ("1GB", 1_000_000_000),
            ("16E", 0),
        ] {
            assert_eq!(
                parse_size(text).ok(),
                (bytes != 0 || text == "0").then_some(bytes),
                "{text}"
            );
        }
        for wrong in [
            "",
            "G",
            "-1",
            "1.2.3G",
            "0.3B",
            "1.",
            ".5G",
            "8 gigs",
            "99999999P",
            "1e3",
        ] {
            let message = parse_size(wrong).expect_err(wrong);
            assert!(message.contains(SIZE_EXPECTED), "{message}");
        }
    }

    #[test]
    fn durations_need_a_unit_unless_they_are_zero() {
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("50us"), Ok(Duration::from_micros(50)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for wrong in ["30", "", "s", "1 week", "-5s", "0.5ns"] {
            let message = parse_duration(wrong).expect_err(wrong);
            assert!(message.contains(DURATION_EXPECTED), "{message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_the_same(bytes in any::<u64>(), shift in 0u32..50) {
            let round = (bytes >> shift) << shift;
            prop_assert_eq!(parse_size(&show_size(round)), Ok(round));
            let duration = Duration::from_nanos(round);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_is_misread_or_breaks_the_reader(text in "[0-9.]{0,24} ?[a-zA-Z]{0,4}|.{0,12}") {
            // A size that is accepted is within rounding of what floating point makes of it.
            if let Ok(bytes) = parse_size(&text) {
                let digits: String =
                    text.trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                let number: f64 = digits.parse().expect("an accepted size starts with a number");
                let unit = text.trim()[digits.len()..].trim().to_ascii_lowercase();
                let scale = SIZE_UNITS.iter().find(|(name, _)| *name == unit).expect("a known unit").1;
                let expected = number * scale as f64;
                prop_assert!((bytes as f64 - expected).abs() <= expected * 1e-9);
            }
            let _ = parse_duration(&text);
        }
    }
}
