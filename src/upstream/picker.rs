//! Picks an endpoint, by the upstream's policy.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use super::Endpoint;
use crate::config::model::Balance;
use crate::policy::balance::{Ring, RoundRobin, two_choices};

/// What a consistent hash looks at; empty where the request has none.
pub type Key<'a> = Option<&'a [u8]>;

/// The endpoints of one moment, with what each way of picking needs.
pub struct Picker {
    endpoints: Vec<Rc<Endpoint>>,
    robin: RefCell<Option<RoundRobin>>,
    ring: RefCell<Option<Ring>>,
}

impl Picker {
    /// A picker over `endpoints`.
    pub fn new(endpoints: Vec<Rc<Endpoint>>) -> Self {
        Self { endpoints, robin: RefCell::default(), ring: RefCell::default() }
    }

    /// The endpoints, in the order that discovery gave.
    pub fn endpoints(&self) -> &[Rc<Endpoint>] {
        &self.endpoints
    }

    /// An endpoint that is not among `tried`; one that could not be reached a
    /// moment ago only where there is no other.
    pub fn pick(
        &self,
        balance: &Balance,
        key: Key<'_>,
        tried: &[Rc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Rc<Endpoint>> {
        if let [only] = &self.endpoints[..] {
            return (!contains(tried, only)).then(|| only.clone());
        }
        let good = |endpoint: &&Rc<Endpoint>| !contains(tried, endpoint) && !endpoint.is_away(now);
        let first = match balance {
            Balance::Ewma => self.better(|endpoint| endpoint.load(now), now, random),
            Balance::LeastRequest => self.better(Endpoint::pressure, now, random),
            Balance::RoundRobin => self.next(random),
            Balance::Hash(_) => match key {
                Some(key) => return self.on_ring(key, &good, tried).cloned(),
                None => self.better(|endpoint| endpoint.load(now), now, random),
            },
        };
        if let Some(first) = first.filter(good) {
            return Some(first.clone());
        }
        // From a random place on, so that one neighbour does not get it all.
        let start = random.usize(..self.endpoints.len().max(1));
        let around = || self.endpoints.iter().cycle().skip(start).take(self.endpoints.len());
        around().find(good).or_else(|| around().find(|endpoint| !contains(tried, endpoint))).cloned()
    }

    fn better(
        &self,
        cost: impl Fn(&Endpoint) -> f64,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<&Rc<Endpoint>> {
        let (a, b) = two_choices(self.endpoints.len(), random);
        let (a, b) = (self.endpoints.get(a)?, self.endpoints.get(b)?);
        Some(match (a.is_away(now), b.is_away(now)) {
            (true, false) => b,
            (false, true) => a,
            _ if cost(b) < cost(a) => b,
            _ => a,
        })
    }

    fn next(&self, random: &mut fastrand::Rng) -> Option<&Rc<Endpoint>> {
        let mut robin = self.robin.borrow_mut();
        let robin = robin.get_or_insert_with(|| {
            RoundRobin::new(self.endpoints.iter().map(|endpoint| endpoint.facts.weight), random)
        });
        self.endpoints.get(robin.turn()?)
    }

    fn on_ring(
        &self,
        key: &[u8],
        good: &impl Fn(&&Rc<Endpoint>) -> bool,
        tried: &[Rc<Endpoint>],
    ) -> Option<&Rc<Endpoint>> {
        let mut ring = self.ring.borrow_mut();
        let ring = ring.get_or_insert_with(|| {
            Ring::new(self.endpoints.iter().map(|endpoint| (endpoint.facts.address, endpoint.facts.weight)))
        });
        let in_order = || ring.find(key).filter_map(|index| self.endpoints.get(index));
        in_order().find(good).or_else(|| in_order().find(|endpoint| !contains(tried, endpoint)))
    }
}

fn contains(tried: &[Rc<Endpoint>], endpoint: &Rc<Endpoint>) -> bool {
    tried.iter().any(|one| Rc::ptr_eq(one, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{self, UpstreamName};
    use crate::config::model::HashOn;
    use crate::telemetry::Metrics;
    use crate::upstream::connect::Connects;
    use crate::upstream::quota::Quota;
    use std::time::Duration;

    fn picker(count: u16) -> Picker {
        let facts = |port| base::Endpoint::new(([127, 0, 0, 1], 1000 + port).into());
        let name = UpstreamName::new("users");
        let quota = Quota::unlimited(name.clone(), &Metrics::new());
        let connects = Connects::new(Metrics::new(), name, quota);
        Picker::new((0..count).map(|port| Endpoint::new(facts(port), connects.clone())).collect())
    }

    #[test]
    fn what_was_tried_or_is_away_is_passed_over_in_every_way() {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(3);
        for balance in
            [Balance::Ewma, Balance::LeastRequest, Balance::RoundRobin, Balance::Hash(HashOn::Source)]
        {
            let picker = picker(3);
            picker.endpoints[0].begin(now).failed(now, true);
            for key in 0..200u32 {
                let key = key.to_string();
                let mut pick = |tried: &[Rc<Endpoint>], now| {
                    picker
                        .pick(&balance, Some(key.as_bytes()), tried, now, &mut random)
                        .map(|e| e.facts.address.port())
                };
                assert_ne!(pick(&[], now), Some(1000), "{balance:?}: away");
                let tried = [picker.endpoints[1].clone()];
                assert_eq!(pick(&tried, now), Some(1002), "{balance:?}: tried");
                let tried = [picker.endpoints[1].clone(), picker.endpoints[2].clone()];
                assert_eq!(pick(&tried, now), Some(1000), "{balance:?}: the last, though away");
                assert_eq!(pick(&picker.endpoints, now), None);
            }
            let later = now + Duration::from_secs(60);
            let back = (0..100).any(|key: u32| {
                let picked = picker.pick(&balance, Some(&key.to_be_bytes()), &[], later, &mut random);
                picked.is_some_and(|endpoint| endpoint.facts.address.port() == 1000)
            });
            assert!(back, "{balance:?}: comes back");
        }
        assert!(self::picker(0).pick(&Balance::Ewma, None, &[], now, &mut random).is_none());
    }

    #[test]
    fn a_slow_endpoint_gets_less() {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(3);
        let picker = picker(2);
        picker.endpoints[0].begin(now - Duration::from_millis(100)).answered(now, http::StatusCode::OK);
        picker.endpoints[1].begin(now - Duration::from_millis(1)).answered(now, http::StatusCode::OK);
        let slow = (0..100)
            .filter(|_| {
                let picked = picker.pick(&Balance::Ewma, None, &[], now, &mut random);
                picked.is_some_and(|endpoint| endpoint.facts.address.port() == 1000)
            })
            .count();
        assert_eq!(slow, 0);
    }
}
