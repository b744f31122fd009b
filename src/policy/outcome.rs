//! What an outcome says of the endpoint that it came from: one answer for all
//! who count failures.

use http::{HeaderMap, StatusCode, header};

use crate::base::{ProxyError, Reason, Side, grpc};
use crate::config::model::Failures;

/// How one attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// With the head of an answer.
    Head(StatusCode, &'a HeaderMap),
    /// Without.
    Failed(&'a ProxyError),
}

/// What an outcome says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It serves: whatever it said, it said so itself (a 404, a 429,
    /// PERMISSION_DENIED).
    Good,
    /// It failed at this call: 500 and the like, INTERNAL, UNKNOWN, DATA_LOSS,
    /// DEADLINE_EXCEEDED.
    Server,
    /// It can't serve: 502, 503, 504, UNAVAILABLE.
    Gateway,
    /// It can't serve one more now, and says so itself: its sidecar's
    /// `concurrency` has refused the call.
    Busy,
    /// It gave no answer: no connection, a reset, silence.
    Silent,
    /// Nothing: the caller's own fault, a limit of ours.
    Nothing,
}

impl Outcome<'_> {
    /// See [`Class`].
    pub fn class(self) -> Class {
        match self {
            Self::Head(status, headers) => match class_of_head(status, headers) {
                Class::Gateway | Class::Server if is_late(headers) => Class::Nothing,
                Class::Gateway if is_busy(headers) => Class::Busy,
                class => class,
            },
            Self::Failed(error) => class_of_error(error),
        }
    }
}

/// Whether the endpoint's own sidecar refused the call because its caller had
/// left it no time.
fn is_late(headers: &HeaderMap) -> bool {
    headers.get("pillion-error").is_some_and(|word| word == Reason::DeadlinePassed.as_str())
}

/// Whether the endpoint's own sidecar refused the call because of its limit of
/// calls at one time: the service has not seen it.
pub fn is_busy(headers: &HeaderMap) -> bool {
    headers.get("pillion-error").is_some_and(|word| word == Reason::ConcurrencyLimit.as_str())
}

/// Whether an answer says that there are too many calls at one time: that of a
/// limit, of ours or of Envoy's, a 503 that says when to come back (RFC 9110,
/// section 15.6.4), or RESOURCE_EXHAUSTED.
pub fn is_overload(status: StatusCode, headers: &HeaderMap) -> bool {
    let code = code(status, headers);
    let when = status == StatusCode::SERVICE_UNAVAILABLE && headers.contains_key(header::RETRY_AFTER);
    is_busy(headers) || headers.contains_key("x-envoy-overloaded") || code == Some(b"8") || when
}

fn class_of_head(status: StatusCode, headers: &HeaderMap) -> Class {
    match code(status, headers) {
        Some(code) => class_of_code(code),
        None => class_of_status(status),
    }
}

/// The code of a call of gRPC that ends with its head.
fn code(status: StatusCode, headers: &HeaderMap) -> Option<&[u8]> {
    let code = headers.get("grpc-status").filter(|_| status == StatusCode::OK)?;
    grpc::content_type(headers).map(|_| code.as_bytes())
}

fn class_of_status(status: StatusCode) -> Class {
    match status.as_u16() {
        502..=504 => Class::Gateway,
        500..=599 => Class::Server,
        _ => Class::Good,
    }
}

fn class_of_code(code: &[u8]) -> Class {
    match code {
        b"14" => Class::Gateway,
        b"2" | b"4" | b"13" | b"15" => Class::Server,
        _ => Class::Good,
    }
}

impl Failures {
    /// What an outcome says of its endpoint, by what this route takes for a
    /// failure: see [`Class`].
    pub fn class(&self, outcome: Outcome<'_>) -> Class {
        match outcome {
            Outcome::Head(_, headers) if is_busy(headers) => Class::Busy,
            // By its caller's own haste, whatever the route takes for a failure.
            Outcome::Head(_, headers) if is_late(headers) => Class::Nothing,
            Outcome::Head(status, headers) => match code(status, headers) {
                Some(code) => self.class_of_code(code),
                None => self.agreed(class_of_status(status), self.has_status(status)),
            },
            Outcome::Failed(error) => match class_of_error(error) {
                class @ (Class::Good | Class::Nothing) => class,
                class if self.has_error(error) => class,
                _ => Class::Nothing,
            },
        }
    }

    /// The same for a call of gRPC that ended with these trailers.
    pub fn class_of_trailers(&self, trailers: &HeaderMap) -> Class {
        trailers.get("grpc-status").map_or(Class::Good, |code| self.class_of_code(code.as_bytes()))
    }

    fn class_of_code(&self, code: &[u8]) -> Class {
        let number = std::str::from_utf8(code).ok().and_then(|text| text.parse::<u32>().ok());
        let told = number.is_some_and(|number| number < 32 && self.grpc >> number & 1 == 1);
        self.agreed(class_of_code(code), told)
    }

    /// Both have to say: the class says what kind of failure, if it is one.
    fn agreed(&self, class: Class, told: bool) -> Class {
        match (class, told) {
            (Class::Good, true) => Class::Server,
            (class, true) => class,
            (_, false) => Class::Good,
        }
    }

