use super::*;

fn sample() -> Vec<Upstream> {
    let endpoint = |address: &str, state: &str, zone: Option<&str>| {
        json!({
            "address": address, "state": state, "weight": 1, "zone": zone, "active": 0, "requests": 120,
            "failures": 2, "connections": 1, "ewma_ms": 1.25
        })
    };
    let mut ejected = endpoint("10.0.0.8:80", "ejected", None);
    ejected["why"] = "gateway_errors, 2 in a row".into();
    ejected["breaker"] = "half_open".into();
    let all = json!([
        {
            "upstream": "users", "state": "found", "source": "dns", "age_seconds": 41, "kept": "unknown",
            "endpoints": [endpoint("10.0.0.7:80", "ready", Some("eu-1a")), ejected],
            "chain": [
                {"source": "local", "said": "unknown", "age_seconds": 0},
                {"source": "dns", "said": "unknown", "age_seconds": 1, "named_endpoints_seconds_ago": 41, "kept_for_seconds": 12},
                {"source": "static", "said": "failed", "why": "db: no\u{1b}[2J answer", "age_seconds": 3700}
            ]
        },
        {
            "upstream": "typo:80", "state": "unknown", "why": "no source knows a service of this name",
            "endpoints": [], "chain": []
        },
        {
            "upstream": "127.0.0.1:9", "state": "found", "source": "address", "age_seconds": 9, "kept": null,
            "endpoints": [endpoint("127.0.0.1:9", "ready", None)], "chain": [], "later": 1,
            "breakers": [{"route": "/v1/{id}", "endpoint": null, "state": "open"}]
        }
    ]);
    serde_json::from_value(all).unwrap()
}

#[test]
fn the_list_has_a_line_for_each() {
    let lines = [
        "UPSTREAM     STATE    ENDPOINTS      SOURCE   AGE",
        "users        kept     2 (1 ejected)  dns      41s  dns not known; named endpoints 41s ago, kept for 12s more",
        "typo:80      unknown  0                            no source knows a service of this name",
        "127.0.0.1:9  found    1              address",
    ];
    assert_eq!(list(&sample()), lines.join("\n") + "\n");
    let why = "not called for a while; the next call finds it again";
    let idle = json!([{"upstream": "mail", "state": "idle", "why": why, "endpoints": [], "chain": []}]);
    let idle = list(&serde_json::from_value::<Vec<Upstream>>(idle).unwrap());
    assert_eq!(idle.lines().nth(1), Some(&*format!("mail      idle   -                       {why}")));
    assert!(list(&[]).starts_with("no upstream yet"));
}

#[test]
fn one_is_shown_with_its_endpoints_and_what_each_source_says() {
    let lines = [
        "users: kept, 2 endpoints by dns, 41s old",
        "",
        "  ENDPOINT     STATE                                                    PLACE  ACTIVE  REQUESTS  FAILURES  CONNECTIONS  LATENCY",
        "  10.0.0.7:80  ready                                                    eu-1a  0       120       2         1            1.2 ms",
        "  10.0.0.8:80  ejected (gateway_errors, 2 in a row; breaker half-open)         0       120       2         1            1.2 ms",
        "",
        "  SOURCE  AGE    SAYS",
        "  local   0s     not known",
        "  dns     1s     not known; named endpoints 41s ago, kept for 12s more",
        "  static  1h01m  failed: db: no\u{fffd}[2J answer",
    ];
    let [users, typo, address] = &sample()[..] else { panic!() };
    assert_eq!(whole(users), lines.join("\n") + "\n");
    assert_eq!(whole(typo), "typo:80: unknown: no source knows a service of this name\n");
    assert!(whole(address).starts_with("127.0.0.1:9: found, 1 endpoint by address\n"));
}

#[test]
fn a_name_stands_for_all_its_ports_and_for_no_other_name() {
    assert!(is("users", "users") && is("users:50051", "users") && is("users:1", "users:1"));
    assert!(!is("users-v2", "users") && !is("users", "users:1"));
    let others = ["a", "b"].map(String::from);
    assert!(missing("users", &others).ends_with("It follows a, b"));
}

#[test]
fn times_are_short() {
    for (seconds, text) in [(0, "0s"), (61, "1m01s"), (3_660, "1h01m"), (90_000, "1d01h")] {
        assert_eq!(time(seconds), text);
    }
}
