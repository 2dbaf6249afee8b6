//! Axes: from values to places, and which values are worth a tick.

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By their logarithm.
    Log,
    /// Of `1 / (1 - quantile)` by its logarithm, as HdrHistogram plots it, so that each further
    /// nine has as much room as the one before; ticks are quantiles.
    Quantile,
}

/// One axis of a chart.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with the unit where the ticks do not have it.
    pub label: &'static str,
    scale: Scale,
    least: f64,
    greatest: f64,
    format: fn(f64) -> String,
}

/// More ticks than this are no help to anybody.
const TICKS_MAX: i32 = 12;

impl Axis {
    /// From zero to a round number at or above `greatest`.
    pub fn linear(label: &'static str, greatest: f64, format: fn(f64) -> String) -> Axis {
        let greatest = if greatest > 0.0 { greatest } else { 1.0 };
        let step = round_step(greatest, 5);
        Axis {
            label,
            scale: Scale::Linear,
            least: 0.0,
            greatest: (greatest / step - 1e-9).ceil() * step,
            format,
        }
    }

    /// From zero to `greatest` itself, for what ends where the data end.
    pub fn linear_to(label: &'static str, greatest: f64, format: fn(f64) -> String) -> Axis {
        Axis {
            greatest: if greatest > 0.0 { greatest } else { 1.0 },
            ..Axis::linear(label, greatest, format)
        }
    }

    /// From the 1, 2 or 5 times a power of ten at or below `least` to the one at or above
    /// `greatest`. Values that are not above zero have no place on it.
    pub fn log(label: &'static str, least: f64, greatest: f64, format: fn(f64) -> String) -> Axis {
        let least = if least > 0.0 && least.is_finite() {
            least
        } else {
            1.0
        };
        let greatest = greatest.max(least);
        let mut bounds = (round_below(least), 1.0 / round_below(1.0 / greatest));
        if bounds.1 <= bounds.0 {
            bounds.1 = bounds.0 * 10.0;
        }
        Axis {
            label,
            scale: Scale::Log,
            least: bounds.0,
            greatest: bounds.1,
            format,
        }
    }

    /// Quantiles up to `1 - 1 / samples`.
    pub fn quantiles(label: &'static str, samples: f64) -> Axis {
        Axis {
            label,
            scale: Scale::Quantile,
            least: 1.0,
            greatest: samples.max(100.0),
            format: |value| quantile_name(1.0 - 1.0 / value),
        }
    }

    /// Its scale.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Where `value` lies, from 0 to 1; none where it has no place.
    pub fn place(&self, value: f64) -> Option<f64> {
        let share = match self.scale {
            Scale::Linear => (value - self.least) / (self.greatest - self.least),
            Scale::Log | Scale::Quantile if value > 0.0 => {
                (value / self.least).ln() / (self.greatest / self.least).ln()
            }
            Scale::Log | Scale::Quantile => return None,
        };
        share.is_finite().then(|| share.clamp(0.0, 1.0))
    }

    /// Ticks and their labels, `room` of them or a few more.
    pub fn ticks(&self, room: usize) -> Vec<(f64, String)> {
        let values = match self.scale {
            Scale::Linear => {
                let step = round_step(self.greatest - self.least, room);
                (0..=TICKS_MAX)
                    .map(|index| f64::from(index) * step)
                    .filter(|value| *value <= self.greatest * (1.0 + 1e-9))
                    .collect()
            }
            Scale::Log => self.log_ticks(room),
            Scale::Quantile => [1.0, 2.0]
                .into_iter()
                .chain((1..=TICKS_MAX).map(|nines| 10f64.powi(nines)))
                .filter(|value| *value <= self.greatest)
                .collect(),
        };
        let label = |value: f64| (value, (self.format)(value));
        values.into_iter().map(label).collect()
    }

    fn log_ticks(&self, room: usize) -> Vec<f64> {
        let decades = (self.greatest / self.least).log10();
        let in_decade: &[f64] = match room as f64 / decades.max(0.1) {
            ticks if ticks >= 2.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let first = self.least.log10().floor() as i32;
        let last = self.greatest.log10().ceil() as i32;
        let stride = ((last - first) / TICKS_MAX + 1).max(1);
        (first..=last)
            .step_by(stride as usize)
            .take(2 * TICKS_MAX as usize)
            .flat_map(|power| in_decade.iter().map(move |digit| digit * 10f64.powi(power)))
            .filter(|value| {
                *value >= self.least * (1.0 - 1e-9) && *value <= self.greatest * (1.0 + 1e-9)
            })
            .collect()
    }
}

/// `p99.9` for 0.999, with as many digits as tell it from 1.
pub fn quantile_name(quantile: f64) -> String {
    let beyond = (1.0 - quantile).max(1e-12);
    let digits = ((-beyond.log10() - 1.0 - 1e-9).ceil().max(0.0)) as usize;
    let text = format!("{:.digits$}", quantile * 100.0);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("p{text}")
}

/// The 1, 2 or 5 times a power of ten that cuts `range` into `parts` or fewer.
fn round_step(range: f64, parts: usize) -> f64 {
    let raw = range / parts.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let digit = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|digit| digit * power >= raw * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

/// The 1, 2 or 5 times a power of ten at or below `value`.
fn round_below(value: f64) -> f64 {
    let power = 10f64.powf((value * (1.0 + 1e-9)).log10().floor());
    let digit = [5.0, 2.0]
        .into_iter()
        .find(|digit| digit * power <= value * (1.0 + 1e-9));
    digit.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::number::latency;

    fn labels(axis: &Axis, room: usize) -> Vec<String> {
        axis.ticks(room).into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = Axis::linear("rate", 430_000.0, crate::report::number::short_rate);
        assert_eq!(
            labels(&axis, 5),
            ["0", "100 k", "200 k", "300 k", "400 k", "500 k"]
        );
        let axis = Axis::log("latency", 23.0, 41_000.0, latency);
        assert_eq!(labels(&axis, 5), ["100 µs", "1 ms", "10 ms"]);
        let axis = Axis::log("latency", 23.0, 180.0, latency);
        assert_eq!(labels(&axis, 6), ["20 µs", "50 µs", "100 µs", "200 µs"]);
        let axis = Axis::quantiles("quantile", 20_000.0);
        assert_eq!(
            labels(&axis, 9),
            ["p0", "p50", "p90", "p99", "p99.9", "p99.99"]
        );
    }

    #[test]
    fn absurd_ranges_still_give_an_axis() {
        for (least, greatest) in [(0.0, 0.0), (1e-300, 1e300), (5.0, 5.0), (-3.0, 2.0)] {
            for axis in [
                Axis::log("", least, greatest, latency),
                Axis::linear("", greatest, latency),
            ] {
                assert!(axis.ticks(5).len() <= 80, "{least} to {greatest}");
                let place = axis.place(greatest.max(1e-300));
                assert!(place.is_none_or(|place| (0.0..=1.0).contains(&place)));
            }
        }
        assert_eq!(Axis::log("", 1.0, 10.0, latency).place(0.0), None);
    }

    #[test]
    fn quantiles_are_named_with_the_digits_that_tell_them_apart() {
        for (quantile, name) in [
            (0.0, "p0"),
            (0.5, "p50"),
            (0.9, "p90"),
            (0.99, "p99"),
            (0.999, "p99.9"),
            (0.9999, "p99.99"),
        ] {
            assert_eq!(quantile_name(quantile), name);
        }
    }
}
