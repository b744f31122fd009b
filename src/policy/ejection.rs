//! Which endpoints are left out because calls to them fail, and for how long.
//!
//! One judge decides for the whole process, on the control thread: the cap on
//! how many are out, and that the last one stays, can't be held by workers that
//! each see a part. Workers count, and ring when a limit is reached.
//!
//! What always holds (`tests/sim/ejection.rs` tries it on thousands of schedules):
//! - never more are out than `max_percent` of all, rounded up, nor the last one
//!   that can be used, unless `max_percent` is 100 %;
//! - an endpoint that fails nothing is never accused, hence never out;
//! - whoever is out comes back after at most the longest time, and early where
//!   those in use do not suffice and it does answer: it may be well again;
//! - the n-th ejection in a row lasts the first time × 2^(n-1), at most the
//!   longest time, less up to a fifth at random; time served well forgives;
//! - when all fail, nobody is out: that is no endpoint's own fault, and no state
//!   outlives the failure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::vitals::{Cause, Tally};
use crate::config::model::{Ejection, SuccessRate};

/// The part of a time out that chance takes off.
const JITTER: f64 = 0.2;
/// Those in use have too little where one call of so many finds no place there,
/// and so many do not.
const SHORT: u64 = 10;
const SOME: u64 = 3;
/// A rate must be this far below the mean, whatever the deviation: where all
/// succeed nearly always, a small difference means nothing.
const LEAST_DIFFERENCE: f64 = 0.05;

/// Decides for one upstream. Endpoints are known by numbers.
#[derive(Debug)]
pub struct Judge {
    rules: Option<Ejection>,
    records: HashMap<u32, Record>,
    /// How many of these are out.
    count: usize,
}

#[derive(Clone, Debug)]
struct Record {
    /// `None` while it is in.
    out: Option<Out>,
    /// Ejections in a row.
    times: u32,
    /// How long the last one lasted, and when it was over.
    last: Duration,
    back: Instant,
}

/// Why an endpoint is out, and until when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Out {
    /// Why.
    pub cause: Cause,
    /// Until when.
    pub until: Instant,
    /// For the how-manyth time in a row.
    pub times: u32,
}

/// What all endpoints are like when one is accused.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// All of them.
    pub total: usize,
    /// Those that take calls.
    pub in_use: usize,
    /// Those that are out or accused.
    pub failing: usize,
}

/// What becomes of an accused endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes.
    Out(Out),
    /// It stays: as many are out as may be, or it is the last.
    Stays,
    /// All fail: these come back.
    AllFail(Vec<u32>),
}

impl Judge {
    /// Nobody is out.
    pub fn new(rules: Option<Ejection>) -> Self {
        Self { rules, records: HashMap::new(), count: 0 }
    }

    /// The rules from now on. Whoever is out without rules comes back.
    pub fn set(&mut self, rules: Option<Ejection>) -> Vec<u32> {
        self.rules = rules;
        if self.rules.is_some() { Vec::new() } else { self.release() }
    }

    /// Why an endpoint is out.
    pub fn out(&self, who: u32) -> Option<Out> {
        self.records.get(&who)?.out
    }

    /// How many are out.
    pub fn count(&self) -> usize {
        self.count
    }

