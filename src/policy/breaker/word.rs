//! The state of a breaker in 64 bits.

/// The most failures in a row that are counted.
pub const MOST: u16 = 1023;

const GENERATION: u32 = 2;
const PAYLOAD: u32 = 18;
/// Bits of a time in milliseconds: 2,200 years and 2 years.
const LONG: u64 = (1 << 46) - 1;
const SHORT: u64 = (1 << 36) - 1;

/// A state and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// How often it was another state.
    pub generation: u16,
    /// The state.
    pub phase: Phase,
}

/// A state and what it counts. Times are in milliseconds since the breaker was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All calls go through.
    Closed {
        /// Failures in a row, at most [`MOST`].
        failures: u16,
        /// When they are forgotten; 0 for never.
        expires: u64,
    },
    /// None does until then.
    Open {
        /// When probes may begin.
        until: u64,
    },
    /// Probes go through.
    HalfOpen {
        /// Probes so far; counted for gobreaker only.
        begun: u16,
        /// Those that went well.
        good: u16,
    },
}

impl Word {
    /// As bits.
    pub fn pack(self) -> u64 {
        let (state, payload) = match self.phase {
            Phase::Closed { failures, expires } => {
                (0, u64::from(failures.min(MOST)) | expires.min(SHORT) << 10)
            }
            Phase::Open { until } => (1, until.min(LONG)),
            Phase::HalfOpen { begun, good } => (2, u64::from(begun) | u64::from(good) << 16),
        };
        state | u64::from(self.generation) << GENERATION | payload << PAYLOAD
    }

    /// From bits.
    #[allow(clippy::cast_possible_truncation, reason = "the bits are cut out")]
    pub fn unpack(bits: u64) -> Self {
        let payload = bits >> PAYLOAD;
        let phase = match bits & 3 {
            0 => Phase::Closed { failures: payload as u16 & MOST, expires: payload >> 10 },
            1 => Phase::Open { until: payload },
            _ => Phase::HalfOpen { begun: payload as u16, good: (payload >> 16) as u16 },
        };
        Self { generation: (bits >> GENERATION) as u16, phase }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_what_was_put_in() {
        for phase in [
            Phase::Closed { failures: 0, expires: 0 },
            Phase::Closed { failures: MOST, expires: SHORT },
            Phase::Closed { failures: 17, expires: 123_456_789 },
            Phase::Open { until: 0 },
            Phase::Open { until: LONG },
            Phase::HalfOpen { begun: u16::MAX, good: 3 },
            Phase::HalfOpen { begun: 2, good: u16::MAX },
        ] {
            for generation in [0, 1, 12_345, u16::MAX] {
                let word = Word { generation, phase };
                assert_eq!(Word::unpack(word.pack()), word);
            }
        }
    }
}
