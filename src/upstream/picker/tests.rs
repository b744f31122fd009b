use super::*;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::base::{self, EndpointSet, UpstreamName};
use crate::config::model::{HashOn, Locality};
use crate::policy::fleet::{Layout, Slots, Ways};
use crate::policy::outcome::Class;
use crate::policy::vitals::Watch;
use crate::telemetry::Metrics;
use crate::upstream::quota::Quota;

const WAYS: [Balance; 4] =
    [Balance::Ewma, Balance::LeastRequest, Balance::RoundRobin, Balance::Hash(HashOn::Source)];

/// Endpoints of ports from 1000 on, and how they are picked from.
struct Pool {
    slots: Slots,
    watch: Arc<Watch>,
    crew: Rc<Crew>,
    picker: Rc<Picker>,
    now: Instant,
}

fn facts(port: u16) -> base::Endpoint {
    base::Endpoint::new(([127, 0, 0, 1], 1000 + port).into())
}

fn set(count: u16) -> EndpointSet {
    EndpointSet::new((0..count).map(facts).collect(), "test", std::time::SystemTime::UNIX_EPOCH)
}

impl Pool {
    fn new(endpoints: Vec<base::Endpoint>) -> Self {
        let now = Instant::now();
        let name = UpstreamName::new("users");
        let quota = Quota::unlimited(name.clone(), &Metrics::new());
        let crew = Crew::new(Connects::new(Metrics::new(), name, quota));
        let watch = Watch::new(now);
        let picker = Picker::new(Arc::default(), &crew, None);
        let mut pool = Self { slots: Slots::new(watch.clone()), watch, crew, picker, now };
        pool.update(endpoints, &Locality::default());
        pool
    }

    fn of(count: u16) -> Self {
        Self::new((0..count).map(facts).collect())
    }

    fn update(&mut self, endpoints: Vec<base::Endpoint>, own: &Locality) {
        let set = EndpointSet::new(endpoints, "test", std::time::SystemTime::UNIX_EPOCH);
        let (members, _) = self.slots.place(&set, self.now);
        self.rebuild(Arc::new(Layout::new(members, own)), 0.0);
    }

    fn rebuild(&mut self, layout: Arc<Layout>, panic: f64) {
        let fleet = Arc::new(Fleet::new(layout, panic, Ways::ALL, self.now));
        self.picker = Picker::new(fleet, &self.crew, Some(&self.picker));
    }

    fn member(&self, port: u16) -> Member {
        let present = |member: &&Member| member.facts.address.port() == 1000 + port;
        self.picker.fleet.layout.present().map(|(_, member)| member).find(present).unwrap().clone()
    }

    fn endpoint(&self, port: u16) -> Rc<Endpoint> {
        let (slot, _) =
            self.picker.fleet.layout.present().find(|(_, m)| m.facts.address.port() == 1000 + port).unwrap();
        self.picker.endpoint(slot).unwrap()
    }

    /// How often each of the first ports is picked out of 10,000 times.
    fn shares(&self, balance: &Balance, now: Instant) -> Vec<f64> {
        let mut random = fastrand::Rng::with_seed(3);
        let mut seen = vec![0.0; 100];
        for key in 0..10_000u32 {
            let key = key.to_string();
            let picked = self.picker.pick(balance, Some(key.as_bytes()), &[], now, &mut random).unwrap();
            seen[usize::from(picked.facts.address.port()) - 1000] += 1e-4;
        }
        seen
    }
}

#[test]
fn what_was_tried_or_is_away_is_passed_over_in_every_way() {
    let mut random = fastrand::Rng::with_seed(3);
    for balance in WAYS {
        let pool = Pool::of(3);
        let (picker, now) = (&pool.picker, pool.now);
        pool.endpoint(0).begin(now).failed(now, Class::Silent, true);
        for key in 0..200u32 {
            let key = key.to_string();
            let mut pick = |tried: &[Rc<Endpoint>], now| {
                picker
                    .pick(&balance, Some(key.as_bytes()), tried, now, &mut random)
                    .map(|e| e.facts.address.port())
            };
            assert_ne!(pick(&[], now), Some(1000), "{balance:?}: away");
            assert_eq!(pick(&[pool.endpoint(1)], now), Some(1002), "{balance:?}: tried");
            let tried = [pool.endpoint(1), pool.endpoint(2)];
            assert_eq!(pick(&tried, now), Some(1000), "{balance:?}: the last, though away");
            assert_eq!(pick(&[0, 1, 2].map(|port| pool.endpoint(port)), now), None);
        }
        let later = now + Duration::from_secs(60);
        for port in [1, 2] {
            pool.endpoint(port).begin(later - Duration::from_millis(1)).answered(later, Class::Good);
        }
        assert!(pool.shares(&balance, later)[0] > 0.1, "{balance:?}: comes back");
        assert!(Pool::of(0).picker.pick(&balance, None, &[], now, &mut random).is_none());
    }
}

