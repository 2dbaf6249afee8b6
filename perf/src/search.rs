//! The search for the highest sustainable rate: double until the offered load is missed or the
//! latency bound breaks, then bisect.
//!
//! The answer is a rate, the bound, and the curve that led there. The invariant: every tried rate
//! is in the curve, with what was had and why it failed, so that a reader can doubt the answer.

use crate::load::interrupt;
use crate::run::Point;
use crate::run::answers::{LatencyBound, SearchAnswer, SearchStep};

/// Halvings below the first rate before the search gives up: a thousandth of it.
const HALVINGS_MAX: u32 = 10;

/// Doublings above the first rate: a billion times it is no rate of this world.
const DOUBLINGS_MAX: u32 = 30;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What has to hold.
    pub bound: LatencyBound,
    /// The first rate, in operations a second.
    pub start: f64,
    /// Ends when the lowest failure is at most this much above the highest success, relatively.
    pub precision: f64,
}

impl LatencyBound {
    /// The bounded quantile of `point`, in microseconds.
    pub fn latency_us(&self, point: &Point) -> f64 {
        point.latency.histogram().value_at_quantile(self.quantile) as f64 / 1e3
    }
}

/// Why `point` fails `bound`; none when it holds.
fn failure(point: &Point, bound: &LatencyBound) -> Option<String> {
    let offered = point.arrivals.per_second().unwrap_or(0.0);
    if point.wrong > 0 {
        return Some(format!("{} answers were wrong", point.wrong));
    }
    if point.errors > 0 {
        let first = point.first_error.as_deref().unwrap_or("no text");
        return Some(format!("{} reads failed: {first}", point.errors));
    }
    if point.is_overrun {
        return Some("more was due than was taken: the backlog passed its bound".to_owned());
    }
    if point.keeps_offered_rate() == Some(false) {
        return Some(format!(
            "{:.1} % of the offered rate was had, {} operations did not end",
            100.0 * point.rate / offered.max(1e-9),
            point.unfinished
        ));
    }
    let latency = bound.latency_us(point);
    (latency > bound.us).then(|| format!("latency {latency:.0} µs is over {:.0} µs", bound.us))
}

