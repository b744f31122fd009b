//! What an answer of Consul is worth. Nothing here waits or looks at a clock.
//!
//! Consul can say nothing with status 200 and a leader: after it has lost its
//! memory, and to a token that may not see the service. So what is missing from
//! an answer is believed only if that answer is one of the same memory to the
//! same token. Otherwise what was there before and is not named is *lost*: it is
//! kept for a while, and ends as soon as Consul names it again, as whatever it
//! is then.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::entries::Listed;
use crate::base::Endpoint;
use crate::discovery::answer::Answer;

/// A service that has gone is empty for this long, and then not known.
const GONE: Duration = Duration::from_secs(60);

/// What was said about one upstream.
pub(super) struct Judge {
    keep: Duration,
    last: Option<Last>,
    force: InForce,
    /// When Consul named an instance for the last time.
    named: Option<Instant>,
}

/// What is in force of one upstream.
#[derive(Clone, Default)]
pub(super) struct InForce {
    /// By its address.
    held: BTreeMap<SocketAddr, Endpoint>,
    /// Those of them that Consul lost, and until when they are kept.
    lost: BTreeMap<SocketAddr, Instant>,
}

/// How an answer came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub at: Instant,
    /// `None` where an answer has none, as that of a prepared query.
    pub index: Option<u64>,
    /// Its connection was made after the answer before.
    pub reconnected: bool,
    pub token: u64,
    pub known_leader: bool,
    /// The service exists, also if it has no instance.
    pub exists: bool,
}

struct Last {
    index: Option<u64>,
    token: u64,
}

/// What an answer comes to.
pub(super) struct Judged {
    pub answer: Answer,
    /// So many have just been lost, and why that is thought.
    pub lost: Option<(usize, &'static str)>,
}

impl Judge {
    /// `before` is what was in force when somebody else judged.
    pub(super) fn new(keep: Duration, before: InForce) -> Self {
        Self { keep, last: None, force: before, named: None }
    }

    /// When the answer changes without a word of Consul.
    pub(super) fn next(&self) -> Option<Instant> {
        self.force.lost.values().min().copied()
    }

    pub(super) fn take(&mut self, came: Came, listed: &Listed) -> Judged {
        let doubt = self.doubt(&came, listed);
        self.last = Some(Last { index: came.index, token: came.token });
        if listed.any || came.exists {
            self.named = Some(came.at);
        }
        let named: HashSet<SocketAddr> = listed.all.iter().copied().collect();
        self.force.lost.retain(|address, _| !named.contains(address));
        let count = if doubt.is_some() { self.lose(came.at, &named) } else { 0 };
        let mut kept = std::mem::take(&mut self.force.held);
        kept.retain(|address, _| self.force.lost.contains_key(address));
        kept.extend(listed.used.iter().map(|endpoint| (endpoint.address, endpoint.clone())));
        self.force.held = kept;
        Judged { answer: self.answer(came.at), lost: doubt.filter(|_| count > 0).map(|why| (count, why)) }
    }

    /// There is no answer at all any more, as `why` says: all that is in force is lost.
    pub(super) fn gone(&mut self, at: Instant, why: &'static str) -> Judged {
        let count = self.lose(at, &HashSet::new());
        Judged { answer: self.answer(at), lost: (count > 0).then_some((count, why)) }
    }

    /// What is in force and not `named` is lost. Returns how many just now.
    fn lose(&mut self, at: Instant, named: &HashSet<SocketAddr>) -> usize {
        let before = self.force.lost.len();
        for address in self.force.held.keys().filter(|address| !named.contains(*address)) {
            self.force.lost.entry(*address).or_insert(at + self.keep);
        }
        self.force.lost.len() - before
    }

    /// What is in force at `now`: what was lost for long enough is given up.
    pub(super) fn answer(&mut self, now: Instant) -> Answer {
        let InForce { held, lost } = &mut self.force;
        lost.retain(|address, until| {
            let kept = *until > now;
            if !kept {
                held.remove(address);
            }
            kept
        });
        let known = self.named.is_some_and(|then| now.duration_since(then) < GONE);
        match (self.force.held.is_empty(), known) {
            (false, _) => Answer::found(self.force.held.values().cloned().collect()),
            (true, true) => Answer::Empty,
            (true, false) => Answer::Unknown,
        }
    }

    /// What is in force, to be handed on.
    pub(super) fn in_force(&self) -> InForce {
        self.force.clone()
    }

    /// Why what is missing from this answer is not believed.
    fn doubt(&self, came: &Came, listed: &Listed) -> Option<&'static str> {
        let Some(last) = &self.last else {
            return (!listed.any).then_some("the first answer is empty");
        };
        if came.token != last.token {
            return Some("the token has changed");
        }
        if let (Some(now), Some(before)) = (came.index, last.index)
            && now < before
        {
            return Some("its index has fallen");
        }
        if !came.known_leader {
            return Some("it knows no leader");
        }
        (came.reconnected && !listed.any).then_some("it is empty after a new connection")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(300);

    struct Told {
        judge: Judge,
        came: Came,
        start: Instant,
    }

