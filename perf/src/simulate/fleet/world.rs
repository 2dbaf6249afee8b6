//! The simulation: clients send operations on schedule, workers serve them in turns, and things
//! happen.
//!
//! The invariants: an operation ends once, as an answer or as a failure; a client's credits are
//! held until the answer has come or the lane is lost.

use std::time::Duration;

use corelane_client::policy::avoid::Avoidance;
use corelane_client::policy::credits::Credits;
use corelane_client::policy::hedge::Hedging;
use corelane_client::policy::route::{Route, TRIAL_PATIENCE};
use corelane_placement::fleet::{MemberIndex, Slot};
use slab::Slab;

use super::fills::{BLOCKS_PER_STRIPE, Fills};
use super::{FleetSpec, Happening};
use crate::random::Random;
use crate::run::point::Arrivals;
use crate::simulate::events::Events;
use crate::simulate::outcome::Outcome;
use crate::simulate::server::{Attempt, Servers};
use crate::workload::keys::Draw;

/// Simulates `spec`.
///
/// # Panics
/// If the spec names a worker or a view that it does not have, or arrivals in a closed loop.
pub fn run(spec: &FleetSpec) -> Outcome {
    let mut world = World::new(spec);
    world.run();
    world.outcome()
}

enum Event {
    /// An operation is due.
    Due,
    /// An attempt reaches its worker.
    AtWorker(Attempt),
    /// A worker's turn is over.
    TurnEnds(usize),
    /// An attempt's answer has come.
    Answered(Attempt),
    /// An attempt's connection is lost, as the client sees it.
    Lost(Attempt),
    /// The delay of a hedge has passed.
    Late {
        operation: usize,
        ask: u64,
    },
    /// The wait before a retry has passed.
    Again {
        operation: usize,
    },
    Happens(usize),
}

struct Operation {
    due_ns: u64,
    client: usize,
    slot: Slot,
    block: u64,
    route: Route,
    /// Tells this asking from every other, for the delay that may outlive it.
    ask: u64,
    asked_ns: u64,
    /// Attempts that have not ended.
    under_way: u8,
    is_done: bool,
}

struct Sent {
    operation: usize,
    worker: MemberIndex,
    is_second: bool,
    /// Whether its worker died meanwhile.
    is_lost: bool,
    holds_credits: bool,
    has_ended: bool,
    /// The way back, in nanoseconds.
    back_ns: u64,
}

struct World<'a> {
    spec: &'a FleetSpec,
    random: Random,
    events: Events<Event>,
    servers: Servers,
    stripes: Draw,
    fills: Fills,
    view: usize,
    next_due_ns: f64,
    is_dead: Vec<bool>,
    /// When clients know of the death of each worker.
    known_dead_ns: Vec<u64>,
    operations: Slab<Operation>,
    /// All that were ever sent: an event may name one that has ended.
    attempts: Vec<Sent>,
    asks: u64,
    /// Of each client.
    hedging: Vec<Option<Hedging>>,
    /// Of each client and worker.
    avoidance: Vec<Avoidance>,
    credits: Vec<Credits<Attempt>>,
    answered: Vec<Attempt>,
    outcome: Outcome,
}

