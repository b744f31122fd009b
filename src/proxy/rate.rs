//! Refuses what is more than the route's `rate_limit` lets pass. A route
//! without one pays a branch.

use std::fmt::Write as _;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use tower::Service;

use super::rates::Rated;
use super::router::Route;
use super::stack::{Attempt, Call};
use crate::base::{ProxyError, Reason};
use crate::codec::Body;
use crate::config::model::{Per, RateHeaders, RateLimit};
use crate::config::units;
use crate::policy::rate::Verdict;
use crate::policy::routes;

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The path by which a call met its route, where it goes on with another one.
#[derive(Clone)]
pub struct FirstPath(pub String);

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
        /// It may not.
        Refused { error: Option<ProxyError> },
    }
}

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
        let told = match self.route.rates.is_empty() {
            true => Ok(None),
            false => check(&self.route, &attempt.call),
        };
        match told {
            Ok(told) => Limited::Passes { inner: self.inner.call(attempt), told },
            Err(error) => Limited::Refused { error: Some(error) },
        }
    }
}

impl<F: Future<Output = Result<Response<Body>, ProxyError>>> Future for Limited<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            LimitedProjection::Passes { inner, told } => inner.poll(cx).map(|answer| {
                let mut response = answer?;
                // What an upgrade answers is for another protocol.
                if let Some(told) =
                    told.take().filter(|_| response.status() != StatusCode::SWITCHING_PROTOCOLS)
                {
                    // Behind what the service says of its own limits.
                    for (name, value) in told.iter() {
                        response.headers_mut().append(name.clone(), value.clone());
                    }
                }
                Ok(response)
            }),
            LimitedProjection::Refused { error } => Poll::Ready(Err(error.take().unwrap_or_else(again))),
        }
    }
}

/// Nobody polls a future twice that has ended.
fn again() -> ProxyError {
    ProxyError::unsent(Reason::RateLimited, "the limit of a rate was asked twice")
}

/// Asks all limits, in the order in which they are written, until one refuses.
fn check(route: &Route, call: &Call) -> Result<Option<Box<HeaderMap>>, ProxyError> {
    let now = Instant::now();
    let mut fields = Fields::default();
    for (limit, rated) in route.policy.rate_limits.iter().zip(&route.rates) {
        let verdict = take(rated, &limit.quota.per, call, now);
        let refuses = !verdict.passes && !limit.shadow;
        let says = match limit.headers {
            RateHeaders::None => false,
            RateHeaders::Refusals => refuses,
            RateHeaders::All => true,
        };
        if says && !limit.shadow {
            fields.add(limit, verdict);
        }
        if refuses {
            rated.refused.increment(1);
            return Err(refusal(limit, verdict.wait, fields));
        }
        if !verdict.passes {
            rated.shadowed.increment(1);
        }
    }
    Ok(fields.finish())
}

/// Takes a call out of a limit, for whoever makes it.
fn take(rated: &Rated, per: &Per, call: &Call, now: Instant) -> Verdict {
    let take = |value: Option<&[u8]>| rated.limiter.take(value, now);
    match per {
        Per::All => take(None),
        // Nobody knows callers by more than their address as yet.
        Per::Client | Per::Source => match call.peer().ip().to_canonical() {
            IpAddr::V4(ip) => take(Some(&ip.octets())),
            // One subscriber has a /64 (RFC 6177).
            IpAddr::V6(ip) => take(Some(&ip.octets()[..8])),
        },
        Per::Header(name) => take(call.head.headers.get(name).map(HeaderValue::as_bytes)),
        Per::Path(index) => {
            let first = call.head.extensions.get::<FirstPath>();
            let path = first.map_or(call.head.uri.path(), |first| &first.0);
            take(routes::segment(path, *index).as_deref())
        }
    }
}

fn refusal(limit: &RateLimit, wait: Duration, fields: Fields) -> ProxyError {
    let (rate, burst) = (units::show_rate(limit.quota.rate), limit.quota.burst);
    let detail = format!("the limit `{}` lets {rate} pass, at most {burst} at once", limit.name);
    ProxyError {
        retry_after: Some(wait),
        fields: fields.finish(),
        ..ProxyError::unsent(Reason::RateLimited, detail).by(limit.origin.clone())
    }
}

/// `RateLimit` and `RateLimit-Policy`, lists of structured fields (RFC 9651).
#[derive(Default)]
struct Fields {
    left: String,
    policy: String,
}

impl Fields {
    fn add(&mut self, limit: &RateLimit, verdict: Verdict) {
        let comma = if self.left.is_empty() { "" } else { ", " };
        let (name, burst) = (&limit.name, limit.quota.burst);
        let (whole, window) = (seconds(verdict.whole), seconds(limit.quota.window()).max(1));
        // Writing to a String can't fail.
        let _ = write!(self.left, "{comma}\"{name}\";r={};t={whole}", verdict.left);
        let _ = write!(self.policy, "{comma}\"{name}\";q={burst};w={window}");
    }

    fn finish(self) -> Option<Box<HeaderMap>> {
        if self.left.is_empty() {
            return None;
        }
        let mut fields = Box::new(HeaderMap::with_capacity(2));
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