    /// An endpoint that is in has reached a limit.
    pub fn accuse(
        &mut self,
        who: u32,
        cause: Cause,
        scene: Scene,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Verdict {
        let Some(rules) = &self.rules else { return Verdict::Stays };
        if self.out(who).is_some() {
            return Verdict::Stays;
        }
        let all_allowed = rules.max_percent >= 1.0;
        if scene.failing >= scene.total && !all_allowed {
            return Verdict::AllFail(self.release());
        }
        if self.count >= cap(rules, scene.total) || (scene.in_use < 2 && !all_allowed) {
            return Verdict::Stays;
        }
        let (first, longest) = rules.time;
        let record =
            self.records.entry(who).or_insert(Record { out: None, times: 0, last: first, back: now });
        let served = now.saturating_duration_since(record.back);
        let forgiven = served.as_millis() / record.last.as_millis().max(1);
        record.times = record.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)) + 1;
        let whole = first.saturating_mul(1 << (record.times - 1).min(16)).min(longest);
        let time = whole.mul_f64(1.0 - JITTER * random.f64());
        let out = Out { cause, until: now + time, times: record.times };
        (record.last, record.out) = (time, Some(out));
        self.count += 1;
        Verdict::Out(out)
    }

    /// Those whose time is over come back.
    pub fn returns(&mut self, now: Instant) -> Vec<u32> {
        self.take_back(|out| out.until <= now, now)
    }

    /// When the next one comes back.
    pub fn next(&self) -> Option<Instant> {
        self.records.values().filter_map(|record| Some(record.out?.until)).min()
    }

    /// It comes back before its time; whether it was out.
    pub fn pardon(&mut self, who: u32, now: Instant) -> bool {
        let Some(record) = self.records.get_mut(&who) else { return false };
        record.back = now;
        let was_out = record.out.take().is_some();
        self.count -= usize::from(was_out);
        was_out
    }

    /// It is gone.
    pub fn forget(&mut self, who: u32) {
        let was_out = self.records.remove(&who).is_some_and(|record| record.out.is_some());
        self.count -= usize::from(was_out);
    }

    /// Those in use have too little, so one comes back early: the one that is out
    /// longest, since `before` at least, of those that do answer. If it fails
    /// again, that counts once only.
    pub fn relieve(&mut self, before: Instant, now: Instant) -> Option<u32> {
        let since = |record: &Record| {
            let out = record.out.filter(|out| out.cause != Cause::Failures)?;
            Some(out.until - record.last).filter(|since| *since <= before)
        };
        let longest = self.records.iter().filter_map(|(who, record)| Some((since(record)?, *who))).min();
        let record = self.records.get_mut(&longest?.1)?;
        (record.out, record.back) = (None, now);
        record.times -= 1;
        self.count -= 1;
        Some(longest?.1)
    }

    /// There are `total` now: those come back who are too many to be out, the
    /// ones that have least time left first.
    pub fn fit(&mut self, total: usize, now: Instant) -> Vec<u32> {
        let Some(rules) = &self.rules else { return Vec::new() };
        let mut out: Vec<_> = self.records.iter().filter_map(|(who, r)| Some((r.out?.until, *who))).collect();
        let many = out.len().saturating_sub(cap(rules, total));
        out.sort_unstable();
        let back: Vec<u32> = out.into_iter().take(many).map(|(_, who)| who).collect();
        for who in &back {
            self.pardon(*who, now);
        }
        back
    }

    fn take_back(&mut self, which: impl Fn(&Out) -> bool, now: Instant) -> Vec<u32> {
        let mut back = Vec::new();
        for (who, record) in &mut self.records {
            if record.out.take_if(|out| which(out)).is_some() {
                record.back = now;
                back.push(*who);
            }
        }
        self.count -= back.len();
        back.sort_unstable();
        back
    }

    /// Everybody comes back, as if nothing had been.
    fn release(&mut self) -> Vec<u32> {
        self.count = 0;
        let mut back: Vec<u32> =
            self.records.drain().filter(|(_, record)| record.out.is_some()).map(|(who, _)| who).collect();
        back.sort_unstable();
        back
    }
}

/// How many may be out at one time.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of `total`")]
fn cap(rules: &Ejection, total: usize) -> usize {
    if rules.max_percent >= 1.0 {
        return total;
    }
    ((rules.max_percent * total as f64).ceil() as usize).min(total.saturating_sub(1))
}

/// Those who succeed too seldom beside the others, the worst first. Each comes
/// with the calls of an interval.
pub fn outliers(rule: &SuccessRate, windows: &[(u32, Tally)]) -> Vec<u32> {
    let calls = |tally: &Tally| tally.good + tally.bad;
    let enough = windows.iter().filter(|(_, tally)| calls(tally) >= rule.requests.max(1));
    let mut rates: Vec<(f64, u32)> =
        enough.map(|(who, tally)| (tally.good as f64 / calls(tally) as f64, *who)).collect();
    if rates.len() < rule.endpoints.max(1) {
        return Vec::new();
    }
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(rate, _)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(rate, _)| (rate - mean).powi(2)).sum::<f64>() / count;
    let least = mean - (rule.stdev_factor * variance.sqrt()).max(LEAST_DIFFERENCE);
    rates.retain(|(rate, _)| *rate < least);
    rates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    rates.into_iter().map(|(_, who)| who).collect()
}

/// Whether those in use, with the calls of a second, have too little: a tenth of
/// their calls or more, and some at least, found no place there.
pub fn falls_short(windows: &[(u32, Tally)]) -> bool {
    let (good, short) =
        windows.iter().fold((0, 0), |(good, short), (_, tally)| (good + tally.good, short + tally.short));
    short >= SOME && short * SHORT >= good + short
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
mod tests;
