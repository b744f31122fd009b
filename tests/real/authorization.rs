//! Tokens that another library makes: PyJWT, with every algorithm.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pillion::config::{Environment, load};
use serde_json::Value;

use crate::parts::installed;
use crate::support::{Client, Recorder, Response, Sidecar, sidecar, until};

/// PyJWT, which made keys and tokens and serves the keys. It ends with its input.
struct Issuing {
    made: Value,
    child: Child,
}

impl Issuing {
    fn start(folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/authorization/tokens.py");
        let mut python = Command::new(installed("python/bin/python"));
        python.arg(script).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let made = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { made, child }
    }
}

impl Drop for Issuing {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn configured(folder: &Path, text: &str, backend: &Recorder) -> Sidecar {
    let path = folder.join("pillion.yaml");
    std::fs::write(&path, format!("version: 1\nservice: {{name: orders, port: 1}}\n{text}")).unwrap();
    let told = load(&path, &Environment::default()).unwrap_or_else(|error| panic!("{error}")).model;
    let setup = sidecar("orders").service(backend.address()).with(|model| {
        model.authentication = told.authentication.clone();
        model.inbound_defaults = told.inbound_defaults.clone();
    });
    setup.start()
}

fn call(sidecar: &Sidecar, token: &str) -> Response {
    let raw = format!("GET / HTTP/1.1\r\nHost: orders\r\nAuthorization: Bearer {token}\r\n\r\n");
    Client::connect(sidecar.at.inbound).send(raw).read("GET")
}

#[test]
fn tokens_of_pyjwt_are_believed_and_its_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let issuing = Issuing::start(folder.path());
    std::fs::write(folder.path().join("keys.json"), issuing.made["jwks"].to_string()).unwrap();
    let backend = Recorder::start();
    let text = "
authentication:
  jwt:
    - issuer: https://id.example
      jwks: {file: keys.json}
      algorithms: [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512]
inbound:
  - allow: [{jwt: {audience: orders, scope: [a, b]}}]
";
    let sidecar = configured(folder.path(), text, &backend);
    let good = issuing.made["good"].as_object().unwrap();
    assert_eq!(good.len(), 12);
    for (algorithm, token) in good {
        let got = call(&sidecar, token.as_str().unwrap());
        assert_eq!(got.status, 200, "{algorithm}: {}", got.text());
        assert_eq!(backend.only().field("pillion-client-id"), Some(format!("by-{algorithm}")));
    }
    for (what, token) in issuing.made["bad"].as_object().unwrap() {
        let got = call(&sidecar, token.as_str().unwrap());
        assert_eq!((got.status, got.reason().as_deref()), (401, Some("unauthenticated")), "{what}");
    }
    assert!(backend.take().is_empty());
}

#[test]
fn keys_are_fetched_over_https_from_whom_the_file_vouches_for() {
    let folder = tempfile::tempdir().unwrap();
    let issuing = Issuing::start(folder.path());
    let url = format!("https://127.0.0.1:{}/keys.json", issuing.made["port"]);
    let (token, backend) = (issuing.made["good"]["ES384"].as_str().unwrap(), Recorder::start());
    for (trusted, ca_file) in [(true, ", ca_file: ca.pem"), (false, "")] {
        let text = format!(
            "authentication: {{jwt: [{{issuer: https://id.example, jwks: {{url: \"{url}\"{ca_file}}}}}]}}\ninbound: [{{allow: [{{jwt: {{}}}}]}}]\n"
        );
        let sidecar = configured(folder.path(), &text, &backend);
        let result = if trusted { "fetched" } else { "failed" };
        until(result, || sidecar.metrics().get("pillion_jwks_fetches_total", &[("result", result)]) > 0.0);
        assert_eq!(call(&sidecar, token).status, if trusted { 200 } else { 503 });
    }
}
