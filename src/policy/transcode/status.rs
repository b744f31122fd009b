//! gRPC's status in HTTP's terms.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode};
use prost::Message;
use prost_reflect::prost_types::Any;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use super::message;
use crate::config::model::Json;

/// gRPC writes base64 without padding and reads it with or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The types of `google/rpc/error_details.proto`, for descriptors that lack them.
static RPC: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(&include_bytes!("rpc.pb")[..]).ok());

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// 0 is success.
    pub code: i32,
    /// For a person.
    pub message: String,
    details: Vec<Any>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Whole {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

impl Status {
    /// The status among these fields, if there is one.
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        let code = fields.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2);
        let message = fields.get("grpc-message").map_or(String::new(), |value| plain(value.as_bytes()));
        let details = fields.get("grpc-status-details-bin").and_then(|value| {
            let bytes = LENIENT.decode(value.as_bytes()).ok()?;
            Some(Whole::decode(&bytes[..]).ok()?.details)
        });
        Some(Self { code, message, details: details.unwrap_or_default() })
    }

    /// What HTTP calls it
    /// (<https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>).
    pub fn http(&self) -> StatusCode {
        let status = match self.code {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// `google.rpc.Status` as JSON. A detail of a type that nobody knows keeps
    /// its bytes as base64.
    pub fn to_json(&self, json: &Json) -> Value {
        let details: Vec<Value> = self.details.iter().map(|detail| self::detail(detail, json)).collect();
        json!({ "code": self.code, "message": self.message, "details": details })
    }
}

fn detail(detail: &Any, json: &Json) -> Value {
    known(detail, json).unwrap_or_else(|| {
        let value = base64::engine::general_purpose::STANDARD.encode(&detail.value);
        json!({ "@type": detail.type_url, "value": value })
    })
}

fn known(detail: &Any, json: &Json) -> Option<Value> {
    let name = detail.type_url.rsplit('/').next()?;
    let found = json.pool.get_message_by_name(name);
    let descriptor = match found {
        Some(descriptor) => descriptor,
        None => RPC.as_ref()?.get_message_by_name(name)?,
    };
    let decoded = DynamicMessage::decode(descriptor, &detail.value[..]).ok()?;
    let text = message::to_json(&decoded, json).ok()?;
    let mut value: Value = serde_json::from_slice(&text).ok()?;
    match &mut value {
        Value::Object(map) => drop(map.insert("@type".into(), detail.type_url.as_str().into())),
        _ => value = json!({ "@type": detail.type_url, "value": value }),
    }
    Some(value)
}

/// `grpc-message` without its percent-encoding; an escape that is none stays.
fn plain(bytes: &[u8]) -> String {
    let decoded = super::path::unescaped(bytes, |_| true);
    String::from_utf8_lossy(&decoded).into_owned()
}
