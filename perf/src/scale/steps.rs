//! From the points of a scaling run to its answer: medians, efficiencies, and the law.

use super::fleet::Unit;
use super::usl;
use crate::gate::measure::median;
use crate::run::Point;
use crate::run::answers::{ScaleAnswer, ScaleStep};
use crate::run::point::Arrivals;

/// Load of a generator's CPU from which on it may have been what limited a closed loop, in percent.
const GENERATOR_BUSY_PERCENT: f64 = 95.0;

/// Load of the servers' CPUs below which they did not limit it, in percent.
const SERVER_BUSY_PERCENT: f64 = 95.0;

/// Share of reads that may come from elsewhere than DRAM before it is said.
const NOT_FROM_DRAM: f64 = 0.01;

/// The answer of `points`, of which `rounds` gives the count and the index of each that counts as a
/// round. Counts without a round are left out.
pub fn answer(unit: Unit, points: &[Point], rounds: &[(u32, usize)]) -> ScaleAnswer {
    let mut counts: Vec<u32> = rounds.iter().map(|(count, _)| *count).collect();
    counts.sort_unstable();
    counts.dedup();
    let mut steps: Vec<ScaleStep> = Vec::new();
    for count in counts {
        let of_count = rounds.iter().filter(|(other, _)| *other == count);
        let indices: Vec<usize> = of_count.map(|(_, index)| *index).collect();
        let figures = |figure: &dyn Fn(&Point) -> f64| {
            median(
                &indices
                    .iter()
                    .map(|index| figure(&points[*index]))
                    .collect::<Vec<f64>>(),
            )
        };
        let rate = figures(&|point| point.rate);
        let cpu = figures(&|point| cpu_us(point));
        let (first_rate, first_cpu) = match steps.first() {
            Some(first) => (
                first.rate / f64::from(first.count),
                first.cpu_us_per_operation,
            ),
            None => (rate / f64::from(count), cpu),
        };
        steps.push(ScaleStep {
            count,
            points: indices,
            rate,
            cpu_us_per_operation: cpu,
            efficiency: rate / (f64::from(count) * first_rate),
            cpu_efficiency: first_cpu / cpu,
        });
    }
    let is_closed = rounds
        .iter()
        .all(|(_, index)| points[*index].arrivals == Arrivals::Closed);
    let rates: Vec<(u32, f64)> = steps.iter().map(|step| (step.count, step.rate)).collect();
    let by_cpu: Vec<(u32, f64)> = steps
        .iter()
        .map(|step| {
            let rate = f64::from(step.count) * 1e6 / step.cpu_us_per_operation;
            (step.count, rate)
        })
        .collect();
    let mut answer = ScaleAnswer {
        of: unit.name(2).to_owned(),
        usl: is_closed.then(|| usl::fit(&rates)).flatten(),
        usl_by_cpu: usl::fit(&by_cpu),
        notes: Vec::new(),
        steps,
    };
    answer.notes = notes(unit, points, &answer, is_closed);
    answer
}

fn cpu_us(point: &Point) -> f64 {
    let cost = point.server.as_ref();
    cost.map_or(f64::NAN, |cost| cost.cpu_us_per_operation)
}

