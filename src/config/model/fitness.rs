//! Which endpoints of an upstream take calls: `health_check`, `ejection`,
//! `slow_start`, `locality` and `panic` of its entry.

use std::sync::Arc;
use std::time::Duration;

/// What decides which endpoints take calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitness {
    /// Whether endpoints are asked for their health; default not.
    pub check: Option<HealthCheck>,
    /// When an endpoint that fails is left out; `None` for never.
    pub ejection: Option<Ejection>,
    /// How long the share of an endpoint grows that is new or has come back;
    /// default not at all.
    pub slow_start: Option<Duration>,
    /// Whether endpoints of the own zone and region are preferred; default
    /// true, without effect where `service.locality` is not set.
    pub prefer_near: bool,
    /// With a smaller share of endpoints in use than this all are used, 0 to 1;
    /// default 0.3.
    pub panic: f64,
}

/// `health_check`.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 3 s.
    pub timeout: Duration,
    /// Healthy answers in a row after which a sick endpoint is used; default 2.
    pub healthy: u32,
    /// Questions in a row without a healthy answer after which an endpoint is
    /// not used; default 3.
    pub unhealthy: u32,
    /// Where to ask, instead of the endpoint's own port.
    pub port: Option<u16>,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A GET of this path, which answers 2xx.
    Path(Arc<str>),
    /// `grpc.health.v1.Health/Check` for this service; empty for the server as
    /// a whole.
    Grpc(Arc<str>),
    /// Whether it takes a connection.
    Tcp,
}

/// `ejection`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ejection {
    /// Calls in a row without an answer (no connection, a reset, silence)
    /// after which an endpoint is left out; default 5, 0 for never.
    pub consecutive_failures: u32,
    /// Answers in a row of 502, 503, 504 or UNAVAILABLE; default 5, 0 for never.
    pub gateway_errors: u32,
    /// Endpoints that succeed less often than the others; `None` for never.
    pub success_rate: Option<SuccessRate>,
    /// The first and the longest time out; default 5 s..2 min.
    pub time: (Duration, Duration),
    /// Share of the endpoints that may be out at one time, 0 to 1; default 0.5.
    pub max_percent: f64,
}

/// `ejection.success_rate`.
#[derive(Clone, Debug, PartialEq)]
pub struct SuccessRate {
    /// How often rates are compared; default 10 s.
    pub interval: Duration,
    /// Calls in an interval without which an endpoint is not judged; default 100.
    pub requests: u64,
    /// Endpoints with so many calls, without which nobody is judged; default 5.
    pub endpoints: usize,
    /// Standard deviations below the mean; default 1.9.
    pub stdev_factor: f64,
}

impl Default for Fitness {
    fn default() -> Self {
        Self {
            check: None,
            ejection: Some(Ejection::default()),
            slow_start: None,
            prefer_near: true,
            panic: 0.3,
        }
    }
}

impl HealthCheck {
    /// A check of `question`, the rest as by default.
    pub fn new(question: Question) -> Self {
        Self {
            question,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            healthy: 2,
            unhealthy: 3,
            port: None,
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            gateway_errors: 5,
            success_rate: Some(SuccessRate::default()),
            time: (Duration::from_secs(5), Duration::from_secs(120)),
            max_percent: 0.5,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), requests: 100, endpoints: 5, stdev_factor: 1.9 }
    }
}
