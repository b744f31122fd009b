//! The answers that Pillion makes: one map from an error to what the caller
//! reads, for HTTP (RFC 9457) and for gRPC (`google.rpc.Status`).

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode, request};
use prost::Message;
use serde::Serialize;

use super::Answer;
use super::connection::Door;
use crate::base::error::{Facts, GrpcCode};
use crate::base::rpc::{Any, Delay, ErrorInfo, RetryInfo, Status};
use crate::base::{ProxyError, Reason, Side};
use crate::codec::Body;
use crate::policy::transcode::web::Web;
use crate::telemetry::record::Record;

/// In which form the caller reads an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A status and `application/problem+json`.
    Http,
    /// Trailers only: a gRPC status with details, of the caller's content type.
    Grpc(HeaderValue),
    /// The same in gRPC-Web's form: the status is the body.
    Web(HeaderValue, Web),
}

/// RFC 9457, with members of our own.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

impl Form {
    /// The form for a request with this head.
    pub fn of(head: &request::Parts) -> Self {
        match head.headers.get(CONTENT_TYPE) {
            Some(kind) if kind.as_bytes().starts_with(b"application/grpc-web") => {
                Web::of(&head.headers).map_or(Self::Http, |web| Self::Web(kind.clone(), web))
            }
            Some(kind) if kind.as_bytes().starts_with(b"application/grpc") => Self::Grpc(kind.clone()),
            _ => Self::Http,
        }
    }
}

/// Answers with an error.
pub fn answer(door: &Door, error: &ProxyError, form: Form, mut record: Record) -> Response<Answer> {
    record.failed(error.reason);
    if let Some(limit) = error.limit {
        door.worker.limited(limit);
    }
    let facts = error.reason.facts();
    if facts.side != Side::Client {
        tracing::debug!(reason = facts.word, detail = %error.detail, "answered with an error");
    }
    let router = door.router();
    let named = (error, router.model.service.name.as_str());
    let unnamed = door.gateway.is_some().then(|| outside(error, &facts));
    let (told, service) = unnamed.as_ref().map_or(named, |told| (told, ""));
    let (mut response, body) = match form {
        Form::Http => http(told, &facts, service),
        Form::Grpc(kind) => grpc(told, &facts, service, kind),
        Form::Web(kind, web) => {
            let (mut response, _) = grpc(told, &facts, service, kind.clone());
            let body = super::transcode::web::error(&kind, web, response.headers_mut());
            (response, body)
        }
    };
    let headers = response.headers_mut();
    headers.insert("pillion-error", HeaderValue::from_static(facts.word));
    if error.attempts > 1 {
        headers.insert(super::retries::ATTEMPTS, error.attempts.into());
    }
    headers.insert(DATE, door.worker.date());
    let after =
        error.retry_after.or((error.reason == Reason::ShuttingDown).then_some(Duration::from_secs(1)));
    if let Some(after) = after {
        // Rounded up: who comes a moment too early is refused again.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, seconds.max(1).into());
    }
    if let Some(fields) = &error.fields {
        headers.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    record.answered(response.status());
    response.map(|()| Answer::own(body, record))
}

/// What callers from outside are told: nothing of names, addresses and rules within.
fn outside(error: &ProxyError, facts: &Facts) -> ProxyError {
    let detail = match facts.side {
        Side::Client => error.detail.clone(),
        Side::Proxy | Side::Upstream => facts.title.into(),
    };
    let ProxyError { retry_after, told, reset, .. } = *error;
    ProxyError { retry_after, told, reset, ..ProxyError::unsent(error.reason, detail) }
}

/// Answers as the route's policy says.
pub fn own(door: &Door, mut response: Response<Body>, mut record: Record) -> Response<Answer> {
    response.headers_mut().insert(DATE, door.worker.date());
    record.answered(response.status());
    response.map(|body| Answer::own(body, record))
}

fn http(error: &ProxyError, facts: &Facts, service: &str) -> (Response<()>, Body) {
    let problem = Problem {
        r#type: format!("urn:pillion:error:{}", facts.word),
        title: facts.title,
        status: error.status(),
        detail: &error.detail,
        reason: facts.word,
        remedy: if service.is_empty() { "" } else { facts.remedy },
        service,
        rule: error.rule.as_ref().map(ToString::to_string),
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let text = serde_json::to_vec(&problem).unwrap_or_default();
    (response, Body::full(text))
}

/// Trailers only: the status of an error, with its details.
pub(super) fn grpc(
    error: &ProxyError,
    facts: &Facts,
    service: &str,
    kind: HeaderValue,
) -> (Response<()>, Body) {
    let message = format!("{}: {} ({})", facts.word, facts.title, error.detail);
    let mut metadata = std::collections::BTreeMap::from([("detail".to_owned(), error.detail.to_string())]);
    if !service.is_empty() {
        metadata.insert("service".to_owned(), service.to_owned());
        metadata.insert("remedy".to_owned(), facts.remedy.to_owned());
    }
    if let Some(rule) = &error.rule {
        metadata.insert("rule".to_owned(), rule.to_string());
    }
    let info =
        ErrorInfo { reason: facts.word.to_ascii_uppercase(), domain: "pillion.mesh".to_owned(), metadata };
    let mut details = vec![any("ErrorInfo", &info)];
    let after = error.retry_after.or((facts.grpc == GrpcCode::Unavailable).then_some(Duration::from_secs(1)));
    if let Some(after) = after {
        let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        let nanos = i32::try_from(after.subsec_nanos()).unwrap_or_default();
        let delay = Delay { seconds, nanos };
        details.push(any("RetryInfo", &RetryInfo { retry_delay: Some(delay) }));
    }
    let code = code(error, facts);
    let status = Status { code: i32::from(code), message: message.clone(), details };
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind);
    headers.insert("grpc-status", u16::from(code).into());
    if let Ok(message) = HeaderValue::from_str(&percent(&message)) {
        headers.insert("grpc-message", message);
    }
    let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec());
    if let Ok(details) = HeaderValue::from_str(&details) {
        headers.insert("grpc-status-details-bin", details);
    }
    (response, Body::Empty)
}

