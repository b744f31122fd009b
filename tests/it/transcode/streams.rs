//! Streams of messages as lines, events and arrays.

use std::time::Duration;

use serde_json::{Value, json};

use super::{check_call, frame, front, grpc, messages, shop};
use crate::support::h2peer::H2Backend;
use crate::support::{Client, Sidecar, beside_others, call};

/// Answers with each user that was sent, and a status if the last one is called so.
fn echo() -> H2Backend {
    H2Backend::answering(|seen| {
        let users = match seen.head.uri.path() {
            "/shop.v1.Users/Watch" => vec![json!({"id": "1"}), json!({"id": "2"})],
            _ => messages("User", &seen.body),
        };
        if seen.head.uri.path() == "/shop.v1.Users/Upload" {
            let reply = json!({"users": users, "count": users.len()}).to_string();
            return grpc(vec![frame("ListReply", &reply)], &[("grpc-status", "0")]);
        }
        let failed = seen.head.headers.contains_key("x-fail");
        let body = users.iter().map(|user| frame("User", &user.to_string())).collect();
        match failed {
            true => grpc(body, &[("grpc-status", "8"), ("grpc-message", "enough")]),
            false => grpc(body, &[("grpc-status", "0")]),
        }
    })
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_server_stream_becomes_lines_or_events() {
    let _turn = beside_others();
    let backend = echo();
    let sidecar = front(&backend, |_| {}).start();
    let get = |more: &str| {
        call(sidecar.at.inbound, format!("GET /v1/users:watch HTTP/1.1\r\nHost: a\r\n{more}\r\n"))
    };
    let answer = get("");
    assert_eq!(answer.field("content-type").as_deref(), Some("application/x-ndjson"));
    assert_eq!(lines(&answer.text()), [json!({"result": {"id": "1"}}), json!({"result": {"id": "2"}})]);
    check_call(&backend.only(), "/shop.v1.Users/Watch");
    let answer = get("x-fail: 1\r\n");
    let error = json!({"error": {"code": 8, "message": "enough", "details": []}});
    assert_eq!((answer.status, lines(&answer.text())[2].clone()), (200, error));
    let answer = get("accept: text/event-stream\r\n");
    assert_eq!(answer.field("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(answer.text(), "data: {\"id\":\"1\"}\n\ndata: {\"id\":\"2\"}\n\n");
    let answer = get("accept: text/event-stream\r\nx-fail: 1\r\n");
    assert!(
        answer.text().ends_with("event: error\ndata: {\"code\":8,\"details\":[],\"message\":\"enough\"}\n\n")
    );
}

fn send(sidecar: &Sidecar, path: &str, body: &str) -> crate::support::Response {
    let mut client = Client::connect(sidecar.at.inbound);
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    // In pieces that end anywhere.
    for piece in body.as_bytes().chunks(7) {
        client.send(format!("{:x}\r\n", piece.len())).send(piece).send("\r\n");
    }
    client.send("0\r\n\r\n").read("POST")
}

#[test]
fn a_client_stream_comes_as_an_array_or_as_lines() {
    let _turn = beside_others();
    let backend = echo();
    let sidecar = front(&backend, |_| {}).start();
    let users = r#"{"id":"1","tags":["]","}"]} {"fullName":"b"}"#;
    for body in
        [users.to_owned(), users.replace("} {", "}\n{"), format!("[{}]", users.replace("} {", "}, {"))]
    {
        let answer = send(&sidecar, "/v1/users:upload", &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let reply: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(reply["count"], 2);
        assert_eq!(reply["users"][0]["tags"], json!(["]", "}"]));
    }
    assert_eq!(send(&sidecar, "/v1/users:upload", "[]").text(), "{}");
    let answer = send(&sidecar, "/v1/chat", users);
    assert_eq!(lines(&answer.text()).len(), 2, "{}", answer.text());
}

#[test]
fn a_client_stream_that_is_broken_ends_the_call() {
    let _turn = beside_others();
    let backend = echo();
    let sidecar = front(&backend, |policy| policy.json = Some(shop(", max_message: 1KiB"))).start();
    for (body, status, reason) in [
        ("{} }", 400, "invalid_message"),
        ("[{}", 400, "invalid_message"),
        ("{\"nobody\": 1}", 400, "invalid_message"),
        (&*format!("{{\"fullName\": \"{}\"}}", "a".repeat(2000)), 413, "message_too_large"),
    ] {
        let answer = send(&sidecar, "/v1/users:upload", body);
        assert_eq!((answer.status, answer.reason().as_deref()), (status, Some(reason)), "{}", answer.text());
    }
}

#[test]
fn a_client_stream_may_pause_for_longer_than_other_bodies() {
    let _turn = beside_others();
    let backend = echo();
    let sidecar =
        front(&backend, |_| {}).with(|model| model.limits.body_idle = Duration::from_millis(200)).start();
    for path in ["/v1/users:upload", "/v1/chat"] {
        let mut client = Client::connect(sidecar.at.inbound);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        client.send("2\r\n{}\r\n");
        std::thread::sleep(Duration::from_millis(600));
        let answer = client.send("2\r\n{}\r\n0\r\n\r\n").read("POST");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
}
