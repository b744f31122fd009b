//! `circuit_breaker` of a route.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

/// `circuit_breaker`.
#[derive(Clone, Debug, PartialEq)]
pub struct CircuitBreaker {
    /// When it opens, for how long, and what closes it.
    pub rules: Rules,
    /// What one breaker stands before; default an endpoint, with a preset the route.
    pub scope: Scope,
    /// What is answered in place of an error while it is open; default none.
    pub fallback: Option<Arc<Fallback>>,
    /// Whether calls are refused; default enforce.
    pub mode: Mode,
}

/// Whether a policy acts or only counts what it would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It acts; the default.
    #[default]
    Enforce,
    /// It counts only.
    Shadow,
}

/// What one breaker stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One endpoint: it is not picked while its breaker is open.
    Endpoint,
    /// All calls of the route.
    Route,
}

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Whose way it follows.
    pub style: Style,
    /// Failures in a row that open it; 0 for never. Default 5 where no other
    /// rule is set. At most 1000.
    pub consecutive_failures: u32,
    /// Share of failures over which it opens, 0 to 1; default none.
    pub failure_rate: Option<f64>,
    /// Calls that take longer than this are slow, and the share of them over
    /// which it opens, 0 to 1; default none.
    pub slow_calls: Option<(Duration, f64)>,
    /// How far back shares are counted; default 10 s.
    pub window: Duration,
    /// Calls in the window without which no share is judged; default 20.
    pub min_requests: u32,
    /// How long failures in a row are remembered; default for ever.
    pub interval: Option<Duration>,
    /// The first and the longest time open; default 5 s..60 s.
    pub open_for: (Duration, Duration),
    /// Probes that are let through half-open: at one time, or with the style
    /// of gobreaker in all; default 3.
    pub half_open_requests: u32,
    /// Probes in a row that must go well to close it; default as many as
    /// `half_open_requests`.
    pub close_after: u32,
}

/// Whose way a breaker follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Its own.
    Own,
    /// That of <https://github.com/sony/gobreaker>.
    Gobreaker,
    /// That of <https://github.com/danielfm/pybreaker>.
    Pybreaker,
    /// That of <https://github.com/dmexe/failsafe-rs>: an average of success,
    /// and no limit half-open.
    Failsafe,
}

/// `circuit_breaker.fallback`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// Default 200.
    pub status: StatusCode,
    /// Default empty.
    pub body: Arc<[u8]>,
    /// Content type and others.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl CircuitBreaker {
    /// One that follows `rules`, the rest as by default.
    pub fn new(rules: Rules) -> Self {
        let scope = if rules.style == Style::Own { Scope::Endpoint } else { Scope::Route };
        Self { rules, scope, fallback: None, mode: Mode::Enforce }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            style: Style::Own,
            consecutive_failures: 5,
            failure_rate: None,
            slow_calls: None,
            window: Duration::from_secs(10),
            min_requests: 20,
            interval: None,
            open_for: (Duration::from_secs(5), Duration::from_secs(60)),
            half_open_requests: 3,
            close_after: 3,
        }
    }
}

impl Rules {
    /// Those of a library.
    pub fn preset(style: Style) -> Self {
        let minute = Duration::from_secs(60);
        let fixed = Self { style, open_for: (minute, minute), ..Self::default() };
        match style {
            Style::Own => Self::default(),
            Style::Gobreaker => {
                Self { consecutive_failures: 6, interval: Some(Duration::from_secs(10)), ..fixed }
            }
            Style::Pybreaker => Self { half_open_requests: 1, close_after: 1, ..fixed },
            Style::Failsafe => Self {
                consecutive_failures: 0,
                failure_rate: Some(0.5),
                window: Duration::from_secs(30),
                min_requests: 5,
                half_open_requests: 1,
                close_after: 1,
                ..fixed
            },
        }
    }
}
