//! What counts for all sidecars, handed to the workers, and the number of those
//! sidecars.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clients::redis::{self, Census, Redis};
use crate::config::Model;
use crate::config::model::{Quota, RateServer};
use crate::policy::rate::Verdict;
use crate::proxy::{Ledger, Ledgers, Lost, Rates, Taking};
use crate::telemetry::Metrics;
use crate::upstream::Quotas;

/// From one count to the next.
const COUNT: Duration = Duration::from_secs(2);
/// A sidecar that was not heard of for so long, in seconds, counts no more.
const FORGOTTEN: u32 = 7;

/// How many connections and how many calls there may be, for all workers.
pub(super) fn counts(metrics: &Metrics, model: &Model) -> (Quotas, Rates) {
    let quotas = Quotas::new(metrics.clone());
    quotas.apply(model);
    (quotas, Rates::new(metrics.clone(), model.service.name.as_str(), ledgers()))
}

/// Makes a worker's way to the server.
fn ledgers() -> Ledgers {
    Arc::new(|server: &RateServer| {
        let redis = Redis::new(&server.address, server.timeout)?;
        Some(Rc::new(InRedis { redis, server: server.clone() }) as Rc<dyn Ledger>)
    })
}

struct InRedis {
    redis: Redis,
    server: RateServer,
}

impl Ledger for InRedis {
    fn timeout(&self) -> Duration {
        self.server.timeout
    }

    fn take<'a>(&'a self, key: &'a str, quota: &'a Quota, until: Instant) -> Taking<'a> {
        Box::pin(async move {
            let key = format!("{}:{key}", self.server.prefix);
            let taken = self.redis.take(&key, (quota.rate.interval(), quota.window()), until).await;
            let taken = taken.map_err(|lost| match lost {
                redis::Lost::Gone => Lost::Gone,
                redis::Lost::Late => Lost::Late,
                redis::Lost::Failed => Lost::Failed,
            })?;
            Ok(Verdict { passes: taken.passes, left: taken.left, whole: taken.whole, wait: taken.wait })
        })
    }
}

/// Counts the sidecars that share limits, so that each knows its part, and tells
/// whether the server is there; for as long as it is polled.
pub(super) async fn count(rates: Rates, mut models: watch::Receiver<Arc<Model>>) {
    let own = format!("{:016x}", fastrand::u64(..));
    let (mut known, mut census): (Option<RateServer>, Option<Census>) = (None, None);
    let mut there = None;
    loop {
        let server = models.borrow_and_update().rate_server.clone();
        if server != known {
            census = server.as_ref().and_then(|server| Census::new(&server.address));
            (known, there) = (server, None);
        }
        let names: Vec<Arc<str>> = rates.shared().into_iter().collect();
        if let (Some(census), Some(server)) = (&mut census, &known)
            && !names.is_empty()
        {
            let keys: Vec<String> =
                names.iter().map(|name| format!("{}:{name}:sidecars", server.prefix)).collect();
            let counted = census.count(&keys, &own, FORGOTTEN).await;
            tell(&counted, &mut there, server);
            for (name, sidecars) in names.iter().zip(counted.unwrap_or_default()) {
                rates.sharing(name, sidecars, Instant::now());
            }
        }
        // Woken by a reload, or by the end of the sidecar.
        if tokio::time::timeout(COUNT, models.changed()).await.is_ok_and(|more| more.is_err()) {
            return;
        }
    }
}

/// Says so when the server comes or goes.
fn tell(counted: &Result<Vec<u32>, String>, there: &mut Option<bool>, server: &RateServer) {
    match counted {
        Ok(_) if *there == Some(false) => {
            tracing::info!("rate_limits: {} is there again", server.shown());
        }
        Err(error) if *there != Some(false) => {
            let shown = server.shown();
            tracing::warn!("rate_limits: {shown} can't be used ({error}): each sidecar counts its part");
        }
        _ => {}
    }
    *there = Some(counted.is_ok());
}
