//! `mirror` of an entry, taken whole from the route or from its upstream's.

use std::sync::Arc;

use super::{At, set};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::{Compare, MAX_BUFFER, Mirror, Model};
use crate::config::problem::Problems;
use crate::config::text::Upstream;

/// What was wrong was reported by [`check`].
pub(super) fn mirror(form: &form::Mirror) -> Option<Arc<Mirror>> {
    let mut mirror = Mirror::new(form.to.as_ref()?.0.clone());
    set(&mut mirror.share, form.percent.as_ref().map(|percent| percent.0));
    mirror.host = form.host.as_ref().and_then(|host| host.0.as_str().parse().ok());
    set(&mut mirror.max, form.max);
    set(
        &mut mirror.buffer,
        form.buffer.as_ref().and_then(|size| usize::try_from(size.0.min(MAX_BUFFER)).ok()),
    );
    set(&mut mirror.timeout, form.timeout.as_ref().map(|span| span.0));
    mirror.compare = form.compare.as_ref().map(|form| {
        let headers = form.headers.iter().flatten().map(|header| header.0.clone()).collect();
        let built_in = Compare::default();
        Compare {
            status: form.status.unwrap_or(built_in.status),
            headers,
            body: form.body.unwrap_or(built_in.body),
        }
    });
    Some(Arc::new(mirror))
}

/// Reports what is wrong with the `mirror` of the entry at `at`.
pub(super) fn check(
    (called, mirror): (Option<&Upstream>, Option<&form::Mirror>),
    at: At<'_>,
    problems: &mut Problems,
) {
    let Some(mirror) = mirror else { return };
    let place = at.key("mirror");
    let own = |name: &UpstreamName| called.is_some_and(|to| to.0 == *name);
    if let Some(to) = mirror.to.as_ref().filter(|to| own(&to.0)) {
        let message = format!("copies of calls to `{}` would go to it as well", to.0);
        problems.push(place.key("to").problem(message).help("name another service"));
    }
    if mirror.buffer.as_ref().is_some_and(|size| size.0 > MAX_BUFFER) {
        let at = place.key("buffer");
        problems.push(at.problem(format!("`{}` is out of range: it must be at most 1MiB", at.shown())));
    }
    if let Some(compare) = &mirror.compare
        && compare.status == Some(false)
        && compare.body != Some(true)
        && compare.headers.iter().flatten().next().is_none()
    {
        problems.push(place.key("compare").problem("there is nothing left to compare"));
    }
}

/// Every service that gets copies is an upstream.
pub(super) fn upstreams(model: &mut Model) {
    let gateways = model.gateways.iter().flat_map(|gateway| &gateway.routes);
    let routes = model.outbound.iter().chain(gateways).map(|route| &route.policy);
    let policies = routes.chain(model.upstreams.values().map(|upstream| &upstream.policy));
    let names: Vec<UpstreamName> =
        policies.filter_map(|policy| Some(policy.mirror.as_ref()?.to.clone())).collect();
    for name in names {
        model.upstreams.entry(name).or_default();
    }
}
