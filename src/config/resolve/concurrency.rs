//! `concurrency` of an entry.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::mode;
use super::{At, set};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::{Bounds, Ceiling, Concurrency, Mode, Occupancy, Place, Priority};
use crate::config::problem::Problems;
use crate::config::text::Host;

/// What one entry says of calls at one time, and whose calls it is about.
#[derive(Clone, Copy)]
pub(super) struct Limit<'a> {
    form: &'a form::Concurrency,
    at: At<'a>,
    gateway: Option<SocketAddr>,
    to: Option<&'a UpstreamName>,
    route: Option<&'a str>,
    conditions: Conditions<'a>,
}

/// What else tells a route from others.
type Conditions<'a> = (&'a Option<Host>, &'a Map, &'a Map);
type Map = Option<BTreeMap<String, form::Condition>>;

impl<'a> Limit<'a> {
    /// What the outbound entry at `at` says.
    pub(super) fn outbound(form: &'a form::Outbound, at: At<'a>) -> Option<Self> {
        let (to, route) = (form.to.as_ref().map(|to| &to.0), form.route.as_deref());
        let conditions = (&form.host, &form.headers, &form.query);
        Some(Self { form: form.concurrency.as_ref()?, at, gateway: None, to, route, conditions })
    }

    /// What the entry at `at` of the gateway at `listen` says.
    pub(super) fn gateway(form: &'a form::GatewayRoute, listen: SocketAddr, at: At<'a>) -> Option<Self> {
        let (to, route) = (form.to.as_ref().map(|to| &to.0), form.route.as_deref());
        let conditions = (&form.host, &form.headers, &form.query);
        Some(Self { form: form.concurrency.as_ref()?, at, gateway: Some(listen), to, route, conditions })
    }

    /// What the inbound entry at `at` says.
    pub(super) fn inbound(form: &'a form::Inbound, at: At<'a>) -> Option<Self> {
        let route = form.route.as_deref();
        let conditions = (&form.host, &form.headers, &form.query);
        Some(Self { form: form.concurrency.as_ref()?, at, gateway: None, to: None, route, conditions })
    }

    /// The limit; what is wrong was reported by [`Self::check`].
    pub(super) fn limit(self) -> Concurrency {
        let at = self.at.key("concurrency");
        let (rules, mode) = match self.form {
            form::Concurrency::Adaptive(_) => (alone(Ceiling::Adaptive(Bounds::default())), Mode::Enforce),
            form::Concurrency::Own(form) => (rules(form), form.mode.map(self::mode).unwrap_or_default()),
        };
        let place = Place {
            gateway: self.gateway,
            to: self.to.cloned(),
            route: self.route.unwrap_or_default().into(),
            conditions: match self.conditions {
                (None, None, None) => "".into(),
                conditions => format!("{conditions:?}").into(),
            },
        };
        Concurrency { rules, mode, place: Arc::new(place), origin: at.origin() }
    }

    /// Reports what is wrong with what an entry says, if it says something.
    pub(super) fn check(limit: Option<Self>, problems: &mut Problems) {
        let Some(limit) = limit else { return };
        let form::Concurrency::Own(form) = limit.form else { return };
        let at = limit.at.key("concurrency");
        match (form.max, &form.adaptive) {
            (Some(_), Some(_)) => {
                problems
                    .push(at.word("adaptive").problem("`max` and `adaptive` are two ways: keep one of them"));
            }
            (None, None) if !at.lost("max") && !at.lost("adaptive") => {
                let problem = at.problem("the key `max` or `adaptive` is missing");
                problems.push(problem.help("write `concurrency: adaptive`, or `concurrency: {max: 100}`"));
            }
            _ => {}
        }
        if let Some(form) = &form.adaptive {
            let at = at.key("adaptive");
            for (less, more) in [("min", "start"), ("start", "max"), ("min", "max")] {
                let of = |key| match key {
                    "min" => form.min,
                    "start" => form.start,
                    _ => form.max,
                };
                if of(less).zip(of(more)).is_some_and(|(less, more)| less > more) {
                    problems.push(at.key(less).problem(format!("`{less}` is more than `{more}`")));
                }
            }
        }
        if form.wait.is_some() && form.pending.is_none() && !at.lost("pending") {
            let problem = at.word("wait").problem("`wait` has no meaning where nobody may wait");
            problems.push(problem.help("say with `pending` how many may"));
        }
    }
}

fn alone(limit: Ceiling) -> Occupancy {
    Occupancy { limit, pending: 0, wait: Duration::from_millis(100), priority: None }
}

fn rules(form: &form::Bulkhead) -> Occupancy {
    let limit = match &form.adaptive {
        Some(form) => Ceiling::Adaptive(bounds(form)),
        None => Ceiling::Fixed(form.max.unwrap_or(usize::MAX)),
    };
    let mut rules = alone(limit);
    set(&mut rules.pending, form.pending);
    set(&mut rules.wait, form.wait.as_ref().map(|span| span.0));
    rules.priority = form.priority.as_ref().and_then(priority);
    rules
}

/// What is not written gives way to what is.
fn bounds(form: &form::Adaptive) -> Bounds {
    let mut bounds = Bounds::default();
    set(&mut bounds.tolerance, form.tolerance.map(|percent| f64::from(percent) / 100.0));
    let (min, start, max) = (form.min, form.start, form.max);
    let (least, most) = (min.or(start), max.or(start));
    bounds.max = max.unwrap_or_else(|| bounds.max.max(least.unwrap_or(0)));
    bounds.min = min.unwrap_or_else(|| bounds.min.min(most.unwrap_or(usize::MAX)));
    bounds.start = start.unwrap_or_else(|| bounds.start.clamp(bounds.min, bounds.max.max(bounds.min)));
    bounds
}

fn priority(form: &form::Priority) -> Option<Priority> {
    let mut priority = Priority::of(form.header.as_ref()?.0.clone());
    set(&mut priority.others, form.others.as_ref().map(|share| share.0));
    if let Some(levels) = &form.levels {
        priority.levels = levels.iter().map(|(name, share)| (name.as_str().into(), share.0)).collect();
        priority.levels.sort_by(|a, b| b.1.total_cmp(&a.1));
    }
    Some(priority)
}