impl<'a> World<'a> {
    fn new(spec: &'a FleetSpec) -> World<'a> {
        let (cpus, slowness): (Vec<usize>, Vec<f64>) = spec.workers.iter().copied().unzip();
        let pairs = spec.clients * spec.workers.len();
        let hedging = spec.hedge.filter(|_| spec.replicas > 1).map(Hedging::new);
        World {
            spec,
            random: Random::new(spec.seed),
            events: Events::default(),
            servers: Servers::new(spec.model.cost, &cpus, &slowness),
            stripes: Draw::new(spec.keys, spec.stripes),
            fills: Fills::new(spec.under_store.clone()),
            view: 0,
            next_due_ns: 0.0,
            is_dead: vec![false; spec.workers.len()],
            known_dead_ns: vec![u64::MAX; spec.workers.len()],
            operations: Slab::new(),
            attempts: Vec::new(),
            asks: 0,
            hedging: vec![hedging; spec.clients],
            avoidance: vec![Avoidance::new(spec.avoid); pairs],
            credits: vec![Credits::new(spec.credits); pairs],
            answered: Vec::new(),
            outcome: Outcome::new(spec.warm_up_ns, spec.length_ns, spec.slices),
        }
    }

    fn run(&mut self) {
        for (number, (after_ns, _)) in self.spec.happenings.iter().enumerate() {
            self.events
                .add(self.spec.warm_up_ns + after_ns, Event::Happens(number));
        }
        self.schedule_next();
        while let Some(event) = self.events.pop() {
            match event {
                Event::Due => self.begin(),
                Event::AtWorker(attempt) => self.at_worker(attempt),
                Event::TurnEnds(worker) => self.turn_ends(worker),
                Event::Answered(attempt) => self.answered(attempt),
                Event::Lost(attempt) => self.lost(attempt),
                Event::Late { operation, ask } => self.late(operation, ask),
                Event::Again { operation } => self.ask(operation),
                Event::Happens(number) => self.happen(self.spec.happenings[number].1),
            }
        }
        assert!(self.operations.is_empty(), "every operation ends");
    }

    fn outcome(mut self) -> Outcome {
        self.outcome.requests = self.servers.requests().collect();
        self.outcome.turns = self.servers.turns();
        self.outcome.busy_ns = self.servers.busy_ns();
        self.outcome.misses = self.fills.misses();
        self.outcome
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.events.now())
    }

    fn pair(&self, client: usize, worker: MemberIndex) -> usize {
        client * self.spec.workers.len() + usize::from(worker)
    }

    fn schedule_next(&mut self) {
        let gap_s = match self.spec.arrivals {
            Arrivals::Poisson { per_second } => -(1.0 - self.random.fraction()).ln() / per_second,
            Arrivals::Constant { per_second } => 1.0 / per_second,
            Arrivals::Closed => panic!("the simulation of fleets is an open loop"),
        };
        // Large fleets have less than a nanosecond between arrivals, so fractions are kept.
        self.next_due_ns += gap_s * 1e9;
        let end_ns = self.spec.warm_up_ns + self.spec.length_ns;
        if self.next_due_ns < end_ns as f64 {
            let after_ns = (self.next_due_ns as u64).saturating_sub(self.events.now());
            self.events.add(after_ns, Event::Due);
        }
    }

    fn begin(&mut self) {
        self.schedule_next();
        self.outcome.operations += 1;
        let now = self.now();
        let client = self.random.below(self.spec.clients as u64) as usize;
        let stripe = self.stripes.next(&mut self.random, now);
        let block = stripe * BLOCKS_PER_STRIPE + self.random.below(BLOCKS_PER_STRIPE);
        let view = &self.spec.views[self.view];
        let slot = view.placement().slot_of(stripe, 0);
        let (holders, count) = view.holders(slot);
        let first_pair = self.pair(client, 0);
        let route = Route::new(
            &holders[..count],
            self.spec.replicas,
            view.leaving(slot),
            self.spec.retry,
            |worker| {
                let avoidance = &mut self.avoidance[first_pair + usize::from(worker)];
                // By then every client has heard that its lanes are gone.
                if self.known_dead_ns[usize::from(worker)] <= now.as_nanos() as u64 {
                    avoidance.connection_lost(now);
                }
                avoidance.access(now)
            },
        );
        let operation = self.operations.insert(Operation {
            due_ns: self.events.now(),
            client,
            slot,
            block,
            route,
            ask: 0,
            asked_ns: 0,
            under_way: 0,
            is_done: false,
        });
        self.ask(operation);
    }

