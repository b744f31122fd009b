//! The service stands in Consul. A look at the agent from time to time finds
//! what it has lost; where the check is told by us, telling it finds that too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::entry::{self, Place};
use super::{LAST_WORD, State};
use crate::clients::consul::{Client, Error, Options, Service, Status};
use crate::config::Model;
use crate::config::model::{Check, Register, Source};
use crate::discovery::consul;
use crate::discovery::source::jittered;
use crate::telemetry::{Metrics, names};

/// From one look at the agent to the next, before jitter.
const LOOK: Duration = Duration::from_secs(15);
/// The entry is made anew after this in any case, before jitter.
const REFRESH: Duration = Duration::from_secs(300);
/// After a failure: the first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// The longest pause where the check is told by us, and the agent does not answer.
const RESTARTS: Duration = Duration::from_secs(1);
/// How often a failure that lasts is told.
const REPORT: Duration = Duration::from_secs(60);

/// Where the service is to stand, and how.
#[derive(Clone, PartialEq)]
struct Wanted {
    options: Options,
    register: Register,
}

/// Keeps the service in the Consul that the configuration names, if it does,
/// until `state` is [`State::Gone`] and it has been taken out.
pub(super) async fn stand(
    mut model: watch::Receiver<Arc<Model>>,
    inbound: SocketAddr,
    mut state: watch::Receiver<State>,
    metrics: Metrics,
) {
    loop {
        let now = model.borrow_and_update().clone();
        let Some(wanted) = wanted(&now) else {
            tokio::select! {
                changed = model.changed() => if changed.is_err() { return },
                _ = state.wait_for(|state| *state == State::Gone) => return,
            }
            continue;
        };
        let client = match Client::new(wanted.options.clone()) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!("the service can't be registered with Consul: {error}");
                if model.changed().await.is_err() {
                    return;
                }
                continue;
            }
        };
        let gauge = metrics.gauge(&names::REGISTERED, &["consul"]);
        let mut keeper = Keeper::new(client, wanted, inbound, gauge);
        let gone = keeper.keep(&mut model, &mut state).await;
        keeper.out().await;
        if gone {
            return;
        }
    }
}

/// The registration that the model asks for.
fn wanted(model: &Model) -> Option<Wanted> {
    model.service.address?;
    model.discovery.iter().find_map(|source| match source {
        Source::Consul(source) => {
            Some(Wanted { options: consul::options(source).ok()?, register: source.register.clone()? })
        }
        _ => None,
    })
}

struct Keeper {
    client: Client,
    wanted: Wanted,
    inbound: SocketAddr,
    gauge: Gauge,
    /// The entry as Consul was last given it.
    held: Option<Held>,
    times: Times,
    /// Entering has failed, and was not made good yet.
    owed: bool,
    failures: u32,
    /// When a failure was told last.
    told: Option<Instant>,
    /// Which token the agent keeps the entry with, where that is known.
    token: Option<u64>,
    /// Consul takes `Locality` since 1.17.
    locality: bool,
}

struct Held {
    id: String,
    /// Entries of the same agent that are the service itself.
    plain: Vec<String>,
    /// It stays critical: its check is told by us, whatever the agent asked before.
    hidden: bool,
}

/// When something is to be done next.
struct Times {
    /// Make the entry, also anew.
    enter: Instant,
    /// Tell the check, which finds out whether it is there.
    tell: Instant,
    /// See whether the entry is there, and what else.
    look: Instant,
}

impl Keeper {
    fn new(client: Client, wanted: Wanted, inbound: SocketAddr, gauge: Gauge) -> Self {
        let now = Instant::now();
        let times = Times { enter: now, tell: now, look: now };
        Self {
            client,
            wanted,
            inbound,
            gauge,
            held: None,
            times,
            owed: false,
            failures: 0,
            told: None,
            token: None,
            locality: true,
        }
    }

