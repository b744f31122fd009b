//! Refuses what is more than the route's `rate_limit` lets pass. A route
//! without one pays a branch.

use std::fmt::Write as _;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, request};
use pin_project_lite::pin_project;
use tower::Service;

use super::ledger::{self, Lost};
use super::rates::Rated;
use super::router::Route;
use super::stack::{Attempt, Call};
use super::umpire::{self, Rule};
use crate::base::clock;
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::config::model::{Asked, OnError, Per, RateHeaders, RateLimit};
use crate::config::units;
use crate::policy::rate::Verdict;
use crate::policy::routes;

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The path by which a call met its route, where it goes on with another one.
#[derive(Clone)]
struct FirstPath(String);

/// Keeps the path of a request before it gets another one.
pub fn keep_path(route: &Route, head: &mut request::Parts) {
    if !route.rates.is_empty() && head.extensions.get::<FirstPath>().is_none() {
        head.extensions.insert(FirstPath(head.uri.path().to_owned()));
    }
}

/// The call meets a route by the path that it has now.
pub fn forget_path(head: &mut request::Parts) {
    head.extensions.remove::<FirstPath>();
}

/// The layer's service.
pub struct RateLimits<S> {
    inner: S,
    route: Rc<Route>,
}

pin_project! {
    /// Lets a call pass, or not.
    #[project = LimitedProjection]
    pub enum Limited<F> {
        /// It may.
        Passes { #[pin] inner: F, told: Option<Box<HeaderMap>> },
        /// The server that counts for all sidecars is asked.
        Asks { #[pin] inner: F, asking: Option<Asking>, told: Option<Box<HeaderMap>> },
        /// It may not.
        Refused { error: Option<ProxyError> },
    }
}

/// What the limits that are shared will say.
type Asking = Pin<Box<dyn Future<Output = Result<Fields, ProxyError>>>>;

impl<S> RateLimits<S> {
    /// Limits `inner` as the route's policy says.
    pub fn new(inner: S, route: &Rc<Route>) -> Self {
        Self { inner, route: route.clone() }
    }
}

impl<S> Service<Attempt> for RateLimits<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = ProxyError>,
{
    type Response = Response<Body>;
    type Error = ProxyError;
    type Future = Limited<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        if self.route.rates.is_empty() {
            return Limited::Passes { inner: self.inner.call(attempt), told: None };
        }
        let call = attempt.call.clone();
        match check(&self.route, &call) {
            Ok(fields) if self.route.policy.rate_limits.iter().any(RateLimit::is_asked) => {
                // The call itself does nothing before it is polled.
                Limited::Asks {
                    inner: self.inner.call(attempt),
                    asking: Some(Box::pin(ask(call, fields))),
                    told: None,
                }
            }
            Ok(fields) => Limited::Passes { inner: self.inner.call(attempt), told: fields.finish() },
            Err(error) => Limited::Refused { error: Some(error) },
        }
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Limited<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (inner, told) = match self.project() {
            LimitedProjection::Passes { inner, told } => (inner, told),
            LimitedProjection::Asks { inner, asking, told } => {
                if let Some(asked) = asking {
                    *told = ready!(asked.as_mut().poll(cx))?.finish();
                    *asking = None;
                }
                (inner, told)
            }
            LimitedProjection::Refused { error } => {
                return Poll::Ready(Err(error.take().unwrap_or_else(again)));
            }
        };
        let mut response = ready!(inner.poll(cx))?;
        // What an upgrade answers is for another protocol.
        if let Some(told) = told.take().filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS) {
            // Behind what the service says of its own limits.
            for (name, value) in told.iter() {
                response.headers_mut().append(name.clone(), value.clone());
            }
        }
        Poll::Ready(Ok(response))
    }
}

/// Nobody polls a future twice that has ended.
fn again() -> ProxyError {
    ProxyError::unsent(Reason::RateLimited, "the limit of a rate was asked twice")
}

