//! Who said what of an upstream, and when: what a person is shown beside the
//! endpoints that are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// What the sources of the chain said of one name, in their order.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// Each source.
    pub told: Vec<Told>,
    /// Which of them gave the endpoints in use.
    pub winner: Option<usize>,
}

/// What one source said of a name.
#[derive(Clone, Debug)]
pub struct Told {
    /// The source's word, such as `dns`.
    pub source: &'static str,
    /// Its newest answer.
    pub said: Said,
    /// When that came; `None` before the first.
    pub at: Option<SystemTime>,
    /// When it named endpoints for the last time.
    pub named_at: Option<SystemTime>,
    /// Endpoints that it took back are used until then.
    pub kept_until: Option<SystemTime>,
    /// How it stands by its answer.
    pub confirmed: Confirmed,
}

/// The newest answer of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Its answer is not needed.
    NotAsked,
    /// It has not answered yet.
    Asked,
    /// This many endpoints.
    Found(usize),
    /// The name is known and has no endpoint.
    Empty,
    /// The name is not known.
    Unknown,
    /// It could not answer; for a person.
    Failed(Arc<str>),
}

/// How a source stands by what it said.
#[derive(Clone, Debug)]
pub enum Confirmed {
    /// It says it again each time it is asked.
    WhenSaid,
    /// What it said stands in a file of the sidecar.
    Always,
    /// It watches, and says only what is new; nothing was at that time.
    At(Watched),
}

/// When a source that watches saw for the last time that it is up to date.
#[derive(Clone, Debug, Default)]
pub struct Watched(Arc<AtomicU64>);

impl Watched {
    /// It is up to date now.
    pub fn confirm(&self, now: SystemTime) {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.store(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Option<SystemTime> {
        let millis = Some(self.0.load(Ordering::Relaxed)).filter(|millis| *millis > 0)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
    }
}

impl Confirmed {
    /// Until when an answer of `said` held, if the source is in order.
    pub fn since(&self, said: SystemTime, now: SystemTime) -> SystemTime {
        match self {
            Self::WhenSaid => said,
            Self::Always => now,
            Self::At(watched) => watched.last().map_or(said, |last| last.max(said)),
        }
    }
}

impl Told {
    /// When the endpoints that it named were true for the last time, as far as
    /// is known.
    pub fn true_at(&self, now: SystemTime) -> Option<SystemTime> {
        let named = self.named_at?;
        Some(if matches!(self.said, Said::Found(_)) { self.confirmed.since(named, now) } else { named })
    }
}

impl Trail {
    /// How old the endpoints in use are.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let told = self.told.get(self.winner?)?;
        Some(now.duration_since(told.true_at(now)?).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_is_as_old_as_the_last_time_it_was_true() {
        let watched = Watched::default();
        let told = |said, confirmed| Told {
            source: "test",
            said,
            at: Some(at(100)),
            named_at: Some(at(90)),
            kept_until: None,
            confirmed,
        };
        let age = |told| Trail { told: vec![told], winner: Some(0) }.age(at(120)).map(|age| age.as_secs());
        assert_eq!(age(told(Said::Found(1), Confirmed::WhenSaid)), Some(30));
        assert_eq!(age(told(Said::Found(1), Confirmed::Always)), Some(0));
        assert_eq!(age(told(Said::Found(1), Confirmed::At(watched.clone()))), Some(30));
        watched.confirm(at(118));
        assert_eq!(age(told(Said::Found(1), Confirmed::At(watched.clone()))), Some(2));
        assert_eq!(age(told(Said::Empty, Confirmed::At(watched.clone()))), Some(30), "it took them back");
        assert_eq!(age(told(Said::Failed("down".into()), Confirmed::At(watched))), Some(30));
        assert_eq!(Trail::default().age(at(120)), None);
    }
}
