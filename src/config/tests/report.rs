//! Several files on disk: the report, the check, the sources.

use std::fs;
use std::path::Path;

use crate::config::check::{check, print_schema};
use crate::config::schema::Which;
use crate::config::{Environment, load, load_policy};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// The report with the folder's name taken out.
fn plain(text: impl std::fmt::Display, folder: &Path) -> String {
    text.to_string().replace(&format!("{}/", folder.display()), "")
}

#[test]
fn all_problems_of_all_files_come_in_one_report() {
    let folder = folder(&[
        (
            "pillion.yaml",
            "version: 1\nservice:\n  name: orders\n  prot: 8080\nlimits: {header_bytes: 64K}\ninbound:\n  - route: GET /v1/{id}\n",
        ),
        ("policies/a.yaml", "version: 1\ninbound:\n  - route: GET /v1/{order}\n    timeout: 5\n"),
        ("policies/b.yaml", "version: 1\noutbound:\n  - to: users\n   route: /a\n"),
        (
            "policies/c.yaml",
            "version: 1\noutbound:\n  - to: users\n    retry: {on: [gatway], per_try: ${TRY}}\n",
        ),
        ("other/d.yaml", "version: 9\n"),
    ]);
    let problems = load(&folder.path().join("pillion.yaml"), &Environment::default()).unwrap_err();
    let wanted = "\
pillion.yaml:4:3: unknown key `prot`
 4 |   prot: 8080
   |   ^^^^
   = did you mean `port`?
pillion.yaml:5:24: `K` may mean 1000 or 1024 and their powers: write `KB` or `KiB`
 5 | limits: {header_bytes: 64K}
   |                        ^^^
policies/a.yaml:3:12: this route ties with the one at pillion.yaml:7:12: both could take a request
 3 |   - route: GET /v1/{order}
   |            ^^^^^^^^^^^^^^^
   = take one out, or tell them apart by method, host, headers or query
policies/a.yaml:4:14: a duration needs a unit: write `5s` or `5ms`
 4 |     timeout: 5
   |              ^
policies/b.yaml:4:4: this is not YAML: while parsing a block collection, did not find expected '-' indicator
 4 |    route: /a
   |    ^
policies/c.yaml:4:37: this is not YAML: while parsing a flow mapping, did not find expected ',' or '}'
 4 |     retry: {on: [gatway], per_try: ${TRY}}
   |                                     ^
   = within `{…}` and `[…]` an expansion needs quotes: \"${NAME}\"
6 problems in 4 files";
    let report = plain(&problems, folder.path());
    assert_eq!(report, wanted, "\n{report}");
    assert_eq!(problems.count(), 6);
}

#[test]
fn each_value_of_each_file_has_its_place() {
    let folder = folder(&[
        ("pillion.yaml", "version: 1\nservice: {name: orders}\n"),
        ("policies/a.yaml", "version: 1\noutbound:\n  - {to: users, route: /a, timeout: 2s}\n"),
    ]);
    let loaded = load(&folder.path().join("pillion.yaml"), &Environment::default()).unwrap();
    let sources = &loaded.model.sources;
    assert_eq!(plain(&sources["service.name"], folder.path()), "pillion.yaml:2:17");
    let timeout = &sources["policies/a.yaml#outbound[0].timeout"];
    assert_eq!(plain(timeout, folder.path()), "policies/a.yaml:3:37");
    assert!(!sources.contains_key("workers"), "what was not written has no place");
    assert_eq!(plain(&loaded.model.outbound[0].origin, folder.path()), "policies/a.yaml:3:24");
    assert!(loaded.watched.contains(&folder.path().join("policies/a.yaml")));
}

#[test]
fn a_file_that_is_not_there_is_a_problem_and_a_pattern_without_files_a_warning() {
    let folder = folder(&[("pillion.yaml", "version: 1\nservice: {name: a}\npolicies: [none/*.yaml]\n")]);
    let loaded = load(&folder.path().join("pillion.yaml"), &Environment::default()).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(|w| plain(w.headline(), folder.path())).collect();
    assert_eq!(warnings, ["pillion.yaml:3:12: warning: no file matches `none/*.yaml`"]);
    let path = folder.path().join("pillion.yaml");
    std::fs::write(&path, "version: 1\nservice: {name: a}\npolicies: [orders.yaml]\n").unwrap();
    let problems = load(&path, &Environment::default()).unwrap_err();
    assert!(plain(&problems, folder.path()).starts_with("pillion.yaml:3:12: there is no file `orders.yaml`"));
    let problems = load(&folder.path().join("nothing.yaml"), &Environment::default()).unwrap_err();
    assert_eq!(
        plain(&problems, folder.path()),
        "nothing.yaml:1:1: can't read this file: there is no such file\n1 problem in 1 file"
    );
}

