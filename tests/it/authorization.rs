//! `allow`: who is let in, what others are told, and what the service learns.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use http::Request;
use pillion::config::{Environment, Model, load};
use serde_json::{Value, json};

use crate::errors::grpc::Status;
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::tokens::{Signer, encoded, set};
use crate::support::{Client, Recorder, Response, Sidecar, beside_others, get, sidecar, until};

/// What the files say, beside what a sidecar of a test has anyway.
fn configured(setup: Setup, folder: &tempfile::TempDir, text: &str) -> Setup {
    let told = read(folder, text);
    setup.with(|model| tell(model, &told))
}

fn read(folder: &tempfile::TempDir, text: &str) -> Arc<Model> {
    let path = folder.path().join("pillion.yaml");
    fs::write(&path, format!("version: 1\nservice: {{name: orders, port: 1}}\n{text}")).unwrap();
    load(&path, &Environment::default()).unwrap_or_else(|error| panic!("{error}")).model
}

fn tell(model: &mut Model, told: &Model) {
    model.authentication = told.authentication.clone();
    model.inbound = told.inbound.clone();
    model.inbound_defaults = told.inbound_defaults.clone();
}

/// A folder with the keys of these.
fn folder(signers: &[&Signer]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("keys.json"), set(signers)).unwrap();
    folder
}

#[allow(clippy::disallowed_methods, reason = "tokens hold by the time of day")]
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[allow(clippy::needless_pass_by_value, reason = "it is written in place")]
fn claims(more: Value) -> Value {
    let mut claims =
        json!({"iss": "https://id.example", "sub": "alice", "aud": "orders", "exp": now() + 300.0});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// A call with these fields.
#[track_caller]
fn with(at: &Sidecar, target: &str, fields: &str) -> Response {
    let raw = format!("GET {target} HTTP/1.1\r\nHost: orders\r\n{fields}\r\n");
    Client::connect(at.at.inbound).send(raw).read("GET")
}

#[track_caller]
fn bearing(at: &Sidecar, target: &str, token: &str) -> Response {
    with(at, target, &format!("Authorization: Bearer {token}\r\n"))
}

const FILE: &str = "authentication: {jwt: [{issuer: https://id.example, jwks: {file: keys.json}, forward_claims: {role: x-role}}]}\n";

#[test]
fn a_caller_is_let_in_or_told_why_not() {
    let _turn = beside_others();
    let signer = Signer::new("a", "ES256");
    let folder = folder(&[&signer]);
    let backend = Recorder::start();
    let text = "inbound:\n  - {route: /open, allow: anyone}\n  - {route: /admin, allow: [{jwt: {audience: orders, scope: orders.write, claims: {role: admin}}}]}\n  - {route: /near, allow: [{source: 10.0.0.0/8}]}\n  - allow: [{jwt: {}}]\n";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    let good = signer.sign(&claims(json!({"scope": "a orders.write", "role": ["admin"]})));
    assert_eq!(get(sidecar.at.inbound, "orders", "/open").status, 200);
    assert_eq!(bearing(&sidecar, "/admin", &good).status, 200);
    assert_eq!(bearing(&sidecar, "/any/other", &good).status, 200);
    backend.take();
    let unsigned = format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(claims(json!({})).to_string()));
    let forged = Signer::secret("a", &signer.public()).sign(&claims(json!({})));
    for (target, token, status, challenge) in [
        ("/other", String::new(), 401, "Bearer realm=\"orders\""),
        (
            "/other",
            signer.sign(&claims(json!({"exp": 1}))),
            401,
            "error=\"invalid_token\", error_description=\"the token has expired\"",
        ),
        ("/other", signer.sign(&claims(json!({"iss": "x"}))), 401, "the issuer of the token is not declared"),
        ("/other", unsigned, 401, "error=\"invalid_token\""),
        ("/other", forged, 401, "error=\"invalid_token\""),
        ("/other", "a".repeat(30_000), 401, "the token is no JWT"),
        ("/other", good[..40].to_owned(), 401, "the token is no JWT"),
        ("/admin", signer.sign(&claims(json!({"aud": "x"}))), 401, "the token is for another audience"),
        (
            "/admin",
            signer.sign(&claims(json!({}))),
            403,
            "error=\"insufficient_scope\", scope=\"orders.write\"",
        ),
        ("/admin", signer.sign(&claims(json!({"scope": "orders.write"}))), 403, ""),
        ("/near", good.clone(), 403, ""),
    ] {
        let got = match token.is_empty() {
            true => with(&sidecar, target, ""),
            false => bearing(&sidecar, target, &token),
        };
        let said = got.field("www-authenticate").unwrap_or_default();
        assert_eq!((got.status, said.contains(challenge)), (status, true), "{target}: {said} {}", got.text());
        let reason = if status == 401 { "unauthenticated" } else { "permission_denied" };
        assert_eq!(got.reason().as_deref(), Some(reason));
        let body: Value = serde_json::from_slice(&got.body).unwrap();
        assert!(body["rule"].as_str().unwrap().contains("pillion.yaml:"), "{body}");
    }
    assert!(backend.take().is_empty(), "nobody who was denied got through");
    let denied = |cause| [("route", "/admin"), ("cause", cause), ("mode", "enforce")];
    sidecar.metric_is("pillion_denied_total", &denied("audience"), 1.0);
    sidecar.metric_is("pillion_denied_total", &denied("scope"), 1.0);
    sidecar.metric_is("pillion_denied_total", &denied("claim"), 1.0);
}

