//! Limits that three sidecars share, decided by Envoy's own rate-limit service,
//! which counts in a real Redis.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion::config::{Environment, load_str};

use crate::rate_limits::{Offer, mean, waited_over};
use crate::server::Server;
use crate::support::{Recorder, Sidecar, get, sidecar, until};

const RULES: &str = "
domain: shop
descriptors:
  - {key: api, value: orders, rate_limit: {unit: second, requests_per_unit: 1000}}
  - {key: user, rate_limit: {unit: hour, requests_per_unit: 3}}
";

/// The service, and the Redis in which it counts.
fn service() -> (Server, Server) {
    let redis = Server::start("redis", &[]);
    let options = [format!("--redis={}", redis.at), format!("--rules={RULES}")];
    (Server::start("ratelimit", &[&options[0], &options[1]]), redis)
}

fn fleet(count: usize, service: &Server, timeout: &str, backend: &Recorder, limit: &str) -> Vec<Sidecar> {
    let text = format!(
        "version: 1
service: {{name: orders, port: 1}}
rate_limits: {{service: {{address: '{}', domain: shop, timeout: {timeout}}}}}
inbound: [{{rate_limit: {limit}}}]
",
        service.at
    );
    let model = load_str("f", &text, &Environment::default()).unwrap_or_else(|error| panic!("{error}")).model;
    let one = |_| {
        let setup = sidecar("orders").service(backend.address()).with(|into| {
            into.workers = 1;
            into.inbound_defaults = model.inbound_defaults.clone();
            into.rate_service = model.rate_service.clone();
        });
        setup.start()
    };
    let fleet: Vec<Sidecar> = (0..count).map(one).collect();
    for index in 0..count {
        // Until then it decides by itself.
        until("the service is reached", || {
            get(fleet[index].at.inbound, "orders", "/");
            asked(&fleet[index..=index], "answered") > 0.0
        });
    }
    fleet
}

fn asked(fleet: &[Sidecar], result: &str) -> f64 {
    let labels = [("result", result)];
    fleet.iter().map(|sidecar| sidecar.metrics().get("pillion_rate_limit_service_total", &labels)).sum()
}

const WAIT: &str = "pillion_rate_limit_service_wait_seconds";
const SHARED: &str = "{rate: 1000/s, burst: 100, fallback: 33.4%, descriptor: [{key: api, value: orders}]}";

/// In a second with fewer calls nothing is learned: callers must want more than
/// may pass for the whole of it, and here they may have to wait for a processor.
const ENOUGH: usize = 1050;

/// `PILLION_TEST_LASTS` of measurement, or 6: seconds of the clock, as the
/// service counts them.
#[test]
fn three_sidecars_share_a_thousand_a_second_by_envoys_service() {
    let (service, _redis) = service();
    let backend = Recorder::start();
    let fleet = fleet(3, &service, "250ms", &backend, SHARED);
    let seconds = std::env::var("PILLION_TEST_LASTS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(6).min(60);
    #[allow(clippy::disallowed_methods, reason = "the service counts by the wall clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    std::thread::sleep(Duration::from_nanos(1_000_000_000 - u64::from(since.subsec_nanos())));
    let offer = Offer::to(&fleet, Duration::from_millis(3));
    let (mut passed, mut thin) = (Vec::new(), Vec::new());
    while passed.len() < seconds {
        let (made, one) = offer.watch_both(1)[0];
        if made >= ENOUGH {
            passed.push(one);
        } else {
            thin.push((made, one));
        }
        assert!(thin.len() < 120, "the callers get no processor: {thin:?}");
    }
    offer.end();
    println!(
        "{passed:?}, {} answered, {} late; with too few calls: {thin:?}",
        asked(&fleet, "answered"),
        asked(&fleet, "late")
    );
    assert!((970..=1030).contains(&mean(&passed)), "{passed:?}");
    assert!(thin.iter().all(|(_, passed)| *passed <= 1100), "{thin:?}");
}

#[test]
fn nobody_waits_for_a_service_that_hangs_or_has_gone() {
    let (mut service, _redis) = service();
    let backend = Recorder::start();
    let fleet = fleet(3, &service, "50ms", &backend, SHARED);
    let offer = Offer::to(&fleet, Duration::from_millis(4));
    offer.watch(1);
    let (frozen, late) = (service.frozen(), asked(&fleet, "late"));
    offer.watch(1);
    let passed = offer.watch(4);
    let vain = asked(&fleet, "late") - late;
    println!("hanging: {passed:?}, {vain} calls waited in vain");
    assert!((940..=1060).contains(&mean(&passed)), "a third each: {passed:?}");
    assert!((1.0..40.0).contains(&vain), "{vain} calls waited before nobody asked any more");
    let answered = asked(&fleet, "answered");
    drop(frozen);
    until("the service is used again", || asked(&fleet, "answered") > answered + 1000.0);
    service.kill();
    let (gone, failed) = (asked(&fleet, "gone"), asked(&fleet, "failed"));
    offer.watch(1);
    let passed = offer.watch(3);
    println!("gone: {passed:?}, {} failed", asked(&fleet, "failed") - failed);
    assert!((940..=1060).contains(&mean(&passed)), "a third each: {passed:?}");
    assert!(asked(&fleet, "gone") - gone > 3000.0);
    let answered = asked(&fleet, "answered");
    service.again();
    until("it is found again", || asked(&fleet, "answered") > answered + 1000.0);
    offer.end();
    // A little beyond the timeout: a worker may have to wait for a processor.
    let waited = waited_over(&fleet, WAIT, "0.075");
    println!("{waited} calls waited longer than 75 ms");
    assert_eq!(waited, 0.0);
}

#[test]
fn what_the_service_says_is_what_callers_are_told() {
    let (service, _redis) = service();
    let backend = Recorder::start();
    let limit = "{name: user, rate: 3/h, headers: all, descriptor: [{key: user, header: x-user}]}";
    let fleet = fleet_of_one(&service, &backend, limit);
    let raw = "GET / HTTP/1.1\r\nHost: orders\r\nX-User: alice\r\n\r\n";
    let mut left = Vec::new();
    loop {
        let answer = crate::support::call(fleet.at.inbound, raw);
        assert_eq!(answer.field("ratelimit-policy").as_deref(), Some("\"user\";q=3;w=3600"), "{answer:?}");
        assert!(answer.field("ratelimit-limit").is_some(), "the service's own fields: {answer:?}");
        if answer.status == 429 {
            let after: u64 = answer.field("retry-after").unwrap().parse().unwrap();
            assert!((1..=3600).contains(&after));
            break;
        }
        left.push(answer.field("ratelimit").unwrap().split(';').nth(1).unwrap().to_owned());
    }
    assert_eq!(left, ["r=2", "r=1", "r=0"]);
    assert_eq!(get(fleet.at.inbound, "orders", "/").status, 200, "nothing is asked without the header");
}

fn fleet_of_one(service: &Server, backend: &Recorder, limit: &str) -> Sidecar {
    let both = format!("[{limit}, {{name: other, rate: 1/s, descriptor: [{{key: other, value: a}}]}}]");
    fleet(1, service, "1s", backend, &both).remove(0)
}
