//! What a failed answer says of when to come back, if ever:
//! `Retry-After` (RFC 9110, section 10.2.3), `grpc-retry-pushback-ms` (gRFC A6)
//! and `google.rpc.RetryInfo`.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, header};
use prost::Message;

use crate::base::rpc::{RetryInfo, Status};
use crate::base::{Reason, Side};

const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// gRPC's libraries pad or don't.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It says nothing.
    None,
    /// Not before.
    After(Duration),
    /// Not at all.
    Never,
}

impl Advice {
    /// What the head of an answer advises at the time `now` of the wall clock.
    /// The strictest of what it says holds.
    pub fn of(headers: &HeaderMap, now: SystemTime) -> Self {
        match sidecars(headers) {
            // Of one endpoint, or of its end: the attempt that follows goes to another.
            Some(reason) if reason.facts().side == Side::Upstream => return Self::None,
            Some(Reason::ShuttingDown) => return Self::None,
            // The next one would find even less time.
            Some(Reason::DeadlinePassed) => return Self::Never,
            _ => {}
        }
        let mut longest = None;
        if let Some(value) = headers.get(PUSHBACK) {
            // gRFC A6: what is negative or no number asks not to come back.
            match value.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok()) {
                Some(millis) => longest = Some(Duration::from_millis(millis.into())),
                None => return Self::Never,
            }
        }
        let all = [longest, retry_after(headers, now), retry_info(headers)];
        all.into_iter().flatten().max().map_or(Self::None, Self::After)
    }
}

/// Why another sidecar answered in place of its service.
fn sidecars(headers: &HeaderMap) -> Option<Reason> {
    let word = headers.get("pillion-error")?;
    Reason::ALL.into_iter().find(|reason| reason.as_str().as_bytes() == word.as_bytes())
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let bytes = BASE64.decode(headers.get(DETAILS)?.as_bytes()).ok()?;
    let status = Status::decode(&bytes[..]).ok()?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&info.value[..]).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos).ok()?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?.min(u32::MAX.into()), nanos.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rpc::{Any, Delay};
    use http::HeaderValue;

    fn advice(fields: &[(&'static str, &str)]) -> Advice {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        Advice::of(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
    }

    fn details(seconds: i64, nanos: i32) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
        let any =
            Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info.encode_to_vec() };
        let other = Any { type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(), value: vec![10, 0] };
        Status { details: vec![other, any], ..Status::default() }.encode_to_vec()
    }

    #[test]
    fn what_the_service_says_is_read_in_every_form() {
        let after = |millis| Advice::After(Duration::from_millis(millis));
        assert_eq!(advice(&[]), Advice::None);
        assert_eq!(advice(&[("retry-after", "2")]), after(2_000));
        assert_eq!(advice(&[("retry-after", "Sun, 09 Sep 2001 01:46:45 GMT")]), after(5_000));
        assert_eq!(advice(&[("retry-after", "Sun, 09 Sep 2001 01:46:35 GMT")]), after(0), "in the past");
        assert_eq!(advice(&[("retry-after", "soon")]), Advice::None);
        let Advice::After(long) = advice(&[("retry-after", "99999999999999999999999")]) else { panic!() };
        assert!(long > Duration::from_secs(1_000_000));
        assert_eq!(advice(&[("grpc-retry-pushback-ms", "70")]), after(70));
        assert_eq!(advice(&[("grpc-retry-pushback-ms", "70"), ("retry-after", "1")]), after(1_000));
        for never in ["-1", "", "x", "1.5"] {
            assert_eq!(advice(&[("grpc-retry-pushback-ms", never), ("retry-after", "1")]), Advice::Never);
        }
    }

    #[test]
    fn retry_info_is_read_padded_or_not() {
        let padded = base64::engine::general_purpose::STANDARD.encode(details(1, 500_000_000));
        let bare = padded.trim_end_matches('=');
        for text in [&*padded, bare] {
            let found = advice(&[("grpc-status-details-bin", text)]);
            assert_eq!(found, Advice::After(Duration::from_millis(1_500)), "{text}");
        }
        let negative = BASE64.encode(details(-1, 0));
        for text in [&*negative, "%%", "AAAA"] {
            assert_eq!(advice(&[("grpc-status-details-bin", text)]), Advice::None, "{text}");
        }
    }

    #[test]
    fn what_a_sidecar_says_of_its_own_endpoint_holds_for_no_other() {
        for (word, wanted) in [
            ("connect_refused", Advice::None),
            ("shutting_down", Advice::None),
            ("deadline_passed", Advice::Never),
            ("overload", Advice::After(Duration::from_secs(3))),
            ("no_such_word", Advice::After(Duration::from_secs(3))),
        ] {
            assert_eq!(advice(&[("pillion-error", word), ("retry-after", "3")]), wanted, "{word}");
        }
    }
}
