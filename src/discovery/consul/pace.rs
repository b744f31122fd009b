//! How often one upstream is asked about: a few questions at once, so that
//! news is heard at once, and less than one a second over time.

use std::time::Duration;

use tokio::time::Instant;

/// From one question to the next over time.
const STEP: Duration = Duration::from_millis(1050);
/// Questions that may follow each other at once.
const BURST: u32 = 8;

/// The questions of one upstream.
pub(super) struct Pace {
    /// When all of the burst is there again.
    full: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes the next question, and says when it may be asked.
    pub(super) fn next(&mut self, now: Instant) -> Instant {
        let earliest = (self.full + STEP).checked_sub(STEP * BURST).unwrap_or(now);
        let at = earliest.max(now);
        self.full = self.full.max(at) + STEP;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_and_less_than_one_a_second_over_time() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST {
            assert_eq!(pace.next(start), start);
        }
        let (mut now, mut asked) = (start, 0);
        while now < start + Duration::from_secs(60) {
            now = pace.next(now);
            asked += 1;
        }
        assert!((55..61).contains(&asked), "{asked}");
        let later = now + Duration::from_secs(10);
        for _ in 0..BURST {
            assert_eq!(pace.next(later), later, "a rest fills it again");
        }
        assert!(pace.next(later) > later);
    }
}
