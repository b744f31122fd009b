//! Messages from JSON, paths and queries, and back, by the JSON mapping of
//! protocol buffers (<https://protobuf.dev/programming-guides/json/>).
//!
//! Must hold: no input makes the stack grow without bound. JSON nests at most
//! 128 deep (`serde_json`), encoded messages 100 deep (`prost`), and what
//! `Any` holds in `Any`, and names in a query go through, is bounded here.

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value,
};

use super::path::{Called, unescaped};
use super::{Fault, unique};
use crate::config::model::{Json, RequestBody};

/// How deep `Any` may hold `Any`.
const ANY_DEPTH: usize = 16;

/// Fields that a name in a query may go through: as deep as messages nest.
const DEEPEST: usize = 99;

const HTTP_BODY: &str = "google.api.HttpBody";

/// Whether a message is sent as it is, with a content type of its own.
pub fn is_raw(message: &MessageDescriptor) -> bool {
    message.full_name() == HTTP_BODY
}

/// The message of a request, encoded.
pub fn request(json: &Json, called: &Called, query: &str, body: &[u8], kind: &str) -> Result<Vec<u8>, Fault> {
    let mut message = of_body(json, called, body, kind)?;
    fields(json, called, query, &mut message)?;
    let bytes = message.encode_to_vec();
    if bytes.len() > json.max_message { Err(Fault::TooLarge(json.max_message)) } else { Ok(bytes) }
}

/// A message that comes from a body, and from nothing else.
pub fn of_body(json: &Json, called: &Called, body: &[u8], kind: &str) -> Result<DynamicMessage, Fault> {
    let input = called.method.input();
    match &called.body {
        RequestBody::None => Ok(DynamicMessage::new(input)),
        RequestBody::Whole if is_raw(&input) => Ok(raw(input, body, kind)),
        RequestBody::Whole if body.iter().all(u8::is_ascii_whitespace) => Ok(DynamicMessage::new(input)),
        RequestBody::Whole => {
            unique::check(body)?;
            from_json(json, input, body)
        }
        RequestBody::Field(field) => {
            if let Kind::Message(inner) = field.kind()
                && is_raw(&inner)
                && !field.is_list()
            {
                let mut message = DynamicMessage::new(input);
                message.set_field(field, Value::Message(raw(inner, body, kind)));
                return Ok(message);
            }
            if body.iter().all(u8::is_ascii_whitespace) {
                return Ok(DynamicMessage::new(input));
            }
            // Exactly one value, so that it can't become more than this field.
            unique::check(body)?;
            let whole = [b"{\"", field.json_name().as_bytes(), b"\":", body, b"}"].concat();
            from_json(json, input, &whole)
        }
    }
}

/// Sets the fields that come from the path and the query.
pub fn fields(json: &Json, called: &Called, query: &str, message: &mut DynamicMessage) -> Result<(), Fault> {
    for (name, value) in pairs(query)? {
        if name.split('.').count() > DEEPEST {
            return Err(Fault::Invalid(format!(
                "a name in the query goes through more than {DEEPEST} fields"
            )));
        }
        let found = resolve(&message.descriptor(), &name);
        let taken = |field: &[FieldDescriptor]| match &called.body {
            RequestBody::Whole => true,
            RequestBody::Field(body) => field.first() == Some(body),
            RequestBody::None => false,
        };
        match found {
            Some(field) if taken(&field) => {
                return Err(Fault::Invalid(format!("`{name}` in the query is in the body already")));
            }
            Some(field) if called.captured.iter().any(|(other, _)| *other == field) => {
                return Err(Fault::Invalid(format!("`{name}` in the query is in the path already")));
            }
            Some(field) => set(message, &field, &value, true)?,
            None if json.ignore_unknown => {}
            None => {
                let message = message.descriptor();
                let why = format!("`{name}` in the query is no field of `{}`", message.full_name());
                return Err(Fault::Invalid(why));
            }
        }
    }
    for (field, value) in &called.captured {
        set(message, field, value, false)?;
    }
    Ok(())
}

