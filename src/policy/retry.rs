//! Whether, and when, a request is sent again.

use std::time::{Duration, Instant};

use http::Method;

use super::outcome::Outcome;
use crate::base::{ProxyError, Reason, Sent, Side};
use crate::config::model::{Retry, RetryOn};

/// How long the budget remembers a call.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries in a window that need no calls to earn them, so that an upstream
/// with little traffic can be retried at all.
const BUDGET_FLOOR: f64 = 3.0;

/// Methods that may be sent twice (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a failed attempt may be made anew whatever the policy says: nothing
/// of it was sent, or it met a connection that was already closed and does no
/// harm twice.
pub fn is_free(error: &ProxyError, method: &Method) -> bool {
    match error.sent {
        _ if error.reason.facts().side == Side::Client => false,
        Sent::No => true,
        Sent::OnReused => is_idempotent(method),
        Sent::Yes => false,
    }
}

impl Retry {
    /// What of `on` the outcome meets; the word is a metric label.
    pub fn wants(&self, outcome: Outcome<'_>) -> Option<&'static str> {
        self.on.iter().find_map(|on| on.takes(outcome))
    }

    /// The pause before attempt number `attempt` (2 for the first retry):
    /// exponential with full jitter
    /// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
    pub fn pause(&self, attempt: u32, random: &mut fastrand::Rng) -> Duration {
        let (first, longest) = self.backoff;
        let doubled = first.saturating_mul(1 << attempt.saturating_sub(2).min(16));
        doubled.min(longest).mul_f64(random.f64())
    }
}

impl RetryOn {
    fn takes(self, outcome: Outcome<'_>) -> Option<&'static str> {
        use Outcome::{Failed, Head};
        let met = match (self, outcome) {
            (Self::Connect, Failed(error)) => matches!(
                error.reason,
                Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed
            ),
            (Self::Reset, Failed(error)) => error.reason == Reason::ResetBeforeHeaders,
            (Self::Refused, Failed(error)) => {
                error.reason == Reason::ResetBeforeHeaders && error.sent == Sent::No
            }
            (Self::Timeout, Failed(error)) => error.reason == Reason::PerTryTimeout,
            (Self::ServerError, Head(status, _)) => status.is_server_error(),
            (Self::Gateway, Head(status, _)) => matches!(status.as_u16(), 502..=504),
            (Self::Status(wanted), Head(status, _)) => status == wanted,
            _ => false,
        };
        met.then_some(match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::ServerError | Self::Gateway | Self::Status(_) => "status",
            Self::Timeout => "timeout",
        })
    }
}

/// Keeps retries a share of the calls, so that an upstream in trouble does not
/// get more than it can bear (Finagle's `RetryBudget`). One for each route of a
/// worker.
#[derive(Debug)]
pub struct Budget {
    share: f64,
    /// Retries that may be made now.
    balance: f64,
    since: Option<Instant>,
}

impl Budget {
    /// `share` is of the calls, 0 to 1.
    pub fn new(share: f64) -> Self {
        Self { share, balance: BUDGET_FLOOR, since: None }
    }

    /// A call was made.
    pub fn deposit(&mut self, now: Instant) {
        self.decay(now);
        self.balance += self.share;
    }

    /// Takes a retry out, if there is one.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.decay(now);
        let enough = self.balance >= 1.0;
        if enough {
            self.balance -= 1.0;
        }
        enough
    }

    /// Moves the balance towards the floor, from both sides.
    fn decay(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_secs_f64() / BUDGET_WINDOW.as_secs_f64();
        if passed > 0.0 {
            let keep = (-passed).exp();
            self.balance = BUDGET_FLOOR + (self.balance - BUDGET_FLOOR) * keep;
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn what_was_sent_is_not_sent_again_unless_it_does_no_harm() {
        let error = |sent| ProxyError { sent, ..ProxyError::new(Reason::ResetBeforeHeaders, "") };
        assert!(is_free(&error(Sent::No), &Method::POST));
        assert!(is_free(&error(Sent::OnReused), &Method::GET));
        assert!(!is_free(&error(Sent::OnReused), &Method::POST));
        assert!(!is_free(&error(Sent::OnReused), &Method::PATCH));
        assert!(!is_free(&error(Sent::Yes), &Method::GET));
        let callers_own = ProxyError::unsent(Reason::MalformedRequest, "");
        assert!(!is_free(&callers_own, &Method::GET), "it would fail again");
    }

    #[test]
    fn a_policy_wants_what_it_names() {
        let policy = Retry { on: vec![RetryOn::Gateway, RetryOn::Status(429)], ..Retry::default() };
        let wants = |code| {
            policy.wants(Outcome::Head(StatusCode::from_u16(code).unwrap(), &HeaderMap::new())).is_some()
        };
        assert!(wants(503) && wants(429) && !wants(500) && !wants(200));
        let reset = ProxyError::new(Reason::ResetBeforeHeaders, "");
        assert_eq!(policy.wants(Outcome::Failed(&reset)), None);
        assert_eq!(Retry::default().wants(Outcome::Failed(&reset)), Some("reset"));
    }

    #[test]
    fn pauses_grow_and_stay_within_their_bounds() {
        let mut random = fastrand::Rng::with_seed(1);
        let policy = Retry::default();
        for attempt in 2..40 {
            let longest = policy.backoff.0.saturating_mul(1 << (attempt - 2).min(16)).min(policy.backoff.1);
            (0..100).for_each(|_| assert!(policy.pause(attempt, &mut random) <= longest));
        }
    }

    #[test]
    fn retries_stay_a_share_of_the_calls() {
        let start = Instant::now();
        let mut budget = Budget::new(0.2);
        let mut retries = 0;
        for call in 0..10_000u32 {
            let now = start + Duration::from_millis(u64::from(call));
            budget.deposit(now);
            retries += u32::from(budget.withdraw(now));
        }
        assert!((1_500..2_010).contains(&retries), "{retries}");
        let later = start + Duration::from_secs(1_000);
        let after_quiet = (0..10).filter(|_| budget.withdraw(later)).count();
        assert!((2..=3).contains(&after_quiet), "the floor: {after_quiet}");
    }
}
