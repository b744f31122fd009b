//! The annotated reference under `config/`, the schema and the model say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::model::{
    Balance, Compare, Dns, Drain, Hedge, Limits, Mirror, Retry, RoutePolicy, Source, Telemetry,
};
use crate::config::schema::{Which, schema, shape};
use crate::config::{Environment, check, defaults, load};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every `*.yaml` below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !matches!(name.as_str(), "node_modules" | "target" | ".venv" | "vendor") {
            files(&path, found);
        } else if name.ends_with(".yaml") {
            found.push(path);
        }
    }
}

/// Whether a file is one of ours: others may lie among the examples.
fn ours(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    let value = yaml(path);
    name != "pillion.dev.yaml"
        && value.get("version").is_some()
        && ["service", "inbound", "outbound"].iter().any(|key| value.get(key).is_some_and(|v| !v.is_null()))
        && value.get("services").is_none()
}

#[test]
fn every_file_of_ours_validates_against_the_schema_and_loads() {
    let mut found = Vec::new();
    files(&root().join("config"), &mut found);
    files(&root().join("examples"), &mut found);
    found.retain(|path| ours(path));
    assert!(found.len() >= 2, "{found:?}");
    for path in found {
        let which = check::kind_of(&path);
        let validator = jsonschema::draft202012::new(schema(which)).unwrap();
        let value = yaml(&path);
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        let mut out = Vec::new();
        let code = check::check(&[path], &Environment::process(), &mut out).unwrap();
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn the_schemas_are_schemas_and_refuse_what_is_wrong() {
    for which in [Which::Main, Which::Policy] {
        assert!(jsonschema::meta::is_valid(schema(which)), "{which:?}");
    }
    let validator = jsonschema::draft202012::new(schema(Which::Main)).unwrap();
    let base = serde_json::json!({"version": 1, "service": {"name": "a", "port": "${PORT}", "protocol": "${P:-tcp}"}});
    assert!(validator.is_valid(&base), "an expansion may stand for a number or a word");
    for (key, value) in [
        ("workers", serde_json::json!("two")),
        ("workers", serde_json::json!(0)),
        ("zebra", serde_json::json!(1)),
        ("drain", serde_json::json!({"delay": "5"})),
        ("version", serde_json::json!(2)),
        ("discovery", serde_json::json!([{"local": {}, "dns": {}}])),
        ("outbound", serde_json::json!([{"route": "/a"}])),
    ] {
        let mut broken = base.clone();
        broken[key] = value;
        assert!(!validator.is_valid(&broken), "{broken}");
    }
}

/// For each property of the schema, by its path: its default, if it has one.
fn properties(schema: &Value, path: &str, into: &mut BTreeMap<String, Option<Value>>) {
    if !schema.is_object() {
        return;
    }
    for (key, sub) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        into.insert(path.clone(), sub.get("default").cloned());
        properties(sub, &path, into);
    }
    for sub in [&schema["items"], &schema["additionalProperties"]] {
        properties(sub, path, into);
    }
    for sub in schema["anyOf"].as_array().into_iter().flatten() {
        properties(sub, path, into);
    }
}

/// The values that a file has at each path of the schema.
fn values(value: &Value, schema: &Value, path: &str, into: &mut BTreeMap<String, Vec<Value>>) {
    if !schema.is_object() {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(sub) = schema["properties"].get(key) {
                    let path = format!("{path}.{key}");
                    into.entry(path.clone()).or_default().push(value.clone());
                    values(value, sub, &path, into);
                } else {
                    values(value, &schema["additionalProperties"], path, into);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, &schema["items"], path, into)),
        _ => {}
    }
    for sub in schema["anyOf"].as_array().into_iter().flatten() {
        values(value, sub, path, into);
    }
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let mut keys = BTreeSet::new();
    for (which, name) in
        [(Which::Main, "config/pillion.yaml"), (Which::Policy, "config/policies/reference.yaml")]
    {
        let (mut wanted, mut found) = (BTreeMap::new(), BTreeMap::new());
        let text = fs::read_to_string(root().join(name)).unwrap();
        properties(shape(which), "", &mut wanted);
        if which == Which::Main {
            let elsewhere = [".inbound.", ".outbound.", ".tests."];
            wanted.retain(|path, _| !elsewhere.iter().any(|list| path.starts_with(list)));
        }
        // What a route of a gateway holds is shown by those of services.
        let depth = |path: &str| path.matches('.').count();
        wanted.retain(|path, _| !path.starts_with(".gateway.routes.") || depth(path) == 3);
        // Conditions have one form, which `inbound.headers` shows.
        wanted.retain(|path, _| !path.contains(".query.") && !path.starts_with(".outbound.headers."));
        // A token is its caller's.
        wanted.remove(".outbound.rate_limit.per.claim");
        // A step has the keys of its test.
        wanted.retain(|path, _| !path.starts_with(".tests.then.") || path == ".tests.then.after");
        values(&yaml(&root().join(name)), shape(which), "", &mut found);
        for (path, default) in wanted {
            let key = path.rsplit('.').next().unwrap();
            keys.insert(key.to_owned());
            let values = found.get(&path).cloned().unwrap_or_default();
            assert!(!values.is_empty() || text.contains(&format!("# {key}: ")), "{name} lacks {path}");
            if let Some(default) = default {
                assert!(values.contains(&default), "{name}: {path} is {values:?}, not {default}");
            }
        }
    }
    let guide = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for key in keys {
        let known = [format!("{key}`"), format!("{key}: "), format!("{key}.")]
            .iter()
            .any(|form| guide.contains(form));
        assert!(known, "docs/configuration.md lacks `{key}`");
    }
}

#[test]
fn the_defaults_of_the_reference_are_those_of_the_model() {
    let environment = Environment::default();
    let path = root().join("config/pillion.yaml");
    let model = load(&path, &environment).unwrap_or_else(|problems| panic!("{problems}")).model;
    let plain = defaults("orders", Some(8080), &environment);
    assert_eq!(model.limits, Limits::default());
    assert_eq!(model.drain, Drain::default());
    assert_eq!(model.telemetry, Telemetry::default());
    assert_eq!(model.listen, plain.listen);
    assert_eq!(model.service.address, plain.service.address);
    assert_eq!(model.service.protocol, plain.service.protocol);
    let health = model.service.health.as_ref().unwrap();
    assert_eq!((health.interval.as_secs(), health.timeout.as_secs()), (10, 3));
    assert!(model.discovery.contains(&Source::Dns(Dns::default())), "{:?}", model.discovery);
    assert!(matches!(&plain.discovery[..], [Source::Local(local), Source::Dns(_)] if local.register));

    let users = &model.upstreams["users"].policy;
    let built_in = RoutePolicy::default();
    assert_eq!(users.idle_timeout, built_in.idle_timeout);
    assert_eq!(users.tunnel_idle, built_in.tunnel_idle);
    assert_eq!(users.connect_timeout, built_in.connect_timeout);
    assert_eq!(users.balance, Balance::Ewma);
    assert_eq!(users.hedge, Some(Hedge::default()));
    let mirror = users.mirror.as_deref().unwrap();
    let built_in = Mirror { host: mirror.host.clone(), ..Mirror::new(mirror.to.clone()) };
    assert_eq!(*mirror, Mirror { compare: Some(Compare::default()), ..built_in });
    let retry = users.retry.clone().unwrap();
    assert_eq!(Retry { per_try: None, ..retry }, Retry::default());
}
