//! One name, followed: asks the chain, writes the resolution, and ends when
//! nobody has read the name for a while.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::answer::{Answer, Memory, Moment, Verdict, decide};
use super::counts::{Counts, Gauges, KeptNow};
use super::source::{Feed, Source};
use super::{Setup, clock};
use crate::base::directory::{Directory, Subscription};
use crate::base::{Endpoint, EndpointSet, Resolution, Said, Told, Trail};
use crate::telemetry::names;

/// A name that nobody reads is let go after this many looks.
const IDLE_LOOKS: u32 = 12;
/// From one look for readers to the next.
const LOOK_FOR_READERS: Duration = Duration::from_secs(5);
/// How long endpoints that their source took back are used while the next
/// source is asked.
const TAKEN_BACK: Duration = Duration::from_millis(500);
/// A source that has not answered by then does not hold up the next one. Half
/// of what the first call waits at most.
const PATIENCE: Duration = Duration::from_millis(2500);
/// The source of a name that is an address.
const ADDRESS: &str = "address";

/// The task of one name.
pub(super) struct Follower {
    to: Subscription,
    setup: watch::Receiver<Setup>,
    directory: Directory,
    counts: Counts,
    answers: mpsc::Sender<(u64, Answer)>,
    inbox: mpsc::Receiver<(u64, Answer)>,
    /// In the order of the chain.
    links: Vec<Link>,
    next_feed: u64,
    /// Index of the source whose answer is published.
    winner: Option<usize>,
    /// What is published was found before the last reload.
    carried: bool,
    /// When to give up endpoints that their source took back.
    give_up: Option<Instant>,
    /// Of the endpoints that are published.
    gauges: Option<Gauges>,
    kept: Option<KeptNow>,
}

/// One source of the chain, as far as this name goes.
struct Link {
    source: Source,
    memory: Memory,
    feed: Option<Feed>,
}

impl Follower {
    pub(super) fn new(
        to: Subscription,
        setup: watch::Receiver<Setup>,
        directory: Directory,
        counts: Counts,
    ) -> Self {
        let (answers, inbox) = mpsc::channel(8);
        Self {
            to,
            setup,
            directory,
            counts,
            answers,
            inbox,
            links: Vec::new(),
            next_feed: 0,
            winner: None,
            carried: false,
            give_up: None,
            gauges: None,
            kept: None,
        }
    }

