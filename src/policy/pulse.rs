//! What a row of answers to a health check says. An endpoint of which nothing
//! is known counts as healthy until its first answer, which is enough for
//! either state.

/// The answers of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pulse {
    state: Option<bool>,
    /// Answers in a row that say otherwise.
    other: u32,
}

impl Pulse {
    /// Takes in an answer. `Some` when the state becomes another, or known:
    /// whether it is healthy now.
    pub fn note(&mut self, well: bool, healthy: u32, unhealthy: u32) -> Option<bool> {
        if self.state == Some(well) {
            self.other = 0;
            return None;
        }
        self.other += 1;
        let wanted = if well { healthy } else { unhealthy };
        if self.state.is_some() && self.other < wanted {
            return None;
        }
        (self.state, self.other) = (Some(well), 0);
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_is_enough_and_then_a_row_is_needed() {
        let mut pulse = Pulse::default();
        let mut note = |well| pulse.note(well, 2, 3);
        assert_eq!(note(false), Some(false), "the first");
        assert_eq!([note(true), note(false), note(true), note(true)], [None, None, None, Some(true)]);
        assert_eq!([note(false), note(false), note(true), note(false)], [None; 4], "broken off");
        assert_eq!([note(false), note(false)], [None, Some(false)]);
    }
}
