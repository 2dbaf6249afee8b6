//! Title, what was run, and what not to overlook, before any figure.

use maud::{Markup, html};

use crate::report::number::{moment, whole};
use crate::report::rounds::{Placed, points};
use crate::report::source::{anchor, load_of};
use crate::report::{Report, Source, warnings};
use crate::run::RunKind;

/// Points that are named one by one; the rest only counted. The table of points has them all.
const NAMED_MAX: usize = 12;

pub(in crate::report) fn head(report: &Report<'_>) -> Markup {
    html! {
        h1 { (report.title) }
        p class="sub" { "corelane-perf report · " (span_of(report.runs)) }
        @for source in report.runs { @if source.run.is_partial { (partial(source, "")) } }
        @for source in report.against { @if source.run.is_partial { (partial(source, "earlier ")) } }
        (doubts(report.runs))
        (runs(report.runs, "Runs"))
        @if !report.against.is_empty() { (runs(report.against, "Earlier runs, for comparison")) }
    }
}

fn span_of(sources: &[Source]) -> String {
    let starts = sources.iter().map(|source| source.run.started_at_ms);
    let (first, last) = (starts.clone().min(), starts.max());
    match (first.map(moment), last.map(moment)) {
        (Some(first), Some(last)) if first == last => first,
        (Some(first), Some(last)) => format!("{first} to {last}"),
        _ => String::new(),
    }
}

fn partial(source: &Source, which: &str) -> Markup {
    html! {
        div class="alarm grave" role="note" {
            strong { "Partial. " } "The " (which) "run “" (source.run.name) "” was ended early: not all that was asked for is in it."
        }
    }
}

fn doubts(sources: &[Source]) -> Markup {
    let warned: Vec<_> = points(sources)
        .map(|placed| (placed, doubts_of(&placed, sources)))
        .filter(|(_, said)| !said.is_empty())
        .collect();
    if warned.is_empty() {
        return html! {};
    }
    let mut warned_first = warned;
    warned_first.sort_by_key(|(_, said)| !said.iter().any(|warning| warning.is_grave));
    let is_grave = |said: &[warnings::Warning]| said.iter().any(|warning| warning.is_grave);
    let grave = warned_first
        .iter()
        .filter(|(_, said)| is_grave(said))
        .count();
    let doubtful = warned_first.len() - grave;
    html! {
        div class=(if grave > 0 { "alarm grave" } else { "alarm" }) role="note" {
            strong {
                @if grave > 0 { (grave) " " (plural(grave, "point is", "points are")) " not valid as a measure of what " (plural(grave, "it names", "they name")) }
                @if grave > 0 && doubtful > 0 { "; " }
                @if doubtful > 0 { (doubtful) " " (plural(doubtful, "is", "are")) " to be taken with doubt" }
                "."
            }
            ul {
                @for (placed, said) in warned_first.iter().take(NAMED_MAX) {
                    li {
                        a href=(format!("#{}", anchor(placed.run, placed.index))) { (placed.point.label) ", " (load_of(placed.point)) }
                        ": "
                        @for warning in said { (warning.text) " " }
                    }
                }
                @if warned_first.len() > NAMED_MAX { li { "and " (warned_first.len() - NAMED_MAX) " more, in the table of points" } }
            }
        }
    }
}

/// Of a search's steps, an overload is what was looked for.
fn doubts_of(placed: &Placed<'_>, sources: &[Source]) -> Vec<warnings::Warning> {
    let search = sources[placed.run].run.search.as_ref();
    if search.is_some_and(|answer| answer.curve.iter().any(|step| step.point == placed.index)) {
        warnings::besides_overload(placed.point)
    } else {
        warnings::of(placed.point)
    }
}

fn plural<'a>(count: usize, one: &'a str, several: &'a str) -> &'a str {
    if count == 1 { one } else { several }
}

fn runs(sources: &[Source], caption: &str) -> Markup {
    html! {
        div class="table" {
            table {
                caption { (caption) }
                thead { tr {
                    th { "Name" } th { "Kind" } th { "Started" } th { "On" } th class="n" { "Points" } th { "Program" } th { "File" }
                } }
                tbody {
                    @for source in sources {
                        tr {
                            th class="name" { (source.run.name) @if source.run.is_partial { " " span class="grave-word" { "partial" } } }
                            td { (kind(source.run.kind)) }
                            td { (moment(source.run.started_at_ms)) }
                            td { (source.run.machine.host) }
                            td class="n" { (whole(source.run.points.len() as u64)) }
                            td { (source.run.program) }
                            td { (source.file) }
                        }
                    }
                }
            }
        }
    }
}

fn kind(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Load => "load",
        RunKind::Search => "search",
        RunKind::Scale => "scale",
        RunKind::Simulate => "simulation",
        RunKind::Gate => "gate",
        RunKind::CompareBackends => "comparison of backends",
    }
}
