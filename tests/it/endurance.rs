//! What must hold for long or under load.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion::base::UpstreamName;
use pillion::config::model::{RoutePolicy, Timeout, Upstream};

use crate::support::bulk::{self, Bulk, Check};
use crate::support::wire::{self, Framing};
use crate::support::{Client, Recorder, alone, beside_others, call, get, resident, sidecar, until};

const MIB: u64 = 1 << 20;

/// Size of the large bodies; `PILLION_TEST_MIB=1024` for the full size.
fn size() -> u64 {
    std::env::var("PILLION_TEST_MIB").map_or(256, |text| text.parse::<u64>().expect("a number")) * MIB
}

#[test]
fn a_large_body_goes_through_two_sidecars_unchanged_both_ways() {
    let _turn = alone();
    let backend = Bulk::start();
    let near_service = sidecar("users").service(backend.address()).start();
    let near_caller = sidecar("front").upstream("users", near_service.at.inbound).start();
    let address = near_caller.at.outbound;
    assert_eq!(get(address, "users", "/10").body, bulk::pattern(0, 10), "warm");
    let before = resident();
    let over = AtomicBool::new(false);
    let grown = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::SeqCst) {
                most = most.max(resident().saturating_sub(before));
                std::thread::sleep(Duration::from_millis(10));
            }
            most
        });
        let moved = std::panic::catch_unwind(|| {
            download(address, &format!("/{}", size()));
            download(address, &format!("/chunked/{}", size()));
            upload(address, false);
            upload(address, true);
        });
        over.store(true, Ordering::SeqCst);
        let grown = watcher.join().expect("the watcher");
        if let Err(panic) = moved {
            std::panic::resume_unwind(panic);
        }
        grown
    });
    assert!(grown < 16 * MIB, "memory grew by {} KiB", grown / 1024);
}

fn download(address: SocketAddr, path: &str) {
    let mut client = Client::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: users\r\n\r\n"));
    let head = client.read_head().unwrap();
    assert_eq!(head.status, 200);
    let framing = wire::framing(&head.fields).unwrap().expect("a framing");
    assert_eq!(framing == Framing::Chunked, path.starts_with("/chunked"));
    let mut check = Check::default();
    client.wire().body(framing, &mut |bytes| check.take(bytes)).unwrap();
    assert_eq!((check.count, check.wrong), (size(), false), "{path}");
}

fn upload(address: SocketAddr, chunked: bool) {
    let mut client = Client::connect(address);
    let head = "POST / HTTP/1.1\r\nHost: users\r\n";
    if chunked {
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        let mut done = 0;
        while done < size() {
            let part = bulk::pattern(done, size() - done);
            client.send(format!("{:x}\r\n", part.len())).send(part).send("\r\n");
            done += part.len() as u64;
        }
        client.send("0\r\n\r\n");
    } else {
        client.send(format!("{head}Content-Length: {}\r\n\r\n", size()));
        bulk::write(&mut client.stream(), size()).unwrap();
    }
    assert_eq!(client.read("POST").text(), size().to_string());
}

/// Callers that call without a pause until they are told to end.
struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    callers: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(callers: usize, address: SocketAddr) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let failed: Arc<Mutex<Vec<String>>> = Arc::default();
        let callers = (0..callers)
            .map(|caller| {
                let (over, answered, failed) = (over.clone(), answered.clone(), failed.clone());
                std::thread::spawn(move || call_on(caller, address, &over, &answered, &failed))
            })
            .collect();
        let load = Self { over, answered, failed, callers };
        load.more(100);
        load
    }

    /// Waits until so many more were answered.
    fn more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + count;
        until("the load goes on", || self.answered.load(Ordering::SeqCst) >= wanted);
    }

    fn end(self) -> (usize, Vec<String>) {
        self.over.store(true, Ordering::SeqCst);
        for caller in self.callers {
            caller.join().expect("a caller panicked");
        }
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        (self.answered.load(Ordering::SeqCst), failed)
    }
}

/// Every request that was sent must be answered with its own path.
fn call_on(
    caller: usize,
    address: SocketAddr,
    over: &AtomicBool,
    answered: &AtomicUsize,
    failed: &Mutex<Vec<String>>,
) {
    let mut client: Option<Client> = None;
    for number in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let mut now = match client.take() {
            Some(client) => client,
            // A listener that is closed refuses: nothing was sent.
            None => match std::net::TcpStream::connect(address) {
                Ok(stream) => Client::over(stream),
                Err(_) => return,
            },
        };
        let path = format!("/{caller}/{number}");
        let post = number % 3 == 0;
        let request = if post {
            format!("POST {path} HTTP/1.1\r\nHost: users\r\nContent-Length: 5\r\n\r\nhello")
        } else {
            format!("GET {path} HTTP/1.1\r\nHost: users\r\n\r\n")
        };
        let sent = now.stream().write_all(request.as_bytes());
        match sent.map_err(|error| wire::Bad::Cut(error.to_string())).and_then(|()| now.try_read("GET")) {
            Ok(answer) if answer.status == 200 && answer.text() == path => {
                answered.fetch_add(1, Ordering::SeqCst);
                if answer.field("connection").as_deref() != Some("close") {
                    client = Some(now);
                }
            }
            other => failed.lock().unwrap().push(format!("{path}: {other:?}")),
        }
    }
}

