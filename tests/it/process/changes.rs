//! The sidecar ends, its files change, one of its endpoints dies: all under load.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{echo_http1, echo_http2, everywhere};
use crate::support::{Load, call, process, until};

const ROUTES: &str = "version: 1
inbound:
  - route: /**
    timeout: 10s
outbound:
  - to: users
    protocol: http1
    timeout: 10s
  - to: users
    route: POST /{caller}/{number}
    retry: {max: 2, on: [connect, 5xx]}
";

#[test]
fn term_under_load_fails_no_request() {
    let (http1, http2) = (echo_http1(), echo_http2());
    let mut sidecar = process("front")
        .service(http1.address(), "http1")
        .upstream("users", &[http1.address()])
        .upstream("carts", &[http2.address()])
        .with("drain: {delay: 500ms, deadline: 10s}\n")
        .policy(ROUTES)
        .start();
    let mut load = Load::new().http2(2, sidecar.outbound, "carts");
    for (address, host) in everywhere(&sidecar) {
        load = load.http1(4, address, host).http2(2, address, host);
    }
    let load = load.running();
    load.more(2_000);
    sidecar.signal(Signal::TERM);
    let tally = load.refused();
    tally.none_failed();
    assert!(tally.again > 0, "no caller was told to go elsewhere");
    assert_eq!(sidecar.ended().code(), Some(0), "{}", sidecar.said());
}

/// Answers with the path, as the load wants it.
const SERVICE: &str = "
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Echo(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self):
        self.rfile.read(int(self.headers.get('content-length', 0)))
        body = self.path.encode()
        head = f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n'
        self.wfile.write(head.encode() + body)
    do_GET = do_POST = answer
    def log_message(self, *_):
        pass
# Its 5 are too few for callers that come all at once.
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), Echo).serve_forever()
";

/// The service is the sidecar's child here, and has to outlive the drain.
#[test]
fn term_under_load_ends_the_service_last() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    drop(held);
    let mut sidecar = process("front")
        .service(address, "http1")
        .with("drain: {delay: 500ms, deadline: 10s}\n")
        .command(&["python3", "-c", SERVICE])
        .start();
    let load = Load::new().http1(6, sidecar.inbound, "front").running();
    load.more(500);
    sidecar.signal(Signal::TERM);
    load.refused().none_failed();
    assert_eq!(sidecar.ended().code(), Some(143), "{}", sidecar.said());
    assert!(std::net::TcpStream::connect(address).is_err(), "the service has ended");
}

fn is_bad(number: usize) -> bool {
    number.is_multiple_of(10)
}

fn policy(number: usize) -> String {
    let timeout = if is_bad(number) { "soon".to_owned() } else { format!("{}ms", 20_000 + number) };
    format!("{ROUTES}  - to: carts\n    timeout: {timeout}\n")
}

/// Reloads, a tenth of them bad; `PILLION_TEST_RELOADS=1000` for the full number.
fn reloads() -> usize {
    std::env::var("PILLION_TEST_RELOADS").map_or(300, |text| text.parse().expect("a number"))
}

#[test]
fn reloads_of_files_under_load_fail_no_request() {
    let (http1, http2) = (echo_http1(), echo_http2());
    let sidecar = process("front")
        .service(http1.address(), "http1")
        .upstream("users", &[http1.address()])
        .upstream("carts", &[http2.address()])
        .policy(policy(1))
        .start();
    let mut load = Load::new().http2(1, sidecar.outbound, "carts");
    for (address, host) in everywhere(&sidecar) {
        load = load.http1(1, address, host).http2(1, address, host);
    }
    let load = load.running();
    let (mut applied, mut rejected, mut bad) = (0.0, 0.0, 0);
    let count = reloads();
    for number in 2..2 + count {
        let is_bad = is_bad(number);
        bad += usize::from(is_bad);
        sidecar.policy(&policy(number));
        // Most are asked for, which spares the wait for silence; the watch finds
        // the others, and the bad ones: a question about these counts on its own.
        if !is_bad && number % 25 != 1 {
            sidecar.signal(Signal::HUP);
        }
        *(if is_bad { &mut rejected } else { &mut applied }) += 1.0;
        let result = |result| [("result", result)];
        until("the change is seen", || {
            let metrics = sidecar.metrics();
            let counts = ["applied", "rejected"]
                .map(|word| metrics.get("pillion_config_reloads_total", &result(word)));
            assert!(counts[0] <= applied, "{counts:?} after {number}");
            let all = counts[0] == applied && counts[1] >= rejected;
            // A question that comes late finds a bad file once more.
            rejected = if all { counts[1] } else { rejected };
            all && metrics.get("pillion_config_version", &[]) == 1.0 + applied
                && metrics.get("pillion_config_rejected", &[]) == f64::from(u8::from(is_bad))
        });
        if number % 50 == 0 {
            drop((http1.take(), http2.take()));
        }
    }
    assert_eq!(bad, count / 10);
    assert!(rejected < bad as f64 * 1.1 + 2.0, "{rejected} rejected");
    println!("{applied} applied, {rejected} rejected");
    load.more(100);
    load.end().none_failed();
    assert!(sidecar.said().contains("routes.yaml:"), "a refusal names its place");
}

/// The endpoints are processes too: sidecars before one service.
#[test]
fn kill_9_of_an_endpoint_fails_only_what_it_had() {
    let backend = echo_http1();
    let endpoint = || process("users").service(backend.address(), "http1").start();
    for round in 0..3 {
        let (stays, mut dies) = (endpoint(), endpoint());
        let sidecar = process("front").upstream("users", &[stays.inbound, dies.inbound]).start();
        let (callers, streams) = (8, 2 * crate::support::load::STREAMS);
        let load = Load::new()
            .http1(callers, sidecar.outbound, "users")
            .http2(2, sidecar.outbound, "users")
            .running();
        let served = || dies.metrics().get("http_server_request_duration_seconds_count", &[]);
        until("both serve", || served() >= 100.0);
        dies.kill();
        let killed = Instant::now();
        load.more(1_000);
        let tally = load.end();
        let (answered, failed) = (tally.answered, tally.failed);
        assert!(failed.len() <= callers + streams, "{} of {answered} failed: {failed:#?}", failed.len());
        for failure in &failed {
            assert!(failure.contains("reset_"), "failed though it was not sent: {failure}");
        }
        println!("round {round}: {} of {answered} failed, {:?}", failed.len(), killed.elapsed());
        let post = "POST /x HTTP/1.1\r\nHost: users\r\nContent-Length: 0\r\n\r\n";
        for _ in 0..20 {
            assert_eq!(call(sidecar.outbound, post).status, 200);
        }
        assert!(killed.elapsed() < Duration::from_secs(20), "what followed was slow");
        backend.take();
    }
}
