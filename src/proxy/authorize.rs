//! Lets in whom the route's `allow` names, and tells the service who it is. What
//! is decided stands in `policy::authorize`. A route without `allow` pays a
//! branch.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request;
use metrics::Counter;

use super::connection::Door;
use super::gateway::Client;
use super::keyrings::{Keyrings, Ring};
use super::router::Route;
use crate::base::clock;
use crate::base::{ProxyError, Reason};
use crate::config::Model;
use crate::config::model::{Allow, Issuer, Keys, Who};
use crate::policy::authorize::{
    self, Believed, CLIENT_BY, CLIENT_ID, Caller, Denied, Fault, Identity, Kind, Tokens,
};
use crate::telemetry::names;
use crate::telemetry::record::Direction;

/// Who is believed by one model, as a worker holds it.
#[derive(Default)]
pub struct Porter {
    issuers: Vec<Arc<Issuer>>,
    rings: Vec<Option<Arc<Ring>>>,
    tokens: Tokens,
    /// What callers may not say; empty where nobody has to prove anything.
    reserved: Vec<HeaderName>,
}

/// Denials of one route, by their cause and whether they only would have been.
pub type Counts = RefCell<Vec<((&'static str, bool), Counter)>>;

impl Porter {
    /// For `model`. Tokens that were checked by an earlier one are checked anew.
    pub fn new(model: &Model, keyrings: &Keyrings) -> Self {
        let issuers = model.authentication.jwt.clone();
        let rings = issuers.iter().map(|issuer| match &issuer.keys {
            Keys::Set(_) => None,
            Keys::Remote(from) => Some(keyrings.get(from)),
        });
        let gateways = model.gateways.iter().flat_map(|gateway| &gateway.routes);
        let routes = model.inbound.iter().chain(gateways).map(|route| &route.policy);
        let mut policies = routes.chain([&model.inbound_defaults]);
        let mut reserved = Vec::new();
        if !issuers.is_empty() || policies.any(|policy| policy.allow.is_some()) {
            reserved.extend([CLIENT_ID, CLIENT_BY]);
            let forward = issuers.iter().flat_map(|issuer| &issuer.forward);
            reserved.extend(forward.map(|(_, name)| name.clone()));
        }
        Self { rings: rings.collect(), issuers, tokens: Tokens::default(), reserved }
    }

    /// Takes out what callers may not say of themselves, also in a form that some
    /// servers take for the same: `_` for `-`.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.reserved {
            headers.remove(name);
        }
        let dashed = |name: &HeaderName| name.as_str().replace('_', "-");
        let same = |name: &&HeaderName| {
            name.as_str().contains('_') && self.reserved.iter().any(|own| dashed(own) == dashed(name))
        };
        let names: Vec<HeaderName> = headers.keys().filter(same).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }

    /// Decides, and asks for keys that a token names and that are not there.
    fn decide(&self, allow: &Allow, caller: Caller<'_>) -> Result<Option<Identity>, Denied> {
        let keys = |number: usize| match &self.issuers[number].keys {
            Keys::Set(keys) => Some(keys.clone()),
            Keys::Remote(_) => self.rings[number].as_ref().and_then(|ring| ring.keys()),
        };
        let believed =
            Believed { issuers: &self.issuers, keys: &keys, tokens: &self.tokens, now: clock::wall() };
        authorize::decide(allow, caller, &believed)
    }

    /// A token has named a key that is not there: whose, the token does not prove.
    fn want(&self, denied: &Denied) {
        if denied.cause == Fault::Key.cause() || denied.kind == Kind::Unknown {
            self.rings.iter().flatten().for_each(|ring| ring.want());
        }
    }
}

/// Lets a call in, or not. Who calls is known where an entry proves it.
pub fn admit(
    door: &Door,
    route: &Route,
    head: &mut request::Parts,
) -> Result<Option<Rc<Identity>>, ProxyError> {
    let Some(allow) = &route.policy.allow else { return Ok(None) };
    // Whoever floods the service with bad credentials is stopped before they are looked at.
    let ip = head.extensions.get::<Client>().map_or(door.peer, |client| client.0).ip();
    super::rate::by_source(route, ip, &mut head.extensions)?;
    let caller = Caller { ip, headers: &head.headers, query: head.uri.query() };
    let router = door.router();
    let denied = match router.porter.decide(allow, caller) {
        Ok(identity) => return Ok(identity.map(Rc::new)),
        Err(denied) => denied,
    };
    router.porter.want(&denied);
    tell(door, route, allow, &denied);
    if allow.shadow { Ok(None) } else { Err(refusal(allow, route, denied)) }
}