fn notes(unit: Unit, points: &[Point], answer: &ScaleAnswer, is_closed: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if !is_closed {
        notes.push(
            "open loop: the rate is what was offered, so efficiency by rate says nothing; read the \
             efficiency by CPU"
                .to_owned(),
        );
    }
    match answer.steps.len() {
        0 => notes.push("ended before anything was measured".to_owned()),
        1 | 2 => notes.push(
            "fewer than three steps: the Universal Scalability Law has three parameters and is not fitted"
                .to_owned(),
        ),
        3 => notes.push(
            "three steps and three parameters: a fit without error says nothing of the law"
                .to_owned(),
        ),
        _ => {}
    }
    for step in &answer.steps {
        let points: Vec<&Point> = step.points.iter().map(|index| &points[*index]).collect();
        let name = format!("{} {}", step.count, unit.name(step.count));
        let figures = |figure: &dyn Fn(&Point) -> f64| {
            median(
                &points
                    .iter()
                    .map(|point| figure(point))
                    .collect::<Vec<f64>>(),
            )
        };
        let generator = figures(&|point| point.generator_busy_percent);
        let servers = figures(&|point| point.server.as_ref().map_or(0.0, |cost| cost.busy_percent));
        if is_closed && generator >= GENERATOR_BUSY_PERCENT && servers < SERVER_BUSY_PERCENT {
            notes.push(format!(
                "{name}: the generators were {generator:.0} % busy and the servers' CPUs {servers:.0} %: the rate is the \
                 generators' limit; give more --load-cores"
            ));
        }
        let total: u64 = points.iter().flat_map(|point| point.by_source).sum();
        let dram: u64 = points.iter().map(|point| point.by_source[0]).sum();
        let elsewhere = 1.0 - dram as f64 / total.max(1) as f64;
        if elsewhere > NOT_FROM_DRAM {
            notes.push(format!(
                "{name}: {:.1} % of the reads did not come from DRAM",
                100.0 * elsewhere
            ));
        }
        let errors: u64 = points.iter().map(|point| point.errors).sum();
        if errors > 0 {
            let first = points.iter().find_map(|point| point.first_error.as_deref());
            notes.push(format!(
                "{name}: {errors} reads failed: {}",
                first.unwrap_or("no text")
            ));
        }
        let missed = points
            .iter()
            .filter(|point| point.keeps_offered_rate() == Some(false));
        let missed = missed.count();
        if missed > 0 {
            notes.push(format!(
                "{name}: the offered rate was not had in {missed} of {} rounds",
                points.len()
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::point::ServerCost;
    use crate::search::tests::point;

    /// A closed-loop point from DRAM.
    fn measured(rate: f64, cpu_us_per_operation: f64) -> Point {
        let mut point = point(0.0, rate, 50);
        point.arrivals = Arrivals::Closed;
        point.by_source = [1000, 0, 0];
        point.server = Some(ServerCost {
            cpu_us_per_operation,
            busy_percent: 100.0,
            ..ServerCost::default()
        });
        point
    }

    #[test]
    fn medians_and_efficiencies_are_those_of_the_steps() {
        let points = [
            measured(100.0, 2.0),
            measured(190.0, 2.5),
            measured(180.0, 2.5),
            measured(104.0, 2.0),
            measured(96.0, 9.0),
        ];
        let rounds = [(1, 0), (2, 1), (2, 2), (1, 3), (1, 4)];
        let answer = answer(Unit::Workers, &points, &rounds);
        assert_eq!(answer.of, "workers");
        assert_eq!(answer.steps.len(), 2);
        assert_eq!(answer.steps[0].points, [0, 3, 4]);
        assert_eq!(
            (answer.steps[0].rate, answer.steps[0].efficiency),
            (100.0, 1.0)
        );
        assert_eq!(answer.steps[1].rate, 185.0);
        assert!((answer.steps[1].efficiency - 0.925).abs() < 1e-12);
        assert!((answer.steps[1].cpu_efficiency - 0.8).abs() < 1e-12);
        assert_eq!((answer.usl, answer.usl_by_cpu), (None, None));
        assert!(answer.notes[0].contains("not fitted"), "{:?}", answer.notes);
    }

    #[test]
    fn shared_cores_hide_the_law_in_the_rate_and_not_in_the_cpu() {
        // Four workers on one CPU: the rate stays, and so does the CPU an operation.
        let points: Vec<Point> = (0..4).map(|_| measured(250_000.0, 4.0)).collect();
        let rounds: Vec<(u32, usize)> = (0..4).map(|index| (index as u32 + 1, index)).collect();
        let answer = answer(Unit::Workers, &points, &rounds);
        let by_rate = answer.usl.expect("four steps");
        assert!(by_rate.contention > 0.9, "{by_rate:?}");
        let by_cpu = answer.usl_by_cpu.expect("four steps");
        assert!(
            by_cpu.contention < 1e-9 && by_cpu.coherency < 1e-9,
            "{by_cpu:?}"
        );
        assert!((by_cpu.rate - 250_000.0).abs() < 1e-3, "{by_cpu:?}");
    }

    #[test]
    fn what_makes_a_figure_doubtful_is_said() {
        let mut slow = measured(100.0, 2.0);
        slow.generator_busy_percent = 99.0;
        slow.server.as_mut().expect("it has a cost").busy_percent = 40.0;
        slow.by_source = [50, 50, 0];
        slow.errors = 3;
        slow.first_error = Some("no such object".to_owned());
        let text = answer(Unit::Shards, &[slow], &[(1, 0)]).notes.join("\n");
        for reason in ["generators' limit", "50.0 %", "no such object", "1 shard:"] {
            assert!(text.contains(reason), "{reason}: {text}");
        }
        let mut open = measured(100.0, 2.0);
        open.arrivals = Arrivals::Poisson { per_second: 200.0 };
        let open = answer(Unit::Shards, &[open], &[(1, 0)]);
        let text = open.notes.join("\n");
        assert!(
            text.contains("open loop") && text.contains("not had in 1 of 1"),
            "{text}"
        );
        assert_eq!(open.usl, None);
    }
}
