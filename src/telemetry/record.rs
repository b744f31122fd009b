//! Records each request once, also when its future is dropped.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use metrics::Histogram;

use super::{Metrics, names};
use crate::base::{Reason, clock};

/// Outcomes of one route that have a series of their own on a worker; further
/// ones share the series of the label `other`.
const MAX_OUTCOMES: usize = 128;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the fronted service.
    Inbound,
    /// From it.
    Outbound,
    /// From outside to others.
    Gateway,
}

/// The metrics of one route on one worker.
pub struct RouteMetrics {
    metrics: Metrics,
    direction: Direction,
    upstream: String,
    template: String,
    /// Series that were used before: nothing is looked up by name twice.
    resolved: RefCell<Vec<(Outcome, Histogram)>>,
    /// Records that began here and are not finished.
    active: Cell<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Outcome {
    method: &'static str,
    status: u16,
    reason: Option<Reason>,
}

/// One request at hand. Dropped before [`Record::finish`], it counts as given
/// up by the caller.
pub struct Record {
    route: Rc<RouteMetrics>,
    /// Where it counts as at hand.
    begun: Rc<RouteMetrics>,
    method: &'static str,
    started: Instant,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    finished: bool,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inbound, Self::Outbound, Self::Gateway];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

impl RouteMetrics {
    /// Metrics of the route with this template.
    pub fn new(metrics: &Metrics, direction: Direction, upstream: &str, template: &str) -> Self {
        Self {
            metrics: metrics.clone(),
            direction,
            upstream: upstream.to_owned(),
            template: template.to_owned(),
            resolved: RefCell::default(),
            active: Cell::new(0),
        }
    }

    /// Counts an attempt beside the first.
    pub fn retried(&self, why: &str) {
        self.metrics.counter(&names::RETRIES, &[&self.upstream, why]).increment(1);
    }

    /// Counts an attempt that the policy wanted and that was not made.
    pub fn not_retried(&self, why: &str) {
        self.metrics.counter(&names::RETRIES_SKIPPED, &[&self.upstream, why]).increment(1);
    }

    /// Counts a call that a fault has struck.
    pub fn struck(&self, kind: &str) {
        self.metrics.counter(&names::FAULTS, &[&self.upstream, kind]).increment(1);
    }

    /// Counts an attempt beside one that was slow.
    pub fn hedged(&self, result: &str) {
        self.metrics.counter(&names::HEDGES, &[&self.upstream, result]).increment(1);
    }

    /// Which way its requests go.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Requests at hand whose record began here.
    pub fn active(&self) -> i64 {
        self.active.get()
    }

    fn duration(&self, outcome: Outcome, elapsed: Duration) {
        let mut resolved = self.resolved.borrow_mut();
        if let Some((_, histogram)) = resolved.iter().find(|(known, _)| *known == outcome) {
            return histogram.record(elapsed);
        }
        let status = outcome.status.to_string();
        let error = outcome.reason.map_or("", Reason::as_str);
        let full = resolved.len() >= MAX_OUTCOMES;
        let status = if full { "other" } else { &status };
        let histogram = match self.direction {
            Direction::Inbound => self
                .metrics
                .histogram(&names::SERVER_DURATION, &[outcome.method, &self.template, status, error]),
            Direction::Outbound => self.metrics.histogram(
                &names::CLIENT_DURATION,
                &[&self.upstream, outcome.method, &self.template, status, error],
            ),
            Direction::Gateway => self.metrics.histogram(
                &names::GATEWAY_DURATION,
                &[&self.upstream, outcome.method, &self.template, status, error],
            ),
        };
        histogram.record(elapsed);
        if !full {
            resolved.push((outcome, histogram));
        }
    }

    /// Counts an answer that Pillion made itself or ended early.
    pub fn failed(&self, reason: Reason) {
        let side = reason.facts().side.as_str();
        let labels = [self.direction.as_str(), &self.upstream, reason.as_str(), side];
        self.metrics.counter(&names::ERRORS, &labels).increment(1);
    }
}

impl Record {
    /// A request whose head came at `started`.
    pub fn begin(route: Rc<RouteMetrics>, method: &Method, started: Instant) -> Self {
        route.active.set(route.active.get() + 1);
        Self {
            begun: route.clone(),
            route,
            method: known_method(method),
            started,
            status: None,
            reason: None,
            finished: false,
        }
    }

    /// The route was found after the record began.
    pub fn set_route(&mut self, route: Rc<RouteMetrics>) {
        self.route = route;
    }

    /// The head of the answer is known.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Pillion made the answer, or ended it, for this reason.
    pub fn failed(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    /// Counts an attempt beside the first.
    pub fn retried(&self, why: &str) {
        self.route.retried(why);
    }

    /// The whole answer is on its way to the caller.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.begun.active.set(self.begun.active.get() - 1);
        let status =
            self.status.map_or_else(|| self.reason.map_or(499, |r| r.facts().status), |s| s.as_u16());
        let outcome = Outcome { method: self.method, status, reason: self.reason };
        self.route.duration(outcome, clock::since(self.started));
        if let Some(reason) = self.reason {
            self.route.failed(reason);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.route.metrics.panicked();
        }
        if !self.finished {
            self.failed(Reason::ClientClosed);
            self.finish();
        }
    }
}

/// The method as a label: one of the registered ones, else `_OTHER`
/// (OpenTelemetry's HTTP conventions).
pub fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_whether_it_ends_or_is_dropped() {
        let metrics = Metrics::new();
        let route = Rc::new(RouteMetrics::new(&metrics, Direction::Outbound, "users", "/v1/{id}"));
        let mut record = Record::begin(route.clone(), &Method::GET, Instant::now());
        record.answered(StatusCode::OK);
        record.finish();
        drop(record);
        assert_eq!(route.active(), 0);
        let brew = Method::from_bytes(b"BREW").unwrap();
        let mut record = Record::begin(route.clone(), &brew, Instant::now());
        record.set_route(Rc::new(RouteMetrics::new(&metrics, Direction::Outbound, "users", "/v1/{id}")));
        assert_eq!(route.active(), 1);
        drop(record);
        assert_eq!(route.active(), 0);
        let text = metrics.render();
        let count = |labels: &str| text.lines().any(|line| line.contains(labels) && line.ends_with("} 1"));
        assert!(
            count(
                "http_client_request_duration_seconds_count{upstream=\"users\",http_request_method=\"GET\",http_route=\"/v1/{id}\",http_response_status_code=\"200\",error_type=\"\""
            ),
            "{text}"
        );
        assert!(
            count(
                "http_request_method=\"_OTHER\",http_route=\"/v1/{id}\",http_response_status_code=\"499\",error_type=\"client_closed\""
            ),
            "{text}"
        );
        assert!(
            count(
                "pillion_errors_total{direction=\"outbound\",upstream=\"users\",reason=\"client_closed\",side=\"client\""
            ),
            "{text}"
        );
    }
}
