//! The parts of the page. A part for which the runs have nothing is not there.

mod attached;
mod backends;
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
    let parts: [fn(&Report<'_>) -> Option<Section>; 13] = [
        changes::section,
        gate::section,
        backends::section,
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

/// A word that leads to what is doubtful about any of `points`, where something is: that of the
/// worst.
fn doubts(points: &[Placed<'_>]) -> Markup {
    let weight = |placed: &&Placed<'_>| {
        let besides = warnings::besides_overload(placed.point);
        match besides.iter().any(|warning| warning.is_grave) {
            true => 3,
            false if !besides.is_empty() => 2,
            false => usize::from(!warnings::of(placed.point).is_empty()),
        }
    };
    let Some(worst) = points.iter().max_by_key(weight) else {
        return html! {};
    };
    let (class, word) = match weight(&worst) {
        0 => return html! {},
        1 => ("doubt-word", "overload"),
        2 => ("doubt-word", "doubtful"),
        _ => ("grave-word", "not valid"),
    };
    let said: Vec<String> = warnings::of(worst.point)
        .into_iter()
        .map(|warning| warning.text)
        .collect();
    html! {
        " " a class=(class) title=(said.join(" ")) href=(format!("#{}", anchor(worst.run, worst.index))) { (word) }
    }
}
