//! A circuit breaker: whether a call may be made, after how the calls before
//! it went.
//!
//! All workers share one. Its state is one word, changed by compare-and-swap:
//! what it is (closed, open, half-open), its generation (how often it was
//! something else), and what that state counts. A call that is let through gets
//! a [`Permit`] with the generation in it, so that an answer that comes late
//! changes nothing. A good call of a closed breaker reads the word twice.

mod average;
mod window;
mod word;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use self::average::Average;
use self::window::Window;
use self::word::{MOST, Phase, Word};
use crate::config::model::{Rules, Style};

/// The word for whoever is refused half-open: nobody knows when the probes end.
const SOON: Duration = Duration::from_secs(1);

/// Probes that have not ended hold their places for so long at least.
const LONG: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug)]
pub struct Breaker {
    rules: Rules,
    epoch: Instant,
    word: AtomicU64,
    /// Probes that have not ended, of whatever generation.
    probing: AtomicU32,
    /// When the last of them began.
    probed: AtomicU64,
    /// How often it opened without having been closed for a while (8 bits), and
    /// when it closed last.
    history: AtomicU64,
    tally: Tally,
}

/// What counts shares of calls.
#[derive(Debug)]
enum Tally {
    None,
    Window(Box<Window>),
    Average(Box<Average>),
}

/// A call that was let through. It must be settled or given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe that is never settled nor given back keeps its place"]
pub struct Permit {
    generation: u16,
    probe: bool,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It failed.
    pub failed: bool,
    /// How long it took.
    pub took: Duration,
}

/// What a breaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All calls go through.
    Closed,
    /// None does.
    Open,
    /// Some do, to see how they go.
    HalfOpen,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why it opened.
    pub cause: &'static str,
    /// For how long it opened.
    pub time: Duration,
}