#[test]
fn a_file_that_is_no_text_or_too_large_is_a_problem() {
    let folder = folder(&[]);
    let path = folder.path().join("pillion.yaml");
    for (bytes, why) in
        [(vec![0xff, 0xfe], "it is not UTF-8 text"), (vec![b'a'; 2 << 20], "it is larger than 1024 KiB")]
    {
        fs::write(&path, bytes).unwrap();
        let problems = load(&path, &Environment::default()).unwrap_err();
        assert_eq!(problems.iter().next().unwrap().message, format!("can't read this file: {why}"));
    }
    let problems = load(folder.path(), &Environment::default()).unwrap_err();
    assert_eq!(problems.iter().next().unwrap().message, "can't read this file: it is a folder");
}

#[test]
fn check_lists_the_routes_or_says_what_is_wrong() {
    let folder = folder(&[
        (
            "pillion.yaml",
            "version: 1\nservice: {name: a}\ninbound: [{route: /**}, {route: 'GET /a/{x}'}, {route: /a/b, timeout: 3s}]\n",
        ),
        (
            "policies/p.yaml",
            "version: 1\noutbound: [{to: users, retry: {max: 2}}, {to: users, route: grpc u.U/Get, headers: {x-a: b}}]\n",
        ),
        ("bad.yaml", "version: 1\noutbound: [{to: users, rout: /a}]\n"),
    ]);
    let run = |names: &[&str]| {
        let mut out = Vec::new();
        let paths: Vec<_> = names.iter().map(|name| folder.path().join(name)).collect();
        let code = check(&paths, &Environment::default(), &mut out).unwrap();
        (code, plain(String::from_utf8(out).unwrap(), folder.path()))
    };
    let listing = "\
ok: 4 routes, 1 upstream
  inbound   /a/b  (timeout 3s)  pillion.yaml:3:56
  inbound   GET /a/{x}  (head within 30s)  pillion.yaml:3:33
  inbound   /**  (head within 30s)  pillion.yaml:3:19
  outbound  users
    grpc u.U/Get header:x-a  (head within 30s, retry 2)  policies/p.yaml:2:61
";
    assert_eq!(run(&["pillion.yaml"]), (0, listing.to_owned()));
    let (code, out) = run(&["policies/p.yaml"]);
    assert_eq!((code, out.lines().next()), (0, Some("ok: 1 route, 1 upstream")), "{out}");
    let (code, out) = run(&["pillion.yaml", "bad.yaml"]);
    assert_eq!(code, 78);
    assert!(
        out.starts_with("pillion.yaml: ok: 4 routes") && out.contains("bad.yaml:2:24: unknown key `rout`"),
        "{out}"
    );
    assert!(out.ends_with("1 problem in 1 file\n"), "{out}");
}

#[test]
fn a_policy_file_by_itself_takes_no_key_of_the_main_file() {
    let folder = folder(&[("p.yaml", "version: 1\nservice: {name: a}\n")]);
    let problems = load_policy(&folder.path().join("p.yaml"), &Environment::default()).unwrap_err();
    assert_eq!(problems.iter().next().unwrap().message, "unknown key `service`");
}

#[test]
fn the_schema_is_printed_as_json() {
    for (which, key) in [(Which::Main, "service"), (Which::Policy, "outbound")] {
        let mut out = Vec::new();
        print_schema(which, &mut out).unwrap();
        let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(schema["properties"][key]["description"].is_string());
    }
}

#[test]
fn a_check_does_not_ask_consul() {
    let folder = folder(&[
        ("pillion.yaml", "version: 1\nservice: {name: a}\ndiscovery: [consul: {}]\n"),
        (
            "policies/a.yaml",
            "version: 1\ninbound:\n  - timeout: ${consul:a/timeout}\n    idle_timeout: ${consul:a/idle:-3s}\n",
        ),
    ]);
    let main = folder.path().join("pillion.yaml");
    let mut out = Vec::new();
    assert_eq!(check(std::slice::from_ref(&main), &Environment::default(), &mut out).unwrap(), 0);
    let out = plain(String::from_utf8(out).unwrap(), folder.path());
    let wanted = "policies/a.yaml:3:14: warning: what depends on Consul's key `a/timeout` was not checked\n";
    assert!(out.starts_with(wanted), "{out}");
    // Nothing runs with a hole in it.
    let refused = plain(load(&main, &Environment::default()).unwrap_err(), folder.path());
    assert!(
        refused.starts_with("policies/a.yaml:3:14: what depends on Consul's key `a/timeout`"),
        "{refused}"
    );
}