/// The code of the reason; where the service has reset the call, what a library
/// makes of that when it hears it itself
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>).
fn code(error: &ProxyError, facts: &Facts) -> u8 {
    if let Some(told) = error.told {
        return told.grpc as u8;
    }
    let code = match error.reset {
        Some(0x7) | None => facts.grpc,
        Some(0x8) => GrpcCode::Cancelled,
        Some(0xb) => GrpcCode::ResourceExhausted,
        Some(_) => GrpcCode::Internal,
    };
    code as u8
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

/// gRPC's percent-encoding of `grpc-message`: everything but printable ASCII
/// and `%` stays.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            // Writing to a String can't fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_status_carries_its_details() {
        let error = ProxyError::unsent(Reason::ConnectRefused, "10.0.0.7:80 — refused 100%");
        let kind = HeaderValue::from_static("application/grpc+proto");
        let (response, _) = grpc(&error, &error.reason.facts(), "orders", kind);
        let headers = response.headers();
        assert_eq!((response.status(), &headers["grpc-status"]), (StatusCode::OK, &HeaderValue::from(14)));
        assert!(headers["grpc-message"].to_str().unwrap().contains("%E2%80%94 refused 100%25"));
        let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
        let bytes = engine.decode(headers["grpc-status-details-bin"].as_bytes()).unwrap();
        let status = Status::decode(&bytes[..]).unwrap();
        assert_eq!(status.code, 14);
        let info = ErrorInfo::decode(&status.details[0].value[..]).unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("CONNECT_REFUSED", "pillion.mesh"));
        let retry = RetryInfo::decode(&status.details[1].value[..]).unwrap();
        assert_eq!(retry.retry_delay.unwrap().seconds, 1);
    }

    #[test]
    fn a_problem_says_what_why_and_what_to_do() {
        let error = ProxyError::unsent(Reason::UnknownUpstream, "no source knows `user`")
            .by(crate::base::Origin { file: "policies/a.yaml".into(), line: 3, column: 5 });
        let (response, body) = http(&error, &error.reason.facts(), "orders");
        assert_eq!(response.status(), 502);
        let Body::Full(text) = body else { panic!("a body") };
        let problem: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(problem["type"], "urn:pillion:error:unknown_upstream");
        assert_eq!(problem["rule"], "policies/a.yaml:3:5");
        assert_eq!(problem["detail"], "no source knows `user`");
    }
}