/// The call may not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is: open or half-open.
    pub state: State,
    /// When it makes sense to come back.
    pub left: Duration,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Permit {
    /// Whether the call is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

impl Breaker {
    /// A closed breaker, as of `now`.
    pub fn new(rules: Rules, now: Instant) -> Self {
        let tally = match (rules.style, rules.failure_rate) {
            (Style::Failsafe, Some(_)) => Tally::Average(Box::new(Average::new(rules.window))),
            (_, None) if rules.slow_calls.is_none() => Tally::None,
            _ => Tally::Window(Box::new(Window::new(rules.window))),
        };
        let mut this = Self {
            rules,
            epoch: now,
            word: AtomicU64::new(0),
            probing: AtomicU32::new(0),
            probed: AtomicU64::new(0),
            history: AtomicU64::new(0),
            tally,
        };
        *this.word.get_mut() = Word { generation: 0, phase: this.closed(0) }.pack();
        this
    }

    /// Whether a call may be made at `now`; the change that the question made.
    pub fn admit(&self, now: Instant) -> (Result<Permit, Refused>, Option<Moved>) {
        let at = self.millis(now);
        let mut moved = None;
        loop {
            let seen = self.word.load(SeqCst);
            let Word { generation, phase } = Word::unpack(seen);
            match phase {
                Phase::Closed { .. } => {
                    if self.forgot(seen, at) {
                        continue;
                    }
                    return (Ok(Permit { generation, probe: false }), moved);
                }
                Phase::Open { until } if at < until => {
                    let left = Duration::from_millis(until - at);
                    return (Err(Refused { state: State::Open, left }), moved);
                }
                Phase::Open { .. } => {
                    if self.swap(seen, generation.wrapping_add(1), Phase::HalfOpen { begun: 0, good: 0 }) {
                        moved = Some(Moved::new(State::Open, State::HalfOpen));
                    }
                }
                Phase::HalfOpen { begun, good } => match self.probe(seen, generation, (begun, good), at) {
                    Some(true) => return (Ok(Permit { generation, probe: true }), moved),
                    Some(false) => return (Err(Refused { state: State::HalfOpen, left: SOON }), moved),
                    None => {}
                },
            }
        }
    }

    /// Whether `admit` would let a call through; it changes nothing.
    pub fn allows(&self, now: Instant) -> bool {
        let at = self.millis(now);
        match Word::unpack(self.word.load(SeqCst)).phase {
            Phase::Closed { .. } => true,
            Phase::Open { until } => at >= until && self.has_room(0, at),
            Phase::HalfOpen { begun, .. } => self.has_room(begun, at),
        }
    }

    /// The call has ended at `now`; the change that made.
    #[allow(clippy::needless_pass_by_value, reason = "a permit is good for one call")]
    pub fn settle(
        &self,
        permit: Permit,
        verdict: Verdict,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Moved> {
        let moved = self.take_in(&permit, verdict, now, random);
        self.leave(&permit);
        moved
    }

    /// The call has ended without saying anything: its place is free again.
    #[allow(clippy::needless_pass_by_value, reason = "a permit is good for one call")]
    pub fn give_back(&self, permit: Permit) {
        // gobreaker's way counts all of a generation.
        if self.rules.style == Style::Gobreaker && permit.probe {
            while !self.uncount(permit.generation) {}
        }
        self.leave(&permit);
    }

    /// What it is at `now`, and for how long it stays open.
    pub fn state(&self, now: Instant) -> (State, Duration) {
        let at = self.millis(now);
        match Word::unpack(self.word.load(SeqCst)).phase {
            Phase::Closed { .. } => (State::Closed, Duration::ZERO),
            Phase::Open { until } if at < until => (State::Open, Duration::from_millis(until - at)),
            Phase::Open { .. } | Phase::HalfOpen { .. } => (State::HalfOpen, Duration::ZERO),
        }
    }

    /// Probes that have not ended.
    pub fn probing(&self) -> u32 {
        self.probing.load(SeqCst)
    }

    /// A place for one more probe: whether there is, `None` if the state changed.
    fn probe(&self, seen: u64, generation: u16, (begun, good): (u16, u16), at: u64) -> Option<bool> {
        let most = self.rules.half_open_requests;
        match self.rules.style {
            Style::Failsafe => {
                self.probing.fetch_add(1, SeqCst);
                Some(true)
            }
            Style::Gobreaker => {
                if u32::from(begun) >= most {
                    return Some(false);
                }
                let next = Phase::HalfOpen { begun: begun.saturating_add(1), good };
                self.swap(seen, generation, next).then(|| {
                    self.probing.fetch_add(1, SeqCst);
                    true
                })
            }
            Style::Own | Style::Pybreaker => {
                let more = |now: u32| (now < most).then_some(now + 1);
                if self.probing.fetch_update(SeqCst, SeqCst, more).is_err() && !self.one_more(at) {
                    return Some(false);
                }
                let still = Word::unpack(self.word.load(SeqCst));
                if still.generation == generation && matches!(still.phase, Phase::HalfOpen { .. }) {
                    self.probed.fetch_max(at, SeqCst);
                    return Some(true);
                }
                self.probing.fetch_sub(1, SeqCst);
                None
            }
        }
    }

    fn has_room(&self, begun: u16, at: u64) -> bool {
        match self.rules.style {
            Style::Failsafe => true,
            Style::Gobreaker => u32::from(begun) < self.rules.half_open_requests,
            Style::Own | Style::Pybreaker => {
                self.probing.load(SeqCst) < self.rules.half_open_requests
                    || at >= self.overdue(self.probed.load(SeqCst))
            }
        }
    }

    /// Takes a place beside those of probes that do not end: else a call that
    /// never does would keep all others out.
    fn one_more(&self, at: u64) -> bool {
        let last = self.probed.load(SeqCst);
        let may = at >= self.overdue(last) && self.probed.compare_exchange(last, at, SeqCst, SeqCst).is_ok();
        if may {
            self.probing.fetch_add(1, SeqCst);
        }
        may
    }

    /// When one more probe may begin, after one at `last`.
    fn overdue(&self, last: u64) -> u64 {
        last.saturating_add(whole_millis(self.rules.open_for.0.max(LONG)))
    }

    /// One probe of this generation less; false if it has to be tried again.
    fn uncount(&self, of: u16) -> bool {
        let seen = self.word.load(SeqCst);
        match Word::unpack(seen) {
            Word { generation, phase: Phase::HalfOpen { begun, good } } if generation == of => {
                self.swap(seen, generation, Phase::HalfOpen { begun: begun.saturating_sub(1), good })
            }
            _ => true,
        }
    }

    fn leave(&self, permit: &Permit) {
        if permit.probe {
            self.probing.fetch_sub(1, SeqCst);
        }
    }

    /// Whether failures in a row were to be forgotten by now, and are.
    fn forgot(&self, seen: u64, at: u64) -> bool {
        let Word { generation, phase } = Word::unpack(seen);
        match phase {
            Phase::Closed { expires, .. } if expires > 0 && at >= expires => {
                let next = Word { generation: generation.wrapping_add(1), phase: self.closed(at) };
                // After two years the word has no room for a later time.
                let later = matches!(
                    Word::unpack(next.pack()).phase, Phase::Closed { expires, .. } if expires > at
                );
                later && {
                    self.swap(seen, next.generation, next.phase);
                    true
                }
            }
            _ => false,
        }
    }

    fn take_in(
        &self,
        permit: &Permit,
        verdict: Verdict,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Moved> {
        let at = self.millis(now);
        let slow = self.rules.slow_calls.is_some_and(|(limit, _)| verdict.took > limit);
        // What the tally makes of the call, once it knows of it.
        let mut tallied = None;
        loop {
            let seen = self.word.load(SeqCst);
            // gobreaker looks at its clock whoever comes, a late answer too.
            if self.forgot(seen, at) {
                continue;
            }
            let Word { generation, phase } = Word::unpack(seen);
            // failsafe hears everybody, whenever they began.
            if generation != permit.generation && self.rules.style != Style::Failsafe {
                return None;
            }
            match phase {
                Phase::Closed { failures, expires } => {
                    let over = *tallied.get_or_insert_with(|| self.tally(verdict.failed, slow, at));
                    let failures = if verdict.failed { failures.saturating_add(1).min(MOST) } else { 0 };
                    let limit = self.rules.consecutive_failures;
                    let in_a_row = verdict.failed && limit > 0 && u32::from(failures) >= limit;
                    match over.or(in_a_row.then_some("consecutive_failures")) {
                        Some(cause) => {
                            let moved = self.open(seen, State::Closed, cause, at, random);
                            if moved.is_some() {
                                return moved;
                            }
                        }
                        None if self.swap(seen, generation, Phase::Closed { failures, expires }) => {
                            return None;
                        }
                        None => {}
                    }
                }
                Phase::HalfOpen { begun, good } => {
                    if verdict.failed || slow {
                        tallied.get_or_insert_with(|| self.tally(verdict.failed, slow, at));
                        let moved = self.open(seen, State::HalfOpen, "probe", at, random);
                        if moved.is_some() {
                            return moved;
                        }
                    } else if u32::from(good) + 1 < self.rules.close_after {
                        if self.swap(seen, generation, Phase::HalfOpen { begun, good: good + 1 }) {
                            return None;
                        }
                    } else {
                        self.clear(at);
                        if self.swap(seen, generation.wrapping_add(1), self.closed(at)) {
                            self.closed_at(at);
                            self.tally_after_close(at);
                            return Some(Moved::new(State::HalfOpen, State::Closed));
                        }
                    }
                }
                Phase::Open { .. } => {
                    // Only failsafe comes here, and counts successes alone.
                    if !verdict.failed {
                        tallied.get_or_insert_with(|| self.tally(false, slow, at));
                    }
                    return None;
                }
            }
        }
    }

    /// Counts a call; why the breaker has to open.
    fn tally(&self, failed: bool, slow: bool, at: u64) -> Option<&'static str> {
        match &self.tally {
            Tally::None => None,
            Tally::Window(window) => {
                window.add(at, failed, slow);
                // A good call opens nothing.
                if failed || slow { window.over(at, &self.rules) } else { None }
            }
            Tally::Average(average) => {
                let over = average.add(at, failed, &self.rules);
                over.then_some("failure_rate")
            }
        }
    }

    fn clear(&self, at: u64) {
        match &self.tally {
            Tally::None => {}
            Tally::Window(window) => window.clear(),
            Tally::Average(average) => average.revive(at),
        }
    }

    /// failsafe counts the probe that closed it too.
    fn tally_after_close(&self, at: u64) {
        if let Tally::Average(average) = &self.tally {
            average.add(at, false, &self.rules);
        }
    }

    fn open(
        &self,
        seen: u64,
        from: State,
        cause: &'static str,
        at: u64,
        random: &mut fastrand::Rng,
    ) -> Option<Moved> {
        let (first, longest) = self.rules.open_for;
        let history = self.history.load(SeqCst);
        let (times, closed) = (history & 0xff, history >> 8);
        let rested = at.saturating_sub(closed) >= whole_millis(longest);
        let anew = history == 0 || (from == State::Closed && rested);
        let times = if anew { 0 } else { (times + 1).min(32) };
        let doubled = first.saturating_mul(1 << times.min(20)).min(longest);
        let time = match self.rules.style {
            Style::Own => doubled.mul_f64(1.0 - random.f64() / 5.0),
            _ => doubled,
        };
        // These two come back after the time, not when it is over.
        let more = u64::from(matches!(self.rules.style, Style::Gobreaker | Style::Failsafe));
        let until = at.saturating_add(whole_millis(time)).saturating_add(more);
        let generation = Word::unpack(seen).generation.wrapping_add(1);
        if !self.swap(seen, generation, Phase::Open { until }) {
            return None;
        }
        self.history.store(closed.max(1) << 8 | times, SeqCst);
        Some(Moved { from, to: State::Open, cause, time })
    }

    fn closed_at(&self, at: u64) {
        let times = self.history.load(SeqCst) & 0xff;
        self.history.store(at.max(1) << 8 | times, SeqCst);
    }

    /// The state of one that closes at `at`.
    fn closed(&self, at: u64) -> Phase {
        // gobreaker forgets after the time, not when it is over.
        let expires = self.rules.interval.map_or(0, |interval| at + whole_millis(interval) + 1);
        Phase::Closed { failures: 0, expires }
    }

    fn swap(&self, seen: u64, generation: u16, phase: Phase) -> bool {
        let next = Word { generation, phase }.pack();
        // Most calls change nothing, and should not fight over the line.
        seen == next || self.word.compare_exchange(seen, next, SeqCst, SeqCst).is_ok()
    }

    fn millis(&self, now: Instant) -> u64 {
        whole_millis(now.saturating_duration_since(self.epoch))
    }
}

impl Moved {
    fn new(from: State, to: State) -> Self {
        Self { from, to, cause: "", time: Duration::ZERO }
    }
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
