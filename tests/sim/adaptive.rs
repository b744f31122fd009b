//! The limit that follows the latency, before services that queue.
//!
//! 1. The limit stays within its bounds, and never are more inside than it was
//!    when the last of them entered.
//! 2. Nobody is inside once all have left, whatever way they went.
//! 3. A service that keeps up with its load has no call refused.
//! 4. One that does not keep up goes on doing at least 70 % of what it can, each
//!    call in a few times what it takes alone.
//! 5. Within 5 s of its recovery none of its calls is refused any more.
//! 6. Where one tier of three can't keep up, calls that do not need it go
//!    through, although they share the limits of those that do.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use pillion::config::model::{Bounds, Ceiling, Occupancy, Priority};
use pillion::policy::concurrency::{Gate, Sample, Who};

use crate::seeds;

fn ms(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1000.0)
}

fn gate(bounds: Bounds, start: Instant) -> Gate {
    let limit = Ceiling::Adaptive(bounds);
    Gate::new(&Occupancy { limit, pending: 0, wait: ms(100.0), priority: None }, start)
}

/// A call of a kind.
fn who(kind: usize) -> Who {
    Who { level: 0, kind: kind as u64 }
}

fn at(level: usize) -> Who {
    Who { level, kind: 0 }
}

/// What serves so many calls at a time, each for so long; the others wait.
struct Service {
    slots: usize,
    millis: f64,
    busy: usize,
    queue: VecDeque<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A call of this kind comes.
    Comes(usize),
    /// A service, by its number, is done with a call.
    Done(usize, usize),
    /// A caller waits no longer.
    Late(usize),
}

struct Call {
    kind: usize,
    began: Instant,
    /// The gates that it went through.
    inside: Vec<(usize, usize)>,
    over: bool,
}

/// What became of the calls of one kind, since it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    came: u32,
    good: u32,
    refused: u32,
    took: f64,
}

/// What calls of one kind do: the gates that they pass and the services that
/// they need, in turn.
#[derive(Clone)]
enum Step {
    Gate(usize),
    Service(usize),
}

struct World {
    random: fastrand::Rng,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, Event)>>,
    gates: Vec<Gate>,
    services: Vec<Service>,
    /// Each kind of calls: how many a second, and what they do.
    kinds: Vec<(f64, Vec<Step>)>,
    /// Gates whose refusal is heard as such by the gate before.
    wires: Vec<(usize, usize)>,
    calls: Vec<Call>,
    tallies: Vec<Tally>,
    /// How long callers wait, in milliseconds.
    patience: f64,
    /// Callers that give up do not say that it was for the time it took.
    silent: bool,
    /// A service goes on with calls that nobody waits for any more.
    wasteful: bool,
}