/// Asks the limits that this sidecar counts for itself, in the order in which
/// they are written, until one refuses.
fn check(route: &Route, call: &Call) -> Result<Fields, ProxyError> {
    let now = clock::now();
    let early = route.policy.allow.is_some();
    let mut fields = call.head.extensions.get::<Fields>().filter(|_| early).cloned().unwrap_or_default();
    let limits = route.policy.rate_limits.iter().zip(&route.rates);
    let due = |limit: &RateLimit| !limit.is_asked() && (!early || limit.quota.per != Per::Source);
    for (limit, rated) in limits.filter(|(limit, _)| due(limit)) {
        let verdict = of_caller(&limit.quota.per, call, |value| rated.limiter.take(value, now));
        fields.weigh(limit, rated, verdict, None)?;
    }
    Ok(fields)
}

/// Asks the limits that count by nothing but the caller's address, before it is
/// known who that is.
pub fn by_source(route: &Route, ip: IpAddr, extensions: &mut http::Extensions) -> Result<(), ProxyError> {
    if route.rates.is_empty() {
        return Ok(());
    }
    let now = clock::now();
    let mut fields = Fields::default();
    let limits = route.policy.rate_limits.iter().zip(&route.rates);
    for (limit, rated) in limits.filter(|(limit, _)| !limit.is_asked() && limit.quota.per == Per::Source) {
        let verdict = of_address(ip, |value| rated.limiter.take(value, now));
        fields.weigh(limit, rated, verdict, None)?;
    }
    extensions.insert(fields);
    Ok(())
}

/// Asks the limits that all sidecars count together, one after the other. All of
/// them together take no longer than one may.
async fn ask(call: Rc<Call>, mut fields: Fields) -> Result<Fields, ProxyError> {
    let ledger = call.worker().ledger();
    let begun = clock::now();
    let until = begun + ledger.as_ref().map_or(Duration::ZERO, |ledger| ledger.timeout());
    // Nor longer than the call itself may take.
    let until = call.bounds.end.map_or(until, |end| until.min(end));
    let limits = call.route.policy.rate_limits.iter().zip(&call.route.rates);
    for (limit, rated, share, shared) in limits
        .filter_map(|(limit, rated)| Some((limit, rated, rated.share.as_ref()?, limit.shared.as_ref()?)))
    {
        let key = of_caller(&limit.quota.per, &call, |value| ledger::key(&shared.name, value));
        let asked = clock::now();
        let said = match &ledger {
            Some(ledger) if asked < until => ledger.take(&key, &limit.quota, until).await,
            Some(_) => Err(Lost::Late),
            None => Err(Lost::Gone),
        };
        if said != Err(Lost::Gone) {
            share.waited.record(asked.elapsed());
        }
        let verdict = match said {
            Ok(verdict) => {
                share.answered.increment(1);
                verdict
            }
            Err(lost) => {
                let now = clock::now();
                of_caller(&limit.quota.per, &call, |value| share.take(lost, value, now))
            }
        };
        fields.weigh(limit, rated, verdict, None)?;
    }
    umpire::ask(&call, &mut fields).await?;
    Ok(fields)
}

/// What `take` makes of what tells this caller from others.
pub fn of_caller<T>(per: &Per, call: &Call, take: impl FnOnce(Option<&[u8]>) -> T) -> T {
    match per {
        Per::All => take(None),
        Per::Client => match call.identity.as_ref().and_then(|identity| identity.key()) {
            Some(client) => take(Some(&client)),
            None => of_address(call.peer().ip(), take),
        },
        Per::Source => of_address(call.peer().ip(), take),
        Per::Claim(name) => {
            let claim = call.identity.as_ref().and_then(|identity| identity.claim(name));
            take(claim.as_ref().map(|claim| claim.as_bytes()))
        }
        Per::Header(name) => take(call.head.headers.get(name).map(HeaderValue::as_bytes)),
        Per::Path(index) => take(routes::segment(path_of(call), *index).as_deref()),
    }
}

