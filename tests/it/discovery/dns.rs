//! DNS under a load of calls: whatever the server does, no call to an instance
//! that is well fails.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use pillion::base::UpstreamName;
use pillion::base::directory::MAX_UPSTREAMS;
use pillion::config::model::{self, Source, WhenEmpty};

use super::{on_one_port, shown};
use crate::support::dns::{Dns, Mood, alias, record, service};
use crate::support::{
    Client, Load, Recorder, Sidecar, alone, beside_others, get, process, resident, sidecar, until,
};

const NAME: &str = "users.test.";

/// A sidecar that asks `dns` alone.
fn front(dns: &Dns, edit: impl FnOnce(&mut model::Dns)) -> Sidecar {
    let mut source = model::Dns {
        servers: vec![dns.at],
        min_ttl: Duration::from_millis(100),
        timeout: Duration::from_millis(150),
        ..model::Dns::default()
    };
    edit(&mut source);
    sidecar("front").with(|model| model.discovery.push(Source::Dns(source))).start()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// For as long as a test runs: the harness wants static names.
fn host(port: u16) -> &'static str {
    Box::leak(format!("users.test:{port}").into_boxed_str())
}

fn says(front: &Sidecar, host: &str) -> String {
    let upstream = shown(front.at.admin, host);
    upstream["chain"][0]["said"].as_str().unwrap_or_default().to_owned()
}

fn called(server: &Recorder) -> bool {
    !server.take().is_empty()
}

/// Waits until calls go to each server exactly as `wanted` says.
#[track_caller]
fn goes_to(load: &Load, servers: &[Recorder], wanted: &[bool]) {
    until(&format!("the calls go to {wanted:?}"), || {
        servers.iter().for_each(|server| drop(server.take()));
        load.more(60);
        servers.iter().map(called).collect::<Vec<_>>() == wanted
    });
}

#[test]
fn whatever_the_server_does_no_call_fails_and_no_lie_is_believed() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let host = host(port);
    let mut dns = Dns::start();
    dns.lie("127.0.0.4");
    dns.addresses(NAME, 0, &ips(&["127.0.0.2"]));
    let front = front(&dns, |_| {});
    let load = Load::new().http1(2, front.at.outbound, host).running();
    goes_to(&load, &servers, &[true, false, false]);
    dns.addresses(NAME, 0, &ips(&["127.0.0.2", "127.0.0.3"]));
    goes_to(&load, &servers, &[true, true, false]);
    dns.addresses(NAME, 0, &ips(&["127.0.0.3"]));
    goes_to(&load, &servers, &[false, true, false]);

    let bad = [
        (Mood::ServFail, "failed"),
        (Mood::Refused, "failed"),
        (Mood::Silent, "failed"),
        (Mood::Late(Duration::from_millis(400)), "failed"),
        (Mood::NoSuchName, "unknown"),
        (Mood::NoData, "empty"),
        (Mood::TruncatesForNobody, "failed"),
        (Mood::WrongId, "failed"),
        (Mood::WrongPort, "failed"),
        (Mood::WrongName, "failed"),
        (Mood::Loop, "empty"),
        (Mood::Garbage, "failed"),
    ];
    for (mood, said) in bad {
        dns.mood(mood);
        until(&format!("{mood:?} is seen: {}", says(&front, host)), || says(&front, host) == said);
        load.more(60);
        let kept = shown(front.at.admin, host);
        assert_eq!((&kept["kept"], &kept["source"]), (&said.into(), &"dns".into()), "{mood:?}");
        dns.mood(Mood::Honest);
        until(&format!("{mood:?} has passed"), || says(&front, host) == "found");
    }
    dns.fall();
    until("a server that is down is seen", || says(&front, host) == "failed");
    load.more(200);
    dns.rise();
    dns.addresses(NAME, 0, &ips(&["127.0.0.2", "127.0.0.3"]));
    goes_to(&load, &servers, &[true, true, false]);
    for mood in [Mood::OtherCase, Mood::Truncates] {
        dns.mood(mood);
        dns.more(NAME, 3);
        until(&format!("{mood:?} is understood"), || says(&front, host) == "found");
    }
    dns.mood(Mood::Honest);
    load.end().none_failed();
    assert!(!called(&servers[2]), "nobody calls what a false answer named");
    assert!(dns.asked(NAME, RecordType::A).1 > 0, "truncated answers are asked for over TCP");
    front.end();
}

