//! Searches: latency over rate, the bound, and the answer.

use maud::{Markup, html};

use super::{Section, cell};
use crate::report::chart::axis::{Axis, quantile_name};
use crate::report::chart::figure;
use crate::report::chart::lines::{Bound, Datum, Group, Line, LineChart};
use crate::report::number::{self, latency, rate, short_rate};
use crate::report::source::anchor;
use crate::report::{Report, Source};
use crate::run::answers::{SearchAnswer, SearchStep};
use crate::run::{Latencies, Point};

/// A quantile that is drawn: its name, and where it is.
type Quantile = (&'static str, fn(&Latencies) -> f64);

const QUANTILES: [Quantile; 3] = [
    ("p50", |latency| latency.p50_us),
    ("p99", |latency| latency.p99_us),
    ("p99.9", |latency| latency.p999_us),
];

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let searches: Vec<_> = report
        .runs
        .iter()
        .enumerate()
        .filter_map(|(run, source)| Some((run, source, source.run.search.as_ref()?)))
        .collect();
    if searches.is_empty() {
        return None;
    }
    let body = html! {
        @if searches.len() > 1 { (side_by_side(&searches)) }
        @for (run, source, answer) in &searches { (search(*run, source, answer)) }
    };
    Some(Section {
        id: "search",
        title: "Highest sustainable rate",
        body,
    })
}

/// The steps by offered rate, with their points where they have them.
fn steps<'a>(
    source: &'a Source,
    answer: &'a SearchAnswer,
) -> Vec<(&'a SearchStep, Option<&'a Point>)> {
    let mut steps: Vec<_> = answer
        .curve
        .iter()
        .map(|step| (step, source.run.points.get(step.point)))
        .collect();
    steps.sort_by(|left, right| left.0.offered.total_cmp(&right.0.offered));
    steps
}

fn search(run: usize, source: &Source, answer: &SearchAnswer) -> Markup {
    let steps = steps(source, answer);
    let groups: Vec<Group> = QUANTILES
        .iter()
        .map(|(name, of)| {
            let data = steps
                .iter()
                .filter_map(|(step, point)| Some(datum(step, of(&point.as_ref()?.latency))));
            group((*name).to_owned(), data.collect())
        })
        .collect();
    let chart = chart(
        format!("{}: latency over the achieved rate", what(source, &steps)),
        groups,
        vec![Bound {
            y: answer.bound.us,
            label: format!(
                "bound: {} ≤ {}",
                quantile_name(answer.bound.quantile),
                latency(answer.bound.us)
            ),
        }],
    );
    html! {
        h3 { (source.run.name) }
        (said(answer))
        @if !chart.is_empty() {
            (figure::lines(&format!("search-{}", run + 1), &chart, html! {
                "Latency counts from the intended arrival. Crosses are rates that did not hold. Lines follow the offered rate, so where the "
                "server is overrun they turn back to what it can do."
            }, table(run, answer, &steps)))
        } @else { (table(run, answer, &steps)) }
    }
}

fn what(source: &Source, steps: &[(&SearchStep, Option<&Point>)]) -> String {
    let point = steps.iter().find_map(|(_, point)| *point);
    point.map_or(source.run.name.clone(), |point| {
        format!("{}, {}", point.label, point.workload)
    })
}

fn said(answer: &SearchAnswer) -> Markup {
    let bound = format!(
        "{} within {}",
        quantile_name(answer.bound.quantile),
        latency(answer.bound.us)
    );
    html! {
        p class="answer" {
            @match answer.highest_rate {
                Some(highest) => { strong { (rate(highest)) } " were kept with " (bound) "." },
                None => { strong { "No tried rate" } " was kept with " (bound) "." },
            }
            @match answer.lowest_failure {
                Some(lowest) => { " The lowest rate that failed is " (rate(lowest)) "." },
                None => { " The search ended before a rate failed: the answer is a lower bound." },
            }
        }
    }
}