#[test]
fn a_slow_endpoint_gets_less() {
    let pool = Pool::of(2);
    let ago = |ms| pool.now - Duration::from_millis(ms);
    pool.endpoint(0).begin(ago(100)).answered(pool.now, Class::Good);
    pool.endpoint(1).begin(ago(1)).answered(pool.now, Class::Good);
    assert_eq!(pool.shares(&Balance::Ewma, pool.now)[0], 0.0);
}

#[test]
fn who_is_back_is_called_at_once_and_who_refused_is_not_slow() {
    let pool = Pool::of(3);
    let later = pool.now + Duration::from_millis(300);
    (0..3).for_each(|port| pool.endpoint(port).begin(pool.now).answered(pool.now, Class::Good));
    let (failing, refusing) = (pool.endpoint(0), pool.endpoint(1));
    failing.begin(pool.now).failed(pool.now, Class::Silent, false);
    refusing.begin(pool.now).failed(pool.now, Class::Silent, true);
    let shares = pool.shares(&Balance::Ewma, later);
    assert!(shares[0] == 0.0 && shares[1] > 0.1, "{shares:?}");
    pool.member(0).vitals.eject();
    pool.member(0).vitals.let_in(true, later);
    assert!(pool.shares(&Balance::Ewma, later)[0] > 0.1, "back");
}

#[test]
fn who_is_out_is_not_picked_before_and_after_the_set_is_built_anew() {
    for balance in WAYS {
        let mut pool = Pool::of(4);
        pool.member(2).vitals.eject();
        assert_eq!(pool.shares(&balance, pool.now)[2], 0.0, "{balance:?}");
        pool.rebuild(pool.picker.fleet.layout.clone(), 0.3);
        assert_eq!(pool.picker.fleet.counts, (4, 3));
        let shares = pool.shares(&balance, pool.now);
        assert!(
            shares[2] == 0.0 && [0, 1, 3].iter().all(|port| shares[*port] > 0.2),
            "{balance:?} {shares:?}"
        );
    }
}

#[test]
fn below_the_panic_threshold_all_are_used() {
    for balance in WAYS {
        let mut pool = Pool::of(4);
        (0..3).for_each(|port| assert!(pool.member(port).vitals.set_sick(true, pool.now)));
        pool.rebuild(pool.picker.fleet.layout.clone(), 0.3);
        assert!(pool.picker.fleet.panic);
        assert!(pool.shares(&balance, pool.now)[..4].iter().all(|share| *share > 0.1), "{balance:?}");
        pool.rebuild(pool.picker.fleet.layout.clone(), 0.2);
        assert!(!pool.picker.fleet.panic && pool.shares(&balance, pool.now)[3] > 0.99, "{balance:?}");
    }
}

#[test]
fn the_share_of_a_new_endpoint_grows_in_every_way() {
    for balance in WAYS {
        let mut pool = Pool::of(9);
        pool.watch.set(0, 0, false, Duration::from_secs(10));
        pool.update((0..10).map(facts).collect(), &Locality::default());
        let share = |seconds| pool.shares(&balance, pool.now + Duration::from_secs(seconds))[9];
        let (first, half, whole) = (share(0), share(5), share(10));
        assert!(first > 0.0 && first < 0.035, "{balance:?}: {first}");
        assert!(half > first && half < 0.085, "{balance:?}: {half}");
        assert!(whole > half && whole < 0.14, "{balance:?}: {whole}");
    }
}

#[test]
fn one_that_warms_beside_one_or_two_gets_no_more_than_its_share() {
    for (count, most) in [(2, 0.11), (3, 0.07)] {
        for balance in WAYS {
            let mut pool = Pool::of(count - 1);
            pool.watch.set(0, 0, false, Duration::from_secs(10));
            pool.update((0..count).map(facts).collect(), &Locality::default());
            let share = pool.shares(&balance, pool.now)[usize::from(count) - 1];
            assert!(share > 0.01 && share < most, "{balance:?}, of {count}: {share}");
        }
    }
}

#[test]
fn a_key_keeps_its_place_where_all_are_warming() {
    let pool = Pool::of(5);
    pool.watch.set(0, 0, false, Duration::from_secs(10));
    (0..5).for_each(|port| pool.member(port).vitals.warm(pool.now));
    let mut random = fastrand::Rng::with_seed(3);
    for key in 0..200u32 {
        let key = key.to_string();
        let mut pick = || pool.picker.pick(&WAYS[3], Some(key.as_bytes()), &[], pool.now, &mut random);
        let first = pick().unwrap();
        assert!((0..5).all(|_| Rc::ptr_eq(&first, &pick().unwrap())), "{key}");
    }
    assert!(pool.shares(&WAYS[3], pool.now)[..5].iter().all(|share| *share > 0.1));
}