    /// Until the model wants another registration, or none: false; or until the
    /// service must be taken out: true.
    async fn keep(
        &mut self,
        model: &mut watch::Receiver<Arc<Model>>,
        state: &mut watch::Receiver<State>,
    ) -> bool {
        let mut reloads = true;
        loop {
            let (how, news) = {
                let how = state.borrow_and_update();
                (how.clone(), how.has_changed())
            };
            // It may have come while something else was being done.
            if news {
                self.times.tell = Instant::now();
            }
            let next = match how {
                State::Gone => return true,
                State::Leaving if self.held.is_none() => None,
                _ => Some(self.times.enter.min(self.times.tell).min(self.times.look)),
            };
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                changed = state.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    state.mark_changed();
                    continue;
                }
                changed = model.changed(), if reloads => {
                    reloads = changed.is_ok();
                    if reloads && self::wanted(&model.borrow()).as_ref() != Some(&self.wanted) {
                        return false;
                    }
                    self.times.enter = Instant::now();
                    continue;
                }
            }
            // Not marked as seen: news of it are looked at above.
            let now = model.borrow().clone();
            match self.step(&now, &how).await {
                Ok(()) if self.owed => {}
                Ok(()) => self.well(),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Does what is due.
    async fn step(&mut self, model: &Model, how: &State) -> Result<(), Error> {
        let now = Instant::now();
        match how {
            State::Leaving | State::Gone => self.leave(model).await,
            _ if self.held.is_none() || self.times.enter <= now => {
                let entered = self.enter(model, how).await;
                self.owed = entered.is_err();
                // What stands there must not die of it.
                if entered.is_err() && self.held.is_some() && self.times.tell <= Instant::now() {
                    self.tell(how).await?;
                }
                entered
            }
            _ if self.times.tell <= now => self.tell(how).await,
            _ => self.look(model).await,
        }
    }

    /// Makes the entry, in place of one that is there.
    async fn enter(&mut self, model: &Model, how: &State) -> Result<(), Error> {
        let (place, plain) = self.surroundings(model).await?;
        let (status, _) = told(how);
        let Some(mut entry) = self.entry(model, place, &plain, status) else { return Ok(()) };
        if !self.locality {
            entry.locality = None;
        }
        match self.client.register(&entry).await {
            Err(error) if error.status() == Some(400) && entry.locality.is_some() => {
                entry.locality = None;
                self.client.register(&entry).await?;
                self.locality = false;
            }
            outcome => outcome?,
        }
        if self.held.as_ref().is_none_or(|held| held.id != entry.id) || self.failures > 0 {
            let address = if entry.address.is_empty() { "the node's" } else { &entry.address };
            tracing::info!(id = entry.id, address, port = entry.port, "registered with Consul");
        }
        let now = Instant::now();
        self.times = Times { enter: now + jittered(REFRESH), tell: now, look: now + jittered(LOOK) };
        let old = self.held.replace(Held { id: entry.id.clone(), plain, hidden: false });
        if let Some(old) = old.filter(|old| old.id != entry.id) {
            self.client.deregister(&old.id).await?;
        }
        Ok(())
    }

    /// Where the agent is, and what it has of the service itself.
    async fn surroundings(&mut self, model: &Model) -> Result<(Place, Vec<String>), Error> {
        let place = entry::place(&self.wanted.options.address).await.map_err(Error::Connection)?;
        match self.client.services().await {
            Ok(all) => {
                self.token = Some(all.token);
                Ok((place, entry::plain(model, place, &all.value).await))
            }
            // A token may be allowed to register, and not to look.
            Err(error) if error.answered() => Ok((place, Vec::new())),
            Err(error) => Err(error),
        }
    }

    fn entry(&self, model: &Model, place: Place, plain: &[String], status: Status) -> Option<Service> {
        entry::entry(model, &self.wanted.register, self.inbound, place, plain, status)
    }

    /// Tells the check. One that is not there any more is an error, and the entry
    /// is made anew.
    async fn tell(&mut self, how: &State) -> Result<(), Error> {
        let (Some(held), Check::Ttl(ttl)) = (&self.held, self.wanted.register.check) else {
            self.times.tell = self.times.look + LOOK;
            return Ok(());
        };
        let (status, output) = told(how);
        self.client.update_check(&entry::check_id(&held.id), status, &output).await?;
        self.times.tell = Instant::now() + jittered(ttl / 3);
        // The agent goes on with the token of the entry: one that was replaced may be revoked next.
        if self.token.is_some_and(|seen| self.client.token_changed(seen)) {
            self.times.enter = Instant::now();
        }
        Ok(())
    }

    /// Looks what the agent has, and has the entry made anew where it is gone,
    /// where the service itself has come beside it or gone, and where the agent
    /// would go on with an old token.
    async fn look(&mut self, model: &Model) -> Result<(), Error> {
        let Some(held) = &self.held else { return Ok(()) };
        let (id, known) = (held.id.clone(), held.plain.clone());
        let token = self.token;
        self.times.look = Instant::now() + jittered(LOOK);
        let place = entry::place(&self.wanted.options.address).await.map_err(Error::Connection)?;
        let all = match self.client.services().await {
            Err(error) if error.answered() => return Ok(()),
            all => all?,
        };
        let plain = entry::plain(model, place, &all.value).await;
        let other_token = token.is_some_and(|token| token != all.token);
        let lost = !all.value.contains_key(&id) && self.has_lost(&id).await?;
        if lost || other_token || plain != known {
            tracing::debug!(lost, other_token, "the entry is made anew");
            self.times.enter = Instant::now();
        }
        Ok(())
    }

    /// Whether the agent has no such entry; a token that may not look does not
    /// see it in the list either.
    async fn has_lost(&self, id: &str) -> Result<bool, Error> {
        match self.client.service(id).await {
            Err(error) if error.answered() => Ok(false),
            found => Ok(found?.is_none()),
        }
    }

    /// Nobody may find the service any more. Where the service itself is
    /// registered beside it, the entry stays, critical, so that it is not called
    /// past its sidecar while both end.
    async fn leave(&mut self, model: &Model) -> Result<(), Error> {
        let Some(held) = &self.held else { return Ok(()) };
        if held.plain.is_empty() {
            return self.take_out().await;
        }
        let asked = !held.hidden && !matches!(self.wanted.register.check, Check::Ttl(_));
        let place = entry::place(&self.wanted.options.address).await.map_err(Error::Connection)?;
        let why = "the service is being drained";
        if let Some(entry) = self.entry(model, place, &held.plain.clone(), Status::Critical) {
            let check = entry::check_id(&entry.id);
            let mut entry = entry::hidden(entry, why);
            entry.locality = None;
            // A check of the same id that we tell would not stop the agent from asking.
            if asked {
                match self.client.deregister_check(&check).await {
                    Err(error) if !matches!(error.status(), Some(404 | 500)) => return Err(error),
                    _ => {}
                }
            }
            self.client.register(&entry).await?;
            if let Some(held) = &mut self.held {
                held.hidden = true;
            }
            self.client.update_check(&check, Status::Critical, why).await?;
        }
        let now = Instant::now();
        self.times = Times { enter: now + REFRESH, tell: now + REFRESH, look: now + REFRESH };
        Ok(())
    }

    /// Takes the entry out.
    async fn take_out(&mut self) -> Result<(), Error> {
        let Some(held) = &self.held else { return Ok(()) };
        match self.client.deregister(&held.id).await {
            // It is gone already.
            Err(error) if error.status() == Some(404) => {}
            outcome => outcome?,
        }
        tracing::info!(id = held.id, "taken out of Consul");
        self.held = None;
        self.gauge.set(0.0);
        Ok(())
    }

    /// Takes the entry out, as far as that can be done soon.
    async fn out(&mut self) {
        let tries = async {
            while let Err(error) = self.take_out().await {
                if error.status().is_some() {
                    tracing::warn!("the service was not taken out of Consul: {error}");
                    return;
                }
                tokio::time::sleep(PAUSE.0 / 2).await;
            }
        };
        if tokio::time::timeout(LAST_WORD, tries).await.is_err() {
            tracing::warn!("the service was not taken out of Consul in time; Consul will, by its check");
        }
    }

    fn well(&mut self) {
        self.failures = 0;
        self.told = None;
        self.gauge.set(if self.held.is_some() { 1.0 } else { 0.0 });
    }

    /// Tries again after a pause. Consul that answers, and refuses, may have
    /// lost the entry.
    fn failed(&mut self, error: &Error) {
        self.gauge.set(0.0);
        let third = match self.wanted.register.check {
            Check::Ttl(ttl) => Some(ttl / 3),
            Check::Http | Check::Grpc => None,
        };
        // Its agent starts again, and takes the entry for sick until it is told.
        let longest = match third {
            Some(third) if !error.answered() => third.min(RESTARTS),
            _ => PAUSE.1,
        };
        let pause = jittered(longest.min(PAUSE.0 * 2_u32.pow(self.failures.min(10))));
        let pause = pause.max(error.retry_after().unwrap_or_default());
        self.failures += 1;
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= REPORT) {
            self.told = Some(now);
            tracing::warn!("the service can't be kept in Consul, trying again: {error}");
        }
        let at = now + pause;
        let Times { enter, tell, look } = &mut self.times;
        *enter = if error.status().is_some() { at } else { at.max(*enter) };
        *tell = match third.filter(|_| self.held.is_some()) {
            Some(third) => (now + pause.min(jittered(third))).max(*tell),
            None => at.max(*tell),
        };
        *look = at.max(*look);
    }
}

/// What a check is told.
fn told(how: &State) -> (Status, String) {
    match how {
        State::Well => (Status::Passing, "the service is healthy".to_owned()),
        State::Sick(why) => (Status::Critical, why.to_string()),
        State::Leaving | State::Gone => (Status::Critical, "the service is being drained".to_owned()),
    }
}

#[cfg(test)]
mod tests;
