//! Dates as HTTP, S3's XML and Signature Version 4 write them, to and from milliseconds since 1970 UTC.
//!
//! Days are counted with the proleptic Gregorian calendar; there are no leap seconds. The algorithms
//! are those of Howard Hinnant, "chrono-compatible low-level date algorithms" (`days_from_civil`,
//! `civil_from_days`). Nothing here allocates.

const MS_PER_SECOND: u64 = 1_000;
const SECONDS_PER_DAY: u64 = 86_400;
const WEEKDAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
const WEEKDAYS_LONG: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The last moment that has a four-digit year: 9999-12-31T23:59:59.999Z. Later ones are written as it.
const LAST_MS: u64 = 253_402_300_799_999;

/// A point in time, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl Civil {
    fn of(seconds: u64) -> Civil {
        let days = (seconds / SECONDS_PER_DAY) as u32;
        let of_day = (seconds % SECONDS_PER_DAY) as u32;
        // Years begin in March here, so that the day added in leap years is the last of its year.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Civil {
            year: era * 400 + year_of_era + u32::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Milliseconds since 1970; `None` if there is no such day or time, or it is before 1970.
    fn ms(self) -> Option<u64> {
        let sound = (1970..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && self.day >= 1
            && self.day <= days_of_month(self.year, self.month)
            && self.hour < 24
            && self.minute < 60
            // A leap second counts as the second after it.
            && self.second <= 60;
        if !sound {
            return None;
        }
        let year = self.year - u32::from(self.month <= 2);
        let era = year / 400;
        let year_of_era = year % 400;
        let shifted_month = if self.month > 2 {
            self.month - 3
        } else {
            self.month + 9
        };
        let day_of_year = (153 * shifted_month + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = u64::from(era * 146_097 + day_of_era - 719_468);
        let of_day = u64::from(self.hour * 3_600 + self.minute * 60 + self.second);
        Some((days * SECONDS_PER_DAY + of_day) * MS_PER_SECOND)
    }
}

fn days_of_month(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `Sun, 22 Nov 2026 10:00:00 GMT`, for `Date` and `Last-Modified` (RFC 9110, section 5.6.7).
pub fn http_date(ms: u64) -> [u8; 29] {
    let seconds = ms.min(LAST_MS) / MS_PER_SECOND;
    let civil = Civil::of(seconds);
    // 1 January 1970 was a Thursday.
    let weekday = (seconds / SECONDS_PER_DAY + 4) % 7;
    let mut out = *b"Sun, 00 Jan 0000 00:00:00 GMT";
    out[..3].copy_from_slice(WEEKDAYS[weekday as usize]);
    write_digits(&mut out[5..7], civil.day);
    out[8..11].copy_from_slice(MONTHS[civil.month as usize - 1]);
    write_digits(&mut out[12..16], civil.year);
    write_digits(&mut out[17..19], civil.hour);
    write_digits(&mut out[20..22], civil.minute);
    write_digits(&mut out[23..25], civil.second);
    out
}

/// `2026-11-22T10:00:00.000Z`, for `LastModified` in XML.
pub fn iso_8601(ms: u64) -> [u8; 24] {
    let ms = ms.min(LAST_MS);
    let civil = Civil::of(ms / MS_PER_SECOND);
    let mut out = *b"0000-00-00T00:00:00.000Z";
    write_digits(&mut out[..4], civil.year);
    write_digits(&mut out[5..7], civil.month);
    write_digits(&mut out[8..10], civil.day);
    write_digits(&mut out[11..13], civil.hour);
    write_digits(&mut out[14..16], civil.minute);
    write_digits(&mut out[17..19], civil.second);
    write_digits(&mut out[20..23], (ms % MS_PER_SECOND) as u32);
    out
}

/// `20261122T100000Z`, as Signature Version 4 writes a time.
pub fn amz_date(ms: u64) -> [u8; 16] {
    let civil = Civil::of(ms.min(LAST_MS) / MS_PER_SECOND);
    let mut out = *b"00000000T000000Z";
    write_digits(&mut out[..4], civil.year);
    write_digits(&mut out[4..6], civil.month);
    write_digits(&mut out[6..8], civil.day);
    write_digits(&mut out[9..11], civil.hour);
    write_digits(&mut out[11..13], civil.minute);
    write_digits(&mut out[13..15], civil.second);
    out
}

/// Milliseconds since 1970 of `20261122T100000Z`; `None` for anything else.
pub fn parse_amz_date(value: &str) -> Option<u64> {
    let bytes: &[u8; 16] = value.as_bytes().try_into().ok()?;
    if bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    Civil {
        year: digits(&bytes[..4])?,
        month: digits(&bytes[4..6])?,
        day: digits(&bytes[6..8])?,
        hour: digits(&bytes[9..11])?,
        minute: digits(&bytes[11..13])?,
        second: digits(&bytes[13..15])?,
    }
    .ms()
}

/// Milliseconds since 1970 of a date in any of the three forms that HTTP knows: IMF-fixdate, RFC 850
/// and asctime. `None` for anything else and for dates before 1970.
///
/// A two-digit year counts as 1970 to 2069: there is no clock here to compare with.
pub fn parse_http_date(value: &str) -> Option<u64> {
    let (weekday, rest) = value.split_at_checked(3)?;
    if !WEEKDAYS.iter().any(|&name| name == weekday.as_bytes()) {
        return None;
    }
    match rest.strip_prefix(", ") {
        Some(fixed) => imf_fixdate(fixed.as_bytes()),
        None if rest.starts_with(' ') => asctime(rest.as_bytes()),
        None => {
            let (weekday, rest) = value.split_once(", ")?;
            WEEKDAYS_LONG
                .contains(&weekday)
                .then(|| rfc_850(rest.as_bytes()))?
        }
    }
}

/// `22 Nov 2026 10:00:00 GMT`
fn imf_fixdate(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; 24] = bytes.try_into().ok()?;
    if bytes[2] != b' ' || bytes[6] != b' ' || bytes[11] != b' ' || &bytes[20..] != b" GMT" {
        return None;
    }
    at(
        digits(&bytes[7..11])?,
        month(&bytes[3..6])?,
        digits(&bytes[..2])?,
        &bytes[12..20],
    )
}

/// `22-Nov-26 10:00:00 GMT`
fn rfc_850(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; 22] = bytes.try_into().ok()?;
    if bytes[2] != b'-' || bytes[6] != b'-' || bytes[9] != b' ' || &bytes[18..] != b" GMT" {
        return None;
    }
    let year = match digits(&bytes[7..9])? {
        year @ 70.. => 1900 + year,
        year => 2000 + year,
    };
    at(
        year,
        month(&bytes[3..6])?,
        digits(&bytes[..2])?,
        &bytes[10..18],
    )
}

/// ` Nov 22 10:00:00 2026`, days below ten with a space.
fn asctime(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; 21] = bytes.try_into().ok()?;
    if bytes[4] != b' ' || bytes[7] != b' ' || bytes[16] != b' ' {
        return None;
    }
    let day = if bytes[5] == b' ' {
        digits(&bytes[6..7])?
    } else {
        digits(&bytes[5..7])?
    };
    at(
        digits(&bytes[17..])?,
        month(&bytes[1..4])?,
        day,
        &bytes[8..16],
    )
}

