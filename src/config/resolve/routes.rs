//! Routes and what upstreams share. A value is looked up in the route, then in
//! the entry without `route` (of the upstream, or of `inbound`), then among the
//! built-in defaults.

mod gateway;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

use super::breaker;
use super::concurrency::Limit;
use super::hedge;
use super::mirror;
use super::ports::Port;
use super::rate::{self, Rates};
use super::retry::{self, Asked};
use super::shaping;
use super::whole::{self, Claims};
use super::{At, Routes, set};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::{
    Allow, Balance, HashOn, Json, Model, Pattern, Route, RoutePolicy, Source, Timeout, ValueMatch,
};
use crate::config::problem::Problems;
use crate::config::shape::nearest;
use crate::config::text::Host;
use crate::config::tree::Span;

/// The names that can be found, as far as the files tell.
pub(super) enum Known {
    /// Any: a source is asked at run time.
    Any,
    /// Only these.
    Only(BTreeSet<UpstreamName>),
}

impl Known {
    pub(super) fn of(sources: &[Source], unreadable: bool) -> Self {
        let names = |source: &Source| match source {
            Source::Static(map) => Some(map.keys().cloned().collect::<Vec<_>>()),
            _ => None,
        };
        match sources.iter().map(names).collect::<Option<Vec<_>>>() {
            Some(lists) if !unreadable && !lists.is_empty() => {
                Self::Only(lists.into_iter().flatten().collect())
            }
            _ => Self::Any,
        }
    }
}

/// What one part of a policy says; what it does not say is looked up further.
#[derive(Clone, Copy, Default)]
struct Said<'a> {
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    tunnel_idle: Option<Duration>,
    connect_timeout: Option<Duration>,
    retry: Option<&'a form::Retry>,
    hedge: Option<&'a form::Hedge>,
    mirror: Option<&'a form::Mirror>,
    circuit_breaker: Option<&'a form::CircuitBreaker>,
    failures: Option<&'a [form::Failure]>,
    balance: Option<&'a form::Balance>,
    grpc_web: Option<bool>,
    json: Option<&'a Arc<Json>>,
    allow: Option<&'a Arc<Allow>>,
    rates: Option<Rates<'a>>,
    concurrency: Option<Limit<'a>>,
    shaping: shaping::Said<'a>,
}

impl<'a> From<&'a form::Outbound> for Said<'a> {
    fn from(form: &'a form::Outbound) -> Self {
        Self {
            timeout: form.timeout.as_ref().map(|d| d.0),
            idle_timeout: form.idle_timeout.as_ref().map(|d| d.0),
            tunnel_idle: form.tunnel_idle.as_ref().map(|d| d.0),
            connect_timeout: form.connect_timeout.as_ref().map(|d| d.0),
            retry: form.retry.as_ref(),
            hedge: form.hedge.as_ref(),
            mirror: form.mirror.as_ref(),
            circuit_breaker: form.circuit_breaker.as_ref(),
            failures: form.failures.as_deref(),
            balance: form.balance.as_ref(),
            grpc_web: form.grpc_web,
            json: None,
            allow: None,
            rates: None,
            concurrency: None,
            shaping: form.into(),
        }
    }
}

impl<'a> From<&'a form::Inbound> for Said<'a> {
    fn from(form: &'a form::Inbound) -> Self {
        Self {
            timeout: form.timeout.as_ref().map(|d| d.0),
            idle_timeout: form.idle_timeout.as_ref().map(|d| d.0),
            tunnel_idle: form.tunnel_idle.as_ref().map(|d| d.0),
            grpc_web: form.grpc_web,
            shaping: form.into(),
            ..Self::default()
        }
    }
}

impl<'a> Said<'a> {
    /// What holds for a route, or for the calls that no route takes.
    fn policy(self, shared: Self, pattern: Option<&Pattern>, model: &Model) -> RoutePolicy {
        let shaping = shaping::shaping(self.shaping, shared.shaping, pattern, model);
        RoutePolicy { shaping, ..policy(self, shared) }
    }

