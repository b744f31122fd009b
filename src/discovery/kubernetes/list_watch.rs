//! Lists the objects of a query, watches what becomes of them, and resumes.
//!
//! `kube` has a watcher of its own, which begins a watch that was ended cleanly
//! again at once, however often that happens, and does not tell what it lists
//! from. What must hold here:
//!
//! - what is known stays known while the server fails;
//! - a watch resumes at the version of the last event, without a list;
//! - a list is made anew only if the server has forgotten that version (410),
//!   and is never older than what is known;
//! - nothing is asked without a pause after something was in vain, and no two
//!   sidecars ask in step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::ResourceExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::super::clock;
use crate::base::Watched;
use crate::clients::kubernetes::{Client, Event, Failure, Freshness, Kind, Object, Query};

/// A watch is ended by the server after this long and up to a fifth more.
const WATCH: u32 = 240;
/// A watch that is open for so long beyond its time is given up.
const GRACE: Duration = Duration::from_secs(20);
/// While a watch is open, what is known is confirmed so often.
const CONFIRM: Duration = Duration::from_secs(5);
/// A watch that ended sooner, without a word, was in vain.
const SHORT: Duration = Duration::from_secs(5);
/// The pause before a watch that did its work is resumed, at most.
const RESUME: Duration = Duration::from_millis(250);
/// The first pause after a failure, which doubles with each further one.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(10);
/// The same where the role forbids it: that does not change by itself.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// What is known of the objects of a query.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    /// By name; `None` before the first list.
    pub objects: Option<BTreeMap<String, T>>,
    /// Why nothing newer is known, as long as the server fails.
    pub failure: Option<Arc<str>>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { objects: None, failure: None }
    }
}

/// Follows `query` until it is dropped; never returns.
pub(super) async fn follow<K: Object, T: From<K> + PartialEq>(
    client: Arc<Client>,
    query: Query,
    known: watch::Sender<Known<T>>,
    confirmed: Watched,
) {
    let mut follow = Follow {
        client,
        query,
        known,
        confirmed,
        version: None,
        fresh: Freshness::Any,
        failures: 0,
        vain: 0,
    };
    loop {
        let pause = match follow.once::<K>().await {
            Ok(()) => RESUME.mul_f64(fastrand::f64()),
            Err(failure) => follow.fail(&failure),
        };
        sleep(pause).await;
    }
}

struct Follow<T> {
    client: Arc<Client>,
    query: Query,
    known: watch::Sender<Known<T>>,
    confirmed: Watched,
    /// The version up to which everything is known.
    version: Option<String>,
    /// How fresh the next list must be.
    fresh: Freshness,
    /// In a row.
    failures: u32,
    /// Watches in a row that were in vain.
    vain: u32,
}

impl<T> Follow<T> {
    /// One watch, and a list before it where that is needed.
    async fn once<K: Object>(&mut self) -> Result<(), Failure>
    where
        T: From<K> + PartialEq,
    {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list::<K>().await?,
        };
        let seconds = WATCH + fastrand::u32(..WATCH / 5);
        let began = Instant::now();
        let mut stream = Box::pin(self.client.watch::<K>(&self.query, &version, seconds).await?);
        // The server answers again: what is known holds.
        self.known.send_if_modified(|known| known.failure.take().is_some());
        let limit = Duration::from_secs(seconds.into()) + GRACE;
        let mut quiet = true;
        loop {
            self.confirmed.confirm(clock::now());
            match timeout(CONFIRM, stream.next()).await {
                Ok(Some(event)) => {
                    self.take(event?);
                    (quiet, self.failures) = (false, 0);
                }
                Err(_) if began.elapsed() < limit => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.vain = if quiet && began.elapsed() < SHORT { self.vain + 1 } else { 0 };
        // One may be by chance: a server that restarts ends all of them.
        if self.vain > 1 {
            let why = "the server ends each watch at once".into();
            return Err(Failure { kind: Kind::Other, why, retry_after: None });
        }
        self.failures = 0;
        Ok(())
    }

    async fn list<K: Object>(&mut self) -> Result<String, Failure>
    where
        T: From<K> + PartialEq,
    {
        let list = self.client.list::<K>(&self.query, &self.fresh).await?;
        let objects = list.items.into_iter().map(|object| (object.name_any(), T::from(object))).collect();
        self.fresh = Freshness::NotOlderThan(list.version.clone());
        self.version = Some(list.version.clone());
        self.known.send_if_modified(|known| {
            let news = known.objects.as_ref() != Some(&objects) || known.failure.is_some();
            *known = Known { objects: Some(objects), failure: None };
            news
        });
        Ok(list.version)
    }

    fn take<K: Object>(&mut self, event: Event<K>)
    where
        T: From<K> + PartialEq,
    {
        let version = match &event {
            Event::Applied(object) | Event::Deleted(object) => object.resource_version(),
            Event::Bookmark(version) => Some(version.clone()),
        };
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.fresh = Freshness::NotOlderThan(version.clone());
            self.version = Some(version);
        }
        self.known.send_if_modified(|known| {
            let objects = known.objects.get_or_insert_default();
            match event {
                Event::Applied(object) => {
                    let (name, new) = (object.name_any(), T::from(object));
                    objects.get(&name) != Some(&new) && {
                        objects.insert(name, new);
                        true
                    }
                }
                Event::Deleted(object) => objects.remove(&object.name_any()).is_some(),
                Event::Bookmark(_) => false,
            }
        });
    }

    /// Takes a failure in. Returns the pause after it.
    fn fail(&mut self, failure: &Failure) -> Duration {
        self.failures += 1;
        let mut longest = LONGEST;
        match failure.kind {
            Kind::Gone => {
                self.version = None;
                // One is in the nature of things; it is no failure to tell of.
                if self.failures == 1 {
                    return pause(1, LONGEST);
                }
            }
            Kind::Behind => (self.version, self.fresh) = (None, Freshness::Newest),
            Kind::Unauthorized => self.client.renew(),
            Kind::Forbidden => longest = FORBIDDEN,
            Kind::Other => {}
        }
        self.known.send_modify(|known| known.failure = Some(failure.why.clone()));
        let asked = failure.retry_after.unwrap_or_default().min(FORBIDDEN);
        pause(self.failures, longest).max(asked)
    }
}

/// Half of it is by chance.
fn pause(failures: u32, longest: Duration) -> Duration {
    let doubled = FIRST * (1 << failures.saturating_sub(1).min(10));
    doubled.min(longest).mul_f64(0.5 + 0.5 * fastrand::f64())
}
