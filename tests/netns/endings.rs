//! One of three endpoints ends, in six ways, under a steady load of calls that
//! may be sent again: no caller sees it, it is out of use within a second, and
//! it comes back once it is well.
//!
//! The sidecar is the program with the policy of docs/retries.md; the endpoints
//! are processes at addresses of their own.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::place::{IP, Place, Running, listens, must};
use super::support::{Client, until};

/// What a user sets: the rest is by default.
const POLICY: &str = "version: 1
outbound:
  - to: users
    timeout: 2s
    retry: {max: 2, per_try: 250ms, on: [connect, refused, reset, gateway, timeout]}
";
const SIDECAR: &str = "version: 1
service: {name: front, port: 9000}
workers: 2
discovery: [static: {users: ['127.0.0.1:8080', '127.0.0.2:8080', '127.0.0.3:8080']}]
drain: {delay: 0s}
";
const CALLERS: usize = 8;
/// How long a failure lasts: less than the endpoint is left out for.
const LASTS: Duration = Duration::from_millis(3500);

/// How many calls a test makes at least; at the full size they come quicker.
fn calls() -> usize {
    std::env::var("PILLION_TEST_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_500)
}

fn pause() -> Duration {
    Duration::from_millis(if calls() > 5_000 { 12 } else { 40 })
}

/// The namespace, three endpoints and a sidecar that calls them.
struct Scene {
    place: Place,
    endpoints: Vec<Running>,
    _sidecar: Running,
}

/// A call as its caller saw it.
#[derive(Debug)]
struct Seen {
    begun: Instant,
    took: Duration,
    status: u16,
    reason: Option<String>,
    again: bool,
    by: String,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new("");
        let folder = place.shared.folder.path().join(&place.name);
        std::fs::create_dir_all(folder.join("policies")).unwrap();
        std::fs::write(folder.join("pillion.yaml"), SIDECAR).unwrap();
        std::fs::write(folder.join("policies/users.yaml"), POLICY).unwrap();
        let endpoints = (1..=3).map(|number| endpoint(&place, number)).collect();
        let config = folder.join("pillion.yaml");
        let words = [place.shared.program.as_os_str(), "run".as_ref(), "-c".as_ref(), config.as_os_str()];
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut command = place.command(8700, &words);
        let sidecar = Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        listens(&place, "127.0.0.1:8701");
        Self { place, endpoints, _sidecar: sidecar }
    }

    /// Tells the third endpoint what to become.
    fn tell(&mut self, word: &str) {
        let pipe = self.endpoints[2].0.stdin.as_mut().unwrap();
        writeln!(pipe, "{word}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.endpoints[2].0), signal).unwrap();
    }

    /// `add` or `delete` what takes all packets to the third endpoint away.
    fn route(&self, word: &str) {
        let option = if word == "add" { "-A" } else { "-D" };
        let rule = ["iptables", "-w", option, "INPUT", "-d", "127.0.0.3", "-j", "DROP"];
        must(std::process::Command::new(&*IP).args(["netns", "exec", &self.place.name]).args(rule));
    }
}

fn endpoint(place: &Place, number: usize) -> Running {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/endings/endpoint.py");
    let (name, address) = (number.to_string(), format!("127.0.0.{number}"));
    let mut command = place.command(0, &["python3", script, &name, &address, "8080"]);
    let child = command.stdin(Stdio::piped()).spawn().unwrap();
    listens(place, &format!("{address}:8080"));
    Running(child)
}

/// How the third endpoint ends, and how it is well again.
type Change = fn(&mut Scene);

/// Calls at an even pace all the while; `fail` a second after the beginning,
/// `heal` a while later. What was seen, the moment of either, and how long after
/// `heal` the endpoint answered again.
fn through(fail: Change, heal: Change) -> (Vec<Seen>, Instant, Instant, Duration) {
    let mut scene = Scene::new();
    let seen: Mutex<Vec<Seen>> = Mutex::default();
    let (over, back) = (AtomicBool::new(false), AtomicBool::new(true));
    let made = AtomicUsize::new(0);
    let clients: Vec<Client> = (0..CALLERS)
        .map(|_| scene.place.inside(|| Client::connect(SocketAddr::from(([127, 0, 0, 1], 8701)))))
        .collect();
    let (failed, healed, again) = std::thread::scope(|scope| {
        for mut client in clients {
            let (seen, over, back, made) = (&seen, &over, &back, &made);
            scope.spawn(move || {
                let mut next = Instant::now();
                while !over.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let answer = client.get("users", "/v1/users/7");
                    let call = Seen {
                        begun,
                        took: begun.elapsed(),
                        status: answer.status,
                        reason: answer.reason(),
                        again: answer.field("pillion-attempts").is_some(),
                        by: answer.text(),
                    };
                    back.fetch_or(call.by == "3", Ordering::SeqCst);
                    seen.lock().unwrap().push(call);
                    made.fetch_add(1, Ordering::SeqCst);
                    next += pause();
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1200));
        fail(&mut scene);
        let failed = Instant::now();
        std::thread::sleep(LASTS);
        let healed = Instant::now();
        heal(&mut scene);
        back.store(false, Ordering::SeqCst);
        until("the endpoint answers again", || back.load(Ordering::SeqCst));
        let again = healed.elapsed();
        until("all calls are made", || made.load(Ordering::SeqCst) >= calls());
        over.store(true, Ordering::SeqCst);
        (failed, healed, again)
    });
    (seen.into_inner().unwrap(), failed, healed, again)
}

/// What must hold of all six.
#[track_caller]
fn nobody_sees(name: &str, fail: Change, heal: Change) {
    let (seen, failed, healed, again) = through(fail, heal);
    let bad: Vec<_> =
        seen.iter().filter(|call| call.status != 200).map(|call| (call.status, &call.reason)).collect();
    let retried = |from: Instant, to: Instant| {
        seen.iter().filter(|call| call.again && call.begun >= from && call.begun < to).count()
    };
    let at_once = retried(failed - Duration::from_secs(1), failed + Duration::from_secs(1));
    let later = retried(failed + Duration::from_secs(1), healed);
    let longest = seen.iter().map(|call| call.took).max().unwrap();
    println!(
        "{name}: {} calls, {} failed; retried {at_once} within a second, {later} in the {:.1} s after, {} in all; \
         the longest took {longest:?}; back after {again:?}",
        seen.len(),
        bad.len(),
        (LASTS - Duration::from_secs(1)).as_secs_f64(),
        seen.iter().filter(|call| call.again).count(),
    );
    assert!(bad.is_empty(), "{} of {} failed: {:#?}", bad.len(), seen.len(), &bad[..bad.len().min(5)]);
    assert!(seen.len() >= calls(), "{} calls", seen.len());
    // Its share is a third. Beside that a worker tries a refused connection again
    // now and then, one call each time.
    assert!(later <= 4, "{later} calls still came to it");
    // Left out for 5 s where it was ejected; else a call must come to it, which
    // takes until the average of its failures has faded.
    assert!(again < Duration::from_secs(20), "back after {again:?}");
    let before = seen.iter().filter(|call| call.begun < failed && call.by == "3").count();
    assert!(before > 10, "it took its share before: {before}");
}

#[test]
fn killed() {
    let fail = |scene: &mut Scene| scene.signal(Signal::KILL);
    nobody_sees("killed", fail, |scene| scene.endpoints[2] = endpoint(&scene.place, 3));
}

#[test]
fn stopped() {
    nobody_sees("stopped", |scene| scene.signal(Signal::STOP), |scene| scene.signal(Signal::CONT));
}

#[test]
fn a_dropped_route() {
    nobody_sees("a dropped route", |scene| scene.route("add"), |scene| scene.route("delete"));
}

#[test]
fn resets() {
    nobody_sees("resets", |scene| scene.tell("resets"), |scene| scene.tell("well"));
}

#[test]
fn refuses() {
    nobody_sees("refuses", |scene| scene.tell("refuses"), |scene| scene.tell("well"));
}

#[test]
fn two_seconds_late() {
    nobody_sees("two seconds late", |scene| scene.tell("slow"), |scene| scene.tell("well"));
}