fn datum(step: &SearchStep, us: f64) -> Datum {
    let failed = if step.holds { "" } else { ", failed" };
    Datum {
        x: step.achieved,
        y: us,
        text: format!(
            "{} at {} (offered {}){failed}",
            latency(us),
            rate(step.achieved),
            rate(step.offered)
        ),
        is_failure: !step.holds,
    }
}

fn group(label: String, data: Vec<Datum>) -> Group {
    Group {
        label,
        is_shown: true,
        lines: vec![Line {
            has_marks: true,
            data,
            ..Line::default()
        }],
    }
}

fn chart(title: String, groups: Vec<Group>, bounds: Vec<Bound>) -> LineChart {
    let data = || {
        groups
            .iter()
            .flat_map(|group| &group.lines)
            .flat_map(|line| &line.data)
    };
    let heights = || {
        data()
            .map(|datum| datum.y)
            .chain(bounds.iter().map(|bound| bound.y))
            .filter(|us| *us > 0.0)
    };
    let (least, most) = (
        heights().fold(f64::INFINITY, f64::min),
        heights().fold(0.0, f64::max),
    );
    LineChart {
        title,
        x: Axis::linear(
            "achieved rate, operations a second",
            data().map(|datum| datum.x).fold(0.0, f64::max),
            short_rate,
        ),
        y: vec![
            Axis::log("latency", least, most, latency),
            Axis::linear("latency", most, latency),
        ],
        groups,
        bounds,
    }
}

fn table(run: usize, answer: &SearchAnswer, steps: &[(&SearchStep, Option<&Point>)]) -> Markup {
    html! {
        div class="table" { table {
            caption { "Steps by offered rate; latencies in µs" }
            thead { tr {
                th class="n" { "Offered" small { "1/s" } } th class="n" { "Achieved" small { "1/s" } }
                th class="n" { "Bounded: " (quantile_name(answer.bound.quantile)) }
                @for (name, _) in QUANTILES { th class="n" { (name) } }
                th { "Verdict" }
            } }
            tbody { @for (step, point) in steps {
                tr {
                    td class="n" { @match point {
                        Some(_) => a href=(format!("#{}", anchor(run, step.point))) { (number::figure(step.offered)) },
                        None => (number::figure(step.offered)),
                    } }
                    (cell(Some(step.achieved), number::figure))
                    (cell(Some(step.latency_us), number::figure))
                    @for (_, of) in QUANTILES { (cell(point.map(|point| of(&point.latency)), number::figure)) }
                    td {
                        @if step.holds { "holds" } @else { span class="worse" { "failed" } }
                        @if let Some(reason) = &step.reason { ": " (reason) }
                    }
                }
            } }
        } }
    }
}

/// The bounded quantile of all searches in one chart.
fn side_by_side(searches: &[(usize, &Source, &SearchAnswer)]) -> Markup {
    let mut bounds: Vec<Bound> = Vec::new();
    let mut groups = Vec::new();
    for (_, source, answer) in searches {
        let label = format!(
            "bound: {} ≤ {}",
            quantile_name(answer.bound.quantile),
            latency(answer.bound.us)
        );
        if bounds.iter().all(|bound| bound.label != label) {
            bounds.push(Bound {
                y: answer.bound.us,
                label,
            });
        }
        let data = steps(source, answer)
            .into_iter()
            .map(|(step, _)| datum(step, step.latency_us));
        groups.push(group(source.run.name.clone(), data.collect()));
    }
    let chart = chart(
        "All searches: the bounded latency over the achieved rate".to_owned(),
        groups,
        bounds,
    );
    let table = html! {
        div class="table" { table {
            thead { tr { th { "Search" } th { "Bound" } th class="n" { "Kept" small { "1/s" } } th class="n" { "Failed from" small { "1/s" } } } }
            tbody { @for (_, source, answer) in searches { tr {
                th class="name" { (source.run.name) }
                td { (quantile_name(answer.bound.quantile)) " ≤ " (latency(answer.bound.us)) }
                (cell(answer.highest_rate, number::figure)) (cell(answer.lowest_failure, number::figure))
            } } }
        } }
    };
    html! { (figure::lines("searches", &chart, html! { "Each search below has its own chart." }, html! {})) (table) }
}
