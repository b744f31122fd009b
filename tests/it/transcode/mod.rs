//! gRPC-Web and JSON in front of a gRPC service.

mod json;
mod reload;
mod streams;
mod web;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use pillion::config::model::{Json, RoutePolicy};
use pillion::config::{Environment, load_str};
use prost::Message as _;
use prost_reflect::DynamicMessage;

use crate::support::h2peer::{Answer, H2Backend, Seen};
use crate::support::sidecar;
use crate::support::sidecar::Setup;

/// What `json` with the shop's descriptor and `more` keys says.
pub fn shop(more: &str) -> Arc<Json> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies/shop.pb");
    let text = format!(
        "version: 1\nservice: {{name: a, port: 80}}\ninbound:\n  - json: {{descriptor: \"{file}\"{more}}}\n"
    );
    let loaded = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}"));
    loaded.model.inbound_defaults.json.clone().unwrap()
}

/// Both ways in.
fn policy() -> RoutePolicy {
    RoutePolicy { grpc_web: true, json: Some(shop("")), ..RoutePolicy::default() }
}

/// A sidecar in front of this service.
fn front(backend: &H2Backend, edit: impl FnOnce(&mut RoutePolicy)) -> Setup {
    let mut policy = policy();
    edit(&mut policy);
    sidecar("front").service(backend.address()).with(|model| model.inbound_defaults = policy)
}

/// A message of the shop in its frame.
fn frame(kind: &str, json: &str) -> Bytes {
    let bytes = encoded(kind, json);
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&bytes);
    frame.into()
}

fn encoded(kind: &str, json: &str) -> Vec<u8> {
    let kind = shop("").pool.get_message_by_name(&format!("shop.v1.{kind}")).unwrap();
    let mut from = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(kind, &mut from).unwrap().encode_to_vec()
}

/// The messages of a body, as JSON.
fn messages(kind: &str, mut body: &[u8]) -> Vec<serde_json::Value> {
    let kind = shop("").pool.get_message_by_name(&format!("shop.v1.{kind}")).unwrap();
    let mut found = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<5>() {
        assert_eq!(prefix[0], 0, "not compressed");
        let length = u32::from_be_bytes(*prefix.last_chunk().unwrap()) as usize;
        let message = DynamicMessage::decode(kind.clone(), &rest[..length]).unwrap();
        found.push(serde_json::to_value(&message).unwrap());
        body = &rest[length..];
    }
    assert!(body.is_empty());
    found
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in pairs {
        fields.append(*name, HeaderValue::from_static(value));
    }
    fields
}

/// A gRPC answer of these messages that ends with this status.
fn grpc(body: Vec<Bytes>, trailers: &[(&'static str, &'static str)]) -> Answer {
    let head = Response::builder().header("content-type", "application/grpc").header("x-meta", "m");
    Answer { head: head.body(()).unwrap(), body, trailers: Some(fields(trailers)), ..Answer::default() }
}

/// An answer without a message.
fn trailers_only(code: &'static str, message: &'static str) -> Answer {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code)
        .header("grpc-message", message);
    Answer { head: head.body(()).unwrap(), ..Answer::default() }
}

/// What every translated call looks like to the service.
#[track_caller]
fn check_call(seen: &Seen, path: &str) {
    assert_eq!((seen.head.method.as_str(), seen.head.uri.path()), ("POST", path));
    assert_eq!(seen.head.headers["te"], "trailers");
    let kind = seen.head.headers["content-type"].to_str().unwrap();
    assert!(matches!(kind, "application/grpc" | "application/grpc+proto"), "{kind}");
    assert!(!seen.head.headers.contains_key("transfer-encoding"));
}
