//! A request as one writes it on a command line or in a test of policies.

use std::str::FromStr;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, HeaderValue, Method, Request, Uri, request};

use crate::base::{Authority, grpc};

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its head.
    pub head: request::Parts,
    /// The service that it is for; `None` for a call to the fronted service.
    pub to: Option<Authority>,
    /// As it was written, shortened to one form.
    pub text: String,
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.head.headers) == (&other.text, &other.head.headers)
    }
}

impl FromStr for Call {
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

impl Call {
    fn grpc(to: Option<&str>, method: &str) -> Result<Self, String> {
        let method = method.trim_start_matches('/');
        if !method.split_once('/').is_some_and(|(service, name)| !service.is_empty() && !name.is_empty()) {
            return Err(format!("`{method}` is no gRPC method: {USAGE}"));
        }
        let to = to.map(authority).transpose()?;
        let mut call = Self::of("POST", &format!("/{method}"), to)?;
        call.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let to = call.to.as_ref().map_or(String::new(), |to| format!("{to} "));
        call.text = format!("grpc {to}{method}");
        Ok(call)
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

    /// Whether it is one of gRPC.
    pub fn is_grpc(&self) -> bool {
        grpc::is_call(&self.head)
    }

    /// The same without the headers that were added.
    pub fn without_headers(&self) -> Self {
        self.text.parse().unwrap_or_else(|_| self.clone())
    }

    /// Adds a header, written like `x-user: alice`.
    pub fn add(&mut self, header: &str) -> Result<(), String> {
        let wrong = || format!("`{header}` is no header: write it like `x-user: alice`");
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_str(name.trim()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        self.head.headers.append(name, value);
        Ok(())
    }
}

fn authority(text: &str) -> Result<Authority, String> {
    Authority::parse(text).ok_or_else(|| format!("`{text}` is no name of a service: {USAGE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
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
            assert_eq!(call(text).text, shown);
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
            assert!(wrong.parse::<Call>().is_err(), "{wrong}");
        }
        assert!(call("/").add("x-user").is_err());
    }
}
