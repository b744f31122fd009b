//! `retry`: key by key from the route and from its upstream's entry.

use std::time::Duration;

use super::{At, set};
use crate::config::form;
use crate::config::model::{MAX_BUFFER, OnlyIf, Pattern, Retry, RetryOn, RoutePolicy, Timeout};
use crate::config::problem::Problems;
use crate::config::units;

/// What an entry says of retries, and what comes of it.
pub(super) struct Asked<'a> {
    /// What it says itself.
    pub own: Option<&'a form::Retry>,
    /// What the entry of its upstream says.
    pub shared: Option<&'a form::Retry>,
    /// Its own `timeout`.
    pub timeout: Option<Duration>,
    /// All together.
    pub policy: RoutePolicy,
}

/// Key by key: what the route leaves open, the upstream's entry may say.
pub(super) fn retry(own: Option<&form::Retry>, shared: Option<&form::Retry>) -> Option<Retry> {
    let forms: Vec<&form::Retry> = shared.into_iter().chain(own).collect();
    if forms.is_empty() {
        return None;
    }
    let mut retry = Retry::default();
    for form in forms {
        set(&mut retry.max, form.max);
        set(&mut retry.per_try, form.per_try.as_ref().map(|d| Some(d.0)));
        set(&mut retry.on, form.on.as_ref().map(|on| on.iter().map(|on| retry_on(*on)).collect()));
        set(&mut retry.only_if, form.only_if.map(only_if));
        set(&mut retry.backoff, form.backoff.as_ref().map(|range| range.0));
        set(&mut retry.budget, form.budget.as_ref().map(|percent| percent.0));
        let buffer = form.buffer.as_ref().map(|size| size.0.min(MAX_BUFFER));
        set(&mut retry.buffer, buffer.and_then(|bytes| usize::try_from(bytes).ok()));
    }
    Some(retry)
}

/// What can't come to pass, reported where this entry says a part of it.
pub(super) fn check(asked: &Asked<'_>, at: At<'_>, problems: &mut Problems) {
    if asked.own.and_then(|own| own.buffer.as_ref()).is_some_and(|size| size.0 > MAX_BUFFER) {
        let at = at.key("retry").key("buffer");
        problems.push(at.problem(format!("`{}` is out of range: it must be at most 1MiB", at.shown())));
    }
    let Some(retry) = &asked.policy.retry else { return };
    let written = asked.own.is_some_and(|retry| retry.per_try.is_some());
    if at.lost("timeout") || !(written || asked.timeout.is_some()) {
        return;
    }
    let place = if written { at.key("retry").key("per_try") } else { at.key("timeout") };
    let (whole, what) = match asked.policy.timeout {
        Timeout::Whole(whole) => (whole, "the `timeout`"),
        Timeout::Head(head) => (head, "the default `timeout`"),
    };
    if let Some(per_try) = retry.per_try
        && per_try > whole
    {
        let (per_try, whole) = (units::show(per_try), units::show(whole));
        problems.push(place.problem(format!("`per_try` ({per_try}) is longer than {what} ({whole})")));
    }
}

/// A route of gRPC that names codes of gRPC and would never be tried anew: its
/// calls are POSTs, and nothing says that they do no harm twice.
pub(super) fn check_grpc(asked: &Asked<'_>, pattern: &Pattern, at: At<'_>, problems: &mut Problems) {
    let said = [asked.own, asked.shared].into_iter().flatten().any(|retry| retry.only_if.is_some());
    let is_code = |on: &form::On| matches!(retry_on(*on), RetryOn::Grpc(_));
    let Some(named) = asked.own.and_then(|own| own.on.as_ref()?.iter().position(is_code)) else { return };
    if !pattern.grpc || said || asked.policy.json.is_some() || at.key("retry").lost("only_if") {
        return;
    }
    let at = at.key("retry").key("on").item(named);
    let message = format!("`{}` of a call that may do harm twice: gRPC calls are POSTs", at.shown());
    let help = "say `only_if: always` where a second call does no harm, or `only_if: idempotency-key`";
    problems.push(at.problem(message).help(help));
}

fn only_if(form: form::OnlyIf) -> OnlyIf {
    match form {
        form::OnlyIf::Idempotent => OnlyIf::Idempotent,
        form::OnlyIf::IdempotencyKey => OnlyIf::IdempotencyKey,
        form::OnlyIf::Always => OnlyIf::Always,
    }
}

fn retry_on(form: form::On) -> RetryOn {
    use form::Class;
    match form {
        form::On::Status(status) => RetryOn::Status(status),
        form::On::Class(class) => match class {
            Class::Connect => RetryOn::Connect,
            Class::Reset => RetryOn::Reset,
            Class::Refused => RetryOn::Refused,
            Class::ServerError => RetryOn::ServerError,
            Class::Gateway => RetryOn::Gateway,
            Class::Timeout => RetryOn::Timeout,
            Class::Cancelled => RetryOn::Grpc(1),
            Class::Unknown => RetryOn::Grpc(2),
            Class::InvalidArgument => RetryOn::Grpc(3),
            Class::DeadlineExceeded => RetryOn::Grpc(4),
            Class::NotFound => RetryOn::Grpc(5),
            Class::AlreadyExists => RetryOn::Grpc(6),
            Class::PermissionDenied => RetryOn::Grpc(7),
            Class::ResourceExhausted => RetryOn::Grpc(8),
            Class::FailedPrecondition => RetryOn::Grpc(9),
            Class::Aborted => RetryOn::Grpc(10),
            Class::OutOfRange => RetryOn::Grpc(11),
            Class::Unimplemented => RetryOn::Grpc(12),
            Class::Internal => RetryOn::Grpc(13),
            Class::Unavailable => RetryOn::Grpc(14),
            Class::DataLoss => RetryOn::Grpc(15),
            Class::Unauthenticated => RetryOn::Grpc(16),
        },
    }
}
