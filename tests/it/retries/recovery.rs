//! A service with little to spare fails whole, then by half, then not at all: it
//! is as before within five seconds, under the load that it had all the while.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pillion::base::UpstreamName;
use pillion::config::model::{Retry, RoutePolicy, Timeout, Upstream};

use super::amplification::seconds;
use super::answer;
use crate::support::{Client, Recorder, Sidecar, beside_others, sidecar};

const ENDPOINTS: usize = 4;
/// One call at one time, each for so long: 25 calls a second each.
const WORK: Duration = Duration::from_millis(40);
/// So many may wait at an endpoint; it answers 503 to more, as servers do.
const QUEUE: u32 = 12;
/// Callers, each with a call every so often: 90 calls a second in all.
const CALLERS: usize = 90;
const PAUSE: Duration = Duration::from_secs(1);
const SECONDS: usize = 120;

/// Answers one call after the other, or 503 at once.
struct Endpoint {
    server: Recorder,
    fails: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    fn start() -> Self {
        let (fails, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (now, count) = (fails.clone(), asked.clone());
        // When it has done all that it has taken so far.
        let done = Mutex::new(Instant::now());
        let server = Recorder::answering(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            if now.load(Ordering::SeqCst) {
                return answer(503, "");
            }
            let mine = {
                let (mut done, now) = (done.lock().unwrap(), Instant::now());
                if done.saturating_duration_since(now) > WORK * QUEUE {
                    return answer(503, "");
                }
                *done = (*done).max(now) + WORK;
                *done
            };
            std::thread::sleep(mine.saturating_duration_since(Instant::now()));
            answer(200, "")
        });
        Self { server, fails, asked }
    }
}

/// With two retries and what is on by default.
fn hop(name: &str, next: &[SocketAddr]) -> Sidecar {
    let retry = Retry { max: 2, ..Retry::default() };
    let policy = RoutePolicy {
        retry: Some(retry),
        timeout: Timeout::Whole(Duration::from_secs(1)),
        ..RoutePolicy::default()
    };
    let setup = next.iter().fold(sidecar(name), |setup, next| setup.upstream("users", *next));
    let setup = setup.with(|model| {
        model.workers = 1;
        let block = Upstream { policy, ..Upstream::default() };
        model.upstreams.insert(UpstreamName::new("users"), block);
    });
    setup.start()
}

/// How the calls of each second fared, by the second in which they began.
#[derive(Default)]
struct Second {
    calls: AtomicUsize,
    good: AtomicUsize,
}

/// Calls at an even pace, whatever becomes of them, until `over`.
fn load(at: SocketAddr, begun: Instant, seen: &[Second], over: &AtomicBool) {
    std::thread::scope(|scope| {
        for number in 0..CALLERS {
            scope.spawn(move || {
                let mut client = Client::connect(at);
                let mut next = begun + PAUSE * number as u32 / CALLERS as u32;
                loop {
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let second = &seen[begun.elapsed().as_secs() as usize];
                    second.calls.fetch_add(1, Ordering::SeqCst);
                    let status = client.get("users", "/").status;
                    second.good.fetch_add(usize::from(status == 200), Ordering::SeqCst);
                    next = (next + PAUSE).max(Instant::now());
                }
            });
        }
    });
}

/// Through `hops` sidecars in a row.
fn fails_and_recovers(hops: usize, most: f64) {
    let _turn = beside_others();
    let endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(|_| Endpoint::start()).collect();
    let mut next: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.server.address()).collect();
    let mut sidecars = Vec::new();
    for number in 0..hops {
        let sidecar = hop(&format!("hop-{number}"), &next);
        next = vec![sidecar.at.outbound];
        sidecars.push(sidecar);
    }
    let seen: Vec<Second> = (0..SECONDS).map(|_| Second::default()).collect();
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let fail = |from: usize, fails: bool| {
        endpoints[from..].iter().for_each(|endpoint| endpoint.fails.store(fails, Ordering::SeqCst));
    };
    let asked = || endpoints.iter().map(|endpoint| endpoint.asked.load(Ordering::SeqCst)).sum::<usize>();
    let until = |second: usize| {
        std::thread::sleep(Duration::from_secs(second as u64).saturating_sub(begun.elapsed()));
    };
    let lasts = seconds() as usize;
    let (all, half, well) = (3, 3 + lasts, 3 + 2 * lasts);
    std::thread::scope(|scope| {
        scope.spawn(|| load(next[0], begun, &seen, &over));
        until(all);
        fail(0, true);
        until(half);
        fail(0, false);
        fail(ENDPOINTS / 2, true);
        until(well);
        fail(0, false);
        until(well + 9);
        over.store(true, Ordering::SeqCst);
    });
    let calls = |range: std::ops::Range<usize>| {
        let sum = |of: fn(&Second) -> &AtomicUsize| {
            seen[range.clone()].iter().map(|one| of(one).load(Ordering::SeqCst)).sum::<usize>()
        };
        (sum(|one| &one.calls), sum(|one| &one.good))
    };
    let (made, attempts) = (calls(0..SECONDS).0, asked());
    let each: Vec<_> = (0..well + 9).map(|second| calls(second..second + 1)).collect();
    println!("{hops} sidecars: {attempts} attempts of {made} calls: {:.3}", attempts as f64 / made as f64);
    println!("calls and good ones of each second: {each:?}");
    assert!(attempts as f64 <= made as f64 * most, "{attempts} of {made}");
    let (before, good) = calls(1..all);
    assert!(good * 100 >= before * 97, "well at the beginning: {good} of {before}");
    let (after, good) = calls(well + 5..well + 9);
    assert!(after >= CALLERS * 4 * 9 / 10, "the load is as it was: {after}");
    assert!(good * 100 >= after * 97, "well again five seconds after: {good} of {after}");
}

#[test]
fn a_service_at_nine_tenths_is_itself_again_five_seconds_after_it_failed() {
    fails_and_recovers(1, 1.2);
}

#[test]
fn and_so_it_is_behind_three_sidecars() {
    fails_and_recovers(3, 1.75);
}
