//! Our ring beside other runtimes. The runs hold the rows as JSON, and nothing in it is taken on trust.

use maud::{Markup, html};
use serde_json::Value;

use super::{Section, cell, spread_cell};
use crate::report::number::{figure, percent, rate, ratio};
use crate::report::{Report, Source};

/// Columns of a row, for what is said below it.
const COLUMNS: usize = 10;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let comparisons: Vec<_> = report
        .runs
        .iter()
        .filter_map(|source| Some((source, source.run.backends.as_ref()?)))
        .collect();
    if comparisons.is_empty() {
        return None;
    }
    let body = html! {
        @for (source, answer) in &comparisons {
            (table(source, &answer.rows))
            @for text in &answer.left_out { p class="note" { (text) } }
        }
        p class="note" {
            "Medians of interleaved rounds. “Over ours” is a runtime's CPU an operation over that of our ring in the same round; above 1 ours is "
            "the cheaper. “In user mode” is what the runtime and the loop take themselves: the rest is the kernel's work for them."
        }
    };
    Some(Section {
        id: "backends",
        title: "Backends",
        body,
    })
}

fn table(source: &Source, rows: &[Value]) -> Markup {
    html! {
        div class="table" {
            table {
                caption { "Runtimes of “" (source.run.name) "”" }
                thead { tr {
                    th { "Row" } th { "Runtime" } th class="n" { "Rate" } th class="n" { "CPU, µs" } th class="n" { "in user mode, µs" }
                    th class="n" { "Over ours" } th class="n" { "Spread" } th class="n" { "p50, µs" } th class="n" { "p99, µs" } th class="n" { "Core busy" }
                } }
                tbody { @for row in rows { (lines(row)) } }
            }
        }
    }
}

fn lines(row: &Value) -> Markup {
    let list = |key: &str| row[key].as_array().into_iter().flatten();
    let name = row["name"].as_str().unwrap_or_default();
    let what = row["what"].as_str().unwrap_or_default();
    let bar = row["bar"].as_object().map(|bar| {
        let number = |key: &str| {
            bar.get(key)
                .and_then(Value::as_f64)
                .map_or("–".to_owned(), ratio)
        };
        let holds = bar.get("holds").and_then(Value::as_bool) == Some(true);
        let verdict = if holds { "holds" } else { "missed" };
        format!(
            "ours over compio {}, at most {}: {verdict}",
            number("ours_over_compio"),
            number("at_most")
        )
    });
    let notes = list("notes").filter_map(|note| note.as_str().map(str::to_owned));
    let reason = row["reason"].as_str().map(str::to_owned);
    let said: Vec<String> = bar.into_iter().chain(reason).chain(notes).collect();
    html! {
        tr class="has-said" { th colspan=(COLUMNS) { (name) " " small { (what) } } }
        @for contestant in list("contestants") { (line(contestant)) }
        @for idle in list("idle") {
            tr {
                td {} td { (idle["runtime"].as_str().unwrap_or_default()) }
                td colspan=(COLUMNS - 2) { "idle: " (idle["cpu_percent"]["median"].as_f64().map_or("–".to_owned(), percent_of)) " of a core" }
            }
        }
        @if !said.is_empty() { tr class="said" { td colspan=(COLUMNS) { small { (said.join(" · ")) } } } }
    }
}

fn line(contestant: &Value) -> Markup {
    let median = |key: &str| contestant[key]["median"].as_f64();
    let over = &contestant["cpu_over_ours"];
    let spread = over["least"]
        .as_f64()
        .zip(over["greatest"].as_f64())
        .map(|(least, greatest)| [least, greatest]);
    html! {
        tr {
            td {} td { (contestant["runtime"].as_str().unwrap_or_default()) }
            (cell(median("rate"), rate))
            (cell(median("cpu_us"), figure))
            (cell(median("user_us"), figure))
            (cell(median("cpu_over_ours"), ratio))
            (spread_cell(spread, ratio))
            (cell(median("p50_us"), figure))
            (cell(median("p99_us"), figure))
            (cell(median("busy_percent"), percent_of))
        }
    }
}

/// A number that is a percentage already.
fn percent_of(value: f64) -> String {
    format!("{} %", percent(value / 100.0))
}
