//! The messages, as far as they are used.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use prost::{Enumeration, Message};

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct Question {
    /// Whose rules hold.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// What is counted.
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<Descriptor>,
}

/// `RateLimitDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub struct Descriptor {
    /// In the order of the rules.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
}

/// One entry of a descriptor.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// As the rules call it.
    #[prost(string, tag = "1")]
    pub key: String,
    /// What this call has.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `RateLimitResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// Of all descriptors.
    #[prost(enumeration = "Code", tag = "1")]
    pub overall_code: i32,
    /// Of each of them, in their order.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<Status>,
    /// For the caller's answer.
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<Header>,
}

/// `RateLimitResponse.DescriptorStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// Whether it may pass.
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// The rule; none where no rule holds.
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<Limit>,
    /// Calls that may follow.
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    /// Until it counts anew.
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<Span>,
}

/// `RateLimitResponse.RateLimit`.
#[derive(Clone, PartialEq, Message)]
pub struct Limit {
    /// So many.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// In this time: 1 a second, then a minute, an hour, a day, a month, a year, a week.
    #[prost(int32, tag = "2")]
    pub unit: i32,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// Whole ones.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// Or so.
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

/// `RateLimitResponse.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Code {
    /// Not said.
    Unknown = 0,
    /// It may pass.
    Ok = 1,
    /// It may not.
    OverLimit = 2,
}

/// Fields that belong to a connection or frame the message.
const NOT_THEIRS: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Answer {
    /// Whether it refuses.
    pub fn is_over(&self) -> bool {
        self.overall_code() == Code::OverLimit
    }

    /// What is written into the caller's answer: what frames it, and what Pillion
    /// and gRPC say in it, is left out.
    pub fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for header in &self.response_headers_to_add {
            let value = if header.value.is_empty() { &header.raw_value[..] } else { header.value.as_bytes() };
            let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(header.key.as_bytes()), HeaderValue::from_bytes(value))
            else {
                continue;
            };
            let text = name.as_str();
            let own = ["pillion-", "grpc-", "access-control-"].iter().any(|own| text.starts_with(own));
            if !own && !NOT_THEIRS.contains(&text) {
                fields.append(name, value);
            }
        }
        fields
    }
}

impl Status {
    /// Whether this refuses.
    pub fn is_over(&self) -> bool {
        self.code() == Code::OverLimit
    }

    /// Until it counts anew.
    pub fn reset(&self) -> Duration {
        let span = self.duration_until_reset.clone().unwrap_or_default();
        let (seconds, nanos) = (u64::try_from(span.seconds), u32::try_from(span.nanos));
        Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0).min(999_999_999))
    }
}

impl Limit {
    /// The time for which it holds; a second where that is not known.
    pub fn period(&self) -> Duration {
        const DAY: u64 = 24 * 3600;
        Duration::from_secs(match self.unit {
            2 => 60,
            3 => 3600,
            4 => DAY,
            5 => 30 * DAY,
            6 => 365 * DAY,
            7 => 7 * DAY,
            _ => 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let entry = Entry { key: "a".into(), value: "b".into() };
        let question =
            Question { domain: "d".into(), descriptors: vec![Descriptor { entries: vec![entry] }] };
        assert_eq!(question.encode_to_vec(), b"\x0a\x01d\x12\x08\x0a\x06\x0a\x01a\x12\x01b");
        // OVER_LIMIT; one status of 5 a minute, nothing left, 1.5 s; `x: y`.
        let bytes = b"\x08\x02\x12\x12\x08\x02\x12\x04\x08\x05\x10\x02\x22\x08\x08\x01\x10\x80\xca\xb5\xee\x01\x1a\x06\x0a\x01x\x12\x01y";
        let answer = Answer::decode(&bytes[..]).unwrap();
        assert_eq!(answer.overall_code(), Code::OverLimit);
        let status = &answer.statuses[0];
        assert!(status.is_over());
        assert_eq!(status.reset(), Duration::from_millis(1500));
        assert_eq!(status.current_limit.as_ref().unwrap().period(), Duration::from_secs(60));
        assert_eq!((answer.response_headers_to_add[0].key.as_str(), status.limit_remaining), ("x", 0));
    }
}
