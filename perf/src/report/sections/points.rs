//! Every point with all that was recorded of it, and what to doubt about it.

use maud::{Markup, html};

use super::{Section, cell};
use crate::load::Verify;
use crate::report::Report;
use crate::report::number::{self, bytes, seconds, whole};
use crate::report::rounds::{Placed, points};
use crate::report::source::{anchor, arrivals_of};
use crate::report::warnings;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    points(report.runs).next()?;
    let body = html! {
        @for (run, source) in report.runs.iter().enumerate() {
            @if !source.run.points.is_empty() {
                h3 { (source.run.name) }
                div class="table" { table {
                    thead { tr {
                        th class="n" {} th { "Point" } th { "Workload" } th { "Arrivals" } th class="n" { "Connections × depth" } th class="n" { "For" small { "s" } }
                        th class="n" { "Operations" } th class="n" { "Rate" small { "1/s" } } th class="n" { "Payload" } th class="n" { "p50" small { "µs" } } th class="n" { "p99" small { "µs" } }
                        th class="n" { "p99.9" small { "µs" } } th { "From" } th { "Compared" } th class="n" { "Generator" small { "% of a core" } } th class="n" { "Steal" small { "%" } }
                    } }
                    tbody { @for placed in points(report.runs).filter(|placed| placed.run == run) { (row(&placed)) } }
                } }
            }
        }
    };
    Some(Section {
        id: "points",
        title: "All points",
        body,
    })
}

fn row(placed: &Placed<'_>) -> Markup {
    let point = placed.point;
    let warnings = warnings::of(point);
    html! {
        tr id=(anchor(placed.run, placed.index)) class=[(!warnings.is_empty()).then_some("has-said")] {
            td class="n" { (placed.index + 1) }
            th class="name" { (point.label) " " small { (point.target) } }
            td { (point.workload) } td { (arrivals_of(point)) }
            td class="n" { (point.connections) " × " (point.depth) } td class="n" { (seconds(point.seconds)) }
            td class="n" { (whole(point.operations)) } (cell(Some(point.rate), number::figure)) td class="n" { (bytes(point.bytes)) }
            (cell(Some(point.latency.p50_us), number::figure)) (cell(Some(point.latency.p99_us), number::figure)) (cell(Some(point.latency.p999_us), number::figure))
            td { (by_source(point.by_source)) }
            td { (whole(point.verified)) " (" (match point.verify { Verify::None => "none", Verify::Sample => "sample", Verify::All => "all" }) ")" }
            (cell(Some(point.generator_busy_percent), number::figure)) (cell(Some(point.steal_percent), number::figure))
        }
        @if !warnings.is_empty() {
            tr class="said" { td {} td colspan="15" {
                @for warning in &warnings {
                    span class=(if warning.is_grave { "grave-word" } else { "doubt-word" }) { (warning.text) } " "
                }
            } }
        }
    }
}

/// Where reads were answered from, in percent.
fn by_source(counts: [u64; 3]) -> String {
    let all: f64 = counts.iter().map(|count| *count as f64).sum();
    if all == 0.0 {
        return "not told".to_owned();
    }
    let named = ["DRAM", "device", "under-store"].into_iter().zip(counts);
    let shares = named.filter(|(_, count)| *count > 0);
    shares
        .map(|(name, count)| match count as f64 / all {
            1.0 => name.to_owned(),
            share => format!("{name} {} %", number::percent(share)),
        })
        .collect::<Vec<_>>()
        .join(", ")
}
