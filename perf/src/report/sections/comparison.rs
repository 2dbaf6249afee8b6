//! What was loaded alike, side by side: rate and CPU, each with the ceiling that limits it.

use maud::{Markup, html};

use super::{Section, cell, doubts, spread_cell};
use crate::report::Report;
use crate::report::chart::bars::{Bar, Bars};
use crate::report::chart::figure;
use crate::report::number::{self, ratio, whole};
use crate::report::rounds::{self, Rounds};
use crate::report::source::load_of;
use crate::run::Point;
use crate::run::point::{Arrivals, Ceiling};

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let alike = alike(report);
    if alike.is_empty() {
        return None;
    }
    let body = html! {
        @for rounds in &alike { (side_by_side(report, rounds)) }
        p class="note" {
            "Bars are medians of the rounds, thin lines reach from the least round to the greatest. The upright stroke is the ceiling: a bare loop that "
            "moves the same bytes under the same load in the same run."
        }
    };
    Some(Section {
        id: "comparison",
        title: "Side by side",
        body,
    })
}

/// Points of the same load in groups, where there is something to compare: several of them, or a
/// ceiling. Steps of searches and scalings have their own parts.
fn alike<'a>(report: &Report<'a>) -> Vec<Vec<Rounds<'a>>> {
    let plain = rounds::points(report.runs).filter(|placed| {
        let run = &report.runs[placed.run].run;
        run.search.is_none() && run.scale.is_none()
    });
    let mut alike: Vec<Vec<Rounds<'_>>> = Vec::new();
    for rounds in rounds::within_runs(plain) {
        let load = |rounds: &Rounds<'a>| {
            (
                rounds.key.workload,
                rounds.key.arrivals,
                rounds.key.connections,
                rounds.key.depth,
            )
        };
        let found = alike
            .iter_mut()
            .find(|group| load(&group[0]) == load(&rounds) && group[0].offered == rounds.offered);
        match found {
            Some(group) => group.push(rounds),
            None => alike.push(vec![rounds]),
        }
    }
    alike.retain(|group| group.len() > 1 || ceiling(group[0].first()).is_some());
    alike
}

/// A point's ceiling, which is that of a closed loop: an open one at a lower rate batches less, and
/// is no measure beside it.
fn ceiling(point: &Point) -> Option<&Ceiling> {
    let is_closed = point.arrivals == Arrivals::Closed;
    point.ceiling.as_ref().filter(|_| is_closed)
}

/// The labels of a report's points, in the order of their first.
fn labels<'a>(report: &Report<'a>) -> Vec<&'a str> {
    let mut labels = Vec::new();
    for placed in rounds::points(report.runs) {
        if !labels.contains(&placed.point.label.as_str()) {
            labels.push(placed.point.label.as_str());
        }
    }
    labels
}

fn rate(point: &Point) -> Option<f64> {
    Some(point.rate)
}

fn cpu(point: &Point) -> Option<f64> {
    Some(point.server.as_ref()?.cpu_us_per_operation)
}

fn side_by_side(report: &Report<'_>, group: &[Rounds<'_>]) -> Markup {
    let names = rounds::names(group, report.runs);
    let first = group[0].first();
    let is_open = group[0].offered.is_some();
    let named = || names.iter().zip(group);
    let labels = labels(report);
    let colour = |rounds: &Rounds<'_>| {
        let place = labels.iter().position(|label| *label == rounds.key.label);
        place.unwrap_or_default()
    };
    let rates = named().filter_map(|(name, rounds)| {
        let value = rounds.median(rate)?;
        let ceiling = rounds.median(|point| Some(ceiling(point)?.rate));
        Some(bar(
            name,
            value,
            rounds.spread(rate),
            ceiling,
            rounds,
            "/s",
            colour(rounds),
        ))
    });
    let costs = named().filter_map(|(name, rounds)| {
        let value = rounds.median(cpu)?;
        let ceiling = rounds.median(|point| Some(ceiling(point)?.cpu_us_per_operation));
        Some(bar(
            name,
            value,
            rounds.spread(cpu),
            ceiling,
            rounds,
            " µs",
            colour(rounds),
        ))
    });
    let rates = Bars {
        title: "Rate, operations a second (more is better)".to_owned(),
        bars: rates.collect(),
    };
    let costs = Bars {
        title: "Server CPU, µs an operation (less is better)".to_owned(),
        bars: costs.collect(),
    };
    html! {
        h3 { (first.workload) ", " (load_of(first)) }
        // The rate of an open loop is the offered one: nothing to compare.
        @if !is_open { (figure::bars(&rates, html! {}, html! {})) }
        @if !costs.bars.is_empty() { (figure::bars(&costs, html! {}, html! {})) }
        (table(&names, group, is_open))
    }
}

fn bar(
    name: &str,
    value: f64,
    spread: Option<[f64; 2]>,
    ceiling: Option<f64>,
    rounds: &Rounds<'_>,
    unit: &str,
    colour: usize,
) -> Bar {
    let of_ceiling = ceiling.filter(|ceiling| *ceiling > 0.0);
    let mut text = format!("{}{unit}", number::figure(value));
    if let Some(ceiling) = of_ceiling {
        text.push_str(&format!(", {} × ceiling", ratio(value / ceiling)));
    }
    let named = |ceiling| (ceiling_name(rounds), ceiling);
    Bar {
        label: name.to_owned(),
        colour,
        value,
        spread,
        ceiling: ceiling.map(named),
        text,
    }
}

fn ceiling_name(rounds: &Rounds<'_>) -> String {
    ceiling(rounds.first()).map_or(String::new(), |ceiling| ceiling.name.clone())
}

fn table(names: &[String], group: &[Rounds<'_>], is_open: bool) -> Markup {
    html! {
        div class="table" { table {
            thead { tr {
                th { "Target" } th class="n" { "Rounds" } th class="n" { "Rate" small { "1/s" } } th class="n" { "Spread" small { "1/s" } }
                th { "Ceiling" } th class="n" { "Ceiling" small { "1/s" } } th class="n" { "Rate over ceiling" }
                th class="n" { "CPU" small { "µs an operation" } } th class="n" { "Ceiling’s CPU" small { "µs an operation" } } th class="n" { "CPU over ceiling" }
            } }
            tbody { @for (name, rounds) in names.iter().zip(group) {
                @let ceiling_cpu = rounds.median(|point| Some(ceiling(point)?.cpu_us_per_operation));
                tr {
                    th class="name" { (name) (doubts(&rounds.points)) }
                    td class="n" { (whole(rounds.points.len() as u64)) }
                    (cell(rounds.median(rate), number::figure))
                    (spread_cell(rounds.spread(rate), number::figure))
                    td { (ceiling_name(rounds)) }
                    (cell(rounds.median(|point| Some(ceiling(point)?.rate)), number::figure))
                    (cell(rounds.median(|point| Some(ceiling(point)?.ratio)).filter(|_| !is_open), ratio))
                    (cell(rounds.median(cpu), number::figure))
                    (cell(ceiling_cpu, number::figure))
                    (cell(rounds.median(cpu).zip(ceiling_cpu.filter(|cpu| *cpu > 0.0)).map(|(cpu, ceiling)| cpu / ceiling), ratio))
                }
            } }
        } }
        @if is_open { p class="note" { "In an open loop the rate is the offered one, so nothing is set against the ceiling of a closed one." } }
    }
}
