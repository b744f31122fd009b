//! What one source says of one name, and what a chain of sources makes of it.
//! Nothing here waits or looks at a clock.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::base::Endpoint;
use crate::config::model::WhenEmpty;

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

/// One moment: as people date it, and as pauses are measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// What the wall clock says.
    pub wall: SystemTime,
    /// What no change of the wall clock moves.
    pub steady: Instant,
}

/// What is remembered of one source's answers about one name.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    /// The source's word, such as `dns`.
    pub source: &'static str,
    /// The newest answer, and when it came; `None` as long as the source is
    /// being asked.
    pub latest: Option<(Answer, SystemTime)>,
    /// The newest answer that is not a failure.
    pub good: Option<Good>,
    /// Endpoints that the source took back and that are kept nevertheless.
    pub kept: Option<Kept>,
    /// It has been asked for so long that the next one is asked as well.
    pub slow: bool,
    when_empty: WhenEmpty,
}

/// An answer that is not a failure.
#[derive(Clone, Debug)]
pub(super) struct Good {
    /// What was said.
    pub answer: Answer,
    /// When it was said for the last time.
    pub as_of: SystemTime,
}

/// Endpoints that outlive the answer that took them back.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// Which.
    pub endpoints: Arc<[Endpoint]>,
    /// When they were named for the last time.
    pub as_of: SystemTime,
    /// When they are given up.
    pub until: Instant,
}

/// What the chain says as a whole, and whom it needs for that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    /// What holds.
    pub verdict: Verdict,
    /// So many sources, from the first, are to be asked; the others are not.
    pub asked: usize,
}

/// What the chain says.
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
    pub(super) fn new(source: &'static str, when_empty: WhenEmpty) -> Self {
        Self { source, latest: None, good: None, kept: None, slow: false, when_empty }
    }

    /// Takes an answer in. Returns the word under which it is counted.
    pub(super) fn note(&mut self, answer: Answer, now: Moment) -> &'static str {
        let word = match &answer {
            Answer::Failed(_) => "failed",
            Answer::Empty => "empty",
            Answer::Unknown => "unknown",
            Answer::Found(_) if self.good.as_ref().is_some_and(|good| good.answer == answer) => "same",
            Answer::Found(_) => "changed",
        };
        match (&answer, &self.good, self.when_empty) {
            (Answer::Found(_), ..) => self.kept = None,
            (
                Answer::Empty | Answer::Unknown,
                Some(Good { answer: Answer::Found(endpoints), as_of }),
                WhenEmpty::Keep(time),
            ) => {
                let (endpoints, until) = (endpoints.clone(), now.steady + time);
                self.kept = Some(Kept { endpoints, as_of: *as_of, until });
            }
            _ => {}
        }
        if word != "failed" {
            self.good = Some(Good { answer: answer.clone(), as_of: now.wall });
        }
        self.latest = Some((answer, now.wall));
        self.slow = false;
        word
    }

    /// Forgets that the source was asked, and nothing that it said before.
    pub(super) fn rest(&mut self) {
        (self.latest, self.slow) = (None, false);
    }

    /// Gives up what has been kept for long enough.
    pub(super) fn expire(&mut self, now: Instant) {
        self.kept.take_if(|kept| kept.until <= now);
    }

    /// Whether the source has said, after it had named endpoints, that there
    /// are none.
    pub(super) fn took_back(&self) -> bool {
        matches!(self.latest, Some((Answer::Unknown | Answer::Empty, _)))
    }

    /// The endpoints that are kept, as the answer of the source at `index`.
    fn kept(&self, index: usize) -> Option<Verdict> {
        let Kept { endpoints, as_of, .. } = self.kept.as_ref()?;
        Some(Verdict::Found { index, endpoints: endpoints.clone(), as_of: *as_of })
    }
}