    fn told(before: &[u16]) -> Told {
        let start = Instant::now();
        let held = before.iter().map(|port| (at(*port), Endpoint::new(at(*port)))).collect();
        let before = InForce { held, ..InForce::default() };
        let came = Came {
            at: start,
            index: Some(100),
            reconnected: false,
            token: 0,
            known_leader: true,
            exists: false,
        };
        Told { judge: Judge::new(KEEP, before), came, start }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    impl Told {
        /// What is in force after an answer at `second` with these used, and
        /// these beside them: ports, or a word.
        fn hear(&mut self, second: u64, used: &[u16], sick: &[u16]) -> String {
            self.came.at = self.start + Duration::from_secs(second);
            let listed = Listed {
                all: used.iter().chain(sick).map(|port| at(*port)).collect(),
                used: used.iter().map(|port| Endpoint::new(at(*port))).collect(),
                any: !used.is_empty() || !sick.is_empty(),
            };
            match self.judge.take(self.came, &listed).answer {
                Answer::Found(all) => {
                    all.iter().map(|one| one.address.port().to_string()).collect::<Vec<_>>().join(" ")
                }
                other => format!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_one_memory_says_is_believed() {
        let mut told = told(&[]);
        assert_eq!(told.hear(0, &[], &[]), "Unknown", "it never knew the service");
        assert_eq!(told.hear(1, &[1, 2], &[3]), "1 2");
        assert_eq!(told.hear(2, &[2], &[1]), "2", "one has become critical");
        assert_eq!(told.hear(3, &[], &[1, 2]), "Empty");
        assert_eq!(told.hear(4, &[1, 2], &[]), "1 2");
        told.came.reconnected = true;
        assert_eq!(told.hear(5, &[1], &[]), "1", "after a new connection too");
        told.came.reconnected = false;
        assert_eq!(told.hear(6, &[], &[]), "Empty", "it has been deregistered");
        assert_eq!(told.hear(30, &[], &[]), "Empty");
        assert_eq!(told.hear(66, &[], &[]), "Unknown", "for long enough");
    }

    #[test]
    fn nothing_is_evicted_by_an_answer_of_another_memory_or_to_somebody_else() {
        type Change = fn(&mut Came);
        let changes: [(&str, Change); 4] = [
            ("index", |came| came.index = Some(7)),
            ("connection", |came| came.reconnected = true),
            ("token", |came| came.token += 1),
            ("leader", |came| came.known_leader = false),
        ];
        for (what, change) in changes {
            let mut told = told(&[]);
            assert_eq!(told.hear(0, &[1, 2], &[]), "1 2");
            change(&mut told.came);
            assert_eq!(told.hear(1, &[], &[]), "1 2", "{what}");
            (told.came.reconnected, told.came.known_leader) = (false, true);
            assert_eq!(told.hear(2, &[], &[]), "1 2", "{what}: it goes on to say nothing");
            assert_eq!(told.hear(3, &[1], &[]), "1 2", "{what}: one has registered again");
            assert_eq!(told.hear(4, &[1], &[2]), "1", "{what}: the other is sick");
            assert_eq!(told.hear(5, &[2], &[]), "2", "{what}: what was named again is believed again");
        }
    }

    #[test]
    fn what_is_lost_ends_after_a_while_without_a_word() {
        let mut told = told(&[]);
        told.hear(0, &[1, 2], &[]);
        told.came.index = Some(7);
        assert_eq!(told.hear(10, &[1], &[]), "1 2");
        assert_eq!(told.judge.next(), Some(told.start + Duration::from_secs(10) + KEEP));
        assert_eq!(told.hear(309, &[1], &[]), "1 2");
        assert_eq!(told.hear(310, &[1], &[]), "1");
        assert_eq!(told.judge.next(), None);
        told.came.index = Some(3);
        assert_eq!(told.hear(320, &[], &[]), "1");
        assert_eq!(told.hear(321, &[], &[]), "1");
        assert_eq!(told.hear(700, &[], &[]), "Unknown");
    }

    #[test]
    fn what_was_in_force_before_outlives_a_first_answer_that_is_empty() {
        let mut empty = told(&[1]);
        assert_eq!(empty.hear(0, &[], &[]), "1");
        let mut full = told(&[1]);
        assert_eq!(full.hear(0, &[2], &[]), "2", "one that says something is believed");
    }

    #[test]
    fn what_is_lost_stays_lost_for_who_judges_next() {
        let mut first = told(&[]);
        first.hear(0, &[1, 2, 3], &[]);
        first.came.index = Some(7);
        assert_eq!(first.hear(10, &[1], &[]), "1 2 3");
        let mut next = told(&[]);
        next.start = first.start;
        next.judge = Judge::new(KEEP, first.judge.in_force());
        assert_eq!(next.hear(20, &[1], &[3]), "1 2", "its first answer names one of them, which is sick");
        assert_eq!(next.hear(309, &[1], &[]), "1 2");
        assert_eq!(next.hear(310, &[1], &[]), "1", "it is kept no longer for that");
    }

    #[test]
    fn a_query_that_finds_nothing_is_empty() {
        let mut told = told(&[]);
        (told.came.index, told.came.exists) = (None, true);
        assert_eq!(told.hear(0, &[], &[]), "Empty");
        assert_eq!(told.hear(1, &[1], &[]), "1");
        assert_eq!(told.hear(2, &[], &[]), "Empty");
    }
}
