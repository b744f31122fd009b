mod pieces;

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue, Method};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use prost_reflect::prost_types;
use serde_json::{Value, json};

use super::message;
use super::path::{self, Called};
use super::status::Status;
use super::*;
use crate::config::model::Json;
use crate::config::{Environment, load_str};

/// What a route with the shop's descriptor holds.
fn shop(more: &str) -> Json {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/policies/shop.pb");
    let text = format!(
        "version: 1\nservice: {{name: a, port: 80}}\ninbound:\n  - json: {{descriptor: \"{file}\"{more}}}\n"
    );
    let loaded = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}"));
    Json::clone(loaded.model.inbound_defaults.json.as_ref().unwrap())
}

fn find(json: &Json, verb: &str, path: &str) -> Option<Result<Called, Fault>> {
    path::find(json, &Method::from_bytes(verb.as_bytes()).unwrap(), path)
}

fn called(json: &Json, verb: &str, path: &str) -> Called {
    find(json, verb, path).unwrap_or_else(|| panic!("{verb} {path}")).unwrap()
}

/// The message that a request becomes, as JSON.
fn request(json: &Json, verb: &str, target: &str, body: &str) -> Result<Value, String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let called = find(json, verb, path).ok_or("no method")?.map_err(Fault::detail)?;
    let bytes = message::request(json, &called, query, body.as_bytes(), "").map_err(Fault::detail)?;
    let decoded = DynamicMessage::decode(called.method.input(), &bytes[..]).unwrap();
    let text = message::to_json(&decoded, json).map_err(Fault::detail)?;
    Ok(serde_json::from_slice(&text).unwrap())
}

#[test]
fn paths_find_their_methods() {
    let json = shop("");
    for (verb, path, method) in [
        ("GET", "/v1/users/7", "Get"),
        ("HEAD", "/v1/users/7", "Get"),
        ("GET", "/v1/tenants/a/users/7", "Get"),
        ("GET", "/v1/users", "List"),
        ("POST", "/v1/users", "Create"),
        ("PATCH", "/v1/users/7", "Update"),
        ("DELETE", "/v1/users/7", "Delete"),
        ("SEARCH", "/v1/users/7", "Find"),
        ("POST", "/v1/users/7:merge", "Merge"),
        ("GET", "/v1/users:watch", "Watch"),
        ("GET", "/v1/shelves/1/books/2/3", "Book"),
        ("GET", "/v1/shelves/1/books", "Book"),
        ("GET", "/v1/files/a/b", "Download"),
        ("GET", "/v1/files", "Download"),
        ("GET", "/v1/%75sers/7", "Get"),
        ("POST", "/shop.v1.Users/Plain", "Plain"),
    ] {
        assert_eq!(called(&json, verb, path).method.name(), method, "{verb} {path}");
    }
    for (verb, path) in [
        ("PUT", "/v1/users/7"),
        ("GET", "/v1/users/"),
        ("GET", "/v1/users/7/8"),
        ("GET", "/v1"),
        ("GET", "*"),
        ("GET", "/shop.v1.Users/Plain"),
        // It has a rule.
        ("POST", "/shop.v1.Users/Get"),
        ("POST", "/shop.v1.Users/Nobody"),
        ("POST", "/nobody.v1.Users/Plain"),
    ] {
        assert!(find(&json, verb, path).is_none(), "{verb} {path}");
    }
}

#[test]
fn escapes_in_a_path_stay_within_their_segment() {
    let json = shop("");
    let name = |path: &str| called(&json, "GET", path).captured[0].1.clone();
    assert_eq!(name("/v1/shelves/a%2Fb/books/c%2fd/e%20f"), "shelves/a%2Fb/books/c%2fd/e f");
    assert_eq!(name("/v1/tenants/a%2Fb/users/1"), "a/b");
    assert_eq!(name("/v1/tenants/%zz/users/1"), "%zz");
    let broken = find(&json, "GET", "/v1/tenants/%ff/users/1").unwrap().unwrap_err();
    assert!(broken.detail().contains("not UTF-8"));
}

