//! What tells a call of gRPC from other requests
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, request};

/// How long the caller waits.
pub const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The names of the codes, from 0 on
/// (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Whether a request with this head is a call of gRPC.
pub fn is_call(head: &request::Parts) -> bool {
    content_type(&head.headers).is_some()
}

/// The content type, where it is gRPC's.
pub fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let kind = headers.get(CONTENT_TYPE)?;
    let rest = kind.as_bytes().strip_prefix(b"application/grpc")?;
    // Not `application/grpc-web`, which is HTTP with another body.
    matches!(rest.first(), None | Some(b'+' | b';' | b' ')).then_some(kind)
}

/// The time that `grpc-timeout` gives the call; `None` where it is missing or
/// malformed, which is for the service to judge.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A value of `grpc-timeout` that gives no more than `time`, in the finest unit
/// that has room for it.
pub fn write_timeout(time: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [(1, 'n'), (1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S')];
    let nanos = time.as_nanos();
    let fitting = units.iter().find(|(unit, _)| nanos / unit <= MOST);
    let text = fitting.map_or_else(|| format!("{MOST}S"), |(unit, name)| format!("{}{name}", nanos / unit));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("1S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &'static str) -> Option<Duration> {
        timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(value))]))
    }

    #[test]
    fn a_timeout_is_at_most_eight_digits_and_a_unit() {
        assert_eq!(of("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(of("50m"), Some(Duration::from_millis(50)));
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("0n"), Some(Duration::ZERO));
        for malformed in ["", "1", "m", "123456789m", "-1m", "1 m", "1s", "1h", "1mm", "0x1m", "1.5S"] {
            assert_eq!(of(malformed), None, "{malformed:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn a_timeout_is_written_in_the_finest_unit() {
        for (time, text) in [
            (Duration::from_millis(50), "50000000n"),
            (Duration::from_secs(2), "2000000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::from_secs(1_000_000_000), "99999999S"),
        ] {
            assert_eq!(write_timeout(time), text);
        }
    }

    #[test]
    fn only_grpc_is_grpc() {
        let is = |kind| {
            content_type(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])).is_some()
        };
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;charset=x"));
        assert!(!is("application/grpc-web") && !is("application/json") && !is("application/grpcx"));
    }
}
