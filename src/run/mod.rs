//! `pillion run`: one sidecar, alone or with its service as a child.
//!
//! Must hold: the service starts when its calls have somewhere to go, and is
//! told to end only when no call is on its way to it any more; whatever ends
//! first, nothing stays behind.

pub mod banner;
pub mod child;
pub mod ports;
pub mod signals;
pub mod values;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use self::child::{Child, Command};
use self::signals::{Request, Signals};
use crate::app::{App, Options};
use crate::base::readiness::{Condition, Readiness, State};
use crate::config::{Model, Values, reload::Reload};
use crate::discovery::health;
use crate::telemetry::Metrics;

/// The sidecar could not start.
pub const START_FAILED: u8 = 1;

/// The name of the condition that the service answers.
const SERVICE: &str = "service";

/// How long the service may take to end after SIGTERM. By then no call is on
/// its way to it; with the drain's own times it fits into the 30 s that
/// Kubernetes gives.
const SERVICE_GRACE: Duration = Duration::from_secs(5);

/// How often a service that does not answer is reported.
const REPORT: Duration = Duration::from_secs(15);

/// What to run.
pub struct Plan {
    /// The configuration.
    pub model: Arc<Model>,
    /// The file it came from; `None` for the defaults.
    pub file: Option<String>,
    /// Newer models, and who makes them.
    pub reload: Option<(Reload, tokio::sync::mpsc::Receiver<Arc<Model>>)>,
    /// What is known of the keys of Consul that the files name.
    pub values: Values,
    /// Where to count.
    pub metrics: Metrics,
    /// The service's command; empty if it is started by somebody else.
    pub command: Vec<OsString>,
    /// Whether the start is told as a block for a person.
    pub banner: bool,
}

/// Runs until a signal, `POST /drain` or the service's own end. Returns the
/// process's exit code.
pub fn run(mut plan: Plan) -> u8 {
    if plan.file.is_none() && !plan.command.is_empty() {
        // Nobody but the service has to know the ports, and it is told.
        for said in ports::make_way(Arc::make_mut(&mut plan.model)) {
            tracing::warn!("{said}");
        }
    }
    if let Err(problem) = ports::taken(&plan.model) {
        tracing::error!("the sidecar can't start\n{problem}");
        return START_FAILED;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    runtime.block_on(start(plan))
}

async fn start(plan: Plan) -> u8 {
    // From here on a signal is kept until somebody asks.
    let signals = match Signals::new(!plan.command.is_empty()) {
        Ok(signals) => signals,
        Err(error) => return failed(&error),
    };
    let (reload, reloads) = plan.reload.unzip();
    let readiness = Readiness::default();
    // Before the start: it must not be ready without its service for a moment.
    let service = (!plan.command.is_empty()).then(|| readiness.condition(SERVICE));
    let values = Some(plan.values);
    let options = Options { reloads, values, metrics: plan.metrics, readiness, ..Options::default() };
    let app = match App::start(Arc::clone(&plan.model), options) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    banner::started(&plan.model, plan.file.as_deref(), &app.addresses, plan.banner);
    let mut life = Life { app: &app, signals, reload, service: None };
    let code = match service {
        None => life.alone().await,
        Some(condition) => {
            child::adopt_orphans();
            let command = command(&plan.model, &app, plan.command);
            life.with_service(&plan.model, &command, condition).await
        }
    };
    drop(life);
    if let Err(panic) = app.stop() {
        tracing::error!("a thread of the sidecar panicked: {panic}");
        return START_FAILED;
    }
    code
}

fn failed(error: &dyn std::fmt::Display) -> u8 {
    tracing::error!("the sidecar can't start: {error}");
    START_FAILED
}

fn command(model: &Model, app: &App, words: Vec<OsString>) -> Command {
    let inherited = |name: &str| std::env::var_os(name);
    let environment = child::variables(app.addresses.outbound, model.service.address, inherited);
    Command { words, environment, ..Command::default() }
}

struct Life<'a> {
    app: &'a App,
    signals: Signals,
    reload: Option<Reload>,
    /// Where signals are passed to, while it runs.
    service: Option<rustix::process::Pid>,
}

/// How a wait ended.
enum Ended<T> {
    /// What was waited for.
    Done(T),
    /// SIGTERM or SIGINT.
    Signal(Signal),
}