    /// Follows the name until it is let go.
    pub(super) async fn run(mut self) {
        let mut looks = interval_at(Instant::now() + LOOK_FOR_READERS, LOOK_FOR_READERS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0;
        self.set_up();
        self.recall();
        self.settle();
        loop {
            let wake = self.wake();
            tokio::select! {
                Some((feed, answer)) = self.inbox.recv() => self.take(feed, answer),
                changed = self.setup.changed() => match changed {
                    Ok(()) => {
                        self.set_up();
                        self.settle();
                    }
                    Err(_) => return,
                },
                () = async move { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                    self.time_passed();
                }
                _ = looks.tick() => {
                    idle = if self.to.sender.is_closed() { idle + 1 } else { 0 };
                    if idle >= IDLE_LOOKS && self.directory.forget(&self.to.name) {
                        return self.let_go();
                    }
                    self.count();
                }
            }
        }
    }

    fn let_go(self) {
        tracing::debug!(name = %self.to.name, "let go: nobody has read it for a minute");
        let memories = self.links.iter().map(|link| link.memory.clone()).collect();
        self.setup.borrow().attic.put(&self.to.name, memories, Instant::now());
        self.directory.changed();
    }

    /// What was known when the name was let go, for sources that fail now.
    fn recall(&mut self) {
        let Some(memories) = self.setup.borrow().attic.take(&self.to.name, Instant::now()) else { return };
        for (link, memory) in self.links.iter_mut().zip(memories) {
            link.memory = memory;
            link.memory.expire(Instant::now());
        }
    }

    /// Takes the chain in force; what is remembered of a source that stays is kept.
    fn set_up(&mut self) {
        let setup = self.setup.borrow_and_update().clone();
        if let Some(address) = self.to.name.as_literal(setup.default_port) {
            let endpoints = vec![Endpoint::new(address)];
            return self.publish(Resolution::Found(EndpointSet::new(endpoints, ADDRESS, clock::now())));
        }
        let mut old = std::mem::take(&mut self.links);
        let mut link = |source: &Source| match old.iter().position(|link| link.source.is(source)) {
            Some(index) => old.swap_remove(index),
            None => Link {
                source: source.clone(),
                memory: Memory::new(source.word(), source.when_empty()),
                feed: None,
            },
        };
        self.links = setup.chain.iter().map(&mut link).collect();
        self.winner = None;
        self.carried = matches!(*self.to.sender.borrow(), Resolution::Found(_));
    }

    fn take(&mut self, feed: u64, answer: Answer) {
        let from = |link: &&mut Link| link.feed.as_ref().is_some_and(|asked| asked.id == feed);
        // The last answer of a feed that has been dropped may still come in.
        let Some(link) = self.links.iter_mut().find(from) else { return };
        let (now, memory) = (moment(), &mut link.memory);
        match (&answer, &memory.latest) {
            (Answer::Failed(_), Some((Answer::Failed(_), _))) => {}
            (Answer::Failed(why), _) => self.counts.log_failure(&self.to.name, memory.source, why),
            _ => {}
        }
        // Up to now the source stood by what it said last.
        if let (Some(good), Some(_)) = (&mut memory.good, &memory.latest)
            && !matches!(memory.latest, Some((Answer::Failed(_), _)))
        {
            good.as_of = link.source.confirmed().since(good.as_of, now.wall);
        }
        let word = memory.note(answer, now);
        self.counts.metrics.counter(&names::DISCOVERY_UPDATES, &[memory.source, word]).increment(1);
        self.settle();
    }

    /// When something happens although no source says anything.
    fn wake(&self) -> Option<Instant> {
        let each = self.links.iter().flat_map(|link| [link.patience(), link.kept_until()]);
        each.chain([self.give_up]).flatten().min()
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        if self.give_up.take_if(|at| *at <= now).is_some()
            && let Some(link) = self.winner.take().and_then(|index| self.links.get(index))
        {
            self.publish(Resolution::Empty { source: link.memory.source });
        }
        for link in &mut self.links {
            link.memory.slow |= link.patience().is_some_and(|until| until <= now);
            link.memory.expire(now);
        }
        self.settle();
    }

    /// Asks the sources whose answers matter, no others, and publishes what
    /// they come to.
    fn settle(&mut self) {
        if self.links.is_empty() && self.to.name.as_literal(self.setup.borrow().default_port).is_some() {
            return;
        }
        let memories: Vec<Memory> = self.links.iter().map(|link| link.memory.clone()).collect();
        let decision = decide(&memories);
        for (index, link) in self.links.iter_mut().enumerate() {
            if index >= decision.asked {
                link.feed = None;
                link.memory.rest();
            } else if link.feed.is_none() {
                self.next_feed += 1;
                link.feed = Some(link.source.ask(&self.to.name, self.next_feed, &self.answers));
            }
        }
        self.conclude(decision.verdict);
        self.show();
    }

    fn conclude(&mut self, verdict: Verdict) {
        if matches!(verdict, Verdict::Wait(_)) {
            let taken_back = self.winner.is_some_and(|index| self.links[index].memory.took_back());
            if taken_back && self.give_up.is_none() {
                self.give_up = Some(Instant::now() + TAKEN_BACK);
            }
            return;
        }
        self.give_up = None;
        if matches!(verdict, Verdict::Failed { .. }) && self.carried {
            return;
        }
        self.carried = false;
        let source = |index: usize| self.links[index].memory.source;
        let winner = match &verdict {
            Verdict::Found { index, .. } => Some(*index),
            _ => None,
        };
        let resolution = match verdict {
            Verdict::Found { index, endpoints, as_of } => {
                Resolution::Found(EndpointSet { endpoints, source: source(index), as_of })
            }
            Verdict::Empty { index } => Resolution::Empty { source: source(index) },
            Verdict::Failed { why } => Resolution::Failed { why },
            Verdict::Unknown | Verdict::Wait(_) => Resolution::Unknown,
        };
        self.winner = winner;
        self.publish(resolution);
    }

    /// Readers are woken only by news; the age of an answer is no news.
    fn publish(&mut self, resolution: Resolution) {
        let mut changed = false;
        self.to.sender.send_if_modified(|held| {
            let news = match (&*held, &resolution) {
                (Resolution::Found(old), Resolution::Found(new)) => {
                    old.endpoints != new.endpoints || old.source != new.source
                }
                (old, new) => old != new,
            };
            *held = resolution;
            changed = news;
            news
        });
        if changed {
            self.directory.changed();
        }
    }

    /// For people: who said what, and how old that is.
    fn show(&mut self) {
        let now = moment();
        let told = self.links.iter().map(|link| link.told(now)).collect();
        *self.to.trail.lock().unwrap_or_else(PoisonError::into_inner) = Trail { told, winner: self.winner };
        self.count();
    }

    fn count(&mut self) {
        let found = match &*self.to.sender.borrow() {
            Resolution::Found(set) if set.source != ADDRESS => Some((set.source, set.endpoints.len())),
            _ => None,
        };
        let source = found.map(|(source, _)| source);
        self.gauges.take_if(|old| Some(old.source) != source);
        if let Some((source, number)) = found {
            if self.gauges.is_none() {
                self.gauges = self.counts.gauges(&self.to.name, source);
            }
            let trail = self.to.trail.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(gauges) = &self.gauges {
                gauges.set(number, trail.age(clock::now()).unwrap_or_default());
            }
        }
        let why = self.winner.and_then(|index| self.links[index].kept_because());
        self.counts.keep(&mut self.kept, why);
    }
}

impl Link {
    /// Until when its first answer is waited for.
    fn patience(&self) -> Option<Instant> {
        let waits = self.memory.latest.is_none() && !self.memory.slow;
        self.feed.as_ref().filter(|_| waits).map(|feed| feed.since + PATIENCE)
    }

