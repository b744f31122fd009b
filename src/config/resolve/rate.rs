//! `rate_limit` of an entry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{At, Routes};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::{
    Asked, KEYS, Model, OnError, Pattern, Per, Place, Quota, RateEntry, RateHeaders, RateLimit, RatePart,
    RateServer, RateService, RoutePolicy, Segment, Shared,
};
use crate::config::problem::Problems;
use crate::config::text::Host;

/// A pause of this length brings back any burst.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// What one entry says of rates, and whose calls it is about.
#[derive(Clone, Copy)]
pub(super) struct Rates<'a> {
    form: &'a form::RateLimits,
    at: At<'a>,
    gateway: Option<SocketAddr>,
    to: Option<&'a UpstreamName>,
    route: Option<&'a str>,
    conditions: Conditions<'a>,
}

/// What else tells a route from others.
type Conditions<'a> = (&'a Option<Host>, &'a Map, &'a Map);
type Map = Option<BTreeMap<String, form::Condition>>;

/// What counts for all sidecars.
pub(super) fn server(form: &form::RateServers, at: At<'_>, problems: &mut Problems) -> Option<RateServer> {
    let (form, at) = (form.redis.as_ref()?, at.key("rate_limits").key("redis"));
    let timeout = form.timeout.as_ref().map_or(Duration::from_millis(5), |span| span.0);
    if !(Duration::from_millis(2)..=Duration::from_secs(1)).contains(&timeout) {
        problems.push(at.key("timeout").problem("`timeout` is from 2ms to 1s"));
    }
    Some(RateServer {
        address: form.address.as_ref()?.0.as_str().into(),
        timeout,
        prefix: form.prefix.as_ref().map_or("pillion", |prefix| prefix.0.as_str()).into(),
    })
}

/// What decides by rules of its own.
pub(super) fn service(form: &form::RateServers, at: At<'_>, problems: &mut Problems) -> Option<RateService> {
    let (form, at) = (form.service.as_ref()?, at.key("rate_limits").key("service"));
    let timeout = form.timeout.as_ref().map_or(Duration::from_millis(20), |span| span.0);
    if !(Duration::from_millis(2)..=Duration::from_secs(1)).contains(&timeout) {
        problems.push(at.key("timeout").problem("`timeout` is from 2ms to 1s"));
    }
    let address = &form.address.as_ref()?.0;
    let domain = form.domain.as_ref()?.0.as_str().into();
    Some(RateService { host: address.host.as_str().into(), port: address.port, domain, timeout })
}

/// Reports each limit that nothing counts for all sidecars, or decides.
pub(super) fn needs_server(files: &[Routes], model: &Model, problems: &mut Problems) {
    for file in files {
        let at = At::root(&file.file, &file.root);
        let inbound = file.inbound.iter().enumerate();
        let inbound = inbound.filter_map(|(index, form)| Rates::inbound(form, at.key("inbound").item(index)));
        let outbound = file.outbound.iter().enumerate();
        let outbound =
            outbound.filter_map(|(index, form)| Rates::outbound(form, at.key("outbound").item(index)));
        let gateways = file.gateway.iter().enumerate().flat_map(|(number, form)| {
            let (at, listen) = (at.key("gateway").item(number).key("routes"), form.listen.as_ref());
            let entries = form.routes.iter().flatten().enumerate();
            entries.filter_map(move |(index, form)| Rates::gateway(form, listen?.0, at.item(index)))
        });
        for rates in inbound.chain(outbound).chain(gateways) {
            for (at, limit) in rates.read(&mut Problems::default()) {
                if limit.shared.is_some() && model.rate_server.is_none() {
                    let problem = at.key("shared").problem("nothing counts for all sidecars");
                    problems.push(problem.help("add `rate_limits: {redis: {address: …}}` to pillion.yaml"));
                }
                if limit.service.is_some() && model.rate_service.is_none() {
                    let problem = at.key("descriptor").problem("there is no service that decides");
                    let help = "add `rate_limits: {service: {address: …, domain: …}}` to pillion.yaml";
                    problems.push(problem.help(help));
                }
            }
        }
    }
}

/// Reports each limit of a route that counts by a claim while no token is asked for.
pub(super) fn claims_are_known(policy: &RoutePolicy, at: At<'_>, problems: &mut Problems) {
    let by_claim = |limit: &&RateLimit| matches!(limit.quota.per, Per::Claim(_));
    let tokens = policy.allow.as_ref().is_some_and(|allow| allow.has_tokens());
    if let Some(limit) = policy.rate_limits.iter().find(by_claim)
        && !tokens
    {
        let place = &limit.origin;
        let problem =
            at.problem(format!("the limit at {place} counts by a claim, and no token is asked for"));
        problems.push(problem.help("add `allow: [{jwt: {…}}]` here"));
    }
}

