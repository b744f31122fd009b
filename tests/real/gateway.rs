//! `examples/gateway`: the same requests to the gateways by hand, in Go with chi
//! and in Python with FastAPI, and to Pillion with the policy beside them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::parts::installed;
use crate::support::process::program;
use crate::support::{Client, Recorder, Response, beside_others, until};

/// A gateway in a process of its own, with services of its own behind it.
struct Gateway {
    name: &'static str,
    child: Child,
    at: SocketAddr,
    users: Recorder,
    orders: Recorder,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that tells what it was sent, by its path fast, late, or not at once.
fn service() -> Recorder {
    let flaky = AtomicUsize::new(0);
    Recorder::answering(move |request| {
        let path = request.target.split('?').next().unwrap();
        if path == "/users/slow" {
            std::thread::sleep(Duration::from_millis(900));
        }
        let down =
            path == "/users/down" || path == "/users/flaky" && flaky.fetch_add(1, Ordering::SeqCst) == 0;
        let status = if down { "503 Service Unavailable" } else { "200 OK" };
        let field = |name| request.field(name).unwrap_or_default();
        let body = format!(
            "{} {} from={} internal={} body={}",
            request.method,
            request.target,
            field("x-from"),
            field("x-internal"),
            String::from_utf8_lossy(&request.body)
        );
        let head = format!("HTTP/1.1 {status}\r\nServer: hidden\r\nX-Own: 1\r\nContent-Type: text/plain\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
}

fn start(name: &'static str) -> Gateway {
    let (users, orders) = (service(), service());
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway");
    let mut command = match name {
        "chi" => Command::new(installed("bin/gateway-chi")),
        "fastapi" => {
            let mut command = Command::new(installed("python/bin/python"));
            command.arg(folder.join("fastapi/main.py"));
            command
        }
        _ => {
            let mut command = program();
            command.arg("run").arg("--config").arg(folder.join("pillion.yaml"));
            command
        }
    };
    command.env("PORT", port.to_string()).env("PILLION_LOG", "error").current_dir(&folder);
    command.env("USERS", users.address().to_string()).env("ORDERS", orders.address().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let gateway = Gateway { name, child, at, users, orders };
    until(&format!("{name} takes calls"), || TcpStream::connect(at).is_ok());
    until(&format!("{name} answers"), || ask(&gateway, "GET", "/healthz", "", "").status == 200);
    gateway
}

/// `fields` are lines.
fn ask(gateway: &Gateway, method: &str, target: &str, fields: &str, body: &str) -> Response {
    let length = if body.is_empty() && method != "POST" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let mut client = Client::connect(gateway.at);
    // One that is refused for its size may be answered before it is sent.
    let _ = client
        .try_send(format!("{method} {target} HTTP/1.1\r\nHost: shop.example\r\n{fields}{length}\r\n{body}"));
    client.read(method)
}

/// What all three must say alike.
type Said = (u16, BTreeMap<&'static str, String>, String);

fn said(method: &str, answer: &Response) -> Said {
    const FIELDS: [&str; 11] = [
        "location",
        "content-type",
        "pillion-error",
        "retry-after",
        "server",
        "x-own",
        "access-control-allow-origin",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-max-age",
        "vary",
    ];
    let mut fields = BTreeMap::new();
    for name in FIELDS {
        let values: Vec<String> = answer
            .fields
            .iter()
            .filter(|(one, _)| one.eq_ignore_ascii_case(name))
            .flat_map(|(_, value)| {
                String::from_utf8_lossy(value)
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .collect::<Vec<_>>()
            })
            .collect();
        let text = values.join(",");
        // Whatever the charset is called.
        let text = if name == "content-type" { text.split(';').next().unwrap().to_owned() } else { text };
        if !text.is_empty() {
            fields.insert(name, text);
        }
    }
    let problem = fields.get("content-type").is_some_and(|kind| kind == "application/problem+json");
    if !problem && let Some(gateway) = answer.field("x-gateway") {
        fields.insert("x-gateway", gateway);
    }
    let body = match problem && method != "HEAD" {
        false => answer.text(),
        true => {
            let all: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            format!("{} {}", all["status"], all["reason"])
        }
    };
    (answer.status, fields, body)
}

#[test]
fn the_gateways_of_the_example_answer_alike() {
    let _turn = beside_others();
    let all = ["chi", "fastapi", "pillion"].map(start);
    let ours = "Origin: https://shop.example\r\n";
    let asked = format!(
        "{ours}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
    );
    let large = "x".repeat((64 << 10) + 1);
    let order =
        |fields: &'static str| ("POST", "/api/orders", fields.to_owned(), "{\"what\": \"tea\"}".to_owned());
    let get = |target: &'static str, fields: &str| ("GET", target, fields.to_owned(), String::new());
    let requests = [
        get("/healthz", ""),
        get("/", ""),
        get("/api/users", ""),
        get("/api/users?name=a%20b&x=1", ours),
        get("/api/users/7", "X-Internal: secret\r\nX-From: me\r\n"),
        get("/api/users/a%20b", "Origin: https://evil.example\r\n"),
        get("/api/users/flaky", ours),
        get("/api/users/down", ""),
        get("/api/users/slow", ours),
        get("/api/users/7/8", ""),
        get("/api/users/", ""),
        get("/api/orders/7", ours),
        get("/nothing", ""),
        ("DELETE", "/api/users/7", String::new(), String::new()),
        ("HEAD", "/healthz", String::new(), String::new()),
        ("OPTIONS", "/api/orders", asked, String::new()),
        ("OPTIONS", "/api/orders", String::new(), String::new()),
        order(""),
        ("POST", "/api/orders", String::new(), large),
        // After a pause: the limit has room for three again.
        ("", "", String::new(), String::new()),
        order("Origin: https://shop.example\r\n"),
        order(""),
        order(""),
        order(""),
    ];
    let mut seen = Vec::new();
    for (method, target, fields, body) in requests {
        if method.is_empty() {
            std::thread::sleep(Duration::from_millis(3500));
            continue;
        }
        let answers =
            all.each_ref().map(|gateway| said(method, &ask(gateway, method, target, &fields, &body)));
        for (gateway, answer) in all.iter().zip(&answers) {
            assert_eq!(*answer, answers[0], "{} to {method} {target} {fields:?}", gateway.name);
        }
        seen.push(answers[0].0);
    }
    let wanted = [
        200, 302, 200, 200, 200, 200, 200, 503, 504, 404, 404, 200, 404, 404, 404, 204, 404, 200, 413, 200,
        200, 200, 429,
    ];
    assert_eq!(seen, wanted);
    let calls = all.each_ref().map(|gateway| {
        let lines = |all: Vec<crate::support::Request>| {
            all.into_iter().map(|one| format!("{} {}", one.method, one.target)).collect::<Vec<_>>()
        };
        (lines(gateway.users.take()), lines(gateway.orders.take()))
    });
    for (gateway, calls_of) in all.iter().zip(&calls) {
        assert_eq!(*calls_of, calls[0], "what {} has sent on", gateway.name);
    }
}

#[test]
fn the_gateways_of_the_example_say_alike_that_nobody_listens() {
    let _turn = beside_others();
    let all = ["chi", "fastapi", "pillion"].map(|name| {
        let mut gateway = start(name);
        // The port stays taken, so that nobody else gets it, and refuses.
        let at = gateway.users.address();
        gateway.users = service();
        until("the service is gone", || TcpStream::connect(at).is_err());
        gateway
    });
    for gateway in &all {
        let answer =
            said("GET", &ask(gateway, "GET", "/api/users/7", "Origin: https://shop.example\r\n", ""));
        assert_eq!((answer.0, answer.2.as_str()), (502, "502 \"connect_refused\""), "{}", gateway.name);
        assert_eq!(answer.1["access-control-allow-origin"], "https://shop.example", "{}", gateway.name);
    }
}
