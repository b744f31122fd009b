//! From one model to the next, while the sidecar runs: on a change of any file
//! that was read, and on demand.
//!
//! Must hold: a configuration is read and checked whole before anybody sees it;
//! a bad one changes nothing, raises an alarm and is reported in full; the last
//! good one stays until a good one comes.

mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge};
use tokio::sync::mpsc;

use self::watch::Watch;
use super::expand::Environment;
use super::load::{Loaded, load_for_reload};
use super::model::Model;
use super::values::Wants;

/// Files that change together are read together: so long must be silence.
const QUIET: Duration = Duration::from_millis(100);

/// A folder that is never silent is read after this.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a model that nobody has taken is offered again.
const OFFER: Duration = Duration::from_millis(20);

/// Where reloads are counted.
#[derive(Clone)]
pub struct Meters {
    /// A new configuration came into force.
    pub applied: Counter,
    /// Nothing was different.
    pub unchanged: Counter,
    /// The files were bad.
    pub rejected: Counter,
    /// 1 while the files on disk are bad.
    pub refused: Gauge,
}

/// Watches the files until it is dropped.
pub struct Reload {
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Reload {
    /// Watches the files of `loaded`, which was read from `path`. Newer models
    /// come through the receiver; of several that nobody took, only the last.
    pub fn start(
        path: PathBuf,
        environment: Environment,
        loaded: &Loaded,
        meters: Meters,
    ) -> io::Result<(Self, mpsc::Receiver<Arc<Model>>)> {
        let signal = Arc::new(Signal::default());
        let mut watch = Watch::new(signal.clone())?;
        watch.follow(&loaded.watched);
        if let Some(values) = environment.values() {
            let signal = signal.clone();
            values.on_news(move || signal.raise(|flags| flags.changed = Some(Instant::now())));
        }
        // Something may have changed between the reading and the watching.
        signal.raise(|flags| flags.changed = Some(Instant::now()));
        let (sender, receiver) = mpsc::channel(1);
        meters.refused.set(0.0);
        let keeper = Keeper {
            path,
            environment,
            meters,
            watch,
            sender,
            current: loaded.model.clone(),
            fingerprint: loaded.fingerprint,
            keys: loaded.keys.clone(),
            refused: None,
            offer: None,
            unasked: true,
        };
        let own = signal.clone();
        let thread = std::thread::Builder::new().name("reload".into()).spawn(move || keeper.run(&own))?;
        Ok((Self { signal, thread: Some(thread) }, receiver))
    }

    /// Reads the files now, as SIGHUP asks.
    pub fn trigger(&self) {
        self.signal.raise(|flags| flags.asked = true);
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        self.signal.raise(|flags| flags.stop = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread waits for. Flags and not a queue: it can't grow.
#[derive(Default)]
struct Signal {
    flags: Mutex<Flags>,
    raised: Condvar,
}

#[derive(Default)]
struct Flags {
    changed: Option<Instant>,
    asked: bool,
    stop: bool,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, change: impl FnOnce(&mut Flags)) {
        change(&mut self.lock());
        self.raised.notify_all();
    }

    fn wait<'a>(&self, flags: MutexGuard<'a, Flags>, most: Option<Duration>) -> MutexGuard<'a, Flags> {
        match most {
            Some(most) => self.raised.wait_timeout(flags, most).unwrap_or_else(PoisonError::into_inner).0,
            None => self.raised.wait(flags).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// What is to be done next.
enum Next {
    /// Read the files; whether somebody asked.
    Read { asked: bool },
    /// Offer the model again.
    Offer,
    /// End.
    Stop,
}

struct Keeper {
    path: PathBuf,
    environment: Environment,
    meters: Meters,
    watch: Watch,
    sender: mpsc::Sender<Arc<Model>>,
    current: Arc<Model>,
    fingerprint: u64,
    /// The keys of Consul that the configuration in force names.
    keys: BTreeSet<Arc<str>>,
    /// The fingerprint of the bad files that were reported last.
    refused: Option<u64>,
    /// A model that nobody has taken yet.
    offer: Option<Arc<Model>>,
    /// The next reading only makes sure that nothing was missed.
    unasked: bool,
}

impl Keeper {
    fn run(mut self, signal: &Signal) {
        loop {
            match self.next(signal) {
                Next::Stop => return,
                Next::Read { asked } => self.read(asked, signal),
                Next::Offer => {}
            }
            match self.offer.take().map(|model| self.sender.try_send(model)) {
                Some(Err(mpsc::error::TrySendError::Full(model))) => self.offer = Some(model),
                Some(Err(mpsc::error::TrySendError::Closed(_))) => return,
                Some(Ok(())) | None => {}
            }
        }
    }

    fn next(&self, signal: &Signal) -> Next {
        let offer = self.offer.as_ref().map(|_| OFFER);
        let mut flags = signal.lock();
        let mut first: Option<Instant> = None;
        loop {
            if flags.stop {
                return Next::Stop;
            }
            if flags.asked {
                *flags = Flags::default();
                return Next::Read { asked: true };
            }
            let Some(last) = flags.changed else {
                flags = signal.wait(flags, offer);
                if offer.is_some() && flags.changed.is_none() && !flags.asked && !flags.stop {
                    return Next::Offer;
                }
                continue;
            };
            let first = *first.get_or_insert(last);
            let due = (last + QUIET).min(first + PATIENCE);
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *flags = Flags::default();
                return Next::Read { asked: false };
            }
            flags = signal.wait(flags, Some(left));
        }
    }

    fn read(&mut self, asked: bool, signal: &Signal) {
        let unasked = std::mem::take(&mut self.unasked) && !asked;
        match load_for_reload(&self.path, &self.environment) {
            Ok(loaded) => {
                self.follow(&loaded.watched, signal);
                self.want(loaded.wants());
                if !loaded.holes.is_empty() {
                    // What is known of them, or why it is not, brings us back.
                    return;
                }
                self.keys.clone_from(&loaded.keys);
                self.meters.refused.set(0.0);
                let was_refused = self.refused.take().is_some();
                if loaded.fingerprint == self.fingerprint {
                    if was_refused || asked {
                        tracing::info!("the files say what is in force");
                    }
                    self.meters.unchanged.increment(u64::from(!unasked));
                    return;
                }
                self.apply(&loaded);
            }
            Err(refused) => {
                self.follow(&refused.watched, signal);
                let keys = &self.keys | &refused.keys;
                self.want(Wants { keys, discovery: self.current.discovery.clone() });
                if self.refused == Some(refused.fingerprint) && !asked {
                    return;
                }
                self.refused = Some(refused.fingerprint);
                self.meters.rejected.increment(1);
                self.meters.refused.set(1.0);
                let report = refused.problems;
                tracing::error!("the configuration is refused, the earlier one stays in force:\n{report}");
            }
        }
    }

    /// What changed in a new folder before it was watched must not be missed.
    fn follow(&mut self, paths: &[PathBuf], signal: &Signal) {
        if self.watch.follow(paths) {
            self.unasked = true;
            signal.raise(|flags| flags.changed = Some(Instant::now()));
        }
    }

    /// Has what the files name asked of Consul, where somebody asks.
    fn want(&self, wants: Wants) {
        if let Some(values) = self.environment.values() {
            values.want(wants);
        }
    }

    fn apply(&mut self, loaded: &Loaded) {
        for warning in loaded.warnings.iter() {
            tracing::warn!("{}", warning.headline());
        }
        self.fingerprint = loaded.fingerprint;
        let model = Arc::new(keep_what_stays(&self.current, &loaded.model));
        self.current = model.clone();
        self.meters.applied.increment(1);
        tracing::info!("the configuration has changed");
        self.offer = Some(model);
    }
}

/// The new model, but for what a running sidecar can't change.
fn keep_what_stays(old: &Model, new: &Model) -> Model {
    let mut model = new.clone();
    let fixed = |what: &str, same: bool| {
        if !same {
            tracing::warn!(
                "`{what}` has changed in the files: it takes effect when the sidecar is started anew"
            );
        }
    };
    fixed("service.name", old.service.name == new.service.name);
    fixed("workers", old.workers == new.workers);
    fixed("listen", old.listen == new.listen);
    model.service.name = old.service.name.clone();
    model.workers = old.workers;
    model.listen = old.listen.clone();
    model
}
