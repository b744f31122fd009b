//! Limits that three sidecars share, counted by a real Redis.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pillion::base::Origin;
use pillion::config::model::{KEYS, Per, Place, Quota, Rate, RateHeaders, RateLimit, RateServer, Shared};

use crate::server::Server;
use crate::support::{Client, Recorder, Sidecar, get, sidecar, until};

/// Longest measurement, in seconds.
const MOST: usize = 600;

fn limit(count: u32, burst: u32, period: Duration) -> RateLimit {
    let number = |number| NonZeroU32::new(number).unwrap();
    RateLimit {
        name: "all".into(),
        quota: Quota {
            rate: Rate { count: number(count), period },
            burst: number(burst),
            per: Per::All,
            keys: KEYS,
        },
        shadow: false,
        headers: RateHeaders::All,
        shared: Some(Shared { name: "calls".into(), fallback: None }),
        service: None,
        place: Arc::new(Place { gateway: None, to: None, route: "".into(), conditions: "".into() }),
        origin: Origin { file: "orders.yaml".into(), line: 3, column: 5 },
    }
}

/// Sidecars of one service that count in the Redis at `redis`.
fn fleet(
    count: usize,
    redis: SocketAddr,
    timeout: Duration,
    backend: SocketAddr,
    limit: &RateLimit,
) -> Vec<Sidecar> {
    let server = RateServer { address: format!("redis://{redis}").into(), timeout, prefix: "test".into() };
    let one = |_| {
        let setup = sidecar("orders").service(backend).with(|model| {
            model.workers = 1;
            model.rate_server = Some(server.clone());
            model.inbound_defaults.rate_limits = vec![limit.clone()];
        });
        setup.start()
    };
    (0..count).map(one).collect()
}

fn asked(fleet: &[Sidecar], result: &str) -> f64 {
    let labels = [("shared", "calls"), ("result", result)];
    fleet.iter().map(|sidecar| sidecar.metrics().get("pillion_rate_limit_shared_total", &labels)).sum()
}

/// Callers at an even pace, how many calls they made in each second, and how many of them passed.
pub struct Offer {
    begun: Instant,
    counts: Arc<Vec<[AtomicUsize; 2]>>,
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
}

impl Offer {
    /// Two callers for each sidecar, each with a call every `pause`.
    pub fn to(fleet: &[Sidecar], pause: Duration) -> Self {
        let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let counts: Arc<Vec<[AtomicUsize; 2]>> = Arc::new((0..MOST).map(|_| Default::default()).collect());
        let addresses = fleet.iter().flat_map(|sidecar| [sidecar.at.inbound; 2]);
        let (all, stopped) = (counts.clone(), stop.clone());
        let callers = addresses.map(|address| {
            let (counts, stop) = (all.clone(), stopped.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut next = Instant::now();
                while !stop.load(Ordering::SeqCst) {
                    let status = client.get("orders", "/").status;
                    assert!(matches!(status, 200 | 429), "{status}");
                    let second = begun.elapsed().as_secs() as usize;
                    counts[second][0].fetch_add(1, Ordering::SeqCst);
                    counts[second][1].fetch_add(usize::from(status == 200), Ordering::SeqCst);
                    next += pause;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            })
        });
        let callers = callers.collect();
        Self { begun, counts, stop, callers }
    }

    /// Waits for `seconds` whole ones, and says how many calls passed in each.
    pub fn watch(&self, seconds: usize) -> Vec<usize> {
        self.watch_both(seconds).into_iter().map(|(_, passed)| passed).collect()
    }

    /// The same, after how many were made.
    pub fn watch_both(&self, seconds: usize) -> Vec<(usize, usize)> {
        let first = self.begun.elapsed().as_secs() as usize + 1;
        let end = Duration::from_secs((first + seconds) as u64);
        std::thread::sleep(end.saturating_sub(self.begun.elapsed()));
        let load = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        self.counts[first..first + seconds].iter().map(|[made, passed]| (load(made), load(passed))).collect()
    }

    pub fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.callers.into_iter().for_each(|caller| caller.join().unwrap());
    }
}

const WAIT: &str = "pillion_rate_limit_shared_wait_seconds";

/// Calls that waited longer than the bucket `most` of the histogram `name`.
pub fn waited_over(fleet: &[Sidecar], name: &str, most: &str) -> f64 {
    let over = |sidecar: &Sidecar| {
        let metrics = sidecar.metrics();
        metrics.get(&format!("{name}_count"), &[]) - metrics.get(&format!("{name}_bucket"), &[("le", most)])
    };
    fleet.iter().map(over).sum()
}

/// Calls that waited for Redis longer than they may.
fn too_long(fleet: &[Sidecar]) -> f64 {
    waited_over(fleet, WAIT, "0.005")
}

/// Three sidecars that share 1,000 a second, of which each has reached Redis, and
/// 1,500 calls a second to them.
fn busy(redis: &Server, backend: &Recorder, timeout: Duration) -> (Vec<Sidecar>, Offer) {
    let limit = limit(1000, 100, Duration::from_secs(1));
    let fleet = fleet(3, redis.at, timeout, backend.address(), &limit);
    for index in 0..3 {
        until("Redis is reached", || {
            get(fleet[index].at.inbound, "orders", "/");
            asked(&fleet[index..=index], "answered") > 0.0
        });
    }
    let offer = Offer::to(&fleet, Duration::from_millis(4));
    offer.watch(1);
    (fleet, offer)
}