    fn kept_until(&self) -> Option<Instant> {
        self.memory.kept.as_ref().map(|kept| kept.until)
    }

    /// Why its endpoints are used although it does not name them now.
    fn kept_because(&self) -> Option<(&'static str, &'static str)> {
        let why = match self.memory.latest.as_ref()?.0 {
            Answer::Found(_) => return None,
            Answer::Empty => "empty",
            Answer::Unknown => "unknown",
            Answer::Failed(_) => "failed",
        };
        Some((self.memory.source, why))
    }

    fn told(&self, now: Moment) -> Told {
        let memory = &self.memory;
        let said = match &memory.latest {
            None if self.feed.is_none() => Said::NotAsked,
            None => Said::Asked,
            Some((Answer::Found(endpoints), _)) => Said::Found(endpoints.len()),
            Some((Answer::Empty, _)) => Said::Empty,
            Some((Answer::Unknown, _)) => Said::Unknown,
            Some((Answer::Failed(why), _)) => Said::Failed(why.clone()),
        };
        let good = memory.good.as_ref().filter(|good| matches!(good.answer, Answer::Found(_)));
        let named_at = good.map(|good| good.as_of).or(memory.kept.as_ref().map(|kept| kept.as_of));
        let left = self.kept_until().map(|until| until.saturating_duration_since(now.steady));
        Told {
            source: memory.source,
            said,
            at: memory.latest.as_ref().map(|(_, at)| *at),
            named_at,
            kept_until: left.map(|left| now.wall + left),
            confirmed: self.source.confirmed(),
        }
    }
}

fn moment() -> Moment {
    Moment { wall: clock::now(), steady: Instant::now() }
}
