//! Where, and by which command lines.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::Section;
use crate::report::number::{bytes, whole};
use crate::report::{Report, Source};
use crate::run::Machine;

/// Several machines side by side: more do not fit a page.
const MACHINES_MAX: usize = 6;

pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let sources = || report.runs.iter().chain(report.against);
    let mut machines: Vec<&Machine> = Vec::new();
    for source in sources() {
        if !machines.contains(&&source.run.machine) {
            machines.push(&source.run.machine);
        }
    }
    let letter = |source: &Source| {
        let place = machines
            .iter()
            .position(|machine| **machine == source.run.machine);
        place.map_or(String::new(), letter)
    };
    let body = html! {
        @if machines.len() > 1 {
            div class="alarm" role="note" {
                strong { "The runs were not made on the same machine in the same state. " }
                "Rows that differ are marked. A difference between figures of two machines is not one between programs."
            }
        }
        (facts(&machines))
        h3 { "Command lines" }
        @for source in sources() {
            p class="note" { (source.run.name) @if machines.len() > 1 { ", on machine " (letter(source)) } }
            pre { (shell_line(&source.run.command)) }
        }
    };
    Some(Section {
        id: "machine",
        title: if machines.len() > 1 {
            "Machines and command lines"
        } else {
            "Machine and command lines"
        },
        body,
    })
}

fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => char::from(b'A' + place).to_string(),
        _ => (place + 1).to_string(),
    }
}

fn facts(machines: &[&Machine]) -> Markup {
    let shown = &machines[..machines.len().min(MACHINES_MAX)];
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut row = |name: &str, fact: &dyn Fn(&Machine) -> String| {
        rows.push((
            name.to_owned(),
            shown.iter().map(|machine| fact(machine)).collect(),
        ));
    };
    let told = |text: &str| {
        if text.is_empty() {
            "not told by the system".to_owned()
        } else {
            text.to_owned()
        }
    };
    row("Host", &|machine| told(&machine.host));
    row("CPU", &|machine| told(&machine.cpu));
    row("CPUs for this process", &|machine| {
        whole(machine.cpus as u64)
    });
    row("Virtual", &|machine| {
        if machine.is_virtual {
            "yes: under a hypervisor"
        } else {
            "no"
        }
        .to_owned()
    });
    row("Frequency governor", &|machine| told(&machine.governor));
    row("Memory", &|machine| bytes(machine.memory_bytes));
    row("Transparent huge pages", &|machine| {
        told(&machine.huge_pages)
    });
    row("Kernel", &|machine| told(&machine.kernel));
    row("Kernel command line", &|machine| {
        told(&machine.kernel_command_line)
    });
    let devices: BTreeSet<&str> = shown
        .iter()
        .flat_map(|machine| machine.devices.iter().map(|device| device.name.as_str()))
        .collect();
    for name in devices {
        row(&format!("Device {name}"), &|machine| {
            let device = machine.devices.iter().find(|device| device.name == name);
            device.map_or("none".to_owned(), |device| {
                let model = if device.model.is_empty() {
                    "model not told"
                } else {
                    &device.model
                };
                format!(
                    "{model}, {}, scheduler {}",
                    bytes(device.bytes),
                    told(&device.scheduler)
                )
            })
        });
    }
    let vulnerabilities: BTreeSet<&String> = shown
        .iter()
        .flat_map(|machine| machine.mitigations.keys())
        .collect();
    for name in vulnerabilities {
        row(&format!("Mitigation {name}"), &|machine| {
            machine
                .mitigations
                .get(name)
                .cloned()
                .unwrap_or("not told by the system".to_owned())
        });
    }
    html! {
        div class="table" {
            table {
                @if shown.len() > 1 { thead { tr { th {} @for place in 0..shown.len() { th { (letter(place)) } } } } }
                tbody {
                    @for (name, facts) in &rows {
                        tr class=[facts.iter().any(|fact| *fact != facts[0]).then_some("differs")] {
                            th { (name) }
                            @for fact in facts { td class="text" { (fact) } }
                        }
                    }
                }
            }
        }
        @if machines.len() > shown.len() { p class="note" { "The first " (shown.len()) " of " (machines.len()) " machines." } }
    }
}

/// A command as it could be typed into a shell again.
fn shell_line(command: &[String]) -> String {
    let words = command.iter().map(|word| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_typed_again() {
        let command = ["perf", "a b", "", "it's", "--x=1"].map(str::to_owned);
        assert_eq!(shell_line(&command), r"perf 'a b' '' 'it'\''s' --x=1");
    }
}
