//! Latencies by percentile, from whole histograms: one series a point, and in an open loop what a
//! harness that omits the wait would have shown beside what callers would have seen.

use maud::{Markup, html};

use super::{Section, cell, doubts};
use crate::report::Report;
use crate::report::chart::axis::{Axis, quantile_name};
use crate::report::chart::figure;
use crate::report::chart::lines::{Datum, Group, Line, LineChart, Stroke};
use crate::report::number::{self, latency, whole};
use crate::report::rounds::{self, Rounds};
use crate::run::Latencies;

/// Series that are shown before anybody chose: more would be a thicket.
const SHOWN_MAX: usize = 6;

/// Places of a curve on each tenfold.
const PLACES_PER_DECADE: i32 = 16;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let plots = plots(report);
    if plots.is_empty() {
        return None;
    }
    let body = html! {
        @for (index, plot) in plots.iter().enumerate() { (plot.draw(report, index)) }
    };
    Some(Section {
        id: "percentiles",
        title: "Latency by percentile",
        body,
    })
}

/// What is drawn in one chart.
struct Plot<'a> {
    title: String,
    is_open: bool,
    rounds: Vec<Rounds<'a>>,
}

/// Searches and scalings have a chart for each run; other points one for each workload, open and
/// closed loops apart, since their latencies are not the same thing.
fn plots<'a>(report: &Report<'a>) -> Vec<Plot<'a>> {
    let measured = rounds::points(report.runs).filter(|placed| placed.point.latency.count > 0);
    let mut plots: Vec<Plot<'_>> = Vec::new();
    for rounds in rounds::within_runs(measured) {
        let run = &report.runs[rounds.points[0].run].run;
        let is_open = rounds.offered.is_some();
        let of = if run.search.is_some() || run.scale.is_some() {
            format!("{}, {}", run.name, rounds.key.workload)
        } else {
            rounds.key.workload.to_owned()
        };
        let title = if is_open {
            format!("{of}, open loop")
        } else {
            format!("{of}, closed loop")
        };
        match plots.iter_mut().find(|plot| plot.title == title) {
            Some(plot) => plot.rounds.push(rounds),
            None => plots.push(Plot {
                title,
                is_open,
                rounds: vec![rounds],
            }),
        }
    }
    plots
}

impl Plot<'_> {
    fn draw(&self, report: &Report<'_>, index: usize) -> Markup {
        let names = rounds::names(&self.rounds, report.runs);
        let shown = self.shown(report);
        let groups: Vec<Group> = names
            .iter()
            .zip(&self.rounds)
            .zip(shown)
            .map(|((name, rounds), is_shown)| group(name, rounds, is_shown))
            .collect();
        let data = || {
            groups
                .iter()
                .flat_map(|group| &group.lines)
                .flat_map(|line| &line.data)
        };
        let heights = || data().map(|datum| datum.y).filter(|us| *us > 0.0);
        let (least, most) = (
            heights().fold(f64::INFINITY, f64::min),
            heights().fold(0.0, f64::max),
        );
        let chart = LineChart {
            title: self.title.clone(),
            x: Axis::quantiles(
                if self.is_open {
                    "percentile of operations"
                } else {
                    "percentile of operations (service time)"
                },
                data().map(|datum| datum.x).fold(0.0, f64::max),
            ),
            y: vec![
                Axis::log("latency", least, most, latency),
                Axis::linear("latency", most, latency),
            ],
            groups,
            bounds: Vec::new(),
        };
        let note = html! {
            @if self.is_open {
                "Full lines count from the intended arrival, as a caller would; dashed ones from the send, as a harness that omits the wait "
                "would. Where they part, requests queued before they were sent. "
            } @else {
                "A closed loop sends when an answer came, so these are service times: a stall delays what follows instead of showing in it. "
            }
            "Each line ends at its largest sample."
            @if self.rounds.iter().any(|rounds| rounds.points.len() > 1) { " Rounds of one load share a colour, a line each." }
        };
        figure::lines(
            &format!("percentiles-{}", index + 1),
            &chart,
            note,
            self.table(&names),
        )
    }

    /// Of a search: the lowest rate, the answer and the lowest that failed. Else the first few.
    fn shown(&self, report: &Report<'_>) -> Vec<bool> {
        let search = report.runs[self.rounds[0].points[0].run]
            .run
            .search
            .as_ref();
        let telling = search.map(|answer| {
            let lowest = self
                .rounds
                .iter()
                .filter_map(|rounds| rounds.offered)
                .min_by(f64::total_cmp);
            [lowest, answer.highest_rate, answer.lowest_failure]
        });
        let is_shown = |(index, rounds): (usize, &Rounds<'_>)| match telling {
            Some(telling) => telling.contains(&rounds.offered),
            None => index < SHOWN_MAX,
        };
        let shown: Vec<bool> = self.rounds.iter().enumerate().map(is_shown).collect();
        if shown.contains(&true) {
            shown
        } else {
            vec![true; shown.len()]
        }
    }

    fn table(&self, names: &[String]) -> Markup {
        html! {
            div class="table" { table {
                caption { "Latencies in µs" }
                thead { tr {
                    th { "Point" } @if self.is_open { th { "Counted from" } }
                    th class="n" { "Samples" } th class="n" { "Mean" } th class="n" { "p50" } th class="n" { "p90" } th class="n" { "p99" }
                    th class="n" { "p99.9" } th class="n" { "p99.99" } th class="n" { "Largest" }
                } }
                tbody { @for (name, rounds) in names.iter().zip(&self.rounds) { @for placed in &rounds.points {
                    tr { th class="name" { (name) (doubts(&[*placed])) } @if self.is_open { td { "arrival" } } (cells(&placed.point.latency)) }
                    @if self.is_open { tr { th {} td { "send" } (cells(&placed.point.service)) } }
                } } }
            } }
        }
    }
}