fn echo_path(request: &crate::support::Request) -> Vec<u8> {
    let body = &request.target;
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn a_drain_under_load_fails_no_request() {
    let _turn = beside_others();
    let backend = Recorder::answering(echo_path);
    let sidecar = sidecar("front")
        .upstream("users", backend.address())
        .with(|model| model.drain.delay = Duration::from_millis(500))
        .start();
    let load = Load::start(8, sidecar.at.outbound);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all_done = runtime.block_on(sidecar.app().drain());
    assert!(all_done, "something was left when the drain was over");
    let (answered, failed) = load.end();
    assert!(failed.is_empty(), "{} of {answered} failed: {failed:#?}", failed.len());
    let refused = std::net::TcpStream::connect(sidecar.at.outbound);
    assert!(refused.is_err(), "the listener is closed");
    assert_eq!(get(sidecar.at.probes, "p", "/readyz").status, 503, "probes are answered to the end");
}

#[test]
fn a_thousand_reloads_under_load_fail_no_request() {
    let _turn = beside_others();
    let backend = Recorder::answering(echo_path);
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let setup = sidecar("front").upstream("users", backend.address());
    let first = setup.finished_model();
    let sidecar = setup.options(|options| options.reloads = Some(reloads)).start();
    let load = Load::start(4, sidecar.at.outbound);
    for number in 1..=1_000_u64 {
        let mut model = first.clone();
        let policy = RoutePolicy {
            timeout: Timeout::Whole(Duration::from_secs(60 + number)),
            ..RoutePolicy::default()
        };
        model.defaults = policy.clone();
        if number % 2 == 0 {
            let entry =
                Upstream { protocol: pillion::base::Protocol::Auto, listen: None, policy, origin: None };
            model.upstreams.insert(UpstreamName::new("users"), entry);
        }
        if number % 7 == 0 {
            model.limits.header_bytes = 32 << 10;
        }
        models.blocking_send(Arc::new(model)).expect("the sidecar takes models");
    }
    sidecar.metric_is("pillion_config_version", &[], 1_001.0);
    load.more(100);
    let (answered, failed) = load.end();
    assert!(failed.is_empty(), "{} of {answered} failed: {failed:#?}", failed.len());
}

#[test]
fn a_reload_changes_what_the_next_request_meets() {
    let _turn = beside_others();
    let (old, new) = (Recorder::start(), Recorder::start());
    let (models, reloads) = tokio::sync::mpsc::channel(1);
    let setup = sidecar("front").upstream("users", old.address());
    let next = sidecar("front").upstream("users", new.address()).finished_model();
    let running = setup.options(|options| options.reloads = Some(reloads)).start();
    let mut client = Client::connect(running.at.outbound);
    assert_eq!(client.get("users", "/").status, 200);
    assert_eq!(old.take().len(), 1);
    models.blocking_send(Arc::new(next)).unwrap();
    until("the same connection reaches the new endpoint", || {
        client.get("users", "/");
        !new.take().is_empty()
    });
}

#[test]
fn of_a_killed_endpoint_only_requests_at_hand_fail() {
    let _turn = beside_others();
    let (stays, dies) = (Recorder::answering(echo_path), Recorder::answering(echo_path));
    let sidecar =
        sidecar("front").upstream("users", stays.address()).upstream("users", dies.address()).start();
    const CALLERS: usize = 8;
    let load = Load::start(CALLERS, sidecar.at.outbound);
    until("both serve", || !stays.take().is_empty() && !dies.take().is_empty());
    drop(dies.end());
    load.more(1_000);
    let (answered, failed) = load.end();
    // Each caller had one request at hand at most.
    assert!(failed.len() <= CALLERS, "{} of {answered} failed: {failed:#?}", failed.len());
    for failure in &failed {
        assert!(failure.contains("reset_"), "failed though it was not sent: {failure}");
    }
    let metrics = sidecar.metrics();
    let refused = metrics.get("pillion_errors_total", &[("reason", "connect_refused")]);
    assert_eq!(refused, 0.0, "{}", metrics.show("pillion_errors_total"));
    assert_eq!(call(sidecar.at.outbound, "POST /x HTTP/1.1\r\nHost: users\r\n\r\n").status, 200);
}
