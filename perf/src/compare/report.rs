//! Rows, as a table for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::figures::{Contestant, Figures, Spread};
use crate::gate::Machine;
use crate::gate::rounds::STEAL_PERCENT_MAX;
use crate::quantities::grouped;

/// Share of reads from another place than asked beyond which a row says so, in percent.
const ELSEWHERE_PERCENT_MAX: f64 = 10.0;

/// Ours over compio's CPU an operation, at most, in the rows that decide: beyond it our ring has lost
/// its reason.
pub const OURS_OVER_COMPIO_MAX: f64 = 0.85;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where, and how.
    pub machine: Machine,
    /// The rows.
    pub rows: Vec<Row>,
    /// What this program was built without.
    pub left_out: Vec<String>,
}

/// One comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it compares.
    pub what: &'static str,
    /// Ours first; empty where it could not be measured.
    pub contestants: Vec<Contestant>,
    /// CPU of idle workers in percent of a core, by runtime, in the row that measures it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idle: Vec<Idle>,
    /// Whether our ring keeps its reason, in the rows that decide it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bar: Option<Verdict>,
    /// Why there are no figures, where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What makes the figures less than they seem.
    pub notes: Vec<String>,
}

/// An idle worker.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// Its backend.
    pub runtime: &'static str,
    /// CPU of its process in percent of a core.
    pub cpu_percent: Spread,
}

/// A bar and whether it holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Verdict {
    /// Ours over compio's CPU an operation; the median of the rounds.
    pub ours_over_compio: f64,
    /// What it may be at most.
    pub at_most: f64,
    /// Whether it is no more.
    pub holds: bool,
}

impl Row {
    /// One that could not be measured.
    pub fn not_measured(name: &'static str, what: &'static str, reason: String) -> Row {
        Row {
            name,
            what,
            contestants: Vec::new(),
            idle: Vec::new(),
            bar: None,
            reason: Some(reason),
            notes: Vec::new(),
        }
    }

