//! A server that decides by rules of its own whether calls may pass, asked once
//! for all limits of a route that leave it to it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue};
use metrics::{Counter, Histogram};

use super::ledger::Lost;
use super::rate::{Fields, of_caller, path_of};
use super::rates::Rated;
use super::stack::Call;
use crate::base::{ProxyError, clock};
use crate::config::model::{OnError, RateLimit, RatePart, RateService};
use crate::policy::rate::Verdict;
use crate::policy::routes;
use crate::telemetry::{Metrics, names};

/// A worker's way to the server.
pub trait Umpire {
    /// How long a call may wait for it.
    fn timeout(&self) -> Duration;

    /// Asks about these descriptors; ends by `until`.
    fn judge(&self, descriptors: Vec<Descriptor>, until: Instant) -> Judging<'_>;
}

/// What a limit asks about: keys and their values.
pub type Descriptor = Vec<(Arc<str>, String)>;

/// What an [`Umpire`] will say.
pub type Judging<'a> = Pin<Box<dyn Future<Output = Result<Ruling, Lost>> + 'a>>;

/// Makes a worker's way to a server.
pub type Umpires = Arc<dyn Fn(&RateService) -> Option<Rc<dyn Umpire>> + Send + Sync>;

/// What a server said.
#[derive(Debug, Default)]
pub struct Ruling {
    /// Of each descriptor, in their order.
    pub verdicts: Vec<(Verdict, Option<Rule>)>,
    /// For the answer to the caller.
    pub fields: HeaderMap,
}

/// A rule of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// So many calls.
    pub count: u32,
    /// In this time.
    pub period: Duration,
}

/// A worker's way to the server, and how it was asked.
pub struct Bench {
    umpire: Rc<dyn Umpire>,
    answered: Counter,
    late: Counter,
    failed: Counter,
    gone: Counter,
    waited: Histogram,
}

impl Bench {
    /// Of which nothing was asked.
    pub fn new(umpire: Rc<dyn Umpire>, metrics: &Metrics) -> Self {
        let result = |result| metrics.counter(&names::RATE_SERVICE, &[result]);
        Self {
            umpire,
            answered: result("answered"),
            late: result("late"),
            failed: result("failed"),
            gone: result("gone"),
            waited: metrics.histogram(&names::RATE_SERVICE_WAIT, &[]),
        }
    }

    async fn judge(&self, descriptors: Vec<Descriptor>, until: Instant) -> Result<Ruling, Lost> {
        let (begun, count) = (clock::now(), descriptors.len());
        let said = match begun < until {
            true => self.umpire.judge(descriptors, until).await,
            false => Err(Lost::Late),
        };
        // What does not answer all that was asked answers nothing.
        let said = said.and_then(|ruling| match ruling.verdicts.len() == count {
            true => Ok(ruling),
            false => Err(Lost::Failed),
        });
        if !matches!(said, Err(Lost::Gone)) {
            self.waited.record(begun.elapsed());
        }
        match &said {
            Ok(_) => self.answered.increment(1),
            Err(Lost::Late) => self.late.increment(1),
            Err(Lost::Failed) => self.failed.increment(1),
            Err(Lost::Gone) => self.gone.increment(1),
        }
        said
    }
}

/// Asks about all limits of the route that are the server's, and weighs what it
/// says. What it does not say in time is decided as each limit's `on_error` says.
pub async fn ask(call: &Call, fields: &mut Fields) -> Result<(), ProxyError> {
    let all = call.route.policy.rate_limits.iter().zip(&call.route.rates);
    let (mut asked, mut descriptors): (Vec<(&RateLimit, &Arc<Rated>)>, Vec<Descriptor>) = Default::default();
    for (limit, rated) in all {
        if let Some(descriptor) = descriptor(limit, call) {
            asked.push((limit, rated));
            descriptors.push(descriptor);
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let said = match call.worker().umpire() {
        Some(bench) => {
            let until = clock::now() + bench.umpire.timeout();
            // Nor longer than the call itself may take.
            bench.judge(descriptors, call.bounds.end.map_or(until, |end| until.min(end))).await
        }
        None => Err(Lost::Gone),
    };
    match said {
        Ok(ruling) => {
            fields.extend(ruling.fields);
            for ((limit, rated), (verdict, rule)) in asked.into_iter().zip(ruling.verdicts) {
                // By no rule of its own: there is nothing to tell.
                if rule.is_some() || !verdict.passes {
                    fields.weigh(limit, rated, verdict, rule)?;
                }
            }
        }
        Err(_) => {
            for (limit, rated) in asked {
                let Some(verdict) = alone(limit, rated, call) else { continue };
                fields.weigh(limit, rated, verdict, None)?;
            }
        }
    }
    Ok(())
}

/// What this sidecar says by itself; `None` to let the call pass.
fn alone(limit: &RateLimit, rated: &Rated, call: &Call) -> Option<Verdict> {
    let second = Duration::from_secs(1);
    match limit.service.as_ref()?.on_error {
        OnError::Allow => None,
        OnError::Deny => Some(Verdict { passes: false, left: 0, whole: second, wait: second }),
        OnError::Local => {
            let now = clock::now();
            Some(of_caller(&limit.quota.per, call, |value| rated.limiter.take(value, now)))
        }
    }
}

/// What the server is asked about this call; `None` where the limit is not its
/// own, or where the call lacks a value.
fn descriptor(limit: &RateLimit, call: &Call) -> Option<Descriptor> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = |part: &RatePart| match part {
        RatePart::Value(value) => Some(value.to_string()),
        RatePart::Header(name) => call.head.headers.get(name).map(HeaderValue::as_bytes).map(text),
        RatePart::Path(index) => routes::segment(path_of(call), *index).as_deref().map(text),
        RatePart::Source => Some(call.peer().ip().to_canonical().to_string()),
    };
    let entries = limit.service.as_ref()?.entries.iter();
    entries.map(|(key, part)| Some((key.clone(), value(part)?))).collect()
}
