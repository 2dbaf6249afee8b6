//! Runs as measuring commands leave them, made up: every kind, with the blemishes that the report
//! has to show. Set `CORELANE_REPORT_FIXTURES` to a directory to have them written there.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::Source;
use crate::load::{Verify, new_histogram};
use crate::run::answers::{
    BackendsAnswer, Figures, GateAnswer, LatencyBound, ScaleAnswer, ScaleStep, Scenario,
    SearchAnswer, SearchStep, SimulationAnswer, TimelineStep, Usl, Validation,
};
use crate::run::machine::BlockDevice;
use crate::run::point::{Arrivals, Ceiling, ServerCost};
use crate::run::{FORMAT, Latencies, Machine, Point, Run, RunKind, VERSION};

const TOML: &str = "name = \"uniform-4k\"\nread_bytes = 4096\n\n[objects]\ncount = 1024\nbytes = \"1MiB\"\n\n[keys]\ndistribution = \"uniform\"\nseed = 7\n";

pub(super) fn machine() -> Machine {
    let mitigations = [
        ("meltdown", "Not affected"),
        (
            "retbleed",
            "Mitigation: untrained return thunk; SMT disabled",
        ),
        (
            "spectre_v2",
            "Mitigation: Retpolines; IBPB: conditional; STIBP: disabled; RSB filling",
        ),
    ];
    Machine {
        cpu: "AMD EPYC 9654 96-Core Processor".to_owned(),
        cpus: 2,
        governor: String::new(),
        is_virtual: true,
        kernel: "6.18.2".to_owned(),
        kernel_command_line: "console=ttyS0 root=/dev/vda1 ro mitigations=auto".to_owned(),
        mitigations: mitigations
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into(),
        huge_pages: "madvise".to_owned(),
        memory_bytes: 25_093_840_896,
        devices: vec![BlockDevice {
            name: "vda".to_owned(),
            model: String::new(),
            bytes: 270_582_939_648,
            scheduler: "none".to_owned(),
        }],
        host: "lab-1".to_owned(),
    }
}

pub(super) fn run(kind: RunKind, name: &str) -> Run {
    Run {
        format: FORMAT.to_owned(),
        version: VERSION,
        kind,
        name: name.to_owned(),
        program: "0.1.0".to_owned(),
        started_at_ms: 1_795_368_371_000,
        is_partial: false,
        command: [
            "corelane-perf",
            "load",
            "--workload",
            "perf/workloads/uniform-4k.toml",
            "--target",
            "127.0.0.1:7410",
        ]
        .map(str::to_owned)
        .into(),
        machine: machine(),
        points: Vec::new(),
        search: None,
        scale: None,
        simulation: None,
        gate: None,
        backends: None,
    }
}

/// Latencies around `median_us` whose tail is the longer the higher `tail`.
pub(super) fn latencies(median_us: f64, tail: f64, samples: u64) -> Latencies {
    let mut histogram = new_histogram();
    const STEPS: u64 = 4000;
    for step in 0..STEPS {
        // Evenly over the logarithm of what lies beyond, so that the tail has as many steps as the body.
        let (from, to) = (step as f64 / STEPS as f64, (step + 1) as f64 / STEPS as f64);
        let beyond = |share: f64| (samples as f64).powf(-share);
        let count = ((beyond(from) - beyond(to)) * samples as f64).round() as u64;
        let nines = -beyond(from).log10();
        let value_us = median_us * (0.62 + 0.9 * nines * 0.45 + tail * nines.powi(3) / 10.0);
        histogram.saturating_record_n(
            (value_us * 1e3) as u64,
            count.max(u64::from(step + 1 == STEPS)),
        );
    }
    Latencies::of(&histogram)
}

