//! One name, followed: asks the chain, writes the resolution, and ends when
//! nobody has read the name for a while.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::answer::{Answer, Memory, Verdict, decide};
use super::source::{Feed, Source};
use super::{Setup, clock};
use crate::base::directory::{Directory, MAX_UPSTREAMS, Subscription};
use crate::base::{Endpoint, EndpointSet, Resolution, UpstreamName};
use crate::telemetry::{Metrics, names};

/// A name that nobody reads is let go after this many looks.
const IDLE_LOOKS: u32 = 12;
/// From one look for readers to the next.
const LOOK_FOR_READERS: Duration = Duration::from_secs(5);
/// How long endpoints that their source took back are kept while the next
/// source is asked.
const TAKEN_BACK: Duration = Duration::from_millis(500);
/// The failures of one source are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The source of a name that is an address.
const ADDRESS: &str = "address";

/// The task of one name.
pub(super) struct Follower {
    name: UpstreamName,
    sender: watch::Sender<Resolution>,
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
    /// Counts the endpoints that are published.
    gauge: Option<(&'static str, Gauge)>,
}

/// Where followers count.
#[derive(Clone)]
pub(super) struct Counts {
    metrics: Metrics,
    /// The names that have a gauge; at most [`MAX_UPSTREAMS`].
    named: Arc<Mutex<HashSet<UpstreamName>>>,
    /// When a failure was logged last, by source.
    logged: Arc<Mutex<HashMap<&'static str, Instant>>>,
}

/// One source of the chain, as far as this name goes.
struct Link {
    source: Source,
    memory: Memory,
    feed: Option<Feed>,
}

impl Follower {
    pub(super) fn new(
        subscription: Subscription,
        setup: watch::Receiver<Setup>,
        directory: Directory,
        counts: Counts,
    ) -> Self {
        let (answers, inbox) = mpsc::channel(8);
        Self {
            name: subscription.name,
            sender: subscription.sender,
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
            gauge: None,
        }
    }

