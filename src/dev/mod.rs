//! `pillion dev`: several services of one machine, each with a sidecar of its
//! own, without root or containers.
//!
//! The sidecars live in this process, the services are its children. Sidecars
//! find each other in a registry folder that nobody else uses and that is gone
//! afterwards.

mod logs;
mod mesh;
mod order;
mod place;
mod service;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::base::drain::{self, Signal, Stage};
use crate::config::{self, Problems, dev as form};
use crate::run::child;
use crate::run::signals::{Request, Signals};

pub use logs::{Own, Sink};
use mesh::Mesh;
use place::Place;

/// How long a service may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long the table waits for services that do not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to run.
pub struct Plan {
    /// `pillion.dev.yaml`.
    pub file: PathBuf,
    /// Only these; all if empty.
    pub only: Vec<String>,
    /// Where the developer's own shell finds the mesh.
    pub front: std::net::SocketAddr,
    /// Where lines go.
    pub sink: Arc<Sink>,
}

/// Why it ended before anything ran.
enum Failure {
    Config(Problems),
    Text(u8, String),
}

/// Runs until a signal, or until no service is left. Returns the exit code.
pub fn run(plan: &Plan) -> u8 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(all(plan)),
        Err(error) => Err(Failure::Text(1, error.to_string())),
    };
    child::kill_orphans();
    match outcome {
        Ok(code) => code,
        Err(Failure::Config(problems)) => {
            eprint!("{problems}");
            config::EXIT_CODE
        }
        Err(Failure::Text(code, why)) => {
            eprintln!("pillion: {why}");
            code
        }
    }
}

async fn all(plan: &Plan) -> Result<u8, Failure> {
    let text = |code| move |why: String| Failure::Text(code, why);
    let mut signals = Signals::new(true).map_err(|error| Failure::Text(1, error.to_string()))?;
    child::adopt_orphans();
    let environment = form::environment(&plan.file).map_err(text(config::EXIT_CODE))?;
    let mut services = form::read(&plan.file, &environment).map_err(Failure::Config)?;
    choose(&mut services, &plan.only).map_err(text(config::EXIT_CODE))?;
    plan.sink.align(services.keys().map(String::as_str));
    let place =
        Place::new().map_err(|error| Failure::Text(1, format!("no folder for the registry: {error}")))?;
    let specs = service::specs(plan, &environment, &services, &place)?;
    // Side by side: one compiles while another waits for its downloads.
    let builds = try_join_all(specs.iter().map(|spec| service::build(spec, &plan.sink)));
    tokio::select! {
        built = builds => drop(built.map_err(text(1))?),
        () = ending(&mut signals) => {
            plan.sink.note("ended before the services were built");
            return Ok(130);
        }
    }
    let mesh = Mesh::start(plan, &environment, &specs, &place).map_err(text(1))?;
    let (stop, watch) = drain::channel();
    // Room for all that they tell: nobody reads once all is ending.
    let (news, mut told) = mpsc::channel(2 * specs.len());
    let mut running = JoinSet::new();
    for ((spec, app), links) in specs.iter().zip(&mesh.sidecars).zip(order::links(&specs)) {
        let (sink, watch, news) = (plan.sink.clone(), watch.clone(), news.clone());
        running.spawn(service::supervise(spec.clone(), app.beside(), links, sink, watch, news));
    }
    drop((watch, news));
    let code = tokio::select! {
        code = serve(plan, &mesh, &specs, &mut told) => code,
        () = ending(&mut signals) => 0,
    };
    plan.sink.note("draining; a second Ctrl-C ends at once");
    tokio::select! {
        () = quiet(&mesh, &stop, &mut running) => {}
        () = ending(&mut signals) => stop.advance(Stage::Stopped),
    }
    while running.join_next().await.is_some() {}
    mesh.stop().map_err(text(1))?;
    Ok(code)
}

/// First the calls end, then the services.
async fn quiet(mesh: &Mesh, stop: &Signal, running: &mut JoinSet<()>) {
    mesh.drain().await;
    stop.advance(Stage::Draining);
    while running.join_next().await.is_some() {}
}

/// Waits for the signal to end; serves the others.
async fn ending(signals: &mut Signals) {
    loop {
        match signals.next().await {
            Request::End(_) => return,
            Request::Child => child::reap_orphans(),
            Request::Reload | Request::Pass(_) => {}
        }
    }
}

/// What a supervisor tells.
enum News {
    /// The service answers for the first time.
    Up(usize),
    /// It will not be started again; whether it ended well.
    Over(usize, bool),
}

/// Tells the table when all services answer, and ends when none is left.
async fn serve(
    plan: &Plan,
    mesh: &Mesh,
    specs: &[Arc<service::Spec>],
    told: &mut mpsc::Receiver<News>,
) -> u8 {
    let mut open: Vec<usize> = (0..specs.len()).collect();
    // What was not started here does not end here.
    let mut left = specs.iter().filter(|spec| !spec.words.is_empty()).count().max(1);
    let (mut well, mut shown) = (true, false);
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    while left > 0 {
        tokio::select! {
            news = told.recv() => match news {
                Some(News::Up(index)) => open.retain(|other| *other != index),
                Some(News::Over(index, ended_well)) => {
                    open.retain(|other| *other != index);
                    well &= ended_well;
                    left -= 1;
                }
                None => break,
            },
            () = &mut patience, if !shown => open.clear(),
        }
        if open.is_empty() && !shown && left > 0 {
            plan.sink.block(&table::text(specs, mesh));
            shown = true;
        }
    }
    plan.sink.note("no service is left");
    u8::from(!well)
}

fn choose<T>(services: &mut std::collections::BTreeMap<String, T>, only: &[String]) -> Result<(), String> {
    if let Some(unknown) = only.iter().find(|name| !services.contains_key(*name)) {
        let known: Vec<_> = services.keys().map(String::as_str).collect();
        return Err(format!("there is no service `{unknown}`; there are {}", known.join(", ")));
    }
    if !only.is_empty() {
        services.retain(|name, _| only.contains(name));
    }
    Ok(())
}
