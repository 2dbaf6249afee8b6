//! A worker as a queue: one server that works in turns, as a shard's loop does.
//!
//! Each turn takes all requests that have arrived, and all their answers leave at its end; it lasts
//! a fixed time and a time for each request. So a loaded worker spends less on a request than an idle
//! one, as the measured one does. Workers may share a CPU: those that are ready take turns.
//!
//! The invariant: a CPU runs one turn at a time, and is idle only when nothing waits for it.

use std::collections::VecDeque;

/// Number of an attempt of a request, whatever its owner means by it.
pub type Attempt = u32;

/// What a turn costs, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TurnCost {
    /// Each turn.
    pub turn_ns: f64,
    /// Each request in it.
    pub operation_ns: f64,
    /// Requests in it at the most.
    pub operations_max: usize,
}

impl TurnCost {
    /// How long a turn of `operations` lasts on a worker that is slower by `slowness`.
    pub fn lasts_ns(&self, operations: usize, slowness: f64) -> u64 {
        let ns = (self.turn_ns + self.operation_ns * operations as f64) * slowness;
        ns.round().max(1.0) as u64
    }
}

#[derive(Debug, Default)]
struct Worker {
    cpu: usize,
    slowness: f64,
    arrived: VecDeque<Attempt>,
    in_turn: Vec<Attempt>,
    is_ready: bool,
    requests: u64,
}

#[derive(Debug, Default)]
struct Cpu {
    is_busy: bool,
    ready: VecDeque<usize>,
}

/// All workers and their CPUs.
#[derive(Debug)]
pub struct Servers {
    cost: TurnCost,
    workers: Vec<Worker>,
    cpus: Vec<Cpu>,
    turns: u64,
    busy_ns: u64,
}

impl Servers {
    /// Worker number i runs on the CPU `cpus[i]` and needs `slowness[i]` times the cost's time.
    ///
    /// # Panics
    /// If the lists are of different lengths.
    pub fn new(cost: TurnCost, cpus: &[usize], slowness: &[f64]) -> Servers {
        assert_eq!(cpus.len(), slowness.len(), "a CPU and a slowness each");
        let cpu_count = cpus.iter().max().map_or(0, |last| last + 1);
        let workers = cpus.iter().zip(slowness).map(|(cpu, slowness)| Worker {
            cpu: *cpu,
            slowness: *slowness,
            ..Worker::default()
        });
        Servers {
            cost,
            workers: workers.collect(),
            cpus: (0..cpu_count).map(|_| Cpu::default()).collect(),
            turns: 0,
            busy_ns: 0,
        }
    }

    /// A request arrives. If a turn begins by that, the worker that has it and how long it lasts.
    pub fn arrive(&mut self, worker: usize, attempt: Attempt) -> Option<(usize, u64)> {
        let server = &mut self.workers[worker];
        server.requests += 1;
        server.arrived.push_back(attempt);
        if server.is_ready || !server.in_turn.is_empty() {
            return None;
        }
        self.make_ready(worker)
    }

    /// The turn of `worker` has ended: its requests are appended to `answered`. If another one
    /// begins on its CPU, the worker that has it and how long it lasts.
    pub fn end_turn(&mut self, worker: usize, answered: &mut Vec<Attempt>) -> Option<(usize, u64)> {
        let server = &mut self.workers[worker];
        answered.append(&mut server.in_turn);
        let cpu = server.cpu;
        self.cpus[cpu].is_busy = false;
        let waits = !server.arrived.is_empty();
        if waits {
            server.is_ready = true;
            self.cpus[cpu].ready.push_back(worker);
        }
        self.begin_turn(cpu)
    }

    /// Drops what has arrived at `worker` and is not in a turn.
    pub fn forget(&mut self, worker: usize) {
        self.workers[worker].arrived.clear();
    }

    /// Makes `worker` slower by a further factor.
    pub fn slow_down(&mut self, worker: usize, factor: f64) {
        self.workers[worker].slowness *= factor;
    }

    /// Requests that arrived at each worker.
    pub fn requests(&self) -> impl Iterator<Item = u64> {
        self.workers.iter().map(|worker| worker.requests)
    }

    /// Turns of all workers.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Time that all CPUs were busy.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    fn make_ready(&mut self, worker: usize) -> Option<(usize, u64)> {
        let server = &mut self.workers[worker];
        server.is_ready = true;
        let cpu = server.cpu;
        self.cpus[cpu].ready.push_back(worker);
        self.begin_turn(cpu)
    }

    fn begin_turn(&mut self, cpu: usize) -> Option<(usize, u64)> {
        if self.cpus[cpu].is_busy {
            return None;
        }
        loop {
            let worker = self.cpus[cpu].ready.pop_front()?;
            let server = &mut self.workers[worker];
            server.is_ready = false;
            let operations = server.arrived.len().min(self.cost.operations_max);
            if operations == 0 {
                continue;
            }
            server.in_turn.extend(server.arrived.drain(..operations));
            let lasts = self.cost.lasts_ns(operations, server.slowness);
            self.cpus[cpu].is_busy = true;
            self.turns += 1;
            self.busy_ns += lasts;
            return Some((worker, lasts));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: TurnCost = TurnCost {
        turn_ns: 100.0,
        operation_ns: 10.0,
        operations_max: usize::MAX,
    };

    #[test]
    fn a_turn_takes_all_that_have_arrived() {
        let mut servers = Servers::new(COST, &[0], &[1.0]);
        assert_eq!(servers.arrive(0, 1), Some((0, 110)));
        assert_eq!(servers.arrive(0, 2), None);
        assert_eq!(servers.arrive(0, 3), None);
        let mut answered = Vec::new();
        assert_eq!(servers.end_turn(0, &mut answered), Some((0, 120)));
        assert_eq!(answered, [1]);
        assert_eq!(servers.end_turn(0, &mut answered), None);
        assert_eq!(answered, [1, 2, 3]);
        servers.slow_down(0, 10.0);
        assert_eq!(servers.arrive(0, 4), Some((0, 1100)));
        assert_eq!((servers.turns(), servers.busy_ns()), (3, 1330));
    }

    #[test]
    fn workers_on_one_cpu_take_turns() {
        let mut servers = Servers::new(COST, &[0, 0, 1], &[1.0, 1.0, 1.0]);
        assert_eq!(servers.arrive(0, 1), Some((0, 110)));
        assert_eq!(servers.arrive(1, 2), None, "the CPU is busy");
        assert_eq!(servers.arrive(2, 3), Some((2, 110)), "another CPU is not");
        assert_eq!(servers.arrive(0, 4), None);
        let mut answered = Vec::new();
        assert_eq!(servers.end_turn(0, &mut answered), Some((1, 110)));
        assert_eq!(servers.end_turn(1, &mut answered), Some((0, 110)));
        assert_eq!(servers.end_turn(0, &mut answered), None);
        assert_eq!(answered, [1, 2, 4]);
    }

    #[test]
    fn a_worker_whose_requests_were_dropped_does_not_hold_its_cpu() {
        let mut servers = Servers::new(COST, &[0, 0], &[1.0, 1.0]);
        servers.arrive(0, 1);
        servers.arrive(1, 2);
        servers.forget(1);
        assert_eq!(servers.end_turn(0, &mut Vec::new()), None);
        assert_eq!(servers.arrive(0, 3), Some((0, 110)));
    }
}