    /// What its retries go by.
    fn asked(self, shared: Self) -> Asked<'a> {
        Asked { own: self.retry, shared: shared.retry, timeout: self.timeout, policy: policy(self, shared) }
    }

    fn with_allow(self, list: &'a BTreeMap<usize, Arc<Allow>>, index: usize) -> Self {
        Self { allow: list.get(&index), ..self }
    }

    /// The same, with the `json` of the entry at `index`.
    fn with_json(self, list: &'a BTreeMap<usize, Arc<Json>>, index: usize) -> Self {
        Self { json: list.get(&index), ..self }
    }

    fn with_rates(self, rates: Option<Rates<'a>>) -> Self {
        Self { rates, ..self }
    }

    fn with_concurrency(self, concurrency: Option<Limit<'a>>) -> Self {
        Self { concurrency, ..self }
    }
}

/// Reads the entries of all files into the model.
pub(super) fn resolve(
    files: &[Routes],
    known: &Known,
    model: &mut Model,
    ports: &mut Vec<Port>,
    problems: &mut Problems,
) {
    inbound(files, model, problems);
    let blocks = blocks(files, known, model, ports, problems);
    outbound(files, &blocks, model, problems);
    gateway::resolve(files, known, &blocks, model, ports, problems);
    shaping::upstreams(model);
    mirror::upstreams(model);
    let mut spans = HashMap::new();
    for file in files {
        for key in ["inbound", "outbound"] {
            let at = At::root(&file.file, &file.root).key(key);
            for index in 0..file.inbound.len().max(file.outbound.len()) {
                let at = at.item(index).key("route");
                spans.insert(at.origin(), at);
            }
        }
    }
    ties(&model.inbound, &spans, true, problems);
    ties(&model.outbound, &spans, true, problems);
}

fn inbound(files: &[Routes], model: &mut Model, problems: &mut Problems) {
    let mut shared = Said::default();
    let mut first: Option<At<'_>> = None;
    for (file, list) in files.iter().map(|file| (file, &file.inbound)) {
        for (index, form) in list.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("inbound").item(index);
            if form.route.is_some() || at.node.lost("route") {
                continue;
            }
            conditions_without_route(at, problems);
            if let Some(first) = first {
                let place = first.origin();
                problems.push(at.problem(format!("another entry without `route`; the first is at {place}")));
            }
            first.get_or_insert(at);
            shared =
                Said::from(form).with_json(&file.inbound_json, index).with_rates(Rates::inbound(form, at));
            shared = shared.with_allow(&file.inbound_allow, index);
            shared = shared.with_concurrency(Limit::inbound(form, at));
            Rates::check(shared.rates, problems);
            Limit::check(shared.concurrency, problems);
            shaping::check(shared.shaping, None, model, at, problems);
        }
    }
    model.inbound_defaults = Said::default().policy(shared, None, model);
    if let Some(first) = first {
        rate::claims_are_known(&model.inbound_defaults, first, problems);
    }
    for (file, list) in files.iter().map(|file| (file, &file.inbound)) {
        for (index, form) in list.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("inbound").item(index);
            let Some(route) = &form.route else { continue };
            let conditions = (&form.host, &form.headers, &form.query);
            let Some(pattern) = pattern(route, conditions, at, problems) else { continue };
            let own =
                Said::from(form).with_json(&file.inbound_json, index).with_rates(Rates::inbound(form, at));
            let own = own.with_allow(&file.inbound_allow, index);
            let own = own.with_concurrency(Limit::inbound(form, at));
            Rates::check(own.rates, problems);
            Limit::check(own.concurrency, problems);
            shaping::check(own.shaping, Some(&pattern), model, at, problems);
            let policy = own.policy(shared, Some(&pattern), model);
            rate::claims_are_known(&policy, at, problems);
            model.inbound.push(Route { to: None, pattern, policy, origin: at.key("route").origin() });
        }
    }
}