fn of_address<T>(ip: IpAddr, take: impl FnOnce(Option<&[u8]>) -> T) -> T {
    match ip.to_canonical() {
        IpAddr::V4(ip) => take(Some(&ip.octets())),
        // One subscriber has a /64 (RFC 6177).
        IpAddr::V6(ip) => take(Some(&ip.octets()[..8])),
    }
}

/// The path by which a call met its route.
pub fn path_of(call: &Call) -> &str {
    let first = call.head.extensions.get::<FirstPath>();
    first.map_or(call.head.uri.path(), |first| &first.0)
}

fn refusal(limit: &RateLimit, rule: Option<Rule>, wait: Duration, fields: &mut Fields) -> ProxyError {
    let name = &limit.name;
    let detail = match (rule, &limit.service) {
        (Some(Rule { count, period }), _) => {
            let period = units::show(period);
            format!("the rate-limit service lets {count} calls pass in {period} by the limit `{name}`")
        }
        (None, Some(Asked { on_error: OnError::Deny, .. })) => {
            format!(
                "the rate-limit service does not let the call pass, or says nothing, by the limit `{name}`"
            )
        }
        _ => {
            let (rate, burst) = (units::show_rate(limit.quota.rate), limit.quota.burst);
            format!("the limit `{name}` lets {rate} pass, at most {burst} at once")
        }
    };
    ProxyError {
        retry_after: Some(wait),
        fields: std::mem::take(fields).finish(),
        ..ProxyError::unsent(Reason::RateLimited, detail).by(limit.origin.clone())
    }
}

/// `RateLimit` and `RateLimit-Policy`, lists of structured fields (RFC 9651).
#[derive(Clone, Default)]
pub struct Fields {
    left: String,
    policy: String,
    /// Of a rate-limit service.
    more: HeaderMap,
}

impl Fields {
    /// What a limit said of a call, and what comes of it.
    pub fn weigh(
        &mut self,
        limit: &RateLimit,
        rated: &Rated,
        verdict: Verdict,
        rule: Option<Rule>,
    ) -> Result<(), ProxyError> {
        if limit.shadow {
            if !verdict.passes {
                rated.shadowed.increment(1);
            }
            return Ok(());
        }
        let says = match limit.headers {
            RateHeaders::None => false,
            RateHeaders::Refusals => !verdict.passes,
            RateHeaders::All => true,
        };
        if says {
            self.add(limit, verdict, rule);
        }
        if verdict.passes {
            return Ok(());
        }
        rated.refused.increment(1);
        Err(refusal(limit, rule, verdict.wait, self))
    }

    /// Fields as they are.
    pub fn extend(&mut self, fields: HeaderMap) {
        self.more.extend(fields);
    }

    fn add(&mut self, limit: &RateLimit, verdict: Verdict, rule: Option<Rule>) {
        let comma = if self.left.is_empty() { "" } else { ", " };
        let own = (limit.quota.burst.get(), limit.quota.window());
        let (burst, window) = rule.map_or(own, |rule| (rule.count, rule.period));
        let (name, whole, window) = (&limit.name, seconds(verdict.whole), seconds(window).max(1));
        // Writing to a String can't fail.
        let _ = write!(self.left, "{comma}\"{name}\";r={};t={whole}", verdict.left);
        let _ = write!(self.policy, "{comma}\"{name}\";q={burst};w={window}");
    }

    fn finish(self) -> Option<Box<HeaderMap>> {
        if self.left.is_empty() && self.more.is_empty() {
            return None;
        }
        let mut fields = Box::new(self.more);
        if self.left.is_empty() {
            return Some(fields);
        }
        for (name, value) in [(RATE_LIMIT, self.left), (RATE_LIMIT_POLICY, self.policy)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                fields.insert(name, value);
            }
        }
        Some(fields)
    }
}

/// Whole ones, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
