//! The workloads as they were read, so that a point can be repeated.

use maud::html;

use super::Section;
use crate::report::Report;
use crate::report::rounds::points;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    // One entry for each text, with the seeds and places that used it.
    let mut workloads: Vec<(&str, &str, Vec<String>)> = Vec::new();
    for placed in points(report.runs) {
        let point = placed.point;
        let cores: Vec<String> = point.generator_cores.iter().map(usize::to_string).collect();
        let used = format!(
            "{} {} of {}: seed {}, {} generator thread{}{}",
            placed.index + 1,
            point.label,
            report.runs[placed.run].run.name,
            point.seed,
            point.generators,
            if point.generators == 1 { "" } else { "s" },
            if cores.is_empty() {
                String::new()
            } else {
                format!(" on CPU {}", cores.join(", "))
            },
        );
        let found = workloads
            .iter_mut()
            .find(|(name, toml, _)| (*name, *toml) == (&point.workload, &point.workload_toml));
        match found {
            Some((_, _, users)) => users.push(used),
            None => workloads.push((&point.workload, &point.workload_toml, vec![used])),
        }
    }
    if workloads.is_empty() {
        return None;
    }
    let body = html! {
        @for (name, toml, users) in &workloads {
            details {
                summary { (name) ", used by " (users.len()) @if users.len() == 1 { " point" } @else { " points" } }
                pre { (toml) }
                details { summary { "Points, seeds and generators" } ul { @for user in users { li { (user) } } } }
            }
        }
    };
    Some(Section {
        id: "workloads",
        title: "Workloads",
        body,
    })
}
