//! How many connections the whole process may have to one upstream:
//! `connections` of its entry.
//!
//! The workers share the count. It is asked where a connection is made, never
//! for a request that finds one. Whoever has to wait makes all workers give up
//! connections that stand idle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{Notify, watch};

use crate::base::directory::MAX_UPSTREAMS;
use crate::base::{ProxyError, Reason, UpstreamName};
use crate::config::Model;
use crate::config::model::Connections;
use crate::telemetry::{Metrics, names};

/// The quotas of all upstreams. All clones are the same.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    all: Mutex<HashMap<UpstreamName, Arc<Quota>>>,
    metrics: Metrics,
    pokes: watch::Sender<()>,
}

/// The connections to one upstream, of all workers.
pub struct Quota {
    name: UpstreamName,
    metrics: Metrics,
    pokes: watch::Sender<()>,
    meters: OnceLock<Meters>,
    open: AtomicUsize,
    waiting: AtomicUsize,
    max: AtomicUsize,
    pending: AtomicUsize,
    /// In milliseconds.
    wait: AtomicU64,
    freed: Notify,
}

struct Meters {
    label: String,
    open: Gauge,
    waiting: Gauge,
}

/// Held for as long as a connection is open.
pub struct Place(Arc<Quota>);

/// Held while somebody waits for a place.
pub struct Waiting(Arc<Quota>);

impl Quotas {
    /// Without limits, until a model has some.
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Shared { all: Mutex::default(), metrics, pokes: watch::channel(()).0 }))
    }

    /// The quota of an upstream.
    pub fn get(&self, name: &UpstreamName) -> Arc<Quota> {
        let mut all = self.0.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = all.get(name) {
            return quota.clone();
        }
        if all.len() >= 2 * MAX_UPSTREAMS {
            all.retain(|_, quota| Arc::strong_count(quota) > 1 || quota.max.load(SeqCst) != usize::MAX);
        }
        let quota = Quota::new(name.clone(), self.0.metrics.clone(), self.0.pokes.clone());
        all.insert(name.clone(), quota.clone());
        quota
    }

    /// Takes over the limits of a model. Connections that are open stay and count.
    pub fn apply(&self, model: &Model) {
        let limited = model.upstreams.iter().filter(|(_, block)| block.connections.is_some());
        limited.for_each(|(name, _)| drop(self.get(name)));
        for (name, quota) in self.0.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            quota.set(model.upstreams.get(name).and_then(|block| block.connections.as_ref()));
        }
    }

    /// Changes whenever somebody has to wait.
    pub fn pokes(&self) -> watch::Receiver<()> {
        self.0.pokes.subscribe()
    }
}

impl Quota {
    fn new(name: UpstreamName, metrics: Metrics, pokes: watch::Sender<()>) -> Arc<Self> {
        Arc::new(Self {
            name,
            metrics,
            pokes,
            meters: OnceLock::new(),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
            pending: AtomicUsize::new(0),
            wait: AtomicU64::new(0),
            freed: Notify::new(),
        })
    }

    /// One that limits nothing.
    pub fn unlimited(name: UpstreamName, metrics: &Metrics) -> Arc<Self> {
        Self::new(name, metrics.clone(), watch::channel(()).0)
    }

    fn set(&self, limits: Option<&Connections>) {
        let max = limits.map_or(usize::MAX, |limits| limits.max);
        if let Some(limits) = limits {
            self.pending.store(limits.pending, SeqCst);
            self.wait.store(u64::try_from(limits.wait.as_millis()).unwrap_or(u64::MAX), SeqCst);
        }
        if self.max.swap(max, SeqCst) < max {
            self.freed.notify_one();
        }
    }

