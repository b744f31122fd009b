//! What counts for all sidecars, handed to the workers, and the number of those
//! sidecars.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::clients::ratelimit;
use crate::clients::redis::{self, Census, Redis};
use crate::config::Model;
use crate::config::model::{Quota, RateServer, RateService};
use crate::policy::rate::Verdict;
use crate::proxy::{
    Descriptor, Judging, Ledger, Ledgers, Lost, Rates, Rule, Ruling, Taking, Umpire, Umpires,
};
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
    (quotas, Rates::new(metrics.clone(), model.service.name.as_str(), (ledgers(), umpires())))
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
            let taken = taken.map_err(lost)?;
            Ok(Verdict { passes: taken.passes, left: taken.left, whole: taken.whole, wait: taken.wait })
        })
    }
}

/// Makes a worker's way to a server that decides.
fn umpires() -> Umpires {
    Arc::new(|service: &RateService| {
        let asked = ratelimit::Service::new(&service.host, service.port, service.timeout);
        Some(Rc::new(AtService { asked, service: service.clone() }) as Rc<dyn Umpire>)
    })
}

struct AtService {
    asked: ratelimit::Service,
    service: RateService,
}

impl Umpire for AtService {
    fn timeout(&self) -> Duration {
        self.service.timeout
    }

    fn judge(&self, descriptors: Vec<Descriptor>, until: Instant) -> Judging<'_> {
        let entry = |(key, value): (Arc<str>, String)| ratelimit::Entry { key: key.to_string(), value };
        let descriptors = descriptors
            .into_iter()
            .map(|entries| ratelimit::Descriptor { entries: entries.into_iter().map(entry).collect() });
        let domain = self.service.domain.to_string();
        let question = ratelimit::Question { domain, descriptors: descriptors.collect() };
        let count = question.descriptors.len();
        Box::pin(async move {
            let answer = self.asked.ask(&question, until).await.map_err(lost)?;
            Ok(ruling(answer, count))
        })
    }
}

fn lost(lost: redis::Lost) -> Lost {
    match lost {
        redis::Lost::Gone => Lost::Gone,
        redis::Lost::Late => Lost::Late,
        redis::Lost::Failed => Lost::Failed,
    }
}

/// What was said of so many descriptors.
fn ruling(mut answer: ratelimit::Answer, count: usize) -> Ruling {
    if answer.statuses.is_empty() {
        answer.statuses.resize(count, ratelimit::Status::default());
    }
    // It is the whole that counts.
    if answer.is_over()
        && !answer.statuses.iter().any(ratelimit::Status::is_over)
        && let Some(first) = answer.statuses.first_mut()
    {
        first.set_code(ratelimit::Code::OverLimit);
    }
    let one = |status: &ratelimit::Status| {
        let (passes, whole) = (!status.is_over(), status.reset());
        let wait = if passes { Duration::ZERO } else { whole };
        let rule = status
            .current_limit
            .as_ref()
            .map(|limit| Rule { count: limit.requests_per_unit, period: limit.period() });
        (Verdict { passes, left: status.limit_remaining, whole, wait }, rule)
    };
    Ruling { verdicts: answer.statuses.iter().map(one).collect(), fields: answer.fields() }
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
