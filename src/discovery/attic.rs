//! What was known of names that were let go: it serves again if the name is
//! asked for anew and its source fails just then.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::{Answer, Good, Memory};
use crate::base::UpstreamName;

/// Names and endpoints that are remembered; the oldest go first.
const NAMES: usize = 4096;
const ENDPOINTS: usize = 65_536;
/// Nothing older is used.
const OLDEST: Duration = Duration::from_secs(3600);

/// Of one chain of sources.
#[derive(Default)]
pub(super) struct Attic(Mutex<Stored>);

#[derive(Default)]
struct Stored {
    /// The oldest first.
    entries: VecDeque<Entry>,
    endpoints: usize,
}

struct Entry {
    name: UpstreamName,
    memories: Vec<Memory>,
    endpoints: usize,
    since: Instant,
}

impl Attic {
    /// Stores what each source of the chain said of `name`, if that is of use.
    pub(super) fn put(&self, name: &UpstreamName, mut memories: Vec<Memory>, now: Instant) {
        let endpoints = memories.iter().map(endpoints).sum();
        if endpoints == 0 {
            return;
        }
        memories.iter_mut().for_each(Memory::rest);
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stored.endpoints += endpoints;
        stored.entries.push_back(Entry { name: name.clone(), memories, endpoints, since: now });
        while stored.entries.len() > NAMES || stored.endpoints > ENDPOINTS {
            let Some(oldest) = stored.entries.pop_front() else { return };
            stored.endpoints -= oldest.endpoints;
        }
    }

    /// What was stored of `name`, in the order of the chain.
    pub(super) fn take(&self, name: &UpstreamName, now: Instant) -> Option<Vec<Memory>> {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = stored.entries.iter().rposition(|entry| entry.name == *name)?;
        let entry = stored.entries.remove(index)?;
        stored.endpoints -= entry.endpoints;
        (now.duration_since(entry.since) < OLDEST).then_some(entry.memories)
    }
}

fn endpoints(memory: &Memory) -> usize {
    let good = memory.good.as_ref().map_or(0, |good| match good {
        Good { answer: Answer::Found(endpoints), .. } => endpoints.len(),
        Good { .. } => 0,
    });
    good + memory.kept.as_ref().map_or(0, |kept| kept.endpoints.len())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::base::Endpoint;
    use crate::config::model::WhenEmpty;
    use crate::discovery::answer::Moment;

    fn memories(count: u16) -> Vec<Memory> {
        let endpoint = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Endpoint::new(([10, 0, high, low], 80).into())
        };
        let mut memory = Memory::new("test", WhenEmpty::Fail);
        let now = Moment { wall: SystemTime::UNIX_EPOCH, steady: Instant::now() };
        memory.note(Answer::found((0..count).map(endpoint).collect()), now);
        vec![memory]
    }

    #[test]
    fn it_holds_a_bounded_number_of_names_and_endpoints_for_a_bounded_time() {
        let (attic, now) = (Attic::default(), Instant::now());
        let name = |n: usize| UpstreamName::new(&format!("s{n}"));
        attic.put(&name(0), memories(0), now);
        assert!(attic.take(&name(0), now).is_none(), "nothing is known of it");
        for n in 0..=NAMES {
            attic.put(&name(n), memories(1), now);
        }
        assert!(attic.take(&name(0), now).is_none(), "the oldest makes room");
        let back = attic.take(&name(1), now).expect("remembered");
        assert!(back[0].latest.is_none() && back[0].good.is_some());
        assert!(attic.take(&name(1), now).is_none(), "once");
        assert!(attic.take(&name(2), now + OLDEST).is_none(), "too old");
        for n in 0..2 {
            attic.put(&name(n), memories(40_000), now);
        }
        assert!(attic.take(&name(0), now).is_none(), "too many endpoints");
        assert!(attic.take(&name(3), now).is_none());
        assert!(attic.take(&name(1), now).is_some());
        let stored = attic.0.lock().unwrap();
        assert_eq!((stored.entries.len(), stored.endpoints), (0, 0));
    }
}
