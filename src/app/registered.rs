//! When the fronted service stands in the registries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::drain::{self, Stage};
use crate::base::readiness::{Readiness, State};
use crate::config::Model;
use crate::discovery::{self, health};
use crate::telemetry::{Metrics, names};

/// How often a service that stays sick is told of.
const REPORT: Duration = Duration::from_secs(60);

/// Others find the service from when it is ready until its listener closes,
/// and only while it is healthy. From when it leaves they are told that it ends.
pub(super) async fn stand(
    readiness: Readiness,
    mut model: watch::Receiver<Arc<Model>>,
    (inbound, mut drain): (SocketAddr, drain::Watch),
    metrics: Metrics,
) {
    if readiness.ready().await != State::Ready {
        return;
    }
    let healthy = metrics.gauge(&names::SERVICE_HEALTHY, &[]);
    loop {
        healthy.set(1.0);
        let registration = discovery::register(model.clone(), inbound, &metrics);
        tokio::select! {
            _ = readiness.leaving() => {
                if drain.stage() < Stage::Draining {
                    let model = model.borrow().clone();
                    registration.terminate(&model);
                }
                drain.reached(Stage::Draining).await;
                return registration.withdraw();
            }
            why = health::until_sick(&mut model) => {
                tracing::warn!("the service is not healthy, so others do not find it any more: {why}");
            }
        }
        registration.withdraw();
        healthy.set(0.0);
        let service = model.borrow().service.clone();
        tokio::select! {
            _ = readiness.leaving() => return,
            () = health::wait_healthy(&service, REPORT, |why| tracing::warn!("the service is not healthy: {why}")) => {
                tracing::info!("the service is healthy again");
            }
        }
    }
}