/// A message as JSON.
pub fn to_json(message: &DynamicMessage, json: &Json) -> Result<Vec<u8>, Fault> {
    check_any(message, ANY_DEPTH)?;
    let mut text = Vec::new();
    let options = SerializeOptions::new()
        .skip_default_fields(!json.emit_defaults)
        .use_proto_field_name(json.preserve_names);
    let mut serializer = serde_json::Serializer::new(&mut text);
    let written = message.serialize_with_options(&mut serializer, &options);
    written.map_err(|error| Fault::Invalid(format!("JSON can't hold the message: {error}")))?;
    Ok(text)
}

/// The body of an answer: its content type, and its bytes.
pub fn answer(json: &Json, called: &Called, bytes: Bytes) -> Result<(Option<String>, Vec<u8>), Fault> {
    let output = called.method.output();
    let message = DynamicMessage::decode(output, bytes)
        .map_err(|error| Fault::Invalid(format!("the message does not fit the descriptor: {error}")))?;
    let Some(field) = &called.response_body else {
        return match is_raw(&message.descriptor()) {
            true => Ok(of_raw(&message)),
            false => Ok((None, to_json(&message, json)?)),
        };
    };
    if let Value::Message(inner) = message.get_field(field).as_ref() {
        return match is_raw(&inner.descriptor()) {
            true => Ok(of_raw(inner)),
            false => Ok((None, to_json(inner, json)?)),
        };
    }
    // Of a message with only this field, what stands behind its name.
    let mut only = DynamicMessage::new(message.descriptor());
    only.set_field(field, message.get_field(field).into_owned());
    let text = to_json(&only, &Json { emit_defaults: true, preserve_names: false, ..json.clone() })?;
    let mut map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).unwrap_or_default();
    let value = map.remove(field.json_name()).unwrap_or_default();
    Ok((None, value.to_string().into_bytes()))
}

fn from_json(json: &Json, kind: MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Fault> {
    let options = DeserializeOptions::new().deny_unknown_fields(!json.ignore_unknown);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(kind, &mut deserializer, &options)
        .map_err(|error| broken(&error))?;
    deserializer.end().map_err(|error| broken(&error))?;
    Ok(message)
}

fn broken(error: &serde_json::Error) -> Fault {
    Fault::Invalid(format!("the JSON does not fit: {error}"))
}

fn raw(kind: MessageDescriptor, body: &[u8], content_type: &str) -> DynamicMessage {
    let mut message = DynamicMessage::new(kind);
    message.set_field_by_number(1, Value::String(content_type.to_owned()));
    message.set_field_by_number(2, Value::Bytes(Bytes::copy_from_slice(body)));
    message
}

fn of_raw(message: &DynamicMessage) -> (Option<String>, Vec<u8>) {
    let text = |number| message.get_field_by_number(number).map(std::borrow::Cow::into_owned);
    let kind = text(1).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
    let data = text(2).and_then(|value| value.as_bytes().map(|bytes| bytes.to_vec())).unwrap_or_default();
    (Some(kind), data)
}

/// The pairs of a query, decoded.
fn pairs(query: &str) -> Result<Vec<(String, String)>, Fault> {
    let text = |raw: &str| {
        let plain = unescaped(raw.replace('+', " ").as_bytes(), |_| true);
        String::from_utf8(plain).map_err(|_| Fault::Invalid("the query is not UTF-8".into()))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((text(name)?, text(value)?))
    });
    pairs.collect()
}

/// The fields that `a.b.c` names, by the names of the `.proto` or of JSON.
fn resolve(message: &MessageDescriptor, path: &str) -> Option<Vec<FieldDescriptor>> {
    let (mut fields, mut within) = (Vec::new(), Some(message.clone()));
    for name in path.split('.') {
        let holder = within.take()?;
        let field = holder.get_field_by_name(name).or_else(|| holder.get_field_by_json_name(name))?;
        if let (Kind::Message(inner), false) = (field.kind(), field.is_list() || field.is_map()) {
            within = Some(inner);
        }
        fields.push(field);
    }
    Some(fields)
}

