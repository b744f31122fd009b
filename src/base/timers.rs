//! The coarse timers of one worker: a hashed wheel (Varghese and Lauck, "Hashed
//! and Hierarchical Timing Wheels", 1987, scheme 6).
//!
//! A request arms and disarms several deadlines and nearly none of them fires,
//! so arming must cost next to nothing: here it is two list links, no clock, no
//! lock and no allocation. The price is precision: a timer fires up to
//! [`TICK`] late, plus the worker's own delay, and never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::base::clock;

/// The wheel's step.
pub const TICK: Duration = Duration::from_millis(8);

const SLOTS: usize = 512;
const NONE: u32 = u32::MAX;

/// A handle to the wheel of this worker; cheap to clone.
#[derive(Clone)]
pub struct Timers(Rc<Shared>);

/// One deadline, armed or not. Dropping it disarms it.
pub struct Timer {
    shared: Rc<Shared>,
    key: u32,
}

struct Shared {
    start: Instant,
    wheel: RefCell<Wheel>,
    /// The tick at which the driver wakes next.
    wakes_at: Cell<u64>,
    earlier: Notify,
}

struct Wheel {
    entries: Vec<Entry>,
    free: u32,
    /// First entry of each slot.
    slots: Box<[u32; SLOTS]>,
    /// The last tick that was swept.
    swept: u64,
}

