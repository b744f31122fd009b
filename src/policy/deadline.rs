//! How long a call may take: what its route says and what its caller says,
//! whichever is less, and what the next hop is told of it.
//!
//! A caller can only shorten what the route gives. Every hop tells the next what
//! is left when it sends, so that nobody works for an answer that nobody awaits.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, request};

use crate::base::{ProxyError, Reason, grpc};
use crate::config::model::{RoutePolicy, Timeout};

/// Milliseconds that are left for a call that is not gRPC's: digits, no more.
pub const DEADLINE: HeaderName = HeaderName::from_static("pillion-deadline");
/// The same as Envoy writes it.
const ENVOY: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Answers without which nobody is refused for what they took.
const ENOUGH: u32 = 20;
/// How long the quickest answer is remembered at least, and half of how long at most.
const REMEMBERED: Duration = Duration::from_secs(10);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The end of the whole, whatever moves.
    pub end: Option<Instant>,
    /// The field by which the caller gave that end; `None` where it is the route's.
    pub caller: Option<&'static str>,
    /// How long nothing may move before the head of the answer.
    pub wait: Duration,
    /// Whether that is the `idle_timeout`.
    pub idle: bool,
    /// Whether the call is one of gRPC.
    grpc: bool,
    /// Whether the caller speaks of its time in Envoy's way too.
    envoy: bool,
}

/// The quickest answers of a route lately, on one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quickest {
    since: Option<Instant>,
    now: Least,
    before: Least,
}

#[derive(Clone, Copy, Debug, Default)]
struct Least {
    answers: u32,
    latency: Option<Duration>,
}

impl Bounds {
    /// What a policy says of a call that began at `received`, and its caller.
    /// What the caller says is taken out of the head: each attempt says anew
    /// what is left.
    pub fn of(policy: &RoutePolicy, received: Instant, head: &mut request::Parts) -> Self {
        let grpc = grpc::is_call(head);
        let (callers, envoy) = callers(&mut head.headers, grpc);
        let idle = policy.idle_timeout;
        let (own, wait) = match policy.timeout {
            Timeout::Whole(timeout) => (Some(timeout), timeout),
            // The wait for an answer begins when the request is there.
            Timeout::Head(timeout) => (None, timeout),
        };
        let shorter = callers.filter(|(callers, _)| own.is_none_or(|own| *callers <= own));
        let end = shorter.map(|(callers, _)| callers).or(own).and_then(|time| received.checked_add(time));
        let caller = shorter.filter(|_| end.is_some()).map(|(_, field)| field);
        // A service of gRPC may send its head with its first message, which may
        // be long in coming.
        let only_idle = grpc && (caller.is_some() || own.is_none());
        Self {
            end,
            caller,
            wait: if only_idle { idle } else { wait.min(idle) },
            idle: only_idle || idle < wait,
            grpc,
            envoy,
        }
    }

    /// What holds for a call of our own that has until `end`.
    pub fn ending(end: Instant, head: &request::Parts) -> Self {
        let grpc = grpc::is_call(head);
        Self { end: Some(end), caller: None, wait: Duration::MAX, idle: false, grpc, envoy: false }
    }

    /// What is left, at `now`, for the head of the answer to a call that began
    /// at `received`.
    pub fn left(&self, received: Instant, now: Instant) -> Option<Duration> {
        let end = self.end.or_else(|| received.checked_add(self.wait))?;
        Some(end.saturating_duration_since(now))
    }

    /// Refuses, at `now`, a call that nobody can answer in the time that its
    /// caller has left.
    pub fn check(&self, quickest: &Quickest, now: Instant) -> Result<(), ProxyError> {
        let (Some(field), Some(end)) = (self.caller, self.end) else { return Ok(()) };
        let left = end.saturating_duration_since(now);
        let detail = match quickest.least(now) {
            _ if left.is_zero() => format!("the time that `{field}` gives was over when the call came"),
            Some(least) if left < least => {
                format!("`{field}` leaves {left:?}, and no answer came in less than {least:?} lately")
            }
            _ => return Ok(()),
        };
        Err(ProxyError::unsent(Reason::DeadlinePassed, detail))
    }