/// Whether a connection that is not HTTP may reach the service. It shows nothing
/// but its address. Where only some routes name callers, nobody knows which one
/// it would meet, and it may not.
pub fn admit_opaque(door: &Door, route: &Route) -> Result<(), ProxyError> {
    if door.direction != Direction::Inbound {
        return Ok(());
    }
    let router = door.router();
    let empty = HeaderMap::new();
    let caller = Caller { ip: door.peer.ip(), headers: &empty, query: None };
    if let Some(allow) = &route.policy.allow {
        return match router.porter.decide(allow, caller) {
            Ok(_) => Ok(()),
            Err(denied) => {
                let denied = Denied { kind: Kind::Address, ..denied };
                tell(door, route, allow, &denied);
                if allow.shadow { Ok(()) } else { Err(refusal(allow, route, denied)) }
            }
        };
    }
    if !router.service().is_some_and(|service| Rc::ptr_eq(service, &route.upstream)) {
        return Ok(());
    }
    let mut named = router.model.inbound.iter().filter_map(|route| route.policy.allow.as_ref());
    match named.find(|allow| allow.holds()) {
        None => Ok(()),
        Some(allow) => {
            let detail =
                "it is not HTTP, so it shows nobody who calls, and a route lets only some callers in";
            Err(ProxyError::unsent(Reason::PermissionDenied, detail).by(allow.origin.clone()))
        }
    }
}

/// Counts a denial, and tells the log now and then.
fn tell(door: &Door, route: &Route, allow: &Allow, denied: &Denied) {
    let mut counts = route.denied.borrow_mut();
    let key = (denied.cause, allow.shadow);
    let known = counts.iter().position(|(other, _)| *other == key);
    let at = known.unwrap_or_else(|| {
        let metrics = &door.worker.metrics;
        let upstream = metrics.label(route.upstream.name.as_str());
        let mode = if allow.shadow { "shadow" } else { "enforce" };
        let labels = [door.direction.as_str(), &upstream, &route.template, denied.cause, mode];
        counts.push((key, metrics.counter(&names::DENIED, &labels)));
        counts.len() - 1
    });
    counts[at].1.increment(1);
    let whom = format!("{} {} {}", allow.origin, denied.cause, allow.shadow);
    if let Some(untold) = door.worker.notices.due(reason(denied.kind), &whom, clock::now()) {
        let (rule, cause, what) = (&allow.origin, denied.cause, &denied.detail);
        let would = if allow.shadow { "would be" } else { "was" };
        tracing::warn!(%rule, cause, route = &*route.template, peer = %door.peer, untold, "a call {would} denied: {what}");
    }
}

fn reason(kind: Kind) -> Reason {
    match kind {
        Kind::Missing | Kind::Bad => Reason::Unauthenticated,
        Kind::Unknown => Reason::KeysUnavailable,
        Kind::Address | Kind::Forbidden => Reason::PermissionDenied,
    }
}

fn refusal(allow: &Allow, route: &Route, denied: Denied) -> ProxyError {
    let fields = challenge(allow, route, &denied);
    ProxyError { fields, ..ProxyError::unsent(reason(denied.kind), denied.detail).by(allow.origin.clone()) }
}

/// What a caller may show (RFC 9110, section 11.6.1; RFC 6750, section 3).
fn challenge(allow: &Allow, route: &Route, denied: &Denied) -> Option<Box<HeaderMap>> {
    let error = match (denied.kind, &denied.scope) {
        (Kind::Missing, _) => String::new(),
        (Kind::Bad, _) => {
            format!(", error=\"invalid_token\", error_description=\"{}\"", quoted(&denied.detail))
        }
        (Kind::Forbidden, Some(scope)) => {
            format!(", error=\"insufficient_scope\", scope=\"{}\"", quoted(scope))
        }
        _ => return None,
    };
    let realm = quoted(route.upstream.name.as_str());
    let mut fields = Box::new(HeaderMap::new());
    let mut put = |text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            fields.append(WWW_AUTHENTICATE, value);
        }
    };
    if allow.has_tokens() {
        put(format!("Bearer realm=\"{realm}\"{error}"));
    }
    for one in &allow.any {
        if let Who::ApiKey(keys) = &one.who {
            put(format!("ApiKey realm=\"{realm}\", header=\"{}\"", keys.header));
        }
    }
    Some(fields)
}

/// What may stand between quotation marks.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).collect()
}
