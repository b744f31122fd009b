//! Whether, and when, a call that is slow to be answered is made once more
//! beside the first.

use std::time::{Duration, Instant};

use super::latency::Latencies;
use super::retry::Harm;
use crate::config::model::{After, Hedge, HedgeIf};

impl HedgeIf {
    /// Whether calls that do this twice, at one time, are meant.
    pub fn takes(self, harm: Harm) -> bool {
        match self {
            Self::Safe => harm == Harm::None,
            Self::Always => true,
        }
    }
}

impl Hedge {
    /// How long an answer may take before another attempt is made beside it;
    /// `None` while too little is known.
    pub fn patience(&self, latencies: &mut Latencies, now: Instant) -> Option<Duration> {
        match self.after {
            After::Time(time) => Some(time),
            After::Percentile(share) => Some(latencies.percentile(share, now)?.max(self.min)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_time_or_what_most_calls_take_but_no_less_than_the_least() {
        let now = Instant::now();
        let millis = Duration::from_millis;
        let mut latencies = Latencies::default();
        let hedge = Hedge { min: millis(10), ..Hedge::default() };
        assert_eq!(hedge.patience(&mut latencies, now), None);
        let fixed = Hedge { after: After::Time(millis(3)), ..hedge };
        assert_eq!(fixed.patience(&mut latencies, now), Some(millis(3)), "as it was written");
        (0..100).for_each(|_| latencies.record(now, millis(2)));
        assert_eq!(hedge.patience(&mut latencies, now), Some(millis(10)));
        (0..100).for_each(|_| latencies.record(now, millis(50)));
        let patience = hedge.patience(&mut latencies, now).unwrap();
        assert!((millis(50)..millis(57)).contains(&patience), "{patience:?}");
    }

    #[test]
    fn only_what_reads_is_made_twice_at_a_time() {
        assert!(HedgeIf::Safe.takes(Harm::None) && !HedgeIf::Safe.takes(Harm::Idempotent));
        assert!(HedgeIf::Always.takes(Harm::Unknown));
    }
}