    /// Asks the worker of the operation's route, and has it hedged if it is late.
    fn ask(&mut self, number: usize) {
        self.asks += 1;
        let operation = &mut self.operations[number];
        operation.ask = self.asks;
        operation.asked_ns = self.events.now();
        let worker = operation.route.worker();
        let second = operation.route.second();
        let is_trial = operation.route.is_trial();
        let client = operation.client;
        let delay = self.hedging[client]
            .as_mut()
            .filter(|_| u64::from(self.spec.read_bytes) <= hedged_bytes_max(self.spec))
            .and_then(Hedging::read_begins);
        let delay = if is_trial {
            delay.or(Some(TRIAL_PATIENCE))
        } else {
            delay
        };
        if let (Some(delay), Some(_)) = (delay, second) {
            let ask = self.asks;
            self.events.add(
                delay.as_nanos() as u64,
                Event::Late {
                    operation: number,
                    ask,
                },
            );
        }
        self.attempt(number, worker, false);
    }

    fn late(&mut self, number: usize, ask: u64) {
        let Some(operation) = self.operations.get(number) else {
            return;
        };
        if operation.ask != ask || operation.is_done || operation.under_way == 0 {
            return;
        }
        let hedging = self.hedging[operation.client].as_mut();
        if !operation.route.is_trial() && !hedging.is_some_and(Hedging::may_hedge) {
            return;
        }
        let second = operation.route.second().expect("the delay was for it");
        self.outcome.hedges += 1;
        self.attempt(number, second, true);
    }

    fn attempt(&mut self, number: usize, worker: MemberIndex, is_second: bool) {
        let operation = &mut self.operations[number];
        operation.under_way += 1;
        let pair = operation.client * self.spec.workers.len() + usize::from(worker);
        let attempt = self.attempts.len() as Attempt;
        self.attempts.push(Sent {
            operation: number,
            worker,
            is_second,
            is_lost: false,
            holds_credits: false,
            has_ended: false,
            back_ns: 0,
        });
        if self.is_dead[usize::from(worker)] {
            let patience = self.spec.connect_timeout.as_nanos() as u64;
            self.events.add(patience, Event::Lost(attempt));
        } else if let Some(attempt) = self.credits[pair].ask(self.spec.read_bytes, attempt) {
            self.send(attempt);
        }
    }

    fn send(&mut self, attempt: Attempt) {
        let path_ns = self.spec.model.path.draw(&mut self.random);
        let sent = &mut self.attempts[attempt as usize];
        sent.holds_credits = true;
        sent.back_ns = path_ns - path_ns / 2;
        self.events.add(path_ns / 2, Event::AtWorker(attempt));
    }

    fn at_worker(&mut self, attempt: Attempt) {
        let sent = &self.attempts[attempt as usize];
        if sent.is_lost {
            return;
        }
        let turn = self.servers.arrive(usize::from(sent.worker), attempt);
        self.schedule_turn(turn);
    }

    fn schedule_turn(&mut self, turn: Option<(usize, u64)>) {
        if let Some((worker, lasts_ns)) = turn {
            self.events.add(lasts_ns, Event::TurnEnds(worker));
        }
    }

    fn turn_ends(&mut self, worker: usize) {
        let mut answered = std::mem::take(&mut self.answered);
        let turn = self.servers.end_turn(worker, &mut answered);
        self.schedule_turn(turn);
        for attempt in answered.drain(..) {
            let sent = &self.attempts[attempt as usize];
            if sent.is_lost {
                continue;
            }
            let operation = &self.operations[sent.operation];
            let had_it = self.spec.views[0].holds(sent.worker, operation.slot, self.spec.replicas);
            let wait_ns = if had_it {
                0
            } else {
                let now = self.events.now();
                self.fills
                    .read(sent.worker, operation.block, now, &mut self.random)
            };
            self.events
                .add(wait_ns + sent.back_ns, Event::Answered(attempt));
        }
        self.answered = answered;
    }

