//! On objects as the API server writes them.

use serde_json::{Value, json};

use super::*;
use crate::base::UpstreamName;

fn service(spec: &Value) -> Service {
    let object = json!({"metadata": {"name": "users", "namespace": "shop"}, "spec": spec});
    serde_json::from_value::<core::Service>(object).unwrap().into()
}

/// With the two ports of most of these tests.
fn two_ports() -> Service {
    service(&json!({
        "type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd96::7"],
        "ipFamilies": ["IPv4", "IPv6"], "selector": {"app": "users"},
        "ports": [
            {"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
            {"name": "metrics", "port": 9090, "targetPort": 9100, "protocol": "TCP"},
            {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"}],
    }))
}

/// A slice of port 8080 for `http` and 9100 for `metrics`.
fn slice(family: &str, endpoints: &Value) -> Slice {
    let object = json!({
        "metadata": {"name": "users-x", "labels": {"kubernetes.io/service-name": "users"}},
        "addressType": family,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"},
                  {"name": "metrics", "port": 9100, "protocol": "TCP"},
                  {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": endpoints,
    });
    serde_json::from_value::<discovery::EndpointSlice>(object).unwrap().into()
}

fn asked(name: &str) -> Asked {
    Asked::read(&UpstreamName::new(name), &"shop".into(), "cluster.local").unwrap()
}

fn all(service: &Service, slices: &[Slice], name: &str, zone: Option<&str>) -> Vec<Endpoint> {
    let asked = asked(name);
    let port = service.port(asked.port).unwrap();
    endpoints(service, slices.iter(), &asked, &port, zone, |_| true)
}

/// Addresses; those of endpoints that end with a `-`.
fn short(endpoints: &[Endpoint]) -> String {
    let one = |endpoint: &Endpoint| {
        let ends = if endpoint.standing == Standing::Terminating { "-" } else { "" };
        format!("{}{ends}", endpoint.address)
    };
    endpoints.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn ports_are_those_of_the_service() {
    let (users, slices) = (two_ports(), [slice("IPv4", &json!([{"addresses": ["10.1.0.1"]}]))]);
    for (name, wanted, protocol) in [
        ("users", "10.1.0.1:8080", Protocol::Http2),
        ("users:80", "10.1.0.1:8080", Protocol::Http2),
        ("users:9090", "10.1.0.1:9100", Protocol::Auto),
    ] {
        let found = all(&users, &slices, name, None);
        assert_eq!((short(&found).as_str(), found[0].protocol), (wanted, protocol), "{name}");
    }
    for port in [53, 8080] {
        let why = users.port(Some(port)).unwrap_err();
        assert_eq!(why, format!("the Service has no TCP port {port}; it has 80 (http), 9090 (metrics)"));
    }
    let addresses = users.cluster_addresses(&users.port(None).unwrap());
    assert_eq!(addresses, ["10.96.0.7:80".parse().unwrap(), "[fd96::7]:80".parse().unwrap()]);
}

#[test]
fn a_name_without_a_port_means_the_only_one_or_the_usual_one() {
    let ports = |ports: Value| service(&json!({"clusterIP": "10.96.0.7", "ports": ports}));
    let number = |service: &Service| match service.port(None) {
        Ok(Port::Named { number, .. }) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(number(&ports(json!([{"port": 5432}]))), 5432);
    assert_eq!(number(&ports(json!([{"name": "a", "port": 1}, {"name": "grpc", "port": 2}]))), 2);
    assert_eq!(number(&ports(json!([{"name": "grpc", "port": 1}, {"name": "http", "port": 2}]))), 2);
    assert_eq!(number(&ports(json!([{"name": "a", "port": 1}, {"name": "b", "port": 80}]))), 80);
    let why = ports(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])).port(None).unwrap_err();
    assert_eq!(why, "which port? write one after the name: the Service has 1 (a), 2 (b)");
    assert_eq!(ports(json!([])).port(None).unwrap_err(), "the Service has no TCP port");
}

#[test]
fn ready_ones_are_used_and_those_that_end_are_told() {
    let slices = [slice(
        "IPv4",
        &json!([
            {"addresses": ["10.1.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.1.0.4"], "conditions": {"ready": false, "serving": false, "terminating": false}},
            {"addresses": ["10.1.0.5"], "conditions": {}},
            // As with `publishNotReadyAddresses`.
            {"addresses": ["10.1.0.6"], "conditions": {"ready": true, "serving": false, "terminating": true}}]),
    )];
    let found = all(&two_ports(), &slices, "users", None);
    assert_eq!(short(&found), "10.1.0.1:8080 10.1.0.2:8080- 10.1.0.5:8080 10.1.0.6:8080");
}

#[test]
fn an_address_in_two_slices_is_one_endpoint() {
    let ends = json!([{"addresses": ["10.1.0.1"], "zone": "old",
        "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    let ready = json!([{"addresses": ["10.1.0.1"], "zone": "eu-1a", "conditions": {"ready": true}}]);
    for slices in
        [[slice("IPv4", &ends), slice("IPv4", &ready)], [slice("IPv4", &ready), slice("IPv4", &ends)]]
    {
        let found = all(&two_ports(), &slices, "users", None);
        assert_eq!((short(&found).as_str(), found[0].zone.as_deref()), ("10.1.0.1:8080", Some("eu-1a")));
    }
}

#[test]
fn a_pod_of_two_families_is_one_endpoint() {
    let pod = |ip: &str, uid: &str| json!({"addresses": [ip], "targetRef": {"kind": "Pod", "name": uid, "uid": uid}});
    let slices = [
        slice("IPv6", &json!([pod("fd01::1", "a"), pod("fd01::2", "b"), pod("fd01::3", "only-6")])),
        slice("IPv4", &json!([pod("10.1.0.1", "a"), pod("10.1.0.2", "b")])),
        slice("FQDN", &json!([{"addresses": ["users.example"]}])),
    ];
    let users = two_ports();
    let four = "10.1.0.1:8080 10.1.0.2:8080";
    assert_eq!(short(&all(&users, &slices, "users", None)), format!("{four} [fd01::3]:8080"));
    let prefers = Service { prefers_v6: true, ..users };
    let six = "[fd01::1]:8080 [fd01::2]:8080 [fd01::3]:8080";
    assert_eq!(short(&all(&prefers, &slices, "users", None)), six);
    let port = prefers.port(None).unwrap();
    let without = |slices: &[Slice]| {
        short(&endpoints(&prefers, slices.iter(), &asked("users"), &port, None, |ip| ip.is_ipv4()))
    };
    assert_eq!(without(&slices), four, "no way to IPv6");
    assert_eq!(without(&slices[..1]), six, "nothing else is there to try");
}

#[test]
fn hints_are_obeyed_as_kube_proxy_does() {
    let hint = |ip: &str, zone: &str, hints: &[&str]| {
        let hints: Vec<_> = hints.iter().map(|zone| json!({"name": zone})).collect();
        json!({"addresses": [ip], "zone": zone, "hints": {"forZones": hints}, "conditions": {"ready": true}})
    };
    let mut list = vec![hint("10.1.0.1", "a", &["a", "c"]), hint("10.1.0.2", "b", &["b"])];
    let found =
        |list: &[Value], zone| short(&all(&two_ports(), &[slice("IPv4", &json!(list))], "users", zone));
    let both = "10.1.0.1:8080 10.1.0.2:8080";
    assert_eq!(found(&list, Some("a")), "10.1.0.1:8080");
    assert_eq!(found(&list, Some("b")), "10.1.0.2:8080");
    assert_eq!(found(&list, Some("c")), "10.1.0.1:8080", "a hint is no zone");
    assert_eq!(found(&list, Some("d")), both, "nobody is meant for us");
    assert_eq!(found(&list, None), both);
    // One that ends needs no hint, and stays for the time when none is ready.
    list.push(json!({"addresses": ["10.1.0.8"], "conditions": {"ready": false, "serving": true, "terminating": true}}));
    assert_eq!(found(&list, Some("b")), "10.1.0.2:8080 10.1.0.8:8080-");
    list.push(json!({"addresses": ["10.1.0.3"], "conditions": {"ready": true}}));
    assert_eq!(found(&list, Some("a")), format!("{both} 10.1.0.3:8080 10.1.0.8:8080-"), "one says nothing");
}

#[test]
fn pods_of_a_headless_service_have_names() {
    let db = service(
        &json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "sql", "port": 5432}]}),
    );
    let object = json!({
        "metadata": {"name": "db-x"}, "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432, "protocol": "TCP", "appProtocol": "postgresql"}],
        "endpoints": [{"addresses": ["10.1.0.1"], "hostname": "db-0"}, {"addresses": ["10.1.0.2"], "hostname": "db-1"}],
    });
    let slices = [serde_json::from_value::<discovery::EndpointSlice>(object).unwrap().into()];
    let found = |name: &str| short(&all(&db, &slices, name, Some("a")));
    assert_eq!(found("db"), "10.1.0.1:5432 10.1.0.2:5432");
    assert_eq!(found("db-1.db.shop.svc"), "10.1.0.2:5432");
    assert_eq!(found("db-2.db.shop.svc"), "");
    assert_eq!(found("db-0.db.shop.svc:9187"), "10.1.0.1:9187", "as DNS would lead there");
    assert_eq!(db.cluster_addresses(&db.port(None).unwrap()), []);
    assert_eq!(all(&db, &slices, "db", None)[0].protocol, Protocol::Postgres);
}

#[test]
fn a_service_may_stand_for_a_name_outside() {
    let db =
        service(&json!({"type": "ExternalName", "externalName": "db.example", "ports": [{"port": 5432}]}));
    assert_eq!((db.external.as_deref(), db.only_port()), (Some("db.example"), Some(5432)));
    let other = service(&json!({"type": "ClusterIP", "clusterIP": "10.96.0.7", "externalName": "left.over"}));
    assert_eq!(other.external, None);
}

#[test]
fn app_protocols_have_several_names() {
    for (word, wanted) in [
        (None, Protocol::Auto),
        (Some("http"), Protocol::Http1),
        (Some("HTTP2"), Protocol::Http2),
        (Some("grpc"), Protocol::Grpc),
        (Some("https"), Protocol::Tls),
        (Some("kubernetes.io/h2c"), Protocol::Http2),
        (Some("kubernetes.io/ws"), Protocol::Http1),
        (Some("mongo"), Protocol::Mongodb),
        (Some("redis"), Protocol::Redis),
        (Some("example.com/own"), Protocol::Auto),
    ] {
        assert_eq!(protocol(word), wanted, "{word:?}");
    }
}
