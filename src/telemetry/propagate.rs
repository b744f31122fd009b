//! Trace context on its way through: W3C Trace Context level 1 and Baggage.
//!
//! What is well-formed goes on as it came, since this sidecar makes no span of
//! its own yet; what is malformed is replaced, never passed on.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::model::Propagator;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
/// Bytes of a `tracestate` that must be passed on at least; more is dropped.
const MAX_TRACESTATE: usize = 512 * 16;
/// Bytes of baggage that may be passed on (W3C Baggage, section 3.3.2).
const MAX_BAGGAGE: usize = 8192;

/// Gives a request a trace context if it has none that can be read.
pub fn ensure(headers: &mut HeaderMap, propagate: &[Propagator], random: &mut fastrand::Rng) {
    if propagate.contains(&Propagator::TraceContext) {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let valid = match (values.next(), values.next()) {
            (Some(value), None) => is_traceparent(value.as_bytes()),
            _ => false,
        };
        if !valid {
            headers.remove(&TRACESTATE);
            headers.insert(TRACEPARENT, new_traceparent(random));
        } else if too_long(headers, &TRACESTATE, MAX_TRACESTATE) {
            headers.remove(&TRACESTATE);
        }
    }
    if propagate.contains(&Propagator::Baggage) && too_long(headers, &BAGGAGE, MAX_BAGGAGE) {
        headers.remove(&BAGGAGE);
    }
}

fn too_long(headers: &HeaderMap, name: &HeaderName, most: usize) -> bool {
    headers.contains_key(name) && headers.get_all(name).iter().map(HeaderValue::len).sum::<usize>() > most
}

/// `version-traceid-parentid-flags`, all in lower-case hexadecimal. A later
/// version may go on after its flags.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        let part = &value[range];
        part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let some = |range: std::ops::Range<usize>| value[range].iter().any(|b| *b != b'0');
    value.len() >= 55
        && hex(0..2)
        && hex(3..35)
        && hex(36..52)
        && hex(53..55)
        && [2, 35, 52].iter().all(|at| value[*at] == b'-')
        && some(3..35)
        && some(36..52)
        && match &value[..2] {
            b"ff" => false,
            b"00" => value.len() == 55,
            _ => value.len() == 55 || value[55] == b'-',
        }
}

#[allow(clippy::cast_possible_truncation, reason = "all but four bits are cut off")]
fn new_traceparent(random: &mut fastrand::Rng) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let trace = random.u128(1..);
    let span = random.u64(1..);
    for (at, digit) in text[3..35].iter_mut().enumerate() {
        *digit = HEX[((trace >> (4 * at)) & 15) as usize];
    }
    for (at, digit) in text[36..52].iter_mut().enumerate() {
        *digit = HEX[((span >> (4 * at)) & 15) as usize];
    }
    let mut value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""));
    // No other request has this value: HTTP/2 need not remember it in its table.
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Propagator; 2] = [Propagator::TraceContext, Propagator::Baggage];
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn pass(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        ensure(&mut headers, &BOTH, &mut fastrand::Rng::with_seed(1));
        headers
    }

    #[test]
    fn a_good_context_goes_on_as_it_came() {
        for value in [GOOD, "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"] {
            let headers = pass(&[("traceparent", value), ("tracestate", "a=b")]);
            assert_eq!(headers["traceparent"], value);
            assert_eq!(headers["tracestate"], "a=b");
        }
    }

    #[test]
    fn a_bad_or_missing_context_is_replaced_with_its_state() {
        for value in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
        ] {
            let headers = pass(&[("traceparent", value), ("tracestate", "a=b")]);
            let made = headers["traceparent"].as_bytes();
            assert!(is_traceparent(made) && made != value.as_bytes(), "{value}");
            assert!(!headers.contains_key("tracestate"), "{value}");
        }
        assert!(is_traceparent(pass(&[])["traceparent"].as_bytes()));
        let twice = pass(&[("traceparent", GOOD), ("traceparent", GOOD)]);
        assert_ne!(twice["traceparent"], GOOD);
        assert_eq!(twice.get_all("traceparent").iter().count(), 1);
    }

    #[test]
    fn baggage_beyond_its_limit_is_dropped() {
        assert!(pass(&[("baggage", "a=b")]).contains_key("baggage"));
        assert!(!pass(&[("baggage", &"a".repeat(8193))]).contains_key("baggage"));
    }
}