/// With a time of day like `10:00:00`.
fn at(year: u32, month: u32, day: u32, time: &[u8]) -> Option<u64> {
    if time[2] != b':' || time[5] != b':' {
        return None;
    }
    Civil {
        year,
        month,
        day,
        hour: digits(&time[..2])?,
        minute: digits(&time[3..5])?,
        second: digits(&time[6..8])?,
    }
    .ms()
}

fn month(name: &[u8]) -> Option<u32> {
    let index = MONTHS.iter().position(|&month| month == name)?;
    Some(index as u32 + 1)
}

fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u32::from(byte - b'0'))
    })
}

fn write_digits(out: &mut [u8], mut number: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_forms_of_rfc_9110_mean_the_same_time() {
        let expected = Some(784_111_777_000);
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), expected);
        assert_eq!(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT"), expected);
        assert_eq!(parse_http_date("Sun Nov  6 08:49:37 1994"), expected);
        assert_eq!(
            &http_date(784_111_777_999),
            b"Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }

    #[test]
    fn known_times_are_written_as_s3_writes_them() {
        assert_eq!(&iso_8601(784_111_777_042), b"1994-11-06T08:49:37.042Z");
        assert_eq!(&amz_date(784_111_777_042), b"19941106T084937Z");
        assert_eq!(&iso_8601(951_782_400_000), b"2000-02-29T00:00:00.000Z");
        assert_eq!(&iso_8601(u64::MAX), b"9999-12-31T23:59:59.999Z");
        assert_eq!(&http_date(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn days_and_times_that_do_not_exist_are_no_dates() {
        for date in [
            "20230229T000000Z",
            "20240230T000000Z",
            "20241301T000000Z",
            "20240001T000000Z",
            "20240100T000000Z",
            "20240101T240000Z",
            "20240101T006000Z",
            "20240101T000061Z",
            "19691231T235959Z",
            "20240101t000000Z",
            "20240101T000000",
            "+0240101T000000Z",
            "",
        ] {
            assert_eq!(parse_amz_date(date), None, "{date}");
        }
        for date in [
            "Sun, 31 Feb 2021 00:00:00 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun",
            "0",
            "\u{e9}\u{e9}",
        ] {
            assert_eq!(parse_http_date(date), None, "{date}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ms in 0..=LAST_MS) {
            let second = ms / 1_000 * 1_000;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("ASCII");
            prop_assert_eq!(parse_http_date(&text(&http_date(ms))), Some(second));
            prop_assert_eq!(parse_amz_date(&text(&amz_date(ms))), Some(second));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            let _ = parse_http_date(&text);
            let _ = parse_amz_date(&text);
        }
    }
}
