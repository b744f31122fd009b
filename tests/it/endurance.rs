//! What must hold for long or under load.

use std::sync::Arc;
use std::time::Duration;

use pillion::base::UpstreamName;
use pillion::config::model::{RoutePolicy, Timeout, Upstream};

use crate::support::backend::echo_path;
use crate::support::load::Tally;
use crate::support::{Client, Load, Recorder, beside_others, call, get, sidecar, until};

#[test]
fn a_drain_under_load_fails_no_request() {
    let _turn = beside_others();
    let backend = Recorder::answering(echo_path);
    let sidecar = sidecar("front")
        .upstream("users", backend.address())
        .with(|model| model.drain.delay = Duration::from_millis(500))
        .start();
    let load = Load::new().http1(8, sidecar.at.outbound, "users").running();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all_done = runtime.block_on(sidecar.app().drain());
    assert!(all_done, "something was left when the drain was over");
    load.end().none_failed();
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
    let load = Load::new().http1(4, sidecar.at.outbound, "users").running();
    for number in 1..=1_000_u64 {
        let mut model = first.clone();
        let policy = RoutePolicy {
            timeout: Timeout::Whole(Duration::from_secs(60 + number)),
            ..RoutePolicy::default()
        };
        model.defaults = policy.clone();
        if number % 2 == 0 {
            let entry = Upstream {
                protocol: pillion::base::Protocol::Auto,
                listen: None,
                policy,
                ..Upstream::default()
            };
            model.upstreams.insert(UpstreamName::new("users"), entry);
        }
        if number % 7 == 0 {
            model.limits.header_bytes = 32 << 10;
        }
        models.blocking_send(Arc::new(model)).expect("the sidecar takes models");
    }
    sidecar.metric_is("pillion_config_version", &[], 1_001.0);
    load.more(100);
    load.end().none_failed();
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
    let load = Load::new().http1(CALLERS, sidecar.at.outbound, "users").running();
    until("both serve", || !stays.take().is_empty() && !dies.take().is_empty());
    drop(dies.end());
    load.more(1_000);
    let Tally { answered, failed, .. } = load.end();
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