pub(super) fn point(label: &str, target: &str, rate: f64, arrivals: Arrivals) -> Point {
    let median_us = 4.0e7 / rate.max(1.0);
    let seconds = 5.0;
    let operations = (rate * seconds) as u64;
    let is_open = arrivals != Arrivals::Closed;
    let service = latencies(median_us, 0.4, operations.max(10));
    Point {
        label: label.to_owned(),
        target: target.to_owned(),
        workload: "uniform-4k".to_owned(),
        workload_toml: TOML.to_owned(),
        arrivals,
        connections: 64,
        depth: 32,
        generators: 1,
        generator_cores: vec![1],
        seed: 7,
        seconds,
        operations,
        rate,
        reads: operations,
        bytes: operations * 4096,
        errors: 0,
        first_error: None,
        verify: Verify::Sample,
        verified: operations / 64,
        wrong: 0,
        by_source: [operations, 0, 0],
        latency: if is_open {
            latencies(median_us * 1.1, 3.0, operations.max(10))
        } else {
            service.clone()
        },
        service,
        sent_late: Latencies::default(),
        generator_spin_us: Some(0.0),
        unfinished: 0,
        is_overrun: false,
        generator_busy_percent: 71.0,
        steal_percent: 0.2,
        server: Some(ServerCost {
            cpu_us_per_operation: 0.98e6 / rate.max(1.0),
            cpu_user_us_per_operation: 0.31e6 / rate.max(1.0),
            voluntary_switches_per_operation: 0.0004,
            involuntary_switches_per_operation: 0.0001,
            ring_enters_per_operation: (target == "data-plane").then_some(0.041),
            bytes_copied_per_byte: (target == "data-plane").then_some(0.0),
            busy_percent: 98.4,
            resident_bytes: 734_003_200,
        }),
        ceiling: Some(Ceiling {
            name: "network".to_owned(),
            rate: 808_000.0,
            cpu_us_per_operation: 1.22,
            ratio: rate / 808_000.0,
        }),
    }
}

/// Three targets in a closed loop, three rounds each, and open loop at one rate.
pub(super) fn load(name: &str, speed: f64) -> Run {
    let mut run = run(RunKind::Load, name);
    let targets = [
        ("corelane", "data-plane", 709_000.0),
        ("redis", "redis", 279_000.0),
        ("nginx", "http", 133_000.0),
    ];
    for round in [0.98, 1.0, 1.03] {
        for (label, target, rate) in targets {
            run.points
                .push(point(label, target, rate * round * speed, Arrivals::Closed));
        }
    }
    for (label, target, rate) in targets {
        let offered = if rate > 200_000.0 {
            200_000.0
        } else {
            90_000.0
        };
        let arrivals = Arrivals::Poisson {
            per_second: offered,
        };
        let mut point = point(label, target, offered, arrivals);
        point.latency = latencies(4.0e6 / rate / speed, 2.0, point.operations);
        point.service = latencies(3.6e6 / rate / speed, 0.2, point.operations);
        run.points.push(point);
    }
    run
}

