//! How calls are divided between near and far endpoints.
//!
//! The rule: each zone is taken to make an equal share of all calls, as is each
//! region. A sidecar calls only its own zone as long as the endpoints there
//! that can be used are enough for that share, with two fifths in reserve:
//! `near = min(1, 1.4 × zones × weight in use here / weight in use everywhere)`.
//! What does not fit spills to the rest of the own region by the same rule with
//! regions, then to everywhere.

/// The reserve that an endpoint is thought to have (Envoy's overprovisioning
/// factor).
const RESERVE: f64 = 1.4;

/// The weights that can be used, and how many places there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// In the own zone.
    pub zone: u64,
    /// In the own region and outside the own zone.
    pub region: u64,
    /// Everywhere else.
    pub far: u64,
    /// Zones that have endpoints.
    pub zones: usize,
    /// Regions that have endpoints.
    pub regions: usize,
}

/// The parts of the calls that go to the own zone, to the rest of the own
/// region, and farther. They add up to 1 unless there is nobody.
pub fn shares(weights: Weights) -> [f64; 3] {
    let Weights { zone, region, far, zones, regions } = weights;
    let all = (zone + region + far) as f64;
    if all == 0.0 {
        return [0.0; 3];
    }
    let holds = |weight: u64, places: usize| (RESERVE * places as f64 * weight as f64 / all).min(1.0);
    let near = holds(zone, zones);
    let within = holds(zone + region, regions).max(near);
    let mut shares = [near, within - near, 1.0 - within];
    // Where there is nobody, the call stays as near as it can.
    if far == 0 {
        (shares[1], shares[2]) = (1.0 - near, 0.0);
    }
    if region == 0 {
        let to = if far > 0 { 2 } else { 0 };
        shares[to] += shares[1];
        shares[1] = 0.0;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_zone_takes_all_while_it_can_and_what_is_too_much_spills() {
        let three_zones = |zone, region| shares(Weights { zone, region, far: 0, zones: 3, regions: 1 });
        assert_eq!(three_zones(10, 20), [1.0, 0.0, 0.0]);
        assert_eq!(three_zones(8, 20), [1.0, 0.0, 0.0], "there is a reserve");
        let [near, region, far] = three_zones(4, 20);
        assert!((near - 0.7).abs() < 1e-9 && (region - 0.3).abs() < 1e-9 && far == 0.0);
        assert_eq!(three_zones(0, 20), [0.0, 1.0, 0.0]);
        assert_eq!(shares(Weights { zone: 1, region: 0, far: 0, zones: 1, regions: 1 }), [1.0, 0.0, 0.0]);
        assert_eq!(shares(Weights { zone: 0, region: 0, far: 3, zones: 1, regions: 1 }), [0.0, 0.0, 1.0]);
        assert_eq!(shares(Weights::default()), [0.0; 3]);
    }

    #[test]
    fn a_region_spills_too_and_shares_always_add_up() {
        let [near, region, far] = shares(Weights { zone: 1, region: 1, far: 18, zones: 4, regions: 2 });
        assert!(
            (near - 0.28).abs() < 1e-9 && region == 0.0 && (far - 0.72).abs() < 1e-9,
            "{near} {region} {far}"
        );
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let mut weight = || if random.bool() { 0 } else { random.u64(..100) };
            let (zone, region, far) = (weight(), weight(), weight());
            let weights =
                Weights { zone, region, far, zones: 1 + random.usize(..5), regions: 1 + random.usize(..3) };
            let shares = shares(weights);
            let sum: f64 = shares.iter().sum();
            assert!(zone + region + far == 0 || (sum - 1.0).abs() < 1e-9, "{weights:?} {shares:?}");
            for (share, weight) in shares.into_iter().zip([zone, region, far]) {
                assert!(share >= 0.0 && (weight > 0 || share == 0.0), "{weights:?} {shares:?}");
            }
        }
    }
}