impl<'a> Rates<'a> {
    /// What the outbound entry at `at` says.
    pub(super) fn outbound(form: &'a form::Outbound, at: At<'a>) -> Option<Self> {
        let conditions = (&form.host, &form.headers, &form.query);
        let (to, route) = (form.to.as_ref().map(|to| &to.0), form.route.as_deref());
        Some(Self { form: form.rate_limit.as_ref()?, at, gateway: None, to, route, conditions })
    }

    /// What the inbound entry at `at` says.
    pub(super) fn inbound(form: &'a form::Inbound, at: At<'a>) -> Option<Self> {
        let conditions = (&form.host, &form.headers, &form.query);
        let (form, route) = (form.rate_limit.as_ref()?, form.route.as_deref());
        Some(Self { form, at, gateway: None, to: None, route, conditions })
    }

    /// What the entry at `at` of the gateway at `listen` says.
    pub(super) fn gateway(form: &'a form::GatewayRoute, listen: SocketAddr, at: At<'a>) -> Option<Self> {
        let conditions = (&form.host, &form.headers, &form.query);
        let (to, route) = (form.to.as_ref().map(|to| &to.0), form.route.as_deref());
        Some(Self { form: form.rate_limit.as_ref()?, at, gateway: Some(listen), to, route, conditions })
    }

    /// The limits; what is wrong was reported by [`Self::check`].
    pub(super) fn limits(self) -> Vec<RateLimit> {
        self.read(&mut Problems::default()).into_iter().map(|(_, limit)| limit).collect()
    }

    /// Reports what is wrong with what an entry says, if it says something.
    pub(super) fn check(rates: Option<Self>, problems: &mut Problems) {
        let Some(rates) = rates else { return };
        let limits = rates.read(problems);
        for (index, (at, limit)) in limits.iter().enumerate() {
            let alone = limit.shared.is_none() && limit.service.is_none();
            if alone && at.node.get("fallback").is_some() && !at.lost("shared") && !at.lost("descriptor") {
                let message = "`fallback` is for what is `shared` or has a `descriptor`";
                problems.push(at.word("fallback").problem(message));
            }
            if limit.service.is_none() && at.node.get("on_error").is_some() && !at.lost("descriptor") {
                problems.push(at.word("on_error").problem("`on_error` is for what has a `descriptor`"));
            }
            if limit.shared.is_some() && limit.service.is_some() {
                let message = "a limit is either counted in Redis or decided by a service";
                problems.push(at.word("shared").problem(message).help("take out `shared` or `descriptor`"));
            }
            if limits[..index].iter().any(|(_, other)| other.name == limit.name) {
                let problem = at.problem(format!("two limits are called `{}`", limit.name));
                problems.push(problem.help("give one of them another `name`"));
            }
        }
    }

