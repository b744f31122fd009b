//! When the fronted service stands in the registries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::drain::{self, Stage};
use crate::base::readiness::{Readiness, State};
use crate::config::Model;
use crate::discovery::{Standing, health};
use crate::telemetry::{Metrics, names};

/// How often a service that stays sick is told of.
const REPORT: Duration = Duration::from_secs(60);

/// Others find the service from when it is ready until its listener closes,
/// and only while it is healthy. From when it leaves they are told that it ends.
/// When all has ended, it is taken out of what it still stands in.
pub(super) async fn stand(
    readiness: Readiness,
    model: watch::Receiver<Arc<Model>>,
    (inbound, mut drain, mut ends): (SocketAddr, drain::Watch, drain::Watch),
    metrics: Metrics,
) {
    if readiness.ready().await != State::Ready {
        return;
    }
    let mut standing = Standing::enter(model.clone(), inbound, &metrics);
    tokio::select! {
        _ = readiness.leaving() => {}
        () = follow_health(model, &mut standing, &metrics) => {}
    }
    if drain.stage() < Stage::Draining {
        standing.terminate();
    }
    drain.reached(Stage::Draining).await;
    standing.withdraw();
    ends.reached(Stage::Stopped).await;
    standing.end().await;
}

/// Has the service found only while it is healthy.
async fn follow_health(mut model: watch::Receiver<Arc<Model>>, standing: &mut Standing, metrics: &Metrics) {
    let healthy = metrics.gauge(&names::SERVICE_HEALTHY, &[]);
    loop {
        healthy.set(1.0);
        let why = health::until_sick(&mut model).await;
        tracing::warn!("the service is not healthy, so others do not find it any more: {why}");
        standing.sick(&why);
        healthy.set(0.0);
        health::until_healthy(&mut model, REPORT, |why| {
            tracing::warn!("the service is not healthy: {why}");
        })
        .await;
        tracing::info!("the service is healthy again");
        standing.well();
    }
}