/// Ten steps; some past the bound, one of them overrun.
pub(super) fn search() -> Run {
    let mut run = run(RunKind::Search, "search of corelane");
    run.command[1] = "search".to_owned();
    let bound = LatencyBound {
        quantile: 0.99,
        us: 1_000.0,
    };
    let mut curve = Vec::new();
    let offered = [
        50e3, 100e3, 200e3, 400e3, 800e3, 600e3, 500e3, 550e3, 575e3, 562e3,
    ];
    for (index, offered) in offered.into_iter().enumerate() {
        let load: f64 = offered / 590e3;
        let is_overrun = load >= 1.0;
        let waits = if is_overrun { 40.0 } else { 1.0 / (1.0 - load) };
        let achieved = if is_overrun { 590e3 } else { offered };
        let mut point = point(
            "corelane",
            "data-plane",
            achieved,
            Arrivals::Poisson {
                per_second: offered,
            },
        );
        point.latency = latencies(38.0 * waits.sqrt(), waits, point.operations);
        point.service = latencies(34.0 * waits.sqrt().min(4.0), 0.3, point.operations);
        point.is_overrun = is_overrun;
        let latency_us = point.latency.p99_us;
        let holds = !is_overrun && latency_us <= bound.us;
        curve.push(SearchStep {
            point: index,
            offered,
            achieved,
            latency_us,
            holds,
            reason: match (holds, is_overrun) {
                (true, _) => None,
                (false, true) => Some("the backlog passed its bound".to_owned()),
                (false, false) => Some(format!("p99 of {latency_us:.0} us")),
            },
        });
        run.points.push(point);
    }
    let held = curve
        .iter()
        .filter(|step| step.holds)
        .map(|step| step.offered);
    let failed = curve
        .iter()
        .filter(|step| !step.holds)
        .map(|step| step.offered);
    run.search = Some(SearchAnswer {
        bound,
        highest_rate: held.max_by(f64::total_cmp),
        lowest_failure: failed.min_by(f64::total_cmp),
        curve,
    });
    run
}

/// One to eight shards, three rounds each.
pub(super) fn scale() -> Run {
    let mut run = run(RunKind::Scale, "1 to 8 shards");
    let usl = Usl {
        rate: 209_000.0,
        contention: 0.021,
        coherency: 0.0011,
        relative_error: 0.008,
    };
    let mut steps: Vec<ScaleStep> = Vec::new();
    for count in 1..=8u32 {
        let n = f64::from(count);
        let rate =
            usl.rate * n / (1.0 + usl.contention * (n - 1.0) + usl.coherency * n * (n - 1.0));
        let mut points = Vec::new();
        for round in [0.992, 1.0, 1.011] {
            points.push(run.points.len());
            run.points.push(point(
                &format!("{count} shards"),
                "data-plane",
                rate * round,
                Arrivals::Closed,
            ));
        }
        let efficiency = steps.first().map_or(1.0, |first| rate / (n * first.rate));
        steps.push(ScaleStep {
            count,
            points,
            rate,
            cpu_us_per_operation: 4.7 * (1.0 + 0.01 * (n - 1.0)),
            efficiency,
            cpu_efficiency: 1.0 / (1.0 + 0.01 * (n - 1.0)),
        });
    }
    run.scale = Some(ScaleAnswer {
        of: "shards".to_owned(),
        steps,
        usl: Some(usl),
        usl_by_cpu: None,
        notes: Vec::new(),
    });
    run
}

/// A fleet in which a worker dies.
pub(super) fn simulation() -> Run {
    let mut run = run(RunKind::Simulate, "fleets");
    let figures = |rate, us: f64| Figures {
        rate,
        p50_us: us,
        p99_us: us * 4.2,
        p999_us: us * 11.0,
    };
    let timeline: Vec<TimelineStep> = (0..60)
        .map(|step| {
            let since: f64 = f64::from(step) - 20.0;
            let hurt = if since < 0.0 {
                0.0
            } else {
                (-since / 6.0).exp()
            };
            TimelineStep {
                at_ms: f64::from(step) * 100.0,
                figures: figures(1e6 * (1.0 - 0.02 * hurt), 64.0 * (1.0 + 9.0 * hurt)),
                failures: (hurt * 210.0) as u64,
            }
        })
        .collect();
    let scenario = |name: &str, workers: u32, timeline: Vec<TimelineStep>| Scenario {
        name: name.to_owned(),
        workers,
        offered: f64::from(workers) * 20_000.0,
        utilization: 0.7,
        figures: figures(f64::from(workers) * 19_990.0, 64.0),
        failures: timeline.iter().map(|step| step.failures).sum(),
        retries: 1_204,
        hedges: 88_412,
        busiest_over_mean: 1.19,
        moved_share: (name == "death").then_some(0.021),
        timeline,
        notes: vec![format!("{workers} workers, 3 replicas of hot stripes")],
    };
    run.simulation = Some(SimulationAnswer {
        inputs: json!({"service": "run-1.json", "points": ["1 worker at 30 %"]}),
        validation: vec![
            Validation {
                name: "1 worker at 30 %".to_owned(),
                workers: 1,
                offered: 60e3,
                measured: figures(60e3, 52.0),
                simulated: figures(60.02e3, 49.0),
            },
            Validation {
                name: "2 workers at 60 %".to_owned(),
                workers: 2,
                offered: 240e3,
                measured: figures(239.4e3, 71.0),
                simulated: figures(240.1e3, 80.0),
            },
        ],
        scenarios: vec![
            scenario("steady", 50, Vec::new()),
            scenario("death", 50, timeline),
            scenario("steady", 3000, Vec::new()),
        ],
    });
    run
}

