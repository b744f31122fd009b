//! What a route changes of a call, and what it answers itself.
//!
//! The same code checks an entry where it stands and makes the policy of each
//! route: only the check listens to what is reported.

mod cors;
mod direct;
mod gateway;
mod headers;
mod path;
mod split;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::At;
use crate::base::UpstreamName;
use crate::base::error::GrpcCode;
use crate::config::form;
use crate::config::model::shaping::{Fault, HeaderEdit, Shaping, Sizes, told_by_code, told_by_status};
use crate::config::model::{Model, Pattern};
use crate::config::problem::{Problem, Problems};
use crate::config::text::Size;

/// The longest `fault.delay`.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// What one entry says.
#[derive(Clone, Copy, Default)]
pub(super) struct Said<'a> {
    request: Option<&'a form::HeaderEdit>,
    response: Option<&'a form::HeaderEdit>,
    rewrite: Option<&'a form::Rewrite>,
    redirect: Option<&'a form::Redirect>,
    respond: Option<&'a form::Respond>,
    cors: Option<&'a form::Cors>,
    fault: Option<&'a form::Fault>,
    split: Option<&'a BTreeMap<String, u32>>,
    sticky: Option<&'a form::Sticky>,
    sizes: (Option<u64>, Option<u64>),
}

impl<'a> From<&'a form::Outbound> for Said<'a> {
    fn from(form: &'a form::Outbound) -> Self {
        Self {
            request: form.request_headers.as_ref(),
            response: form.response_headers.as_ref(),
            rewrite: form.rewrite.as_ref(),
            redirect: form.redirect.as_ref(),
            respond: form.respond.as_ref(),
            cors: None,
            fault: form.fault.as_ref(),
            split: form.split.as_ref(),
            sticky: form.sticky.as_ref(),
            sizes: (size(&form.max_request_body), size(&form.max_response_body)),
        }
    }
}

impl<'a> From<&'a form::Inbound> for Said<'a> {
    fn from(form: &'a form::Inbound) -> Self {
        Self {
            request: form.request_headers.as_ref(),
            response: form.response_headers.as_ref(),
            rewrite: form.rewrite.as_ref(),
            redirect: form.redirect.as_ref(),
            respond: form.respond.as_ref(),
            cors: form.cors.as_ref(),
            fault: form.fault.as_ref(),
            split: None,
            sticky: None,
            sizes: (size(&form.max_request_body), size(&form.max_response_body)),
        }
    }
}

fn size(form: &Option<Size>) -> Option<u64> {
    form.as_ref().map(|size| size.0)
}

impl Said<'_> {
    /// Each key as a whole: what this entry leaves open, `shared` may say.
    pub(super) fn or(self, shared: Self) -> Self {
        Self {
            request: self.request.or(shared.request),
            response: self.response.or(shared.response),
            rewrite: self.rewrite.or(shared.rewrite),
            redirect: self.redirect.or(shared.redirect),
            respond: self.respond.or(shared.respond),
            cors: self.cors.or(shared.cors),
            fault: self.fault.or(shared.fault),
            split: self.split.or(shared.split),
            sticky: self.sticky.or(shared.sticky),
            sizes: (self.sizes.0.or(shared.sizes.0), self.sizes.1.or(shared.sizes.1)),
        }
    }

    /// Whether it answers every call itself.
    pub(super) fn is_direct(self) -> bool {
        self.redirect.is_some() || self.respond.is_some()
    }
}

/// Where a value stands, from the entry on.
#[derive(Clone, Copy)]
enum Step<'s> {
    /// The value of a key.
    Key(&'s str),
    /// The key itself.
    Word(&'s str),
    /// An item of a list.
    Item(usize),
}

/// Hears of what is wrong.
type Sink<'s> = dyn FnMut(&[Step<'_>], Wrong) + 's;

/// What is wrong, and what to do.
struct Wrong {
    message: String,
    help: Option<String>,
    warning: bool,
    /// Of these keys one must be written, and none was.
    missing: &'static [&'static str],
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self { message, help: None, warning: false, missing: &[] }
    }
}

impl From<&str> for Wrong {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

impl Wrong {
    fn missing(keys: &'static [&'static str]) -> Self {
        let list: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        Self { missing: keys, ..format!("one of {} is missing", list.join(", ")).into() }
    }

    fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// What holds for a route, or for the calls that no route takes.
pub(super) fn shaping(
    own: Said<'_>,
    shared: Said<'_>,
    pattern: Option<&Pattern>,
    model: &Model,
) -> Option<Arc<Shaping>> {
    let shaping = build(own.or(shared), pattern, model, &mut |_, _| {});
    (!shaping.is_empty()).then(|| Arc::new(shaping))
}

/// Every service that a `split` names is an upstream.
pub(super) fn upstreams(model: &mut Model) {
    let gateways = model.gateways.iter().flat_map(|gateway| &gateway.routes);
    let routes = model.outbound.iter().chain(gateways).map(|route| &route.policy);
    let policies = routes.chain(model.upstreams.values().map(|upstream| &upstream.policy));
    let splits = policies.filter_map(|policy| policy.shaping.as_ref()?.split.as_ref());
    let names: Vec<UpstreamName> =
        splits.flat_map(|split| &split.targets).map(|(name, _)| name.clone()).collect();
    for name in names {
        model.upstreams.entry(name).or_default();
    }
}

/// Reports what is wrong with an entry; `shared` is what its upstream's says.
pub(super) fn check_sticky(own: Said<'_>, shared: Said<'_>, at: At<'_>, problems: &mut Problems) {
    if own.sticky.is_some() && own.or(shared).split.is_none() && !at.lost("split") {
        let problem = at
            .word("sticky")
            .problem("`sticky` keeps callers at one service of a `split`, and there is none");
        problems.push(problem.help("to keep callers at one endpoint write `balance: {by: {hash: …}}`"));
    }
}

/// Reports what is wrong with an entry.
pub(super) fn check(
    said: Said<'_>,
    pattern: Option<&Pattern>,
    model: &Model,
    at: At<'_>,
    problems: &mut Problems,
) {
    build(said, pattern, model, &mut |steps, wrong| {
        let place = steps.iter().fold(at, |at, step| match step {
            Step::Key(key) => at.key(key),
            Step::Word(key) => at.word(key),
            Step::Item(index) => at.item(*index),
        });
        // One that was written and found wrong is told of already.
        if wrong.missing.iter().any(|key| place.lost(key)) {
            return;
        }
        let problem = place.problem(wrong.message);
        let problem = Problem { help: wrong.help, ..problem };
        problems.push(if wrong.warning { problem.warn() } else { problem });
    });
    if said.is_direct() {
        alone(said, at, problems);
    }
    for key in ["path", "prefix"] {
        if at.node.get("json").is_some() && at.key("rewrite").node.get(key).is_some() {
            let message =
                format!("`{key}` has no meaning beside `json`, whose calls have the path of their method");
            problems.push(at.key("rewrite").word(key).problem(message));
        }
    }
}

/// Reports what stands beside an answer that is made before all of it.
fn alone(said: Said<'_>, at: At<'_>, problems: &mut Problems) {
    const BEYOND: [&str; 21] = [
        "balance",
        "circuit_breaker",
        "concurrency",
        "connect_timeout",
        "fault",
        "grpc_web",
        "hedge",
        "idle_timeout",
        "json",
        "max_request_body",
        "max_response_body",
        "mirror",
        "priority",
        "rate_limit",
        "request_headers",
        "retry",
        "rewrite",
        "split",
        "sticky",
        "timeout",
        "tunnel_idle",
    ];
    let direct = if said.redirect.is_some() { "redirect" } else { "respond" };
    if said.redirect.is_some() && said.respond.is_some() {
        problems.push(at.word("respond").problem("`redirect` and `respond` both answer: keep one of them"));
    }
    for key in BEYOND {
        if at.node.get(key).is_some() {
            let message =
                format!("`{key}` has no meaning beside `{direct}`, which answers before anything is sent");
            problems.push(at.word(key).problem(message));
        }
    }
}

fn build(said: Said<'_>, pattern: Option<&Pattern>, model: &Model, sink: &mut Sink<'_>) -> Shaping {
    let headers = |form: Option<&form::HeaderEdit>, key: &str, sink: &mut Sink<'_>| {
        form.map_or_else(HeaderEdit::default, |form| headers::edit(form, key, sink))
    };
    Shaping {
        request: headers(said.request, "request_headers", sink),
        response: headers(said.response, "response_headers", sink),
        rewrite: said.rewrite.and_then(|form| path::rewrite(form, pattern, sink)),
        direct: direct::direct(said.redirect, said.respond, pattern, sink),
        cors: said.cors.map(|form| cors::cors(form, sink)),
        fault: said.fault.and_then(|form| fault(form, model, sink)),
        split: said.split.and_then(|form| split::split(form, said.sticky, sink)),
        sizes: Sizes { request: said.sizes.0, response: said.sizes.1 },
    }
}

fn fault(form: &form::Fault, model: &Model, sink: &mut Sink<'_>) -> Option<Fault> {
    let delay = form.delay.as_ref().map(|span| span.0);
    if delay.is_some_and(|delay| delay > LONGEST_DELAY) {
        sink(&[Step::Key("fault"), Step::Key("delay")], "a `delay` is at most 1m".into());
    }
    let abort = form.abort.as_ref().and_then(|abort| match (abort.status, abort.grpc) {
        (Some(status), _) => Some(told_by_status(status)),
        (None, Some(code)) => Some(told_by_code(code.into())),
        (None, None) => None,
    });
    if form.delay.is_none() && form.abort.is_none() {
        sink(&[Step::Key("fault")], Wrong::missing(&["delay", "abort"]));
    }
    let here = model.service.environment.as_deref();
    let named = form.environments.as_ref();
    if named.is_some() && here.is_none() && !model.service.name.as_str().is_empty() {
        let wrong = Wrong::from("`service.environment` is not set, so this fault is never made");
        let wrong = Wrong { warning: true, ..wrong.help("set it, such as `environment: dev`") };
        sink(&[Step::Key("fault"), Step::Key("environments")], wrong);
    }
    let holds = named.is_none_or(|named| named.iter().any(|name| Some(name.0.as_str()) == here));
    let share = form.percent.as_ref().map_or(1.0, |percent| percent.0);
    let if_header = form.if_header.as_ref().map(|header| header.0.clone());
    let useful = holds && share > 0.0 && (delay.is_some() || abort.is_some());
    useful.then_some(Fault { delay, abort, share, if_header })
}

impl From<form::Code> for GrpcCode {
    fn from(form: form::Code) -> Self {
        use form::Code;
        match form {
            Code::Cancelled => Self::Cancelled,
            Code::Unknown => Self::Unknown,
            Code::InvalidArgument => Self::InvalidArgument,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::OutOfRange => Self::OutOfRange,
            Code::Unimplemented => Self::Unimplemented,
            Code::Internal => Self::Internal,
            Code::Unavailable => Self::Unavailable,
            Code::DataLoss => Self::DataLoss,
            Code::Unauthenticated => Self::Unauthenticated,
        }
    }
}
