//! What keeps a few requests from being attempted at once: discovery has not
//! said yet whether it knows where they go, or a fault delays them.

use std::rc::Rc;
use std::time::Duration;

use http::request;

use super::connection::Door;
use super::egress;
use super::request::{Prepared, prepare};
use super::shaping::{Afterwards, Struck};
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
    /// A fault delays it, or `egress` lets only what is registered pass.
    Prepared(Prepared, Option<Box<Struck>>),
}

impl Begun {
    /// Does all that can be done at once.
    pub fn new(
        door: &Rc<Door>,
        head: request::Parts,
        exchange: Exchange,
        record: &mut Record,
        after: &mut Option<Afterwards>,
    ) -> Self {
        if let Some(upstream) = door.router().unanswered(door, exchange.authority.as_ref()) {
            return Self::Waits(Waits::Name(upstream, Box::new((head, exchange))));
        }
        match prepare(door, head, exchange, record, after) {
            Ok((prepared, None)) if egress::is_open(door, prepared.route()) => Self::Prepared(Ok(prepared)),
            Ok((prepared, struck)) => Self::Waits(Waits::Prepared(prepared, struck)),
            Err(error) => Self::Prepared(Err(error)),
        }
    }
}

impl Waits {
    /// Waits, and does the rest.
    pub async fn end(
        self,
        door: &Rc<Door>,
        record: &mut Record,
        after: &mut Option<Afterwards>,
    ) -> Result<Prepared, ProxyError> {
        let (prepared, struck) = match self {
            Self::Name(upstream, request) => {
                let (head, exchange) = *request;
                // Without the name there is the first destination.
                upstream.answered(FIRST_ANSWER, &door.worker.timers).await;
                prepare(door, head, exchange, record, after)?
            }
            Self::Prepared(prepared, struck) => (prepared, struck),
        };
        if let Some(struck) = struck {
            struck.strike(prepared.route(), door, prepared.call()).await?;
        }
        egress::admit(door, prepared.route()).await?;
        Ok(prepared)
    }
}
