//! One service: built once, started, watched, started again when it crashes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::logs::{self, Sink, Tail};
use super::mesh::Beside;
use super::place::Place;
use super::{Failure, GRACE, News, Plan};
use crate::base::drain::{Stage, Watch};
use crate::config::{self, Environment, Loaded, dev as form};
use crate::run::child::{self, Child, Command};

/// Pauses before a new start: first and longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A service that ran for so long has not crashed at its start.
const STEADY: Duration = Duration::from_secs(30);
/// So many crashes at the start, one after another, and it is given up.
const ATTEMPTS: u32 = 8;
/// How often a service that does not answer is reported.
const REPORT: Duration = Duration::from_secs(15);
/// Output may be held open by what the service left behind; it is not waited for longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What is known of a service before it runs.
pub(super) struct Spec {
    index: usize,
    pub name: String,
    pub file: PathBuf,
    pub loaded: Loaded,
    words: Vec<OsString>,
    build: Option<String>,
    directory: PathBuf,
    environment: BTreeMap<OsString, OsString>,
}

/// Reads the policies of all services; the problems of all come together.
pub(super) fn specs(
    plan: &Plan,
    environment: &Environment,
    services: &BTreeMap<String, form::Service>,
    place: &Place,
) -> Result<Vec<Arc<Spec>>, Failure> {
    let text = |error: std::io::Error| Failure::Text(1, error.to_string());
    let folder = std::path::absolute(form::folder(&plan.file)).map_err(text)?;
    // Held until all ports are chosen, so that no two services get the same.
    let mut held = Vec::new();
    let (mut specs, mut problems) = (Vec::new(), config::Problems::default());
    for (index, (name, service)) in services.iter().enumerate() {
        let port = match service.port {
            Some(port) => port,
            None => {
                let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
                let port = listener.local_addr().map_err(text)?.port();
                held.push(listener);
                port
            }
        };
        let content = form::sidecar(name, service, port, &folder, &place.registry());
        let file = place.write(name, &content).map_err(text)?;
        let loaded = match config::load(&file, environment) {
            Ok(loaded) => loaded,
            Err(refused) => {
                problems.extend(refused);
                continue;
            }
        };
        loaded.warnings.iter().for_each(|warning| plan.sink.block(&warning.to_string()));
        let directory = folder.join(service.directory.as_ref().map_or(".", |directory| &directory.0));
        let mut variables: BTreeMap<OsString, OsString> =
            environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
        // One PORT of the shell would be that of all services.
        variables.insert("PORT".into(), port.to_string().into());
        variables.extend(service.env.iter().flatten().map(|(key, value)| (key.into(), value.into())));
        specs.push(Arc::new(Spec {
            index,
            name: name.clone(),
            file,
            loaded,
            words: service.command.iter().flat_map(form::Command::words).map(OsString::from).collect(),
            build: service.build.as_ref().map(|build| build.0.clone()),
            directory,
            environment: variables,
        }));
    }
    if problems.is_empty() { Ok(specs) } else { Err(problems.into()) }
}

/// Runs the build step, if there is one.
pub(super) async fn build(spec: &Spec, sink: &Sink) -> Result<(), String> {
    let Some(line) = &spec.build else { return Ok(()) };
    sink.line(&spec.name, &format!("building: {line}"));
    let command = Command {
        words: form::shell(line).into_iter().map(OsString::from).collect(),
        directory: Some(spec.directory.clone()),
        environment: spec.environment.clone(),
        piped: true,
    };
    let started = Instant::now();
    let mut child = Child::spawn(&command).map_err(|error| format!("{}: {}", spec.name, error.message))?;
    let status = to_its_end(&mut child, &spec.name, sink, &Tail::default()).await;
    match status {
        Ok(status) if status.success() => {
            sink.line(&spec.name, &format!("built in {:.1} s", started.elapsed().as_secs_f64()));
            Ok(())
        }
        Ok(status) => Err(format!("{}: the build failed ({status})", spec.name)),
        Err(error) => Err(format!("{}: the build can't be waited for: {error}", spec.name)),
    }
}