/// The entries of upstreams, by their name.
fn blocks<'a>(
    files: &'a [Routes],
    known: &Known,
    model: &mut Model,
    ports: &mut Vec<Port>,
    problems: &mut Problems,
) -> BTreeMap<UpstreamName, Said<'a>> {
    let (mut blocks, mut claims, mut places) = (BTreeMap::new(), Claims::new(), BTreeMap::new());
    for (file, list) in files.iter().map(|file| (file, &file.outbound)) {
        for (index, form) in list.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("outbound").item(index);
            let Some(to) = &form.to else { continue };
            if !shaping::Said::from(form).is_direct() {
                defined(&to.0, at.key("to").shown(), at.key("to"), known, problems);
            }
            let legal = |name: &&String| crate::config::text::check("pillion-upstream", name).is_ok();
            for name in form.split.iter().flat_map(BTreeMap::keys).filter(legal) {
                defined(&UpstreamName::new(name), name, at.key("split").word(name), known, problems);
            }
            if let Some(to) = form.mirror.as_ref().and_then(|mirror| mirror.to.as_ref()) {
                let at = at.key("mirror").key("to");
                defined(&to.0, at.shown(), at, known, problems);
            }
            mirror::check((Some(to), form.mirror.as_ref()), at, problems);
            if form.route.is_some() || at.node.lost("route") {
                continue;
            }
            conditions_without_route(at, problems);
            let said =
                Said::from(form).with_json(&file.outbound_json, index).with_rates(Rates::outbound(form, at));
            let said = said.with_concurrency(Limit::outbound(form, at));
            if let Some(first) = model.upstreams.get(&to.0).and_then(|upstream| upstream.origin.as_ref()) {
                let name = at.key("to").shown();
                let message = format!("another entry of `{name}` without `route`; the first is at {first}");
                problems.push(at.key("to").problem(message));
                continue;
            }
            retry::check(&said.asked(Said::default()), at, problems);
            Rates::check(said.rates, problems);
            Limit::check(said.concurrency, problems);
            shaping::check(said.shaping, None, model, at, problems);
            check_breaker(None, form.circuit_breaker.as_ref(), at, problems);
            shaping::check_sticky(said.shaping, shaping::Said::default(), at, problems);
            if let Some(listen) = &form.listen {
                let what = format!("`listen` of `{}`", at.key("to").shown());
                ports.push(Port::new(listen.0, what, Some(at.key("listen"))));
            }
            let policy = said.policy(Said::default(), None, model);
            let upstream = whole::upstream(form, policy, at, &mut claims, problems);
            places.extend(upstream.origin.clone().map(|origin| (origin, at)));
            model.upstreams.insert(to.0.clone(), upstream);
            blocks.insert(to.0.clone(), said);
        }
    }
    whole::check_sni(&model.upstreams, &places, problems);
    blocks
}

fn outbound(
    files: &[Routes],
    blocks: &BTreeMap<UpstreamName, Said<'_>>,
    model: &mut Model,
    problems: &mut Problems,
) {
    for (file, list) in files.iter().map(|file| (file, &file.outbound)) {
        for (index, form) in list.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("outbound").item(index);
            let Some(route) = &form.route else { continue };
            whole::not_in_a_route(form, at, problems);
            let conditions = (&form.host, &form.headers, &form.query);
            let pattern = pattern(route, conditions, at, problems);
            let shared = form.to.as_ref().and_then(|to| blocks.get(&to.0)).copied().unwrap_or_default();
            let rates = Rates::outbound(form, at);
            let said = Said::from(form).with_json(&file.outbound_json, index).with_rates(rates);
            let said = said.with_concurrency(Limit::outbound(form, at));
            let asked = said.asked(shared);
            retry::check(&asked, at, problems);
            Rates::check(rates, problems);
            Limit::check(said.concurrency, problems);
            check_breaker(Some(route), form.circuit_breaker.as_ref(), at, problems);
            let (Some(pattern), Some(to)) = (pattern, &form.to) else { continue };
            retry::check_grpc(&asked, &pattern, at, problems);
            model.upstreams.entry(to.0.clone()).or_default();
            shaping::check(said.shaping, Some(&pattern), model, at, problems);
            shaping::check_sticky(said.shaping, shared.shaping, at, problems);
            let policy = said.policy(shared, Some(&pattern), model);
            model.outbound.push(Route {
                to: Some(to.0.clone()),
                pattern,
                policy,
                origin: at.key("route").origin(),
            });
        }
    }
}

