//! `cors`.

use std::time::Duration;

use http::Method;
use http::header::{HeaderName, HeaderValue};

use super::{Sink, Step, Wrong};
use crate::base::Authority;
use crate::config::form;
use crate::config::model::shaping::{Cors, OriginPattern};
use crate::config::text::Word;

/// Browsers keep no answer for longer.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

pub(super) fn cors(form: &form::Cors, sink: &mut Sink<'_>) -> Cors {
    let at = Step::Key("cors");
    let credentials = form.credentials.unwrap_or(false);
    let wild = |key: &'static str, index: usize, sink: &mut Sink<'_>| {
        if credentials {
            let wrong = Wrong::from("browsers do not take `*` together with `credentials: true`");
            sink(&[at, Step::Key(key), Step::Item(index)], wrong.help("name them one by one"));
        }
    };
    let mut origins = Vec::new();
    for (index, text) in form.origins.iter().flatten().enumerate() {
        match origin(&text.0) {
            Ok(pattern) => {
                if pattern == OriginPattern::Any {
                    wild("origins", index, sink);
                }
                origins.push(pattern);
            }
            Err(wrong) => sink(&[at, Step::Key("origins"), Step::Item(index)], wrong),
        }
    }
    let (mut methods, mut any_method) = (Vec::new(), false);
    for (index, text) in form.methods.iter().flatten().enumerate() {
        match Method::from_bytes(text.0.as_bytes()) {
            _ if text.0 == "*" => {
                any_method = true;
                wild("methods", index, sink);
            }
            Ok(method) if !text.0.bytes().any(|b| b.is_ascii_lowercase()) => methods.push(method),
            _ => {
                let message = format!("`{}` is no method: write it in capitals, or `*`", text.0);
                sink(&[at, Step::Key("methods"), Step::Item(index)], message.into());
            }
        }
    }
    if form.methods.is_none() {
        methods = vec![Method::GET, Method::HEAD, Method::POST];
    }
    let names = |list: Option<&Vec<Word>>, key: &'static str, sink: &mut Sink<'_>| {
        let mut known: Vec<String> = Vec::new();
        for (index, text) in list.into_iter().flatten().enumerate() {
            match HeaderName::try_from(text.0.as_str()) {
                // `*` is a token, and so looks like a name.
                Ok(_) if text.0 == "*" => {
                    wild(key, index, sink);
                    known.push("*".into());
                }
                Ok(name) => known.push(name.as_str().to_owned()),
                Err(_) => {
                    let message = format!("`{}` is no name of a header", text.0);
                    sink(&[at, Step::Key(key), Step::Item(index)], message.into());
                }
            }
        }
        HeaderValue::from_str(&known.join(", ")).ok().filter(|value| !value.is_empty())
    };
    let headers = names(form.headers.as_ref(), "headers", sink);
    let expose = names(form.expose.as_ref(), "expose", sink);
    let max_age = form.max_age.as_ref().map_or(Duration::from_secs(600), |span| span.0);
    if max_age > LONGEST {
        sink(&[at, Step::Key("max_age")], "no browser keeps it for more than `1d`".into());
    }
    Cors { origins, methods, any_method, headers, expose, credentials, max_age }
}

/// An origin as browsers write it: a scheme, a host, and a port that is not the
/// scheme's own.
fn origin(text: &str) -> Result<OriginPattern, Wrong> {
    let wrong = || Wrong::from(format!("`{text}` is no origin: write it like `https://app.example`"));
    if text == "*" {
        return Ok(OriginPattern::Any);
    }
    let lower = text.to_ascii_lowercase();
    let (scheme, host) = lower.split_once("://").ok_or_else(wrong)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    if scheme.is_empty() || !scheme.bytes().all(legal) {
        return Err(wrong());
    }
    let authority = Authority::parse(host.strip_prefix("*.").unwrap_or(host)).ok_or_else(wrong)?;
    let own = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    if authority.port().is_some() && authority.port() == own {
        let short = lower.rsplit_once(':').map_or(lower.as_str(), |(short, _)| short);
        return Err(Wrong::from("browsers leave the scheme's own port out").help(format!("write `{short}`")));
    }
    Ok(match host.strip_prefix('*') {
        Some(below) => OriginPattern::Below(format!("{scheme}://").into(), below.into()),
        None => OriginPattern::Exact(lower.into()),
    })
}
