//! `pillion check` and `pillion schema`: the same reading as a start, without
//! the start.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::EXIT_CODE;
use super::dev;
use super::expand::{Environment, read_bounded};
use super::load::{Loaded, draft, load_policy};
use super::model::{Model, Pattern, Retry, Route, Timeout};
use super::problem::{Problems, plural};
use super::route::host_rank;
use super::schema::{Which, schema};
use super::tree::{File, LARGEST};
use super::units;

/// Checks each file: a `pillion.yaml` with the policy files that it names, or
/// a policy file by itself; without any, the `pillion.yaml` of the current
/// folder. Writes what is wrong, or what there is. The exit
/// code: 0, or 78 if any file has a problem.
pub fn check(paths: &[PathBuf], environment: &Environment, out: &mut impl Write) -> io::Result<u8> {
    let usual = [PathBuf::from("pillion.yaml")];
    let paths = if paths.is_empty() { &usual } else { paths };
    let mut all = Problems::default();
    for path in paths {
        if kind_of(path) == Which::Dev {
            match dev::read(path, environment) {
                Ok(services) => {
                    writeln!(out, "{}: ok: {}", path.display(), plural(services.len(), "service"))?;
                }
                Err(problems) => all.extend(problems),
            }
            continue;
        }
        match load_any(path, environment) {
            Ok(loaded) => {
                for warning in loaded.warnings.iter().chain(loaded.holes.iter()) {
                    write!(out, "{warning}")?;
                }
                list(&loaded.model, paths.len() > 1, path, out)?;
            }
            Err(problems) => all.extend(problems),
        }
    }
    if all.is_empty() {
        return Ok(0);
    }
    all.once();
    writeln!(out, "{all}")?;
    Ok(EXIT_CODE)
}

/// Writes the JSON Schema of this kind of file.
pub fn print_schema(which: Which, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:#}", schema(which))
}

/// Reads a `pillion.yaml` with its policy files, or a policy file by itself.
/// Values of Consul may be left out.
pub fn load_any(path: &Path, environment: &Environment) -> Result<Loaded, Problems> {
    match kind_of(path) {
        Which::Policy => load_policy(path, environment),
        Which::Main | Which::Dev => draft(path, environment),
    }
}

/// A file that holds routes, and nothing that only `pillion.yaml` has.
pub(super) fn kind_of(path: &Path) -> Which {
    if path.file_stem().is_some_and(|stem| stem == "pillion") {
        return Which::Main;
    }
    let Ok(text) = read_bounded(path, LARGEST) else { return Which::Main };
    let Some(root) = File::new("", &text).parse(&text, &mut Problems::default()) else { return Which::Main };
    let has = |key: &str| root.get(key).is_some();
    if has("services") {
        return Which::Dev;
    }
    match ["inbound", "outbound", "tests"].into_iter().any(has) && !has("service") {
        true => Which::Policy,
        false => Which::Main,
    }
}

fn list(model: &Model, several: bool, path: &Path, out: &mut impl Write) -> io::Result<()> {
    let gateways = model.gateways.iter().map(|gateway| gateway.routes.len()).sum::<usize>();
    let routes = plural(model.inbound.len() + model.outbound.len() + gateways, "route");
    let upstreams = plural(model.upstreams.len(), "upstream");
    let file = if several { format!("{}: ", path.display()) } else { String::new() };
    writeln!(out, "{file}ok: {routes}, {upstreams}")?;
    for route in ordered(&model.inbound) {
        writeln!(out, "  inbound   {}", line(route))?;
    }
    for gateway in &model.gateways {
        writeln!(out, "  gateway   {}", gateway.listen)?;
        let mut routes = ordered(&gateway.routes);
        routes.sort_by_key(|route| std::cmp::Reverse(host_rank(&route.pattern)));
        for route in routes {
            let to = route.to.as_ref().map_or(String::new(), |to| format!(" to {to}"));
            writeln!(out, "    {}{to}", line(route))?;
        }
    }
    for (name, upstream) in &model.upstreams {
        let port = upstream.listen.map_or(String::new(), |listen| format!(" on {listen}"));
        writeln!(out, "  outbound  {name}{port}")?;
        for route in ordered(&model.outbound).into_iter().filter(|route| route.to.as_ref() == Some(name)) {
            writeln!(out, "    {}", line(route))?;
        }
    }
    Ok(())
}

/// The one that wins first.
fn ordered(routes: &[Route]) -> Vec<&Route> {
    let mut routes: Vec<&Route> = routes.iter().collect();
    routes.sort_by(|a, b| b.pattern.specificity(&a.pattern));
    routes
}

fn line(route: &Route) -> String {
    let timeout = match route.policy.timeout {
        Timeout::Whole(timeout) => format!("timeout {}", units::show(timeout)),
        Timeout::Head(timeout) => format!("head within {}", units::show(timeout)),
    };
    let retry = match &route.policy.retry {
        Some(Retry { max, .. }) if *max > 0 => format!(", retry {max}"),
        _ => String::new(),
    };
    let hedge = match &route.policy.hedge {
        Some(hedge) if hedge.max > 0 => format!(", hedged after {}", hedge.after.show()),
        _ => String::new(),
    };
    let mirror = match &route.policy.mirror {
        Some(mirror) if mirror.share > 0.0 => format!(", mirrored to {}", mirror.to),
        _ => String::new(),
    };
    format!("{}  ({timeout}{retry}{hedge}{mirror})  {}", pattern(&route.pattern), route.origin)
}

fn pattern(pattern: &Pattern) -> String {
    let methods: Vec<&str> = pattern.methods.iter().map(http::Method::as_str).collect();
    let mut text = match (pattern.grpc, methods.is_empty()) {
        (true, _) => format!("grpc {}", pattern.template.trim_start_matches('/')),
        (false, true) => pattern.template.to_string(),
        (false, false) => format!("{} {}", methods.join(","), pattern.template),
    };
    if let Some(host) = &pattern.host {
        text += &format!(" host={host}");
    }
    for (name, _) in &pattern.headers {
        text += &format!(" header:{name}");
    }
    for (name, _) in &pattern.query {
        text += &format!(" query:{name}");
    }
    text
}
