//! The breaker's presets beside the libraries that they are named after: the
//! same calls, outcomes and steps of the clock, and after each the same word
//! about whether the call may be made and the same state.
//!
//! gobreaker and pybreaker play theirs in processes of their own
//! (`tests/parts/breakers`), on clocks that stand still.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use failsafe::{Config, Instrument, backoff, clock, failure_policy};
use pillion::config::model::{Rules, Style};
use pillion::policy::breaker::{Breaker, Permit, State, Verdict};

use crate::parts::installed;

/// How many traces of 200 steps each library gets.
fn traces() -> u64 {
    std::env::var("PILLION_TEST_TRACES").ok().and_then(|text| text.parse().ok()).unwrap_or(500)
}

/// What a program makes of the traces: a line for each of theirs.
fn said(command: &mut Command, text: String) -> Vec<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("= ")).map(str::to_owned).collect()
}

/// Milliseconds; often near a limit of theirs.
fn step(random: &mut fastrand::Rng) -> u64 {
    match random.u32(0..12) {
        0 => random.u64(59_990..60_010),
        1 => random.u64(9_990..10_010),
        2 => random.u64(5_990..6_010),
        3 => random.u64(29_990..30_010),
        4 => random.u64(0..100_000),
        _ => random.u64(0..500),
    }
}

/// What happens to a breaker.
enum Event {
    Time(u64),
    /// A call that ends before the next event.
    Whole(bool),
    Begin(usize),
    End(usize, bool),
}

/// 200 events, with calls that run beside each other where `beside`. A call that
/// `begin` refused is never ended.
fn play(random: &mut fastrand::Rng, beside: bool, mut tell: impl FnMut(Event, &mut fastrand::Rng) -> bool) {
    let (bad, mut calls) = (random.f64(), Vec::new());
    for id in 0..200 {
        let failed = random.f64() < bad;
        match random.u32(0..10) {
            0..2 => {
                let time = step(random);
                tell(Event::Time(time), random);
            }
            _ if !beside => {
                tell(Event::Whole(failed), random);
            }
            2..6 => {
                if tell(Event::Begin(id), random) {
                    calls.push(id);
                }
            }
            _ if calls.is_empty() => {}
            _ => {
                let id = calls.swap_remove(random.usize(..calls.len()));
                tell(Event::End(id, failed), random);
            }
        }
    }
}

fn verdict(failed: bool) -> Verdict {
    Verdict { failed, took: Duration::ZERO }
}

/// Writes a trace for another program, and what ours makes of it. gobreaker's
/// state changes by being asked for it, so it is not after a step of time.
fn trace(rules: &Rules, first: &str, one: bool, seed: u64, text: &mut String, ours: &mut Vec<String>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut now = Instant::now();
    let breaker = Breaker::new(rules.clone(), now);
    let mut permits: Vec<Option<Permit>> = std::iter::repeat_with(|| None).take(200).collect();
    let mut told = |line: String, made: bool, now| {
        let state = if !one && line.starts_with("t ") { "-" } else { breaker.state(now).0.as_str() };
        ours.push(format!("{} {state}", u8::from(made)));
        text.push_str(&line);
        text.push('\n');
        made
    };
    told(first.to_owned(), true, now);
    play(&mut random, !one, |event, random| match event {
        Event::Time(time) => {
            now += Duration::from_millis(time);
            told(format!("t {time}"), true, now)
        }
        Event::Whole(failed) => {
            let permit = breaker.admit(now).0.ok();
            let made = permit.is_some();
            if let Some(permit) = permit {
                breaker.settle(permit, verdict(failed), now, random);
            }
            told(if failed { "f" } else { "s" }.to_owned(), made, now)
        }
        Event::Begin(id) => {
            permits[id] = breaker.admit(now).0.ok();
            told(format!("b {id}"), permits[id].is_some(), now)
        }
        Event::End(id, failed) => {
            breaker.settle(permits[id].take().unwrap(), verdict(failed), now, random);
            told(format!("{} {id}", if failed { "f" } else { "s" }), true, now)
        }
    });
}

#[track_caller]
fn same(theirs: &[String], ours: &[String], text: &str) {
    let lines: Vec<_> = text.lines().collect();
    for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        let before = &lines[index.saturating_sub(12)..=index];
        assert_eq!(theirs, ours, "theirs and ours at step {index}, after {before:?}");
    }
    assert_eq!(theirs.len(), ours.len(), "all of it was played");
    let of = |state: &str| ours.iter().filter(|line| line.ends_with(state)).count();
    let (closed, open, half) = (of(" closed"), of(" open"), of(" half_open"));
    println!("{} steps the same: {closed} closed, {open} open, {half} half-open", ours.len());
    let least = ours.len() / 100;
    assert!(closed > least && open > least && half > least / 2, "{closed}, {open} and {half} of the states");
}

