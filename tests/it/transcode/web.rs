//! gRPC-Web over HTTP/1.1 and HTTP/2.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;

use super::{check_call, frame, front, grpc, messages, policy, trailers_only};
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::{Client, Deaf, Recorder, Response, beside_others, call, sidecar};

fn users() -> H2Backend {
    H2Backend::answering(|seen| match messages("GetRequest", &seen.body)[0]["fail"].as_i64() {
        Some(5) => trailers_only("5", "nobody"),
        Some(8) => grpc(vec![frame("User", "{}")], &[("grpc-status", "8"), ("x-late", "l")]),
        _ => {
            let user = frame("User", r#"{"fullName": "Ada"}"#);
            grpc(vec![user.clone(), user], &[("grpc-status", "0")])
        }
    })
}

fn post(address: std::net::SocketAddr, kind: &str, body: &[u8]) -> Response {
    let head = format!(
        "POST /shop.v1.Users/Get HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nX-Grpc-Web: 1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    call(address, [head.as_bytes(), body].concat())
}

/// The messages and the text of the trailers of an answer.
fn parts(body: &[u8]) -> (Vec<u8>, String) {
    let mut at = 0;
    while body[at] == 0 {
        at += 5 + u32::from_be_bytes(body[at + 1..at + 5].try_into().unwrap()) as usize;
    }
    assert_eq!(body[at], 0x80);
    let length = u32::from_be_bytes(body[at + 1..at + 5].try_into().unwrap()) as usize;
    assert_eq!(body.len(), at + 5 + length, "nothing behind the trailers");
    (body[..at].to_vec(), String::from_utf8(body[at + 5..].to_vec()).unwrap())
}

/// Base64 in pieces, each padded.
fn plain(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap();
    let quanta = text.as_bytes().chunks(4);
    quanta.flat_map(|quantum| STANDARD.decode(quantum).unwrap()).collect()
}

#[test]
fn a_binary_call_has_its_trailers_in_the_body() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let answer = post(sidecar.at.inbound, "application/grpc-web+proto", &frame("GetRequest", "{}"));
    assert_eq!(answer.field("content-type").as_deref(), Some("application/grpc-web+proto"));
    assert_eq!(answer.field("x-meta").as_deref(), Some("m"));
    let (body, trailers) = parts(&answer.body);
    assert_eq!(messages("User", &body).len(), 2);
    assert_eq!(trailers, "grpc-status: 0\r\n");
    let seen = backend.only();
    check_call(&seen, "/shop.v1.Users/Get");

    let client = H2Client::connect(sidecar.at.inbound);
    let request = Request::post("http://a/shop.v1.Users/Get").header("content-type", "application/grpc-web");
    let got = client.call(request.body(()).unwrap(), vec![frame("GetRequest", r#"{"fail": 8}"#)], None);
    let (body, trailers) = parts(&got.body);
    assert_eq!((messages("User", &body).len(), got.trailers), (1, None));
    assert_eq!(trailers, "grpc-status: 8\r\nx-late: l\r\n");
    assert_eq!(backend.only().head.headers["content-type"], "application/grpc");
}

#[test]
fn a_text_call_is_base64_both_ways_in_whatever_pieces() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let message = frame("GetRequest", r#"{"id": "12345"}"#);
    let (first, second) = message.split_at(4);
    let text = format!("{}{}", STANDARD.encode(first), STANDARD.encode(second));
    let mut client = Client::connect(sidecar.at.inbound);
    client.send(
        "POST /shop.v1.Users/Get HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web-text\r\n\
         Accept: application/grpc-web-text\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for byte in text.bytes() {
        client.send(format!("1\r\n{}\r\n", char::from(byte)));
    }
    let answer = client.send("0\r\n\r\n").read("POST");
    assert_eq!(answer.field("content-type").as_deref(), Some("application/grpc-web-text+proto"));
    let (body, trailers) = parts(&plain(&answer.body));
    assert_eq!((messages("User", &body).len(), trailers.as_str()), (2, "grpc-status: 0\r\n"));
    assert_eq!(backend.only().body, message);
}

#[test]
fn errors_of_the_service_and_of_the_sidecar_are_in_the_body() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let asked = frame("GetRequest", r#"{"fail": 5}"#);
    let answer = post(sidecar.at.inbound, "application/grpc-web", &asked);
    assert_eq!((answer.status, answer.field("grpc-status")), (200, None));
    assert_eq!(parts(&answer.body).1, "grpc-status: 5\r\ngrpc-message: nobody\r\n");

    let nobody = Deaf::new();
    let sidecar = crate::support::sidecar("front")
        .upstream("a", nobody.address())
        .with(|model| model.defaults = policy())
        .start();
    for (kind, text) in [("application/grpc-web+proto", false), ("application/grpc-web-text", true)] {
        let body: Bytes = if text { STANDARD.encode(&asked).into() } else { asked.clone() };
        let answer = post(sidecar.at.outbound, kind, &body);
        assert_eq!((answer.status, answer.reason().as_deref()), (200, Some("connect_refused")));
        assert!(answer.field("content-type").unwrap().starts_with(kind), "{:?}", answer.fields);
        let body = if text { plain(&answer.body) } else { answer.body };
        let (body, trailers) = parts(&body);
        assert!(body.is_empty() && trailers.starts_with("grpc-status: 14\r\n"), "{trailers}");
        assert!(trailers.contains("grpc-status-details-bin: "), "{trailers}");
    }
}

#[test]
fn base64_that_is_none_is_the_callers_error() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    for body in ["%%%%", "AAAA=", "AAAAA"] {
        let answer = post(sidecar.at.inbound, "application/grpc-web-text", body.as_bytes());
        assert_eq!(answer.reason().as_deref(), Some("invalid_message"), "{body}");
        let (_, trailers) = parts(&plain(&answer.body));
        assert!(trailers.starts_with("grpc-status: 3\r\n"), "{trailers}");
    }
}

#[test]
fn without_the_key_a_call_passes_untouched() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = sidecar("front").service(backend.address()).start();
    let answer = post(sidecar.at.inbound, "application/grpc-web-text", b"AAAA");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(backend.only().body, b"AAAA");
}

/// Its route was found by its method, which must not become another then.
#[test]
fn only_a_post_is_a_call() {
    let _turn = beside_others();
    let backend = users();
    let sidecar = front(&backend, |_| {}).start();
    let client = H2Client::connect(sidecar.at.inbound);
    for method in ["GET", "PUT", "OPTIONS"] {
        let request = Request::builder().method(method).uri("http://a/shop.v1.Users/Get");
        let request = request.header("content-type", "application/grpc-web").body(()).unwrap();
        client.call(request, vec![frame("GetRequest", "{}")], None);
        let seen = backend.only().head;
        let kind = seen.headers["content-type"].to_str().unwrap();
        assert_eq!((seen.method.as_str(), kind), (method, "application/grpc-web"));
    }
}
