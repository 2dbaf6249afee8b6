//! Two sets of runs against each other.
//!
//! The invariant: a change is called better or worse only where it is larger than what rounds of
//! one side differ among themselves. One round tells no spread, so of it nothing is called either.

use std::fmt::Write;

use serde_json::Value;

use super::number::{change, figure, median, ratio};
use super::rounds::{Rounds, across_runs, points, spread};
use super::source::{arrivals_of, load_of};
use super::{Report, Source};
use crate::run::Point;

/// Open loops are compared at the nearest offered rate, if it is no further away than this share:
/// latency depends on the load too steeply for more.
const OFFERED_APART_MAX: f64 = 0.1;

/// What may be said of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Better,
    Worse,
    /// No larger than what rounds differ among themselves.
    WithinSpread,
    /// Neither side has several rounds.
    Untold,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::WithinSpread => "within the spread",
            Verdict::Untold => "one round tells no spread",
        }
    }
}

/// One figure on both sides, medians over the rounds.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub name: String,
    pub unit: String,
    pub old: f64,
    pub new: f64,
    /// The change as a share of the old; none where that is zero.
    pub share: Option<f64>,
    pub verdict: Verdict,
    /// The greater of both sides' spreads.
    pub spread: Option<f64>,
}

impl Changed {
    /// Of the rounds' values on both sides; none where one side has none.
    fn of(
        name: &str,
        unit: &str,
        is_more_better: bool,
        old: &[f64],
        new: &[f64],
    ) -> Option<Changed> {
        let width = |values: &[f64]| spread(values).map(|[least, most]| most - least);
        let widths = width(old).into_iter().chain(width(new));
        let (old, new) = (median(old)?, median(new)?);
        Some(Changed::judged(
            name,
            unit,
            is_more_better,
            (old, new),
            widths.max_by(f64::total_cmp),
        ))
    }

    fn judged(
        name: &str,
        unit: &str,
        is_more_better: bool,
        (old, new): (f64, f64),
        spread: Option<f64>,
    ) -> Changed {
        let verdict = match spread {
            None => Verdict::Untold,
            Some(spread) if (new - old).abs() <= spread => Verdict::WithinSpread,
            Some(_) if (new > old) == is_more_better => Verdict::Better,
            Some(_) => Verdict::Worse,
        };
        Changed {
            name: name.to_owned(),
            unit: unit.to_owned(),
            old,
            new,
            share: (old != 0.0).then(|| (new - old) / old.abs()),
            verdict,
            spread,
        }
    }

    /// The change in percent.
    pub fn percent(&self) -> String {
        self.share.map_or("–".to_owned(), change)
    }
}

/// A point of both sides.
#[derive(Clone, Debug)]
pub(super) struct Pair<'a> {
    pub old: Rounds<'a>,
    pub new: Rounds<'a>,
    pub figures: Vec<Changed>,
}

impl Pair<'_> {
    /// Both sides' load in words: one, unless the offered rates differ.
    pub fn load(&self) -> String {
        let (old, new) = (self.old.first(), self.new.first());
        if self.old.offered == self.new.offered {
            load_of(new)
        } else {
            format!("{} against {}", load_of(new), arrivals_of(old))
        }
    }
}

/// All that can be compared, and what cannot.
#[derive(Clone, Debug)]
pub(super) struct Changes<'a> {
    pub pairs: Vec<Pair<'a>>,
    pub gate: Vec<Changed>,
    pub only_new: Vec<Rounds<'a>>,
    pub only_old: Vec<Rounds<'a>>,
    /// Whether all runs of both sides were made on the same machine.
    pub is_one_machine: bool,
}

/// A figure of a point that is compared: name, unit, whether more is better, where it is.
type Figure = (&'static str, &'static str, bool, fn(&Point) -> Option<f64>);

const FIGURES: [Figure; 5] = [
    ("rate", "1/s", true, |point| Some(point.rate)),
    ("p50", "µs", false, |point| Some(point.latency.p50_us)),
    ("p99", "µs", false, |point| Some(point.latency.p99_us)),
    ("p99.9", "µs", false, |point| Some(point.latency.p999_us)),
    ("CPU an operation", "µs", false, |point| {
        Some(point.server.as_ref()?.cpu_us_per_operation)
    }),
];

