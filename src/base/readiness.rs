//! Readiness as a value: ready when every named condition has been met and no
//! drain has begun.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Handed to whoever must report; cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    waiting: Arc<Mutex<Vec<&'static str>>>,
    state: watch::Sender<State>,
}

/// One condition that must be met before the sidecar is ready.
#[derive(Debug)]
#[must_use = "a condition that is never met keeps the sidecar from being ready"]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

/// What a probe is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Waits for the conditions named.
    Waiting(Vec<&'static str>),
    /// Takes traffic.
    Ready,
    /// Is being drained and will not be ready again.
    Leaving,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { waiting: Arc::default(), state: watch::Sender::new(State::Waiting(Vec::new())) }
    }
}

impl Readiness {
    /// Adds a condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.change(|waiting| waiting.push(name));
        Condition { name, readiness: self.clone() }
    }

    /// Drain has begun: never ready again.
    pub fn leave(&self) {
        self.state.send_replace(State::Leaving);
    }

    /// What a probe is told now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until ready or leaving.
    pub async fn ready(&self) -> State {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| !matches!(state, State::Waiting(_))).await {
            Ok(state) => state.clone(),
            Err(_) => State::Leaving,
        }
    }

    /// Waits until no condition but `name` is left, or none, or leaving.
    pub async fn waits_only_for(&self, name: &str) -> State {
        let mut state = self.state.subscribe();
        let only = |state: &State| match state {
            State::Waiting(waiting) => waiting.iter().all(|waiting| *waiting == name),
            State::Ready | State::Leaving => true,
        };
        match state.wait_for(only).await {
            Ok(state) => state.clone(),
            Err(_) => State::Leaving,
        }
    }

    /// Waits until a drain has begun, whoever began it.
    pub async fn leaving(&self) {
        let mut state = self.state.subscribe();
        // An error means that nobody can begin one any more, nor is anybody there to wait.
        let _ = state.wait_for(|state| *state == State::Leaving).await;
    }

    /// Changes what is waited for, and says so before anybody else can change it.
    fn change(&self, change: impl FnOnce(&mut Vec<&'static str>)) {
        let mut held = self.lock();
        change(&mut held);
        let mut waiting = held.clone();
        // Several parts may have to meet one condition, such as each worker its own.
        waiting.dedup();
        self.state.send_if_modified(|state| {
            if *state == State::Leaving {
                return false;
            }
            *state = if waiting.is_empty() { State::Ready } else { State::Waiting(waiting) };
            true
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// The condition is met.
    pub fn met(self) {
        self.readiness.change(|waiting| {
            if let Some(index) = waiting.iter().position(|name| *name == self.name) {
                waiting.remove(index);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_may_wait_until_only_its_own_condition_is_left() {
        let readiness = Readiness::default();
        let (config, service) = (readiness.condition("config"), readiness.condition("service"));
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.waits_only_for("service").await }
        });
        config.met();
        assert_eq!(waiting.await.unwrap(), State::Waiting(vec!["service"]));
        service.met();
        assert_eq!(readiness.waits_only_for("service").await, State::Ready);
        readiness.leave();
        readiness.leaving().await;
    }

    #[test]
    fn conditions_that_are_met_at_one_moment_are_all_met() {
        for _ in 0..2_000 {
            let readiness = Readiness::default();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let condition = readiness.condition("workers");
                    scope.spawn(|| {
                        start.wait();
                        condition.met();
                    });
                }
            });
            assert_eq!(readiness.state(), State::Ready);
        }
    }

    #[test]
    fn ready_when_all_conditions_are_met_until_leaving() {
        let readiness = Readiness::default();
        let config = readiness.condition("config");
        let listeners = readiness.condition("listeners");
        config.met();
        assert_eq!(readiness.state(), State::Waiting(vec!["listeners"]));
        let more = readiness.condition("listeners");
        assert_eq!(readiness.state(), State::Waiting(vec!["listeners"]), "it is named once");
        listeners.met();
        assert_eq!(readiness.state(), State::Waiting(vec!["listeners"]));
        more.met();
        assert_eq!(readiness.state(), State::Ready);
        readiness.leave();
        readiness.condition("late").met();
        assert_eq!(readiness.state(), State::Leaving);
    }
}
