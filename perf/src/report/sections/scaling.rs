//! Scaling runs: what was measured, what linear would be, and the Universal Scalability Law.

use maud::{Markup, html};

use super::{Section, cell, doubts, spread_cell};
use crate::report::chart::axis::Axis;
use crate::report::chart::figure;
use crate::report::chart::lines::{Datum, Group, Line, LineChart, Stroke};
use crate::report::number::{self, percent, rate, short_rate, whole};
use crate::report::rounds::{Placed, spread};
use crate::report::{Report, Source};
use crate::run::answers::{ScaleAnswer, ScaleStep, Usl};

/// Places of the fitted curve.
const FIT_PLACES: u32 = 64;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let scalings: Vec<_> = report
        .runs
        .iter()
        .enumerate()
        .filter_map(|(run, source)| Some((run, source, source.run.scale.as_ref()?)))
        .collect();
    if scalings.is_empty() {
        return None;
    }
    let body =
        html! { @for (run, source, answer) in &scalings { (scaling(*run, source, answer)) } };
    Some(Section {
        id: "scaling",
        title: "Scaling",
        body,
    })
}

fn scaling(run: usize, source: &Source, answer: &ScaleAnswer) -> Markup {
    let chart = chart(source, answer);
    html! {
        h3 { (source.run.name) }
        @if let Some(last) = answer.steps.last() {
            p class="answer" {
                strong { (percent(last.efficiency)) " %" } " efficiency at " (last.count) " " (answer.of) " by rate, "
                strong { (percent(last.cpu_efficiency)) " %" } " by CPU."
            }
        }
        @match &answer.usl { Some(usl) => (fit(usl, &answer.of)), None => p class="note" { "Too few steps for a fit of rates, or an open loop." } }
        @if let Some(usl) = &answer.usl_by_cpu { p class="note" { "With a CPU of its own for each of the " (answer.of) ", by the CPU of an operation:" } (fit(usl, &answer.of)) }
        @for note in &answer.notes { p class="note" { (note) } }
        @if !chart.is_empty() {
            (figure::lines(&format!("scaling-{}", run + 1), &chart, html! {
                "Rings are single rounds. Linear is the first step’s rate times the count over its own."
            }, html! {}))
        }
        (table(run, source, answer))
    }
}

fn fit(usl: &Usl, of: &str) -> Markup {
    html! {
        p {
            "Universal Scalability Law: contention σ = " (coefficient(usl.contention)) " (the share of the work that is serial), coherency κ = "
            (coefficient(usl.coherency)) " (the cost of keeping a pair in step), " (rate(usl.rate)) " for one; the fit is off by "
            (number::figure(usl.relative_error * 100.0)) " % (root mean square). "
            @match usl.peak() {
                Some(peak) => { "By it the rate peaks at " (whole(peak.round() as u64)) " " (of) ", " (rate(usl.rate_at(peak))) ": an extrapolation, as far as it lies beyond what was measured." },
                None => { "By it the rate has no peak." },
            }
        }
    }
}

/// Whole numbers only: there is no half a shard.
fn count(value: f64) -> String {
    if value.fract() == 0.0 {
        short_rate(value)
    } else {
        String::new()
    }
}

/// Small, and of interest to the last digit that the fit can tell.
fn coefficient(value: f64) -> String {
    format!("{value:.5}").replace('-', "\u{2212}")
}

fn chart(source: &Source, answer: &ScaleAnswer) -> LineChart {
    let most = answer
        .steps
        .iter()
        .map(|step| f64::from(step.count))
        .fold(0.0, f64::max);
    let datum = |x: f64, y: f64| Datum {
        x,
        y,
        text: format!("{} at {}", rate(y), short_rate(x)),
        is_failure: false,
    };
    let line = |stroke, has_marks, data| Line {
        name: String::new(),
        stroke,
        has_marks,
        data,
    };
    let group = |label: &str, lines| Group {
        label: label.to_owned(),
        is_shown: true,
        lines,
    };
    let measured = answer
        .steps
        .iter()
        .map(|step| datum(f64::from(step.count), step.rate))
        .collect();
    let single = answer.steps.iter().flat_map(|step| {
        rounds(source, step).map(move |point| datum(f64::from(step.count), point.point.rate))
    });
    let mut groups = vec![group(
        "measured",
        vec![
            line(Stroke::Solid, true, measured),
            Line {
                name: "single round".to_owned(),
                ..line(Stroke::None, true, single.collect())
            },
        ],
    )];
    if let Some(first) = answer.steps.first().filter(|step| step.count > 0) {
        let each = first.rate / f64::from(first.count);
        let ends = [f64::from(first.count), most].map(|n| datum(n, n * each));
        groups.push(group(
            "linear",
            vec![line(Stroke::Dashed, false, ends.into())],
        ));
    }
    if let Some(usl) = &answer.usl {
        let places = (0..=FIT_PLACES).map(|place| {
            let n = 1.0 + (most - 1.0).max(0.0) * f64::from(place) / f64::from(FIT_PLACES);
            datum(n, usl.rate_at(n))
        });
        groups.push(group(
            "Universal Scalability Law",
            vec![line(Stroke::Dashed, false, places.collect())],
        ));
    }
    let greatest = groups
        .iter()
        .flat_map(|group| &group.lines)
        .flat_map(|line| &line.data);
    let greatest = greatest
        .map(|datum| datum.y)
        .filter(|y| y.is_finite())
        .fold(0.0, f64::max);
    LineChart {
        title: format!("{}: rate over the number of {}", source.run.name, answer.of),
        x: Axis::linear_to("how many", most, count),
        y: vec![Axis::linear("operations a second", greatest, short_rate)],
        groups,
        bounds: Vec::new(),
    }
}

/// The points of a step that are there.
fn rounds<'a>(source: &'a Source, step: &ScaleStep) -> impl Iterator<Item = Placed<'a>> {
    let points = step.points.iter().filter_map(|index| {
        let point = source.run.points.get(*index)?;
        Some(Placed {
            run: 0,
            index: *index,
            point,
        })
    });
    points.collect::<Vec<_>>().into_iter()
}

fn table(run: usize, source: &Source, answer: &ScaleAnswer) -> Markup {
    html! {
        div class="table" { table {
            thead { tr {
                th class="n" { (answer.of) } th class="n" { "Rounds" } th class="n" { "Rate" small { "1/s, median" } } th class="n" { "Spread" small { "1/s" } }
                th class="n" { "Efficiency" small { "% by rate" } } th class="n" { "CPU" small { "µs an operation" } } th class="n" { "Efficiency" small { "% by CPU" } }
                th class="n" { "Fit" small { "1/s" } }
            } }
            tbody { @for step in &answer.steps {
                @let rounds: Vec<_> = rounds(source, step).map(|placed| Placed { run, ..placed }).collect();
                @let rates: Vec<f64> = rounds.iter().map(|placed| placed.point.rate).collect();
                tr {
                    th class="n" { (step.count) (doubts(&rounds)) }
                    td class="n" { (step.points.len()) }
                    (cell(Some(step.rate), number::figure)) (spread_cell(spread(&rates), number::figure))
                    (cell(Some(step.efficiency), percent)) (cell(Some(step.cpu_us_per_operation), number::figure)) (cell(Some(step.cpu_efficiency), percent))
                    (cell(answer.usl.as_ref().map(|usl| usl.rate_at(f64::from(step.count))), number::figure))
                }
            } }
        } }
    }
}
