//! JSON as curl sends it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Shop, command};
use crate::support::{Client, beside_others};

/// Runs curl; the status and the body.
fn curl(shop: &Shop, path: &str, options: &[&str]) -> (u16, String) {
    let out = command("curl")
        .args(["-sS", "--max-time", "20", "--globoff", "--path-as-is", "-w", "\n%{http_code}"])
        .args(options)
        .arg(shop.url(path))
        .output()
        .unwrap();
    assert!(out.status.success(), "{path}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

const JSON: [&str; 2] = ["-H", "content-type: application/json"];

#[test]
fn every_kind_of_rule() {
    let _turn = beside_others();
    let shop = Shop::start("");
    let ada = |id: &str| json!({"id": id, "fullName": "Ada", "level": "ADMIN", "tags": ["a"]});
    let many = "/v1/users?filter.ages=1&filter.ages=2&tags=x%26y&tags=z&page_size=9";
    let many_reply = json!({"users": [{"id": "1"}, {"id": "2"}], "names": ["x&y", "z"], "count": 9});
    for (path, options, wanted) in [
        ("/v1/users/7", vec![], ada("7")),
        ("/v1/users/7", vec!["--http2-prior-knowledge"], ada("7")),
        ("/v1/tenants/a%2Fb/users/8?verbose=true", vec![], ada("8")),
        (many, vec![], many_reply),
        ("/v1/names?tags=a&tags=b", vec![], json!(["a", "b"])),
        (
            "/v1/users?request_id=r",
            [&JSON[..], &["-d", r#"{"full_name": "B"}"#]].concat(),
            json!({"fullName": "B", "tags": ["r"]}),
        ),
        (
            "/v1/users/3?mask=tags",
            [&JSON[..], &["-X", "PATCH", "-d", "{}"]].concat(),
            json!({"id": "3", "tags": ["tags"]}),
        ),
        ("/v1/users/3", vec!["-X", "DELETE"], json!({})),
        ("/v1/users/3:merge", [&JSON[..], &["-d", ""]].concat(), ada("3")),
        ("/v1/shelves/a%2Fb/books/c/d", vec![], json!({"name": "shelves/a%2Fb/books/c/d"})),
        ("/shop.v1.Users/Plain", [&JSON[..], &["-d", r#"{"id": 5}"#]].concat(), ada("5")),
    ] {
        let (status, body) = curl(&shop, path, &options);
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {status} {body}"));
        assert_eq!((status, body), (200, wanted), "{path} {options:?}");
    }
    let stored = curl(&shop, "/v1/file", &["-X", "PUT", "-H", "content-type: text/x", "-d", "\u{1}raw"]);
    assert_eq!(stored, (200, "\u{1}raw".to_owned()));
    let large = format!("{{\"stringField\": \"{}\"}}", "é".repeat(1_000_000));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &large).unwrap();
    let data = format!("@{}", file.path().display());
    let (status, body) = curl(&shop, "/v1/everything", &[&JSON[..], &["--data-binary", &data]].concat());
    assert_eq!((status, body.len()), (200, large.len() - 1), "the one space is gone");
}

#[test]
fn errors_say_what_the_service_said() {
    let _turn = beside_others();
    let shop = Shop::start(", max_message: 64KiB");
    for (code, status) in
        [(1, 499), (3, 400), (5, 404), (6, 409), (7, 403), (8, 429), (12, 501), (14, 503), (16, 401)]
    {
        let (got, body) = curl(&shop, &format!("/v1/users/7?fail={code}"), &[]);
        let body: Value = serde_json::from_str(&body).unwrap();
        let violations = json!([{"field": "id", "description": "asked for"}]);
        let detail =
            json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations});
        assert_eq!(
            (got, &body),
            (status, &json!({"code": code, "message": "nobody 7 €", "details": [detail]}))
        );
    }
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let twice = r#"{"id": 1, "id": 2}"#;
    let large = format!("{{\"fullName\": \"{}\"}}", "a".repeat(70_000));
    for (path, options, status, reason) in [
        ("/v1/nothing", vec![], 404, "no_route"),
        ("/v1/users/seven", vec![], 400, "invalid_message"),
        ("/v1/users/7?nobody=1", vec![], 400, "invalid_message"),
        ("/v1/tenants/%FF/users/1", vec![], 400, "invalid_message"),
        ("/v1/users", vec!["-d", "{}"], 415, "unsupported_media_type"),
        ("/v1/users", [&JSON[..], &["-d", &deep]].concat(), 400, "invalid_message"),
        ("/v1/users", [&JSON[..], &["-d", twice]].concat(), 400, "invalid_message"),
        ("/v1/users", [&JSON[..], &["-d", r#"{"id": 1e999}"#]].concat(), 400, "invalid_message"),
        ("/v1/users", [&JSON[..], &["-d", &large]].concat(), 413, "message_too_large"),
    ] {
        let (got, body) = curl(&shop, path, &options);
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {got} {body}"));
        assert_eq!((got, &body["reason"]), (status, &json!(reason)), "{path}: {body}");
    }
    assert_eq!(curl(&shop, "/v1/users/7", &[]).0, 200, "still well");
}

#[test]
fn streams_go_out_as_they_come() {
    let _turn = beside_others();
    let shop = Shop::start("");
    let mut child = command("curl")
        .args(["-sSN", "--max-time", "20"])
        .arg(shop.url("/v1/users:watch?count=3&pause=400&fail=8"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines: Vec<_> = lines.map(|line| (line.unwrap(), began.elapsed())).collect();
    assert!(child.wait().unwrap().success());
    let ids: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
    assert_eq!(ids[..3], [1, 2, 3].map(|id| format!("{{\"result\":{{\"id\":\"{id}\"}}}}")), "{ids:?}");
    assert!(ids[3].starts_with("{\"error\":{\"code\":8,") && ids.len() == 4, "{ids:?}");
    let between = lines[2].1 - lines[0].1;
    assert!(between > Duration::from_millis(500), "they came at once: {between:?}");
    let upload = ["-H", "content-type: application/x-ndjson", "-H", "transfer-encoding: chunked", "-d"];
    for body in
        ["{\"fullName\": \"a\"}\n{\"fullName\": \"b\"}\n", "[{\"fullName\": \"a\"}, {\"fullName\": \"b\"}]"]
    {
        let (status, text) = curl(&shop, "/v1/users:upload", &[&upload[..], &[body]].concat());
        assert_eq!((status, text.as_str()), (200, r#"{"names":["a","b"],"count":2}"#));
    }
}

#[test]
fn both_sides_can_take_turns() {
    let _turn = beside_others();
    let shop = Shop::start("");
    // curl does not read an answer while it waits for more to send.
    let mut client = Client::connect(shop.front.inbound);
    client.send("POST /v1/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut wanted = String::new();
    for (number, id) in [1, 5, 9].into_iter().enumerate() {
        let value = format!("{{\"id\": {id}}}");
        client.send(format!("{:x}\r\n{value}\r\n", value.len()));
        if number == 0 {
            assert_eq!(client.read_head().unwrap().status, 200);
        }
        let line = format!("{{\"result\":{{\"id\":\"{}\"}}}}\n", id + 1);
        wanted += &format!("{:x}\r\n{line}\r\n", line.len());
        while client.wire().unread().len() < wanted.len() {
            assert!(client.wire().fill().unwrap(), "an answer before the end of the request");
        }
        assert_eq!(String::from_utf8_lossy(client.wire().unread()), wanted);
    }
}