/// Sets a field from text; `once` refuses a second value of a field that holds one.
fn set(message: &mut DynamicMessage, path: &[FieldDescriptor], text: &str, once: bool) -> Result<(), Fault> {
    let Some((field, rest)) = path.split_first() else { return Ok(()) };
    let wrong = |why: &str| Fault::Invalid(format!("`{}`: {why}", field.full_name()));
    if !rest.is_empty() {
        return match message.get_field_mut(field) {
            Value::Message(inner) => set(inner, rest, text, once),
            _ => Err(wrong("it is no message")),
        };
    }
    if field.is_map() {
        return Err(wrong("a map can't stand in a query: send it in a body"));
    }
    let value = scalar(&field.kind(), text).ok_or_else(|| wrong(&format!("`{text}` is no value of it")))?;
    if field.is_list() {
        if let Value::List(list) = message.get_field_mut(field) {
            list.push(value);
        }
        return Ok(());
    }
    let other =
        field.containing_oneof().is_some_and(|one| one.fields().any(|other| message.has_field(&other)));
    if once && (message.has_field(field) || other) {
        return Err(wrong("it has two values"));
    }
    message.set_field(field, value);
    Ok(())
}

/// A value that is written as text.
fn scalar(kind: &Kind, text: &str) -> Option<Value> {
    Some(match kind {
        Kind::String => Value::String(text.to_owned()),
        Kind::Bool => Value::Bool(text.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(text.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(text.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(text.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(text.parse().ok()?),
        Kind::Float => Value::F32(text.parse().ok()?),
        Kind::Double => Value::F64(text.parse().ok()?),
        Kind::Bytes => Value::Bytes(bytes(text)?),
        Kind::Enum(kind) => match text.parse() {
            Ok(number) => Value::EnumNumber(number),
            Err(_) => Value::EnumNumber(kind.get_value_by_name(text)?.number()),
        },
        Kind::Message(kind) => Value::Message(written(kind, text)?),
    })
}

/// A message that JSON writes as one value, such as `Timestamp`.
fn written(kind: &MessageDescriptor, text: &str) -> Option<DynamicMessage> {
    use serde::de::IntoDeserializer;
    let name = kind.full_name().strip_prefix("google.protobuf.")?;
    let options = DeserializeOptions::new();
    if name == "BoolValue" {
        let value: bool = text.parse().ok()?;
        let value: serde::de::value::BoolDeserializer<serde::de::value::Error> = value.into_deserializer();
        return DynamicMessage::deserialize_with_options(kind.clone(), value, &options).ok();
    }
    let single = matches!(name, "Timestamp" | "Duration" | "FieldMask")
        || name.ends_with("Value") && !matches!(name, "Value" | "ListValue");
    let value: serde::de::value::StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    single.then(|| DynamicMessage::deserialize_with_options(kind.clone(), value, &options).ok())?
}

/// Base64 of either alphabet, padded or not.
fn bytes(text: &str) -> Option<Bytes> {
    use base64::Engine as _;
    let plain: String = text
        .trim_end_matches('=')
        .chars()
        .map(|c| {
            if c == '-' {
                '+'
            } else if c == '_' {
                '/'
            } else {
                c
            }
        })
        .collect();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(plain).ok().map(Bytes::from)
}

/// Refuses `Any` in `Any` without end: each would be read within the other.
fn check_any(message: &DynamicMessage, left: usize) -> Result<(), Fault> {
    let pool = message.descriptor().parent_pool().clone();
    if message.descriptor().full_name() == "google.protobuf.Any" {
        let field = |number| message.get_field_by_number(number).map(std::borrow::Cow::into_owned);
        let (url, value) = (field(1), field(2));
        let name = url.as_ref().and_then(Value::as_str).and_then(|url| url.rsplit('/').next());
        let inner = name.and_then(|name| pool.get_message_by_name(name));
        let (Some(inner), Some(Value::Bytes(value))) = (inner, value) else { return Ok(()) };
        let Some(left) = left.checked_sub(1) else {
            return Err(Fault::Invalid("`Any` in `Any` is nested too deep".into()));
        };
        return DynamicMessage::decode(inner, value).map_or(Ok(()), |inner| check_any(&inner, left));
    }
    if pool.get_message_by_name("google.protobuf.Any").is_none() {
        return Ok(());
    }
    message.fields().try_for_each(|(_, value)| check_value(value, left))
}

fn check_value(value: &Value, left: usize) -> Result<(), Fault> {
    match value {
        Value::Message(message) => check_any(message, left),
        Value::List(list) => list.iter().try_for_each(|value| check_value(value, left)),
        Value::Map(map) => map.values().try_for_each(|value| check_value(value, left)),
        _ => Ok(()),
    }
}
