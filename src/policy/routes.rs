//! Which route takes a request.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use http::header::{HOST, HeaderName};
use http::request;

use super::normal;
use crate::base::{Authority, UpstreamName};
use crate::config::model::{Gateway, Pattern, Route, Segment, ValueMatch};
use crate::config::route::host_rank;
use crate::config::{Call, Model};

/// The routes of one upstream, or of the service, from the most specific on.
#[derive(Debug, Default)]
pub struct Matcher {
    routes: Vec<(Pattern, usize)>,
}

impl Matcher {
    /// A matcher over patterns, each with the number that [`Self::find`] gives back.
    pub fn new(patterns: impl Iterator<Item = (Pattern, usize)>) -> Self {
        let mut routes: Vec<_> = patterns.collect();
        // A stable sort of a partial order: the better of any two that can take
        // the same request comes first.
        routes.sort_by(|a, b| b.0.specificity(&a.0));
        debug_assert!(routes.windows(2).all(|pair| pair[0].0.specificity(&pair[1].0) != Ordering::Less));
        Self { routes }
    }

    /// The same, but a route that names the host more closely wins over all that a
    /// path says: each host of a gateway is a site of its own.
    pub fn by_host(patterns: impl Iterator<Item = (Pattern, usize)>) -> Self {
        let mut all = Self::new(patterns);
        all.routes.sort_by_key(|(pattern, _)| std::cmp::Reverse(host_rank(pattern)));
        all
    }

    /// Whether there is a route for this host.
    pub fn has_host(&self, host: &str) -> bool {
        let hosts = self.routes.iter().map(|(pattern, _)| pattern.host.as_deref());
        hosts.into_iter().any(|wanted| wanted.is_none_or(|wanted| takes_host(wanted, host)))
    }

    /// The most specific route that takes the request. `host` is the name that
    /// it is for, in lower case and without a port.
    pub fn find(&self, head: &request::Parts, host: &str) -> Option<usize> {
        let path = head.uri.path();
        self.routes
            .iter()
            .find(|(pattern, _)| miss(pattern, head, path, host).is_none())
            .map(|(_, index)| *index)
    }

    /// All routes, from the most specific on, each with what keeps the request
    /// from it, if anything does.
    pub fn look<'a>(
        &'a self,
        head: &'a request::Parts,
        host: &'a str,
    ) -> impl Iterator<Item = (usize, Option<Miss<'a>>)> {
        let path = head.uri.path();
        self.routes.iter().map(move |(pattern, index)| (*index, miss(pattern, head, path, host)))
    }
}

/// What of a route's conditions a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'a> {
    /// Its method.
    Method,
    /// Its path.
    Path,
    /// The host that it is for.
    Host,
    /// This header.
    Header(&'a HeaderName),
    /// This parameter of the query.
    Query(&'a str),
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("another method"),
            Self::Path => f.write_str("another path"),
            Self::Host => f.write_str("another host"),
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
        }
    }
}

/// The upstream that an authority names. Where `named`, what policies name,
/// holds only the host, the port makes no difference.
pub fn upstream_of<'a>(authority: &'a Authority, named: impl Fn(&str) -> bool) -> Cow<'a, str> {
    let host = authority.host();
    match authority.port() {
        None | Some(80) => host.into(),
        Some(port) => {
            let full = format!("{host}:{port}");
            if !named(&full) && named(host) { host.into() } else { full.into() }
        }
    }
}

/// Where a request goes.
pub struct Found<'m> {
    /// The gateway that it comes to, where it is one from outside.
    pub gateway: Option<&'m Gateway>,
    /// The called service; `None` for the fronted one.
    pub to: Option<UpstreamName>,
    /// The route that takes it; without one, what applies to the rest.
    pub route: Option<&'m Route>,
    /// The other routes to the same place, and why not they.
    pub others: Vec<(&'m Route, String)>,
}

