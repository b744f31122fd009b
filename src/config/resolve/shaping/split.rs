//! `split` and `sticky`.

use std::collections::BTreeMap;

use super::{Sink, Step};
use crate::base::UpstreamName;
use crate::config::form;
use crate::config::model::shaping::{Split, Sticky};

/// The largest weight.
const HEAVIEST: u32 = 1_000_000;
/// The most services of one split.
const MOST: usize = 32;

pub(super) fn split(
    form: &BTreeMap<String, u32>,
    sticky: Option<&form::Sticky>,
    sink: &mut Sink<'_>,
) -> Option<Split> {
    let at = Step::Key("split");
    let mut targets: Vec<(UpstreamName, u32)> = Vec::new();
    for (name, weight) in form {
        if let Err(message) = crate::config::text::check("pillion-upstream", name) {
            sink(&[at, Step::Word(name)], message.into());
            continue;
        }
        if *weight > HEAVIEST {
            sink(
                &[at, Step::Key(name)],
                format!("{weight} is out of range: it must be from 0 to {HEAVIEST}").into(),
            );
        }
        let upstream = UpstreamName::new(name);
        if targets.iter().any(|(other, _)| *other == upstream) {
            let message = format!("the service `{name}` stands here twice: capitals make no difference");
            sink(&[at, Step::Word(name)], message.into());
        }
        targets.push((upstream, *weight));
    }
    if targets.len() > MOST {
        sink(&[at], format!("calls are divided among at most {MOST} services").into());
    }
    if targets.iter().all(|(_, weight)| *weight == 0) {
        sink(&[at], "no service takes a call: one weight must be more than 0".into());
        return None;
    }
    let sticky = sticky.and_then(|form| match (&form.header, &form.cookie) {
        (Some(header), _) => Some(Sticky::Header(header.0.clone())),
        (None, Some(cookie)) => Some(Sticky::Cookie(cookie.0.as_str().into())),
        (None, None) => None,
    });
    Some(Split { targets, sticky })
}
