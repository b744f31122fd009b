//! What keeps a few requests from being attempted at once: discovery has not
//! said yet whether it knows where they go.

use std::rc::Rc;
use std::time::Duration;

use http::request;

use super::connection::Door;
use super::egress;
use super::request::{Prepared, prepare};
use crate::base::ProxyError;
use crate::codec::Exchange;
use crate::telemetry::record::Record;
use crate::upstream::Upstream;

/// How long a captured request waits for what discovery says of its name.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// A request that is prepared, or has to wait before it can be.
pub enum Begun {
    /// Most are.
    Prepared(Result<Prepared, ProxyError>),
    /// See the module's text.
    Waits(Waits),
}

/// What a request waits for.
pub enum Waits {
    /// Captured: whether a source knows the name, before it has a route.
    Name(Rc<Upstream>, Box<(request::Parts, Exchange)>),
    /// `egress` lets only what is registered pass.
    Egress(Prepared),
}

impl Begun {
    /// Does all that can be done at once.
    pub fn new(door: &Rc<Door>, head: request::Parts, exchange: Exchange, record: &mut Record) -> Self {
        if let Some(upstream) = door.router().unanswered(door, exchange.authority.as_ref()) {
            return Self::Waits(Waits::Name(upstream, Box::new((head, exchange))));
        }
        match prepare(door, head, exchange, record) {
            Ok(prepared) if !egress::is_open(door, prepared.route()) => Self::Waits(Waits::Egress(prepared)),
            prepared => Self::Prepared(prepared),
        }
    }
}

impl Waits {
    /// Waits, and does the rest.
    pub async fn end(self, door: &Rc<Door>, record: &mut Record) -> Result<Prepared, ProxyError> {
        let prepared = match self {
            Self::Name(upstream, request) => {
                let (head, exchange) = *request;
                // Without the name there is the first destination.
                upstream.answered(FIRST_ANSWER, &door.worker.timers).await;
                prepare(door, head, exchange, record)?
            }
            Self::Egress(prepared) => prepared,
        };
        egress::admit(door, prepared.route()).await?;
        Ok(prepared)
    }
}