    /// Adds the fields that tell the next hop what is left at `now`.
    pub fn tell(&self, now: Instant, fields: &mut Vec<(HeaderName, HeaderValue)>) {
        let Some(end) = self.end else { return };
        let left = end.saturating_duration_since(now);
        let millis = HeaderValue::from(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        if self.envoy {
            fields.push((ENVOY, millis.clone()));
        }
        fields.push(match self.grpc {
            true => (grpc::TIMEOUT, grpc::write_timeout(left)),
            false => (DEADLINE, millis),
        });
    }
}

/// The least that the caller says, by which field, and whether Envoy's is among
/// them. What is understood is taken out.
fn callers(headers: &mut HeaderMap, grpc: bool) -> (Option<(Duration, &'static str)>, bool) {
    let told = headers.remove(&DEADLINE);
    let mut least = told.as_ref().and_then(millis).map(|time| (time, "pillion-deadline"));
    let mut shorten = |time: Duration, field| {
        if least.is_none_or(|(least, _)| time < least) {
            least = Some((time, field));
        }
    };
    if grpc && let Some(time) = grpc::timeout(headers) {
        headers.remove(grpc::TIMEOUT);
        shorten(time, "grpc-timeout");
    }
    let envoy = headers.get(&ENVOY).and_then(millis);
    if let Some(time) = envoy {
        headers.remove(&ENVOY);
        shorten(time, "x-envoy-expected-rq-timeout-ms");
    }
    (least, envoy.is_some())
}

/// Up to ten digits.
fn millis(value: &HeaderValue) -> Option<Duration> {
    let digits = value.as_bytes();
    if !(1..=10).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Duration::from_millis(value.to_str().ok()?.parse().ok()?))
}

impl Quickest {
    /// A call was answered at `now`, after `latency`.
    pub fn observe(&mut self, now: Instant, latency: Duration) {
        self.turn(now);
        self.now.answers = self.now.answers.saturating_add(1);
        self.now.latency = Some(self.now.latency.map_or(latency, |least| least.min(latency)));
    }

