//! How many calls of an upstream may be sent more than once: a share of those
//! of the last seconds. All workers and all routes draw from the same, for
//! retries and for hedges, so that neither multiplies the other.
//!
//! Over any stretch of time that begins where nothing was sent before, what is
//! sent again is at most the greater of the share and [`FLOOR`], in each
//! [`WINDOW`] of it. A call counts from the next part of the window on, so that
//! what the floor has lent is made good. Nothing is saved beyond that: an upstream that has been well
//! for a day gets no storm on its first bad second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::UpstreamName;
use crate::base::directory::MAX_UPSTREAMS;

/// How long the budget remembers a call.
pub const WINDOW: Duration = Duration::from_secs(5);
/// What may be sent again within a [`WINDOW`] however few calls there are, so
/// that an upstream with little traffic can be retried at all.
pub const FLOOR: u32 = 10;

/// Parts of the window; the oldest is let go as a new one begins.
const SLOTS: u64 = 32;
/// The length of one.
const SLOT: Duration = Duration::from_micros(156_250);
/// A call earns its share in thousandths of an attempt.
const UNIT: u64 = 1000;

/// The budget of one upstream.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    /// Each the number of its part of time, what was earned and what was spent
    /// in it: see [`Slot`].
    slots: [AtomicU64; 32],
}

/// The budgets of all upstreams, for all workers. All clones are the same.
#[derive(Clone, Default)]
pub struct Budgets(Arc<Mutex<Named>>);

/// By the name of the upstream, and whether that is the fronted service.
type Named = HashMap<(UpstreamName, bool), Arc<Budget>>;

/// 20 bits of `tick`, 24 of `earned`, 20 of `spent`, each as much as fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Slot {
    tick: u64,
    earned: u64,
    spent: u64,
}

/// A slot in which nothing was counted yet.
const UNUSED: u64 = u64::MAX;
const TICKS: u64 = 1 << 20;
const MOST_EARNED: u64 = (1 << 24) - 1;
const MOST_SPENT: u64 = (1 << 20) - 1;

impl Budgets {
    /// The budget of an upstream; `inbound` where that is the fronted service.
    pub fn get(&self, name: &UpstreamName, inbound: bool, now: Instant) -> Arc<Budget> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= 2 * MAX_UPSTREAMS {
            all.retain(|_, budget| Arc::strong_count(budget) > 1);
        }
        all.entry((name.clone(), inbound)).or_insert_with(|| Arc::new(Budget::new(now))).clone()
    }
}

impl Budget {
    /// One that has seen no call.
    pub fn new(now: Instant) -> Self {
        Self { epoch: now, slots: std::array::from_fn(|_| AtomicU64::new(UNUSED)) }
    }

    /// A call was made, of which `share` (0 to 1) may be sent again.
    pub fn deposit(&self, share: f64, now: Instant) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let earned = (share.clamp(0.0, 1.0) * UNIT as f64).round() as u64;
        self.add(self.tick(now), earned, 0);
    }

    /// Takes one attempt out, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let tick = self.tick(now);
        // Taken before it is counted: of two that take the last one at a time
        // at least one sees both.
        let at = self.add(tick, 0, 1);
        let (earned, spent) = self.sum(tick);
        let enough = spent <= (earned / UNIT).max(FLOOR.into());
        if !enough {
            self.give_back(at);
        }
        enough
    }

    /// What may be sent again now.
    pub fn left(&self, now: Instant) -> u64 {
        let (earned, spent) = self.sum(self.tick(now));
        (earned / UNIT).max(FLOOR.into()).saturating_sub(spent)
    }

    fn tick(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.epoch).as_micros() / SLOT.as_micros();
        u64::try_from(passed).unwrap_or(u64::MAX) % TICKS
    }

    /// Counts, in the part of time that `tick` is or a later one; says in which.
    fn add(&self, tick: u64, earned: u64, spent: u64) -> u64 {
        let slot = &self.slots[Self::index(tick)];
        let mut at = tick;
        let _ = slot.fetch_update(SeqCst, SeqCst, |packed| {
            let mut now = Slot::unpack(packed);
            let is_later = age(tick, now.tick) < SLOTS;
            if packed == UNUSED || (now.tick != tick && !is_later) {
                now = Slot { tick, ..Slot::default() };
            }
            at = now.tick;
            now.earned = (now.earned + earned).min(MOST_EARNED);
            now.spent = (now.spent + spent).min(MOST_SPENT);
            Some(now.pack())
        });
        at
    }

    fn give_back(&self, tick: u64) {
        let _ = self.slots[Self::index(tick)].fetch_update(SeqCst, SeqCst, |packed| {
            let now = Slot::unpack(packed);
            (now.tick == tick && now.spent > 0).then(|| Slot { spent: now.spent - 1, ..now }.pack())
        });
    }

    /// What was earned and spent in the window that ends with `tick`.
    fn sum(&self, tick: u64) -> (u64, u64) {
        let (mut earned, mut spent) = (0, 0);
        let used = self.slots.iter().map(|slot| slot.load(SeqCst)).filter(|packed| *packed != UNUSED);
        for slot in used.map(Slot::unpack) {
            let old = age(slot.tick, tick);
            // Another worker's clock may have been read a moment later.
            if old < SLOTS || age(tick, slot.tick) < SLOTS {
                spent += slot.spent;
            }
            if (1..SLOTS).contains(&old) {
                earned += slot.earned;
            }
        }
        (earned, spent)
    }

    fn index(tick: u64) -> usize {
        usize::try_from(tick % SLOTS).unwrap_or(0)
    }
}

