//! Whether, and when, a request is sent again.

use std::time::Duration;

use http::{HeaderName, Method, request};

use super::advice::Advice;
use super::outcome::{Outcome, is_busy};
use crate::base::{ProxyError, Reason, Sent, Side, grpc};
use crate::config::model::{Json, OnlyIf, Retry, RetryOn};

/// The longest pause that a service can ask for; with a longer one its answer
/// is passed on.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What a second call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Harm {
    /// Nothing: it only reads.
    None,
    /// Nothing more than the first has done.
    Idempotent,
    /// The same, where the service goes by its `Idempotency-Key`.
    Keyed,
    /// Nobody knows.
    Unknown,
}

/// A failed attempt, and what is known of its call.
pub struct Failure<'a> {
    /// How it ended.
    pub outcome: Outcome<'a>,
    /// Attempts so far.
    pub attempts: u32,
    /// What another one may do.
    pub harm: Harm,
    /// Whether the call is one of gRPC.
    pub grpc: bool,
    /// Whether its body is there once more.
    pub replayable: bool,
    /// What its answer advises.
    pub advice: Advice,
    /// What is left of the call's time.
    pub left: Option<Duration>,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Its answer is passed on: it is none that the policy would have otherwise.
    Done,
    /// The same, because of this: a metric label.
    Stop(&'static str),
    /// Another attempt after a pause; the word is a metric label.
    Again(&'static str, Duration),
}

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

impl Harm {
    /// What a second call with this head does; `json` knows the `.proto`.
    pub fn of(head: &request::Parts, json: Option<&Json>) -> Self {
        match head.method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => return Self::None,
            Method::PUT | Method::DELETE => return Self::Idempotent,
            _ => {}
        }
        let told = json.filter(|_| grpc::is_call(head)).and_then(|json| told(json, head.uri.path()));
        let keyed = head.headers.get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty());
        told.unwrap_or(if keyed { Self::Keyed } else { Self::Unknown })
    }
}

/// What the `.proto` says of a method (`idempotency_level`).
fn told(json: &Json, path: &str) -> Option<Harm> {
    const NO_SIDE_EFFECTS: i32 = 1;
    const IDEMPOTENT: i32 = 2;
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let service = json.pool.get_service_by_name(service)?;
    let method = service.methods().find(|method| method.name() == name)?;
    match method.method_descriptor_proto().options.as_ref()?.idempotency_level? {
        NO_SIDE_EFFECTS => Some(Harm::None),
        IDEMPOTENT => Some(Harm::Idempotent),
        _ => None,
    }
}

impl OnlyIf {
    /// Whether calls that do this twice are meant.
    pub fn takes(self, harm: Harm) -> bool {
        match self {
            Self::Idempotent => harm <= Harm::Idempotent,
            Self::IdempotencyKey => harm <= Harm::Keyed,
            Self::Always => true,
        }
    }
}

impl Retry {
    /// What of `on` the outcome meets; the word is a metric label.
    pub fn wants(&self, outcome: Outcome<'_>, grpc: bool) -> Option<&'static str> {
        self.on.iter().find_map(|on| on.takes(outcome, grpc))
    }

    /// What follows an attempt. `budget` takes an attempt out of the budget: it
    /// is asked last.
    pub fn next(
        &self,
        failure: &Failure<'_>,
        budget: impl FnOnce() -> bool,
        random: &mut fastrand::Rng,
    ) -> Next {
        let Some(why) = self.wants(failure.outcome, failure.grpc).filter(|_| self.max > 0) else {
            return Next::Done;
        };
        let unsent = match failure.outcome {
            Outcome::Failed(error) => error.sent == Sent::No && error.reason.facts().side != Side::Client,
            // Its sidecar has refused it, and nobody before has tried more than once.
            Outcome::Head(_, headers) => is_busy(headers) && !headers.contains_key("pillion-attempts"),
        };
        let pause = self.pause(failure.attempts + 1, random);
        let pause = match failure.advice {
            _ if failure.attempts > self.max => return Next::Stop("max"),
            _ if !unsent && !self.only_if.takes(failure.harm) => return Next::Stop("method"),
            _ if !failure.replayable => return Next::Stop("body"),
            Advice::Never => return Next::Stop("pushback"),
            Advice::After(least) if least > LONGEST_PAUSE => return Next::Stop("pushback"),
            Advice::After(least) => pause.max(least),
            Advice::None => pause,
        };
        match failure.left {
            Some(left) if left <= pause => Next::Stop("deadline"),
            _ if !budget() => Next::Stop("budget"),
            _ => Next::Again(why, pause),
        }
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
    fn takes(self, outcome: Outcome<'_>, grpc: bool) -> Option<&'static str> {
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
            (Self::Grpc(code), Head(_, headers)) => grpc && status_in(headers) == Some(code),
            // What a library would make of it, without an answer.
            (Self::Grpc(code), Failed(error)) => grpc && is_of_endpoint(error) && code_of(error) == code,
            _ => false,
        };
        met.then_some(match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::ServerError | Self::Gateway | Self::Status(_) | Self::Grpc(_) => "status",
            Self::Timeout => "timeout",
        })
    }
}

/// The status of gRPC in the head of an answer that has no message.
fn status_in(headers: &http::HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether another endpoint may do better.
fn is_of_endpoint(error: &ProxyError) -> bool {
    let reason = error.reason;
    reason.facts().side == Side::Upstream
        && !matches!(reason, Reason::NoEndpoint | Reason::Timeout | Reason::StreamIdle)
}

fn code_of(error: &ProxyError) -> u8 {
    error.reason.facts().grpc as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Request, StatusCode};

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
            policy
                .wants(Outcome::Head(StatusCode::from_u16(code).unwrap(), &HeaderMap::new()), false)
                .is_some()
        };
        assert!(wants(503) && wants(429) && !wants(500) && !wants(200));
        let reset = ProxyError::new(Reason::ResetBeforeHeaders, "");
        assert_eq!(policy.wants(Outcome::Failed(&reset), false), None);
        assert_eq!(Retry::default().wants(Outcome::Failed(&reset), false), Some("reset"));
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

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn codes_of_grpc_are_read_from_the_head_of_an_answer_to_a_call_of_grpc() {
        let policy = Retry { on: vec![RetryOn::Grpc(14)], ..Retry::default() };
        let unavailable = headers(&[("grpc-status", "14")]);
        let head = |headers| Outcome::Head(StatusCode::OK, headers);
        assert_eq!(policy.wants(head(&unavailable), true), Some("status"));
        assert_eq!(policy.wants(head(&unavailable), false), None, "no call of gRPC");
        for (other, what) in
            [(headers(&[("grpc-status", "13")]), "INTERNAL"), (headers(&[]), "still to come")]
        {
            assert_eq!(policy.wants(Outcome::Head(StatusCode::OK, &other), true), None, "{what}");
        }
        let refused = ProxyError::unsent(Reason::ConnectRefused, "");
        assert_eq!(policy.wants(Outcome::Failed(&refused), true), Some("status"));
        let unknown = ProxyError::unsent(Reason::UnknownUpstream, "");
        assert_eq!(policy.wants(Outcome::Failed(&unknown), true), None, "it would fail again");
    }