#[test]
fn a_request_is_made_of_path_query_and_body() {
    let json = shop("");
    for (verb, target, body, wanted) in [
        ("GET", "/v1/users/7?verbose=true", "", json!({"id": "7", "verbose": true})),
        ("GET", "/v1/tenants/a/users/-1", "", json!({"id": "-1", "tenant": {"name": "a"}})),
        ("GET", "/v1/users/7?tenant.name=x%26y+z", "", json!({"id": "7", "tenant": {"name": "x&y z"}})),
        (
            "GET",
            "/v1/users?filter.name_prefix=a&filter.namePrefix2=&tags=x",
            "",
            json!("`filter.namePrefix2` in the query is no field of `shop.v1.ListRequest`"),
        ),
        (
            "GET",
            "/v1/users?filter.namePrefix=a&filter.level=ADMIN&filter.ages=1&filter.ages=2&tags=x&tags=y&page_size=3&since=2026-01-02T03:04:05Z&within=1.5s&fields=a.b,c&active=true&page_token=AP-_&score=NaN",
            "",
            json!({"filter": {"namePrefix": "a", "level": "ADMIN", "ages": [1, 2]}, "tags": ["x", "y"],
                "pageSize": 3, "since": "2026-01-02T03:04:05Z", "within": "1.500s", "fields": "a.b,c",
                "active": true, "pageToken": "AP+/", "score": "NaN"}),
        ),
        (
            "POST",
            "/v1/users?request_id=r",
            r#"{"fullName": "A"}"#,
            json!({"user": {"fullName": "A"}, "requestId": "r"}),
        ),
        ("POST", "/v1/users", r#"{"full_name": "A"}"#, json!({"user": {"fullName": "A"}})),
        ("POST", "/v1/users", " \n", json!({})),
        ("PATCH", "/v1/users/9", r#"{"id": 3, "level": 2}"#, json!({"user": {"id": "9", "level": "ADMIN"}})),
        ("POST", "/v1/users/9:merge", "", json!({"id": "9"})),
        ("POST", "/shop.v1.Users/Plain", r#"{"id": "5"}"#, json!({"id": "5"})),
    ] {
        let got = request(&json, verb, target, body).unwrap_or_else(Value::String);
        assert_eq!(got, wanted, "{verb} {target}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let json = shop("");
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep_all = format!("{}{{}}{}", "{\"all\":".repeat(10_000), "}".repeat(10_000));
    let deep_value = format!("{{\"value\":{deep}}}");
    for (verb, target, body, wanted) in [
        ("GET", "/v1/users/x", "", "`x` is no value"),
        ("GET", "/v1/users/9223372036854775808", "", "no value"),
        ("GET", "/v1/users/7?id=8", "", "in the path already"),
        ("GET", "/v1/users/7?verbose=true&verbose=true", "", "two values"),
        ("GET", "/v1/users/7?verbose=yes", "", "no value"),
        ("GET", "/v1/users/7?utm_source=x", "", "no field"),
        ("GET", "/v1/users/7?tenant=x", "", "no value"),
        ("GET", "/v1/users/7?%ff=x", "", "not UTF-8"),
        ("GET", "/v1/users?labels=x", "", "map"),
        ("GET", "/v1/users?filter.level=KING", "", "no value"),
        ("GET", "/v1/users?page_size=-1", "", "no value"),
        ("GET", "/v1/users?since=yesterday", "", "no value"),
        ("GET", "/v1/users?page_token=%", "", "no value"),
        ("POST", "/v1/users?user.id=1", "{}", "in the body already"),
        ("POST", "/v1/users", "{}, \"requestId\": \"x\"", "does not fit"),
        ("POST", "/v1/users", "{} {}", "does not fit"),
        ("POST", "/v1/users", "{", "does not fit"),
        ("POST", "/v1/users", "[]", "does not fit"),
        ("POST", "/v1/users", "\u{feff}{}", "does not fit"),
        ("POST", "/v1/users", r#"{"nobody": 1}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"id": 1, "id": 2}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"id": 9223372036854775808}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"id": 1e400}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"id": 1.5}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"level": "KING"}"#, "does not fit"),
        ("POST", "/v1/users", r#"{"created": "today"}"#, "does not fit"),
        ("POST", "/v1/users", "{\"fullName\": \"\u{0}\"}", "does not fit"),
        ("POST", "/v1/everything", r#"{"text": "a", "user": {}}"#, "does not fit"),
        ("POST", "/v1/everything", r#"{"bytesField": "%"}"#, "does not fit"),
        ("POST", "/v1/everything", r#"{"any": {"@type": "x/nobody.M"}}"#, "does not fit"),
        ("POST", "/v1/everything", &*deep_all, "does not fit"),
        ("POST", "/v1/everything", &*deep_value, "does not fit"),
        ("POST", "/v1/everything?int32_field=1", "{}", "in the body already"),
    ] {
        let got = request(&json, verb, target, body);
        let detail = got.expect_err(&format!("{verb} {target} {}", &body[..body.len().min(60)]));
        assert!(detail.contains(wanted), "{verb} {target}: {detail}");
    }
}

#[test]
fn what_is_not_known_can_be_passed_over() {
    let json = shop(", ignore_unknown: true");
    let got = request(&json, "POST", "/v1/users?utm=1", r#"{"nobody": {"a": [1]}, "id": 1}"#);
    assert_eq!(got.unwrap(), json!({"user": {"id": "1"}}));
}

#[test]
fn every_kind_of_value_comes_back() {
    let json = shop("");
    let text = json!({
        "doubleField": "NaN", "floatField": "-Infinity", "int32Field": -1, "int64Field": "-9223372036854775808",
        "uint32Field": 4_294_967_295_u32, "uint64Field": "18446744073709551615", "sint32Field": -5,
        "sint64Field": "-6", "fixed32Field": 7, "fixed64Field": "8", "sfixed32Field": 9, "sfixed64Field": "10",
        "boolField": true, "stringField": "é\n\"", "bytesField": "AP8=", "level": "GUEST",
        "numbers": ["1", "2"], "counts": {"a": "1"}, "users": {"3": {"id": "3"}}, "text": "", "maybe": 0,
        "timestamp": "1970-01-01T00:00:00.000000001Z", "duration": "-3.000000001s",
        "struct": {"a": [1.5, null, {"b": true}]}, "value": null, "list": [1.0, "x"],
        "any": {"@type": "type.googleapis.com/shop.v1.User", "id": "4"}, "mask": "a.bC,d",
        "int64Value": "0", "stringValue": "", "bytesValue": "AA==", "doubleValue": 1.5, "null": null,
        "all": {"int32Field": 1},
    });
    let got = request(&json, "POST", "/v1/everything", &text.to_string()).unwrap();
    let mut wanted = text;
    wanted.as_object_mut().unwrap().remove("null");
    assert_eq!(got, wanted);
}

#[test]
fn names_and_defaults_are_written_as_the_policy_says() {
    let answer = |json: &Json, verb: &str, path: &str, text: &str| {
        let called = called(json, verb, path);
        let mut from = serde_json::Deserializer::from_str(text);
        let message = DynamicMessage::deserialize(called.method.output(), &mut from).unwrap();
        let (_, text) = message::answer(json, &called, message.encode_to_vec().into()).unwrap();
        String::from_utf8(text).unwrap()
    };
    let user = r#"{"fullName":"A"}"#;
    assert_eq!(answer(&shop(""), "GET", "/v1/users/1", user), user);
    assert_eq!(answer(&shop(", preserve_names: true"), "GET", "/v1/users/1", user), r#"{"full_name":"A"}"#);
    let full = answer(&shop(", emit_defaults: true"), "GET", "/v1/users/1", user);
    assert_eq!(full, r#"{"id":"0","fullName":"A","level":"LEVEL_UNKNOWN","tags":[]}"#);
    let names = r#"{"names":["a","b"],"count":2}"#;
    assert_eq!(answer(&shop(""), "GET", "/v1/names", names), r#"["a","b"]"#);
    assert_eq!(answer(&shop(""), "GET", "/v1/names", "{}"), "[]");
    assert_eq!(answer(&shop(""), "DELETE", "/v1/users/1", "{}"), "{}");
}

#[test]
fn any_in_any_without_end_is_refused() {
    let json = shop("");
    let mut any = prost_types::Any::default();
    for _ in 0..10_000 {
        any = prost_types::Any {
            type_url: "type.googleapis.com/google.protobuf.Any".into(),
            value: any.encode_to_vec(),
        };
    }
    let descriptor = json.pool.get_message_by_name("shop.v1.All").unwrap();
    let mut all = DynamicMessage::new(descriptor);
    let kind = json.pool.get_message_by_name("google.protobuf.Any").unwrap();
    let inner = DynamicMessage::decode(kind, &any.encode_to_vec()[..]).unwrap();
    all.set_field_by_name("any", prost_reflect::Value::Message(inner));
    let fault = message::to_json(&all, &json).unwrap_err();
    assert!(fault.detail().contains("too deep"));
}

fn status_of(status: &prost_types::Any, code: &str) -> Status {
    let mut whole = vec![0x08, 5, 0x12, 2, b'n', b'o'];
    let any = status.encode_to_vec();
    whole.push(0x1a);
    prost::encoding::encode_varint(any.len() as u64, &mut whole);
    whole.extend_from_slice(&any);
    use base64::Engine as _;
    let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(whole);
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_str(code).unwrap());
    fields.insert("grpc-message", HeaderValue::from_static("not %E2%82%AC %zz 100%"));
    fields.insert("grpc-status-details-bin", HeaderValue::from_str(&details).unwrap());
    Status::of(&fields).unwrap()
}

#[test]
fn a_status_becomes_http_and_its_details_are_read() {
    let json = shop("");
    // A `BadRequest` with one violation: the shop's descriptor does not hold this type.
    let bad = b"\x0a\x09\x0a\x02id\x12\x03bad".to_vec();
    let any = prost_types::Any { type_url: "type.googleapis.com/google.rpc.BadRequest".into(), value: bad };
    let status = status_of(&any, "5");
    assert_eq!(status.http(), 404);
    assert_eq!(
        status.to_json(&json),
        json!({"code": 5, "message": "not € %zz 100%", "details": [
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "id", "description": "bad"}]},
        ]})
    );
    for (url, value) in [("x/nobody.M", b"\x01".to_vec()), ("x/shop.v1.User", b"\xff".to_vec())] {
        let any = prost_types::Any { type_url: url.into(), value: value.clone() };
        let shown = status_of(&any, "99");
        assert_eq!(shown.http(), 500);
        let value = if value == b"\x01" { "AQ==" } else { "/w==" };
        assert_eq!(shown.to_json(&json)["details"], json!([{"@type": url, "value": value}]));
    }
    assert_eq!(status_of(&any, "no number").code, 2);
    assert!(Status::of(&HeaderMap::new()).is_none());
}

static SHOP: LazyLock<Json> = LazyLock::new(|| shop(""));

#[test]
fn a_query_nests_no_deeper_than_a_message_may() {
    let folder = tempfile::tempdir().unwrap();
    let proto = r#"syntax = "proto3"; package a; import "google/api/annotations.proto";
        service S { rpc Get(Node) returns (Node) { option (google.api.http) = { get: "/node" }; } }
        message Node { Node n = 1; string s = 2; }"#;
    std::fs::write(folder.path().join("a.proto"), proto).unwrap();
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protos");
    let mut compiler = protox::Compiler::new([folder.path().to_owned(), protos]).unwrap();
    compiler.include_imports(true).open_file("a.proto").unwrap();
    let file = folder.path().join("a.pb");
    std::fs::write(&file, compiler.encode_file_descriptor_set()).unwrap();
    let text = format!(
        "version: 1\nservice: {{name: a, port: 80}}\ninbound:\n  - json: {{descriptor: \"{}\"}}\n",
        file.display()
    );
    let loaded = load_str("f", &text, &Environment::default()).unwrap();
    let json = Json::clone(loaded.model.inbound_defaults.json.as_ref().unwrap());
    let nested = |depth: usize| {
        let called = called(&json, "GET", "/node");
        message::request(&json, &called, &format!("{}s=x", "n.".repeat(depth)), b"", "")
    };
    let bytes = nested(98).unwrap();
    assert!(DynamicMessage::decode(json.pool.get_message_by_name("a.Node").unwrap(), &bytes[..]).is_ok());
    // As long as a target may be.
    assert!(matches!(nested(4000), Err(Fault::Invalid(_))));
}