    fn has_status(&self, status: StatusCode) -> bool {
        let status = status.as_u16();
        (self.server_error && (500..=599).contains(&status))
            || (self.gateway && (502..=504).contains(&status))
            || self.statuses.contains(&status)
    }

    fn has_error(&self, error: &ProxyError) -> bool {
        match error.reason {
            Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed | Reason::NoHttp2 => {
                self.connect
            }
            Reason::Timeout | Reason::PerTryTimeout | Reason::StreamIdle => self.timeout,
            _ => self.reset,
        }
    }
}

/// Whether an answer with this head ends with trailers that say how the call
/// went: it is one of gRPC.
pub fn is_open(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && grpc::content_type(headers).is_some() && !headers.contains_key("grpc-status")
}

fn class_of_error(error: &ProxyError) -> Class {
    match error.reason {
        Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::ResetBeforeHeaders
        // Or it took the connection and closed it: where HTTP/1 would do, nobody hears of this.
        | Reason::NoHttp2
        | Reason::Timeout
        | Reason::PerTryTimeout
        | Reason::StreamIdle => Class::Silent,
        Reason::ConnectionLimit | Reason::ConcurrencyLimit => Class::Nothing,
        reason if reason.facts().side == Side::Upstream => Class::Server,
        _ => Class::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_what_the_endpoint_can_not_serve_counts_against_it() {
        let plain = |code: u16| Outcome::Head(StatusCode::from_u16(code).unwrap(), &HeaderMap::new()).class();
        for (code, class) in [
            (200, Class::Good),
            (404, Class::Good),
            (429, Class::Good),
            (500, Class::Server),
            (501, Class::Server),
            (502, Class::Gateway),
            (503, Class::Gateway),
            (504, Class::Gateway),
        ] {
            assert_eq!(plain(code), class, "{code}");
        }
        let grpc = |code: &'static str, kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(kind));
            headers.insert("grpc-status", HeaderValue::from_static(code));
            Outcome::Head(StatusCode::OK, &headers).class()
        };
        let kind = "application/grpc+proto";
        assert_eq!(grpc("14", kind), Class::Gateway, "UNAVAILABLE");
        assert_eq!(grpc("13", kind), Class::Server, "INTERNAL");
        for good in ["0", "1", "3", "5", "7", "8", "12", "16"] {
            assert_eq!(grpc(good, kind), Class::Good, "{good}");
        }
        assert_eq!(grpc("14", "text/plain"), Class::Good, "not gRPC");
        let late = HeaderMap::from_iter([(
            http::HeaderName::from_static("pillion-error"),
            HeaderValue::from_static("deadline_passed"),
        )]);
        assert_eq!(Outcome::Head(StatusCode::GATEWAY_TIMEOUT, &late).class(), Class::Nothing);
        let busy = HeaderMap::from_iter([(
            http::HeaderName::from_static("pillion-error"),
            HeaderValue::from_static("concurrency_limit"),
        )]);
        let refused = Outcome::Head(StatusCode::SERVICE_UNAVAILABLE, &busy);
        assert_eq!((refused.class(), Failures::default().class(refused)), (Class::Busy, Class::Busy));
        let failed = |reason| Outcome::Failed(&ProxyError::new(reason, "")).class();
        assert_eq!(failed(Reason::ConnectRefused), Class::Silent);
        assert_eq!(failed(Reason::Timeout), Class::Silent);
        assert_eq!(failed(Reason::ClientClosed), Class::Nothing);
        assert_eq!(failed(Reason::ConnectionLimit), Class::Nothing);
        assert_eq!(failed(Reason::MalformedResponse), Class::Server);
    }

    #[test]
    fn a_route_says_what_counts_as_a_failure() {
        let plain = |failures: &Failures, code: u16| {
            failures.class(Outcome::Head(StatusCode::from_u16(code).unwrap(), &HeaderMap::new()))
        };
        let failed =
            |failures: &Failures, reason| failures.class(Outcome::Failed(&ProxyError::new(reason, "")));
        let trailers = |failures: &Failures, code: &'static str| {
            failures.class_of_trailers(&HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )]))
        };
        let as_ever = Failures::default();
        for code in [200, 404, 429, 500, 501, 502, 503, 504] {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(plain(&as_ever, code), Outcome::Head(status, &HeaderMap::new()).class(), "{code}");
        }
        for reason in Reason::ALL {
            let error = ProxyError::new(reason, "");
            assert_eq!(failed(&as_ever, reason), Outcome::Failed(&error).class(), "{reason:?}");
        }
        assert_eq!(trailers(&as_ever, "14"), Class::Gateway);
        assert_eq!((trailers(&as_ever, "7"), trailers(&as_ever, "x")), (Class::Good, Class::Good));
        let some = Failures { statuses: vec![429], timeout: true, grpc: 1 << 7, ..Failures::NONE };
        assert_eq!((plain(&some, 429), plain(&some, 503)), (Class::Server, Class::Good));
        assert_eq!((trailers(&some, "7"), trailers(&some, "14")), (Class::Server, Class::Good));
        assert_eq!(failed(&some, Reason::Timeout), Class::Silent);
        assert_eq!(failed(&some, Reason::ConnectRefused), Class::Nothing);
        let gateway = Failures { gateway: true, ..Failures::NONE };
        assert_eq!((plain(&gateway, 500), plain(&gateway, 502)), (Class::Good, Class::Gateway));
    }
}
