//! Which calls fail on purpose.

use http::HeaderMap;

use crate::config::model::shaping::Fault;

/// Whether the fault is made for a call with these fields.
pub fn strikes(fault: &Fault, headers: &HeaderMap, random: &mut fastrand::Rng) -> bool {
    fault.if_header.as_ref().is_none_or(|name| headers.contains_key(name))
        && (fault.share >= 1.0 || random.f64() < fault.share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn only_the_share_and_only_with_the_header() {
        let name = HeaderName::from_static("x-chaos");
        let fault = Fault { delay: None, abort: None, share: 0.1, if_header: Some(name.clone()) };
        let mut random = fastrand::Rng::with_seed(7);
        let none = HeaderMap::new();
        let some = HeaderMap::from_iter([(name, HeaderValue::from_static(""))]);
        let count = |headers: &HeaderMap, random: &mut fastrand::Rng| {
            (0..10_000).filter(|_| strikes(&fault, headers, random)).count()
        };
        assert_eq!(count(&none, &mut random), 0);
        let struck = count(&some, &mut random);
        assert!((900..1100).contains(&struck), "{struck}");
        let always = Fault { share: 1.0, ..fault.clone() };
        assert!((0..1000).all(|_| strikes(&always, &some, &mut random)));
    }
}
