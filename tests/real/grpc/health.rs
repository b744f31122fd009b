//! A service whose health is asked by `grpc.health.v1.Health`.

use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::time::Duration;

use pillion::base::Protocol;
use pillion::config::Model;
use pillion::config::model::{Health, HealthQuestion, Local, Source};
use pillion::discovery::health::wait_healthy;

use super::programs::{self, Language};
use crate::support::sidecar;

const SOON: Duration = Duration::from_millis(100);

fn say(stdin: &mut ChildStdin, service: &str, status: &str) {
    writeln!(stdin, "{service} {status}").unwrap();
    stdin.flush().unwrap();
}

fn asked_for(service: &str) -> Option<Health> {
    let question = HealthQuestion::Grpc(service.into());
    Some(Health { question, interval: SOON, timeout: Duration::from_secs(2) })
}

#[test]
fn others_find_a_service_only_while_its_own_health_serves() {
    let mut running = programs::listening(programs::python().arg("health").stdin(Stdio::piped()));
    let mut stdin = running.child.stdin.take().unwrap();
    say(&mut stdin, "shop.v1.Users", "NOT_SERVING");
    let folder = tempfile::tempdir().unwrap();
    let edit = |model: &mut Model| {
        model.service.protocol = Protocol::Grpc;
        model.service.health = asked_for("shop.v1.Users");
        let directory = folder.path().to_owned();
        model.discovery.push(Source::Local(Local { directory, register: true }));
    };
    let sidecar = sidecar("users").service(running.address).with(edit).start();
    for (status, wanted) in [("SERVING", 1.0), ("NOT_SERVING", 0.0), ("SERVING", 1.0)] {
        say(&mut stdin, "shop.v1.Users", status);
        sidecar.metric_is("pillion_service_healthy", &[], wanted);
        sidecar.metric_is("pillion_registered", &[("source", "local")], wanted);
    }
}

/// What the first question to a server meets.
fn first_answer(language: Language, question: HealthQuestion) -> Option<String> {
    let running = programs::server(language);
    let mut service = Model::minimal("users").service;
    service.address = Some(running.address);
    service.protocol = Protocol::Grpc;
    service.health = Some(Health { question, interval: SOON, timeout: Duration::from_secs(2) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut told = None;
    let asked = async {
        let healthy = wait_healthy(&service, Duration::ZERO, |why| {
            told.get_or_insert_with(|| why.to_string());
        });
        tokio::time::timeout(SOON * 10, healthy).await.is_ok()
    };
    let healthy = runtime.block_on(asked);
    assert_eq!(healthy, told.is_none());
    told
}

#[test]
fn what_a_server_without_health_lacks_is_told() {
    for language in Language::ALL {
        let told = first_answer(language, HealthQuestion::Grpc("".into())).expect("it has no such service");
        assert!(told.starts_with("UNIMPLEMENTED: the server has no grpc.health.v1.Health"), "{told}");
    }
}

#[test]
fn a_path_is_asked_over_http2_where_nothing_else_is_spoken() {
    // grpc-go refuses what is no call with 415, in HTTP/2.
    let told = first_answer(Language::Go, HealthQuestion::Path("/health".into()));
    assert_eq!(told.as_deref(), Some("status 415"));
}