fn defined(name: &UpstreamName, shown: &str, at: At<'_>, known: &Known, problems: &mut Problems) {
    let Known::Only(names) = known else { return };
    // An address needs no source.
    if names.contains(name) || name.as_literal(0).is_some() {
        return;
    }
    let message = format!("nothing is known of the upstream `{shown}`: `static` is the only source");
    let problem = at.problem(message);
    let near = nearest(name.as_str(), names.iter().map(UpstreamName::as_str)).filter(|_| at.literal());
    problems.push(match near {
        Some(near) => problem.help(format!("did you mean `{near}`?")),
        None => problem.help("add it to `discovery: [static: …]`"),
    });
}

fn conditions_without_route(at: At<'_>, problems: &mut Problems) {
    for key in ["host", "headers", "query"] {
        if at.node.get(key).is_some() {
            let problem =
                at.word(key).problem(format!("`{key}` is a condition of a route, and there is no `route`"));
            problems.push(problem.help("add `route: /**` to take every path"));
        }
    }
}

type Map = Option<BTreeMap<String, form::Condition>>;

fn pattern(
    route: &str,
    (host, headers, query): (&Option<Host>, &Map, &Map),
    at: At<'_>,
    problems: &mut Problems,
) -> Option<Pattern> {
    let place = at.key("route");
    let parsed = Pattern::parse(route).map_err(|error| {
        // The place within the text is a place in the file only if the file has that very text.
        let exact = place.literal() && place.span.width as usize >= route.chars().count();
        let quoted = u32::from(place.span.width as usize > route.chars().count());
        let offset = u32::try_from(error.offset).unwrap_or(0) + quoted;
        let width = u32::try_from(error.width).unwrap_or(1);
        let span = match exact {
            true => Span { column: place.span.column + offset, width, ..place.span },
            false => place.span,
        };
        let message = match place.literal() {
            true => error.message,
            false => format!("`{}` does not expand to a route", place.shown()),
        };
        problems.push(place.file.problem(span, message));
    });
    let headers = self::headers(headers, at.key("headers"), problems);
    let query =
        query.iter().flatten().map(|(name, condition)| (name.as_str().into(), value(condition))).collect();
    let host = host.as_ref().map(|host| Arc::from(host.0.as_str()));
    Some(Pattern { host, headers, query, ..parsed.ok()? })
}

fn headers(map: &Map, at: At<'_>, problems: &mut Problems) -> Vec<(HeaderName, ValueMatch)> {
    let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
    for (name, condition) in map.iter().flatten() {
        let at = at.word(name);
        if let Err(message) = crate::config::text::check("pillion-header", name) {
            problems.push(at.problem(message));
            continue;
        }
        let Ok(header) = HeaderName::try_from(name.as_str()) else { continue };
        if header == http::header::HOST {
            problems.push(at.problem("the host has a key of its own: write `host: …` in the route"));
        } else if headers.iter().any(|(other, _)| *other == header) {
            problems.push(
                at.problem(format!("the header `{name}` stands here twice: capitals make no difference")),
            );
        }
        headers.push((header, value(condition)));
    }
    headers
}

