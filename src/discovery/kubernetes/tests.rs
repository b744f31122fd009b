//! Against the double: what is asked, and what stays known.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::tests::{Running, eventually, fixed, model, short, start, until};
use super::double::{Double, Mood};
use crate::base::UpstreamName;
use crate::config::model::{Kubernetes, Source};

const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";

fn source(double: &Double) -> Source {
    Source::Kubernetes(Kubernetes {
        kubeconfig: Some(double.kubeconfig.path().into()),
        ..Kubernetes::default()
    })
}

fn service() -> Value {
    json!({"metadata": {"name": "users", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"name": "http", "port": 80}]}})
}

fn slice(name: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({"metadata": {"name": name, "namespace": "shop"}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

/// A server that knows `users` at 10.1.0.1, and discovery that asks it.
async fn world() -> (Double, Running) {
    let double = Double::start().await;
    double.put(SERVICES, "users", Some(service()));
    double.put(SLICES, "users-a", Some(slice("users-a", &["10.1.0.1"])));
    let running = start(model(vec![source(&double), fixed("users", &[("10.9.9.9", 9)])]));
    (double, running)
}

fn failures(running: &Running) -> f64 {
    let series = "pillion_discovery_updates_total{source=\"kubernetes\",result=\"failed\"}";
    running.metric(series).unwrap_or_default()
}

#[tokio::test]
async fn endpoints_are_followed_within_a_second() {
    let (double, running) = world().await;
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    // More names of one Service take no more watches.
    for name in ["users:80", "users.shop", "users.shop.svc.cluster.local"] {
        until(&mut running.watch(name), "kubernetes 10.1.0.1:8080").await;
    }
    let mut asked = double.asked();
    asked.sort();
    assert_eq!(
        asked,
        ["list endpointslices 0", "list services 0", "watch endpointslices 2", "watch services 2"]
    );

    let second = Duration::from_secs(1);
    double.put(SLICES, "users-b", Some(slice("users-b", &["10.1.0.2", "10.1.0.1"])));
    assert!(until(&mut users, "kubernetes 10.1.0.1:8080 10.1.0.2:8080").await < second);
    double.put(SLICES, "users-b", Some(slice("users-b", &["10.1.0.3"])));
    assert!(until(&mut users, "kubernetes 10.1.0.1:8080 10.1.0.3:8080").await < second);
    double.put(SLICES, "users-a", None);
    assert!(until(&mut users, "kubernetes 10.1.0.3:8080").await < second);
    double.put(SLICES, "users-b", None);
    assert!(until(&mut users, "empty kubernetes").await < second);
    double.put(SERVICES, "users", None);
    assert!(until(&mut users, "static 10.9.9.9:9").await < second, "an unknown name goes on");
    double.put(SERVICES, "users", Some(service()));
    assert!(until(&mut users, "empty kubernetes").await < second);
    assert_eq!(double.asked(), Vec::<String>::new(), "all of it came by two watches");
    running.stop().await;
}

#[tokio::test]
async fn an_address_of_kube_proxy_leads_to_the_name() {
    let (double, running) = world().await;
    let at = || running.directory.at("10.96.0.7:80".parse().unwrap());
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    eventually("the address is known", || at() == Some(UpstreamName::new("users"))).await;
    double.put(SLICES, "users-a", None);
    until(&mut users, "empty kubernetes").await;
    assert!(at().is_some(), "the Service is still there");
    double.put(SERVICES, "users", None);
    until(&mut users, "static 10.9.9.9:9").await;
    eventually("the address is nobody's", || at().is_none()).await;
    running.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_where_it_was() {
    let (double, running) = world().await;
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    double.asked();
    let version = double.bookmark(SLICES);
    // What a server says that this version does not know harms nothing.
    double.say(SLICES, &json!({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}, "kind": "x", "apiVersion": "v"}}));
    sleep(Duration::from_millis(100)).await;
    users.mark_unchanged();
    double.cut();
    double.put(SLICES, "users-a", Some(slice("users-a", &["10.1.0.2"])));
    until(&mut users, "kubernetes 10.1.0.2:8080").await;
    eventually("both resume", || double.times_asked() >= 2).await;
    let mut asked = double.asked();
    asked.sort();
    assert_eq!(asked, [format!("watch endpointslices {version}"), "watch services 2".to_owned()]);
    assert!(failures(&running) < 0.5, "a stream that ends is no failure");
    running.stop().await;
}

#[tokio::test]
async fn a_forgotten_version_is_listed_once_and_loses_nothing() {
    let (double, running) = world().await;
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    double.asked();
    // By its status at the beginning of a watch.
    double.mood(Mood::Status(500));
    double.cut();
    eventually("the server fails", || failures(&running) > 0.5).await;
    double.put(SLICES, "users-b", Some(slice("users-b", &["10.1.0.2"])));
    double.put(SLICES, "users-a", None);
    double.compact();
    double.asked();
    assert_eq!(short(&users.borrow()), "kubernetes 10.1.0.1:8080", "what was said stays");
    double.mood(Mood::Fine);
    until(&mut users, "kubernetes 10.1.0.2:8080").await;
    eventually("both list and watch again", || double.times_asked() >= 6).await;
    let asked = double.asked();
    let lists = asked.iter().filter(|line| line.starts_with("list")).collect::<Vec<_>>();
    assert_eq!(lists.len(), 2, "{asked:?}");
    assert!(lists.iter().all(|line| line.ends_with(" 2")), "not older than what is known: {lists:?}");
    // By an event within a watch.
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "too old resource version", "reason": "Expired", "code": 410}});
    double.say(SLICES, &gone);
    eventually("it is listed again", || double.times_asked() >= 2).await;
    let asked = double.asked();
    assert!(
        asked[0].starts_with("list endpointslices") && asked[1].starts_with("watch endpointslices"),
        "{asked:?}"
    );
    assert_eq!(short(&users.borrow()), "kubernetes 10.1.0.2:8080");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_fails_changes_nothing_and_is_not_stormed() {
    let (double, running) = world().await;
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    users.mark_unchanged();
    for mood in [Mood::Status(401), Mood::Status(429), Mood::Status(503), Mood::Curt] {
        double.mood(mood);
        let before = failures(&running);
        double.cut();
        eventually("the failure is told", || failures(&running) > before + 0.5).await;
        double.asked();
        sleep(Duration::from_secs(2)).await;
        let asked = double.asked();
        assert!(asked.len() <= 12, "{mood:?}: {asked:?}");
        assert_eq!(short(&users.borrow()), "kubernetes 10.1.0.1:8080", "{mood:?}");
        assert!(!users.has_changed().unwrap(), "{mood:?}");
        let at = running.directory.at("10.96.0.7:80".parse().unwrap());
        assert_eq!(at, Some(UpstreamName::new("users")), "{mood:?}: kube-proxy's address");
    }
    double.mood(Mood::Fine);
    double.put(SLICES, "users-a", Some(slice("users-a", &["10.1.0.5"])));
    until(&mut users, "kubernetes 10.1.0.5:8080").await;
    running.stop().await;
}

