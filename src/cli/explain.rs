//! `pillion explain`: which route takes a request, which values hold for it and
//! where they were written, and how the endpoints fare.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::admin::{NoAnswer, Which};
use super::upstreams;
use crate::admin::dump;
use crate::config::model::{Egress, Route, Source};
use crate::config::{Call, Model};
use crate::policy::routes::{Found, find, find_outside};
use crate::telemetry::record::Direction;

/// Says which route takes a request, by which values, and how its endpoints fare.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pillion explain 'POST http://users/v1/users'
  pillion explain -H 'x-user: alice' http://users/v1/users/7
  pillion explain 'grpc payments pay.v1.Pay/Charge'
  pillion explain 'GET /v1/orders/7'          a call to the service itself
  pillion explain --gateway 'GET https://shop.example/api/users'

Nothing is sent: the files are read, and a sidecar that runs is asked for its endpoints.
Exit codes: 0; 1 nothing takes it; 2 the command line is wrong; 78 the configuration is bad.")]
pub(super) struct Args {
    /// `[METHOD] URL`, `[METHOD] /PATH`, or `grpc [SERVICE] package.Service/Method`.
    #[arg(value_name = "REQUEST")]
    request: String,
    /// The request comes from outside, to a `gateway`.
    #[arg(long)]
    gateway: bool,
    /// A header of the request; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// Ask no sidecar.
    #[arg(long)]
    offline: bool,
    /// For programs.
    #[arg(long)]
    json: bool,
}

/// What to print on standard output.
pub(super) fn run(args: &Args) -> Result<String, NoAnswer> {
    let request = asked(args).map_err(|why| NoAnswer(why, 2))?;
    let model = args.which.model()?;
    let found = match args.gateway {
        true => find_outside(&request, &model).map_err(|why| NoAnswer(why.into(), 1))?,
        false => find(&request, &model),
    };
    if found.to.is_none() && !args.gateway && model.service.address.is_none() {
        return Err(NoAnswer("`service.port` is not set: nothing is served here".into(), 1));
    }
    let values = values(&model, &found);
    let endpoints = match &found.to {
        Some(to) if !args.offline => {
            Some(args.which.ask::<Value>("/clusters").map(|all| one(all, to.as_str())))
        }
        _ => None,
    };
    if args.json {
        let endpoints = endpoints.and_then(Result::ok).flatten();
        return Ok(format!("{:#}\n", as_json(&request, &found, &values, endpoints.as_ref())));
    }
    let mut text = format!("{}\n\n", request.text);
    where_to(&mut text, &model, &found);
    let rows = values.iter().map(|(key, value)| {
        vec![key.clone(), shown(&value["value"]), value["origin"].as_str().unwrap_or_default().to_owned()]
    });
    let _ = write!(text, "\n{}", upstreams::table(&rows.collect::<Vec<_>>(), "  "));
    if args.gateway && found.route.is_none() {
        return Err(NoAnswer(text, 1));
    }
    if let Some(to) = &found.to {
        text.push('\n');
        match endpoints {
            Some(Ok(Some(upstream))) => text.push_str(&upstreams::one(upstream)?),
            Some(Ok(None)) => {
                let _ = writeln!(text, "the sidecar that runs does not follow `{to}`: it was never called");
            }
            Some(Err(NoAnswer(why, _))) => {
                let why = why.lines().next().unwrap_or_default();
                let _ = writeln!(text, "{why}, so its state is not known");
                written(&mut text, &model, to.as_str());
            }
            None => written(&mut text, &model, to.as_str()),
        }
    }
    Ok(text)
}

fn asked(args: &Args) -> Result<Call, String> {
    // A gateway has the same routes for both schemes.
    let text =
        if args.gateway { args.request.replacen("https://", "http://", 1) } else { args.request.clone() };
    let mut request: Call = text.parse()?;
    for header in &args.headers {
        request.add(header)?;
    }
    Ok(request)
}

