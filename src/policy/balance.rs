//! How an endpoint is picked.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

/// How quickly an old latency is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// How quickly an average fades of which nothing is heard.
const FADE: Duration = Duration::from_secs(4);
/// An average of which something was heard within this time stands as it is.
const FRESH: Duration = Duration::from_secs(1);
/// What an endpoint is thought to take before it has answered.
const UNKNOWN: Duration = Duration::from_millis(1);
/// Places on the ring for each unit of weight, while the ring stays small.
const PLACES: usize = 100;
/// Places on a whole ring, about.
const MAX_PLACES: usize = 200_000;

/// A moving average of latency that follows a worse value at once and a better
/// one slowly (Finagle's peak EWMA).
#[derive(Clone, Copy, Debug)]
pub struct PeakEwma {
    nanos: f64,
    since: Option<Instant>,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self { nanos: UNKNOWN.as_nanos() as f64, since: None }
    }
}

impl PeakEwma {
    /// Takes in one answer.
    pub fn observe(&mut self, now: Instant, latency: Duration) {
        let nanos = latency.as_nanos() as f64;
        self.nanos = match self.since {
            None => nanos,
            Some(_) if nanos > self.nanos => nanos,
            Some(since) => {
                let keep = (-now.saturating_duration_since(since).as_secs_f64() / DECAY.as_secs_f64()).exp();
                self.nanos * keep + nanos * (1.0 - keep)
            }
        };
        self.since = Some(now);
    }

    /// The average now; `None` before the first answer.
    pub fn latency(&self) -> Option<Duration> {
        self.since.map(|_| Duration::from_secs_f64(self.nanos / 1e9))
    }

    /// What one more request would cost: the average times the requests at
    /// hand, over the weight. An average of which nothing was heard for a while
    /// fades, so that an endpoint that was slow is tried again.
    pub fn load(&self, now: Instant, active: u32, weight: u32) -> f64 {
        let quiet = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let fades = if quiet < FRESH { 1.0 } else { (-quiet.as_secs_f64() / FADE.as_secs_f64()).exp() };
        self.nanos * fades * f64::from(active + 1) / f64::from(weight.max(1))
    }
}

/// Two different numbers below `count`, or the same where there is but one
/// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing").
pub fn two_choices(count: usize, random: &mut fastrand::Rng) -> (usize, usize) {
    if count < 2 {
        return (0, 0);
    }
    let first = random.usize(..count);
    let second = random.usize(..count - 1);
    (first, if second >= first { second + 1 } else { second })
}

/// Weighted round robin by earliest deadline first: an endpoint of weight `w`
/// comes again after `1/w`. A pick costs the logarithm of their number.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turns: BinaryHeap<Reverse<(u64, usize)>>,
    weights: Vec<u32>,
}

/// One whole turn of an endpoint of weight 1.
const TURN: u64 = 1 << 32;

impl RoundRobin {
    /// Starts at a random place, so that workers do not walk in step.
    pub fn new(weights: impl Iterator<Item = u32>, random: &mut fastrand::Rng) -> Self {
        let weights: Vec<u32> = weights.map(|weight| weight.max(1)).collect();
        let turns = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| Reverse((random.u64(..TURN) / u64::from(*weight), index)))
            .collect();
        Self { turns, weights }
    }

    /// The next in turn.
    pub fn turn(&mut self) -> Option<usize> {
        let mut first = self.turns.peek_mut()?;
        let Reverse((due, index)) = *first;
        *first = Reverse((due.wrapping_add(TURN / u64::from(self.weights[index])), index));
        Some(index)
    }
}

/// A consistent hash ring (Karger and others, 1997): a key stays with its
/// endpoint while others come and go.
#[derive(Debug, Default)]
pub struct Ring {
    places: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring over endpoints, each known by a name of its own and a weight.
    pub fn new<K: Hash>(endpoints: impl ExactSizeIterator<Item = (K, u32)>) -> Self {
        let each = (MAX_PLACES / endpoints.len().max(1)).clamp(4, PLACES);
        let mut places = Vec::new();
        for (index, (key, weight)) in endpoints.enumerate() {
            let count = (each * weight.clamp(1, 100) as usize).min(MAX_PLACES);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            places.extend((0..count).map(|place| (hash(&(&key, place)), index)));
        }
        places.sort_unstable();
        Self { places }
    }

    /// The endpoints for `key`: its own first, then those that stand in when it
    /// can't be used. An endpoint may come more than once.
    pub fn find(&self, key: &[u8]) -> impl Iterator<Item = usize> {
        let at = self.places.partition_point(|(place, _)| *place < hash(&key));
        self.places[at..].iter().chain(&self.places[..at]).map(|(_, index)| *index as usize)
    }
}

/// FNV-1a with a finisher: the same in every process, so that all sidecars
/// send a key to the same endpoint.
fn hash<T: Hash>(value: &T) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            mixed ^ (mixed >> 33)
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worse_latency_counts_at_once_and_a_better_one_slowly() {
        let start = Instant::now();
        let mut ewma = PeakEwma::default();
        ewma.observe(start, Duration::from_millis(10));
        ewma.observe(start, Duration::from_millis(100));
        assert_eq!(ewma.latency(), Some(Duration::from_millis(100)));
        ewma.observe(start + Duration::from_secs(1), Duration::from_millis(10));
        assert!(ewma.latency() > Some(Duration::from_millis(85)));
        ewma.observe(start + Duration::from_secs(61), Duration::from_millis(10));
        assert!(ewma.latency() < Some(Duration::from_millis(11)));
        let now = start + Duration::from_secs(61);
        assert!(ewma.load(now, 1, 1) > 1.9 * ewma.load(now, 0, 1));
        assert!(ewma.load(now, 1, 2) < 1.01 * ewma.load(now, 0, 1));
        assert!(ewma.load(now + Duration::from_secs(60), 0, 1) < 0.01 * ewma.load(now, 0, 1), "it fades");
    }

    #[test]
    fn two_choices_differ_and_reach_everyone() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            let (a, b) = two_choices(5, &mut random);
            assert_ne!(a, b);
            seen[a] += 1;
            seen[b] += 1;
        }
        assert!(seen.iter().all(|count| (300..500).contains(count)), "{seen:?}");
        assert_eq!(two_choices(1, &mut random), (0, 0));
    }

    #[test]
    fn turns_follow_the_weights() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut robin = RoundRobin::new([5, 1, 1].into_iter(), &mut random);
        let mut seen = [0i32; 3];
        (0..700).for_each(|_| seen[robin.turn().unwrap()] += 1);
        assert!((seen[0] - 500).abs() <= 2 && (seen[1] - 100).abs() <= 2, "{seen:?}");
        assert_eq!(RoundRobin::default().turn(), None);
    }

    #[test]
    fn a_key_stays_when_another_endpoint_leaves() {
        let before = Ring::new((0..10).map(|name| (name, 1)));
        let after = Ring::new((0..9).map(|name| (name, 1)));
        let (mut moved, mut spread) = (0, [0; 10]);
        for key in 0..10_000u32 {
            let key = key.to_string();
            let (old, new) =
                (before.find(key.as_bytes()).next().unwrap(), after.find(key.as_bytes()).next().unwrap());
            spread[old] += 1;
            moved += u32::from(old != new && old != 9);
        }
        assert_eq!(moved, 0);
        assert!(spread.iter().all(|count| (600..1500).contains(count)), "{spread:?}");
    }
}