/// Parts of time from `then` to `now`, which wrap; a large number where `then` is later.
fn age(then: u64, now: u64) -> u64 {
    now.wrapping_sub(then) % TICKS
}

impl Slot {
    fn pack(self) -> u64 {
        (self.tick << 44) | (self.earned << 20) | self.spent
    }

    fn unpack(packed: u64) -> Self {
        Self { tick: packed >> 44, earned: (packed >> 20) & MOST_EARNED, spent: packed & MOST_SPENT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again_stays_a_share_of_the_calls() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let mut again = 0;
        for call in 0..20_000u32 {
            let now = start + Duration::from_millis(u64::from(call));
            budget.deposit(0.2, now);
            again += u32::from(budget.withdraw(now)) + u32::from(budget.withdraw(now));
            assert!(again <= (call + 1) / 5 + FLOOR, "{again} of {call}");
        }
        assert!((3_800..=4_000).contains(&again), "{again}");
        let later = start + Duration::from_secs(1_000);
        let after_quiet = (0..100).filter(|_| budget.withdraw(later)).count();
        assert_eq!(after_quiet, FLOOR as usize, "nothing was saved");
        assert_eq!((budget.left(later), budget.left(later + WINDOW)), (0, FLOOR.into()));
    }

    #[test]
    fn an_upstream_that_was_well_gets_no_storm() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        (0..3_600_000).step_by(10).for_each(|millis| budget.deposit(0.2, at(millis)));
        let mut again = 0;
        for millis in (3_600_000..3_620_000).step_by(10) {
            budget.deposit(0.2, at(millis));
            again += u32::from(budget.withdraw(at(millis))) + u32::from(budget.withdraw(at(millis)));
        }
        assert!((375..=400).contains(&again), "{again} of 2,000 calls");
    }

    #[test]
    fn nothing_is_lost_where_the_count_of_time_wraps() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let wrap = start + SLOT * u32::try_from(TICKS).unwrap();
        for slot in 0..60u32 {
            let now = wrap - SLOT * 40 + SLOT * slot;
            (0..1_000).for_each(|_| budget.deposit(0.2, now));
            let earned = 200 * u64::from(slot).min(SLOTS - 1);
            assert_eq!(budget.left(now), earned.max(FLOOR.into()), "at {slot}");
        }
    }

    #[test]
    fn workers_that_spend_at_a_time_stay_within_it() {
        let now = Instant::now();
        let budget = Budget::new(now);
        (0..1_000).for_each(|_| budget.deposit(0.2, now));
        let now = now + SLOT;
        let spent: usize = std::thread::scope(|scope| {
            let spend = || (0..1_000).filter(|_| budget.withdraw(now)).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(spend)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!((190..=200).contains(&spent), "{spent}");
    }

    #[test]
    fn every_worker_gets_the_same() {
        let (budgets, now) = (Budgets::default(), Instant::now());
        let users = UpstreamName::new("users");
        let other = budgets.clone();
        let one = budgets.get(&users, false, now);
        assert!(Arc::ptr_eq(&one, &other.get(&users, false, now)));
        assert!(!Arc::ptr_eq(&one, &budgets.get(&users, true, now)));
    }
}
