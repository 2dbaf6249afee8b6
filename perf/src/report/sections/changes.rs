//! What changed against earlier runs.

use maud::{Markup, html};

use super::{Section, doubts};
use crate::report::Report;
use crate::report::changes::{self, Changed, Changes, Verdict};
use crate::report::number::{figure, ratio};
use crate::report::rounds::Rounds;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    if report.against.is_empty() {
        return None;
    }
    let changes = changes::changes(report);
    let body = html! {
        @if !changes.is_one_machine {
            div class="alarm" role="note" {
                strong { "Not the same machine. " } "The two sides were not made on the same machine in the same state: what differs may be the machine."
            }
        }
        (summary(&changes))
        @if !changes.pairs.is_empty() { (pairs(&changes)) }
        @if !changes.gate.is_empty() { (gate(&changes.gate)) }
        (unmatched("Only in the new runs", &changes.only_new))
        (unmatched("Only in the earlier runs", &changes.only_old))
        p class="note" {
            "A change is called better or worse where the medians differ by more than the rounds of either side differ among themselves. Open loops are "
            "matched at the nearest offered rate within a tenth."
        }
    };
    Some(Section {
        id: "changes",
        title: "What changed",
        body,
    })
}

fn summary(changes: &Changes<'_>) -> Markup {
    let all = || {
        changes
            .pairs
            .iter()
            .flat_map(|pair| &pair.figures)
            .chain(&changes.gate)
    };
    let count = |verdict| all().filter(|changed| changed.verdict == verdict).count();
    html! {
        @if all().next().is_none() { p class="answer" { "Nothing of the two sides can be compared." } }
        @else {
            p class="answer" {
                strong { (count(Verdict::Better)) } " of " (all().count()) " figures are better, "
                strong { (count(Verdict::Worse)) } " worse, " strong { (count(Verdict::WithinSpread)) } " within the spread; of "
                strong { (count(Verdict::Untold)) } " one round tells no spread."
            }
        }
    }
}

fn pairs(changes: &Changes<'_>) -> Markup {
    html! {
        div class="table" { table {
            caption { "Medians over the rounds: earlier, new" }
            thead { tr {
                th { "Point" } th class="n" { "Rounds" small { "earlier, new" } } th { "Figure" } th class="n" { "Earlier" } th class="n" { "New" } th { "Unit" }
                th class="n" { "Change" } th class="n" { "Spread" } th { "Verdict" }
            } }
            tbody { @for pair in &changes.pairs {
                @for (index, changed) in pair.figures.iter().enumerate() {
                    tr class=[(index + 1 < pair.figures.len()).then_some("has-said")] {
                        @if index == 0 {
                            th class="name" rowspan=(pair.figures.len()) {
                                (pair.new.key.label) (doubts(&pair.new.points)) br; small { (pair.new.key.target) ", " (pair.new.key.workload) ", " (pair.load()) }
                            }
                            td class="n" rowspan=(pair.figures.len()) { (pair.old.points.len()) ", " (pair.new.points.len()) }
                        }
                        td { (changed.name) }
                        (cells(changed))
                    }
                }
            } }
        } }
    }
}

fn gate(changed: &[Changed]) -> Markup {
    html! {
        div class="table" { table {
            caption { "Measures of the gate: what their bars speak of" }
            thead { tr {
                th { "Measure" } th class="n" { "Earlier" } th class="n" { "New" } th { "Unit" } th class="n" { "Change" } th class="n" { "Spread" } th { "Verdict" }
            } }
            tbody { @for changed in changed { tr { th { (changed.name) } (cells(changed)) } } }
        } }
    }
}

fn cells(changed: &Changed) -> Markup {
    let write = if changed.unit == "ratio" {
        ratio
    } else {
        figure
    };
    let class = match changed.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::WithinSpread | Verdict::Untold => "untold",
    };
    html! {
        td class="n" { (write(changed.old)) } td class="n" { (write(changed.new)) } td { (changed.unit) }
        td class=(format!("n {class}")) { (changed.percent()) }
        td class="n untold" { (changed.spread.map_or("–".to_owned(), write)) }
        td class=(class) { (changed.verdict.words()) }
    }
}

fn unmatched(title: &str, rounds: &[Rounds<'_>]) -> Markup {
    html! {
        @if !rounds.is_empty() {
            details {
                summary { (title) ": " (rounds.len()) }
                ul { @for rounds in rounds { li { (changes::name(rounds)) } } }
            }
        }
    }
}