#[test]
fn a_caller_of_grpc_gets_a_status() {
    let _turn = beside_others();
    let signer = Signer::new("a", "RS256");
    let folder = folder(&[&signer]);
    let backend = H2Backend::start();
    let text = "inbound: [{route: grpc pay.v1.Pay/Charge, allow: [{jwt: {scope: pay}}]}]\n";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    let client = H2Client::connect(sidecar.at.inbound);
    let call = |token: Option<&str>| {
        let mut head =
            Request::post("http://orders/pay.v1.Pay/Charge").header("content-type", "application/grpc");
        if let Some(token) = token {
            head = head.header("authorization", format!("Bearer {token}"));
        }
        client.call(head.body(()).unwrap(), Vec::new(), None)
    };
    let missing = call(None);
    assert_eq!((missing.status(), missing.field("grpc-status")), (200, Some("16")));
    let status = Status::decode(missing.field("grpc-status-details-bin").unwrap());
    assert_eq!(status.error_info.unwrap().reason, "UNAUTHENTICATED");
    assert_eq!(missing.field("www-authenticate"), Some("Bearer realm=\"orders\""));
    assert_eq!(call(Some(&signer.sign(&claims(json!({}))))).field("grpc-status"), Some("7"));
    assert!(backend.take().is_empty());
    call(Some(&signer.sign(&claims(json!({"scope": "pay"})))));
    assert_eq!(backend.only().head.headers["pillion-client-id"], "alice");
}

#[test]
fn the_service_learns_who_calls_and_nobody_can_pretend() {
    let _turn = beside_others();
    let signer = Signer::new("a", "EdDSA");
    let folder = folder(&[&signer]);
    let backend = Recorder::start();
    let text = "inbound: [{route: /a, allow: [{jwt: {}}]}, {route: /b}, {route: /c, headers: {x-role: root}, respond: {status: 204}}]\n";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    let forged = "Pillion-Client-Id: root\r\nPillion_Client_Id: root\r\nPillion-Client-By: x\r\nX-Role: root\r\nx_role: root\r\n";
    let token = signer.sign(&claims(json!({"role": "clerk"})));
    let named = "Connection: pillion-client-id, x-role\r\n";
    with(&sidecar, "/a", &format!("{forged}{named}Authorization: Bearer {token}\r\n"));
    let seen = backend.only();
    assert_eq!(seen.field("pillion-client-id").as_deref(), Some("alice"));
    assert_eq!(seen.field("pillion-client-by").as_deref(), Some("https://id.example"));
    assert_eq!(seen.field("x-role").as_deref(), Some("clerk"));
    assert!(!seen.has("pillion_client_id") && !seen.has("x_role"), "{seen:?}");
    with(&sidecar, "/b", forged);
    let seen = backend.only();
    for name in ["pillion-client-id", "pillion_client_id", "pillion-client-by", "x-role", "x_role"] {
        assert!(!seen.has(name), "{name}");
    }
    // Nor does it choose a route.
    assert_eq!(with(&sidecar, "/c", forged).status, 200);
}

#[test]
fn a_service_without_policy_gets_no_forged_client_either() {
    let _turn = beside_others();
    let backend = Recorder::start();
    let sidecar = sidecar("orders").service(backend.address()).start();
    with(&sidecar, "/", "Pillion-Client-Id: root\r\nPillion-Client-By: x\r\n");
    let seen = backend.only();
    assert!(!seen.has("pillion-client-id") && !seen.has("pillion-client-by"), "{seen:?}");
}

