//! The frame of a chart: title, choices, drawing, what to know about it, and the table behind it.

use maud::{Markup, html};

use super::bars::Bars;
use super::lines::LineChart;
use super::{COLOURS, GROUPS_MAX, NARROW, WIDE};

/// A chart of lines with its table.
///
/// `id` is the chart's own on the page: choices go by it. `note` says what the reader has to know
/// to read it.
pub fn lines(id: &str, chart: &LineChart, note: Markup, table: Markup) -> Markup {
    let drawn = chart.groups.len().min(GROUPS_MAX);
    html! {
        figure class="chart" id=(id) {
            figcaption { (chart.title) }
            div class="choices" {
                @if chart.y.len() > 1 {
                    fieldset {
                        legend { "axis" }
                        label { input type="radio" name=(format!("{id}-axis")) class="to-first" checked; "logarithmic" }
                        label { input type="radio" name=(format!("{id}-axis")) class="to-second"; "linear" }
                    }
                }
                @if drawn > 1 {
                    fieldset {
                        legend { "series" }
                        @for (index, group) in chart.groups[..drawn].iter().enumerate() {
                            label class=(format!("c{} d{}", index % COLOURS, index / COLOURS)) {
                                input type="checkbox" class=(format!("t{index}")) checked[group.is_shown];
                                span class="swatch" aria-hidden="true" {}
                                (group.label)
                            }
                        }
                    }
                }
            }
            div class="plot" {
                @for index in 0..chart.y.len() {
                    div class=(if index == 0 { "on-first" } else { "on-second" }) {
                        (chart.svg(WIDE, index))
                        (chart.svg(NARROW, index))
                    }
                }
            }
            p class="note" {
                (note)
                @if drawn < chart.groups.len() {
                    " Drawn are " (drawn) " of " (chart.groups.len()) " series; all are in the table."
                }
            }
            (behind(table))
        }
    }
}

/// A chart of bars with its table.
pub fn bars(chart: &Bars, note: Markup, table: Markup) -> Markup {
    html! {
        figure class="chart" {
            figcaption { (chart.title) }
            div class="plot" { (chart.svg(WIDE)) (chart.svg(NARROW)) }
            p class="note" { (note) }
            (behind(table))
        }
    }
}

/// A table that opens on demand; none where there is none.
fn behind(table: Markup) -> Markup {
    html! {
        @if !table.0.is_empty() {
            details { summary { "The figures as a table" } (table) }
        }
    }
}
