//! The sidecars: one for each service, and one for the developer's own shell.

use std::sync::Arc;

use super::place::Place;
use super::service::Spec;
use super::{Failure, Plan};
use crate::app::{Addresses, App, Options};
use crate::base::readiness::{Condition, Readiness};
use crate::cli;
use crate::config::reload::Reload;
use crate::config::{self, Environment, Loaded, dev as form};
use crate::run::ports;
use crate::telemetry::Metrics;

/// All of them, running.
pub(super) struct Mesh {
    /// In the order of the services.
    pub sidecars: Vec<Sidecar>,
    /// For the shell.
    pub front: Sidecar,
}

/// One sidecar, and who looks after its files.
pub(super) struct Sidecar {
    app: App,
    _reload: Option<Reload>,
    service: std::sync::Mutex<Option<Condition>>,
}

/// What the supervisor of a service needs of its sidecar.
pub(super) struct Beside {
    /// Where it was bound.
    pub addresses: Addresses,
    /// Met when the service answers.
    pub answers: Option<Condition>,
}

impl Mesh {
    pub(super) fn start(
        plan: &Plan,
        environment: &Environment,
        specs: &[Arc<Spec>],
        place: &Place,
    ) -> Result<Self, String> {
        let mut sidecars = Vec::new();
        for spec in specs {
            sidecars.push(Sidecar::start(&spec.file, &spec.loaded, environment, true)?);
        }
        let front = front(plan, environment, place)?;
        Ok(Self { sidecars, front })
    }

    /// Lets the calls of the shell finish. The other sidecars carry what the
    /// services have to say to each other, and to their databases, to the end.
    pub(super) async fn drain(&self) {
        self.front.app.finish().await;
    }

    pub(super) fn stop(self) -> Result<(), String> {
        let all = self.sidecars.into_iter().chain([self.front]);
        let ended: Vec<_> = all.map(|sidecar| sidecar.app.stop()).collect();
        ended.into_iter().collect()
    }
}

impl Sidecar {
    fn start(
        file: &std::path::Path,
        loaded: &Loaded,
        environment: &Environment,
        service: bool,
    ) -> Result<Self, String> {
        ports::taken(&loaded.model)?;
        let metrics = Metrics::new();
        let watched = cli::reload(file, environment.clone(), loaded, &metrics);
        let (reload, reloads) = match watched {
            Ok((reload, reloads)) => (Some(reload), Some(reloads)),
            Err(error) => {
                tracing::warn!("the files of {} can't be watched: {error}", loaded.model.service.name);
                (None, None)
            }
        };
        let readiness = Readiness::default();
        let condition = service.then(|| readiness.condition("service"));
        let options = Options { reloads, metrics, readiness, ..Options::default() };
        let name = &loaded.model.service.name;
        let app = App::start(Arc::clone(&loaded.model), options)
            .map_err(|error| format!("the sidecar of {name} can't start: {error}"))?;
        Ok(Self { app, _reload: reload, service: std::sync::Mutex::new(condition) })
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.app.addresses
    }

    pub(super) fn beside(&self) -> Beside {
        let mut condition = self.service.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Beside { addresses: self.app.addresses.clone(), answers: condition.take() }
    }
}

/// On its usual port, or on a free one if that is taken.
fn front(plan: &Plan, environment: &Environment, place: &Place) -> Result<Sidecar, String> {
    let wanted = plan.front;
    let free = std::net::SocketAddr::new(wanted.ip(), 0);
    let listen = if std::net::TcpListener::bind(wanted).is_ok() { wanted } else { free };
    let content = form::front(&listen.to_string(), &place.registry());
    let file = place.write("pillion-dev", &content).map_err(|error| error.to_string())?;
    let loaded = config::load(&file, environment).map_err(|problems| problems.to_string())?;
    Sidecar::start(&file, &loaded, environment, false)
}

impl From<config::Problems> for Failure {
    fn from(problems: config::Problems) -> Self {
        Self::Config(problems)
    }
}