#[test]
fn api_keys_come_from_a_file_and_change_with_it() {
    let _turn = beside_others();
    let folder = folder(&[&Signer::new("a", "EdDSA")]);
    let backend = Recorder::start();
    // printf %s one | sha256sum, and the same of two.
    let [one, two] = [
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    ];
    let file = folder.path().join("clients.txt");
    fs::write(&file, format!("# clients\nshop {one}\n\nreports\t{two}\n")).unwrap();
    let text = "inbound: [{allow: [{api_key: {file: clients.txt, clients: shop}}]}]\n";
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let setup = configured(sidecar("orders").service(backend.address()), &folder, text);
    let sidecar = setup.options(|options| options.reloads = Some(reloads)).start();
    let status = |key: &str| with(&sidecar, "/", &format!("X-Api-Key: {key}\r\n")).status;
    assert_eq!((status("one"), status("two"), status("three")), (200, 403, 401));
    assert_eq!(backend.only().field("pillion-client-id").as_deref(), Some("shop"));
    let missing = with(&sidecar, "/", "");
    assert_eq!(
        missing.field("www-authenticate").as_deref(),
        Some("ApiKey realm=\"orders\", header=\"x-api-key\"")
    );
    assert_eq!(with(&sidecar, "/", "X-Api-Key: one\r\nX-Api-Key: two\r\n").status, 401);

    fs::write(&file, format!("shop {two}\n")).unwrap();
    let mut model = Model::clone(&sidecar.app().model().borrow());
    tell(&mut model, &read(&folder, text));
    models.try_send(Arc::new(model)).unwrap();
    until("the new file is in force", || status("two") == 200);
    assert_eq!(status("one"), 401);
}

#[test]
fn a_shadow_denies_nobody_and_tells() {
    let _turn = beside_others();
    let signer = Signer::new("a", "EdDSA");
    let folder = folder(&[&signer]);
    let backend = Recorder::start();
    let text = "inbound: [{route: /a, allow: {mode: shadow, any: [{jwt: {}}]}}]\n";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    assert_eq!((with(&sidecar, "/a", "").status, bearing(&sidecar, "/a", "x").status), (200, 200));
    assert!(backend.take().iter().all(|seen| !seen.has("pillion-client-id")));
    bearing(&sidecar, "/a", &signer.sign(&claims(json!({}))));
    assert!(backend.only().has("pillion-client-id"));
    let shadow = |cause| [("route", "/a"), ("cause", cause), ("mode", "shadow")];
    sidecar.metric_is("pillion_denied_total", &shadow("missing"), 1.0);
    sidecar.metric_is("pillion_denied_total", &shadow("malformed_token"), 1.0);
}

#[test]
fn limits_count_by_claim_by_client_and_before_that_by_address() {
    let _turn = beside_others();
    let signer = Signer::new("a", "EdDSA");
    let folder = folder(&[&signer]);
    let backend = Recorder::start();
    let text = "inbound:
  - {route: /claim, allow: [{jwt: {}}], rate_limit: {rate: 1/h, per: {claim: tenant}}}
  - {route: /client, allow: [{jwt: {}}], rate_limit: {rate: 1/h, per: client}}
  - {route: /source, allow: [{jwt: {}}], rate_limit: [{rate: 2/h, per: source, headers: all}]}
";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    let token = |sub: &str, tenant: &str| signer.sign(&claims(json!({"sub": sub, "tenant": tenant})));
    let status = |target: &str, token: &str| bearing(&sidecar, target, token).status;
    assert_eq!((status("/claim", &token("a", "x")), status("/claim", &token("b", "x"))), (200, 429));
    assert_eq!(status("/claim", &token("a", "y")), 200);
    // What is not proven counts nowhere.
    assert_eq!(status("/claim", &Signer::new("a", "EdDSA").sign(&claims(json!({"tenant": "z"})))), 401);
    assert_eq!(status("/claim", &token("a", "z")), 200);
    assert_eq!((status("/client", &token("a", "x")), status("/client", &token("a", "y"))), (200, 429));
    assert_eq!(status("/client", &token("b", "x")), 200);
    let first = bearing(&sidecar, "/source", &token("a", "x"));
    assert_eq!((first.status, first.field("ratelimit").as_deref()), (200, Some("\"source\";r=1;t=1800")));
    assert_eq!(
        (status("/source", "junk"), status("/source", "junk")),
        (401, 429),
        "a flood of junk is stopped"
    );
}

#[test]
fn nothing_but_http_gets_by() {
    let _turn = beside_others();
    let folder = folder(&[&Signer::new("a", "EdDSA")]);
    let backend = Recorder::start();
    let text = "inbound: [{route: /a, allow: [{jwt: {}}]}]\n";
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}")).start();
    let mut client = Client::connect(sidecar.at.inbound);
    client.send("get /a HTTP/1.1\r\nHost: orders\r\n\r\n");
    assert!(client.try_read("GET").is_ok_and(|got| got.status >= 400) || backend.connections() == 0);
    assert!(backend.take().is_empty());
}

