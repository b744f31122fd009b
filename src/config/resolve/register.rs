//! How the service is entered into Consul.

use std::time::Duration;

use super::{At, set};
use crate::config::form::{self, Register as Form};
use crate::config::model::{Check, HealthQuestion, Register, Service};
use crate::config::problem::Problems;
use crate::config::units;

/// Consul takes nothing out sooner.
const SOONEST: Duration = Duration::from_secs(60);
/// The shortest `ttl`: it is told three times as often.
const SHORTEST: Duration = Duration::from_secs(3);
/// The longest key and value of metadata, and the most keys, as in Consul; a
/// few keys are the sidecar's own.
const KEY: usize = 128;
const VALUE: usize = 512;
const KEYS: usize = 56;

/// Whether and how the service is entered.
pub(super) fn register(
    form: Option<&Form>,
    at: At<'_>,
    service: &Service,
    problems: &mut Problems,
) -> Option<Register> {
    let how = match form? {
        Form::Whether(whether) => return whether.then(Register::default),
        Form::How(how) => how,
    };
    let address = how.address.as_ref().map(|reach| reach.0.clone());
    let mut register = Register { address, ..Register::default() };
    set(&mut register.deregister_after, how.deregister_after.as_ref().map(|d| d.0));
    set(&mut register.weight, how.weight);
    register.check = check(how, register.check, at, service, problems);
    if register.deregister_after < SOONEST {
        let message = "Consul takes nothing out before it was critical for a minute: write `1m` or more";
        problems.push(at.key("deregister_after").problem(message));
    }
    for (key, value) in how.metadata.iter().flatten() {
        let at = at.key("metadata");
        match metadata(key, &value.0) {
            Ok(()) => _ = register.metadata.insert(key.as_str().into(), value.0.as_str().into()),
            Err(message) => problems.push(at.word(key).problem(message)),
        }
    }
    if register.metadata.len() > KEYS {
        problems.push(at.word("metadata").problem(format!("more than {KEYS} keys of metadata")));
    }
    Some(register)
}

fn check(
    how: &form::RegisterHow,
    default: Check,
    at: At<'_>,
    service: &Service,
    problems: &mut Problems,
) -> Check {
    let question = service.health.as_ref().map(|health| &health.question);
    let ttl = how.ttl.as_ref().map(|ttl| ttl.0);
    let (check, needs) = match how.check {
        None | Some(form::Check::Ttl) => {
            if ttl.is_some_and(|ttl| ttl < SHORTEST) {
                let message = format!("a `ttl` is at least {}", units::show(SHORTEST));
                problems.push(at.key("ttl").problem(message));
            }
            return ttl.map_or(default, Check::Ttl);
        }
        Some(form::Check::Http) if matches!(question, Some(HealthQuestion::Path(_))) => (Check::Http, None),
        Some(form::Check::Grpc) if matches!(question, Some(HealthQuestion::Grpc(_))) => (Check::Grpc, None),
        Some(form::Check::Http) => (Check::Http, Some(("http", "health: {path: /health}"))),
        Some(form::Check::Grpc) => (Check::Grpc, Some(("grpc", "health: {grpc: \"\"}"))),
    };
    if let Some((word, wanted)) = needs {
        let message =
            format!("`check: {word}` asks what the service's own health says, which is not written");
        let help = format!("write `{wanted}` in `service`, or leave `check` out");
        problems.push(at.key("check").problem(message).help(help));
    }
    if how.ttl.is_some() {
        problems.push(at.word("ttl").problem("`ttl` belongs to `check: ttl`").help("take one of them out"));
    }
    check
}

fn metadata(key: &str, value: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if key.is_empty() || key.len() > KEY || !key.bytes().all(legal) {
        return Err(format!("`{key}` is no key of metadata: use letters, digits, `-` and `_`"));
    }
    if key.starts_with("pillion-") || key.starts_with("consul-") {
        return Err(format!("`{key}`: keys that begin with `pillion-` or `consul-` have a meaning already"));
    }
    match value.len() > VALUE {
        true => Err(format!("the value of `{key}` is longer than {VALUE} bytes")),
        false => Ok(()),
    }
}
