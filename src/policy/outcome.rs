//! What an outcome says of the endpoint that it came from: one answer for all
//! who count failures.

use http::{HeaderMap, StatusCode};

use crate::base::{ProxyError, Reason, Side, grpc};

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

fn class_of_head(status: StatusCode, headers: &HeaderMap) -> Class {
    match status.as_u16() {
        502..=504 => Class::Gateway,
        500..=599 => Class::Server,
        // A call of gRPC that fails before its first message has its status in the head.
        200 => match headers.get("grpc-status") {
            Some(code) if grpc::content_type(headers).is_some() => class_of_code(code.as_bytes()),
            _ => Class::Good,
        },
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
        Reason::ConnectionLimit => Class::Nothing,
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
        let failed = |reason| Outcome::Failed(&ProxyError::new(reason, "")).class();
        assert_eq!(failed(Reason::ConnectRefused), Class::Silent);
        assert_eq!(failed(Reason::Timeout), Class::Silent);
        assert_eq!(failed(Reason::ClientClosed), Class::Nothing);
        assert_eq!(failed(Reason::ConnectionLimit), Class::Nothing);
        assert_eq!(failed(Reason::MalformedResponse), Class::Server);
    }
}
