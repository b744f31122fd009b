//! Where TLS goes that passes through: by the name that it asks for.

use std::rc::Rc;
use std::time::Duration;

use super::connection::Door;
use super::detect::{First, Look};
use super::router::Route;
use crate::base::UpstreamName;
use crate::codec::client_hello::Hello;
use crate::telemetry::record::Direction;

/// How long a caller waits for what discovery says of a name.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether TLS on a connection may choose where it goes: not where a listener
/// is for one upstream or for the service.
pub fn is_open(door: &Door) -> bool {
    door.direction == Direction::Outbound && (door.tunnel || door.fixed.is_none())
}

/// The route of a connection that is not HTTP; `None` where nobody knows it.
pub async fn route(door: &Rc<Door>, first: First, look: &mut Look) -> Option<Rc<Route>> {
    if first != First::Tls || !is_open(door) {
        return door.destination();
    }
    let Hello::Name(name) = look.hello(&door.context).await else { return door.destination() };
    let router = door.router();
    // A tunnel has said where it goes; only a policy may know better.
    let found = if door.tunnel { router.sni.claimed(&name) } else { router.sni.find(&name) };
    if let Some(found) = found {
        return router.route_to(found, door).ok();
    }
    drop(router);
    match door.destination() {
        Some(route) => Some(route),
        None => named(door, &name).await,
    }
}

/// The upstream of this name on the port of TLS; without a port, where a
/// source of discovery knows only that.
async fn named(door: &Door, name: &str) -> Option<Rc<Route>> {
    let to = |name: &str| door.router().route_to(&UpstreamName::new(name), door).ok();
    let secure = to(&format!("{name}:443"))?;
    match secure.upstream.answered(ANSWER, &door.worker.timers).await {
        Some(None) => to(name),
        _ => Some(secure),
    }
}
