//! Calls of gRPC-Web and calls with JSON, made gRPC calls before their first
//! attempt, and their answers made what the caller reads.
//!
//! Where a route's policy asks for neither, none of this runs: the question is
//! two loads. What runs is boxed, so that no other request holds room for it.
//! What things mean is decided in `policy::transcode`; here are the bodies.

mod json;
mod stream;
mod wait;
mod watch;
pub mod web;

use std::rc::Rc;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, TE,
};
use http::uri::PathAndQuery;
use http::{Method, Response, Uri, Version, request};

use super::connection::Door;
use super::rate::{forget_path, keep_path};
use super::router::Route;
use super::stack::Call;
use crate::base::{ProxyError, Reason};
use crate::codec::{Body, Exchange, Upgrade};
use crate::config::model::Json;
use crate::policy::transcode::path::{self, Called};
use crate::policy::transcode::web::Web;
use crate::policy::transcode::{Fault, message};

/// How a request was translated, and how its answer has to be.
pub enum Translation {
    /// A call of gRPC-Web.
    Web(Web),
    /// A call with JSON.
    Json(Box<JsonCall>),
}

/// What is known of a call with JSON.
pub struct JsonCall {
    json: std::sync::Arc<Json>,
    called: Called,
    query: String,
    content_type: String,
    /// Whether a stream is answered as `text/event-stream`.
    events: bool,
}

/// Translates the head of a request, where its route says so. The request is
/// a gRPC call then, and `route` the one that takes this call.
pub fn head(
    door: &Door,
    route: &mut Rc<Route>,
    head: &mut request::Parts,
    exchange: &Exchange,
) -> Result<Option<Translation>, ProxyError> {
    if exchange.upgrade != Upgrade::No {
        return Ok(None);
    }
    if let Some(web) = Web::of(&head.headers) {
        // Any other method is no call, and may have met another route.
        if !route.policy.grpc_web || head.method != Method::POST {
            return Ok(None);
        }
        let kind = head.headers.get(CONTENT_TYPE).map(Web::inner_type);
        to_grpc(head, kind);
        return Ok(Some(Translation::Web(web)));
    }
    let Some(json) = &route.policy.json else { return Ok(None) };
    // A preflight is for the service to answer.
    if is_grpc(&head.headers) || head.method == Method::OPTIONS {
        return Ok(None);
    }
    let call = json_call(json.clone(), head)?;
    let target =
        format!("/{}/{}", call.called.method.parent_service().full_name(), call.called.method.name());
    keep_path(route, head);
    retarget(head, target);
    unprefix(&mut head.headers);
    for name in [ACCEPT, ACCEPT_ENCODING] {
        head.headers.remove(name);
    }
    for name in ["grpc-encoding", "grpc-accept-encoding"] {
        head.headers.remove(name);
    }
    to_grpc(head, None);
    // A gateway need not have another route for it.
    if let Ok(found) = door.router().find(door, head, exchange.authority.as_ref())
        && found.grpc
    {
        forget_path(head);
        *route = found;
    }
    Ok(Some(Translation::Json(Box::new(call))))
}

/// Makes the call and translates its answer.
pub async fn call(
    door: Rc<Door>,
    call: Rc<Call>,
    body: Body,
    translation: Translation,
) -> Result<(Response<Body>, Rc<Call>), ProxyError> {
    match translation {
        Translation::Web(web) => {
            let (response, call) = super::request::attempt(&door, call, web::request(web, body)).await?;
            let response = response.map(|body| watch::body(&call, body));
            Ok((web::answer(web, response), call))
        }
        Translation::Json(json) => json::call(&door, call, body, *json).await,
    }
}

/// Whether the body of a request or answer holds gRPC's own frames.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn json_call(json: std::sync::Arc<Json>, head: &request::Parts) -> Result<JsonCall, ProxyError> {
    let called = match path::find(&json, &head.method, head.uri.path()) {
        Some(called) => called.map_err(invalid)?,
        None => {
            let detail = format!("no method of `{}` takes {} {}", json.file, head.method, head.uri.path());
            return Err(ProxyError::unsent(Reason::NoRoute, detail));
        }
    };
    let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = text(CONTENT_TYPE).unwrap_or_default().to_owned();
    let raw = message::is_raw(&called.method.input())
        || matches!(&called.body, crate::config::model::RequestBody::Field(field)
            if field.kind().as_message().is_some_and(message::is_raw));
    if let Some(coding) = text(CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"))
        && !raw
    {
        let detail = format!("the content coding `{coding}` is not taken here: send the JSON plain");
        return Err(ProxyError::unsent(Reason::UnsupportedMediaType, detail));
    }
    let reads_body = !matches!(called.body, crate::config::model::RequestBody::None);
    if reads_body && !raw && !content_type.is_empty() && !is_json(&content_type) {
        let detail = format!("the content type is `{content_type}`; this call takes `application/json`");
        return Err(ProxyError::unsent(Reason::UnsupportedMediaType, detail));
    }
    let events = text(ACCEPT).is_some_and(|accept| {
        accept.split(',').any(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
    });
    let query = head.uri.query().unwrap_or_default().to_owned();
    Ok(JsonCall { json, called, query, content_type, events })
}

fn is_json(kind: &str) -> bool {
    let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(&*name, "application/json" | "application/x-ndjson" | "application/ndjson" | "application/jsonl")
        || name.ends_with("+json")
}

/// The head of a gRPC call.
fn to_grpc(head: &mut request::Parts, kind: Option<HeaderValue>) {
    head.method = Method::POST;
    head.version = Version::HTTP_2;
    let headers = &mut head.headers;
    headers.insert(CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static("application/grpc+proto")));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_ENCODING);
}

/// Another path, for the same authority.
fn retarget(head: &mut request::Parts, target: String) {
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.path_and_query = PathAndQuery::from_maybe_shared(target).ok();
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

/// `grpc-metadata-NAME` is how gRPC-Gateway's callers send metadata. What means
/// something to a proxy can't be set so.
fn unprefix(headers: &mut HeaderMap) {
    const PREFIX: &str = "grpc-metadata-";
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
    for name in names {
        let plain = name.as_str().strip_prefix(PREFIX).and_then(|name| HeaderName::try_from(name).ok());
        let values: Vec<HeaderValue> = headers.get_all(&name).iter().cloned().collect();
        headers.remove(&name);
        if let Some(plain) = plain.filter(|plain| is_metadata(plain.as_str()) && !headers.contains_key(plain))
        {
            for value in values {
                headers.append(plain.clone(), value);
            }
        }
    }
}

fn is_metadata(name: &str) -> bool {
    const TAKEN: [&str; 18] = [
        "grpc-",
        "pillion-",
        "content-",
        "x-forwarded-",
        "x-real-ip",
        "forwarded",
        "host",
        "connection",
        "keep-alive",
        "proxy-",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "via",
        "expect",
        "date",
    ];
    !TAKEN.iter().any(|taken| name == *taken || taken.ends_with('-') && name.starts_with(taken))
}

fn invalid(fault: Fault) -> ProxyError {
    let reason = match fault {
        Fault::Invalid(_) => Reason::InvalidMessage,
        Fault::TooLarge(_) => Reason::MessageTooLarge,
    };
    ProxyError::unsent(reason, fault.detail())
}

/// An answer that ended without trailers.
fn no_status() -> ProxyError {
    ProxyError::new(Reason::ResetAfterHeaders, "the answer ended without a gRPC status")
}

fn untranslatable(fault: Fault) -> ProxyError {
    ProxyError::new(Reason::UntranslatableResponse, fault.detail())
}
