//! The parts of the page. A part for which the runs have nothing is not there.

mod attached;
mod changes;
mod comparison;
mod cost;
mod gate;
pub(super) mod head;
mod machines;
mod percentiles;
mod points;
mod scaling;
mod search;
mod simulation;
mod workloads;

use maud::{Markup, html};

use super::Report;
use super::rounds::Placed;
use super::source::anchor;
use super::warnings;

/// A part of the page.
pub(super) struct Section {
    /// To link to.
    pub id: &'static str,
    pub title: &'static str,
    pub body: Markup,
}

/// Those that there are, in their order.
pub(super) fn all(report: &Report<'_>) -> Vec<Section> {
    let parts: [fn(&Report<'_>) -> Option<Section>; 12] = [
        changes::section,
        gate::section,
        search::section,
        comparison::section,
        percentiles::section,
        scaling::section,
        cost::section,
        simulation::section,
        machines::section,
        points::section,
        workloads::section,
        attached::section,
    ];
    parts.into_iter().filter_map(|part| part(report)).collect()
}

/// A number in a cell, or a dash.
fn cell(value: Option<f64>, write: impl Fn(f64) -> String) -> Markup {
    html! { td class="n" { @match value { Some(value) => (write(value)), None => "–" } } }
}

/// Least and greatest in a cell, or a dash.
fn spread_cell(spread: Option<[f64; 2]>, write: impl Fn(f64) -> String) -> Markup {
    html! {
        td class="n" { @match spread { Some([least, most]) => { (write(least)) " – " (write(most)) }, None => "–" } }
    }
}

/// A word that leads to what is doubtful about any of `points`, where something is.
fn doubts(points: &[Placed<'_>]) -> Markup {
    let warned = points
        .iter()
        .map(|placed| (placed, warnings::of(placed.point)))
        .filter(|(_, said)| !said.is_empty());
    let mut warned: Vec<_> = warned.collect();
    warned.sort_by_key(|(_, said)| !said.iter().any(|warning| warning.is_grave));
    let Some((placed, said)) = warned.first() else {
        return html! {};
    };
    let is_grave = said.iter().any(|warning| warning.is_grave);
    let all: Vec<&str> = said.iter().map(|warning| warning.text.as_str()).collect();
    html! {
        " " a class=(if is_grave { "grave-word" } else { "doubt-word" }) title=(all.join(" "))
            href=(format!("#{}", anchor(placed.run, placed.index))) { @if is_grave { "not valid" } @else { "doubtful" } }
    }
}
