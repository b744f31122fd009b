//! Which of several upstreams takes a call.

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::model::shaping::{Split, Sticky};
use crate::policy::balance::{hash, mix, unit};

/// Sets the hash apart from that of `balance`: who is sent to one upstream must
/// not all meet at one endpoint of it.
const OWN: u64 = 0x5b1d_7e3a_90c4_62f8;

/// The number of the target for a call with these fields. The same key gives the
/// same target in every sidecar; where a weight changes, only that share of the
/// keys moves.
pub fn pick(split: &Split, headers: &HeaderMap, random: &mut fastrand::Rng) -> usize {
    let key = split.sticky.as_ref().and_then(|sticky| key(sticky, headers));
    let place = match key {
        Some(key) => unit(mix(hash(key) ^ OWN)),
        None => random.f64(),
    };
    let total: f64 = split.targets.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut left = place * total;
    for (index, (_, weight)) in split.targets.iter().enumerate() {
        left -= f64::from(*weight);
        if left < 0.0 {
            return index;
        }
    }
    split.targets.iter().rposition(|(_, weight)| *weight > 0).unwrap_or(0)
}

fn key<'h>(sticky: &Sticky, headers: &'h HeaderMap) -> Option<&'h [u8]> {
    match sticky {
        Sticky::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes),
        Sticky::Cookie(name) => cookie(headers, name),
    }
}

/// The value of a cookie.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        // By bytes: one cookie in another language must not hide the others.
        field.as_bytes().split(|byte| *byte == b';').find_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..at] == name.as_bytes()).then_some(&pair[at + 1..])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::UpstreamName;
    use http::HeaderName;

    fn split(weights: &[u32], sticky: Option<Sticky>) -> Split {
        let name = |index: usize| UpstreamName::new(&format!("users-v{index}"));
        let targets = weights.iter().enumerate().map(|(index, weight)| (name(index), *weight)).collect();
        Split { targets, sticky }
    }

    #[test]
    fn calls_follow_the_weights() {
        let mut random = fastrand::Rng::with_seed(3);
        let split = split(&[0, 95, 5, 0], None);
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[pick(&split, &HeaderMap::new(), &mut random)] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0), "a weight of 0 takes nothing");
        assert!((400..600).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_key_stays_and_few_keys_move_when_weights_do() {
        let mut random = fastrand::Rng::with_seed(3);
        let cookie = |key: usize| HeaderMap::from_iter([(COOKIE, format!("a=b; s={key}").parse().unwrap())]);
        let sticky = || Some(Sticky::Cookie("s".into()));
        let (before, after) = (split(&[95, 5], sticky()), split(&[90, 10], sticky()));
        let (mut moved, mut second) = (0, 0);
        for key in 0..10_000 {
            let first = pick(&before, &cookie(key), &mut random);
            assert_eq!(pick(&before, &cookie(key), &mut random), first);
            let then = pick(&after, &cookie(key), &mut random);
            assert!(then == first || then == 1, "nobody goes back");
            moved += usize::from(then != first);
            second += then;
        }
        assert!((400..600).contains(&moved) && (850..1150).contains(&second), "{moved} {second}");
        let header = split(&[1, 1], Some(Sticky::Header(HeaderName::from_static("x-user"))));
        let picks: Vec<usize> = (0..64).map(|_| pick(&header, &HeaderMap::new(), &mut random)).collect();
        assert!(picks.contains(&0) && picks.contains(&1), "without a key each call is on its own");
    }
}
