//! What a backend saw of a request.

use std::io::Read;

use super::wire::{self, Bad, Fields, Framing, Wire};

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Fields,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// Why it was not complete or not strict.
    pub bad: Option<Bad>,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

impl Request {
    /// The only value of a field.
    pub fn field(&self, name: &str) -> Option<String> {
        wire::one(&self.fields, name)
    }

    pub fn has(&self, name: &str) -> bool {
        !wire::all(&self.fields, name).is_empty()
    }

    fn broken(connection: usize, bad: Bad) -> Self {
        Self {
            method: String::new(),
            target: String::new(),
            fields: Fields::new(),
            framing: Framing::None,
            body: Vec::new(),
            trailers: Fields::new(),
            bad: Some(bad),
            connection,
        }
    }
}

/// Fields that end at the next hop and must not reach a backend.
const HOP_BY_HOP: [&str; 4] = ["keep-alive", "proxy-connection", "http2-settings", "proxy-authenticate"];

/// Fields that say nothing good in a trailer section.
const NOT_IN_TRAILERS: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "host",
    "trailer",
    "connection",
    "authorization",
    "content-encoding",
    "te",
];

/// Reads the head of a request; `Bad::End` where the peer is done.
pub fn read_head<S: Read>(wire: &mut Wire<S>, connection: usize) -> Result<Request, Bad> {
    let line = wire.line(true)?;
    let fields = wire.fields()?;
    let text = String::from_utf8_lossy(&line).into_owned();
    let parts: Vec<&str> = text.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return wire::rule(format!("a request line of {text:?}"));
    };
    if method.is_empty() || !method.bytes().all(wire::is_token) {
        return wire::rule(format!("a method of {method:?}"));
    }
    let plain = target.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
    if !plain || !(target.starts_with('/') || (target == "*" && method == "OPTIONS")) {
        return wire::rule(format!("a target of {target:?}"));
    }
    strict_fields(&fields)?;
    let framing = wire::framing(&fields)?.unwrap_or(Framing::None);
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Request { method, target, fields, framing, ..Request::broken(connection, Bad::End) })
}

/// Reads a whole request into memory. What is broken is told in `bad`.
pub fn read<S: Read>(wire: &mut Wire<S>, connection: usize) -> Option<Request> {
    let mut request = match read_head(wire, connection) {
        Ok(request) => request,
        Err(Bad::End) => return None,
        Err(bad) => return Some(Request::broken(connection, bad)),
    };
    finish(wire, &mut request);
    Some(request)
}

/// Reads the body of a request whose head was read.
pub fn finish<S: Read>(wire: &mut Wire<S>, request: &mut Request) {
    let mut body = Vec::new();
    let ended = wire.body(request.framing, &mut |bytes| body.extend_from_slice(bytes));
    request.body = body;
    request.bad = match ended {
        Ok(trailers) => {
            let forbidden = trailers
                .iter()
                .find(|(name, _)| NOT_IN_TRAILERS.contains(&name.to_ascii_lowercase().as_str()));
            let bad = forbidden.map(|(name, _)| Bad::Rule(format!("{name} in the trailers")));
            request.trailers = trailers;
            bad
        }
        Err(bad) => Some(bad),
    };
}

fn strict_fields(fields: &Fields) -> Result<(), Bad> {
    let hosts = wire::all(fields, "host");
    let [host] = hosts.as_slice() else {
        return wire::rule(format!("{} Host fields", hosts.len()));
    };
    if pillion::base::Authority::parse(&String::from_utf8_lossy(host)).is_none() {
        return wire::rule(format!("a Host of {:?}", String::from_utf8_lossy(host)));
    }
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if HOP_BY_HOP.contains(&name.as_str()) {
            return wire::rule(format!("{name} came through"));
        }
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let named = ["upgrade", "close", "keep-alive", "te"];
        if name == "connection" && value.split(',').any(|word| !named.contains(&word.trim())) {
            return wire::rule(format!("Connection: {value} came through"));
        }
        if name == "te" && value != "trailers" {
            return wire::rule(format!("TE: {value} came through"));
        }
        if name == "upgrade" && wire::all(fields, "connection").is_empty() {
            return wire::rule("Upgrade without Connection");
        }
    }
    Ok(())
}