/// Measures that hold, one that does not, one without a verdict.
pub(super) fn gate() -> Run {
    let mut run = run(RunKind::Gate, "gate");
    run.gate = Some(GateAnswer {
        measures: vec![
            json!({"name": "dram_4k_pipelined", "value": 709_000.0, "unit": "1/s", "ceiling": 808_000.0, "ratio": 0.88, "spread": [0.86, 0.96], "bar": "ratio >= 0.85", "holds": true}),
            json!({"name": "device_4k_cpu", "value": 6.9, "unit": "us", "ceiling": 5.5, "ratio": 1.28, "spread": [1.13, 1.56], "bar": "ratio <= 1.2", "holds": false}),
            json!({"name": "fast_device_4k", "value": 298_000.0, "unit": "1/s", "ceiling": 357_000.0, "ratio": 0.83, "spread": [0.71, 0.94], "bar": "ratio >= 0.85", "holds": null}),
            json!({"name": "instructions_per_hit", "value": 571.0, "unit": "instructions", "ceiling": null, "ratio": null, "spread": null, "bar": "<= 600", "holds": true}),
            json!({"name": "recovery_on_drive", "value": null, "unit": "", "ceiling": null, "ratio": null, "spread": null, "bar": null, "holds": null, "reason": "no room on /var/tmp"}),
        ],
    });
    run
}

/// Our ring beside another, with and without a bar, and idle workers.
pub(super) fn backends() -> Run {
    let spread =
        |median: f64| json!({"median": median, "least": 0.9 * median, "greatest": 1.2 * median});
    let contestant = |runtime: &str, cpu: f64, over: Option<f64>| {
        json!({"runtime": runtime, "rate": spread(1e6 / cpu), "cpu_us": spread(cpu), "user_us": spread(0.1 * cpu),
               "cpu_over_ours": over.map(spread), "p50_us": spread(300.0), "p99_us": spread(700.0),
               "busy_percent": spread(98.0), "ring_worker_percent": spread(0.0)})
    };
    let mut run = run(RunKind::CompareBackends, "backends");
    run.backends = Some(BackendsAnswer {
        rows: vec![
            json!({"name": "echo_4k_64x1", "what": "64 B requests, 4 KiB replies",
                   "contestants": [contestant("uring", 5.4, None), contestant("compio", 5.6, Some(1.04))],
                   "bar": {"ours_over_compio": 0.96, "at_most": 0.85, "holds": false}, "notes": ["compio: 1 reads FAILED"]}),
            json!({"name": "idle", "what": "workers without clients", "contestants": [],
                   "idle": [{"runtime": "uring", "cpu_percent": spread(0.04)}], "notes": []}),
            json!({"name": "read_4k_128", "what": "direct reads", "contestants": [], "reason": "no room", "notes": []}),
        ],
        left_out: vec!["left out: glommio".to_owned()],
    });
    run
}

