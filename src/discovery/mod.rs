//! Discovery: finds the endpoints of the names that workers ask for, and keeps
//! them right.
//!
//! It runs on the control thread and writes into the [`Directory`]; a request
//! never waits for it except for the first answer about a name. For each name
//! one [`follow`] task asks the chain of sources in order. What must hold:
//!
//! - the first source that knows a name wins; a name that a source does not
//!   know goes on to the next at once;
//! - a source that fails changes nothing that it said before;
//! - an empty answer, an unknown name and a failure are three things;
//! - what a source takes back is kept as long as its `when_empty` says;
//! - a source that is slow does not hold up the next for long;
//! - a reload drops nothing that is known;
//! - a name that nobody reads is let go after a minute, and its last answer
//!   serves again if it is asked for anew and its source fails just then.
//!
//! `docs/discovery.md` is the user's view.

mod answer;
mod attic;
mod clock;
mod consul;
mod counts;
mod dns;
mod fixed;
mod follow;
mod fronted;
pub mod health;
mod kubernetes;
mod local;
mod register;
mod source;
pub mod values;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::base::Resolution;
use crate::base::directory::{Directory, Subscription};
use crate::base::readiness::Condition;
use crate::config::Model;
use crate::telemetry::Metrics;

pub use register::Standing;

/// How long readiness waits for the upstreams that a policy names.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// All that discovery needs to run.
pub struct Discovery {
    /// The configuration in force, and each newer one.
    pub config: watch::Receiver<Arc<Model>>,
    /// The names that workers ask for.
    pub names: mpsc::UnboundedReceiver<Subscription>,
    /// Where the answers go.
    pub directory: Directory,
    /// Where answers and endpoints are counted.
    pub metrics: Metrics,
}

/// What a reload may change for everybody who follows a name.
#[derive(Clone)]
struct Setup {
    chain: source::Chain,
    default_port: u16,
    /// What was known of names that were let go.
    attic: Arc<attic::Attic>,
}

impl Discovery {
    /// Serves until it is dropped, which ends all that it started. During a
    /// drain requests still run, so it should outlive them.
    ///
    /// `first_answers` is met when every upstream that a policy names has its
    /// first answer, whatever it says, or after 5 s.
    pub async fn run(mut self, first_answers: Condition) {
        let mut followers = JoinSet::new();
        let mut model = self.config.borrow_and_update().clone();
        let setup = watch::Sender::new(Setup::new(&model, &[], &self.directory));
        self.directory.write_down(fixed::addresses(&model.discovery));
        let directory = self.directory.clone();
        followers.spawn(async move { directory.keep_index().await });
        followers.spawn(answered(self.directory.clone(), self.config.borrow().clone(), first_answers));
        let counts = counts::Counts::new(self.metrics.clone());
        let mut reloads = true;
        loop {
            tokio::select! {
                changed = self.config.changed(), if reloads => {
                    reloads = changed.is_ok();
                    let old = std::mem::replace(&mut model, self.config.borrow_and_update().clone());
                    if (&model.discovery, &model.service.locality) != (&old.discovery, &old.service.locality) {
                        self.directory.write_down(fixed::addresses(&model.discovery));
                        setup.send_modify(|setup| setup.take(&model, &self.directory));
                    }
                }
                subscription = self.names.recv() => {
                    let Some(subscription) = subscription else { return };
                    let setup = setup.subscribe();
                    let follower = follow::Follower::new(subscription, setup, self.directory.clone(), counts.clone());
                    followers.spawn(follower.run());
                }
                Some(ended) = followers.join_next(), if !followers.is_empty() => {
                    if let Err(error) = ended
                        && let Ok(panic) = error.try_into_panic()
                    {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

impl Setup {
    fn new(model: &Model, old: &[source::Source], directory: &Directory) -> Self {
        Self {
            chain: source::chain(model, old, directory),
            default_port: source::default_port(&model.discovery),
            attic: Arc::default(),
        }
    }

    fn take(&mut self, model: &Model, directory: &Directory) {
        let new = Self::new(model, &self.chain, directory);
        let same =
            new.chain.len() == self.chain.len() && new.chain.iter().zip(&*self.chain).all(|(a, b)| a.is(b));
        let attic = if same { self.attic.clone() } else { new.attic };
        *self = Self { attic, ..new };
    }
}

/// Meets `condition` when the upstreams of `model` have their first answer.
async fn answered(directory: Directory, model: Arc<Model>, condition: Condition) {
    let mut receivers: Vec<_> = model.upstreams.keys().map(|name| directory.watch_named(name)).collect();
    let all = async {
        for receiver in &mut receivers {
            let _ = receiver.wait_for(|resolution| *resolution != Resolution::Pending).await;
        }
    };
    if timeout(FIRST_ANSWERS, all).await.is_err() {
        tracing::warn!("not every upstream of the policies could be resolved within 5 s; going on without");
    }
    condition.met();
}

#[cfg(test)]
mod tests;