    /// Follows the name until it is let go.
    pub(super) async fn run(mut self) {
        let mut looks = interval_at(Instant::now() + LOOK_FOR_READERS, LOOK_FOR_READERS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = 0;
        self.set_up();
        loop {
            let give_up = self.give_up;
            tokio::select! {
                Some((feed, answer)) = self.inbox.recv() => self.take(feed, answer),
                changed = self.setup.changed() => match changed {
                    Ok(()) => self.set_up(),
                    Err(_) => return,
                },
                () = async move { sleep_until(give_up.unwrap_or_else(Instant::now)).await }, if give_up.is_some() => {
                    self.give_up = None;
                    if let Some(link) = self.winner.take().and_then(|index| self.links.get(index)) {
                        self.publish(Resolution::Empty { source: link.memory.source });
                    }
                }
                _ = looks.tick() => {
                    idle = if self.sender.is_closed() { idle + 1 } else { 0 };
                    if idle >= IDLE_LOOKS && self.directory.forget(&self.name) {
                        tracing::debug!(name = %self.name, "let go: nobody has read it for a minute");
                        self.count(None);
                        self.directory.changed();
                        return;
                    }
                }
            }
        }
    }

    /// Takes the chain in force; what is remembered of a source that stays is kept.
    fn set_up(&mut self) {
        let setup = self.setup.borrow_and_update().clone();
        if let Some(address) = self.name.as_literal(setup.default_port) {
            let endpoints = vec![Endpoint::new(address)];
            return self.publish(Resolution::Found(EndpointSet::new(endpoints, ADDRESS, clock::now())));
        }
        let mut old = std::mem::take(&mut self.links);
        let mut link = |source: &Source| match old.iter().position(|link| link.source.is(source)) {
            Some(index) => old.swap_remove(index),
            None => Link { source: source.clone(), memory: Memory::new(source.word()), feed: None },
        };
        self.links = setup.chain.iter().map(&mut link).collect();
        self.winner = None;
        self.carried = matches!(*self.sender.borrow(), Resolution::Found(_));
        self.settle();
    }

    fn take(&mut self, feed: u64, answer: Answer) {
        let from = |link: &&mut Link| link.feed.as_ref().is_some_and(|asked| asked.id == feed);
        // The last answer of a feed that has been dropped may still come in.
        let Some(link) = self.links.iter_mut().find(from) else { return };
        if let Answer::Failed(why) = &answer
            && !matches!(link.memory.latest, Some(Answer::Failed(_)))
        {
            self.counts.log_failure(&self.name, link.memory.source, why);
        }
        let word = link.memory.note(answer, clock::now());
        self.counts.metrics.counter(&names::DISCOVERY_UPDATES, &[link.memory.source, word]).increment(1);
        self.settle();
    }

    /// Asks the sources whose answers matter, no others, and publishes what
    /// they come to.
    fn settle(&mut self) {
        let memories: Vec<Memory> = self.links.iter().map(|link| link.memory.clone()).collect();
        let verdict = decide(&memories);
        let last = match &verdict {
            Verdict::Wait(index) | Verdict::Found { index, .. } | Verdict::Empty { index } => *index,
            Verdict::Unknown | Verdict::Failed { .. } => self.links.len(),
        };
        for (index, link) in self.links.iter_mut().enumerate() {
            if index > last {
                (link.feed, link.memory.latest) = (None, None);
            } else if link.feed.is_none() {
                self.next_feed += 1;
                link.feed = Some(link.source.ask(&self.name, self.next_feed, &self.answers));
            }
        }
        if matches!(verdict, Verdict::Wait(_)) {
            let taken_back = self.winner.is_some_and(|index| memories[index].took_back());
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
        let source = |index: usize| memories[index].source;
        self.winner = match &verdict {
            Verdict::Found { index, .. } => Some(*index),
            _ => None,
        };
        self.publish(match verdict {
            Verdict::Found { index, endpoints, as_of } => {
                Resolution::Found(EndpointSet { endpoints, source: source(index), as_of })
            }
            Verdict::Empty { index } => Resolution::Empty { source: source(index) },
            Verdict::Failed { why } => Resolution::Failed { why },
            Verdict::Unknown | Verdict::Wait(_) => Resolution::Unknown,
        });
    }

    /// Readers are woken only by news; the age of an answer is no news.
    fn publish(&mut self, resolution: Resolution) {
        self.count(match &resolution {
            Resolution::Found(set) => Some((set.source, set.endpoints.len())),
            _ => None,
        });
        let mut changed = false;
        self.sender.send_if_modified(|held| {
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

    fn count(&mut self, endpoints: Option<(&'static str, usize)>) {
        let source = endpoints.map(|(source, _)| source);
        if let Some((_, gauge)) = self.gauge.take_if(|(old, _)| Some(*old) != source) {
            gauge.set(0.0);
        }
        if let Some((source, number)) = endpoints {
            if self.gauge.is_none() {
                self.gauge = self.counts.gauge(&self.name, source).map(|gauge| (source, gauge));
            }
            if let Some((_, gauge)) = &self.gauge {
                gauge.set(u32::try_from(number).unwrap_or(u32::MAX));
            }
        }
    }
}

impl Counts {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, named: Arc::default(), logged: Arc::default() }
    }

    /// A source that is down fails for every name; the log has one of them.
    fn log_failure(&self, name: &UpstreamName, source: &'static str, why: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(source).is_none_or(|then| then.elapsed() >= LOG_EVERY) {
            logged.insert(source, Instant::now());
            tracing::warn!(%name, source, why, "a source of discovery failed; what it said before is kept");
        } else {
            tracing::debug!(%name, source, why, "a source of discovery failed");
        }
    }

    /// The gauge of a name. A name that is an address has none, and callers who
    /// make up names can't make up series without end.
    pub(super) fn gauge(&self, name: &UpstreamName, source: &'static str) -> Option<Gauge> {
        if source == ADDRESS {
            return None;
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.contains(name) {
            if named.len() >= MAX_UPSTREAMS {
                return None;
            }
            named.insert(name.clone());
        }
        Some(self.metrics.gauge(&names::ENDPOINTS, &[name.as_str(), source]))
    }
}
