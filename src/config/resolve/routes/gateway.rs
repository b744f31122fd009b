//! The listeners of `gateway`. A value is looked up in the route, then in the
//! listener's entry without `route`, then in the entry of its upstream under
//! `outbound`, then among the built-in defaults.

use std::collections::BTreeMap;

use super::{At, Known, Said, check_breaker, conditions_without_route, defined, pattern, ties};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::{Gateway, Model, Route};
use crate::config::problem::Problems;
use crate::config::resolve::concurrency::Limit;
use crate::config::resolve::ports::Port;
use crate::config::resolve::rate::Rates;
use crate::config::resolve::{Routes, mirror, retry, shaping};

/// What holds for the routes of a listener.
type Blocks<'a> = BTreeMap<UpstreamName, Said<'a>>;

impl<'a> From<&'a form::GatewayRoute> for Said<'a> {
    fn from(form: &'a form::GatewayRoute) -> Self {
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

impl Said<'_> {
    /// Each key as a whole: what this entry leaves open, `further` may say.
    fn or(self, further: Self) -> Self {
        Self {
            timeout: self.timeout.or(further.timeout),
            idle_timeout: self.idle_timeout.or(further.idle_timeout),
            tunnel_idle: self.tunnel_idle.or(further.tunnel_idle),
            connect_timeout: self.connect_timeout.or(further.connect_timeout),
            retry: self.retry.or(further.retry),
            hedge: self.hedge.or(further.hedge),
            mirror: self.mirror.or(further.mirror),
            circuit_breaker: self.circuit_breaker.or(further.circuit_breaker),
            failures: self.failures.or(further.failures),
            balance: self.balance.or(further.balance),
            grpc_web: self.grpc_web.or(further.grpc_web),
            json: self.json.or(further.json),
            allow: self.allow.or(further.allow),
            rates: self.rates.or(further.rates),
            concurrency: self.concurrency.or(further.concurrency),
            shaping: self.shaping.or(further.shaping),
        }
    }
}

/// Reads the listeners of all files into the model.
pub(super) fn resolve(
    files: &[Routes],
    known: &Known,
    blocks: &Blocks<'_>,
    model: &mut Model,
    ports: &mut Vec<Port>,
    problems: &mut Problems,
) {
    for file in files {
        for (number, form) in file.gateway.iter().enumerate() {
            let at = At::root(&file.file, &file.root).key("gateway").item(number);
            let Some(listen) = &form.listen else { continue };
            ports.push(Port::new(listen.0, "`listen` of another gateway".into(), Some(at.key("listen"))));
            if model.gateways.iter().any(|other| other.listen == listen.0 && listen.0.port() == 0) {
                let problem = at.key("listen").problem("two gateways with port 0 of one address");
                problems.push(problem.help("give one of them a port, or another address"));
            }
            let mut gateway = Gateway::new(listen.0);
            gateway.tls = file.gateway_tls.get(&number).cloned();
            gateway.trusted_proxies.extend(form.trusted_proxies.iter().flatten().map(|network| network.0));
            gateway.proxy_protocol.extend(form.proxy_protocol.iter().flatten().map(|network| network.0));
            gateway.encoded_slashes = matches!(form.encoded_slashes, Some(form::EncodedSlashes::Keep));
            gateway.origin = Some(at.key("listen").origin());
            let listener = Listener { file, number, at: at.key("routes"), gateway: &gateway };
            let shared = listener.shared(form, model, problems);
            gateway.routes = listener.routes(form, (shared, blocks), known, model, problems);
            model.gateways.push(gateway);
        }
    }
}

/// One listener.
struct Listener<'a, 'g> {
    file: &'a Routes,
    number: usize,
    at: At<'a>,
    gateway: &'g Gateway,
}

