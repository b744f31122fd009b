//! What one source says of one name, and what a chain of sources makes of it.
//! Nothing here waits or looks at a clock.

use std::sync::Arc;
use std::time::SystemTime;

use crate::base::Endpoint;

/// What a source says of a name.
///
/// Empty, unknown and failed are three things: an empty answer ends the chain,
/// an unknown name goes to the next source, and a failure changes nothing that
/// the source said before.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    /// Sorted, without repetition, never empty.
    Found(Arc<[Endpoint]>),
    /// The source knows the name and says that it has no endpoint now.
    Empty,
    /// The source has never heard of the name.
    Unknown,
    /// The source could not answer; for a person.
    Failed(Arc<str>),
}

/// What is remembered of one source's answers about one name.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// The source's word, such as `dns`.
    pub source: &'static str,
    /// The newest answer; `None` as long as the source is being asked.
    pub latest: Option<Answer>,
    /// The newest answer that is not a failure.
    pub good: Option<Good>,
}

/// An answer that is not a failure.
#[derive(Clone, Debug)]
pub(super) struct Good {
    /// What was said.
    pub answer: Answer,
    /// When it was said for the last time.
    pub as_of: SystemTime,
}

/// What the chain says as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The source of this index must answer first.
    Wait(usize),
    /// The first source that knows the name has endpoints.
    Found {
        /// Which source.
        index: usize,
        /// Its endpoints.
        endpoints: Arc<[Endpoint]>,
        /// When it named them for the last time.
        as_of: SystemTime,
    },
    /// The first source that knows the name has no endpoint.
    Empty {
        /// Which source.
        index: usize,
    },
    /// Every source answered, and none knows the name.
    Unknown,
    /// No source knows the name, and at least one could not answer.
    Failed {
        /// Every failure with its source.
        why: Arc<str>,
    },
}

impl Answer {
    /// An answer of endpoints in any order; none at all is an empty answer.
    pub(super) fn found(mut endpoints: Vec<Endpoint>) -> Self {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        if endpoints.is_empty() { Self::Empty } else { Self::Found(endpoints.into()) }
    }

    /// A failure.
    pub(super) fn failed(why: impl std::fmt::Display) -> Self {
        Self::Failed(why.to_string().into())
    }
}

impl Memory {
    /// Of a source that has not been asked.
    pub(super) fn new(source: &'static str) -> Self {
        Self { source, latest: None, good: None }
    }

    /// Takes an answer in. Returns the word under which it is counted.
    pub(super) fn note(&mut self, answer: Answer, now: SystemTime) -> &'static str {
        let word = match &answer {
            Answer::Failed(_) => "failed",
            Answer::Empty => "empty",
            Answer::Unknown => "unknown",
            Answer::Found(_) if self.good.as_ref().is_some_and(|good| good.answer == answer) => "same",
            Answer::Found(_) => "changed",
        };
        if word != "failed" {
            self.good = Some(Good { answer: answer.clone(), as_of: now });
        }
        self.latest = Some(answer);
        word
    }

    /// Whether the source has said, after it had named endpoints, that there
    /// are none.
    pub(super) fn took_back(&self) -> bool {
        matches!(self.latest, Some(Answer::Unknown | Answer::Empty))
    }
}

/// The first source that knows the name wins.
pub(super) fn decide(chain: &[Memory]) -> Verdict {
    let mut failures = Vec::new();
    for (index, memory) in chain.iter().enumerate() {
        let Some(latest) = &memory.latest else {
            return Verdict::Wait(index);
        };
        if let Answer::Failed(why) = latest {
            failures.push(format!("{}: {why}", memory.source));
        }
        match &memory.good {
            Some(Good { answer: Answer::Found(endpoints), as_of }) => {
                return Verdict::Found { index, endpoints: endpoints.clone(), as_of: *as_of };
            }
            Some(Good { answer: Answer::Empty, .. }) => return Verdict::Empty { index },
            _ => {}
        }
    }
    if failures.is_empty() { Verdict::Unknown } else { Verdict::Failed { why: failures.join("; ").into() } }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

    fn found(port: u16) -> Answer {
        Answer::found(vec![Endpoint::new(([127, 0, 0, 1], port).into())])
    }

    fn chain(answers: &[&[Answer]]) -> Vec<Memory> {
        answers
            .iter()
            .map(|answers| {
                let mut memory = Memory::new("test");
                for (index, answer) in answers.iter().enumerate() {
                    memory.note(answer.clone(), EPOCH + Duration::from_secs(index as u64));
                }
                memory
            })
            .collect()
    }

    fn winner(answers: &[&[Answer]]) -> Option<usize> {
        match decide(&chain(answers)) {
            Verdict::Found { index, .. } => Some(index),
            _ => None,
        }
    }

    #[test]
    fn the_first_source_that_knows_the_name_wins() {
        assert_eq!(winner(&[&[Answer::Unknown], &[found(1)], &[found(2)]]), Some(1));
        assert_eq!(winner(&[&[Answer::failed("down")], &[found(1)]]), Some(1));
        assert_eq!(decide(&chain(&[&[Answer::Empty], &[found(1)]])), Verdict::Empty { index: 0 });
        assert_eq!(decide(&chain(&[&[], &[found(1)]])), Verdict::Wait(0));
    }

    #[test]
    fn a_failure_keeps_what_the_source_said_before() {
        assert_eq!(winner(&[&[found(1), Answer::failed("down")], &[found(2)]]), Some(0));
        let empty = chain(&[&[Answer::Empty, Answer::failed("down")]]);
        assert_eq!(decide(&empty), Verdict::Empty { index: 0 });
        match decide(&chain(&[&[found(1), found(1), Answer::failed("down")]])) {
            Verdict::Found { as_of, .. } => assert_eq!(as_of, EPOCH + Duration::from_secs(1)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_and_failed_are_different() {
        assert_eq!(decide(&[]), Verdict::Unknown);
        assert_eq!(decide(&chain(&[&[Answer::Unknown], &[Answer::Unknown]])), Verdict::Unknown);
        let why = "test: down".into();
        assert_eq!(
            decide(&chain(&[&[Answer::failed("down")], &[Answer::Unknown]])),
            Verdict::Failed { why },
            "a source that could not answer may know the name"
        );
        assert_eq!(winner(&[&[found(1), Answer::Unknown]]), None, "a true answer evicts");
    }

    #[test]
    fn each_answer_is_counted_under_one_word() {
        let mut memory = Memory::new("test");
        let answers =
            [Answer::Unknown, found(1), found(1), Answer::failed("down"), found(1), found(2), Answer::Empty];
        let words: Vec<_> = answers.into_iter().map(|answer| memory.note(answer, EPOCH)).collect();
        assert_eq!(words, ["unknown", "changed", "same", "failed", "same", "changed", "empty"]);
    }
}
