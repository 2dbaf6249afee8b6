//! Rounds: points that were taken alike, so that their differences are the noise.
//!
//! The invariant: points of two runs are never rounds of each other within one report, where two
//! runs may be two builds; only `--against` takes each of its two sides together.

use std::collections::BTreeMap;

use super::number;
use super::source::{Source, arrivals_of};
use crate::run::Point;
use crate::run::point::{Arrivals, ServerCost};

/// What points have to share to be compared, the offered rate apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key<'a> {
    /// See [`Point`], as the others.
    pub label: &'a str,
    pub target: &'a str,
    pub workload: &'a str,
    pub arrivals: &'static str,
    pub connections: u32,
    pub depth: u32,
}

impl<'a> Key<'a> {
    /// Of a point.
    pub fn of(point: &'a Point) -> Key<'a> {
        Key {
            label: &point.label,
            target: &point.target,
            workload: &point.workload,
            arrivals: match point.arrivals {
                Arrivals::Closed => "closed",
                Arrivals::Constant { .. } => "constant",
                Arrivals::Poisson { .. } => "Poisson",
            },
            connections: point.connections,
            depth: point.depth,
        }
    }
}

/// A point and where it is: index of its run in the report, and in the run's points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub run: usize,
    pub index: usize,
    pub point: &'a Point,
}

/// Points of one key and one offered rate, in the order of measuring; at least one.
#[derive(Clone, Debug)]
pub(super) struct Rounds<'a> {
    pub key: Key<'a>,
    pub offered: Option<f64>,
    pub points: Vec<Placed<'a>>,
}

impl<'a> Rounds<'a> {
    /// The first point.
    pub fn first(&self) -> &'a Point {
        self.points[0].point
    }

    /// A figure of each round that has it.
    pub fn values(&self, figure: impl Fn(&Point) -> Option<f64>) -> Vec<f64> {
        let figures = self.points.iter().map(|placed| figure(placed.point));
        figures.flatten().collect()
    }

    /// The median of a figure over the rounds that have it.
    pub fn median(&self, figure: impl Fn(&Point) -> Option<f64>) -> Option<f64> {
        number::median(&self.values(figure))
    }

    /// Least and greatest of a figure, where there are several.
    pub fn spread(&self, figure: impl Fn(&Point) -> Option<f64>) -> Option<[f64; 2]> {
        spread(&self.values(figure))
    }

    /// The median of a server's figure.
    pub fn cost(&self, figure: impl Fn(&ServerCost) -> f64) -> Option<f64> {
        self.median(|point| point.server.as_ref().map(&figure))
    }
}

/// Least and greatest, where there are several.
pub(super) fn spread(values: &[f64]) -> Option<[f64; 2]> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    (values.len() > 1).then_some([least, most])
}

/// All points of a report.
pub(super) fn points(sources: &[Source]) -> impl Iterator<Item = Placed<'_>> {
    let runs = sources.iter().enumerate();
    runs.flat_map(|(run, source)| {
        let points = source.run.points.iter().enumerate();
        points.map(move |(index, point)| Placed { run, index, point })
    })
}

/// Points as rounds within their runs, in the order of their first.
pub(super) fn within_runs<'a>(points: impl Iterator<Item = Placed<'a>>) -> Vec<Rounds<'a>> {
    gather(points, |rounds: &Rounds, placed| {
        rounds.points[0].run == placed.run
    })
}

/// Points as rounds whatever run they are of.
pub(super) fn across_runs<'a>(points: impl Iterator<Item = Placed<'a>>) -> Vec<Rounds<'a>> {
    gather(points, |_, _| true)
}

fn gather<'a>(
    points: impl Iterator<Item = Placed<'a>>,
    belongs: impl Fn(&Rounds<'a>, &Placed<'a>) -> bool,
) -> Vec<Rounds<'a>> {
    let mut all: Vec<Rounds<'a>> = Vec::new();
    for placed in points {
        let key = Key::of(placed.point);
        let offered = placed.point.arrivals.per_second();
        let found = all.iter_mut().find(|rounds| {
            rounds.key == key && rounds.offered == offered && belongs(rounds, &placed)
        });
        match found {
            Some(rounds) => rounds.points.push(placed),
            None => all.push(Rounds {
                key,
                offered,
                points: vec![placed],
            }),
        }
    }
    all
}

/// A name for each of `all`: its label, and of arrivals, connections, depth and run what tells it
/// from the others.
pub(super) fn names(all: &[Rounds<'_>], sources: &[Source]) -> Vec<String> {
    let differ = |part: &dyn Fn(&Rounds<'_>) -> String| {
        let first = all.first().map(part);
        all.iter().any(|rounds| Some(part(rounds)) != first)
    };
    let arrivals = |rounds: &Rounds<'_>| arrivals_of(rounds.first());
    let workload = |rounds: &Rounds<'_>| rounds.key.workload.to_owned();
    let in_flight =
        |rounds: &Rounds<'_>| format!("{} × {}", rounds.key.connections, rounds.key.depth);
    let parts: [&dyn Fn(&Rounds<'_>) -> String; 3] = [&workload, &arrivals, &in_flight];
    let parts: Vec<_> = parts.into_iter().filter(|part| differ(*part)).collect();
    let short: Vec<String> = all
        .iter()
        .map(|rounds| {
            let parts = parts.iter().map(|part| part(rounds));
            let all: Vec<String> = std::iter::once(rounds.key.label.to_owned())
                .chain(parts)
                .collect();
            all.join(", ")
        })
        .collect();
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &short {
        *uses.entry(name).or_default() += 1;
    }
    let long = |(name, rounds): (&String, &Rounds<'_>)| {
        if uses[name.as_str()] > 1 {
            format!("{name} ({})", sources[rounds.points[0].run].run.name)
        } else {
            name.clone()
        }
    };
    short.iter().zip(all).map(long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn points_taken_alike_are_rounds_within_a_run_only() {
        let source = fixtures::source(fixtures::load("a", 1.0));
        let sources = [source.clone(), source];
        let count = sources[0].run.points.len();
        let within = within_runs(points(&sources));
        let across = across_runs(points(&sources));
        assert_eq!(within.len(), 2 * across.len());
        let of = |all: &[Rounds<'_>]| all.iter().map(|rounds| rounds.points.len()).sum::<usize>();
        assert_eq!((of(&within), of(&across)), (2 * count, 2 * count));
    }

    #[test]
    fn names_hold_what_tells_points_apart_and_no_more() {
        let source = fixtures::source(fixtures::load("night", 1.0));
        let closed = |placed: &Placed<'_>| placed.point.arrivals == Arrivals::Closed;
        let one = [source.clone()];
        let rounds = within_runs(points(&one).filter(closed));
        assert_eq!(names(&rounds, &one), ["corelane", "redis", "nginx"]);
        let two = [source.clone(), source];
        let rounds = within_runs(points(&two).filter(closed));
        assert_eq!(names(&rounds, &two)[0], "corelane (night)");
        let rounds = within_runs(points(&one));
        assert!(names(&rounds, &one).contains(&"corelane, 200,000/s Poisson".to_owned()));
    }
}