fn values(model: &Model, found: &Found<'_>) -> Map<String, Value> {
    if let Some(gateway) = found.gateway {
        return found.route.map(|route| dump::gateway_policy(model, gateway, route)).unwrap_or_default();
    }
    match (found.route, &found.to) {
        (Some(route), _) => dump::route_policy(model, route),
        (None, Some(to)) => dump::outbound_policy(model, to),
        (None, None) => dump::inbound_policy(model),
    }
}

/// The upstream `name` of all that the sidecar follows.
fn one(mut all: Value, name: &str) -> Option<Value> {
    let all = all["upstreams"].as_array_mut()?;
    all.iter().position(|one| one["upstream"] == name).map(|at| all.swap_remove(at))
}

fn where_to(text: &mut String, model: &Model, found: &Found<'_>) {
    if let Some(gateway) = found.gateway {
        let _ = writeln!(text, "from outside, to the gateway on {}", gateway.listen);
    }
    match &found.to {
        None if found.gateway.is_some() => {}
        None => {
            let _ = writeln!(text, "to the service itself, `{}`", model.service.name);
        }
        Some(to) => {
            let block = model.upstreams.get(to);
            let _ = match block.and_then(|block| block.origin.as_ref()) {
                Some(origin) => writeln!(text, "to `{to}`, named at {origin}"),
                None if block.is_some() => writeln!(text, "to `{to}`"),
                None if model.egress == Egress::RegisteredOnly => {
                    writeln!(
                        text,
                        "to `{to}`, which no policy names: `egress` lets it pass if a source other than DNS knows it"
                    )
                }
                None => writeln!(text, "to `{to}`, which no policy names"),
            };
        }
    }
    let _ = match found.route {
        Some(route) => writeln!(text, "by the route {}", named(route)),
        None if found.others.is_empty() => writeln!(text, "by no route: there is none"),
        None => writeln!(text, "by no route"),
    };
    let rows: Vec<_> =
        found.others.iter().map(|(route, why)| vec![format!("not {}", named(route)), why.clone()]).collect();
    text.push_str(&upstreams::table(&rows, "  "));
}

fn named(route: &Route) -> String {
    format!("{} at {}", route.pattern, route.origin)
}

/// What the files themselves say of the endpoints.
fn written(text: &mut String, model: &Model, name: &str) {
    for source in &model.discovery {
        let Source::Static(upstreams) = source else { continue };
        let Some((_, endpoints)) = upstreams.iter().find(|(one, _)| one.as_str() == name) else { continue };
        let all: Vec<_> = endpoints.iter().map(|one| format!("{}:{}", one.host, one.port)).collect();
        let _ = writeln!(text, "`static` names {}", all.join(", "));
    }
}

/// A value as one would write it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}: {}", shown(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

fn as_json(asked: &Call, found: &Found<'_>, values: &Map<String, Value>, upstream: Option<&Value>) -> Value {
    let route =
        |route: &Route| json!({ "route": route.pattern.to_string(), "origin": route.origin.to_string() });
    let others = found.others.iter().map(|(other, why)| {
        let mut shown = route(other);
        shown["why_not"] = why.as_str().into();
        shown
    });
    json!({
        "request": asked.text,
        "direction": direction(found).as_str(),
        "gateway": found.gateway.map(|gateway| gateway.listen.to_string()),
        "to": found.to.as_ref().map(|to| to.as_str()),
        "route": found.route.map(route),
        "others": others.collect::<Vec<_>>(),
        "values": values,
        "upstream": upstream,
    })
}

fn direction(found: &Found<'_>) -> Direction {
    match (found.gateway, &found.to) {
        (Some(_), _) => Direction::Gateway,
        (None, Some(_)) => Direction::Outbound,
        (None, None) => Direction::Inbound,
    }
}

#[cfg(test)]
mod tests;