/// Where a call goes by the files of `model`, as a worker would find it.
pub fn find<'m>(call: &Call, model: &'m Model) -> Found<'m> {
    let named = |name: &str| {
        let is = |one: &UpstreamName| one.as_str() == name;
        model.upstreams.keys().any(is) || model.outbound.iter().any(|route| route.to.as_ref().is_some_and(is))
    };
    let to = call.to.as_ref().map(|to| UpstreamName::new(&upstream_of(to, named)));
    let list = if to.is_some() { &model.outbound } else { &model.inbound };
    let routes: Vec<&Route> = list.iter().filter(|route| route.to == to).collect();
    let matcher = Matcher::new(routes.iter().map(|route| route.pattern.clone()).zip(0..));
    let given = call.head.headers.get(HOST).and_then(Authority::of);
    // Whoever calls the service itself names it.
    let host =
        given.as_ref().map_or(if to.is_some() { "" } else { model.service.name.as_str() }, Authority::host);
    let route = matcher.find(&call.head, host);
    let why =
        |miss: Option<Miss<'_>>| miss.map_or_else(|| "less specific".to_owned(), |miss| miss.to_string());
    let others = matcher.look(&call.head, host).filter(|(index, _)| Some(*index) != route);
    let others = others.map(|(index, miss)| (routes[index], why(miss))).collect();
    Found { gateway: None, route: route.map(|index| routes[index]), others, to }
}

/// Where a call from outside goes: the first gateway that has a route for it, or
/// the first of all. An error where there is none, or where no gateway would look
/// at such a path.
pub fn find_outside<'m>(call: &Call, model: &'m Model) -> Result<Found<'m>, &'static str> {
    let mut first = None;
    for gateway in &model.gateways {
        let found = find_at(call, gateway)?;
        if found.route.is_some() {
            return Ok(found);
        }
        first.get_or_insert(found);
    }
    first.ok_or("there is no `gateway`")
}

fn find_at<'m>(call: &Call, gateway: &'m Gateway) -> Result<Found<'m>, &'static str> {
    let mut head = call.head.clone();
    if let Some(path) = normal::path(head.uri.path(), gateway.encoded_slashes)? {
        let query = head.uri.query().map_or(String::new(), |query| format!("?{query}"));
        head.uri = format!("{path}{query}").parse().map_err(|_| "the path is none once it is resolved")?;
    }
    let host = call.to.as_ref().map_or("", Authority::host);
    let routes = &gateway.routes;
    let matcher = Matcher::by_host(routes.iter().map(|route| route.pattern.clone()).zip(0..));
    let route = matcher.find(&head, host);
    let why =
        |miss: Option<Miss<'_>>| miss.map_or_else(|| "less specific".to_owned(), |miss| miss.to_string());
    let others = matcher.look(&head, host).filter(|(index, _)| Some(*index) != route);
    let others = others.map(|(index, miss)| (&routes[index], why(miss))).collect();
    let route = route.map(|index| &routes[index]);
    Ok(Found { gateway: Some(gateway), to: route.and_then(|route| route.to.clone()), route, others })
}

fn miss<'a>(pattern: &'a Pattern, head: &request::Parts, path: &str, host: &str) -> Option<Miss<'a>> {
    if !pattern.methods.is_empty() && !pattern.methods.contains(&head.method) {
        return Some(Miss::Method);
    }
    if !takes_path(&pattern.segments, path) {
        return Some(Miss::Path);
    }
    if pattern.host.as_deref().is_some_and(|wanted| !takes_host(wanted, host)) {
        return Some(Miss::Host);
    }
    let value = |name| head.headers.get(name).map(http::HeaderValue::as_bytes);
    if let Some((name, _)) = pattern.headers.iter().find(|(name, wanted)| !wanted.takes(value(name))) {
        return Some(Miss::Header(name));
    }
    let query = || head.uri.query().unwrap_or_default();
    pattern
        .query
        .iter()
        .find(|(name, wanted)| !takes_query(name, wanted, query()))
        .map(|(name, _)| Miss::Query(name))
}

fn takes_path(segments: &[Segment], path: &str) -> bool {
    let mut rest = path.strip_prefix('/').or((path == "*").then_some(path)).map_or(Some(""), Some);
    for segment in segments {
        if *segment == Segment::Rest {
            return true;
        }
        let Some(left) = rest else { return false };
        let (part, after) = match left.split_once('/') {
            Some((part, after)) => (part, Some(after)),
            None => (left, None),
        };
        let fits = match segment {
            Segment::Literal(wanted) if part.contains('%') => decoded(part).as_ref() == wanted.as_bytes(),
            Segment::Literal(wanted) => part == &**wanted,
            Segment::Parameter(_) => !part.is_empty(),
            Segment::Rest => true,
        };
        if !fits {
            return false;
        }
        rest = after;
    }
    rest.is_none()
}

