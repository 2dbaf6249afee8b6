//! Numbers and moments as the report writes them: thousands apart, as many digits as mean
//! something, a true minus sign, and no unit that the column's head already gives.

use crate::quantities::grouped;

/// A number with as many digits as mean something: three or so, never a power of ten.
pub fn figure(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 999.5 => return with_sign(value, &grouped(size)),
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        0.0 => 0,
        _ => 3,
    };
    with_sign(value, &format!("{:.digits$}", value.abs()))
}

/// A whole number.
pub fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A ratio, two decimals, three below a tenth.
pub fn ratio(value: f64) -> String {
    let digits = if value.abs() < 0.1 { 3 } else { 2 };
    with_sign(value, &format!("{:.digits$}", value.abs()))
}

/// A share as a percentage without its sign: `0.973` is `97.3`.
pub fn percent(share: f64) -> String {
    with_sign(share, &format!("{:.1}", share.abs() * 100.0))
}

/// A change as a percentage, always with its sign: `0.031` is `+3.1 %`.
pub fn change(share: f64) -> String {
    let text = format!("{:.1}", share.abs() * 100.0);
    if text.trim_matches(['0', '.']).is_empty() {
        "0.0 %".to_owned()
    } else if share < 0.0 {
        format!("\u{2212}{text} %")
    } else {
        format!("+{text} %")
    }
}

/// Microseconds with the unit that reads best: `850 ns`, `12.5 µs`, `3.2 ms`, `1.5 s`.
pub fn latency(us: f64) -> String {
    let (value, unit) = match us.abs() {
        size if size >= 999_500.0 => (us / 1e6, "s"),
        size if size >= 999.5 => (us / 1e3, "ms"),
        size if size >= 0.9995 || size == 0.0 => (us, "µs"),
        _ => (us * 1e3, "ns"),
    };
    format!("{} {unit}", short_decimal(value))
}

/// A rate for an axis: `500`, `20 k`, `1.5 M`.
pub fn short_rate(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, " M"),
        size if size >= 999.5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{unit}", short_decimal(value))
}

/// A rate with its unit: `412,345/s`.
pub fn rate(value: f64) -> String {
    format!("{}/s", figure(value))
}

/// Bytes by powers of 1024: `23.4 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{} {}", short_decimal(scaled), UNITS[unit])
}

/// Seconds, one decimal below a hundred.
pub fn seconds(value: f64) -> String {
    if value < 99.95 {
        format!("{value:.1}")
    } else {
        grouped(value)
    }
}

/// A moment in universal time, to the minute: `2026-11-22 17:26 UTC`.
///
/// Days are turned into a date as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`.
pub fn moment(since_epoch_ms: u64) -> String {
    let minutes = since_epoch_ms / 60_000;
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    let days = minutes / 1440 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The middle of `values`; between the two middle ones of an even number. None of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| crate::gate::measure::median(values))
}

/// Up to three digits, trailing zeros of the fraction left out.
fn short_decimal(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{:.digits$}", value.abs());
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let sign = if value < 0.0 { "\u{2212}" } else { "" };
    format!("{sign}{text}")
}

fn with_sign(value: f64, size: &str) -> String {
    if value < 0.0 && size.contains(|digit: char| digit.is_ascii_digit() && digit != '0') {
        format!("\u{2212}{size}")
    } else {
        size.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_mean_something() {
        for (value, text) in [
            (1_234_567.4, "1,234,567"),
            (999.7, "1,000"),
            (412.4, "412"),
            (41.24, "41.2"),
            (4.124, "4.12"),
            (0.41, "0.410"),
            (0.0, "0"),
            (-4.124, "\u{2212}4.12"),
            (-0.0001, "0.000"),
            (-1234.0, "\u{2212}1,234"),
        ] {
            assert_eq!(figure(value), text);
        }
        assert_eq!(whole(0), "0");
        assert_eq!(whole(12_345_678), "12,345,678");
        assert_eq!(whole(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn shares_and_changes_are_percentages() {
        assert_eq!(percent(0.9734), "97.3");
        assert_eq!(change(0.031), "+3.1 %");
        assert_eq!(change(-0.25), "\u{2212}25.0 %");
        assert_eq!(change(-0.0001), "0.0 %");
        assert_eq!(ratio(0.876), "0.88");
        assert_eq!(ratio(0.0123), "0.012");
    }

    #[test]
    fn units_are_those_that_read_best() {
        assert_eq!(latency(0.85), "850 ns");
        assert_eq!(latency(12.54), "12.5 µs");
        assert_eq!(latency(200.0), "200 µs");
        assert_eq!(latency(3_200.0), "3.2 ms");
        assert_eq!(latency(1_500_000.0), "1.5 s");
        assert_eq!(short_rate(500.0), "500");
        assert_eq!(short_rate(20_000.0), "20 k");
        assert_eq!(short_rate(1_500_000.0), "1.5 M");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(25_093_840_896), "23.4 GiB");
    }

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(moment(1_795_368_371_000), "2026-11-22 17:26 UTC");
    }
}
