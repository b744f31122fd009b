use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use tempfile::TempDir;

use super::server::{Reply, Server, cname, record, srv};
use super::system::Files;
use super::{Lookup, Resolver};
use crate::config::model::Dns;

/// A resolver that asks `server` and reads files of its own.
struct Setup {
    server: Server,
    resolver: Resolver,
    folder: TempDir,
}

async fn setup(resolv_conf: &str, hosts: &str) -> Setup {
    let server = Server::start().await;
    let dns = Dns { servers: vec![server.address], timeout: Duration::from_millis(300), ..Dns::default() };
    let folder = TempDir::new().unwrap();
    let resolver = Resolver::with_files(dns, files(&folder, resolv_conf, hosts));
    Setup { server, resolver, folder }
}

fn files(folder: &TempDir, resolv_conf: &str, hosts: &str) -> Files {
    let files = Files { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts") };
    std::fs::write(&files.resolv_conf, resolv_conf).unwrap();
    std::fs::write(&files.hosts, hosts).unwrap();
    files
}

fn found(addresses: &[&str], seconds: u64) -> Lookup<Vec<IpAddr>> {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Lookup::Found(addresses, Duration::from_secs(seconds))
}

async fn service(resolver: &Resolver, name: &str) -> Vec<(SocketAddr, u32)> {
    match resolver.service(name).await {
        Lookup::Found(all, _) => {
            all.into_iter().map(|endpoint| (endpoint.address, endpoint.weight)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn answers_change_at_once_and_ttls_stay_within_bounds() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    server.addresses("users.test.", 30, &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(resolver.addresses("users.test").await, found(&["10.0.0.1", "10.0.0.2"], 30));
    server.addresses("users.test.", 0, &["10.0.0.3"]);
    assert_eq!(resolver.addresses("users.test").await, found(&["10.0.0.3"], 1), "no cache hides a change");
    server.addresses("users.test.", 2_000_000_000, &["10.0.0.4"]);
    assert_eq!(resolver.addresses("users.test").await, found(&["10.0.0.4"], 60));
    server.both("users.test.", &Reply::NoSuchName(1));
    assert_eq!(resolver.addresses("users.test").await, Lookup::Unknown(Duration::from_secs(1)));
    server.addresses("users.test.", 5, &["10.0.0.5"]);
    assert_eq!(resolver.addresses("users.test").await, found(&["10.0.0.5"], 5), "nor a negative answer");
}

#[tokio::test]
async fn unknown_empty_and_failed_are_three_things() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    server.both("unknown.test.", &Reply::NoSuchName(3600));
    assert_eq!(resolver.addresses("unknown.test").await, Lookup::Unknown(Duration::from_secs(5)));
    server.both("empty.test.", &Reply::NoData);
    assert_eq!(resolver.addresses("empty.test").await, Lookup::Empty(Duration::from_secs(1)));
    server.both("broken.test.", &Reply::ServFail);
    match resolver.addresses("broken.test").await {
        Lookup::Failed(why) => assert!(why.contains("Server Failure"), "{why}"),
        other => panic!("{other:?}"),
    }
    server.both("silent.test.", &Reply::Silence);
    let start = Instant::now();
    assert_eq!(resolver.addresses("silent.test").await, Lookup::Failed("no answer in time".into()));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn half_an_answer_is_used() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    server.addresses("half.test.", 9, &["10.0.0.1"]);
    server.set("half.test.", RecordType::AAAA, Reply::ServFail);
    assert_eq!(resolver.addresses("half.test").await, found(&["10.0.0.1"], 9));
    server.both("half.test.", &Reply::NoData);
    server.set("half.test.", RecordType::A, Reply::ServFail);
    assert!(matches!(resolver.addresses("half.test").await, Lookup::Failed(_)), "the other half may exist");
    server.addresses("six.test.", 9, &["fd00::1"]);
    assert_eq!(resolver.addresses("six.test").await, found(&["fd00::1"], 9));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let many: Vec<_> =
        (0..200).map(|n| record("many.test.", 7, IpAddr::from([10, 0, 1, n]).into())).collect();
    server.set("many.test.", RecordType::A, Reply::Large(many));
    server.set("many.test.", RecordType::AAAA, Reply::NoData);
    match resolver.addresses("many.test").await {
        Lookup::Found(all, ttl) => assert_eq!((all.len(), ttl), (200, Duration::from_secs(7))),
        other => panic!("{other:?}"),
    }
    assert!(server.used_tcp());
}

#[tokio::test]
async fn the_shortest_ttl_of_a_chain_of_aliases_counts() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let chain =
        vec![cname("www.test.", 4, "web.test."), record("web.test.", 50, IpAddr::from([10, 0, 0, 1]).into())];
    server.set("www.test.", RecordType::A, Reply::Records(chain));
    server.set("www.test.", RecordType::AAAA, Reply::NoData);
    assert_eq!(resolver.addresses("www.test").await, found(&["10.0.0.1"], 4));
    // The target in an answer of its own, which must not be remembered either.
    server.set("far.test.", RecordType::A, Reply::Records(vec![cname("far.test.", 40, "away.test.")]));
    server.set("far.test.", RecordType::AAAA, Reply::NoData);
    server.addresses("away.test.", 30, &["10.0.0.2"]);
    assert_eq!(resolver.addresses("far.test").await, found(&["10.0.0.2"], 30));
    server.addresses("away.test.", 20, &["10.0.0.3"]);
    assert_eq!(resolver.addresses("far.test").await, found(&["10.0.0.3"], 20));
}

#[tokio::test]
async fn srv_gives_ports_and_weights_of_the_best_priority() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let name = "_http._tcp.users.test.";
    let records = vec![
        srv(name, 20, 20, 1, 9999, "c.test."),
        srv(name, 20, 10, 0, 8001, "a.test."),
        srv(name, 20, 10, 60000, 8002, "b.test."),
    ];
    server.set(name, RecordType::SRV, Reply::Records(records));
    for (host, ip) in [("a.test.", "10.0.0.1"), ("b.test.", "10.0.0.2"), ("c.test.", "10.0.0.3")] {
        server.addresses(host, 6, &[ip]);
    }
    let mut all = service(&resolver, "_http._tcp.users.test").await;
    all.sort();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(all, [(address("10.0.0.1:8001"), 1), (address("10.0.0.2:8002"), 1000)]);
    for host in ["a.test.", "b.test."] {
        server.both(host, &Reply::NoSuchName(1));
    }
    let rest = service(&resolver, "_http._tcp.users.test").await;
    assert_eq!(rest, [(address("10.0.0.3:9999"), 1)], "the next priority, where the best has none");
    server.both("c.test.", &Reply::ServFail);
    assert!(matches!(resolver.service("_http._tcp.users.test").await, Lookup::Failed(_)));
    server.set(name, RecordType::SRV, Reply::Records(vec![srv(name, 20, 0, 0, 0, ".")]));
    assert!(
        matches!(resolver.service("_http._tcp.users.test").await, Lookup::Empty(_)),
        "decidedly not there"
    );
}

#[tokio::test]
async fn the_search_list_is_gone_through_in_order() {
    let Setup { server, resolver, folder: _folder } =
        setup("search one.test two.test\noptions ndots:2\n", "").await;
    server.addresses("users.two.test.", 9, &["10.0.0.1"]);
    let lookup = resolver.addresses("users").await;
    assert_eq!(lookup, found(&["10.0.0.1"], 9), "{:?}", server.names());
    assert_eq!(server.names(), ["users.one.test.", "users.two.test."]);
    server.addresses("a.b.c.", 9, &["10.0.0.2"]);
    assert_eq!(resolver.addresses("a.b.c").await, found(&["10.0.0.2"], 9), "dots enough: as it is first");
    assert_eq!(server.names().last().unwrap(), "a.b.c.");
    server.addresses("full.", 9, &["10.0.0.3"]);
    assert_eq!(resolver.addresses("full.").await, found(&["10.0.0.3"], 9), "a last dot: as it is only");
}

#[tokio::test]
async fn a_failure_within_the_search_list_is_no_proof_of_absence() {
    let Setup { server, resolver, folder: _folder } = setup("search one.test two.test\n", "").await;
    server.both("users.one.test.", &Reply::ServFail);
    assert!(matches!(resolver.addresses("users").await, Lookup::Failed(_)));
    server.addresses("users.two.test.", 9, &["10.0.0.1"]);
    assert_eq!(resolver.addresses("users").await, found(&["10.0.0.1"], 9));
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_followed() {
    let Setup { server, resolver, folder } =
        setup("", "10.9.9.9 users users.lan\n::1 both\n127.0.0.1 both\n").await;
    assert_eq!(resolver.addresses("users").await, found(&["10.9.9.9"], 5));
    assert_eq!(resolver.addresses("USERS.lan").await, found(&["10.9.9.9"], 5));
    assert_eq!(resolver.addresses("both").await, found(&["127.0.0.1"], 5));
    assert_eq!(server.names(), [""; 0], "no question leaves the machine");
    std::fs::write(folder.path().join("hosts"), "10.9.9.10 users\n10.9.9.11 users\n").unwrap();
    assert_eq!(resolver.addresses("users").await, found(&["10.9.9.10", "10.9.9.11"], 5));
}

#[tokio::test]
async fn without_a_server_the_failure_comes_at_once() {
    let folder = TempDir::new().unwrap();
    let resolver =
        Resolver::with_files(Dns::default(), files(&folder, "search one.test\n", "10.0.0.1 known\n"));
    let start = Instant::now();
    match resolver.addresses("users").await {
        Lookup::Failed(why) => assert!(why.contains("names none"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < Duration::from_millis(200));
    assert_eq!(resolver.addresses("known").await, found(&["10.0.0.1"], 5));
    assert_eq!(resolver.addresses("localhost").await, found(&["127.0.0.1"], 5));
}

#[tokio::test]
async fn what_is_no_name_is_never_asked_for() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let long = "a".repeat(64);
    for host in ["", ".", "a b", "a/b", "ü", "a\u{0}", "a..b", "10.0.0.7:0", &long, "a:b:c", "*"] {
        assert!(matches!(resolver.addresses(host).await, Lookup::Unknown(_)), "{host:?}");
    }
    assert_eq!(server.names(), [""; 0]);
}

#[tokio::test]
async fn two_that_ask_at_one_time_both_get_the_answer() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let resolver = Arc::new(resolver);
    for n in 0..200 {
        server.addresses(&format!("n{}.test.", n % 50), 9, &["10.0.0.1"]);
    }
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.addresses(&format!("n{}.test", n % 50)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), found(&["10.0.0.1"], 9));
    }
}

#[tokio::test]
async fn an_alias_of_itself_comes_to_nothing_and_ends() {
    let Setup { server, resolver, folder: _folder } = setup("", "").await;
    let records = vec![cname("a.test.", 9, "b.test."), cname("b.test.", 9, "a.test.")];
    let whole = Reply::Records(records.clone());
    let [one, other] = [0, 1].map(|n: usize| Reply::Records(vec![records[n].clone()]));
    for (a, b) in [(&whole, &whole), (&one, &other)] {
        server.both("a.test.", a);
        server.both("b.test.", b);
        let start = Instant::now();
        let lookup = resolver.addresses("a.test").await;
        assert_eq!(lookup, Lookup::Empty(Duration::from_secs(1)));
        assert!(start.elapsed() < Duration::from_secs(1) && server.names().len() < 50);
    }
}