#[tokio::test]
async fn what_the_role_forbids_is_a_failure_and_the_chain_goes_on() {
    let (double, running) = world().await;
    double.mood(Mood::Status(403));
    until(&mut running.watch("users"), "static 10.9.9.9:9").await;
    let mut orders = running.watch("orders");
    until(&mut orders, "failed kubernetes: the server answered 403: the mood is 403").await;
    running.stop().await;
}

#[tokio::test]
async fn a_silent_server_is_not_waited_for() {
    let (double, running) = world().await;
    let mut users = running.watch("users");
    until(&mut users, "kubernetes 10.1.0.1:8080").await;
    double.mood(Mood::Silent);
    double.cut();
    eventually("it is told", || failures(&running) > 0.5).await;
    assert_eq!(short(&users.borrow()), "kubernetes 10.1.0.1:8080");
    running.stop().await;
}

#[tokio::test]
async fn a_large_and_slow_answer_is_read() {
    let double = Double::start().await;
    double.mood(Mood::Slow);
    double.put(SERVICES, "users", Some(service()));
    for part in 0..10 {
        let all: Vec<String> =
            (0..1000).map(|i| format!("10.{}.{}.{}", part + 1, i / 250, i % 250)).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let name = format!("users-{part}");
        double.put(SLICES, &name, Some(slice(&name, &all)));
    }
    let running = start(model(vec![source(&double)]));
    let _users = running.watch("users");
    let series = "pillion_endpoints{upstream=\"users\",source=\"kubernetes\"}";
    eventually("all are found", || running.metric(series) == Some(10_000.0)).await;
    // What is no object ends the watch, not what is known.
    double.mood(Mood::Fine);
    double.say(SLICES, &json!("nonsense"));
    eventually("it is told", || failures(&running) > 0.5).await;
    assert_eq!(running.metric(series), Some(10_000.0));
    running.stop().await;
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_is_a_failure() {
    let nowhere = Source::Kubernetes(Kubernetes {
        kubeconfig: Some("/nowhere/kubeconfig".into()),
        ..Kubernetes::default()
    });
    let running = start(model(vec![nowhere, fixed("users", &[("10.9.9.9", 9)])]));
    until(&mut running.watch("users"), "static 10.9.9.9:9").await;
    let mut orders = running.watch("orders");
    let failed = orders.wait_for(|now| short(now).starts_with("failed kubernetes: ")).await.unwrap();
    assert!(short(&failed).contains("/nowhere/kubeconfig"), "{}", short(&failed));
    drop(failed);
    running.stop().await;
}

#[tokio::test]
async fn a_name_outside_is_resolved_by_dns() {
    use super::super::dns::server::Server;
    let (double, server) = (Double::start().await, Server::start().await);
    server.addresses("db.example.", 60, &["10.0.0.5"]);
    let object = json!({"metadata": {"name": "db", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "db.example", "ports": [{"port": 5432}]}});
    double.put(SERVICES, "db", Some(object));
    let running = start(model(vec![source(&double), super::super::tests::dns(&server)]));
    let mut db = running.watch("db");
    until(&mut db, "kubernetes 10.0.0.5:5432").await;
    until(&mut running.watch("db:6432"), "kubernetes 10.0.0.5:6432").await;
    double.put(
        SERVICES,
        "db",
        Some(json!({"metadata": {"name": "db", "namespace": "shop"},
        "spec": {"type": "ExternalName", "externalName": "gone.example"}})),
    );
    until(&mut db, "empty kubernetes").await;
    running.stop().await;
}