    /// Of `rounds`, each with the figures of `runtimes` in their order, ours first.
    ///
    /// # Panics
    /// If there are no rounds or no runtimes.
    pub fn of(
        name: &'static str,
        what: &'static str,
        runtimes: &[&'static str],
        rounds: &[Vec<Figures>],
    ) -> Row {
        let column =
            |index: usize| -> Vec<Figures> { rounds.iter().map(|round| round[index]).collect() };
        let ours = column(0);
        let mut row = Row {
            reason: None,
            ..Row::not_measured(name, what, String::new())
        };
        for (index, runtime) in runtimes.iter().enumerate() {
            let figures = column(index);
            let beside = (index > 0).then_some(&ours[..]);
            row.contestants
                .push(Contestant::of(runtime, &figures, beside));
            row.notes.extend(notes(runtime, &figures));
        }
        row
    }

    /// Holds the row against what our ring has to be worth.
    pub fn with_bar(mut self) -> Row {
        let compio = self
            .contestants
            .iter()
            .find(|contestant| contestant.runtime == "compio");
        if let Some(ratio) = compio.and_then(|compio| compio.cpu_over_ours) {
            let ours_over_compio = 1.0 / ratio.median;
            self.bar = Some(Verdict {
                ours_over_compio,
                at_most: OURS_OVER_COMPIO_MAX,
                holds: ours_over_compio <= OURS_OVER_COMPIO_MAX,
            });
        }
        self
    }
}

fn notes(runtime: &str, figures: &[Figures]) -> Vec<String> {
    let worst = |figure: fn(&Figures) -> f64| figures.iter().map(figure).fold(0.0, f64::max);
    let total = |count: fn(&Figures) -> u64| figures.iter().map(count).sum::<u64>();
    let mut notes = Vec::new();
    let stolen = worst(|figures| figures.steal_percent);
    if stolen > STEAL_PERCENT_MAX {
        notes.push(format!(
            "{runtime}: the hypervisor took up to {stolen:.1} % of the time, in every repetition of a round"
        ));
    }
    let elsewhere = worst(|figures| figures.elsewhere_percent);
    if elsewhere > ELSEWHERE_PERCENT_MAX {
        notes.push(format!(
            "{runtime}: up to {elsewhere:.0} % of the reads came from another place than asked"
        ));
    }
    let workers = worst(|figures| figures.ring_worker_percent);
    if workers > 1.0 {
        notes.push(format!(
            "{runtime}: kernel threads (iou-wrk) used up to {workers:.0} % of its CPU"
        ));
    }
    if figures.iter().any(|figures| figures.rate == 0.0) {
        notes.push(format!(
            "{runtime}: no operation ended in a round; measure for longer"
        ));
    }
    let (errors, wrong) = (
        total(|figures| figures.errors),
        total(|figures| figures.wrong),
    );
    if errors > 0 {
        notes.push(format!("{runtime}: {errors} reads FAILED"));
    }
    if wrong > 0 {
        notes.push(format!("{runtime}: WRONG BYTES in {wrong} answers"));
    }
    notes
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "{:<18} {:<8} {:>12} {:>8} {:>8} {:>17} {:>9} {:>9} {:>6}",
            "row",
            "runtime",
            "rate, 1/s",
            "CPU, µs",
            "of user",
            "over ours",
            "p50, µs",
            "p99, µs",
            "busy"
        )?;
        for row in &self.rows {
            write!(out, "{row}")?;
        }
        for text in &self.left_out {
            writeln!(out, "{text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, contestant) in self.contestants.iter().enumerate() {
            let name = if index == 0 { self.name } else { "" };
            let ratio = contestant.cpu_over_ours.map_or_else(String::new, |ratio| {
                format!(
                    "{:.2} ({:.2}-{:.2})",
                    ratio.median, ratio.least, ratio.greatest
                )
            });
            writeln!(
                out,
                "{name:<18} {:<8} {:>12} {:>8.2} {:>8.2} {ratio:>17} {:>9.1} {:>9.1} {:>4.0} %",
                contestant.runtime,
                grouped(contestant.rate.median),
                contestant.cpu_us.median,
                contestant.user_us.median,
                contestant.p50_us.median,
                contestant.p99_us.median,
                contestant.busy_percent.median,
            )?;
        }
        for (index, idle) in self.idle.iter().enumerate() {
            let name = if index == 0 { self.name } else { "" };
            let percent = idle.cpu_percent;
            writeln!(
                out,
                "{name:<18} {:<8} {:.2} % of a core ({:.2}-{:.2})",
                idle.runtime, percent.median, percent.least, percent.greatest
            )?;
        }
        if let Some(reason) = &self.reason {
            writeln!(out, "{:<18} not measured: {reason}", self.name)?;
        }
        if let Some(bar) = self.bar {
            writeln!(
                out,
                "  ours over compio {:.2}, at most {}: {}",
                bar.ours_over_compio,
                bar.at_most,
                if bar.holds { "holds" } else { "DOES NOT HOLD" }
            )?;
        }
        for note in &self.notes {
            writeln!(out, "  {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cpu_us: f64) -> Figures {
        Figures {
            rate: 1000.0,
            cpu_us,
            user_us: cpu_us / 10.0,
            p50_us: 1.0,
            p99_us: 2.0,
            busy_percent: 50.0,
            ring_worker_percent: 0.0,
            steal_percent: 0.0,
            elsewhere_percent: 0.0,
            errors: 0,
            wrong: 0,
        }
    }

    fn row(ours: f64, compio: f64) -> Row {
        let rounds = vec![vec![figures(ours), figures(compio)]; 3];
        Row::of("row", "what", &["uring", "compio"], &rounds).with_bar()
    }

    #[test]
    fn our_ring_keeps_its_reason_when_it_is_fifteen_percent_cheaper() {
        assert!(row(0.80, 1.0).bar.expect("compio took part").holds);
        assert!(!row(0.90, 1.0).bar.expect("compio took part").holds);
        let alone = Row::of("row", "what", &["uring"], &[vec![figures(1.0)]]).with_bar();
        assert!(alone.bar.is_none());
        assert!(row(0.9, 1.0).to_string().contains("DOES NOT HOLD"));
    }

    #[test]
    fn what_spoils_figures_is_said() {
        let mut bad = figures(1.0);
        (bad.wrong, bad.errors, bad.steal_percent) = (2, 1, 7.0);
        let mut empty = figures(0.0);
        empty.rate = 0.0;
        let rounds = [vec![figures(1.0)], vec![bad], vec![empty]];
        let row = Row::of("row", "what", &["uring"], &rounds);
        let text = row.to_string();
        for expected in [
            "WRONG BYTES in 2",
            "1 reads FAILED",
            "7.0 %",
            "measure for longer",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