impl Life<'_> {
    async fn alone(&mut self) -> u8 {
        let readiness = self.app.readiness.clone();
        // Both a signal and `POST /drain` lead on.
        let _ = self.until_signal(readiness.leaving()).await;
        match self.drained().await {
            Ended::Done(()) => 0,
            Ended::Signal(signal) => {
                tracing::warn!("a second signal: ending at once");
                signals::exit_code(signal)
            }
        }
    }

    async fn with_service(&mut self, model: &Model, command: &Command, condition: Condition) -> u8 {
        let readiness = self.app.readiness.clone();
        match self.until_signal(readiness.waits_only_for(SERVICE)).await {
            Ended::Done(State::Leaving) => return self.never_started(Signal::TERM).await,
            Ended::Signal(signal) => return self.never_started(signal).await,
            Ended::Done(_) => {}
        }
        let mut service = match Child::spawn(command) {
            Ok(service) => service,
            Err(error) => {
                tracing::error!("{}", error.message);
                return error.code;
            }
        };
        self.service = Some(service.pid());
        let code = self.beside(model, &mut service, condition).await;
        self.service = None;
        let left = child::kill_orphans();
        if left > 0 {
            tracing::warn!(processes = left, "the service left processes behind; they were killed");
        }
        code
    }

    async fn never_started(&mut self, signal: Signal) -> u8 {
        let app = self.app;
        match self.until_signal(finish(app)).await {
            Ended::Done(()) => signals::exit_code(signal),
            Ended::Signal(second) => signals::exit_code(second),
        }
    }

    /// From the service's start to its end.
    async fn beside(&mut self, model: &Model, service: &mut Child, condition: Condition) -> u8 {
        let readiness = self.app.readiness.clone();
        let mut reloads = self.app.model();
        let healthy = async {
            health::until_healthy(&mut reloads, REPORT, |why| {
                tracing::warn!("the service does not answer yet: {why}");
            })
            .await;
            condition.met();
            if model.service.address.is_some() {
                tracing::info!("the service answers");
            }
            std::future::pending::<()>().await;
        };
        let first = self.until_signal(async {
            tokio::select! {
                status = service.wait() => Some(status),
                () = readiness.leaving() => None,
                () = healthy => None,
            }
        });
        if let Ended::Done(Some(status)) = first.await {
            return self.ended_by_itself(status).await;
        }
        let drained = self.until_signal(async {
            tokio::select! {
                () = drain_inbound(self.app) => None,
                status = service.wait() => Some(status),
            }
        });
        match drained.await {
            Ended::Signal(signal) => return self.at_once(service, signal).await,
            Ended::Done(Some(status)) => return self.ended_by_itself(status).await,
            Ended::Done(None) => {}
        }
        service.signal(Signal::TERM);
        let status = match self.until_signal(service.end(SERVICE_GRACE)).await {
            Ended::Done(status) => status,
            Ended::Signal(signal) => return self.at_once(service, signal).await,
        };
        // Its own calls ended with it.
        let app = self.app;
        let _ = self.until_signal(app.finish()).await;
        code_of(status)
    }

    async fn ended_by_itself(&mut self, status: std::io::Result<ExitStatus>) -> u8 {
        self.service = None;
        let code = code_of(status);
        tracing::info!(code, "the service ended");
        // Nobody is left to serve new calls. A signal meanwhile ends the wait;
        // the code stays the service's own.
        let app = self.app;
        let _ = self.until_signal(finish(app)).await;
        code
    }

    /// A second signal.
    async fn at_once(&mut self, service: &mut Child, signal: Signal) -> u8 {
        tracing::warn!("a second signal: ending at once");
        let _ = service.end(Duration::ZERO).await;
        signals::exit_code(signal)
    }

    async fn drained(&mut self) -> Ended<()> {
        let app = self.app;
        self.until_signal(drain(app)).await
    }

    /// Waits for `work`; serves all signals meanwhile, but those that ask to end.
    async fn until_signal<T>(&mut self, work: impl Future<Output = T>) -> Ended<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let request = tokio::select! {
                biased;
                request = self.signals.next() => request,
                done = &mut work => return Ended::Done(done),
            };
            match request {
                Request::End(signal) => return Ended::Signal(signal),
                Request::Reload => match &self.reload {
                    Some(reload) => reload.trigger(),
                    None => tracing::info!("there is no file to read anew"),
                },
                Request::Pass(signal) => {
                    if let Some(pid) = self.service {
                        let _ = rustix::process::kill_process(pid, signal);
                    }
                }
                Request::Child => child::reap_orphans(),
            }
        }
    }
}

async fn drain(app: &App) {
    tracing::info!("draining; a second signal ends at once");
    told(app.drain().await);
}

/// Of calls to the service; its own are served until it has ended.
async fn drain_inbound(app: &App) {
    tracing::info!("draining; a second signal ends at once");
    told(app.drain_inbound().await);
}

/// Without the delay in which new calls are served.
async fn finish(app: &App) {
    told(app.finish().await);
}

fn told(finished: bool) {
    if finished {
        tracing::info!("drained");
    } else {
        tracing::warn!("the drain's deadline has passed; what still ran was ended");
    }
}

fn code_of(status: std::io::Result<ExitStatus>) -> u8 {
    match status {
        Ok(status) => child::exit_code(status),
        Err(error) => {
            tracing::error!("the service can't be waited for: {error}");
            START_FAILED
        }
    }
}