/// The runs of a report against its earlier ones.
pub(super) fn changes<'a>(report: &Report<'a>) -> Changes<'a> {
    let mut old: Vec<Option<Rounds<'_>>> = across_runs(points(report.against))
        .into_iter()
        .map(Some)
        .collect();
    let mut new: Vec<Option<Rounds<'_>>> = across_runs(points(report.runs))
        .into_iter()
        .map(Some)
        .collect();
    let mut pairs = Vec::new();
    for (new_place, old_place) in nearest(&new, &old) {
        if let (Some(new), Some(old)) = (new[new_place].take(), old[old_place].take()) {
            pairs.push((new_place, pair(old, new)));
        }
    }
    pairs.sort_by_key(|(place, _)| *place);
    let machine = report.runs.first().map(|source| &source.run.machine);
    let mut sources = report.runs.iter().chain(report.against);
    Changes {
        pairs: pairs.into_iter().map(|(_, pair)| pair).collect(),
        gate: gate(report),
        only_new: new.into_iter().flatten().collect(),
        only_old: old.into_iter().flatten().collect(),
        is_one_machine: sources.all(|source| Some(&source.run.machine) == machine),
    }
}

/// Places of those that match, the nearest offered rates first. Some places may come twice; who
/// takes them in order gets each once.
fn nearest(new: &[Option<Rounds<'_>>], old: &[Option<Rounds<'_>>]) -> Vec<(usize, usize)> {
    let mut matches: Vec<(f64, usize, usize)> = Vec::new();
    for (new_place, new) in new.iter().enumerate() {
        for (old_place, old) in old.iter().enumerate() {
            if let (Some(new), Some(old)) = (new, old)
                && new.key == old.key
            {
                let apart = match (new.offered, old.offered) {
                    (Some(new), Some(old)) => (new - old).abs() / old.abs().max(f64::MIN_POSITIVE),
                    _ => 0.0,
                };
                if apart <= OFFERED_APART_MAX {
                    matches.push((apart, new_place, old_place));
                }
            }
        }
    }
    matches.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut taken_new, mut taken_old) = (vec![false; new.len()], vec![false; old.len()]);
    let mut pairs = Vec::new();
    for (_, new, old) in matches {
        if !taken_new[new] && !taken_old[old] {
            (taken_new[new], taken_old[old]) = (true, true);
            pairs.push((new, old));
        }
    }
    pairs
}

fn pair<'a>(old: Rounds<'a>, new: Rounds<'a>) -> Pair<'a> {
    let figures = FIGURES
        .iter()
        .filter_map(|(name, unit, is_more_better, of)| {
            Changed::of(
                name,
                unit,
                *is_more_better,
                &old.values(of),
                &new.values(of),
            )
        });
    Pair {
        figures: figures.collect(),
        old,
        new,
    }
}

/// Measures of the gate that both sides have: what their bars speak of.
fn gate(report: &Report<'_>) -> Vec<Changed> {
    let measures = |sources: &[Source]| -> Vec<Value> {
        let gates = sources.iter().filter_map(|source| source.run.gate.as_ref());
        gates.flat_map(|gate| gate.measures.clone()).collect()
    };
    let (new, old) = (measures(report.runs), measures(report.against));
    let mut changed = Vec::new();
    let mut done: Vec<&str> = Vec::new();
    for measure in &new {
        let Some(name) = measure["name"].as_str().filter(|name| !done.contains(name)) else {
            continue;
        };
        done.push(name);
        let named = |all: &[Value]| -> Vec<Value> {
            all.iter()
                .filter(|measure| measure["name"] == name)
                .cloned()
                .collect()
        };
        changed.extend(gate_change(name, &named(&old), &named(&new)));
    }
    changed
}

