//! What an operation cost the server.

use maud::html;

use super::{Section, cell, doubts};
use crate::report::Report;
use crate::report::number::{self, bytes, whole};
use crate::report::rounds;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let known = rounds::points(report.runs).filter(|placed| placed.point.server.is_some());
    let all = rounds::within_runs(known);
    if all.is_empty() {
        return None;
    }
    let names = rounds::names(&all, report.runs);
    let body = html! {
        div class="table" { table {
            caption { "Of the server’s process, an operation; medians of the rounds" }
            thead { tr {
                th { "Point" } th class="n" { "Rounds" } th class="n" { "Rate" small { "1/s" } } th class="n" { "CPU" small { "µs" } } th class="n" { "in user mode" small { "µs" } }
                th class="n" { "Switches" small { "voluntary" } } th class="n" { "Switches" small { "involuntary" } } th class="n" { "Ring enters" }
                th class="n" { "Copied" small { "bytes a byte" } } th class="n" { "Busy" small { "% of its cores" } } th class="n" { "Resident" }
            } }
            tbody { @for (name, rounds) in names.iter().zip(&all) {
                tr {
                    th class="name" { (name) (doubts(&rounds.points)) }
                    td class="n" { (whole(rounds.points.len() as u64)) }
                    (cell(rounds.median(|point| Some(point.rate)), number::figure))
                    (cell(rounds.cost(|cost| cost.cpu_us_per_operation), number::figure))
                    (cell(rounds.cost(|cost| cost.cpu_user_us_per_operation), number::figure))
                    (cell(rounds.cost(|cost| cost.voluntary_switches_per_operation), per_operation))
                    (cell(rounds.cost(|cost| cost.involuntary_switches_per_operation), per_operation))
                    (cell(rounds.median(|point| point.server.as_ref()?.ring_enters_per_operation), per_operation))
                    (cell(rounds.median(|point| point.server.as_ref()?.bytes_copied_per_byte), number::ratio))
                    (cell(rounds.cost(|cost| cost.busy_percent), number::figure))
                    td class="n" { (rounds.cost(|cost| cost.resident_bytes as f64).map_or("–".to_owned(), |value| bytes(value as u64))) }
                }
            } }
        } }
        p class="note" {
            "CPU is that of all threads of the server. Ring enters and copied bytes are there where the server counts them; the kernel’s own copies are not "
            "in them. Context switches, ring enters and CPU are an operation, which may be several reads."
        }
    };
    Some(Section {
        id: "cost",
        title: "Cost of an operation",
        body,
    })
}

/// Small counts with digits enough to tell them from nothing.
fn per_operation(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.0995 {
        format!("{value:.4}")
    } else {
        number::figure(value)
    }
}