/// The first source that knows the name wins. Endpoints that a source took back
/// and that are kept are used where no later source has any.
pub(super) fn decide(chain: &[Memory]) -> Decision {
    let (mut failures, mut kept, mut slow) = (Vec::new(), None, None);
    for (index, memory) in chain.iter().enumerate() {
        let asked = index + 1;
        match &memory.latest {
            None if !memory.slow => {
                return Decision { verdict: kept.unwrap_or(Verdict::Wait(index)), asked };
            }
            None => slow = slow.or(Some(index)),
            Some((Answer::Failed(why), _)) => failures.push(format!("{}: {why}", memory.source)),
            Some(_) => {}
        }
        let verdict = match &memory.good {
            Some(Good { answer: Answer::Found(endpoints), as_of }) => {
                Verdict::Found { index, endpoints: endpoints.clone(), as_of: *as_of }
            }
            Some(Good { answer: Answer::Empty, .. }) => {
                kept.or_else(|| memory.kept(index)).unwrap_or(Verdict::Empty { index })
            }
            _ => {
                kept = kept.or_else(|| memory.kept(index));
                continue;
            }
        };
        return Decision { verdict, asked };
    }
    let verdict = match (kept, slow) {
        (Some(kept), _) => kept,
        (None, Some(index)) => Verdict::Wait(index),
        (None, None) if failures.is_empty() => Verdict::Unknown,
        (None, None) => Verdict::Failed { why: failures.join("; ").into() },
    };
    Decision { verdict, asked: chain.len() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;
    const KEEP: WhenEmpty = WhenEmpty::Keep(Duration::from_secs(30));

    fn found(port: u16) -> Answer {
        Answer::found(vec![Endpoint::new(([127, 0, 0, 1], port).into())])
    }

    fn at(seconds: u64) -> Moment {
        thread_local!(static START: Instant = Instant::now());
        let since = Duration::from_secs(seconds);
        Moment { wall: EPOCH + since, steady: START.with(|start| *start) + since }
    }

    fn memory(when_empty: WhenEmpty, answers: &[Answer]) -> Memory {
        let mut memory = Memory::new("test", when_empty);
        for (second, answer) in (0..).zip(answers) {
            memory.note(answer.clone(), at(second));
        }
        memory
    }

    fn chain(answers: &[&[Answer]]) -> Vec<Memory> {
        answers.iter().map(|answers| memory(WhenEmpty::Fail, answers)).collect()
    }

    fn verdict(chain: &[Memory]) -> Verdict {
        decide(chain).verdict
    }

    /// Which source wins with which port, and how many are asked.
    fn winner(chain: &[Memory]) -> Option<(usize, u16, usize)> {
        match decide(chain) {
            Decision { verdict: Verdict::Found { index, endpoints, .. }, asked } => {
                Some((index, endpoints[0].address.port(), asked))
            }
            _ => None,
        }
    }

    #[test]
    fn the_first_source_that_knows_the_name_wins() {
        let winner = |answers: &[&[Answer]]| winner(&chain(answers));
        assert_eq!(winner(&[&[Answer::Unknown], &[found(1)], &[found(2)]]), Some((1, 1, 2)));
        assert_eq!(winner(&[&[Answer::failed("down")], &[found(1)]]), Some((1, 1, 2)));
        assert_eq!(verdict(&chain(&[&[Answer::Empty], &[found(1)]])), Verdict::Empty { index: 0 });
        assert_eq!(decide(&chain(&[&[], &[found(1)]])), Decision { verdict: Verdict::Wait(0), asked: 1 });
    }

    #[test]
    fn a_failure_keeps_what_the_source_said_before() {
        let failed = chain(&[&[found(1), Answer::failed("down")], &[found(2)]]);
        assert_eq!(winner(&failed), Some((0, 1, 1)));
        let empty = chain(&[&[Answer::Empty, Answer::failed("down")]]);
        assert_eq!(verdict(&empty), Verdict::Empty { index: 0 });
        match verdict(&chain(&[&[found(1), found(1), Answer::failed("down")]])) {
            Verdict::Found { as_of, .. } => assert_eq!(as_of, EPOCH + Duration::from_secs(1)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unknown_and_failed_are_different() {
        assert_eq!(verdict(&[]), Verdict::Unknown);
        assert_eq!(verdict(&chain(&[&[Answer::Unknown], &[Answer::Unknown]])), Verdict::Unknown);
        let why = "test: down".into();
        assert_eq!(
            verdict(&chain(&[&[Answer::failed("down")], &[Answer::Unknown]])),
            Verdict::Failed { why },
            "a source that could not answer may know the name"
        );
        assert_eq!(winner(&chain(&[&[found(1), Answer::Unknown]])), None, "a true answer evicts");
    }

    #[test]
    fn endpoints_that_were_taken_back_are_kept_for_a_while_where_no_other_source_has_any() {
        for gone in [Answer::Empty, Answer::Unknown] {
            let mut first = memory(KEEP, &[found(1), gone.clone(), Answer::failed("down"), gone.clone()]);
            let unknown = memory(WhenEmpty::Fail, &[Answer::Unknown]);
            assert_eq!(
                winner(&[first.clone(), unknown.clone()]).map(|w| (w.0, w.1)),
                Some((0, 1)),
                "{gone:?}"
            );
            // Told again and again, it does not last longer: from the first time on.
            first.expire(at(30).steady);
            assert!(winner(&[first.clone(), unknown.clone()]).is_some(), "{gone:?}");
            first.expire(at(31).steady);
            assert_eq!(winner(&[first.clone(), unknown]), None, "{gone:?}");
            // Only what was named anew is kept anew.
            first.note(gone, at(40));
            assert!(first.kept.is_none());
        }
        let known = memory(WhenEmpty::Fail, &[found(2)]);
        let silent = memory(WhenEmpty::Fail, &[]);
        let unknown = memory(KEEP, &[found(1), Answer::Unknown]);
        assert_eq!(winner(&[unknown.clone(), known.clone()]), Some((1, 2, 2)), "another source knows it");
        assert_eq!(winner(&[unknown, silent]), Some((0, 1, 2)), "meanwhile");
        let empty = memory(KEEP, &[found(1), Answer::Empty]);
        assert_eq!(winner(&[empty, known]), Some((0, 1, 1)), "the chain ends at one that knows the name");
        let back = memory(KEEP, &[found(1), Answer::Unknown, found(3)]);
        assert!(back.kept.is_none());
        assert_eq!(winner(&[back]), Some((0, 3, 1)));
        let never = memory(KEEP, &[Answer::Empty]);
        assert_eq!(verdict(&[never]), Verdict::Empty { index: 0 }, "there is nothing to keep");
    }

    #[test]
    fn a_slow_source_does_not_hold_up_the_next_and_ranks_first_when_it_answers() {
        let mut slow = memory(WhenEmpty::Fail, &[]);
        slow.slow = true;
        let (asked, known) = (memory(WhenEmpty::Fail, &[]), memory(WhenEmpty::Fail, &[found(2)]));
        assert_eq!(
            decide(&[slow.clone(), asked]),
            Decision { verdict: Verdict::Wait(1), asked: 2 },
            "the next is asked"
        );
        assert_eq!(winner(&[slow.clone(), known.clone()]), Some((1, 2, 2)));
        let unknown = memory(WhenEmpty::Fail, &[Answer::Unknown]);
        assert_eq!(verdict(&[slow.clone(), unknown]), Verdict::Wait(0), "it may know the name");
        slow.good = Some(Good { answer: found(3), as_of: EPOCH });
        assert_eq!(winner(&[slow.clone(), known.clone()]), Some((0, 3, 1)), "what it said before");
        slow.note(found(1), at(1));
        assert_eq!(winner(&[slow, known]), Some((0, 1, 1)));
    }

    #[test]
    fn each_answer_is_counted_under_one_word() {
        let mut memory = Memory::new("test", WhenEmpty::Fail);
        let answers =
            [Answer::Unknown, found(1), found(1), Answer::failed("down"), found(1), found(2), Answer::Empty];
        let words: Vec<_> = answers.into_iter().map(|answer| memory.note(answer, at(0))).collect();
        assert_eq!(words, ["unknown", "changed", "same", "failed", "same", "changed", "empty"]);
    }
}
