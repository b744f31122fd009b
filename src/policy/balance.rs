//! How an endpoint is picked.

use std::time::{Duration, Instant};

/// How quickly an old latency is forgotten.
const DECAY: Duration = Duration::from_secs(10);
/// How quickly an average fades of which nothing is heard.
const FADE: Duration = Duration::from_secs(4);
/// An average of which something was heard within this time stands as it is.
const FRESH: Duration = Duration::from_secs(1);
/// What an endpoint is thought to take that has a first call at hand.
const UNKNOWN: Duration = Duration::from_millis(1);
/// Places on the ring for each unit of weight, while the ring stays small.
const PLACES: u64 = 100;
/// Places on a whole ring, about.
const MAX_PLACES: u64 = 200_000;

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
    /// fades, so that an endpoint that was slow is tried again. One that was
    /// never asked costs nothing: else quick ones would keep calls from it, as
    /// long as there are few at one time.
    pub fn load(&self, now: Instant, active: u32, weight: u32) -> f64 {
        if self.since.is_none() && active == 0 {
            return 0.0;
        }
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

/// Weighted round robin, laid out: walked from its end to its beginning again,
/// it visits each endpoint as often as its weight says, spread evenly.
#[derive(Debug, Default)]
pub struct Turns(Box<[u32]>);

/// Turns of a whole round, about.
const MAX_TURNS: u64 = 1 << 18;

impl Turns {
    /// Of endpoints, each a number with a weight.
    pub fn new(endpoints: &[(u32, u32)]) -> Self {
        let unit = endpoints.iter().fold(0, |unit, (_, weight)| gcd(unit, (*weight).max(1)));
        let whole: u64 = endpoints.iter().map(|(_, weight)| u64::from(*weight.max(&1) / unit.max(1))).sum();
        let times = |weight: u32| {
            let times = u64::from(weight.max(1) / unit.max(1));
            if whole <= MAX_TURNS { times } else { (times * MAX_TURNS / whole).max(1) }
        };
        let length: u64 = endpoints.iter().map(|(_, weight)| times(*weight)).sum();
        let places = endpoints.iter().zip(0u64..).flat_map(|((number, weight), index)| {
            let times = times(*weight);
            // The golden ratio spreads first turns evenly, whatever their number.
            let first = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            (0..times).map(move |turn| ((((turn << 32) + first) / times * length) >> 32, *number))
        });
        Self(sorted(places, usize::try_from(length).unwrap_or(usize::MAX)))
    }

    /// The one at `turn`, counted from anywhere.
    pub fn at(&self, turn: usize) -> Option<u32> {
        self.0.get(turn % self.0.len().max(1)).copied()
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sorts by a place below `length`, by counting.
#[allow(clippy::cast_possible_truncation, reason = "places are below `length`")]
fn sorted(places: impl Iterator<Item = (u64, u32)> + Clone, length: usize) -> Box<[u32]> {
    let mut starts = vec![0u32; length + 1];
    places.clone().for_each(|(place, _)| starts[place as usize + 1] += 1);
    for index in 1..starts.len() {
        starts[index] += starts[index - 1];
    }
    let mut all = vec![0; length].into_boxed_slice();
    for (place, number) in places {
        let start = &mut starts[place as usize];
        all[*start as usize] = number;
        *start += 1;
    }
    all
}

/// A consistent hash ring (Karger and others, 1997): a key stays with its
/// endpoint while others come and go.
#[derive(Debug, Default)]
pub struct Ring {
    /// In order: a place, in the upper bits, and the endpoint that has it.
    places: Box<[u64]>,
    /// Where the places of each part of the ring begin.
    starts: Box<[u32]>,
    /// How many bits of a place name its part.
    bits: u32,
}

/// Bits of a place that hold the endpoint.
const NUMBER_BITS: u32 = 24;

impl Ring {
    /// A ring over endpoints, each known by a number below 2^24, a hash of its
    /// own and a weight.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "there are MAX_PLACES places and one an endpoint at most"
    )]
    pub fn new(endpoints: impl Iterator<Item = (u32, u64, u32)> + Clone) -> Self {
        let wanted = |weight: u32| PLACES * u64::from(weight.clamp(1, 100));
        let whole: u64 = endpoints.clone().map(|(_, _, weight)| wanted(weight)).sum();
        let count = |weight: u32| {
            let wanted = wanted(weight);
            if whole <= MAX_PLACES { wanted } else { (wanted * MAX_PLACES / whole).max(1) }
        };
        let mut loose = Vec::with_capacity(whole.min(MAX_PLACES) as usize);
        for (number, hash, weight) in endpoints {
            let place = |index: u64| mix(hash ^ mix(index)) >> NUMBER_BITS << NUMBER_BITS;
            loose.extend((0..count(weight)).map(|index| place(index) | u64::from(number)));
        }
        // Places are spread evenly: they are dealt out to parts, each of a few,
        // which is quicker than to sort them all.
        let bits = loose.len().max(4).ilog2() - 2;
        let mut ends = vec![0u32; (1 << bits) + 1];
        loose.iter().for_each(|place| ends[part_of(*place, bits) + 1] += 1);
        for part in 1..ends.len() {
            ends[part] += ends[part - 1];
        }
        let starts = ends.clone().into_boxed_slice();
        let mut places = vec![0; loose.len()].into_boxed_slice();
        for place in loose {
            let end = &mut ends[part_of(place, bits)];
            places[*end as usize] = place;
            *end += 1;
        }
        for part in starts.windows(2) {
            places[part[0] as usize..part[1] as usize].sort_unstable();
        }
        Self { places, starts, bits }
    }

    /// The endpoints for the hash of a key: its own first, then those that stand
    /// in when it can't be used. An endpoint may come more than once.
    pub fn find(&self, key: u64) -> impl Iterator<Item = u32> {
        let part = part_of(key, self.bits);
        let start = self.starts.get(part).map_or(0, |start| *start as usize);
        let at = start + self.places[start..].iter().take_while(|place| **place < key).count();
        let number = |place: &u64| (place & ((1 << NUMBER_BITS) - 1)) as u32;
        self.places[at..].iter().chain(&self.places[..at]).map(number)
    }
}

/// The part of the ring that a place is in: its first `bits` bits.
#[allow(clippy::cast_possible_truncation, reason = "parts are few")]
fn part_of(place: u64, bits: u32) -> usize {
    if bits == 0 { 0 } else { (place >> (u64::BITS - bits)) as usize }
}

/// FNV-1a with a finisher: the same in every process, so that all sidecars
/// send a key to the same endpoint.
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads every bit over all (the finisher of MurmurHash3).
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// A hash as a number from 0 to 1, without 1.
pub fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
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
    fn an_endpoint_that_was_never_asked_is_asked_next_and_once() {
        let now = Instant::now();
        let mut quick = PeakEwma::default();
        quick.observe(now, Duration::from_micros(100));
        let fresh = PeakEwma::default();
        assert!(fresh.load(now, 0, 1) < quick.load(now, 0, 1));
        assert!(fresh.load(now, 1, 1) > quick.load(now, 5, 1), "it has not answered yet");
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
    fn turns_follow_the_weights_and_are_spread() {
        let count = |turns: &Turns, of: u32, from: usize, many: usize| {
            (from..from + many).filter(|turn| turns.at(*turn) == Some(of)).count()
        };
        let turns = Turns::new(&[(0, 50), (1, 10), (2, 10)]);
        assert_eq!([0, 1, 2].map(|of| count(&turns, of, 3, 700)), [500, 100, 100]);
        assert!((0..100).all(|from| count(&turns, 0, from, 7) == 5), "in every round");
        let even = Turns::new(&(0..10_000).map(|number| (number, 7)).collect::<Vec<_>>());
        assert!((0..10_000).all(|of| count(&even, of, 0, 10_000) <= 1 || of > 50));
        let heavy: Vec<_> = (0..10_000).map(|number| (number, 1 + number % 1000)).collect();
        let turns = Turns::new(&heavy);
        let seen = (0..turns.0.len()).filter(|turn| turns.at(*turn) == Some(999)).count();
        let share = seen as f64 / turns.0.len() as f64;
        assert!((share * 5_005_000.0 / 1000.0 - 1.0).abs() < 0.1, "{share}");
        assert_eq!(Turns::default().at(7), None);
    }

    #[test]
    fn a_key_stays_when_another_endpoint_leaves() {
        let ring = |count: u32| Ring::new((0..count).map(|n| (n, hash(&n.to_be_bytes()), 1)));
        let (before, after) = (ring(10), ring(9));
        let (mut moved, mut spread) = (0, [0; 10]);
        for key in 0..10_000u32 {
            let key = hash(key.to_string().as_bytes());
            let (old, new) = (before.find(key).next().unwrap(), after.find(key).next().unwrap());
            spread[old as usize] += 1;
            moved += u32::from(old != new && old != 9);
        }
        assert_eq!(moved, 0);
        assert!(spread.iter().all(|count| (600..1500).contains(count)), "{spread:?}");
        assert_eq!(Ring::new(std::iter::empty()).find(7).next(), None);
        let sizes = |weights: &[u32]| {
            let ring = Ring::new((0..).zip(weights).map(|(n, weight)| (n, mix(u64::from(n)), *weight)));
            assert!(ring.places.is_sorted());
            (ring.places.len(), ring.find(7).filter(|number| *number == 0).count())
        };
        assert_eq!(sizes(&[3, 1]), (400, 300));
        assert_eq!(sizes(&[100; 10_000]), (200_000, 20), "the same weight for all is none");
        let one = Ring::new([(5, 1, 1)].into_iter());
        assert!([0, 1 << 40, u64::MAX].into_iter().all(|key| one.find(key).count() == 100));
    }
}
