//! Sizes, rates, times and shares as people read them. JSON has the plain numbers instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes with a binary unit, such as `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // What would print as 1024.0 belongs to the next unit.
    while value >= 1023.95 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with thousands set apart, such as `1 234 567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, such as `99.3 %`; `-` where there is nothing.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// A duration in the two largest units, such as `3 d 4 h` or `12.3 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A short time in nanoseconds with a unit that leaves few digits, such as `41.2 µs`.
pub fn short_time(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    // What would print as 1000.0 belongs to the next unit.
    match value {
        ..1e3 => format!("{nanoseconds} ns"),
        ..999.95e3 => format!("{:.1} µs", value / 1e3),
        ..999.95e6 => format!("{:.1} ms", value / 1e6),
        _ => duration(Duration::from_nanos(nanoseconds)),
    }
}

/// How long ago a time in milliseconds since the Unix epoch was; `-` where it is unknown.
pub fn ago(time_ms: u64) -> String {
    if time_ms == 0 {
        return "-".to_owned();
    }
    let time = UNIX_EPOCH + Duration::from_millis(time_ms);
    match SystemTime::now().duration_since(time) {
        Ok(passed) => format!("{} ago", duration(passed)),
        // Clocks differ; a file of the future is not worth an error.
        Err(_) => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_never_print_1024_of_a_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn counts_are_set_apart_from_the_right() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1 234 567");
    }

    #[test]
    fn durations_take_two_units_at_most() {
        assert_eq!(duration(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(
            duration(Duration::from_secs(2 * 86_400 + 3 * 3600)),
            "2 d 3 h"
        );
    }

    #[test]
    fn short_times_have_a_unit_of_their_size() {
        assert_eq!(short_time(0), "0 ns");
        assert_eq!(short_time(41_234), "41.2 µs");
        assert_eq!(short_time(999_949), "999.9 µs");
        assert_eq!(short_time(999_950), "1.0 ms");
        assert_eq!(short_time(1_250_000_000), "1.2 s");
    }

    #[test]
    fn nothing_of_nothing_is_not_a_share() {
        assert_eq!(share(0, 0), "-");
        assert_eq!(share(1, 3), "33.3 %");
    }
}