fn gate_change(name: &str, old: &[Value], new: &[Value]) -> Option<Changed> {
    let bar = new.first()?["bar"].as_str()?;
    let key = if bar.starts_with("ratio") {
        "ratio"
    } else {
        "value"
    };
    let figures = |all: &[Value]| -> Vec<f64> {
        all.iter()
            .filter_map(|measure| measure[key].as_f64())
            .collect()
    };
    // Spreads are of ratios where a measure has them.
    let width = |measure: &Value| {
        let is_of_key = measure["ratio"].is_number() == (key == "ratio");
        let [least, most] = measure["spread"].as_array()?.as_slice() else {
            return None;
        };
        is_of_key.then_some(most.as_f64()? - least.as_f64()?)
    };
    let within = old.iter().chain(new).filter_map(width);
    let between = [figures(old), figures(new)]
        .into_iter()
        .filter_map(|values| Some(spread(&values)?).map(|[least, most]| most - least));
    let widths = within.chain(between).max_by(f64::total_cmp);
    let unit = if key == "ratio" {
        "ratio"
    } else {
        new.first()?["unit"].as_str().unwrap_or_default()
    };
    let (old, new) = (median(&figures(old))?, median(&figures(new))?);
    Some(Changed::judged(
        name,
        unit,
        bar.contains(">="),
        (old, new),
        widths,
    ))
}

/// The changes for a terminal.
pub fn text(report: &Report<'_>) -> String {
    let changes = changes(report);
    let mut out = String::new();
    if !changes.is_one_machine {
        out.push_str("The runs were not all made on the same machine in the same state.\n");
    }
    for pair in &changes.pairs {
        let _ = writeln!(
            out,
            "{} ({}), {}, {}: {} round{} against {}",
            plain(pair.new.key.label),
            plain(pair.new.key.target),
            plain(pair.new.key.workload),
            pair.load(),
            pair.new.points.len(),
            if pair.new.points.len() == 1 { "" } else { "s" },
            pair.old.points.len()
        );
        for changed in &pair.figures {
            line(&mut out, changed, 18);
        }
    }
    if !changes.gate.is_empty() {
        out.push_str("gate\n");
        for changed in &changes.gate {
            line(&mut out, changed, 26);
        }
    }
    for (which, rounds) in [
        ("only in the new runs", &changes.only_new),
        ("only in the earlier runs", &changes.only_old),
    ] {
        for rounds in rounds {
            let _ = writeln!(out, "{which}: {}", plain(&name(rounds)));
        }
    }
    if out.is_empty() {
        out.push_str("nothing to compare: neither side has points or measures of a gate\n");
    }
    out
}

/// A point in words.
pub(super) fn name(rounds: &Rounds<'_>) -> String {
    format!(
        "{} ({}), {}, {}",
        rounds.key.label,
        rounds.key.target,
        rounds.key.workload,
        load_of(rounds.first())
    )
}

fn line(out: &mut String, changed: &Changed, width: usize) {
    let write = if changed.unit == "ratio" {
        ratio
    } else {
        figure
    };
    let _ = writeln!(
        out,
        "  {:<width$} {:>12} -> {:>12} {:<5} {:>9}  {}",
        plain(&changed.name),
        write(changed.old),
        write(changed.new),
        plain(&changed.unit),
        changed.percent(),
        changed.verdict.words()
    );
}