struct Entry {
    tick: u64,
    previous: u32,
    next: u32,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Idle,
    Armed,
    Fired,
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// An empty wheel. Nothing fires until [`Timers::drive`] runs.
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            start: clock::now(),
            wheel: RefCell::new(Wheel {
                entries: Vec::new(),
                free: NONE,
                slots: Box::new([NONE; SLOTS]),
                swept: 0,
            }),
            wakes_at: Cell::new(u64::MAX),
            earlier: Notify::new(),
        }))
    }

    /// A timer that is not armed.
    pub fn timer(&self) -> Timer {
        Timer { shared: self.0.clone(), key: self.0.wheel.borrow_mut().allocate() }
    }

    /// A timer that fires at `deadline`.
    pub fn at(&self, deadline: Instant) -> Timer {
        let mut timer = self.timer();
        timer.arm(deadline);
        timer
    }

    /// Wakes every task that waits for an armed timer, so that it looks at what
    /// has changed beside the time (a drain). No timer fires by this.
    pub fn wake_all(&self) {
        let wakers: Vec<Waker> =
            self.0.wheel.borrow_mut().entries.iter_mut().filter_map(|entry| entry.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Fires what is due, for as long as it is polled. Asks nothing of the
    /// machine while no timer is armed.
    pub async fn drive(&self) {
        let mut due = Vec::new();
        loop {
            let now = self.0.tick_of(clock::now(), false);
            let next = {
                let mut wheel = self.0.wheel.borrow_mut();
                wheel.sweep(now, &mut due);
                wheel.next_occupied()
            };
            self.0.wakes_at.set(next);
            due.drain(..).for_each(Waker::wake);
            let earlier = self.0.earlier.notified();
            if next == u64::MAX {
                earlier.await;
            } else {
                let at = self.0.start + TICK.saturating_mul(u32::try_from(next).unwrap_or(u32::MAX));
                let _ = tokio::time::timeout_at(at.into(), earlier).await;
            }
        }
    }
}

impl Timer {
    /// Fires at `deadline`, whatever was armed before.
    pub fn arm(&mut self, deadline: Instant) {
        let tick = self.shared.tick_of(deadline, true);
        let mut wheel = self.shared.wheel.borrow_mut();
        let tick = tick.max(wheel.swept + 1);
        wheel.unlink(self.key);
        wheel.link(self.key, tick);
        if tick < self.shared.wakes_at.get() {
            self.shared.wakes_at.set(tick);
            self.shared.earlier.notify_one();
        }
    }

    /// Does not fire.
    pub fn disarm(&mut self) {
        self.shared.wheel.borrow_mut().unlink(self.key);
    }

    /// Whether a deadline is set that has not fired.
    pub fn is_armed(&self) -> bool {
        self.shared.wheel.borrow().entries[self.key as usize].state == State::Armed
    }

    /// Ready once the armed deadline has passed. Wakes also on
    /// [`Timers::wake_all`], then without being ready.
    pub fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut wheel = self.shared.wheel.borrow_mut();
        let entry = &mut wheel.entries[self.key as usize];
        if entry.state == State::Fired {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for the armed deadline.
    pub async fn fired(&mut self) {
        std::future::poll_fn(|cx| self.poll_fired(cx)).await;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.wheel.borrow_mut().release(self.key);
    }
}

impl Shared {
    fn tick_of(&self, at: Instant, round_up: bool) -> u64 {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        let tick = TICK.as_nanos();
        let ticks = if round_up { nanos.div_ceil(tick) } else { nanos / tick };
        u64::try_from(ticks).unwrap_or(u64::MAX - 1)
    }
}

impl Wheel {
    fn allocate(&mut self) -> u32 {
        let blank = Entry { tick: 0, previous: NONE, next: NONE, state: State::Idle, waker: None };
        if self.free == NONE {
            self.entries.push(blank);
            u32::try_from(self.entries.len() - 1).unwrap_or(NONE - 1)
        } else {
            let key = self.free;
            self.free = self.entries[key as usize].next;
            self.entries[key as usize] = blank;
            key
        }
    }

    fn release(&mut self, key: u32) {
        self.unlink(key);
        let entry = &mut self.entries[key as usize];
        entry.state = State::Free;
        entry.waker = None;
        entry.next = self.free;
        self.free = key;
    }

    fn link(&mut self, key: u32, tick: u64) {
        let slot = slot_of(tick);
        let first = self.slots[slot];
        if first != NONE {
            self.entries[first as usize].previous = key;
        }
        self.slots[slot] = key;
        let entry = &mut self.entries[key as usize];
        (entry.tick, entry.previous, entry.next, entry.state) = (tick, NONE, first, State::Armed);
    }

    fn unlink(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        let (tick, previous, next) = (entry.tick, entry.previous, entry.next);
        let was = std::mem::replace(&mut entry.state, State::Idle);
        if was != State::Armed {
            return;
        }
        match previous {
            NONE => self.slots[slot_of(tick)] = next,
            _ => self.entries[previous as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
    }

    /// Marks everything due by `now` as fired and hands out the wakers.
    fn sweep(&mut self, now: u64, due: &mut Vec<Waker>) {
        let steps = now.saturating_sub(self.swept).min(SLOTS as u64);
        for tick in (now - steps + 1)..=now {
            let mut key = self.slots[slot_of(tick)];
            while key != NONE {
                let entry = &self.entries[key as usize];
                let next = entry.next;
                if entry.tick <= now {
                    self.unlink(key);
                    let entry = &mut self.entries[key as usize];
                    entry.state = State::Fired;
                    due.extend(entry.waker.take());
                }
                key = next;
            }
        }
        self.swept = now.max(self.swept);
    }

    /// The tick of the next slot that holds anything.
    fn next_occupied(&self) -> u64 {
        let from = self.swept + 1;
        (from..from + SLOTS as u64).find(|tick| self.slots[slot_of(*tick)] != NONE).unwrap_or(u64::MAX)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_driver<T>(test: impl AsyncFnOnce(Timers) -> T) -> T {
        let timers = Timers::new();
        let driver = timers.clone();
        tokio::select! {
            () = async move { driver.drive().await } => unreachable!("the driver never ends"),
            result = test(timers) => result,
        }
    }

    #[tokio::test]
    async fn fires_in_order_never_early_and_soon_after() {
        with_driver(async |timers| {
            let start = Instant::now();
            let mut late = timers.at(start + Duration::from_millis(60));
            let mut soon = timers.at(start + Duration::from_millis(20));
            soon.fired().await;
            assert!(start.elapsed() >= Duration::from_millis(20));
            assert!(late.is_armed());
            late.fired().await;
            assert!(start.elapsed() >= Duration::from_millis(60));
            assert!(start.elapsed() < Duration::from_secs(5));
        })
        .await;
    }

    #[tokio::test]
    async fn a_disarmed_or_dropped_timer_leaves_nothing_behind() {
        with_driver(async |timers| {
            let mut first = timers.at(Instant::now() + Duration::from_millis(10));
            first.disarm();
            drop(timers.at(Instant::now() + Duration::from_millis(10)));
            timers.at(Instant::now() + Duration::from_millis(30)).fired().await;
            assert!(!first.is_armed());
            assert!(std::future::poll_fn(|cx| Poll::Ready(first.poll_fired(cx).is_pending())).await);
            assert!(timers.0.wheel.borrow().slots.iter().all(|slot| *slot == NONE));
        })
        .await;
    }

    #[tokio::test]
    async fn rounds_of_the_wheel_do_not_confuse_it() {
        let timers = Timers::new();
        let far = TICK * (3 * 512);
        let mut timer = timers.at(timers.0.start + far);
        let mut due = Vec::new();
        {
            let mut wheel = timers.0.wheel.borrow_mut();
            for tick in 1..3 * 512 {
                wheel.sweep(tick, &mut due);
            }
            assert!(wheel.entries[timer.key as usize].state == State::Armed);
            wheel.sweep(3 * 512, &mut due);
            assert!(wheel.entries[timer.key as usize].state == State::Fired);
        }
        timer.fired().await;
    }

    #[tokio::test]
    async fn wake_all_wakes_without_firing() {
        with_driver(async |timers| {
            let mut timer = timers.at(Instant::now() + Duration::from_secs(3600));
            let mut polls = 0;
            std::future::poll_fn(|cx| {
                polls += 1;
                assert!(timer.poll_fired(cx).is_pending());
                if polls == 1 {
                    timers.wake_all();
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
        })
        .await;
    }
}
