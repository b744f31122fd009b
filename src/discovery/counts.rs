//! What followers count and log.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::time::Instant;

use crate::base::UpstreamName;
use crate::base::directory::MAX_UPSTREAMS;
use crate::telemetry::{Metrics, names};

/// The failures of one source are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Where followers count.
#[derive(Clone)]
pub(super) struct Counts {
    pub metrics: Metrics,
    /// The names that have gauges; at most [`MAX_UPSTREAMS`].
    named: Arc<Mutex<HashSet<UpstreamName>>>,
    /// When a failure was logged last, by source.
    logged: Arc<Mutex<HashMap<&'static str, Instant>>>,
}

/// What is shown of the endpoints of one name that one source named.
pub(super) struct Gauges {
    pub source: &'static str,
    endpoints: Gauge,
    age: Gauge,
}

/// Counts a name among those whose endpoints outlive what their source says.
pub(super) struct KeptNow {
    why: (&'static str, &'static str),
    gauge: Gauge,
}

impl Counts {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, named: Arc::default(), logged: Arc::default() }
    }

    /// A source that is down fails for every name; the log has one of them.
    pub(super) fn log_failure(&self, name: &UpstreamName, source: &'static str, why: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(source).is_none_or(|then| then.elapsed() >= LOG_EVERY) {
            logged.insert(source, Instant::now());
            tracing::warn!(%name, source, why, "a source of discovery failed; what it said before is kept");
        } else {
            tracing::debug!(%name, source, why, "a source of discovery failed");
        }
    }

    /// The gauges of a name. Callers who make up names can't make up series
    /// without end.
    pub(super) fn gauges(&self, name: &UpstreamName, source: &'static str) -> Option<Gauges> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.contains(name) {
            if named.len() >= MAX_UPSTREAMS {
                return None;
            }
            named.insert(name.clone());
        }
        let gauge = |of| self.metrics.gauge(of, &[name.as_str(), source]);
        Some(Gauges { source, endpoints: gauge(&names::ENDPOINTS), age: gauge(&names::DISCOVERY_AGE) })
    }

    /// Counts one more or one less name whose endpoints are kept for `why`: a
    /// source, and what it says.
    pub(super) fn keep(&self, kept: &mut Option<KeptNow>, why: Option<(&'static str, &'static str)>) {
        if kept.as_ref().map(|kept| kept.why) == why {
            return;
        }
        *kept = why.map(|why| {
            let gauge = self.metrics.gauge(&names::DISCOVERY_KEPT, &[why.0, why.1]);
            gauge.increment(1.0);
            KeptNow { why, gauge }
        });
    }
}

impl Gauges {
    pub(super) fn set(&self, endpoints: usize, age: Duration) {
        self.endpoints.set(u32::try_from(endpoints).unwrap_or(u32::MAX));
        self.age.set(age.as_secs_f64());
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.set(0, Duration::ZERO);
    }
}

impl Drop for KeptNow {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}
