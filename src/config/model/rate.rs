//! `rate_limit`: how many calls there may be in a time.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

use crate::base::{Origin, UpstreamName};

/// Values of a key that are told apart at one time; the default of `keys`.
pub const KEYS: usize = 100_000;

/// One limit.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// What it is called in answers, errors and metrics.
    pub name: Arc<str>,
    /// How many, and who counts together. As long as this stays the same, a
    /// reload changes nothing for the callers.
    pub quota: Quota,
    /// Counts what it would refuse and lets it pass; default false.
    pub shadow: bool,
    /// Which answers tell the caller what it has left; default those that refuse.
    pub headers: RateHeaders,
    /// Counted for all sidecars together; default only for this one.
    pub shared: Option<Shared>,
    /// Decided by a rate-limit service; default not.
    pub service: Option<Asked>,
    /// Whose calls it counts.
    pub place: Arc<Place>,
    /// Where it is written.
    pub origin: Origin,
}

/// How many calls there may be, and who counts together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many there may be for long.
    pub rate: Rate,
    /// How many there may be at once after a pause; default the count of `rate`.
    pub burst: NonZeroU32,
    /// Who has a count of its own.
    pub per: Per,
    /// Values of `per` that are told apart at one time; default [`KEYS`]. Not those
    /// in Redis, which expire after [`Quota::window`].
    pub keys: usize,
}

/// `50/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many.
    pub count: NonZeroU32,
    /// In this time: a second, a minute, an hour or a day.
    pub period: Duration,
}

/// Who has a count of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Per {
    /// Nobody: all calls count together.
    All,
    /// Each caller, as far as it is known: who `allow` found it to be, or else its
    /// address, of IPv6 the /64.
    Client,
    /// Each address, of IPv6 each /64.
    Source,
    /// Each value of this header.
    Header(HeaderName),
    /// Each value of this segment of the path, counted from 0.
    Path(usize),
    /// Each value of this claim of the caller's token, which was checked.
    Claim(Arc<str>),
}

/// `shared` and `fallback`.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// What the sidecars that count together call it.
    pub name: Arc<str>,
    /// What part of the limit this sidecar lets pass by itself while the server
    /// says nothing, 0 to 1; `None` for an equal part of all sidecars that were
    /// there last.
    pub fallback: Option<f64>,
}

/// `descriptor` and `on_error`: what a rate-limit service decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Each with the name that the server's rules have for it.
    pub entries: Arc<[Entry]>,
    /// While the server says nothing; default `Local`.
    pub on_error: OnError,
    /// What part of the limit this sidecar lets pass then, 0 to 1; default 1.
    pub fallback: f64,
}

/// One entry of a descriptor: its key, and what its value is.
pub type Entry = (Arc<str>, Part);

/// The value of one entry of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Always this.
    Value(Arc<str>),
    /// The value of this header.
    Header(HeaderName),
    /// This segment of the path, counted from 0.
    Path(usize),
    /// The caller's address.
    Source,
}

/// `on_error`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Calls pass.
    Allow,
    /// They are refused.
    Deny,
    /// This sidecar counts by itself; the default.
    #[default]
    Local,
}

/// `rate_limits.service`: a server of Envoy's rate-limit protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateService {
    /// Without brackets.
    pub host: Arc<str>,
    /// 1 to 65535.
    pub port: u16,
    /// Whose rules hold.
    pub domain: Arc<str>,
    /// How long a call may wait for it; default 20 ms.
    pub timeout: Duration,
}

/// `rate_limits.redis`: the server that counts for all sidecars.
#[derive(Clone, PartialEq)]
pub struct RateServer {
    /// `redis://…` or `unix://…`. It may hold a password: never shown.
    pub address: Arc<str>,
    /// How long a call may wait for it; default 5 ms.
    pub timeout: Duration,
    /// Before each key; default `pillion`.
    pub prefix: Arc<str>,
}

/// Which answers carry `RateLimit` and `RateLimit-Policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateHeaders {
    /// None.
    None,
    /// Those that refuse; the default.
    #[default]
    Refusals,
    /// All.
    All,
}

/// Whose calls a limit counts: those of the entry where it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The listener for callers from outside, where it is one's.
    pub gateway: Option<SocketAddr>,
    /// The called service; `None` for calls to the service.
    pub to: Option<UpstreamName>,
    /// The route; empty for an entry without one.
    pub route: Arc<str>,
    /// Its other conditions, as text.
    pub conditions: Arc<str>,
}

impl RateLimit {
    /// Whether a server is asked.
    pub fn is_asked(&self) -> bool {
        self.shared.is_some() || self.service.is_some()
    }

    /// What this sidecar lets pass by itself.
    pub fn own(&self) -> Quota {
        self.service.as_ref().map_or_else(|| self.quota.clone(), |asked| self.quota.part(asked.fallback))
    }
}

impl OnError {
    /// The word that the file uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Local => "local",
        }
    }
}

impl RateHeaders {
    /// The word that the file uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Refusals => "refusals",
            Self::All => "all",
        }
    }
}

impl Rate {
    /// The time that brings one call.
    pub fn interval(self) -> Duration {
        (self.period / self.count.get()).max(Duration::from_nanos(1))
    }
}

impl fmt::Debug for RateServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateServer {{ timeout: {:?}, prefix: {:?} }}", self.timeout, self.prefix)
    }
}

impl RateServer {
    /// The address without what may be secret.
    pub fn shown(&self) -> String {
        // A path of a socket has its password behind it.
        let address = self.address.split('?').next().unwrap_or_default();
        let (scheme, rest) = address.split_once("://").unwrap_or(("redis", address));
        format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
    }
}

impl Quota {
    /// A part of it, 0 to 1, that lets at least one call pass now and then.
    pub fn part(&self, part: f64) -> Self {
        let part = part.clamp(1e-3, 1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let burst = (f64::from(self.burst.get()) * part) as u32;
        let rate = Rate { period: self.rate.period.div_f64(part), ..self.rate };
        Self { rate, burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN), ..self.clone() }
    }

    /// The time after which a pause brings no more.
    pub fn window(&self) -> Duration {
        self.rate.interval().saturating_mul(self.burst.get())
    }
}
