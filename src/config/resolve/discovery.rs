//! The sources of discovery.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::consul::consul;
use super::register::register;
use super::{At, set};
use crate::base::UpstreamName;
use crate::config::expand::Environment;
use crate::config::form;
use crate::config::model::{
    Dns, KEEP_FOR, Kubernetes, Local, Locality, Service, Source, StaticEndpoint, WhenEmpty,
};
use crate::config::problem::Problems;
use crate::config::{text, units};

/// The sources, in their order.
pub(super) fn discovery(
    forms: &[form::Source],
    at: At<'_>,
    environment: &Environment,
    service: &Service,
    problems: &mut Problems,
) -> Vec<Source> {
    let (mut sources, mut seen) = (Vec::new(), BTreeMap::new());
    for (index, form) in forms.iter().enumerate() {
        let at = at.item(index);
        let (key, source) = match form {
            form::Source { local: Some(form), .. } => ("local", Source::Local(local(form, environment))),
            form::Source { fixed: Some(form), .. } => {
                ("static", Source::Static(fixed(form, at.key("static"), problems)))
            }
            form::Source { consul: Some(form), .. } => {
                let at = at.key("consul");
                let mut source = consul(form, at, environment, problems);
                source.register = register(form.register.as_ref(), at.key("register"), service, problems);
                ("consul", Source::Consul(Box::new(source)))
            }
            form::Source { kubernetes: Some(form), .. } => {
                ("kubernetes", Source::Kubernetes(kubernetes(form, at.key("kubernetes"), problems)))
            }
            form::Source { dns: Some(form), .. } => ("dns", Source::Dns(dns(form, at.key("dns"), problems))),
            _ => continue,
        };
        if let Some(line) = seen.insert(key, at.span.line) {
            let message = format!("`{key}` stands here again; first on line {line}");
            problems.push(at.word(key).problem(message));
        }
        sources.push(source);
    }
    sources
}

fn local(form: &form::Local, environment: &Environment) -> Local {
    Local {
        directory: form
            .directory
            .as_ref()
            .map_or_else(|| local_directory(environment), |d| PathBuf::from(&d.0)),
        register: form.register.unwrap_or(true),
    }
}

fn fixed(
    forms: &BTreeMap<String, Vec<form::Endpoint>>,
    at: At<'_>,
    problems: &mut Problems,
) -> BTreeMap<UpstreamName, Vec<StaticEndpoint>> {
    let mut all = BTreeMap::new();
    for (name, forms) in forms {
        if let Err(message) = text::check("pillion-upstream", name) {
            problems.push(at.word(name).problem(message));
            continue;
        }
        let at = at.key(name);
        let mut endpoints: Vec<StaticEndpoint> = Vec::new();
        for (index, form) in forms.iter().enumerate() {
            let Some(endpoint) = static_endpoint(form) else { continue };
            if endpoints.iter().any(|other| other.host == endpoint.host && other.port == endpoint.port) {
                problems.push(at.item(index).problem(format!("this address of `{name}` stands here twice")));
            }
            endpoints.push(endpoint);
        }
        if all.insert(UpstreamName::new(name), endpoints).is_some() {
            problems.push(at.problem(format!("`{name}` stands here twice: capitals make no difference")));
        }
    }
    all
}

fn static_endpoint(form: &form::Endpoint) -> Option<StaticEndpoint> {
    let text = |word: &Option<text::Word>| word.as_ref().map(|word| word.0.as_str().into());
    let (target, weight, locality) = match form {
        form::Endpoint::Short(target) => (target, None, Locality::default()),
        form::Endpoint::Long(long) => {
            let locality = Locality { region: text(&long.region), zone: text(&long.zone) };
            (long.address.as_ref()?, long.weight, locality)
        }
    };
    Some(StaticEndpoint {
        host: target.0.host.as_str().into(),
        port: target.0.port,
        weight: weight.unwrap_or(1),
        locality,
    })
}

fn kubernetes(form: &form::Kubernetes, at: At<'_>, problems: &mut Problems) -> Kubernetes {
    let text = |word: &Option<text::Word>| word.as_ref().map(|word| Arc::<str>::from(word.0.as_str()));
    let (namespace, domain) = (text(&form.namespace), text(&form.cluster_domain));
    if namespace.as_deref().is_some_and(|namespace| !is_label(namespace)) {
        let message = "a namespace has 1 to 63 of a-z, 0-9 and `-`, and neither begins nor ends with `-`";
        problems.push(at.key("namespace").problem(message));
    }
    if domain.as_deref().is_some_and(|domain| !domain.split('.').all(is_label)) {
        let message =
            "a cluster domain looks like `cluster.local`: labels of a-z, 0-9 and `-`, with dots between";
        problems.push(at.key("cluster_domain").problem(message));
    }
    let plain = Kubernetes::default();
    let keep = (form.when_empty, form.keep_for.as_ref().map(|d| d.0));
    Kubernetes {
        kubeconfig: form.kubeconfig.as_ref().map(|path| PathBuf::from(&path.0)),
        context: text(&form.context),
        namespace,
        cluster_domain: domain.unwrap_or(plain.cluster_domain),
        when_empty: when_empty(keep, plain.when_empty, at, problems),
    }
}

/// The form of RFC 1123 that Kubernetes asks for.
fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn dns(form: &form::Dns, at: At<'_>, problems: &mut Problems) -> Dns {
    let mut dns = Dns::default();
    dns.servers.extend(form.servers.iter().flatten().map(|server| server.0));
    set(&mut dns.min_ttl, form.min_ttl.as_ref().map(|d| d.0));
    set(&mut dns.max_ttl, form.max_ttl.as_ref().map(|d| d.0));
    set(&mut dns.timeout, form.timeout.as_ref().map(|d| d.0));
    set(&mut dns.default_port, form.default_port);
    if dns.min_ttl > dns.max_ttl {
        let key = if form.min_ttl.is_some() { "min_ttl" } else { "max_ttl" };
        let (min, max) = (units::show(dns.min_ttl), units::show(dns.max_ttl));
        problems.push(at.key(key).problem(format!("`min_ttl` ({min}) is longer than `max_ttl` ({max})")));
    }
    dns.when_empty =
        when_empty((form.when_empty, form.keep_for.as_ref().map(|d| d.0)), dns.when_empty, at, problems);
    dns
}

/// What `when_empty` and `keep_for` say, or `default` where both are missing.
pub(super) fn when_empty(
    form: (Option<form::WhenEmpty>, Option<Duration>),
    default: WhenEmpty,
    at: At<'_>,
    problems: &mut Problems,
) -> WhenEmpty {
    match (form, default) {
        ((None, None), default) => default,
        ((Some(form::WhenEmpty::Keep), time), _) | ((None, time), WhenEmpty::Keep(_)) => {
            WhenEmpty::Keep(time.unwrap_or(KEEP_FOR))
        }
        ((Some(form::WhenEmpty::Fail), None), _) => WhenEmpty::Fail,
        ((_, Some(_)), _) => {
            let message = "`keep_for` is for `when_empty: keep`: with `fail` nothing is kept";
            problems.push(at.key("keep_for").problem(message));
            WhenEmpty::Fail
        }
    }
}

/// Where the sidecars of this machine meet, unless the file says otherwise.
pub(super) fn local_directory(environment: &Environment) -> PathBuf {
    match environment.get("XDG_RUNTIME_DIR") {
        Some(folder) if folder.starts_with('/') => PathBuf::from(folder).join("pillion"),
        _ => PathBuf::from(format!("/tmp/pillion-{}", rustix::process::getuid().as_raw())),
    }
}