#[test]
fn opaque_bytes_pass_by_address_alone() {
    let _turn = beside_others();
    let folder = folder(&[&Signer::new("a", "EdDSA")]);
    for (network, passes) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let backend = Recorder::start();
        let text = format!("inbound: [{{allow: [{{jwt: {{}}}}, {{source: {network}}}]}}]\n");
        let setup =
            configured(sidecar("orders").service(backend.address()), &folder, &format!("{FILE}{text}"));
        let sidecar = setup.with(|model| model.service.protocol = pillion::base::Protocol::Tcp).start();
        let mut client = Client::connect(sidecar.at.inbound);
        let _ = client.try_send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
        assert_eq!(client.try_read("GET").is_ok(), passes, "{network}");
        assert_eq!(backend.take().len(), usize::from(passes));
    }
}

/// An issuer that shows its keys, or something else.
struct Issuing {
    server: Recorder,
    says: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuing {
    fn start(answer: Vec<u8>) -> Self {
        let (says, asked) = (Arc::new(Mutex::new(answer)), Arc::<AtomicUsize>::default());
        let (said, counted) = (says.clone(), asked.clone());
        let server = Recorder::answering(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            said.lock().unwrap().clone()
        });
        Self { server, says, asked }
    }

    fn says(&self, answer: Vec<u8>) {
        *self.says.lock().unwrap() = answer;
    }
}

fn answer(head: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{head}\r\n{body}", body.len()).into_bytes()
}

fn by_url(issuing: &Issuing) -> String {
    let address = issuing.server.address();
    format!(
        "authentication: {{jwt: [{{issuer: https://id.example, jwks: {{url: \"http://{address}/keys\"}}}}]}}\ninbound: [{{allow: [{{jwt: {{}}}}]}}]\n"
    )
}

#[test]
fn keys_are_fetched_ahead_and_followed_when_they_change() {
    let _turn = beside_others();
    let (old, new) = (Signer::new("old", "ES256"), Signer::new("new", "RS256"));
    let issuing = Issuing::start(answer("Cache-Control: max-age=1\r\n", &set(&[&old])));
    let (folder, backend) = (folder(&[&old]), Recorder::start());
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &by_url(&issuing)).start();
    let fetched =
        |count: f64| sidecar.metric_is("pillion_jwks_fetches_total", &[("result", "fetched")], count);
    fetched(1.0);
    let status = |signer: &Signer| bearing(&sidecar, "/", &signer.sign(&claims(json!({})))).status;
    assert_eq!((status(&old), status(&new)), (200, 401));
    issuing.says(answer("", &set(&[&new])));
    // A token that names a new key has it fetched, and not each one of them.
    until("the new key is there", || status(&new) == 200);
    assert_eq!(status(&old), 401, "its key is gone");
    let asked = issuing.asked.load(Ordering::SeqCst);
    assert!(asked <= 4, "asked {asked} times");
    for (what, said) in [
        ("down", b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("a lie", answer("", "<html>all is well</html>")),
        ("an empty set", answer("", "{\"keys\": []}")),
        ("huge", answer("", &format!("{{\"keys\": [{}]}}", " ".repeat(2 << 20)))),
    ] {
        issuing.says(said);
        let failed = || sidecar.metrics().get("pillion_jwks_fetches_total", &[("result", "failed")]);
        let before = failed();
        until(what, || {
            assert_eq!((status(&new), status(&old)), (200, 401), "{what}: what was fetched stays");
            failed() > before
        });
    }
}

#[test]
fn without_keys_nobody_is_believed_and_nobody_waits() {
    let _turn = beside_others();
    let signer = Signer::new("a", "ES256");
    let issuing =
        Issuing::start(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_vec());
    let (folder, backend) = (folder(&[&signer]), Recorder::start());
    let sidecar =
        configured(sidecar("orders").service(backend.address()), &folder, &by_url(&issuing)).start();
    let call = || bearing(&sidecar, "/", &signer.sign(&claims(json!({}))));
    let refused = call();
    assert_eq!((refused.status, refused.reason().as_deref()), (503, Some("keys_unavailable")));
    assert_eq!(with(&sidecar, "/", "").status, 401, "who shows nothing is told so");
    issuing.says(answer("", &set(&[&signer])));
    until("the keys are there", || call().status == 200);
}