    fn entry(self, index: usize) -> At<'a> {
        let at = self.at.key("rate_limit");
        match self.form {
            form::RateLimits::One(_) => at,
            form::RateLimits::Several(_) => at.item(index),
        }
    }

    fn read(self, problems: &mut Problems) -> Vec<(At<'a>, RateLimit)> {
        let place = Arc::new(Place {
            gateway: self.gateway,
            to: self.to.cloned(),
            route: self.route.unwrap_or_default().into(),
            conditions: self.conditions().into(),
        });
        let forms: &[form::RateLimit] = match self.form {
            form::RateLimits::One(form) => std::slice::from_ref(form),
            form::RateLimits::Several(forms) => forms,
        };
        let one = |(index, form)| {
            let at = self.entry(index);
            Some((at, self.one(form, at, &place, problems)?))
        };
        forms.iter().enumerate().filter_map(one).collect()
    }

    /// The conditions as text that differs where they do.
    fn conditions(self) -> String {
        match self.conditions {
            (None, None, None) => String::new(),
            conditions => format!("{conditions:?}"),
        }
    }

    fn one(
        self,
        form: &form::RateLimit,
        at: At<'a>,
        place: &Arc<Place>,
        problems: &mut Problems,
    ) -> Option<RateLimit> {
        let rate = form.rate.as_ref()?.0;
        let burst = form.burst.and_then(NonZeroU32::new).unwrap_or(rate.count);
        let (per, word) = match &form.per {
            None => (Per::All, "all".to_owned()),
            Some(per) => self.per(per, at.key("per"), problems)?,
        };
        let quota = Quota { rate, burst, per, keys: form.keys.unwrap_or(KEYS) };
        if quota.window() > LONGEST {
            let message = "at this `rate` it would take more than 366 days until the `burst` is there again";
            problems.push(at.key("burst").problem(message));
            return None;
        }
        let fallback = form.fallback.as_ref().map(|percent| percent.0);
        let service = form.descriptor.as_deref().and_then(|entries| {
            let on_error = match form.on_error {
                Some(form::OnError::Allow) => OnError::Allow,
                Some(form::OnError::Deny) => OnError::Deny,
                Some(form::OnError::Local) | None => OnError::Local,
            };
            Some(Asked {
                entries: self.descriptor(entries, at.key("descriptor"), problems)?,
                on_error,
                fallback: fallback.unwrap_or(1.0),
            })
        });
        Some(RateLimit {
            service,
            name: form.name.as_ref().map_or(word, |name| name.0.clone()).into(),
            quota,
            shadow: matches!(form.mode, Some(form::RateMode::Shadow)),
            headers: match form.headers {
                Some(form::RateHeaders::None) => RateHeaders::None,
                Some(form::RateHeaders::All) => RateHeaders::All,
                Some(form::RateHeaders::Refusals) | None => RateHeaders::Refusals,
            },
            shared: form.shared.as_ref().map(|name| Shared { name: name.0.as_str().into(), fallback }),
            place: place.clone(),
            origin: at.origin(),
        })
    }

    /// Who has a count of its own, and the word for it.
    fn per(self, form: &form::Per, at: At<'_>, problems: &mut Problems) -> Option<(Per, String)> {
        let part = match form {
            form::Per::Whom(form::Whom::Client) => return Some((Per::Client, "client".into())),
            form::Per::Whom(form::Whom::Source) => return Some((Per::Source, "source".into())),
            form::Per::Part(part) => part,
        };
        if let Some(header) = &part.header {
            return Some((Per::Header(header.0.clone()), header.0.to_string()));
        }
        if let Some(claim) = &part.claim {
            if self.to.is_some() {
                let message = "`claim` is of a caller's token: it is for calls to the service";
                problems.push(at.word("claim").problem(message));
                return None;
            }
            let label: String =
                claim.0.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            return Some((Per::Claim(claim.0.as_str().into()), label.chars().take(64).collect()));
        }
        let name = part.path.as_ref()?.0.as_str();
        Some((Per::Path(self.segment(name, at, problems)?), name.to_owned()))
    }

    /// What a service is asked.
    fn descriptor(
        self,
        form: &[form::DescriptorEntry],
        at: At<'_>,
        problems: &mut Problems,
    ) -> Option<Arc<[RateEntry]>> {
        let mut entries = Vec::new();
        for (index, entry) in form.iter().enumerate() {
            let key = entry.key.as_ref()?.0.as_str().into();
            let (at, all) = (at.item(index), ["value", "header", "path", "source"]);
            if all.iter().filter(|word| at.node.get(word).is_some()).count() != 1 {
                let message = "an entry has one of `value`, `header`, `path` and `source`";
                problems.push(at.problem(message));
                return None;
            }
            let value = match (&entry.value, &entry.header, &entry.path) {
                (Some(value), ..) => RatePart::Value(value.0.as_str().into()),
                (_, Some(header), _) => RatePart::Header(header.0.clone()),
                (_, _, Some(path)) => RatePart::Path(self.segment(&path.0, at, problems)?),
                _ => RatePart::Source,
            };
            entries.push((key, value));
        }
        Some(entries.into())
    }

    /// The segment of the path with this parameter of the route.
    fn segment(self, name: &str, at: At<'_>, problems: &mut Problems) -> Option<usize> {
        let Some(route) = self.route else {
            let message = "`path` names a parameter of the route, and there is no `route`";
            problems.push(at.word("path").problem(message));
            return None;
        };
        // A route that can't be read is reported elsewhere.
        let pattern = Pattern::parse(route).ok()?;
        let named = |segment: &Segment| matches!(segment, Segment::Parameter(own) if **own == *name);
        let Some(index) = pattern.segments.iter().position(named) else {
            let problem = at.key("path").problem(format!("the route has no parameter `{{{name}}}`"));
            problems
                .push(problem.help("a limit can count by one segment of the path, as in `/v1/users/{id}`"));
            return None;
        };
        Some(index)
    }
}
