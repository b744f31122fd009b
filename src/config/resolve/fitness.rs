//! Which endpoints of an upstream take calls.

use super::{At, set};
use crate::config::form;
use crate::config::model::{Ejection, Fitness, HealthCheck, Question, SuccessRate};
use crate::config::problem::Problems;
use crate::config::units;

/// What an entry says of it.
pub(super) fn fitness(form: &form::Outbound, at: At<'_>, problems: &mut Problems) -> Fitness {
    let defaults = Fitness::default();
    let check = form.health_check.as_ref();
    Fitness {
        check: check.and_then(|form| self::check(form, at.key("health_check"), problems)),
        ejection: match &form.ejection {
            Some(form) => ejection(form),
            None => defaults.ejection,
        },
        slow_start: form.slow_start.as_ref().map(|span| span.0),
        prefer_near: !matches!(form.locality, Some(form::Near::Any)),
        panic: form.panic.as_ref().map_or(defaults.panic, |percent| percent.0),
    }
}

fn check(form: &form::HealthCheck, at: At<'_>, problems: &mut Problems) -> Option<HealthCheck> {
    let path = form.path.as_ref().map(|path| Question::Path(path.0.as_str().into()));
    let grpc = form.grpc.as_ref().map(|service| Question::Grpc(service.0.as_str().into()));
    let tcp = form.tcp.filter(|tcp| *tcp).map(|_| Question::Tcp);
    let mut asked = [path, grpc, tcp].into_iter().flatten();
    let (question, more) = (asked.next(), asked.next());
    let Some(question) = question.filter(|_| more.is_none()) else {
        if more.is_some() {
            problems.push(at.problem("`path`, `grpc` and `tcp` ask the same: keep one of them"));
        } else if !["path", "grpc", "tcp"].iter().any(|key| at.lost(key)) {
            problems.push(at.problem("the key `path`, `grpc` or `tcp: true` is missing"));
        }
        return None;
    };
    let mut check = HealthCheck::new(question);
    set(&mut check.interval, form.interval.as_ref().map(|span| span.0));
    set(&mut check.timeout, form.timeout.as_ref().map(|span| span.0));
    set(&mut check.healthy, form.healthy);
    set(&mut check.unhealthy, form.unhealthy);
    check.port = form.port;
    if check.timeout > check.interval {
        let (timeout, interval) = (units::show(check.timeout), units::show(check.interval));
        let key = if form.timeout.is_some() { "timeout" } else { "interval" };
        let message = format!("`timeout` ({timeout}) is longer than `interval` ({interval})");
        problems.push(at.key(key).problem(message));
    }
    Some(check)
}

fn ejection(form: &form::Ejection) -> Option<Ejection> {
    let mut ejection = Ejection::default();
    set(&mut ejection.consecutive_failures, form.consecutive_failures);
    set(&mut ejection.gateway_errors, form.gateway_errors);
    set(&mut ejection.time, form.time.as_ref().map(|range| range.0));
    set(&mut ejection.max_percent, form.max_percent.as_ref().map(|percent| percent.0));
    if let Some(form) = &form.success_rate {
        let mut rate = SuccessRate::default();
        set(&mut rate.interval, form.interval.as_ref().map(|span| span.0));
        set(&mut rate.requests, form.requests);
        set(&mut rate.endpoints, form.endpoints);
        set(&mut rate.stdev_factor, form.stdev_factor.map(|factor| f64::from(factor) / 1000.0));
        ejection.success_rate = form.enabled.unwrap_or(true).then_some(rate);
    }
    form.enabled.unwrap_or(true).then_some(ejection)
}