/// Waits for the end of a child and of its output.
async fn to_its_end(child: &mut Child, name: &str, sink: &Sink, tail: &Tail) -> std::io::Result<ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let out = async {
        if let Some(output) = stdout {
            logs::follow(output, name, sink, tail).await;
        }
    };
    let err = async {
        if let Some(output) = stderr {
            logs::follow(output, name, sink, tail).await;
        }
    };
    let mut output = std::pin::pin!(async { tokio::join!(out, err) });
    let mut over = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = &mut output, if !over => over = true,
        }
    };
    if !over {
        let _ = tokio::time::timeout(LAST_WORDS, output).await;
    }
    status
}

/// Keeps the service running until `stop` says otherwise.
pub(super) async fn supervise(
    spec: Arc<Spec>,
    beside: Beside,
    sink: Arc<Sink>,
    mut stop: Watch,
    news: mpsc::Sender<News>,
) {
    let outbound = beside.addresses.outbound;
    let inherited = |name: &str| spec.environment.get(std::ffi::OsStr::new(name)).cloned();
    let mut environment = child::variables(outbound, spec.loaded.model.service.address, inherited);
    for (key, value) in &spec.environment {
        environment.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let command = Command {
        words: spec.words.clone(),
        directory: Some(spec.directory.clone()),
        environment,
        piped: true,
    };
    let mut answers = beside.answers;
    let (mut pause, mut crashes) = (BACKOFF.0, 0);
    let well = loop {
        if stop.stage() >= Stage::Draining {
            break true;
        }
        let started = Instant::now();
        let tail = Tail::default();
        let mut child = match Child::spawn(&command) {
            Ok(child) => child,
            Err(error) => {
                sink.line(&spec.name, &error.message);
                break false;
            }
        };
        let ended = tokio::select! {
            ended = to_its_end_or(&mut child, &spec, &sink, &tail, &mut stop) => ended,
            () = healthy(&spec, &sink, &mut answers, &news) => None,
        };
        let Some(status) = ended else { break true };
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                sink.line(&spec.name, &format!("can't be waited for: {error}"));
                break false;
            }
        };
        if status.success() {
            sink.line(&spec.name, "ended by itself, with exit code 0");
            break true;
        }
        if started.elapsed() >= STEADY {
            (pause, crashes) = (BACKOFF.0, 0);
        }
        crashes += 1;
        report(&spec.name, status, &tail, &sink);
        if crashes == ATTEMPTS {
            sink.note(&format!("{} crashed {ATTEMPTS} times at its start and is given up", spec.name));
            break false;
        }
        sink.note(&format!("{} starts again in {:.1} s", spec.name, pause.as_secs_f64()));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.reached(Stage::Draining) => {}
        }
        pause = (pause * 2).min(BACKOFF.1);
    };
    // Nobody listens any more when all is ending.
    let _ = news.send(News::Over(spec.index, well)).await;
}

/// How the child ended by itself; `None` if it was ended because of `stop`.
async fn to_its_end_or(
    child: &mut Child,
    spec: &Spec,
    sink: &Sink,
    tail: &Tail,
    stop: &mut Watch,
) -> Option<std::io::Result<ExitStatus>> {
    let signaller = child.signaller();
    let mut end = std::pin::pin!(to_its_end(child, &spec.name, sink, tail));
    tokio::select! {
        ended = &mut end => return Some(ended),
        () = stop.reached(Stage::Draining) => {}
    }
    signaller.group(Signal::TERM);
    tokio::select! {
        _ = &mut end => return None,
        () = tokio::time::sleep(GRACE) => sink.note(&format!("{} does not end and is killed", spec.name)),
        () = stop.reached(Stage::Stopped) => {}
    }
    signaller.group(Signal::KILL);
    let _ = end.await;
    None
}

/// Never ends: the first answer is told, and then nothing more is asked.
async fn healthy(
    spec: &Spec,
    sink: &Sink,
    answers: &mut Option<crate::base::readiness::Condition>,
    news: &mpsc::Sender<News>,
) {
    child::wait_healthy(&spec.loaded.model.service, REPORT, |why| {
        sink.note(&format!("{} does not answer yet: {why}", spec.name));
    })
    .await;
    if let Some(answers) = answers.take() {
        answers.met();
        let _ = news.send(News::Up(spec.index)).await;
    }
    std::future::pending::<()>().await;
}

fn report(name: &str, status: ExitStatus, tail: &Tail, sink: &Sink) {
    sink.note(&format!("{name} crashed ({status}); its last lines:"));
    for line in tail.take() {
        sink.note(&format!("  {line}"));
    }
}