    fn after(policy: &Retry, failure: &Failure<'_>) -> Next {
        policy.next(failure, || true, &mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn each_bar_to_another_attempt_has_its_word() {
        let unavailable = HeaderMap::new();
        let plain = || Failure {
            outcome: Outcome::Head(StatusCode::SERVICE_UNAVAILABLE, &unavailable),
            attempts: 1,
            harm: Harm::Idempotent,
            grpc: false,
            replayable: true,
            advice: Advice::None,
            left: None,
        };
        let policy = Retry { max: 2, ..Retry::default() };
        let seconds = Duration::from_secs;
        assert!(matches!(after(&policy, &plain()), Next::Again("status", _)));
        assert!(matches!(after(&policy, &Failure { attempts: 2, ..plain() }), Next::Again(..)));
        for (failure, wanted) in [
            (Failure { attempts: 3, ..plain() }, "max"),
            (Failure { harm: Harm::Keyed, ..plain() }, "method"),
            (Failure { replayable: false, ..plain() }, "body"),
            (Failure { advice: Advice::Never, ..plain() }, "pushback"),
            (Failure { advice: Advice::After(seconds(11)), ..plain() }, "pushback"),
            (Failure { advice: Advice::After(seconds(2)), left: Some(seconds(2)), ..plain() }, "deadline"),
        ] {
            assert_eq!(after(&policy, &failure), Next::Stop(wanted));
        }
        let failure = Failure { advice: Advice::After(seconds(2)), left: Some(seconds(3)), ..plain() };
        assert_eq!(after(&policy, &failure), Next::Again("status", seconds(2)));
        let mut random = fastrand::Rng::with_seed(1);
        assert_eq!(policy.next(&plain(), || false, &mut random), Next::Stop("budget"));
        let good = Failure { outcome: Outcome::Head(StatusCode::OK, &unavailable), ..plain() };
        assert_eq!(policy.next(&good, || panic!("nothing is taken out"), &mut random), Next::Done);
        assert_eq!(after(&Retry { max: 0, ..Retry::default() }, &plain()), Next::Done, "turned off");
    }

    #[test]
    fn what_was_surely_not_sent_is_sent_again_whatever_it_does() {
        let error = |sent| ProxyError { sent, ..ProxyError::new(Reason::ConnectRefused, "") };
        for (sent, again) in [(Sent::No, true), (Sent::OnReused, false), (Sent::Yes, false)] {
            let error = error(sent);
            let failure = Failure {
                outcome: Outcome::Failed(&error),
                attempts: 1,
                harm: Harm::Unknown,
                grpc: false,
                replayable: true,
                advice: Advice::None,
                left: None,
            };
            assert_eq!(matches!(after(&Retry::default(), &failure), Next::Again(..)), again, "{sent:?}");
        }
    }

    #[test]
    fn a_key_makes_a_second_call_harmless_where_the_policy_says_so() {
        let harm = |method: &str, key: &'static str| {
            let mut head = Request::builder().method(method).body(()).unwrap().into_parts().0;
            head.headers = headers(&[("idempotency-key", key)]);
            Harm::of(&head, None)
        };
        assert_eq!((harm("GET", ""), harm("PUT", "")), (Harm::None, Harm::Idempotent));
        assert_eq!((harm("POST", "7"), harm("PATCH", "")), (Harm::Keyed, Harm::Unknown));
        let (keyed, unknown) = (Harm::Keyed, Harm::Unknown);
        assert!(!OnlyIf::Idempotent.takes(keyed) && OnlyIf::IdempotencyKey.takes(keyed));
        assert!(!OnlyIf::IdempotencyKey.takes(unknown) && OnlyIf::Always.takes(unknown));
    }
}