#[test]
fn the_own_zone_is_preferred_and_spills() {
    let zone = |port: u16| ["a", "b", "c"][usize::from(port) / 10];
    let endpoint = |port| base::Endpoint { zone: Some(zone(port).into()), ..facts(port) };
    let own = Locality { region: None, zone: Some("a".into()) };
    for balance in WAYS {
        let mut pool = Pool::of(0);
        pool.update((0..30).map(endpoint).collect(), &own);
        let near = |pool: &Pool| pool.shares(&balance, pool.now)[..10].iter().sum::<f64>();
        assert!(near(&pool) > 0.999, "{balance:?}");
        (0..6).for_each(|port| pool.member(port).vitals.eject());
        pool.rebuild(pool.picker.fleet.layout.clone(), 0.3);
        // 1.4 × 3 zones × 4 of 24.
        assert!((near(&pool) - 0.7).abs() < 0.03, "{balance:?}: {}", near(&pool));
        (6..10).for_each(|port| pool.member(port).vitals.eject());
        pool.rebuild(pool.picker.fleet.layout.clone(), 0.3);
        assert!(near(&pool) == 0.0, "{balance:?}");
    }
}

#[test]
fn the_part_of_the_own_zone_grows_with_those_who_warm_up_there() {
    let zone = |port: u16| ["b", "c", "a"][usize::from(port) / 5];
    let endpoint = |port| base::Endpoint { zone: Some(zone(port).into()), ..facts(port) };
    let own = Locality { region: None, zone: Some("a".into()) };
    for balance in WAYS {
        let mut pool = Pool::of(0);
        pool.update((0..10).map(endpoint).collect(), &own);
        pool.watch.set(0, 0, false, Duration::from_secs(10));
        // The first of the own zone.
        pool.update((0..11).map(endpoint).collect(), &own);
        let start = pool.now;
        let mut near = |seconds: u64| {
            pool.now = start + Duration::from_secs(seconds);
            pool.rebuild(pool.picker.fleet.layout.clone(), 0.0);
            assert_eq!(pool.picker.fleet.grows, seconds < 10, "{balance:?}");
            pool.shares(&balance, pool.now)[10]
        };
        let [first, half, whole] = [0, 5, 10].map(&mut near);
        // 1.4 × 3 zones × 0.1 of 10.1, 0.5 of 10.5, and 1 of 11.
        for (share, wanted) in [(first, 0.042), (half, 0.2), (whole, 0.382)] {
            assert!((share - wanted).abs() < 0.04, "{balance:?}: {share}, not {wanted}");
        }
    }
}

#[test]
fn one_in_use_beside_many_that_warm_up_gets_its_turns() {
    let mut pool = Pool::of(1);
    pool.watch.set(0, 0, false, Duration::from_secs(10));
    pool.update((0..10).map(facts).collect(), &Locality::default());
    let share = pool.shares(&Balance::RoundRobin, pool.now)[0];
    // 1 of 1.9.
    assert!((share - 0.526).abs() < 0.05, "{share}");
}

#[test]
fn a_worker_keeps_what_it_knows_while_others_come_and_go() {
    let mut pool = Pool::of(3);
    let kept = pool.endpoint(1);
    let mut others: Vec<_> = (1..6).map(facts).collect();
    others[0].weight = 7;
    pool.update(others, &Locality::default());
    assert!(Rc::ptr_eq(&kept, &pool.endpoint(1)), "another weight is no other endpoint");
    let old = pool.picker.clone();
    pool.update(vec![facts(8)], &Locality::default());
    assert!(!Rc::ptr_eq(&kept, &pool.endpoint(8)));
    let (slot, _) = old.fleet.layout.present().find(|(_, m)| m.facts.address.port() == 1001).unwrap();
    assert_eq!(old.endpoint(slot).unwrap().facts.address.port(), 1001, "a pick that is under way goes on");
    let mut known = 0;
    pool.crew.for_each(|_| known += 1);
    assert_eq!(known, 1);
}

#[test]
fn what_is_not_laid_out_is_done_without_and_asked_for() {
    let mut pool = Pool::of(4);
    for balance in WAYS {
        let (layout, _) = pool.slots.place(&set(4), pool.now);
        let layout = Arc::new(Layout::new(layout, &Locality::default()));
        let fleet = Arc::new(Fleet::new(layout, 0.0, Ways::default(), pool.now));
        pool.picker = Picker::new(fleet.clone(), &pool.crew, Some(&pool.picker));
        let shares = pool.shares(&balance, pool.now);
        assert!(shares[..4].iter().all(|share| *share > 0.2), "{balance:?} {shares:?}");
        let mut random = fastrand::Rng::with_seed(3);
        let mut pick =
            || pool.picker.pick(&balance, Some(b"key"), &[], pool.now, &mut random).map(|e| e.facts.address);
        assert!(!matches!(balance, Balance::Hash(_)) || pick() == pick(), "a key stays");
        let (turns, ring) = (balance == Balance::RoundRobin, matches!(balance, Balance::Hash(_)));
        assert_eq!(fleet.wanted(), Ways { turns, ring });
        assert_eq!(pool.watch.bell.notified().now_or_never().is_some(), turns || ring, "{balance:?}");
    }
}
