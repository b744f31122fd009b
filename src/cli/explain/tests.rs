use super::*;
use crate::config::{Environment, load_str};

const FILE: &str = "
version: 1
service: {name: front, port: 8080}
discovery: [{static: {users: ['10.0.0.7:8080', '10.0.0.8:8080']}}]
inbound:
  - timeout: 9s
  - route: GET /v1/orders/{id}
outbound:
  - to: users
    timeout: 2s
    retry: {on: [connect]}
  - to: users
    route: GET /v1/users/{id}
    retry: {max: 3}
";

fn explained(request: &str) -> (Map<String, Value>, String) {
    let model = load_str("pillion.yaml", FILE, &Environment::of([("", ""); 0])).unwrap().model;
    let asked: Call = request.parse().unwrap();
    let found = find(&asked, &model);
    let mut text = String::new();
    where_to(&mut text, &model, &found);
    if let Some(to) = &found.to {
        written(&mut text, &model, to.as_str());
    }
    (values(&model, &found), text)
}

#[test]
fn each_value_has_the_place_where_it_was_written() {
    let (values, text) = explained("GET http://users/v1/users/7");
    assert_eq!(values["timeout"]["origin"], "pillion.yaml:10:14", "of the entry of the upstream");
    assert_eq!(values["retry.max"]["origin"], "pillion.yaml:14:18");
    assert_eq!(values["retry.on"], json!({ "value": ["connect"], "origin": "pillion.yaml:11:17" }));
    assert_eq!(values["connect_timeout"], json!({ "value": "1s", "origin": "default" }));
    assert_eq!(
        text,
        "to `users`, named at pillion.yaml:9:9
by the route GET /v1/users/{id} at pillion.yaml:13:12
`static` names 10.0.0.7:8080, 10.0.0.8:8080
"
    );
    let (values, text) = explained("PUT http://users/v1/users/7");
    assert_eq!(values["timeout"]["origin"], "pillion.yaml:10:14");
    assert_eq!(shown(&values["retry.max"]["value"]), "1");
    assert!(
        text.contains("by no route\n  not GET /v1/users/{id} at pillion.yaml:13:12  another method\n"),
        "{text}"
    );
}

#[test]
fn calls_to_the_service_are_explained_too() {
    for request in ["GET /v1/orders/7", "GET /other"] {
        let (values, _) = explained(request);
        assert_eq!(shown(&values["timeout"]["value"]), "{bounds: whole call, time: 9s}");
        assert_eq!(values["timeout"]["origin"], "pillion.yaml:6:14", "{request}");
    }
    let (values, text) = explained("http://others/");
    assert!(values.values().all(|value| value["origin"] == "default"));
    assert_eq!(text, "to `others`, which no policy names\nby no route: there is none\n");
}