impl World {
    fn new(seed: u64, gates: Vec<Bounds>, services: Vec<Service>, kinds: Vec<(f64, Vec<Step>)>) -> Self {
        let start = Instant::now();
        let gates = gates.into_iter().map(|bounds| gate(bounds, start)).collect();
        let tallies = vec![Tally::default(); kinds.len()];
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            start,
            now: start,
            events: BinaryHeap::new(),
            gates,
            services,
            kinds,
            wires: Vec::new(),
            calls: Vec::new(),
            tallies,
            patience: 1000.0,
            silent: false,
            wasteful: true,
        };
        (0..world.kinds.len()).for_each(|kind| world.schedule(kind));
        world
    }

    fn at(&mut self, millis: f64, event: Event) {
        self.events.push(Reverse((self.now + ms(millis), event)));
    }

    /// The next call of a kind, after a time of an exponential distribution.
    fn schedule(&mut self, kind: usize) {
        let rate = self.kinds[kind].0;
        let pause = -(1.0 - self.random.f64()).ln() / rate * 1000.0;
        self.at(pause.min(10_000.0), Event::Comes(kind));
    }

    /// Goes on for so many seconds.
    fn run(&mut self, seconds: f64) -> Vec<Tally> {
        self.tallies.fill(Tally::default());
        let until = self.now + ms(seconds * 1000.0);
        while self.events.peek().is_some_and(|Reverse((at, _))| *at <= until) {
            let Some(Reverse((at, event))) = self.events.pop() else { break };
            self.now = at;
            match event {
                Event::Comes(kind) => {
                    self.schedule(kind);
                    let call = self.calls.len();
                    let began = self.now;
                    self.calls.push(Call { kind, began, inside: Vec::new(), over: false });
                    self.tallies[kind].came += 1;
                    self.at(self.patience, Event::Late(call));
                    self.go_on(call, 0);
                }
                Event::Done(service, call) => self.done(service, call),
                Event::Late(call) => {
                    if !self.calls[call].over {
                        let waited = self.now - self.calls[call].began;
                        let sample = if self.silent { Sample::GivenUp(waited) } else { Sample::Dropped };
                        self.leave(call, |_| sample);
                    }
                }
            }
        }
        self.now = until;
        self.tallies.clone()
    }

    /// A call goes on with its step number `from`.
    fn go_on(&mut self, call: usize, from: usize) {
        let kind = self.calls[call].kind;
        for index in from..self.kinds[kind].1.len() {
            match self.kinds[kind].1[index] {
                Step::Gate(number) => {
                    let gate = &self.gates[number];
                    let Some(inside) = gate.enter(who(kind)) else {
                        self.tallies[kind].refused += 1;
                        let wires = self.wires.clone();
                        return self.leave(call, |before| match wires.contains(&(before, number)) {
                            true => Sample::Dropped,
                            false => Sample::Nothing,
                        });
                    };
                    assert!(gate.inside() <= gate.limit(), "1: {} of {}", gate.inside(), gate.limit());
                    self.calls[call].inside.push((number, inside));
                }
                Step::Service(number) => {
                    let service = &mut self.services[number];
                    if service.busy == service.slots {
                        return service.queue.push_back(call);
                    }
                    return self.begin(number, call);
                }
            }
        }
        let took = self.now - self.calls[call].began;
        self.tallies[kind].good += 1;
        self.tallies[kind].took += took.as_secs_f64() * 1000.0;
        self.leave(call, |_| Sample::Answered(took));
    }

    fn begin(&mut self, number: usize, call: usize) {
        self.services[number].busy += 1;
        let took = self.services[number].millis * (0.8 + 0.4 * self.random.f64());
        self.at(took, Event::Done(number, call));
    }

    fn done(&mut self, number: usize, call: usize) {
        self.services[number].busy -= 1;
        while let Some(next) = self.services[number].queue.pop_front() {
            if self.wasteful || !self.calls[next].over {
                self.begin(number, next);
                break;
            }
        }
        if self.calls[call].over {
            return;
        }
        let steps = &self.kinds[self.calls[call].kind].1;
        let own = steps.iter().position(|step| matches!(step, Step::Service(own) if *own == number));
        self.go_on(call, own.map_or(0, |own| own + 1));
    }

    /// A call is over: what each of its gates hears of it.
    fn leave(&mut self, call: usize, sample: impl Fn(usize) -> Sample) {
        self.calls[call].over = true;
        for (number, inside) in std::mem::take(&mut self.calls[call].inside) {
            self.gates[number].tell(sample(number), inside, self.now);
            self.gates[number].leave(who(self.calls[call].kind));
        }
    }

    /// Nothing comes any more, and all that is at hand ends.
    fn drain(&mut self) {
        self.events.retain(|Reverse((_, event))| !matches!(event, Event::Comes(_)));
        self.kinds.iter_mut().for_each(|kind| kind.0 = 1e-9);
        self.run(600.0);
        let inside: Vec<_> = self.gates.iter().map(Gate::inside).collect();
        assert!(inside.iter().all(|inside| *inside == 0), "2: {inside:?}");
    }

    fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }
}

/// One service that its load fills to 40 %.
fn single(seed: u64) -> (World, f64, f64) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let slots = random.usize(3..8);
    let millis = random.choice([10.0, 20.0]).unwrap();
    let rate = 0.4 * slots as f64 / millis * 1000.0;
    let service = Service { slots, millis, busy: 0, queue: VecDeque::new() };
    let steps = vec![Step::Gate(0), Step::Service(0)];
    let mut world = World::new(seed, vec![Bounds::default()], vec![service], vec![(rate, steps)]);
    // Of calls that take 250 ms when all is slow, nobody gives up after one second.
    world.patience = (40.0 * millis).max(1000.0) * 2.0;
    world.silent = random.bool();
    world.wasteful = random.bool();
    (world, slots as f64, rate)
}