/// Text of a run file on its way to a terminal, which must not take it as commands.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;
    use crate::run::Run;
    use crate::run::point::Arrivals;

    fn closed(rates: &[f64]) -> Source {
        let mut run = fixtures::run(crate::run::RunKind::Load, "rounds");
        let point = |rate: &f64| fixtures::point("corelane", "data-plane", *rate, Arrivals::Closed);
        run.points = rates.iter().map(point).collect();
        fixtures::source(run)
    }

    fn open(offered: &[f64]) -> Source {
        let mut run = fixtures::run(crate::run::RunKind::Load, "open");
        let point = |offered: &f64| {
            fixtures::point(
                "corelane",
                "data-plane",
                *offered,
                Arrivals::Constant {
                    per_second: *offered,
                },
            )
        };
        run.points = offered.iter().map(point).collect();
        fixtures::source(run)
    }

    fn verdicts(new: &[f64], old: &[f64]) -> Vec<(String, Verdict)> {
        let (new, old) = ([closed(new)], [closed(old)]);
        let changes = changes(&Report {
            title: "",
            runs: &new,
            against: &old,
        });
        assert_eq!(changes.pairs.len(), 1);
        let figures = changes.pairs[0].figures.iter();
        figures
            .map(|changed| (changed.name.clone(), changed.verdict))
            .collect()
    }

    #[test]
    fn a_change_counts_where_it_is_larger_than_the_spread() {
        let faster = verdicts(&[110e3, 111e3, 112e3], &[100e3, 101e3, 102e3]);
        assert!(
            faster
                .iter()
                .all(|(_, verdict)| *verdict == Verdict::Better),
            "{faster:?}"
        );
        let slower = verdicts(&[100e3, 101e3], &[110e3, 111e3]);
        assert!(
            slower.iter().all(|(_, verdict)| *verdict == Verdict::Worse),
            "{slower:?}"
        );
        let noise = verdicts(&[90e3, 101e3, 112e3], &[100e3]);
        assert!(
            noise
                .iter()
                .all(|(_, verdict)| *verdict == Verdict::WithinSpread),
            "{noise:?}"
        );
        let once = verdicts(&[200e3], &[100e3]);
        assert!(
            once.iter().all(|(_, verdict)| *verdict == Verdict::Untold),
            "{once:?}"
        );
    }

    #[test]
    fn open_loops_meet_at_the_nearest_offered_rate_or_not_at_all() {
        let (new, old) = (
            [open(&[100e3, 205e3, 400e3])],
            [open(&[104e3, 200e3, 101e3, 600e3])],
        );
        let changes = changes(&Report {
            title: "",
            runs: &new,
            against: &old,
        });
        let offered: Vec<_> = changes
            .pairs
            .iter()
            .map(|pair| (pair.new.offered, pair.old.offered))
            .collect();
        assert_eq!(
            offered,
            [(Some(100e3), Some(101e3)), (Some(205e3), Some(200e3))]
        );
        assert_eq!(changes.only_new.len(), 1);
        assert_eq!(changes.only_old.len(), 2);
        assert!(changes.pairs[1].load().contains("against 200,000/s"));
    }

    #[test]
    fn measures_of_gates_are_compared_by_what_their_bars_speak_of() {
        let of = |ratio: f64, spread: [f64; 2]| {
            let mut run: Run = fixtures::gate();
            let gate = run.gate.as_mut().expect("a gate");
            gate.measures[0]["ratio"] = ratio.into();
            gate.measures[0]["spread"] = spread.to_vec().into();
            [fixtures::source(run)]
        };
        let verdict = |new: [Source; 1], old: [Source; 1]| {
            let changes = changes(&Report {
                title: "",
                runs: &new,
                against: &old,
            });
            let found = changes
                .gate
                .iter()
                .find(|changed| changed.name == "dram_4k_pipelined");
            found.expect("in both").verdict
        };
        assert_eq!(
            verdict(of(0.95, [0.94, 0.96]), of(0.88, [0.87, 0.89])),
            Verdict::Better
        );
        assert_eq!(
            verdict(of(0.80, [0.79, 0.81]), of(0.88, [0.87, 0.89])),
            Verdict::Worse
        );
        assert_eq!(
            verdict(of(0.80, [0.79, 0.99]), of(0.88, [0.87, 0.89])),
            Verdict::WithinSpread
        );
    }

    #[test]
    fn the_text_says_what_changed_and_what_cannot_be_told() {
        let (new, old) = (
            [fixtures::source(fixtures::load("new", 1.1))],
            [fixtures::source(fixtures::load("old", 1.0))],
        );
        let text = text(&Report {
            title: "",
            runs: &new,
            against: &old,
        });
        for words in [
            "corelane (data-plane), uniform-4k, closed, 64 × 32: 3 rounds against 3",
            "709,000 ->      779,900",
            "+10.0 %  better",
            "one round tells no spread",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        let nothing = super::text(&Report {
            title: "",
            runs: &[],
            against: &[],
        });
        assert!(nothing.starts_with("nothing to compare"));
    }

    #[test]
    fn labels_do_not_command_the_terminal() {
        let mut source = closed(&[1e3]);
        source.run.points[0].label = "\u{1b}[2Jx".to_owned();
        let sources = [source];
        let text = text(&Report {
            title: "",
            runs: &sources,
            against: &[],
        });
        assert!(!text.contains('\u{1b}') && text.contains("[2Jx"), "{text}");
    }
}