#[test]
fn gobreaker_says_the_same() {
    let (mut text, mut ours) = (String::new(), Vec::new());
    for seed in 0..traces() {
        let rules = Rules::preset(Style::Gobreaker);
        // And the rules of its zero value.
        let zero = Rules { interval: None, half_open_requests: 1, close_after: 1, ..rules.clone() };
        let (rules, first) = if seed % 2 == 0 { (rules, "new 3 10000") } else { (zero, "new 0 0") };
        trace(&rules, first, false, seed, &mut text, &mut ours);
    }
    let program = installed("bin/breakers-go");
    same(&said(Command::new(program).args(["-test.run", "^TestTrace$"]), text.clone()), &ours, &text);
}

#[test]
fn pybreaker_says_the_same() {
    let (mut text, mut ours) = (String::new(), Vec::new());
    for seed in 0..traces() {
        trace(&Rules::preset(Style::Pybreaker), "new", true, seed, &mut text, &mut ours);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/breakers/pybreaker_trace.py");
    let mut python = Command::new(installed("python/bin/python"));
    same(&said(python.arg(script), text.clone()), &ours, &text);
}

/// What failsafe has become last.
struct Told(std::rc::Rc<std::cell::Cell<State>>);

impl Instrument for Told {
    fn on_call_rejected(&self) {}
    fn on_open(&self) {
        self.0.set(State::Open);
    }
    fn on_half_open(&self) {
        self.0.set(State::HalfOpen);
    }
    fn on_closed(&self) {
        self.0.set(State::Closed);
    }
}

/// Both in one process; says how often each state was seen.
fn beside_failsafe(seed: u64, seen: &mut [usize; 3]) {
    clock::freeze(|time| {
        let rules = Rules::preset(Style::Failsafe);
        let ours = Breaker::new(rules.clone(), time.now());
        let pauses = backoff::constant(rules.open_for.0);
        let rate = 1.0 - rules.failure_rate.unwrap();
        let policy =
            failure_policy::success_rate_over_time_window(rate, rules.min_requests, rules.window, pauses);
        let state = std::rc::Rc::new(std::cell::Cell::new(State::Closed));
        let theirs = Config::new().failure_policy(policy).instrument(Told(state.clone())).build();
        let (mut now_ours, mut step) = (State::Closed, 0);
        let mut permits: Vec<Option<Permit>> = std::iter::repeat_with(|| None).take(200).collect();
        let mut random = fastrand::Rng::with_seed(seed);
        let beside = !seed.is_multiple_of(4);
        play(&mut random, beside, |event, random| {
            let now = time.now();
            let begin = || {
                let (permit, moved) = ours.admit(now);
                assert_eq!(theirs.is_call_permitted(), permit.is_ok(), "seed {seed}, step {step}");
                (permit.ok(), moved)
            };
            let mut end = |permit: Permit, failed: bool| {
                match failed {
                    true => theirs.on_error(),
                    false => theirs.on_success(),
                }
                ours.settle(permit, verdict(failed), now, random)
            };
            let (made, moved) = match event {
                Event::Time(millis) => {
                    time.advance(Duration::from_millis(millis));
                    (true, None)
                }
                Event::Whole(failed) => {
                    let (permit, begun) = begin();
                    let made = permit.is_some();
                    (made, permit.and_then(|permit| end(permit, failed)).or(begun))
                }
                Event::Begin(id) => {
                    let (permit, moved) = begin();
                    permits[id] = permit;
                    (permits[id].is_some(), moved)
                }
                Event::End(id, failed) => (true, end(permits[id].take().unwrap(), failed)),
            };
            now_ours = moved.map_or(now_ours, |moved| moved.to);
            assert_eq!(state.get(), now_ours, "seed {seed}, step {step}");
            seen[now_ours as usize] += 1;
            step += 1;
            made
        });
    });
}

#[test]
fn failsafe_says_the_same() {
    let mut seen = [0; 3];
    for seed in 0..traces() {
        beside_failsafe(seed, &mut seen);
    }
    let steps: usize = seen.iter().sum();
    println!("{steps} steps the same: {seen:?} closed, open, half-open");
    assert!(seen.iter().all(|count| *count > steps / 100), "{seen:?} of the states");
}
