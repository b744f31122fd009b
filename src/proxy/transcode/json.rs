//! A call with JSON: a message that is whole is read before the call is made,
//! so that a wrong one costs the service nothing and a right one can be sent
//! again; a stream is translated message by message.

use std::rc::Rc;

use bytes::BytesMut;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, response};

use super::super::connection::Door;
use super::super::stack::Call;
use super::wait::Wait;
use super::{JsonCall, invalid, is_grpc, no_status, stream, untranslatable, watch};
use crate::base::ProxyError;
use crate::codec::Body;
use crate::config::model::RequestBody;
use crate::policy::transcode::frames::{self, Messages};
use crate::policy::transcode::status::Status;
use crate::policy::transcode::{Fault, message};

/// Makes the call and translates its answer.
pub async fn call(
    door: &Rc<Door>,
    call: Rc<Call>,
    body: Body,
    json: JsonCall,
) -> Result<(Response<Body>, Rc<Call>), ProxyError> {
    let json = Rc::new(json);
    let body = match json.called.method.is_client_streaming() {
        true => {
            // As a call of gRPC may: the route's `idle_timeout` bounds both.
            call.may_pause();
            stream::request(json.clone(), body).map_err(invalid)?
        }
        false => whole(&call, body, &json).await?,
    };
    let (response, call) = super::super::request::attempt(door, call, body).await?;
    let response = response.map(|body| watch::body(&call, body));
    Ok((answer(&call, response, json).await?, call))
}

/// The one message of a request, in its frame.
async fn whole(call: &Rc<Call>, mut body: Body, json: &JsonCall) -> Result<Body, ProxyError> {
    let mut bytes = BytesMut::new();
    if !matches!(json.called.body, RequestBody::None) {
        let mut wait = Wait::new(call);
        while let Some(frame) = wait.frame(&mut body).await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > json.json.max_message {
                return Err(invalid(Fault::TooLarge(json.json.max_message)));
            }
            bytes.extend_from_slice(&data);
        }
    }
    let message = message::request(&json.json, &json.called, &json.query, &bytes, &json.content_type);
    Ok(Body::full(frames::message(&message.map_err(invalid)?)))
}

/// The answer in JSON. One that is not gRPC's stays as it is.
async fn answer(
    call: &Rc<Call>,
    response: Response<Body>,
    json: Rc<JsonCall>,
) -> Result<Response<Body>, ProxyError> {
    if !is_grpc(response.headers()) {
        return Ok(response);
    }
    let (mut head, body) = response.into_parts();
    let status = Status::of(&head.headers);
    clean(&mut head.headers);
    if let Some(status) = status.filter(|status| status.code != 0) {
        return Ok(failed(head, &status, &json));
    }
    match json.called.method.is_server_streaming() {
        true => streamed(call, head, body, json).await,
        false => unary(call, head, body, &json).await,
    }
}

async fn unary(
    call: &Rc<Call>,
    mut head: response::Parts,
    mut body: Body,
    json: &JsonCall,
) -> Result<Response<Body>, ProxyError> {
    let mut messages = Messages::new(json.json.max_message);
    let mut wait = Wait::new(call);
    let (mut message, mut trailers) = (None, HeaderMap::new());
    while let Some(frame) = wait.frame(&mut body).await {
        match frame?.into_data() {
            Ok(data) => messages.push(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
        while let Some(next) = messages.take().map_err(untranslatable)? {
            if message.replace(next).is_some() {
                let why = "the service answered a unary call with more than one message";
                return Err(untranslatable(Fault::Invalid(why.into())));
            }
        }
    }
    let status = Status::of(&trailers).ok_or_else(no_status)?;
    for (name, value) in &trailers {
        let name = HeaderName::try_from(format!("grpc-trailer-{name}"));
        if let (Ok(name), false) = (name, value.is_empty()) {
            head.headers.append(name, value.clone());
        }
    }
    for name in
        ["grpc-trailer-grpc-status", "grpc-trailer-grpc-message", "grpc-trailer-grpc-status-details-bin"]
    {
        head.headers.remove(name);
    }
    if status.code != 0 {
        return Ok(failed(head, &status, json));
    }
    messages.end().map_err(untranslatable)?;
    let Some(message) = message else {
        let why = "the service answered with success and without a message";
        return Err(untranslatable(Fault::Invalid(why.into())));
    };
    let (kind, text) = message::answer(&json.json, &json.called, message).map_err(untranslatable)?;
    head.headers.insert(CONTENT_TYPE, content_type(kind));
    Ok(Response::from_parts(head, Body::full(text)))
}

async fn streamed(
    call: &Rc<Call>,
    mut head: response::Parts,
    body: Body,
    json: Rc<JsonCall>,
) -> Result<Response<Body>, ProxyError> {
    let mut lines = stream::Lines::new(body, json.clone());
    if stream::is_raw(&json) {
        // Its content type stands in the first message.
        let kind = lines.first_kind(&mut Wait::new(call)).await?;
        match kind {
            Ok(kind) => drop(head.headers.insert(CONTENT_TYPE, content_type(Some(kind)))),
            Err(status) => return Ok(failed(head, &status, &json)),
        }
    } else if json.events {
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    } else {
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    }
    Ok(Response::from_parts(head, Body::Boxed(Box::pin(lines))))
}

/// An answer that says what gRPC's status says.
fn failed(mut head: response::Parts, status: &Status, json: &JsonCall) -> Response<Body> {
    head.status = status.http();
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let text = status.to_json(&json.json).to_string();
    Response::from_parts(head, Body::full(text))
}

/// Takes out what is gRPC's own.
fn clean(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    for name in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        "grpc-encoding",
        "grpc-accept-encoding",
        "trailer",
    ] {
        headers.remove(name);
    }
}

fn content_type(kind: Option<String>) -> HeaderValue {
    let kind = match kind {
        None => return HeaderValue::from_static("application/json"),
        Some(kind) => kind,
    };
    match HeaderValue::from_str(&kind) {
        Ok(value) if !kind.is_empty() => value,
        _ => HeaderValue::from_static("application/octet-stream"),
    }
}