/// Searches; `take` measures one offered rate. Ends early, with what there is, after Ctrl-C.
///
/// # Errors
/// The first error of `take`.
pub fn run(
    options: &Options,
    mut take: impl FnMut(f64) -> Result<Point, String>,
) -> Result<(SearchAnswer, Vec<Point>), String> {
    let mut points = Vec::new();
    let mut curve = Vec::new();
    let mut holds = |offered: f64| -> Result<bool, String> {
        let mut point = take(offered)?;
        let mut reason = failure(&point, &options.bound);
        // Once more: one hiccup of the machine would end the doubling far too low.
        if reason.is_some() && !interrupt::is_set() {
            point = take(offered)?;
            reason = failure(&point, &options.bound);
        }
        curve.push(SearchStep {
            point: points.len(),
            offered,
            achieved: point.rate,
            latency_us: options.bound.latency_us(&point),
            holds: reason.is_none(),
            reason,
        });
        points.push(point);
        Ok(curve.last().expect("just pushed").holds)
    };
    let mut good = None;
    let mut bad = None;
    let mut rate = options.start;
    let mut steps = 0;
    // Up to the first failure, or down to the first success.
    while !interrupt::is_set() && (good.is_none() || bad.is_none()) && steps < DOUBLINGS_MAX {
        steps += 1;
        if holds(rate)? {
            good = Some(rate);
            rate *= 2.0;
        } else {
            bad = Some(rate);
            rate /= 2.0;
            if good.is_none() && steps > HALVINGS_MAX {
                break;
            }
        }
    }
    while let (Some(low), Some(high)) = (good, bad)
        && high > low * (1.0 + options.precision)
        && !interrupt::is_set()
    {
        let middle = (low + high) / 2.0;
        if holds(middle)? {
            good = Some(middle);
        } else {
            bad = Some(middle);
        }
    }
    let answer = SearchAnswer {
        bound: options.bound,
        highest_rate: good,
        lowest_failure: bad,
        curve,
    };
    Ok((answer, points))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::{LoadResult, new_histogram};
    use crate::run::Latencies;
    use crate::run::point::Arrivals;
    use crate::{load::LoadSpec, target, workload::Workload};
    use std::time::Duration;

    /// A point at `offered` of which `rate` was had and whose latencies all are `us`.
    pub(crate) fn point(offered: f64, rate: f64, us: u64) -> Point {
        let spec = LoadSpec {
            target: target::parse("file:///tmp", &target::TargetOptions::default())
                .expect("a target"),
            workload: Workload::load("uniform-4k").expect("it comes along"),
            paths: Vec::new(),
            arrivals: Arrivals::Poisson {
                per_second: offered,
            },
            connections: 1,
            depth: 1,
            verify: crate::load::Verify::None,
            warm_up: Duration::ZERO,
            measured: Duration::from_secs(1),
            spin: Duration::ZERO,
            cores: Vec::new(),
            seed: 1,
        };
        let mut histogram = new_histogram();
        histogram.saturating_record_n(us * 1000, 1000);
        Point {
            rate,
            latency: Latencies::of(&histogram),
            ..Point::of("model", &spec, &LoadResult::new())
        }
    }

    fn options() -> Options {
        Options {
            bound: LatencyBound {
                quantile: 0.99,
                us: 1000.0,
            },
            start: 1000.0,
            precision: 0.02,
        }
    }

    #[test]
    fn the_rate_is_found_where_the_latency_breaks() {
        // Latency of a queue: 100 µs over the free share of a capacity of 50,000.
        let take = |rate: f64| {
            Ok(point(
                rate,
                rate,
                (100.0 / (1.0 - rate / 50_000.0).max(0.01)) as u64,
            ))
        };
        let (answer, points) = run(&options(), take).expect("the model does not fail");
        let highest = answer.highest_rate.expect("low rates hold");
        // 100 / (1 - x) = 1000 at x = 0.9.
        assert!((44_000.0..=45_100.0).contains(&highest), "{highest}");
        assert!(answer.lowest_failure.expect("high rates fail") <= highest * 1.02);
        assert_eq!(answer.curve.len(), points.len());
        assert!(answer.curve.iter().any(|step| {
            step.reason
                .as_deref()
                .is_some_and(|reason| reason.contains("µs is over"))
        }));
    }

    #[test]
    fn a_missed_rate_fails_whatever_the_latency_and_a_first_rate_may_be_too_high() {
        let take = |rate: f64| Ok(point(rate, rate.min(120.0), 1));
        let (answer, _) = run(&options(), take).expect("the model does not fail");
        let highest = answer.highest_rate.expect("low rates hold");
        assert!((117.0..=121.3).contains(&highest), "{highest}");
    }

    #[test]
    fn one_hiccup_does_not_end_the_search() {
        let mut calls = 0;
        let take = |rate: f64| {
            calls += 1;
            let us = if calls == 2 || rate > 50_000.0 {
                9_000
            } else {
                10
            };
            Ok(point(rate, rate, us))
        };
        let (answer, _) = run(&options(), take).expect("the model does not fail");
        assert!(answer.highest_rate.is_some_and(|rate| rate > 48_000.0));
    }

    #[test]
    fn where_nothing_holds_there_is_no_rate() {
        let (answer, points) = run(&options(), |rate| Ok(point(rate, rate, 5_000))).expect("runs");
        assert_eq!(answer.highest_rate, None);
        assert!(answer.lowest_failure.is_some_and(|rate| rate < 1.0));
        assert_eq!(points.len(), HALVINGS_MAX as usize + 1);
    }
}
