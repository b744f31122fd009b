//! An instance that ends and still serves.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use pillion::base::UpstreamName;
use pillion::config::model::{Local, Source};

use crate::support::backend::echo_path;
use crate::support::sidecar::Setup;
use crate::support::{Load, Recorder, beside_others, get, sidecar, until};

fn with_registry(setup: Setup, directory: &std::path::Path) -> Setup {
    let local = Source::Local(Local { directory: directory.into(), register: true });
    setup.with(|model| model.discovery.push(local))
}

fn standings(admin: std::net::SocketAddr) -> Vec<String> {
    let clusters: serde_json::Value =
        serde_json::from_slice(&get(admin, &admin.to_string(), "/clusters").body).expect("JSON");
    let users = clusters["upstreams"].as_array().unwrap().iter().find(|one| one["upstream"] == "users");
    let endpoints = users.and_then(|users| users["endpoints"].as_array()).cloned().unwrap_or_default();
    endpoints.iter().map(|one| one["standing"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_only_instance_is_called_until_its_listener_closes_and_no_more_beside_another() {
    let _turn = beside_others();
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    let (first, second) = (Recorder::answering(echo_path), Recorder::answering(echo_path));
    let back = |server: &Recorder| {
        let setup = with_registry(sidecar("users"), folder.path()).service(server.address());
        setup.with(|model| model.drain.delay = Duration::from_secs(3)).start()
    };
    let front = with_registry(sidecar("front"), folder.path())
        .with(|model| {
            model.upstreams.insert(UpstreamName::new("users"), Default::default());
        })
        .start();
    let leaving = back(&first);
    until("the first instance is found", || standings(front.at.admin) == ["ready"]);
    let load = Load::new().http1(2, front.at.outbound, "users").running();
    let second_sidecar = std::thread::scope(|scope| {
        let drained = scope.spawn(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            assert!(runtime.block_on(leaving.app().drain()), "something was left");
        });
        until("it is said to end", || standings(front.at.admin) == ["terminating"]);
        load.more(50);
        let second_sidecar = back(&second);
        until("both are known", || standings(front.at.admin).len() == 2);
        until("the other alone is called", || {
            first.take();
            load.more(50);
            first.take().is_empty()
        });
        drained.join().unwrap();
        second_sidecar
    });
    until("the entry is withdrawn", || standings(front.at.admin) == ["ready"]);
    load.more(50);
    load.end().none_failed();
    assert!(!second.take().is_empty());
    second_sidecar.end();
}