#[test]
fn a_service_that_loses_its_capacity_does_what_it_can_and_recovers() {
    seeds(|seed| {
        let (mut world, slots, rate) = single(seed);
        let calm = world.run(4.0)[0];
        assert_eq!(calm.refused, 0, "3: {calm:?}");
        let millis = world.services[0].millis * 5.0;
        world.services[0].millis = millis;
        // The time to see it.
        let first = world.run(4.0 + 0.08 * millis)[0];
        let harmed = world.run(6.0)[0];
        let can = (slots / millis * 1000.0).min(rate) * 6.0;
        assert!(f64::from(harmed.good) > 0.7 * can, "4: {harmed:?} of {can}, first {first:?}");
        let took = harmed.took / f64::from(harmed.good);
        assert!(took < 8.0 * millis, "4: {took} ms of {millis}");
        world.services[0].millis = millis / 5.0;
        world.run(5.0);
        let after = world.run(3.0)[0];
        assert_eq!(after.refused, 0, "5: at {} s: {after:?}", world.seconds());
        world.drain();
    });
}

#[test]
fn calls_that_do_not_need_the_tier_that_fails_go_through() {
    seeds(|seed| {
        if seed % 100 != 0 {
            return;
        }
        let [front_in, front_out, middle_in, middle_out, last_in] = [0, 1, 2, 3, 4].map(Step::Gate);
        let service = |slots, millis| Service { slots, millis, busy: 0, queue: VecDeque::new() };
        let services = vec![service(1000, 1.0), service(32, 2.0), service(8, 20.0)];
        let own = vec![front_in.clone(), Step::Service(0)];
        let price = vec![front_in.clone(), front_out.clone(), middle_in.clone(), Step::Service(1)];
        let stock = vec![front_in, front_out, middle_in, middle_out, last_in, Step::Service(2)];
        let kinds = vec![(100.0, own), (100.0, price), (150.0, stock)];
        let mut world = World::new(seed, vec![Bounds::default(); 5], services, kinds);
        world.wires = vec![(1, 2), (3, 4)];
        world.run(10.0);
        world.services[2].millis = 100.0;
        let mut all = [Tally::default(); 3];
        for _ in 0..30 {
            let tally = world.run(1.0);
            for (all, one) in all.iter_mut().zip(tally) {
                all.came += one.came;
                all.good += one.good;
            }
        }
        for (name, kind) in ["own", "price"].iter().zip(all) {
            let share = f64::from(kind.good) / f64::from(kind.came);
            assert!(share > 0.97, "6: {share} of {name}");
        }
        assert!(f64::from(all[2].good) > 0.75 * 80.0 * 30.0, "4: {:?}", all[2]);
        world.services[2].millis = 20.0;
        world.run(5.0);
        let after = world.run(3.0);
        assert!(after.iter().all(|kind| kind.refused == 0), "5: {after:?}");
        world.drain();
    });
}

#[test]
fn whoever_enters_and_leaves_in_whatever_order_is_counted_once() {
    seeds(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let priority = random.bool().then(|| Priority::of("x-priority".parse().unwrap()));
        let levels = if priority.is_some() { 4 } else { 1 };
        let (max, pending) = (random.usize(1..12), random.usize(..5));
        let limit = Ceiling::Fixed(max);
        let gate = Gate::new(&Occupancy { limit, pending, wait: ms(1.0), priority }, Instant::now());
        let (mut inside, mut waiting): (Vec<usize>, Vec<usize>) = Default::default();
        for _ in 0..300 {
            let level = random.usize(..levels);
            match random.u8(..3) {
                0 if gate.enter(at(level)).is_some() => {
                    let before = waiting.iter().all(|other| gate.share(*other) < gate.share(level));
                    assert!(before && inside.len() < gate.share(level), "1: {inside:?} {waiting:?}");
                    inside.push(level);
                }
                0 if gate.queue(level) => waiting.push(level),
                1 if !inside.is_empty() => {
                    inside.swap_remove(random.usize(..inside.len()));
                    gate.leave(at(0));
                }
                2 if !waiting.is_empty() && random.bool() => {
                    gate.unqueue(waiting.swap_remove(random.usize(..waiting.len())));
                }
                _ => {}
            }
            if let Some(level) = gate.next() {
                let index = waiting.iter().position(|waits| *waits == level).expect("somebody waits");
                assert!(gate.enter_waited(at(level)).is_some(), "whoever is called finds room");
                gate.unqueue(waiting.swap_remove(index));
                inside.push(level);
            }
            assert_eq!((gate.inside(), gate.waiting()), (inside.len(), waiting.len()), "2");
            assert!(inside.len() <= max && waiting.len() <= pending, "1");
        }
    });
}
