//! The states of a limit's keys: `governor`'s own store, with a most of keys.

use std::convert::Infallible;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed, StateStore};

use super::Held;

/// All clones are the same.
#[derive(Clone)]
pub(super) struct Keys(Arc<Shared>);

struct Shared {
    states: DashMapStateStore<u64, BuildHasherDefault<Same>>,
    /// Room that is taken: never less than what `states` holds.
    taken: AtomicUsize,
    most: usize,
    /// What keys share for which there is no room.
    rest: InMemoryState,
    spilled: AtomicU64,
}

/// A key is a hash already.
#[derive(Default)]
struct Same(u64);

impl Keys {
    /// Room for `most` keys.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Shared {
            states: DashMapStateStore::default(),
            taken: AtomicUsize::new(0),
            most,
            rest: InMemoryState::default(),
            spilled: AtomicU64::new(0),
        }))
    }

    /// Lets go of keys that are as if they had never called at `now`.
    pub(super) fn sweep(&self, now: Nanos) -> Held {
        let Shared { states, taken, spilled, .. } = &*self.0;
        let mut gone = 0;
        states.retain(|_, state| {
            let keep = read(state).is_some_and(|until| until > now);
            gone += usize::from(!keep);
            keep
        });
        let left = taken.fetch_sub(gone, Ordering::AcqRel) - gone;
        if gone > 0 && states.capacity() > 4 * left.max(256) {
            states.shrink_to_fit();
        }
        Held { keys: left, spilled: spilled.load(Ordering::Relaxed) }
    }
}

impl Shared {
    /// Takes room for one more key, if there is some.
    fn enter(&self) -> bool {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// The state of a key that had none. It may have called before, when there
    /// was no room: it owes what is owed there.
    fn newcomer(&self) -> InMemoryState {
        let state = InMemoryState::default();
        if let Some(owed) = read(&self.rest) {
            let _: Result<(), Infallible> = state.measure_and_replace(&NotKeyed::NonKey, |_| Ok(((), owed)));
        }
        state
    }
}

impl StateStore for Keys {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, key: &u64, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let shared = &*self.0;
        if let Some(state) = shared.states.get(key) {
            return state.measure_and_replace(&NotKeyed::NonKey, decide);
        }
        if !shared.enter() {
            shared.spilled.fetch_add(1, Ordering::Relaxed);
            return shared.rest.measure_and_replace(&NotKeyed::NonKey, decide);
        }
        let mut new = false;
        let entry = shared.states.entry(*key).or_insert_with(|| {
            new = true;
            shared.newcomer()
        });
        if !new {
            // Another worker was faster.
            shared.taken.fetch_sub(1, Ordering::AcqRel);
        }
        entry.measure_and_replace(&NotKeyed::NonKey, decide)
    }
}

/// Until when a state is not as if nobody had called.
fn read(state: &InMemoryState) -> Option<Nanos> {
    state.measure_and_replace(&NotKeyed::NonKey, Err::<((), Nanos), _>).err().flatten()
}

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only `u64` is ever a key; anything else still gets a hash.
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