    fn answered(&mut self, attempt: Attempt) {
        let Some(number) = self.end(attempt) else {
            return;
        };
        let sent = &self.attempts[attempt as usize];
        let (worker, is_second) = (sent.worker, sent.is_second);
        let operation = &mut self.operations[number];
        let client = operation.client;
        let now_ns = self.events.now();
        // Nobody listens any more to the answer of an operation that has ended.
        if !operation.is_done {
            operation.is_done = true;
            self.outcome.answered(operation.due_ns, now_ns);
            self.outcome.hedges_won += u64::from(is_second);
            if let Some(hedging) = &mut self.hedging[client] {
                hedging.read_ended(Duration::from_nanos(now_ns - operation.asked_ns));
            }
            let pair = self.pair(client, worker);
            self.avoidance[pair].answered();
        }
        self.forget_if_over(number);
    }

    fn lost(&mut self, attempt: Attempt) {
        let Some(number) = self.end(attempt) else {
            return;
        };
        let operation = &self.operations[number];
        if operation.is_done {
            self.forget_if_over(number);
            return;
        }
        let worker = self.attempts[attempt as usize].worker;
        let pair = self.pair(operation.client, worker);
        let now = self.now();
        self.avoidance[pair].failed(now);
        let operation = &mut self.operations[number];
        if operation.under_way > 0 {
            return;
        }
        match operation.route.next(Duration::ZERO, self.random.fraction()) {
            Some(wait) => {
                self.outcome.retries += 1;
                let again = Event::Again { operation: number };
                self.events.add(wait.as_nanos() as u64, again);
            }
            None => {
                operation.is_done = true;
                self.outcome.failed(operation.due_ns);
                self.forget_if_over(number);
            }
        }
    }

    /// Ends an attempt and gives its credits to those who wait. Gives the number of its operation,
    /// if it had not ended before.
    fn end(&mut self, attempt: Attempt) -> Option<usize> {
        let sent = &mut self.attempts[attempt as usize];
        if std::mem::replace(&mut sent.has_ended, true) {
            return None;
        }
        let number = sent.operation;
        let holds_credits = std::mem::take(&mut sent.holds_credits);
        let worker = sent.worker;
        let operation = &mut self.operations[number];
        operation.under_way -= 1;
        if holds_credits {
            let pair = operation.client * self.spec.workers.len() + usize::from(worker);
            let mut next = Vec::new();
            self.credits[pair].give_back(self.spec.read_bytes, |attempt| next.push(attempt));
            next.into_iter().for_each(|attempt| self.send(attempt));
        }
        Some(number)
    }

    fn forget_if_over(&mut self, number: usize) {
        let operation = &self.operations[number];
        if operation.is_done && operation.under_way == 0 {
            self.operations.remove(number);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Slow { worker, factor } => self.servers.slow_down(worker, factor),
            Happening::Place { view } => {
                assert!(view < self.spec.views.len(), "view {view}");
                self.view = view;
            }
            Happening::Die { worker } => self.die(worker),
        }
    }

    /// Every lane to the worker is reset: whatever was under way on it is lost.
    fn die(&mut self, worker: usize) {
        self.is_dead[worker] = true;
        let half_path_ns = self.spec.model.path.quantile(0.5) / 2;
        self.known_dead_ns[worker] = self.events.now() + half_path_ns;
        self.servers.forget(worker);
        for client in 0..self.spec.clients {
            let pair = self.pair(client, worker as MemberIndex);
            // Those who wait for credits are lost below, with those who have them.
            self.credits[pair].close().for_each(drop);
        }
        for attempt in 0..self.attempts.len() {
            let sent = &mut self.attempts[attempt];
            if usize::from(sent.worker) != worker || sent.has_ended || sent.is_lost {
                continue;
            }
            sent.is_lost = true;
            sent.holds_credits = false;
            // The client hears of it half a round trip later.
            let path_ns = self.spec.model.path.draw(&mut self.random);
            self.events
                .add(path_ns / 2, Event::Lost(attempt as Attempt));
        }
    }
}

fn hedged_bytes_max(spec: &FleetSpec) -> u64 {
    spec.hedge.map_or(0, |limits| limits.bytes_max)
}

#[cfg(test)]
mod tests;
