//! The conformance tests of HTTP/2 (<https://github.com/summerwind/h2spec>)
//! against each listener.

use std::net::SocketAddr;
use std::process::Command;

use pillion::base::UpstreamName;

use crate::parts::installed;
use crate::support::{Recorder, sidecar};

/// Cases that a sidecar fails, with the reason why it must.
const LEFT_OUT: [(&str, &str, &str); 1] = [(
    "3.5. HTTP/2 Connection Preface",
    "2: Sends invalid connection preface",
    "HTTP/1 is served on the same port, so bytes that are not the preface are HTTP/1 (answered with 400) or, \
     inbound, another protocol, which reaches the service as it is",
)];

/// Runs all cases against `address`; the section and the title of each that
/// failed, and all that was said.
fn failures(address: SocketAddr) -> (Vec<(String, String)>, String) {
    let output = Command::new(installed("bin/h2spec"))
        .args(["--strict", "--host", "127.0.0.1", "--timeout", "10", "--port", &address.port().to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = said.lines().last().unwrap_or_default();
    let tests: u32 = last.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!(tests >= 145 && last.contains(" 0 skipped"), "not all ran: {said}");
    let (_, told) = said.split_once("Failures:").unwrap_or_default();
    let (mut section, mut failures) = (String::new(), Vec::new());
    for line in told.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix("× ") {
            failures.push((section.clone(), title.to_owned()));
        } else if line.starts_with(|first: char| first.is_ascii_digit()) && line.contains(". ") {
            section = line.to_owned();
        }
    }
    assert_eq!(output.status.success(), failures.is_empty(), "{said}");
    (failures, said)
}

#[test]
fn each_listener_keeps_the_rules_of_http2() {
    // Some cases are about a body's windows.
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}", "a".repeat(1000));
    let backend = Recorder::answering(move |_| answer.clone().into_bytes());
    let users = UpstreamName::new("users");
    let sidecar = sidecar("front")
        .upstream("users", backend.address())
        .service(backend.address())
        .local_port("users")
        .start();
    for (name, address) in [
        ("inbound", sidecar.at.inbound),
        ("outbound", sidecar.at.outbound),
        ("port", sidecar.at.upstreams[&users]),
    ] {
        let (failures, said) = failures(address);
        for (section, title) in failures {
            let reason = LEFT_OUT.iter().find(|(s, t, _)| (*s, *t) == (&section, &title));
            assert!(reason.is_some(), "{name}: {section}: {title}\n{said}");
        }
    }
}
