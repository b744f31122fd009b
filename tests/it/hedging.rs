//! Another attempt beside one that is slow.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pillion::config::model::{After, Balance, Hedge, HedgeIf, Retry};

use crate::grpc::peer::{Peer, Rules};
use crate::policy::routed;
use crate::retries::answer;
use crate::support::h2peer::{H2Backend, H2Client};
use crate::support::sidecar::Setup;
use crate::support::{Client, Recorder, beside_others, call, get, until};

const SLOW: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(60);

fn answering(after: Duration) -> Recorder {
    Recorder::answering(move |_| {
        std::thread::sleep(after);
        answer(200, "")
    })
}

/// Two endpoints in turn.
fn between(first: SocketAddr, second: SocketAddr, hedge: Hedge) -> Setup {
    let setup = routed(first, |policy| {
        policy.balance = Balance::RoundRobin;
        policy.hedge = Some(hedge);
    });
    setup.upstream("users", second)
}

fn fixed() -> Hedge {
    Hedge { after: After::Time(PATIENCE), ..Hedge::default() }
}

#[test]
fn a_slow_endpoint_is_not_waited_for_and_hears_of_it() {
    let _turn = beside_others();
    let (slow, quick) = (answering(SLOW), answering(Duration::ZERO));
    let sidecar = between(slow.address(), quick.address(), fixed()).start();
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
        assert!(began.elapsed() < SLOW / 2, "{:?}", began.elapsed());
    }
    let metrics = sidecar.metrics();
    let won = metrics.get("pillion_hedges_total", &[("result", "won")]);
    assert!(won >= 1.0, "{}", metrics.show("pillion_hedges_total"));
    assert_eq!(metrics.get("pillion_errors_total", &[]), 0.0);
    assert_eq!(metrics.get("pillion_ejections_total", &[]), 0.0);
    until("the connections of those that lost are closed", || slow.open() == 0);
    assert!(quick.open() > 0, "those of the others are kept");
}

#[test]
fn most_calls_say_what_slow_is() {
    let _turn = beside_others();
    let count = std::sync::atomic::AtomicUsize::new(0);
    let uneven = Recorder::answering(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if number >= 40 && number.is_multiple_of(20) {
            std::thread::sleep(SLOW);
        }
        answer(200, "")
    });
    let quick = answering(Duration::ZERO);
    let sidecar = between(uneven.address(), quick.address(), Hedge::default()).start();
    let mut client = Client::connect(sidecar.at.outbound);
    let slowest = (0..200).map(|number| {
        let began = Instant::now();
        assert_eq!(client.get("users", &format!("/{number}")).status, 200);
        began.elapsed()
    });
    let slowest = slowest.max().unwrap();
    assert!(slowest < SLOW / 2, "{slowest:?}");
    assert!(sidecar.metrics().get("pillion_hedges_total", &[("result", "won")]) >= 1.0);
}

#[test]
fn what_writes_is_sent_once_unless_the_policy_says_otherwise() {
    let _turn = beside_others();
    let both = [answering(PATIENCE * 4), answering(PATIENCE * 4)];
    for (only_if, method, sent) in
        [(HedgeIf::Safe, "POST", 1), (HedgeIf::Safe, "PUT", 1), (HedgeIf::Always, "POST", 2)]
    {
        let sidecar = between(both[0].address(), both[1].address(), Hedge { only_if, ..fixed() }).start();
        let raw = format!("{method} / HTTP/1.1\r\nHost: users\r\nContent-Length: 2\r\n\r\nhi");
        let answer = call(sidecar.at.outbound, raw);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("pillion-attempts"), (sent > 1).then(|| sent.to_string()));
        let seen: Vec<_> = both.iter().flat_map(Recorder::take).collect();
        // Whoever lost may still be heard of.
        assert!((1..=sent).contains(&seen.len()) && seen.iter().all(|request| request.body == b"hi"));
    }
}

#[test]
fn hedges_stay_within_the_budget() {
    let _turn = beside_others();
    let both = [answering(PATIENCE * 2), answering(PATIENCE * 2)];
    let hedge = Hedge { max: 2, ..fixed() };
    let sidecar = between(both[0].address(), both[1].address(), hedge).start();
    let calls = 160;
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| (0..calls / 16).for_each(|_| drop(get(sidecar.at.outbound, "users", "/"))));
        }
    });
    let metrics = sidecar.metrics();
    let result = |result| metrics.get("pillion_hedges_total", &[("result", result)]);
    let sent = result("won") + result("lost");
    assert!(
        (1.0..=32.0).contains(&sent) && result("budget") > 0.0,
        "{}",
        metrics.show("pillion_hedges_total")
    );
}

#[test]
fn a_bad_answer_waits_for_the_attempt_beside_it() {
    let _turn = beside_others();
    let bad = Recorder::answering(|_| {
        std::thread::sleep(PATIENCE * 2);
        answer(503, "")
    });
    let good = answering(PATIENCE * 4);
    let sidecar = between(bad.address(), good.address(), fixed())
        .with(|model| model.outbound[0].policy.retry = Some(Retry { max: 0, ..Retry::default() }))
        .start();
    for _ in 0..4 {
        assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    }
    assert!(!bad.take().is_empty());
}

#[test]
fn one_endpoint_alone_is_asked_once() {
    let _turn = beside_others();
    let slow = answering(PATIENCE * 3);
    let sidecar = routed(slow.address(), |policy| policy.hedge = Some(fixed())).start();
    assert_eq!(get(sidecar.at.outbound, "users", "/").status, 200);
    assert_eq!(slow.take().len(), 1);
}

#[test]
fn a_stream_of_http2_that_lost_is_reset() {
    let _turn = beside_others();
    let (tell, told) = std::sync::mpsc::channel();
    let silent = Peer::start(Rules::default(), move || {
        move |_, mut respond: h2::server::SendResponse<bytes::Bytes>| {
            let tell = tell.clone();
            Box::pin(async move {
                let ended = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                // The test may be over.
                let _ = tell.send(ended.ok());
            })
        }
    });
    let good = H2Backend::start();
    let sidecar = between(silent.address, good.address(), fixed()).start();
    let client = H2Client::connect(sidecar.at.outbound);
    for _ in 0..2 {
        assert_eq!(client.get("http://users/").status(), 200);
    }
    assert_eq!(told.recv_timeout(SLOW * 5).unwrap(), Some(h2::Reason::CANCEL));
    // A hedge takes a turn too, so both calls may have begun at the silent one.
    let won = || sidecar.metrics().get("pillion_hedges_total", &[("result", "won")]);
    until("the hedge is counted", || won() >= 1.0);
}