/// A run with every doubt that a point can raise, on another machine, ended early, and with markup
/// in every text.
pub(super) fn hostile() -> Run {
    const MARKUP: &str = "</script><script>document.title='taken'</script><b \"'>&";
    let mut run = load(MARKUP, 0.9);
    run.is_partial = true;
    run.program = MARKUP.to_owned();
    run.command.push(MARKUP.to_owned());
    run.machine.host = MARKUP.to_owned();
    run.machine.governor = MARKUP.to_owned();
    run.machine.mitigations = BTreeMap::from([(MARKUP.to_owned(), MARKUP.to_owned())]);
    let point = &mut run.points[0];
    point.label = MARKUP.to_owned();
    point.target = MARKUP.to_owned();
    point.workload = MARKUP.to_owned();
    point.workload_toml = MARKUP.to_owned();
    point.first_error = Some(MARKUP.to_owned());
    point.errors = 7;
    point.wrong = 3;
    point.unfinished = 9;
    point.is_overrun = true;
    point.steal_percent = 3.1;
    point.generator_busy_percent = 99.9;
    if let Some(ceiling) = &mut point.ceiling {
        ceiling.name = MARKUP.to_owned();
    }
    run.search = search().search;
    let answer = run.search.as_mut().expect("a search has an answer");
    answer.curve[0].point = usize::MAX;
    answer.curve[1].reason = Some(MARKUP.to_owned());
    run.scale = scale().scale;
    run.scale.as_mut().expect("a scaling has an answer").of = MARKUP.to_owned();
    run.simulation = simulation().simulation;
    let simulation = run.simulation.as_mut().expect("a simulation has an answer");
    simulation.inputs = json!({ MARKUP: MARKUP });
    simulation.scenarios[1].name = MARKUP.to_owned();
    simulation.scenarios[1].notes = vec![MARKUP.to_owned()];
    simulation.validation[0].name = MARKUP.to_owned();
    run.gate = Some(GateAnswer {
        measures: vec![
            json!({"name": MARKUP, "unit": MARKUP, "bar": MARKUP, "holds": MARKUP, "reason": MARKUP, "value": 1.0, "spread": [1, "x"]}),
            json!(7),
        ],
    });
    run.backends = Some(BackendsAnswer {
        rows: vec![
            json!({"name": MARKUP, "what": MARKUP, "contestants": [{"runtime": MARKUP, "rate": MARKUP}, 7], "idle": [MARKUP],
                   "bar": MARKUP, "reason": MARKUP, "notes": [MARKUP, 7]}),
            json!(7),
        ],
        left_out: vec![MARKUP.to_owned()],
    });
    run
}

/// A run as if it had been read.
pub(super) fn source(run: Run) -> Source {
    Source {
        file: format!("{}.json", run.name),
        text: serde_json::to_string(&run).expect("a run is plain data"),
        run,
    }
}

/// One of every kind.
pub(super) fn all() -> Vec<Source> {
    [
        load("three targets", 1.0),
        search(),
        scale(),
        simulation(),
        gate(),
        backends(),
    ]
    .map(source)
    .into()
}

#[test]
fn what_is_written_is_read_again() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let asked = std::env::var_os("CORELANE_REPORT_FIXTURES");
    let directory = asked.as_ref().map_or(scratch.path(), Path::new);
    let runs = [
        ("load", load("three targets", 1.0)),
        ("load-before", load("three targets", 0.93)),
        ("search", search()),
        ("scale", scale()),
        ("simulate", simulation()),
        ("gate", gate()),
        ("backends", backends()),
        ("hostile", hostile()),
    ];
    for (name, run) in runs {
        let path = directory.join(format!("{name}.json"));
        run.write(&path).expect("a writable directory");
        let read = Source::read(&path).expect("as written").run;
        assert_eq!((read.name, read.command), (run.name, run.command));
        let labels = |points: &[Point]| -> Vec<String> {
            points.iter().map(|point| point.label.clone()).collect()
        };
        assert_eq!(labels(&read.points), labels(&run.points));
    }
}