    /// The least that an answer took lately, where enough are known. It is
    /// forgotten soon, so that those who are refused for it get their chance.
    pub fn least(&self, now: Instant) -> Option<Duration> {
        let mut known = *self;
        known.turn(now);
        let enough = known.now.answers.saturating_add(known.before.answers) >= ENOUGH;
        known.now.latency.into_iter().chain(known.before.latency).min().filter(|_| enough)
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed < REMEMBERED {
            return;
        }
        self.before = if passed < REMEMBERED * 2 { self.now } else { Least::default() };
        self.now = Least::default();
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(timeout: Timeout) -> RoutePolicy {
        RoutePolicy { timeout, idle_timeout: Duration::from_secs(300), ..RoutePolicy::default() }
    }

    fn head(fields: &[(&'static str, &'static str)]) -> request::Parts {
        let mut head = http::Request::new(()).into_parts().0;
        for (name, value) in fields {
            head.headers.insert(*name, HeaderValue::from_static(value));
        }
        head
    }

    /// The end, by which field, and what is told after `passed`.
    fn bounds(
        timeout: Timeout,
        fields: &[(&'static str, &'static str)],
        passed: Duration,
    ) -> (Option<Duration>, Option<&'static str>, Vec<String>, request::Parts) {
        let start = Instant::now();
        let mut head = head(fields);
        let bounds = Bounds::of(&policy(timeout), start, &mut head);
        let mut told = Vec::new();
        bounds.tell(start + passed, &mut told);
        let told = told.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        (bounds.end.map(|end| end - start), bounds.caller, told, head)
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");
    const WHOLE: Timeout = Timeout::Whole(Duration::from_secs(2));
    const HEAD: Timeout = Timeout::Head(Duration::from_secs(30));

    #[test]
    fn the_least_holds_and_what_is_left_travels_on() {
        let (half, seconds) = (Duration::from_millis(500), Duration::from_secs);
        for (timeout, fields, end, caller, told) in [
            (WHOLE, vec![], Some(seconds(2)), None, vec!["pillion-deadline: 1500"]),
            (HEAD, vec![], None, None, vec![]),
            (
                WHOLE,
                vec![("pillion-deadline", "1000")],
                Some(seconds(1)),
                Some("pillion-deadline"),
                vec!["pillion-deadline: 500"],
            ),
            (
                WHOLE,
                vec![("pillion-deadline", "9000")],
                Some(seconds(2)),
                None,
                vec!["pillion-deadline: 1500"],
            ),
            (
                HEAD,
                vec![("pillion-deadline", "1000"), ("x-envoy-expected-rq-timeout-ms", "800")],
                Some(Duration::from_millis(800)),
                Some("x-envoy-expected-rq-timeout-ms"),
                vec!["x-envoy-expected-rq-timeout-ms: 300", "pillion-deadline: 300"],
            ),
            (WHOLE, vec![GRPC], Some(seconds(2)), None, vec!["grpc-timeout: 1500000u"]),
            (
                WHOLE,
                vec![GRPC, ("grpc-timeout", "1S")],
                Some(seconds(1)),
                Some("grpc-timeout"),
                vec!["grpc-timeout: 500000u"],
            ),
            (
                WHOLE,
                vec![GRPC, ("grpc-timeout", "3S")],
                Some(seconds(2)),
                None,
                vec!["grpc-timeout: 1500000u"],
            ),
            (
                HEAD,
                vec![GRPC, ("pillion-deadline", "1000")],
                Some(seconds(1)),
                Some("pillion-deadline"),
                vec!["grpc-timeout: 500000u"],
            ),
            (HEAD, vec![("grpc-timeout", "1S")], None, None, vec![]),
        ] {
            let (found, by, sent, head) = bounds(timeout, &fields, half);
            let told: Vec<String> = told.into_iter().map(ToOwned::to_owned).collect();
            assert_eq!((found, by, sent), (end, caller, told), "{timeout:?} {fields:?}");
            assert!(!head.headers.contains_key("pillion-deadline"), "said anew by each attempt");
        }
    }

    #[test]
    fn what_is_malformed_bounds_nothing() {
        for value in ["", "-1", "1.5", "1s", "12345678901", " 5"] {
            let (end, _, _, head) = bounds(HEAD, &[("pillion-deadline", value)], Duration::ZERO);
            assert!(end.is_none() && head.headers.is_empty(), "{value:?}");
        }
        let fields = [GRPC, ("grpc-timeout", "soon")];
        let (end, _, told, head) = bounds(HEAD, &fields, Duration::ZERO);
        assert!(end.is_none() && told.is_empty(), "for the service to judge");
        assert_eq!(head.headers[grpc::TIMEOUT], "soon");
    }

    #[test]
    fn what_nobody_can_answer_in_time_is_refused() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let millis = Duration::from_millis;
        let of = |value| Bounds::of(&policy(WHOLE), start, &mut head(&[("pillion-deadline", value)]));
        let mut quickest = Quickest::default();
        let refused = |value, quickest: &Quickest, now| of(value).check(quickest, now).is_err();
        assert!(refused("0", &quickest, start) && !refused("1", &quickest, start));
        assert!(refused("5", &quickest, at(5)) && !refused("5000", &quickest, at(3000)), "the route's own");
        for answer in 0..19 {
            quickest.observe(at(answer), millis(40 + answer));
        }
        assert!(!refused("30", &quickest, at(19)), "too little is known");
        quickest.observe(at(20), millis(90));
        let error = of("40").check(&quickest, at(20)).unwrap_err();
        assert_eq!(error.reason, Reason::DeadlinePassed);
        assert!(error.detail.contains("20ms") && error.detail.contains("40ms"), "{}", error.detail);
        assert!(!refused("61", &quickest, at(20)), "it may be as quick as the quickest");
        assert_eq!(quickest.least(at(19_999)), Some(millis(40)));
        assert_eq!(quickest.least(at(20_000)), None, "nobody is refused for ever");
    }
}
