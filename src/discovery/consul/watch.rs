//! One upstream, followed by questions that Consul holds until there is news.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::hosts::Hosts;
use super::judge::{Came, Judge, Judged};
use super::pace::Pace;
use super::{Consul, service};
use crate::base::UpstreamName;
use crate::clients::consul::{Answer as Said, Blocking, Client, Error, Instance};
use crate::discovery::answer::Answer;
use crate::discovery::source::{Outlet, jittered};

/// After a failure: the first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// How often a pause looks whether the token is another one.
const LOOK: Duration = Duration::from_millis(250);
/// So many good answers in a row make room for one more question at one time.
const GOOD: u32 = 20;
/// An upstream that finds no place to be held is asked about every so often.
const NO_PLACE: Duration = Duration::from_secs(2);
/// Host names of which not all could be looked up are looked up again so soon.
const HOSTS: Duration = Duration::from_secs(2);
/// An agent that streams may take this long to subscribe again after its
/// servers were away; until then it would hold a question without hearing news.
/// Consul's materializer waits for up to 60 s and as much again by chance.
const SUBSCRIBES: Duration = Duration::from_secs(135);

/// What a task knows of its upstream.
pub(super) struct Known<'a> {
    source: &'a Consul,
    client: &'a Client,
    name: &'a UpstreamName,
    judge: Judge,
    pace: Pace,
    hosts: Hosts,
    /// When the last answer came, and to which token.
    last: Option<(std::time::Instant, u64)>,
    failures: u32,
    /// When the last failure was.
    failed: Option<Instant>,
    /// Whether the agent has answered from a stream.
    streams: bool,
}

impl Consul {
    /// Asks about `name` until nobody listens.
    pub(super) async fn watch(&self, client: &Client, name: &UpstreamName, outlet: &Outlet) {
        let mut known = Known::new(self, client, name);
        let (mut index, mut good) = (None, 0);
        loop {
            sleep_until(known.pace.next(Instant::now())).await;
            let since = known.last.zip(index.filter(|_| !known.may_be_deaf()));
            let held = since.and_then(|since| Some((since, self.places.held()?)));
            let (blocking, place) = match held {
                Some((((heard, _), index), place)) => {
                    (Some(Blocking { index, wait: known.wait(), heard }), Ok(place))
                }
                None => {
                    // Every place is taken: others have theirs after a while.
                    if since.is_some() {
                        sleep(jittered(NO_PLACE)).await;
                    }
                    let Some(place) = self.places.quick().await else { return };
                    (None, Err(place))
                }
            };
            let listening = match client.instances(service(name), &self.selection, blocking).await {
                Ok(said) => {
                    drop(place);
                    good += 1;
                    if good % GOOD == 0 {
                        self.places.grow();
                    }
                    index = said.index;
                    known.heard(said, false, outlet).await
                }
                Err(error) => {
                    match (error.status(), place) {
                        (Some(429), Ok(held)) => self.places.shrink(held),
                        (_, place) => drop(place),
                    }
                    (index, good) = (None, 0);
                    known.failed(&error, outlet).await
                }
            };
            if !listening {
                return;
            }
        }
    }
}

impl<'a> Known<'a> {
    pub(super) fn new(source: &'a Consul, client: &'a Client, name: &'a UpstreamName) -> Self {
        let keep = source.made_of.keep_lost;
        let before = source.memory.recall(name, keep).unwrap_or_default();
        Self {
            source,
            client,
            name,
            judge: Judge::new(keep, before),
            pace: Pace::new(Instant::now()),
            hosts: Hosts::default(),
            last: None,
            failures: 0,
            failed: None,
            streams: false,
        }
    }

    /// How long a question may be held. Of a lost endpoint's end Consul says
    /// nothing, nor of host names.
    fn wait(&self) -> Duration {
        let longest = if self.hosts.unsettled() { HOSTS } else { Duration::MAX };
        let wait = jittered(self.source.made_of.wait.min(longest));
        let least = Duration::from_millis(100);
        let end = self.judge.next().map(|next| next.saturating_duration_since(Instant::now()).max(least));
        end.map_or(wait, |end| wait.min(end))
    }

    /// Whether the agent may hold a question and hear nothing: then it is asked
    /// for what its servers know, at the pace.
    fn may_be_deaf(&self) -> bool {
        self.streams && self.failed.is_some_and(|then| then.elapsed() < SUBSCRIBES)
    }

    /// Takes an answer. Returns whether anybody listens.
    /// `exists`: the service does, also if the answer is empty.
    pub(super) async fn heard(&mut self, said: Said<Vec<Instance>>, exists: bool, outlet: &Outlet) -> bool {
        self.failures = 0;
        self.streams |= said.streamed;
        let reconnected = self.last.is_some_and(|(then, _)| said.dialed > then);
        self.last = Some((std::time::Instant::now(), said.token));
        if said.filtered && said.value.is_empty() {
            return outlet.tell(Answer::failed("the ACL token may not see all of this service")).await;
        }
        let came = Came {
            at: Instant::now(),
            index: said.index,
            reconnected,
            token: said.token,
            known_leader: said.known_leader,
            exists,
        };
        let listed = self.source.chosen.endpoints(self.name, said.value, &mut self.hosts).await;
        let judged = self.judge.take(came, &listed);
        self.tell(judged, outlet).await
    }

    /// Consul no longer has what is asked, as `why` says. Returns whether anybody
    /// listens.
    pub(super) async fn gone(&mut self, why: &'static str, outlet: &Outlet) -> bool {
        let judged = self.judge.gone(Instant::now(), why);
        self.tell(judged, outlet).await
    }

    async fn tell(&self, judged: Judged, outlet: &Outlet) -> bool {
        let Judged { answer, lost } = judged;
        if let Some((count, why)) = lost {
            let kept = crate::config::units::show(self.source.made_of.keep_lost);
            tracing::warn!(name = %self.name, count, why, "Consul no longer names endpoints, which are kept for {kept}");
        }
        self.source.memory.keep(self.name, self.judge.in_force(), self.source.made_of.keep_lost);
        outlet.tell(answer).await
    }

    /// Tells of a failure and waits. Returns whether anybody listens.
    pub(super) async fn failed(&mut self, error: &Error, outlet: &Outlet) -> bool {
        self.failures += 1;
        self.failed = Some(Instant::now());
        let pause = PAUSE.0 * (1 << (self.failures - 1).min(8));
        let pause = jittered(jittered(pause.min(PAUSE.1)));
        let pause = pause.max(error.retry_after().unwrap_or_default());
        if !outlet.tell(Answer::failed(error)).await {
            return false;
        }
        let until = Instant::now() + pause;
        let seen = self.last.map(|(_, token)| token);
        while Instant::now() < until {
            sleep(LOOK.min(until - Instant::now())).await;
            // What a new token may see is worth asking at once.
            if error.status() == Some(403) && seen.is_some_and(|seen| self.client.token_changed(seen)) {
                break;
            }
        }
        true
    }
}