fn value(form: &form::Condition) -> ValueMatch {
    match form {
        form::Condition::Exact(text) => ValueMatch::Exact(text.as_str().into()),
        form::Condition::Part(form::Part { prefix: Some(text), .. }) => {
            ValueMatch::Prefix(text.as_str().into())
        }
        form::Condition::Part(form::Part { present, .. }) => ValueMatch::Present(present.unwrap_or(true)),
    }
}

fn policy(own: Said<'_>, shared: Said<'_>) -> RoutePolicy {
    let mut policy = RoutePolicy::default();
    if let Some(timeout) = own.timeout.or(shared.timeout) {
        policy.timeout = Timeout::Whole(timeout);
    }
    set(&mut policy.idle_timeout, own.idle_timeout.or(shared.idle_timeout));
    set(&mut policy.tunnel_idle, own.tunnel_idle.or(shared.tunnel_idle));
    set(&mut policy.connect_timeout, own.connect_timeout.or(shared.connect_timeout));
    policy.retry = retry::retry(own.retry, shared.retry);
    policy.hedge = hedge::hedge(own.hedge, shared.hedge);
    policy.mirror = own.mirror.or(shared.mirror).and_then(mirror::mirror);
    policy.circuit_breaker = own.circuit_breaker.or(shared.circuit_breaker).map(breaker::breaker);
    set(&mut policy.failures, own.failures.or(shared.failures).map(breaker::failures));
    if let Some(balance) = own.balance.or(shared.balance).and_then(balance) {
        policy.balance = balance;
    }
    set(&mut policy.grpc_web, own.grpc_web.or(shared.grpc_web));
    policy.json = own.json.or(shared.json).cloned();
    policy.allow = own.allow.or(shared.allow).cloned();
    policy.concurrency =
        [own.concurrency, shared.concurrency].into_iter().flatten().map(Limit::limit).collect();
    policy.rate_limits = own.rates.or(shared.rates).map(Rates::limits).unwrap_or_default();
    policy
}

fn balance(form: &form::Balance) -> Option<Balance> {
    Some(match form.by.as_ref()? {
        form::By::Way(form::Way::Ewma) => Balance::Ewma,
        form::By::Way(form::Way::LeastRequest) => Balance::LeastRequest,
        form::By::Way(form::Way::RoundRobin) => Balance::RoundRobin,
        form::By::Hash(hash) => Balance::Hash(match hash.hash.as_ref()? {
            form::HashOn { header: Some(header), .. } => HashOn::Header(header.0.clone()),
            form::HashOn { cookie: Some(cookie), .. } => HashOn::Cookie(cookie.0.as_str().into()),
            _ => HashOn::Source,
        }),
    })
}

fn check_breaker(
    route: Option<&str>,
    form: Option<&form::CircuitBreaker>,
    at: At<'_>,
    problems: &mut Problems,
) {
    let grpc = route.is_some_and(|route| route.starts_with("grpc "));
    if let Some(form) = form {
        breaker::check(form, grpc, at.key("circuit_breaker"), problems);
    }
}

/// Reports each route that ties with an earlier one, of the same upstream or of all.
fn ties(
    routes: &[Route],
    spans: &HashMap<crate::base::Origin, At<'_>>,
    by_upstream: bool,
    problems: &mut Problems,
) {
    let mut groups: HashMap<(Option<&UpstreamName>, usize), Vec<&Route>> = HashMap::new();
    for route in routes {
        let group = groups
            .entry((route.to.as_ref().filter(|_| by_upstream), route.pattern.segments.len()))
            .or_default();
        if let Some(first) = group.iter().find(|other| other.pattern.ties_with(&route.pattern))
            && let Some(at) = spans.get(&route.origin)
        {
            let message =
                format!("this route ties with the one at {}: both could take a request", first.origin);
            let problem = at.problem(message);
            problems.push(problem.help("take one out, or tell them apart by method, host, headers or query"));
        }
        group.push(route);
    }
}
