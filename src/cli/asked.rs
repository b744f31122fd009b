//! A request as one writes it on a command line, and which route of the files
//! takes it.

use std::str::FromStr;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Uri, request};

use crate::base::{Authority, UpstreamName};
use crate::config::Model;
use crate::config::model::Route;
use crate::policy::routes::{Matcher, Miss, upstream_of};

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Its head.
    pub(super) head: request::Parts,
    /// The service that it is for; `None` for a call to the fronted service.
    pub(super) to: Option<Authority>,
    /// As it was written, shortened to one form.
    pub(super) text: String,
}

/// Where a request goes.
pub(super) struct Found<'m> {
    /// The called service; `None` for the fronted one.
    pub(super) to: Option<UpstreamName>,
    /// The route that takes it; without one, what applies to the rest.
    pub(super) route: Option<&'m Route>,
    /// The other routes to the same place, and why not they.
    pub(super) others: Vec<(&'m Route, String)>,
}

impl FromStr for Asked {
    type Err = String;

    /// Reads `[METHOD] http://users/path`, `[METHOD] /path` for a call to the
    /// service itself, `grpc users package.Service/Method`, or
    /// `grpc package.Service/Method`.
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["grpc", to, method] => Self::grpc(Some(to), method),
            ["grpc", method] => Self::grpc(None, method),
            [target] => Self::http("GET", target),
            [method, target] => Self::http(method, target),
            _ => Err(USAGE.into()),
        }
    }
}

const USAGE: &str = "write it like `GET http://users/v1/users`, `grpc pay pay.v1.Pay/Charge`, \
    or `GET /v1/orders` for a call to the service itself";

impl Asked {
    fn grpc(to: Option<&str>, method: &str) -> Result<Self, String> {
        let method = method.trim_start_matches('/');
        if !method.split_once('/').is_some_and(|(service, name)| !service.is_empty() && !name.is_empty()) {
            return Err(format!("`{method}` is no gRPC method: {USAGE}"));
        }
        let to = to.map(authority).transpose()?;
        let mut asked = Self::of("POST", &format!("/{method}"), to)?;
        asked.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let to = asked.to.as_ref().map_or(String::new(), |to| format!("{to} "));
        asked.text = format!("grpc {to}{method}");
        Ok(asked)
    }

    fn http(method: &str, target: &str) -> Result<Self, String> {
        if target.starts_with('/') {
            return Self::of(method, target, None);
        }
        let Some(rest) = target.strip_prefix("http://") else {
            return Err(format!("`{target}` begins neither with `/` nor with `http://`: {USAGE}"));
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let path =
            if rest[end..].starts_with('/') { rest[end..].to_owned() } else { format!("/{}", &rest[end..]) };
        Self::of(method, &path, Some(authority(&rest[..end])?))
    }

    fn of(method: &str, path: &str, to: Option<Authority>) -> Result<Self, String> {
        if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(format!("`{method}` is no method: write it in capitals"));
        }
        let method = Method::from_str(method).map_err(|_| format!("`{method}` is no method: {USAGE}"))?;
        let uri = Uri::from_str(path).map_err(|error| format!("`{path}` is no path: {error}"))?;
        let (mut head, ()) = Request::new(()).into_parts();
        let text = match &to {
            Some(to) => format!("{method} http://{to}{path}"),
            None => format!("{method} {path}"),
        };
        if let Some(to) = &to {
            head.headers.insert(HOST, to.as_value().clone());
        }
        (head.method, head.uri) = (method, uri);
        Ok(Self { head, to, text })
    }

    /// Adds a header, written like `x-user: alice`.
    pub(super) fn add(&mut self, header: &str) -> Result<(), String> {
        let wrong = || format!("`{header}` is no header: write it like `x-user: alice`");
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        self.head.headers.append(name, value);
        Ok(())
    }

    /// Where it goes by the files of `model`.
    pub(super) fn find<'m>(&self, model: &'m Model) -> Found<'m> {
        let named = |name: &str| {
            let is = |one: &UpstreamName| one.as_str() == name;
            model.upstreams.keys().any(is)
                || model.outbound.iter().any(|route| route.to.as_ref().is_some_and(is))
        };
        let to = self.to.as_ref().map(|to| UpstreamName::new(&upstream_of(to, named)));
        let list = if to.is_some() { &model.outbound } else { &model.inbound };
        let routes: Vec<&Route> = list.iter().filter(|route| route.to == to).collect();
        let matcher = Matcher::new(routes.iter().map(|route| route.pattern.clone()).zip(0..));
        let given = self.head.headers.get(HOST).and_then(Authority::of);
        let host = given.as_ref().map_or("", Authority::host);
        let route = matcher.find(&self.head, host);
        let why =
            |miss: Option<Miss<'_>>| miss.map_or_else(|| "less specific".to_owned(), |miss| miss.to_string());
        let others = matcher.look(&self.head, host).filter(|(index, _)| Some(*index) != route);
        let others = others.map(|(index, miss)| (routes[index], why(miss))).collect();
        Found { route: route.map(|index| routes[index]), others, to }
    }
}

fn authority(text: &str) -> Result<Authority, String> {
    Authority::parse(text).ok_or_else(|| format!("`{text}` is no name of a service: {USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load_str};

    fn asked(text: &str) -> Asked {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_may_be_written_in_many_ways() {
        for (text, shown) in [
            ("http://users/v1", "GET http://users/v1"),
            ("POST http://Users:8080/v1?x=1", "POST http://users:8080/v1?x=1"),
            ("http://users", "GET http://users/"),
            ("http://users?x=1", "GET http://users/?x=1"),
            ("DELETE /v1/orders/7", "DELETE /v1/orders/7"),
            ("grpc pay pay.v1.Pay/Charge", "grpc pay pay.v1.Pay/Charge"),
            ("grpc /pay.v1.Pay/Charge", "grpc pay.v1.Pay/Charge"),
        ] {
            assert_eq!(asked(text).text, shown);
        }
        for wrong in [
            "",
            "users/v1",
            "get /v1",
            "G T /v1 x",
            "https://users/",
            "http:///v1",
            "grpc Charge",
            "http://a b/",
        ] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
        assert!(asked("/").add("x-user").is_err());
    }

    #[test]
    fn the_route_is_that_which_the_sidecar_takes() {
        let file = "
version: 1
service: {name: front, port: 8080}
inbound: [{route: 'GET /v1/{kind}'}]
outbound:
  - to: users
  - {to: users, route: 'GET /v1/users/{id}', timeout: 1s}
  - {to: users, route: '/v1/**', headers: {x-user: alice}}
  - {to: users, route: '/v1/**'}
";
        let model = load_str("pillion.yaml", file, &Environment::of([("", ""); 0])).unwrap().model;
        let mut call = asked("POST http://users:80/v1/users/7");
        let found = call.find(&model);
        assert_eq!(found.route.map(|route| route.pattern.headers.len()), Some(0));
        let why: Vec<&str> = found.others.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(why, ["another method", "the header `x-user`"]);
        call.add("X-User: alice").unwrap();
        assert_eq!(call.find(&model).route.map(|route| route.pattern.headers.len()), Some(1));
        assert!(asked("http://others/").find(&model).route.is_none());
        assert!(asked("/v1/orders").find(&model).route.is_some());
    }
}
