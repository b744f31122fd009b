//! Servers that can be made to fail and to heal.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use pillion::base::UpstreamName;
use pillion::config::model::{Balance, Ejection, Fitness, Locality, RoutePolicy, Timeout};

use crate::support::sidecar::Setup;
use crate::support::wire::Wire;
use crate::support::{Server, get, request, sidecar};

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Says503,
    Closes,
    Hangs,
}

const MOODS: [Mood; 4] = [Mood::Well, Mood::Says503, Mood::Closes, Mood::Hangs];

/// Longer than a hanging server lets wait.
pub const PATIENT: Duration = Duration::from_millis(150);

pub struct Faulty {
    server: Server,
    mood: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn start() -> Self {
        let (mood, calls): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let (now, count) = (mood.clone(), calls.clone());
        let server = Server::start(move |number, stream| serve(number, &stream, &now, &count));
        Self { server, mood, calls }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn is(&self, mood: Mood) {
        self.mood.store(MOODS.iter().position(|one| *one == mood).unwrap(), SeqCst);
    }

    /// Calls since the last question.
    pub fn take(&self) -> usize {
        self.calls.swap(0, SeqCst)
    }
}

fn serve(number: usize, mut stream: &TcpStream, mood: &AtomicUsize, calls: &AtomicUsize) {
    let mut wire = Wire::new(stream);
    while let Some(request) = request::read(&mut wire, number) {
        if request.target.starts_with("/call") {
            calls.fetch_add(1, SeqCst);
        }
        let is = || MOODS[mood.load(SeqCst)];
        while is() == Mood::Hangs {
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = match is() {
            Mood::Closes => return,
            Mood::Says503 => "503 No",
            _ => "200 OK",
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.is(Mood::Well);
    }
}

/// A sidecar before `servers`, of which each takes its turn.
pub fn before(servers: &[Faulty], fitness: Fitness) -> Setup {
    let mut setup = sidecar("front");
    for server in servers {
        setup = setup.upstream("users", server.address());
    }
    setup.with(|model| {
        model.service.locality = Locality { region: None, zone: Some("a".into()) };
        let policy = RoutePolicy {
            balance: Balance::RoundRobin,
            timeout: Timeout::Head(PATIENT),
            ..RoutePolicy::default()
        };
        let block = model.upstreams.entry(UpstreamName::new("users")).or_default();
        (block.fitness, block.policy) = (fitness, policy);
    })
}

/// Quick to eject and quick to forgive.
pub fn quick() -> Ejection {
    Ejection {
        consecutive_failures: 3,
        gateway_errors: 3,
        time: (Duration::from_millis(600), Duration::from_secs(2)),
        ..Ejection::default()
    }
}

/// Calls so many times; how often each status came.
pub fn call(outbound: SocketAddr, times: usize) -> std::collections::BTreeMap<u16, usize> {
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..times {
        *seen.entry(get(outbound, "users", "/call").status).or_default() += 1;
    }
    seen
}

/// The endpoints of `users` on /clusters.
fn shown(admin: SocketAddr) -> Vec<serde_json::Value> {
    let answer = get(admin, &admin.to_string(), "/clusters");
    let clusters: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    let users = clusters["upstreams"].as_array().unwrap().iter().find(|one| one["upstream"] == "users");
    users.and_then(|users| users["endpoints"].as_array()).cloned().unwrap_or_default()
}

/// Requests of `server` that failed.
pub fn failures(admin: SocketAddr, server: &Faulty) -> u64 {
    let address = server.address().to_string();
    let one = shown(admin).into_iter().find(|one| one["address"] == address).expect("the endpoint is shown");
    one["failures"].as_u64().unwrap_or_default()
}

/// The state of each endpoint on /clusters.
pub fn states(admin: SocketAddr) -> Vec<(SocketAddr, String, String)> {
    let endpoints = shown(admin);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    endpoints
        .iter()
        .map(|one| (text(&one["address"]).parse().unwrap(), text(&one["state"]), text(&one["why"])))
        .collect()
}

pub fn state(admin: SocketAddr, server: &Faulty) -> (String, String) {
    let all = states(admin);
    let found = all.into_iter().find(|(address, ..)| *address == server.address());
    let (_, state, why) = found.expect("the endpoint is shown");
    (state, why)
}