fn cells(latency: &Latencies) -> Markup {
    let us = [
        latency.mean_us,
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p999_us,
        latency.p9999_us,
        latency.max_us,
    ];
    html! { td class="n" { (whole(latency.count)) } @for us in us { (cell(Some(us), number::figure)) } }
}

fn group(name: &str, rounds: &Rounds<'_>, is_shown: bool) -> Group {
    let is_open = rounds.offered.is_some();
    let several = rounds.points.len() > 1;
    let mut lines = Vec::new();
    for (index, placed) in rounds.points.iter().enumerate() {
        let round = if several {
            format!("round {}", index + 1)
        } else {
            String::new()
        };
        let line = |what: &str, latencies, stroke| Line {
            name: [round.as_str(), what]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(", "),
            stroke,
            has_marks: false,
            data: curve(latencies),
        };
        lines.push(line(
            if is_open { "from arrival" } else { "" },
            &placed.point.latency,
            Stroke::Solid,
        ));
        if is_open {
            lines.push(line("from send", &placed.point.service, Stroke::Dashed));
        }
    }
    Group {
        label: name.to_owned(),
        is_shown,
        lines,
    }
}

/// `1 / (1 - quantile)` and the latency there, from the counts.
fn curve(latencies: &Latencies) -> Vec<Datum> {
    let mut buckets = latencies.buckets_ns.clone();
    buckets.sort_unstable();
    let samples: u128 = buckets.iter().map(|(_, count)| u128::from(*count)).sum();
    if samples == 0 {
        return Vec::new();
    }
    let last = samples as f64;
    let mut places: Vec<f64> = (0..=40 * PLACES_PER_DECADE)
        .map(|place| 10f64.powf(f64::from(place) / f64::from(PLACES_PER_DECADE)))
        .chain([2.0])
        .filter(|place| *place < last)
        .chain([last])
        .collect();
    places.sort_by(f64::total_cmp);
    let mut data = Vec::with_capacity(places.len());
    let mut steps = buckets.iter();
    let (mut seen, mut value) = (0u128, 0u64);
    for x in places {
        let quantile = 1.0 - 1.0 / x;
        let wanted = (quantile * last - 1e-6).ceil().max(1.0) as u128;
        let wanted = if x == last {
            samples
        } else {
            wanted.min(samples)
        };
        while seen < wanted {
            let Some((ns, count)) = steps.next() else {
                break;
            };
            seen += u128::from(*count);
            value = *ns;
        }
        let us = value as f64 / 1e3;
        let name = if x == last {
            "largest".to_owned()
        } else {
            quantile_name(quantile)
        };
        data.push(Datum {
            x,
            y: us,
            text: format!("{name} {}", latency(us)),
            is_failure: false,
        });
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    #[test]
    fn the_curve_is_that_of_the_histogram() {
        let latencies = fixtures::latencies(50.0, 2.0, 100_000);
        let histogram = latencies.histogram();
        let curve = curve(&latencies);
        assert!(
            curve.len() > 60
                && curve.is_sorted_by(|left, right| left.x < right.x && left.y <= right.y)
        );
        for datum in &curve[..curve.len() - 1] {
            let us = histogram.value_at_quantile(1.0 - 1.0 / datum.x) as f64 / 1e3;
            assert!(
                (datum.y / us - 1.0).abs() < 0.002,
                "{} at {}: {us}",
                datum.y,
                datum.x
            );
        }
        assert_eq!(curve.last().map(|datum| datum.y), Some(latencies.max_us));
    }

    #[test]
    fn absurd_counts_are_borne() {
        let latencies = Latencies {
            count: 3,
            buckets_ns: vec![(u64::MAX, u64::MAX), (1, u64::MAX), (0, 0)],
            ..Latencies::default()
        };
        assert!(curve(&latencies).iter().all(|datum| datum.y.is_finite()));
        assert!(curve(&Latencies::default()).is_empty());
    }

    #[test]
    fn a_search_shows_the_steps_that_tell() {
        let sources = [fixtures::source(fixtures::search())];
        let report = Report {
            title: "",
            runs: &sources,
            against: &[],
        };
        let plot = &plots(&report)[0];
        let shown = plot.shown(&report);
        assert_eq!(shown.iter().filter(|shown| **shown).count(), 3);
    }
}