#[test]
fn an_answer_that_names_nothing_is_believed_in_the_end() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2"]);
    let (host, dns) = (host(port), Dns::start());
    dns.addresses(NAME, 0, &ips(&["127.0.0.2"]));
    let front = front(&dns, |dns| dns.when_empty = WhenEmpty::Keep(Duration::from_secs(2)));
    assert_eq!(get(front.at.outbound, host, "/").status, 200);
    let mut at_hand = Client::connect(front.at.outbound);
    at_hand.send(format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nab"));
    dns.mood(Mood::NoSuchName);
    let gone = Instant::now();
    until("calls are refused", || {
        let answer = get(front.at.outbound, host, "/");
        answer.status != 200 && answer.reason().as_deref() == Some("unknown_upstream")
    });
    let kept = gone.elapsed();
    assert!(kept > Duration::from_millis(1900) && kept < Duration::from_secs(4), "{kept:?}");
    at_hand.send("cd");
    assert_eq!(at_hand.read("POST").status, 200, "what is at hand ends well");
    front.metric_is("pillion_endpoints_in_use", &[("upstream", host)], 0.0);
    dns.mood(Mood::Honest);
    until("it is found again", || get(front.at.outbound, host, "/").status == 200);
    drop(servers);
    front.end();
}

#[test]
fn times_to_live_that_lie_make_neither_a_storm_nor_a_sleeper() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2", "127.0.0.3"]);
    let (host, dns) = (host(port), Dns::start());
    let both = |ttl: [u32; 2]| {
        let ips = ips(&["127.0.0.2", "127.0.0.3"]);
        let records = ips.iter().zip(ttl).map(|(ip, ttl)| record(NAME, ttl, (*ip).into()));
        dns.set(NAME, RecordType::A, records.collect());
    };
    dns.addresses(NAME, 0, &ips(&["127.0.0.2"]));
    let front = front(&dns, |dns| {
        dns.min_ttl = Duration::from_millis(200);
        dns.max_ttl = Duration::from_millis(600);
    });
    let load = Load::new().http1(1, front.at.outbound, host).running();
    // For a name of TTL 0, once in `min_ttl`, less a tenth.
    let (before, start) = (dns.asked(NAME, RecordType::A).0, Instant::now());
    while start.elapsed() < Duration::from_secs(2) {
        load.more(1);
    }
    let (asked, at_most) = (dns.asked(NAME, RecordType::A).0 - before, start.elapsed().as_millis() / 180 + 1);
    assert!((5..=at_most).contains(&(asked as u128)), "{asked} of at most {at_most}");
    // One of the set holds for no time, or so it says; and one for 68 years.
    both([0, 3600]);
    goes_to(&load, &servers, &[true, true]);
    for ttl in [1 << 31, u32::MAX, (1 << 31) - 1] {
        both([ttl, ttl]);
        dns.more(NAME, 2);
        dns.addresses(NAME, ttl, &ips(&["127.0.0.3"]));
        let changed = Instant::now();
        goes_to(&load, &servers, &[false, true]);
        assert!(changed.elapsed() < Duration::from_secs(3), "{ttl}: {:?}", changed.elapsed());
    }
    load.end().none_failed();
    front.end();
}

#[test]
fn two_hundred_addresses_come_over_tcp_and_all_of_them_are_used() {
    let _turn = beside_others();
    // The kernel takes all of 127.0.0.0/8.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = Recorder::on(listener, crate::support::backend::echo_path);
    let (host, dns) = (host(port), Dns::start());
    let many: Vec<IpAddr> = (1..=200).map(|n| [127, 0, 1, n].into()).collect();
    dns.addresses(NAME, 60, &many);
    dns.mood(Mood::Truncates);
    let front = front(&dns, |_| {});
    let load = Load::new().http1(4, front.at.outbound, host).running();
    assert_eq!(shown(front.at.admin, host)["endpoints"].as_array().unwrap().len(), 200);
    until("each of them was called", || {
        let upstream = shown(front.at.admin, host);
        upstream["endpoints"].as_array().unwrap().iter().all(|one| one["requests"].as_u64() > Some(0))
    });
    load.end().none_failed();
    assert!(dns.asked(NAME, RecordType::A).1 > 0);
    server.end();
    front.end();
}

#[test]
fn aliases_are_followed_by_the_shortest_time_and_services_by_their_ports() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2", "127.0.0.3"]);
    let (host, dns) = (host(port), Dns::start());
    // The alias is renewed by its own short time, whatever its target says.
    let through = |ip: &str| {
        let target = record("real.test.", 3600, ip.parse::<IpAddr>().unwrap().into());
        dns.set(NAME, RecordType::A, vec![alias(NAME, 0, "real.test."), target]);
        dns.set(NAME, RecordType::AAAA, Vec::new());
    };
    through("127.0.0.2");
    let front = front(&dns, |_| {});
    let load = Load::new().http1(1, front.at.outbound, host).running();
    goes_to(&load, &servers, &[true, false]);
    through("127.0.0.3");
    goes_to(&load, &servers, &[false, true]);
    load.end().none_failed();

    let srv = "_http._tcp.users.test.";
    let at = |priority, port, target: &str| service(srv, 0, (priority, 1), port, target);
    dns.addresses("b.test.", 0, &ips(&["127.0.0.3"]));
    dns.addresses("a.test.", 0, &ips(&["127.0.0.2"]));
    dns.set(srv, RecordType::SRV, vec![at(1, port, "a.test."), at(2, port, "b.test.")]);
    let load = Load::new().http1(1, front.at.outbound, "_http._tcp.users.test").running();
    goes_to(&load, &servers, &[true, false]);
    dns.set(srv, RecordType::SRV, vec![at(1, port, "b.test.")]);
    goes_to(&load, &servers, &[false, true]);
    load.end().none_failed();
    front.end();
}