pub fn mean(passed: &[usize]) -> usize {
    passed.iter().sum::<usize>() / passed.len()
}

/// `PILLION_TEST_LASTS` of measurement, or 6.
#[test]
fn three_sidecars_share_a_thousand_a_second() {
    let (redis, backend) = (Server::start("redis", &[]), Recorder::start());
    // Redis and the sidecars may have to wait for a processor here.
    let (fleet, offer) = busy(&redis, &backend, Duration::from_millis(250));
    let seconds = std::env::var("PILLION_TEST_LASTS").ok().and_then(|text| text.parse().ok());
    let passed = offer.watch(seconds.unwrap_or(6).min(60));
    offer.end();
    println!("{passed:?}, {} answered, {} late", asked(&fleet, "answered"), asked(&fleet, "late"));
    assert!((970..=1030).contains(&mean(&passed)), "{passed:?}");
    assert!(passed.iter().all(|count| (850..=1150).contains(count)), "{passed:?}");
}

/// That calls wait for 5 ms at most is held with `PILLION_TEST_LASTS`, which says
/// that no other test runs beside this one.
#[test]
fn nobody_waits_for_a_redis_that_hangs_or_is_gone_and_each_sidecar_lets_its_part_pass() {
    let alone = std::env::var_os("PILLION_TEST_LASTS").is_some();
    let (mut redis, backend) = (Server::start("redis", &[]), Recorder::start());
    let (fleet, offer) = busy(&redis, &backend, Duration::from_millis(5));
    // All three have been counted by then.
    offer.watch(4);
    let hangs = |seconds| {
        let (before, long) = (asked(&fleet, "late"), too_long(&fleet));
        let frozen = redis.frozen();
        let passed = offer.watch(seconds);
        let (vain, long) = (asked(&fleet, "late") - before, too_long(&fleet) - long);
        println!("without Redis: {passed:?}, {vain} calls waited in vain, {long} of them over 5 ms");
        assert!((1.0..30.0).contains(&vain), "{vain} calls waited before nobody asked any more");
        let answered = asked(&fleet, "answered");
        drop(frozen);
        until("Redis is used again", || asked(&fleet, "answered") > answered + 1000.0);
        (passed, long <= vain / 4.0)
    };
    let (passed, mut in_time) = hangs(5);
    assert!((940..=1060).contains(&mean(&passed)), "a third each: {passed:?}");
    // A worker that gets no processor can't look at its clock: beside other tests
    // that says nothing, and alone none waits longer at a quiet moment.
    if alone {
        for _ in 0..4 {
            in_time = in_time || hangs(1).1;
        }
        assert!(in_time, "calls waited over 5 ms each time");
    }
    assert_eq!(waited_over(&fleet, WAIT, "0.075"), 0.0, "a call waited over 75 ms");
    let mut passed = Vec::new();
    until("the rate is as it was", || {
        passed = offer.watch(2);
        (940..=1060).contains(&mean(&passed))
    });
    println!("again: {passed:?}");
    let (before, long) = (asked(&fleet, "late"), too_long(&fleet));
    redis.kill();
    let passed = offer.watch(4);
    let (vain, long) = (asked(&fleet, "late") - before, too_long(&fleet) - long);
    offer.end();
    println!("killed: {passed:?}, {vain} calls waited in vain, {long} over 5 ms");
    assert!((940..=1060).contains(&mean(&passed)), "a third each: {passed:?}");
    assert!(vain < 30.0, "{vain} waited in vain");
}

#[test]
fn what_redis_says_is_what_callers_are_told_and_a_lost_redis_is_found_again() {
    let mut redis = Server::start("redis", &[]);
    let backend = Recorder::start();
    let limit = limit(4, 4, Duration::from_secs(3600));
    let fleet = fleet(2, redis.at, Duration::from_millis(250), backend.address(), &limit);
    let call = |sidecar: usize| get(fleet[sidecar].at.inbound, "orders", "/");
    for sidecar in 0..2 {
        // Until then it counts for itself.
        until("Redis is reached", || {
            call(sidecar);
            asked(&fleet[sidecar..=sidecar], "answered") > 0.0
        });
    }
    until("the shared limit is used up for both", || {
        (0..2).all(|sidecar| {
            let answer = call(sidecar);
            assert_eq!(answer.field("ratelimit-policy").as_deref(), Some("\"all\";q=4;w=3600"));
            let after: u64 = answer.field("retry-after").map_or(0, |after| after.parse().unwrap());
            answer.status == 429 && (850..=900).contains(&after)
        })
    });
    let told = call(1).field("ratelimit").unwrap();
    let whole: u64 = told.strip_prefix("\"all\";r=0;t=").unwrap().parse().unwrap();
    assert!((3550..=3600).contains(&whole), "{told}");
    redis.kill();
    until("nobody asks any more", || {
        call(0);
        asked(&fleet[..1], "gone") > 20.0
    });
    redis.again();
    let answered = asked(&fleet[..1], "answered");
    until("it is asked again", || {
        call(0);
        asked(&fleet[..1], "answered") > answered + 5.0
    });
}
