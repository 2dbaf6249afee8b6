//! Fleets in a model: first how far the model was off where it could be checked.

use maud::{Markup, html};

use super::{Section, cell};
use crate::report::Report;
use crate::report::chart::axis::Axis;
use crate::report::chart::figure;
use crate::report::chart::lines::{Datum, Group, Line, LineChart};
use crate::report::number::{self, change, latency, percent, rate, ratio, short_rate, whole};
use crate::run::answers::{Figures, Scenario, SimulationAnswer, TimelineStep};

/// Name of a figure, and where it is.
type Named = (&'static str, fn(&Figures) -> f64);

/// Name of what is drawn over time, and where it is.
type Series = (&'static str, fn(&TimelineStep) -> f64);

const FIGURES: [Named; 4] = [
    ("rate, 1/s", |figures| figures.rate),
    ("p50, µs", |figures| figures.p50_us),
    ("p99, µs", |figures| figures.p99_us),
    ("p99.9, µs", |figures| figures.p999_us),
];

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let simulations: Vec<_> = report
        .runs
        .iter()
        .enumerate()
        .filter_map(|(run, source)| Some((run, &source.run.name, source.run.simulation.as_ref()?)))
        .collect();
    if simulations.is_empty() {
        return None;
    }
    let body = html! {
        p { "Nothing in this part was measured, except where the table of the model’s check says so." }
        @for (run, name, answer) in &simulations {
            @if simulations.len() > 1 { h3 { (name) } }
            (validation(answer))
            (scenarios(answer))
            @for (index, scenario) in answer.scenarios.iter().enumerate() {
                @if scenario.timeline.len() > 1 { (timeline(&format!("timeline-{}-{}", run + 1, index + 1), scenario)) }
            }
            details {
                summary { "What the model was fed with" }
                pre { (serde_json::to_string_pretty(&answer.inputs).unwrap_or_default()) }
            }
        }
    };
    Some(Section {
        id: "simulation",
        title: "Simulated fleets",
        body,
    })
}

fn off(measured: f64, simulated: f64) -> Option<f64> {
    (measured > 0.0).then(|| simulated / measured - 1.0)
}

fn validation(answer: &SimulationAnswer) -> Markup {
    if answer.validation.is_empty() {
        return html! {
            div class="alarm" role="note" { strong { "Not checked. " } "The model was compared with no measured run: take its figures as guesses." }
        };
    }
    let offs = answer.validation.iter().flat_map(|row| {
        FIGURES.iter().filter_map(|(name, of)| {
            Some((
                off(of(&row.measured), of(&row.simulated))?,
                *name,
                &row.name,
            ))
        })
    });
    let worst = offs.max_by(|left, right| left.0.abs().total_cmp(&right.0.abs()));
    html! {
        h3 { "The model beside what was measured" }
        @if let Some((share, figure, name)) = worst {
            p class="answer" { "At worst off by " strong { (change(share)) } ": " (figure.split(',').next().unwrap_or_default()) " of " (name) "." }
        }
        div class="table" { table {
            thead {
                tr { th rowspan="2" { "Measured" } th class="n" rowspan="2" { "Workers" } th class="n" rowspan="2" { "Offered" small { "1/s" } }
                    @for (name, _) in FIGURES { th class="n" colspan="3" { (name) } } }
                tr { @for _ in FIGURES { th class="n" { "measured" } th class="n" { "model" } th class="n" { "off by" } } }
            }
            tbody { @for row in &answer.validation { tr {
                th class="name" { (row.name) } td class="n" { (row.workers) } (cell(Some(row.offered), number::figure))
                @for (_, of) in FIGURES {
                    (cell(Some(of(&row.measured)), number::figure)) (cell(Some(of(&row.simulated)), number::figure))
                    (cell(off(of(&row.measured), of(&row.simulated)), change))
                }
            } } }
        } }
    }
}

fn scenarios(answer: &SimulationAnswer) -> Markup {
    html! {
        h3 { "Scenarios" }
        div class="table" { table {
            thead { tr {
                th { "Scenario" } th class="n" { "Workers" } th class="n" { "Offered" small { "1/s" } } th class="n" { "Of capacity" small { "%" } }
                @for (name, _) in FIGURES {
                    @let (name, unit) = name.split_once(", ").unwrap_or((name, ""));
                    th class="n" { (name) small { (unit) } }
                }
                th class="n" { "Failures" } th class="n" { "Retries" } th class="n" { "Hedges" } th class="n" { "Busiest" small { "over mean" } } th class="n" { "Moved" small { "% of stripes" } }
            } }
            tbody { @for scenario in &answer.scenarios {
                tr class=[(!scenario.notes.is_empty()).then_some("has-said")] {
                    th { (scenario.name) } td class="n" { (whole(u64::from(scenario.workers))) } (cell(Some(scenario.offered), number::figure))
                    (cell(Some(scenario.utilization), percent))
                    @for (_, of) in FIGURES { (cell(Some(of(&scenario.figures)), number::figure)) }
                    td class="n" { @if scenario.failures > 0 { span class="worse" { (whole(scenario.failures)) } } @else { "0" } }
                    td class="n" { (whole(scenario.retries)) } td class="n" { (whole(scenario.hedges)) }
                    (cell(Some(scenario.busiest_over_mean), ratio)) (cell(scenario.moved_share, percent))
                }
                @if !scenario.notes.is_empty() { tr class="said" { td colspan="13" { small { (scenario.notes.join(" · ")) } } } }
            } }
        } }
    }
}

fn timeline(id: &str, scenario: &Scenario) -> Markup {
    let name = format!(
        "{}, {} workers",
        scenario.name,
        whole(u64::from(scenario.workers))
    );
    let rates = chart(
        format!("{name}: rate over time"),
        scenario,
        &[
            ("rate", |step| step.figures.rate),
            ("failures", |step| step.failures as f64),
        ],
        rate,
        |_, most| vec![Axis::linear("operations a second", most, short_rate)],
    );
    let latencies = chart(
        format!("{name}: latency over time"),
        scenario,
        &[
            ("p50", |step| step.figures.p50_us),
            ("p99", |step| step.figures.p99_us),
            ("p99.9", |step| step.figures.p999_us),
        ],
        latency,
        |least, most| {
            vec![
                Axis::log("latency", least, most, latency),
                Axis::linear("latency", most, latency),
            ]
        },
    );
    let table = html! {
        div class="table" { table {
            thead { tr { th class="n" { "From" small { "ms" } } @for (name, _) in FIGURES { th class="n" { (name) } } th class="n" { "Failures" } } }
            tbody { @for step in &scenario.timeline { tr {
                (cell(Some(step.at_ms), number::figure))
                @for (_, of) in FIGURES { (cell(Some(of(&step.figures)), number::figure)) }
                td class="n" { (whole(step.failures)) }
            } } }
        } }
    };
    html! {
        (figure::lines(&format!("{id}-rate"), &rates, html! { "Failures are operations that failed for good, by the second as well." }, html! {}))
        (figure::lines(&format!("{id}-latency"), &latencies, html! {}, table))
    }
}

fn chart(
    title: String,
    scenario: &Scenario,
    series: &[Series],
    write: fn(f64) -> String,
    y: impl Fn(f64, f64) -> Vec<Axis>,
) -> LineChart {
    let steps = &scenario.timeline;
    let seconds = |step: &TimelineStep| step.at_ms / 1e3;
    let width = match steps.as_slice() {
        [first, second, ..] => seconds(second) - seconds(first),
        _ => 0.0,
    };
    let groups: Vec<Group> = series
        .iter()
        .map(|(name, of)| {
            // Failures are counted in a slice; beside a rate they have to be one.
            let per = if *name == "failures" && width > 0.0 {
                1.0 / width
            } else {
                1.0
            };
            let data = steps.iter().map(|step| Datum {
                x: seconds(step),
                y: of(step) * per,
                text: format!(
                    "{} at {} s",
                    write(of(step) * per),
                    number::seconds(seconds(step))
                ),
                is_failure: false,
            });
            Group {
                label: (*name).to_owned(),
                is_shown: true,
                lines: vec![Line {
                    data: data.collect(),
                    ..Line::default()
                }],
            }
        })
        .collect();
    let heights = || {
        groups
            .iter()
            .flat_map(|group| &group.lines[0].data)
            .map(|datum| datum.y)
            .filter(|y| *y > 0.0)
    };
    let (least, most) = (
        heights().fold(f64::INFINITY, f64::min),
        heights().fold(0.0, f64::max),
    );
    LineChart {
        title,
        x: Axis::linear_to(
            "seconds since the start",
            steps.iter().map(seconds).fold(0.0, f64::max),
            short_rate,
        ),
        y: y(least, most),
        groups,
        bounds: Vec::new(),
    }
}