#[test]
fn a_first_call_waits_for_a_slow_server_and_a_named_one_is_known_before() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2"]);
    let (host, dns) = (host(port), Dns::start());
    dns.addresses(NAME, 60, &ips(&["127.0.0.2"]));
    dns.addresses("named.test.", 60, &ips(&["127.0.0.2"]));
    dns.mood(Mood::Late(Duration::from_millis(1500)));
    let source = model::Dns { servers: vec![dns.at], ..model::Dns::default() };
    let named = format!("named.test:{port}");
    let front = sidecar("front")
        .with(|model| {
            model.discovery.push(Source::Dns(source));
            model.upstreams.insert(UpstreamName::new(&named), Default::default());
        })
        .start();
    assert_eq!(shown(front.at.admin, &named)["state"], "found", "ready means that it is known");
    let start = Instant::now();
    assert_eq!(get(front.at.outbound, host, "/").status, 200);
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(1400) && waited < Duration::from_secs(4), "{waited:?}");
    let start = Instant::now();
    assert_eq!(get(front.at.outbound, host, "/").status, 200);
    assert_eq!(get(front.at.outbound, &named, "/").status, 200);
    assert!(start.elapsed() < Duration::from_secs(1));
    drop(servers);
    front.end();
}

#[test]
fn the_search_list_of_the_machine_is_gone_through_and_followed() {
    let _turn = beside_others();
    let (port, servers) = on_one_port(&["127.0.0.2", "127.0.0.3"]);
    let dns = Dns::start();
    dns.addresses("users.two.test.", 0, &ips(&["127.0.0.2"]));
    dns.addresses("users.one.test.", 0, &ips(&["127.0.0.3"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "search none.test two.test\n").unwrap();
    // A machine of its own, as far as this file goes.
    let own = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.path().display());
    let front = process("front")
        .discovery(&format!("dns: {{servers: ['{}'], min_ttl: 100ms, default_port: {port}}}", dns.at))
        .through(&["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &own, "sh"])
        .start();
    assert_eq!(get(front.outbound, "users", "/").status, 200);
    assert!(called(&servers[0]) && !called(&servers[1]));
    assert!(dns.asked("users.none.test.", RecordType::A).0 > 0, "in their order");
    std::fs::write(&file, "search one.test\n").unwrap();
    until("the file is followed", || {
        assert_eq!(get(front.outbound, "users", "/").status, 200);
        called(&servers[1])
    });
}

#[test]
fn names_that_callers_make_up_are_bounded_in_number_and_memory() {
    let _turn = alone();
    let (port, servers) = on_one_port(&["127.0.0.2"]);
    let (host, dns) = (host(port), Dns::start());
    dns.addresses(NAME, 60, &ips(&["127.0.0.2"]));
    let front = front(&dns, |dns| dns.min_ttl = Duration::from_secs(1));
    assert_eq!(get(front.at.outbound, host, "/").status, 200);
    let before = resident();
    let outbound = front.at.outbound;
    let makes_up = move |caller: usize| {
        let mut client = Client::connect(outbound);
        let mut refused = 0;
        for n in 0..(MAX_UPSTREAMS + 100) / 8 {
            match client.get(&format!("made-up-{caller}-{n}.test"), "/").reason().as_deref() {
                Some("unknown_upstream") => {}
                Some("overload") => refused += 1,
                other => panic!("{n}: {other:?}"),
            }
        }
        refused
    };
    let refused: usize = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|caller| scope.spawn(move || makes_up(caller))).collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).sum()
    });
    let each = resident().saturating_sub(before) / MAX_UPSTREAMS as u64;
    println!("{each} bytes for each of {MAX_UPSTREAMS} names; {refused} refused");
    assert!(refused >= 90 && each < 24 * 1024, "{refused} {each}");
    assert_eq!(get(front.at.outbound, host, "/").status, 200, "what is known is called");
    // Of all of them 50 a second are asked for again, each in both families.
    let asked = || dns.questions();
    let (before, start) = (asked(), Instant::now());
    until("two seconds have passed", || start.elapsed() > Duration::from_secs(2));
    let rate = (asked() - before) as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} questions a second");
    assert!(rate < 200.0, "{rate}");
    drop(servers);
    front.end();
}
