//! Consul as a source of discovery.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::discovery::when_empty;
use super::{At, set};
use crate::base::UpstreamName;
use crate::config::expand::Environment;
use crate::config::form;
use crate::config::model::{Consistency, Consul, ConsulInstances, ConsulTls, ConsulToken};
use crate::config::problem::Problems;
use crate::config::text::{self, Word};
use crate::config::units;

/// What Consul itself allows, and what does not hold a question for nothing.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// A prepared query is run at most this often.
const QUERY_INTERVAL: Duration = Duration::from_secs(1);
/// The longest filter, in bytes.
const FILTER: usize = 2048;

/// What the file says, and else the environment.
pub(super) fn consul(
    form: &form::Consul,
    at: At<'_>,
    environment: &Environment,
    problems: &mut Problems,
) -> Consul {
    let mut consul = Consul {
        token: token(form, at, environment, problems),
        tls: form.tls.as_ref().map(|form| tls(form, at, problems)).unwrap_or_default(),
        datacenter: optional(form.datacenter.as_ref()),
        namespace: optional(form.namespace.as_ref()),
        instances: instances(form, at, problems),
        ..Consul::default()
    };
    if let Some(address) = address(form, at, environment, problems) {
        consul.address = address;
    }
    if form.tls.is_some() && !consul.address.starts_with("https://") {
        let message = "`tls` needs an address that begins with `https://`";
        problems.push(at.word("tls").problem(message));
    }
    set(&mut consul.wait, form.wait.as_ref().map(|d| d.0));
    set(&mut consul.keep_lost, form.keep_lost.as_ref().map(|d| d.0));
    set(&mut consul.connections, form.connections);
    set(&mut consul.query_interval, form.query_interval.as_ref().map(|d| d.0));
    if consul.wait < WAIT.0 || consul.wait > WAIT.1 {
        let message = format!("`wait` is from {} to {}", units::show(WAIT.0), units::show(WAIT.1));
        problems.push(at.key("wait").problem(message));
    }
    if consul.query_interval < QUERY_INTERVAL {
        let message = format!("`query_interval` is at least {}", units::show(QUERY_INTERVAL));
        problems.push(at.key("query_interval").problem(message));
    }
    let keep = (form.when_empty, form.keep_for.as_ref().map(|d| d.0));
    consul.when_empty = when_empty(keep, consul.when_empty, at, problems);
    consul.consistency = match form.consistency {
        None | Some(form::Consistency::Default) => Consistency::Default,
        Some(form::Consistency::Stale) => Consistency::Stale,
        Some(form::Consistency::Consistent) => Consistency::Consistent,
    };
    for (name, query) in form.queries.iter().flatten() {
        match text::check("pillion-upstream", name) {
            Ok(()) => _ = consul.queries.insert(UpstreamName::new(name), query.0.as_str().into()),
            Err(message) => problems.push(at.key("queries").word(name).problem(message)),
        }
    }
    consul
}

fn address(
    form: &form::Consul,
    at: At<'_>,
    environment: &Environment,
    problems: &mut Problems,
) -> Option<Arc<str>> {
    if let Some(address) = &form.address {
        return Some(address.0.as_str().into());
    }
    let address = environment.get("CONSUL_HTTP_ADDR").filter(|address| !address.is_empty())?;
    match text::consul_address(address) {
        Ok(address) => Some(address.into()),
        Err(message) => {
            problems.push(at.problem(format!("CONSUL_HTTP_ADDR: {message}")));
            None
        }
    }
}

fn token(form: &form::Consul, at: At<'_>, environment: &Environment, problems: &mut Problems) -> ConsulToken {
    if let Some(token) = &form.token {
        if form.token_file.is_some() {
            let message = "`token` and `token_file` both say the token";
            problems.push(at.word("token_file").problem(message).help("take one of them out"));
        }
        if token.is_empty() {
            return ConsulToken::None;
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            problems.push(at.key("token").problem("the token holds a byte that no token has"));
        }
        return ConsulToken::Text(token.as_str().into());
    }
    if let Some(file) = &form.token_file {
        return ConsulToken::File(beside(at, file));
    }
    let named = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    if let Some(token) = named("CONSUL_HTTP_TOKEN") {
        return ConsulToken::Text(token.into());
    }
    named("CONSUL_HTTP_TOKEN_FILE").map_or(ConsulToken::None, |file| ConsulToken::File(file.into()))
}

fn tls(form: &form::ConsulTls, at: At<'_>, problems: &mut Problems) -> ConsulTls {
    let file = |word: &Option<Word>| word.as_ref().map(|word| beside(at, word));
    if form.cert_file.is_some() != form.key_file.is_some() {
        let (has, lacks) = match form.cert_file.is_some() {
            true => ("cert_file", "key_file"),
            false => ("key_file", "cert_file"),
        };
        problems.push(at.key("tls").word(has).problem(format!("`{has}` needs `{lacks}` beside it")));
    }
    ConsulTls {
        ca_file: file(&form.ca_file),
        cert_file: file(&form.cert_file),
        key_file: file(&form.key_file),
        server_name: optional(form.server_name.as_ref()),
    }
}

fn instances(form: &form::Consul, at: At<'_>, problems: &mut Problems) -> ConsulInstances {
    if form.near.is_some() && form.limit.is_none() && form.queries.is_none() {
        let message = "`near` only says which instances `limit` takes";
        problems.push(at.word("near").problem(message).help("write `limit: 10` beside it"));
    }
    if form.limit.is_some() && form.near.is_none() {
        let message = "`limit` takes the nearest instances, and nothing says of what";
        problems.push(at.word("limit").problem(message).help("write `near: _agent` beside it"));
    }
    if form.filter.as_ref().is_some_and(|filter| filter.0.len() > FILTER) {
        problems.push(at.key("filter").problem(format!("a filter has at most {FILTER} bytes")));
    }
    if form.filter.is_some() && form.queries.as_ref().is_some_and(|queries| !queries.is_empty()) {
        let message = "Consul does not apply `filter` to what `queries` run";
        let help = "write the filter into the prepared query, or use `tags` and `metadata`";
        problems.push(at.word("filter").problem(message).help(help));
    }
    ConsulInstances {
        tags: form.tags.iter().flatten().map(|tag| tag.0.as_str().into()).collect(),
        metadata: form
            .metadata
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str().into(), value.0.as_str().into()))
            .collect(),
        filter: optional(form.filter.as_ref()),
        near: optional(form.near.as_ref()),
        limit: form.limit,
        only_passing: form.only_passing.unwrap_or(false),
    }
}

fn optional(word: Option<&Word>) -> Option<Arc<str>> {
    word.map(|word| word.0.as_str().into())
}

/// A path as it stands in a file is relative to that file.
fn beside(at: At<'_>, path: &Word) -> PathBuf {
    Path::new(&*at.file.name).parent().unwrap_or(Path::new("")).join(&path.0)
}