/// A segment of a path, counted from 0, in the form that all ways to write it have.
pub fn segment(path: &str, index: usize) -> Option<Cow<'_, [u8]>> {
    path.strip_prefix('/')?.split('/').nth(index).map(decoded)
}

fn takes_host(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == wanted,
    }
}

fn takes_query(name: &str, wanted: &ValueMatch, query: &str) -> bool {
    let found = query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key).as_ref() == name.as_bytes()).then(|| decoded(value))
    });
    wanted.takes(found.as_deref())
}

/// Percent-escapes resolved (RFC 3986, section 2.1), so that a route can't be
/// avoided by writing `%75sers`. An escape that is none stays as it is.
pub fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| {
        bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
    };
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load_str};
    use http::Request;

    fn matcher(routes: &[&str]) -> Matcher {
        Matcher::new(routes.iter().enumerate().map(|(index, text)| (Pattern::parse(text).unwrap(), index)))
    }

    fn find(matcher: &Matcher, method: &str, target: &str) -> Option<usize> {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        matcher.find(&request.into_parts().0, "users")
    }

    #[test]
    fn the_most_specific_route_wins_in_whatever_order_they_are_written() {
        let routes = [
            "/**",
            "GET /v1/users/{id}",
            "/v1/users/{id}",
            "GET /v1/users/me",
            "GET /v1/{kind}/{rest...}",
            "/",
        ];
        let all = matcher(&routes);
        for (method, target, wanted) in [
            ("GET", "/v1/users/me", Some(3)),
            ("GET", "/v1/users/7?x=/v1", Some(1)),
            ("PUT", "/v1/users/7", Some(2)),
            ("GET", "/v1/users/7/orders", Some(4)),
            ("GET", "/v1/users/", Some(4)),
            ("PUT", "/v1/users/7/orders", Some(0)),
            ("GET", "/", Some(5)),
            ("GET", "http://users", Some(5)),
            ("OPTIONS", "*", Some(0)),
            ("GET", "/v1/%75sers/me", Some(3)),
            ("GET", "/v1/users%2Fme", Some(4)),
        ] {
            assert_eq!(find(&all, method, target), wanted, "{method} {target}");
        }
        let mut reversed = routes;
        reversed.reverse();
        assert_eq!(find(&matcher(&reversed), "GET", "/v1/users/me"), Some(2));
    }

    #[test]
    fn no_route_is_no_route() {
        let one = matcher(&["GET /v1/users/{id}"]);
        for target in ["/v1/users", "/v1/users/", "/v1/users/1/2", "/v1", "/", "//v1/users/1"] {
            assert_eq!(find(&one, "GET", target), None, "{target}");
        }
        assert_eq!(find(&one, "POST", "/v1/users/1"), None);
    }

    #[test]
    fn segments_are_the_same_however_they_are_written() {
        assert_eq!(segment("/v1/users/%37", 2).as_deref(), Some(&b"7"[..]));
        assert_eq!(segment("/v1/users/7/orders", 2).as_deref(), Some(&b"7"[..]));
        assert_eq!((segment("/v1", 1), segment("*", 0)), (None, None));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(decoded("a%2").as_ref(), b"a%2");
        assert_eq!(decoded("%zz%41").as_ref(), b"%zzA");
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
        let call = |text: &str| text.parse::<Call>().unwrap();
        let mut post = call("POST http://users:80/v1/users/7");
        let found = super::find(&post, &model);
        assert_eq!(found.route.map(|route| route.pattern.headers.len()), Some(0));
        let why: Vec<&str> = found.others.iter().map(|(_, why)| why.as_str()).collect();
        assert_eq!(why, ["another method", "the header `x-user`"]);
        post.add("X-User: alice").unwrap();
        assert_eq!(super::find(&post, &model).route.map(|route| route.pattern.headers.len()), Some(1));
        assert!(super::find(&call("http://others/"), &model).route.is_none());
        assert!(super::find(&call("/v1/orders"), &model).route.is_some());
    }
}
