//! One service: built once, started, watched, started again when it crashes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::logs::{self, Sink, Tail};
use super::mesh::Beside;
use super::order::Links;
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

/// Ports of services: below those of outgoing connections, which begin at 32768
/// (Linux, `net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 20_000..32_000;

/// What is known of a service before it runs.
pub(super) struct Spec {
    index: usize,
    pub name: String,
    pub file: PathBuf,
    pub loaded: Loaded,
    /// What to run; empty for what runs already.
    pub words: Vec<OsString>,
    /// Those that must answer before it starts.
    pub after: Vec<String>,
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
                let listener = free().map_err(text)?;
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
            after: service.after.iter().flatten().map(|name| name.0.clone()).collect(),
            words: service.command.iter().flat_map(form::Command::words).map(OsString::from).collect(),
            build: service.build.as_ref().map(|build| build.0.clone()),
            directory,
            environment: variables,
        }));
    }
    if problems.is_empty() { Ok(specs) } else { Err(problems.into()) }
}

/// Holds a free port. The system's own choice would be a port from which any
/// program's next connection may go out before the service has it.
fn free() -> std::io::Result<TcpListener> {
    (0..100)
        .map(|_| (Ipv4Addr::LOCALHOST, fastrand::u16(PORTS)))
        .find_map(|at| TcpListener::bind(at).ok())
        .map_or_else(|| TcpListener::bind("127.0.0.1:0"), Ok)
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

/// Keeps the service running until `stop` says otherwise, once all that it
/// starts after are there.
pub(super) async fn supervise(
    spec: Arc<Spec>,
    beside: Beside,
    mut links: Links,
    sink: Arc<Sink>,
    mut stop: Watch,
    news: mpsc::Sender<News>,
) {
    let ready = tokio::select! {
        ready = links.ready() => ready,
        () = stop.reached(Stage::Draining) => Ok(()),
    };
    let mut around = Around { beside, links, sink, stop, news };
    let well = match ready {
        Ok(()) if spec.words.is_empty() => return around.watch(&spec).await,
        Ok(()) => around.keep(&spec).await,
        Err(missing) => {
            around.sink.note(&format!("{} is not started: {missing} never answered", spec.name));
            false
        }
    };
    // Nobody listens any more when all is ending.
    let _ = around.news.send(News::Over(spec.index, well)).await;
}

/// What there is around a running service.
struct Around {
    beside: Beside,
    links: Links,
    sink: Arc<Sink>,
    stop: Watch,
    news: mpsc::Sender<News>,
}

impl Around {
    /// Tells when what runs already answers, and stays until the end.
    async fn watch(&mut self, spec: &Spec) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = healthy(spec, &self.sink, &mut self.beside.answers, &self.links, &self.news) => {}
            () = stop.reached(Stage::Draining) => {}
        }
    }

    /// Starts it, again and again where it crashes; whether it ended well.
    async fn keep(&mut self, spec: &Spec) -> bool {
        let command = Command {
            words: spec.words.clone(),
            directory: Some(spec.directory.clone()),
            environment: environment(spec, &self.beside),
            piped: true,
        };
        let (mut pause, mut crashes) = (BACKOFF.0, 0);
        loop {
            if self.stop.stage() >= Stage::Draining {
                return true;
            }
            let started = Instant::now();
            let tail = Tail::default();
            let status = match Child::spawn(&command) {
                Ok(mut child) => self.once(spec, &mut child, &tail).await,
                Err(error) => {
                    self.sink.line(&spec.name, &error.message);
                    return false;
                }
            };
            let status = match status {
                None => return true,
                Some(Ok(status)) => status,
                Some(Err(error)) => {
                    self.sink.line(&spec.name, &format!("can't be waited for: {error}"));
                    return false;
                }
            };
            if status.success() {
                self.sink.line(&spec.name, "ended by itself, with exit code 0");
                self.links.up.send_replace(true);
                return true;
            }
            if started.elapsed() >= STEADY {
                (pause, crashes) = (BACKOFF.0, 0);
            }
            crashes += 1;
            report(&spec.name, status, &tail, &self.sink);
            if crashes == ATTEMPTS {
                let note = format!("{} crashed {ATTEMPTS} times at its start and is given up", spec.name);
                self.sink.note(&note);
                return false;
            }
            self.sink.note(&format!("{} starts again in {:.1} s", spec.name, pause.as_secs_f64()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.reached(Stage::Draining) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One life of it: how it ended by itself, or `None` if it was told to.
    async fn once(
        &mut self,
        spec: &Spec,
        child: &mut Child,
        tail: &Tail,
    ) -> Option<std::io::Result<ExitStatus>> {
        let Self { beside, links, sink, stop, news } = self;
        let signaller = child.signaller();
        let mut end = std::pin::pin!(to_its_end(child, &spec.name, sink, tail));
        tokio::select! {
            ended = &mut end => return Some(ended),
            () = stop.reached(Stage::Draining) => {}
            () = healthy(spec, sink, &mut beside.answers, links, news) => {}
        }
        tokio::select! {
            ended = &mut end => return Some(ended),
            () = links.last() => {}
            () = stop.reached(Stage::Stopped) => {}
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
}

/// The variables of the service: its own, and those that lead to its sidecar.
fn environment(spec: &Spec, beside: &Beside) -> BTreeMap<OsString, OsString> {
    let outbound = beside.addresses.outbound;
    let inherited = |name: &str| spec.environment.get(std::ffi::OsStr::new(name)).cloned();
    let mut environment = child::variables(outbound, spec.loaded.model.service.address, inherited);
    for (key, value) in &spec.environment {
        environment.entry(key.clone()).or_insert_with(|| value.clone());
    }
    environment
}

/// Never ends: the first answer is told, and then nothing more is asked.
async fn healthy(
    spec: &Spec,
    sink: &Sink,
    answers: &mut Option<crate::base::readiness::Condition>,
    links: &Links,
    news: &mpsc::Sender<News>,
) {
    child::wait_healthy(&spec.loaded.model.service, REPORT, |why| {
        sink.note(&format!("{} does not answer yet: {why}", spec.name));
    })
    .await;
    if let Some(answers) = answers.take() {
        answers.met();
        links.up.send_replace(true);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_a_port_that_no_outgoing_connection_takes() {
        let held: Vec<_> = (0..50).map(|_| free().unwrap()).collect();
        assert!(held.iter().all(|listener| PORTS.contains(&listener.local_addr().unwrap().port())));
    }
}
