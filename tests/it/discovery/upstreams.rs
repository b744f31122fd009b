//! `pillion upstreams`, as a process beside a sidecar.

use std::process::Output;

use pillion::base::UpstreamName;
use serde_json::Value;

use crate::support::process::program;
use crate::support::{Deaf, Recorder, beside_others, get, sidecar};

/// In a folder of its own, so that no file is found by chance.
fn upstreams(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program();
    command.env_remove("PILLION_ADMIN").current_dir(folder.path()).arg("upstreams").args(arguments);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_person_sees_what_is_known_from_where_and_how_it_fares() {
    let _turn = beside_others();
    let (users, deaf) = (Recorder::start(), Deaf::new());
    let front = sidecar("front")
        .upstream("users", users.address())
        .upstream("gone", deaf.address())
        .with(|model| {
            model.upstreams.insert(UpstreamName::new("typo"), Default::default());
        })
        .start();
    for _ in 0..3 {
        assert_eq!(get(front.at.outbound, "users", "/").status, 200);
    }
    get(front.at.outbound, "gone", "/");
    let admin = front.at.admin.to_string();

    let all = upstreams(&["--admin", &admin]);
    assert!(all.status.success(), "{all:?}");
    let lines: Vec<String> = text(&all.stdout).lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("UPSTREAM  STATE"), "{lines:#?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
    assert_eq!(words(&lines[1]), "gone found 1 (1 away) static 0s", "{lines:#?}");
    assert_eq!(words(&lines[2]), "typo unknown 0 no source knows a service of this name", "{lines:#?}");
    assert_eq!(words(&lines[3]), "users found 1 static 0s", "{lines:#?}");

    let one = upstreams(&["--admin", &format!("http://{admin}/"), "USERS"]);
    assert!(one.status.success(), "{one:?}");
    let shown = text(&one.stdout);
    assert!(shown.starts_with("users: found, 1 endpoint by static, 0s old\n"), "{shown}");
    assert!(shown.contains(&format!("{}  ready", users.address())) && !shown.contains("gone"), "{shown}");
    assert!(shown.contains("static  0s   1 endpoint"), "{shown}");

    let json = upstreams(&["--admin", &admin, "--json", "users"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["upstreams"][0]["endpoints"][0]["requests"], 3);
    assert_eq!(json["upstreams"].as_array().unwrap().len(), 1);

    let missing = upstreams(&["--admin", &admin, "user"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
    let said = text(&missing.stderr);
    assert!(said.contains("does not follow `user`") && said.contains("gone, typo, users"), "{said}");
    front.end();
}

#[test]
fn without_a_sidecar_it_says_so() {
    let _turn = beside_others();
    let (deaf, service) = (Deaf::new(), Recorder::start());
    let nobody = upstreams(&["--admin", &deaf.address().to_string()]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = text(&nobody.stderr);
    assert!(said.starts_with("pillion: no sidecar answers at 127.0.0.1:"), "{said}");
    assert!(said.contains("refused"), "{said}");
    let other = upstreams(&["--admin", &service.address().to_string()]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("is no sidecar of this version"), "{other:?}");
    assert_eq!(upstreams(&["--admin", "users"]).status.code(), Some(2));
    assert_eq!(upstreams(&["-c", "nowhere.yaml"]).status.code(), Some(78));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pillion.yaml");
    let listen = format!("version: 1\nservice: {{name: a}}\nlisten: {{admin: '{}'}}\n", deaf.address());
    std::fs::write(&file, listen).unwrap();
    let configured = upstreams(&["-c", file.to_str().unwrap()]);
    let said = text(&configured.stderr);
    assert_eq!(configured.status.code(), Some(1), "{said}");
    assert!(said.contains(&deaf.address().to_string()) && said.contains("--admin"), "{said}");
}
