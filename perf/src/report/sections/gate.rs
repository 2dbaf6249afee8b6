//! Measures against their bars. The runs hold them as JSON, and nothing in it is taken on trust.

use maud::{Markup, html};
use serde_json::Value;

use super::{Section, cell, spread_cell};
use crate::report::number::{figure, ratio};
use crate::report::{Report, Source};

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let gates: Vec<_> = report
        .runs
        .iter()
        .filter_map(|source| Some((source, &source.run.gate.as_ref()?.measures)))
        .collect();
    if gates.is_empty() {
        return None;
    }
    let body = html! {
        @for (source, measures) in &gates {
            @if gates.len() > 1 { h3 { (source.run.name) } }
            (gate(source, measures))
        }
        p class="note" {
            "In the strips the bar is the upright stroke in the middle, and the width reaches from nothing to twice the bar; the dot is the "
            "measure, the line the spread of its rounds. A measure has no verdict where it could not be taken or where too few rounds count."
        }
    };
    Some(Section {
        id: "gate",
        title: "Gate",
        body,
    })
}

fn gate(source: &Source, measures: &[Value]) -> Markup {
    let count = |holds: Option<bool>| {
        measures
            .iter()
            .filter(|measure| measure["holds"].as_bool() == holds)
            .count()
    };
    html! {
        p class="answer" {
            strong { (count(Some(true))) } " of " (measures.len()) " measures hold, "
            strong class=[(count(Some(false)) > 0).then_some("worse")] { (count(Some(false))) } " missed, "
            strong { (count(None)) } " without a verdict."
        }
        div class="table" {
            table {
                caption { "Measures of “" (source.run.name) "”" }
                thead { tr {
                    th { "Measure" } th { "Verdict" } th {} th { "Bar" } th class="n" { "Ratio to ceiling" } th class="n" { "Spread" }
                    th class="n" { "Value" } th class="n" { "Ceiling" } th { "Unit" }
                } }
                tbody { @for measure in measures { (row(measure)) } }
            }
        }
    }
}

fn row(measure: &Value) -> Markup {
    let number = |key: &str| measure[key].as_f64();
    let text = |key: &str| measure[key].as_str().unwrap_or_default();
    let spread = spread(measure);
    let notes = measure["notes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let said: Vec<&str> = measure["reason"]
        .as_str()
        .into_iter()
        .chain(notes)
        .collect();
    html! {
        tr class=[(!said.is_empty()).then_some("has-said")] {
            th { (text("name")) }
            td { @match measure["holds"].as_bool() {
                Some(true) => span class="better" { "holds" },
                Some(false) => span class="worse" { "missed" },
                None => span class="untold" { "no verdict" },
            } }
            td { (strip(measure)) }
            td { (text("bar").replace(">=", "≥").replace("<=", "≤")) }
            (cell(number("ratio"), ratio))
            (spread_cell(spread, if number("ratio").is_some() { ratio } else { figure }))
            (cell(number("value"), figure))
            (cell(number("ceiling"), figure))
            td { (text("unit").replace("us", "µs")) }
        }
        @if !said.is_empty() { tr class="said" { td colspan="9" { small { (said.join(" · ")) } } } }
    }
}

fn spread(measure: &Value) -> Option<[f64; 2]> {
    let [least, most] = measure["spread"].as_array()?.as_slice() else {
        return None;
    };
    Some([least.as_f64()?, most.as_f64()?])
}

/// The measure as a multiple of its bar: what the bar speaks of, with its spread.
fn strip(measure: &Value) -> Markup {
    let bar = measure["bar"].as_str().unwrap_or_default();
    let is_ratio = bar.starts_with("ratio");
    let limit = bar
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    let value = measure[if is_ratio { "ratio" } else { "value" }].as_f64();
    let (Some(limit), Some(value)) = (limit.filter(|limit| *limit > 0.0), value) else {
        return html! {};
    };
    let at = |value: f64| 6.0 + (value / limit / 2.0).clamp(0.0, 1.0) * 138.0;
    let class = match measure["holds"].as_bool() {
        Some(true) => "holds",
        Some(false) => "missed",
        None => "untold",
    };
    // A spread is of what the measure is: ratios where it has a ceiling.
    let spread = spread(measure).filter(|_| is_ratio == measure["ratio"].is_number());
    html! {
        svg class="strip" viewBox="0 0 150 18" aria-hidden="true" {
            line class="room" x1="6" x2="144" y1="9" y2="9" {}
            line class="bar-mark" x1="75" x2="75" y1="2" y2="16" {}
            @if let Some([least, most]) = spread { line class="spread" x1=(at(least)) x2=(at(most)) y1="9" y2="9" {} }
            circle class=(class) cx=(at(value)) cy="9" r="4" {}
        }
    }
}