impl<'a> Listener<'a, '_> {
    fn said(&self, form: &'a form::GatewayRoute, index: usize) -> Said<'a> {
        Said {
            json: self.file.gateway_json.get(&(self.number, index)),
            allow: self.file.gateway_allow.get(&(self.number, index)),
            rates: Rates::gateway(form, self.gateway.listen, self.at.item(index)),
            concurrency: Limit::gateway(form, self.gateway.listen, self.at.item(index)),
            ..Said::from(form)
        }
    }

    /// What applies to all its routes.
    fn shared(&self, form: &'a form::Gateway, model: &Model, problems: &mut Problems) -> Said<'a> {
        let mut first: Option<(At<'_>, Said<'a>)> = None;
        for (index, form) in form.routes.iter().flatten().enumerate() {
            let at = self.at.item(index);
            if form.route.is_some() || at.lost("route") {
                continue;
            }
            conditions_without_route(at, problems);
            if form.to.is_some() {
                let problem = at.word("to").problem("`to` needs a `route`");
                problems.push(problem.help("add `route: /**` to take every path"));
            }
            if let Some((first, _)) = first {
                let place = first.origin();
                problems.push(at.problem(format!("another entry without `route`; the first is at {place}")));
            }
            let said = self.said(form, index);
            retry::check(&said.asked(Said::default()), at, problems);
            Rates::check(said.rates, problems);
            Limit::check(said.concurrency, problems);
            shaping::check(said.shaping, None, model, at, problems);
            shaping::check_sticky(said.shaping, shaping::Said::default(), at, problems);
            check_breaker(None, form.circuit_breaker.as_ref(), at, problems);
            first.get_or_insert((at, said));
        }
        first.map(|(_, said)| said).unwrap_or_default()
    }

    fn routes(
        &self,
        form: &'a form::Gateway,
        (shared, blocks): (Said<'a>, &Blocks<'a>),
        known: &Known,
        model: &mut Model,
        problems: &mut Problems,
    ) -> Vec<Route> {
        let (mut routes, mut places) = (Vec::new(), std::collections::HashMap::new());
        for (index, form) in form.routes.iter().flatten().enumerate() {
            let at = self.at.item(index);
            let Some(route) = &form.route else { continue };
            let own = self.said(form, index);
            self.check_to(form, at, known, problems);
            let pattern = pattern(route, (&form.host, &form.headers, &form.query), at, problems);
            let block = form.to.as_ref().and_then(|to| blocks.get(&to.0)).copied().unwrap_or_default();
            let shared = shared.or(block);
            let asked = own.asked(shared);
            retry::check(&asked, at, problems);
            Rates::check(own.rates, problems);
            Limit::check(own.concurrency, problems);
            check_breaker(Some(route), form.circuit_breaker.as_ref(), at, problems);
            let Some(pattern) = pattern else { continue };
            retry::check_grpc(&asked, &pattern, at, problems);
            shaping::check(own.shaping, Some(&pattern), model, at, problems);
            shaping::check_sticky(own.shaping, shared.shaping, at, problems);
            let to = form.to.as_ref().map(|to| to.0.clone());
            if let Some(to) = &to {
                model.upstreams.entry(to.clone()).or_default();
            }
            let policy = own.policy(shared, Some(&pattern), model);
            let origin = at.key("route").origin();
            places.insert(origin.clone(), at.key("route"));
            routes.push(Route { to, pattern, policy, origin });
        }
        ties(&routes, &places, false, problems);
        routes
    }

    fn check_to(&self, form: &form::GatewayRoute, at: At<'_>, known: &Known, problems: &mut Problems) {
        let direct = shaping::Said::from(form).is_direct();
        match &form.to {
            Some(_) if direct => {
                problems.push(at.word("to").problem("`to` is not called: the route answers itself"));
            }
            Some(to) => defined(&to.0, at.key("to").shown(), at.key("to"), known, problems),
            None if direct || at.lost("to") || at.lost("redirect") || at.lost("respond") => {}
            None => problems.push(at.problem("one of `to`, `redirect` and `respond` is missing")),
        }
        if let Some(to) = form.mirror.as_ref().and_then(|mirror| mirror.to.as_ref()) {
            let at = at.key("mirror").key("to");
            defined(&to.0, at.shown(), at, known, problems);
        }
        mirror::check((form.to.as_ref(), form.mirror.as_ref()), at, problems);
        let legal = |name: &&String| crate::config::text::check("pillion-upstream", name).is_ok();
        for name in form.split.iter().flat_map(BTreeMap::keys).filter(legal) {
            defined(&UpstreamName::new(name), name, at.key("split").word(name), known, problems);
        }
    }
}