    /// A place, if there is one for somebody who has not waited.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        // First come, first served.
        (self.waiting.load(SeqCst) == 0 && self.enter()).then(|| Place(self.clone()))
    }

    /// A place in the queue.
    pub fn queue(self: &Arc<Self>) -> Result<Waiting, ProxyError> {
        let pending = self.pending.load(SeqCst);
        let joined = self.waiting.fetch_update(SeqCst, SeqCst, |now| (now < pending).then_some(now + 1));
        if joined.is_err() {
            return Err(self.refused("pending", &format!("and {pending} wait for one already")));
        }
        self.meters().waiting.increment(1.0);
        Ok(Waiting(self.clone()))
    }

    /// How long somebody may wait.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait.load(SeqCst))
    }

    /// Those who wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.max.load(SeqCst) != usize::MAX
    }

    /// Whether to close a connection that nobody uses would help somebody.
    pub fn is_short(&self) -> bool {
        self.open.load(SeqCst).saturating_add(self.waiting.load(SeqCst)) > self.max.load(SeqCst)
    }

    /// Asks all workers to give up connections that stand idle.
    pub fn poke(&self) {
        self.pokes.send_replace(());
    }

    /// Nobody gave up a connection in time.
    pub fn too_late(&self) -> ProxyError {
        self.refused("wait", &format!("and none was free within {:?}", self.wait()))
    }

    fn refused(&self, why: &str, rest: &str) -> ProxyError {
        let label = &self.meters().label;
        self.metrics.counter(&names::UPSTREAM_REFUSED, &[label, why]).increment(1);
        let max = self.max.load(SeqCst);
        let detail = format!("all {max} connections that `{}` may have are in use, {rest}", self.name);
        ProxyError::unsent(Reason::ConnectionLimit, detail)
    }

    fn enter(&self) -> bool {
        let max = self.max.load(SeqCst);
        let entered = self.open.fetch_update(SeqCst, SeqCst, |open| (open < max).then_some(open + 1)).is_ok();
        if entered {
            self.meters().open.increment(1.0);
        }
        entered
    }

    fn meters(&self) -> &Meters {
        self.meters.get_or_init(|| {
            let label = self.metrics.label(self.name.as_str());
            let gauge = |name| self.metrics.gauge(name, &[&label]);
            let (open, waiting) = (gauge(&names::UPSTREAM_OPEN), gauge(&names::UPSTREAM_WAITING));
            Meters { label, open, waiting }
        })
    }
}

impl Waiting {
    /// Waits for a place, in turn.
    pub async fn place(&self) -> Place {
        loop {
            let mut freed = std::pin::pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if self.0.enter() {
                // There may be room for one more.
                self.0.freed.notify_one();
                return Place(self.0.clone());
            }
            freed.await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
        self.0.meters().waiting.decrement(1.0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        self.0.meters().open.decrement(1.0);
        if self.0.waiting.load(SeqCst) > 0 {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(max: usize, pending: usize) -> (Quotas, Model, UpstreamName) {
        let (mut model, name) = (Model::minimal("front"), UpstreamName::new("db"));
        let connections = Connections { max, pending, ..Connections::default() };
        let block = crate::config::model::Upstream { connections: Some(connections), ..Default::default() };
        model.upstreams.insert(name.clone(), block);
        let quotas = Quotas::new(Metrics::new());
        quotas.apply(&model);
        (quotas, model, name)
    }

    #[tokio::test]
    async fn no_more_than_max_and_the_first_who_waits_is_the_next() {
        let (quotas, _, name) = limited(2, 2);
        let quota = quotas.get(&name);
        let first = quota.take().unwrap();
        let _second = quota.take().unwrap();
        assert!(quota.take().is_none());
        let waiting = quota.queue().unwrap();
        let mut place = std::pin::pin!(waiting.place());
        assert!(futures_util::poll!(place.as_mut()).is_pending());
        assert!(quota.is_short());
        drop(first);
        assert!(quota.take().is_none(), "others were here before");
        let _third = place.await;
        let _other = quota.queue().unwrap();
        assert_eq!(quota.queue().err().unwrap().reason, Reason::ConnectionLimit);
    }

    #[tokio::test]
    async fn a_reload_changes_the_limit_and_keeps_the_count() {
        let (quotas, mut model, name) = limited(1, 1);
        let quota = quotas.get(&name);
        let first = quota.take().unwrap();
        let second = {
            let waiting = quota.queue().unwrap();
            let mut place = std::pin::pin!(waiting.place());
            assert!(futures_util::poll!(place.as_mut()).is_pending());
            model.upstreams.get_mut(&name).unwrap().connections.as_mut().unwrap().max = 2;
            quotas.apply(&model);
            place.await
        };
        model.upstreams.get_mut(&name).unwrap().connections.as_mut().unwrap().max = 1;
        quotas.apply(&model);
        drop(first);
        assert!(quota.take().is_none(), "the second is one already");
        drop(second);
        assert!(quota.take().is_some());
        model.upstreams.clear();
        quotas.apply(&model);
        let many: Vec<_> = (0..100).filter_map(|_| quota.take()).collect();
        assert_eq!(many.len(), 100, "without an entry there is no limit");
    }
}
