//! Keeps the endpoints of each upstream ready for picking, on the control
//! thread: takes over what discovery says, ejects who fails, and builds the set
//! that workers share. Nothing of it delays a request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

mod rates;
mod settings;

use self::rates::Rates;
use self::settings::Settings;
use super::board::{Board, Known, News, Wanted};
use super::checks::{self, Ask, Asker, Checks};
use crate::base::clock;
use crate::base::{EndpointSet, Resolution, UpstreamName};
use crate::config::Model;
use crate::policy::ejection::{Judge, Out, Scene, Verdict, falls_short, outliers};
use crate::policy::fleet::{Fleet, Layout, Slots, Ways};
use crate::policy::vitals::{Cause, Watch};
use crate::telemetry::{Metrics, names};

/// How long nobody is judged after all endpoints have failed.
const QUIET: Duration = Duration::from_secs(1);
/// While some are out it is looked so often whether the others do without them.
const RELIEF: Duration = Duration::from_secs(1);
/// While endpoints warm up near or far, calls are divided anew so many times.
const STEPS: u32 = 20;
/// And no more often than this.
const STEP: Duration = Duration::from_millis(100);
/// An upstream's total failure is logged once in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Runs the keepers of all upstreams.
pub struct Keepers {
    /// Where the sets go.
    pub board: Board,
    /// The names that workers ask for.
    pub wanted: mpsc::UnboundedReceiver<Wanted>,
    /// The configuration in force, and each newer one.
    pub config: watch::Receiver<Arc<Model>>,
    /// Where ejections are counted.
    pub metrics: Metrics,
}

struct Keeper {
    name: UpstreamName,
    board: Board,
    resolution: watch::Receiver<Resolution>,
    sender: watch::Sender<News>,
    config: watch::Receiver<Arc<Model>>,
    metrics: Metrics,
    settings: Settings,
    /// What workers have missed.
    missed: Ways,
    watch: Arc<Watch>,
    slots: Slots,
    layout: Arc<Layout>,
    judge: Judge,
    checks: Checks,
    answers: mpsc::UnboundedReceiver<checks::Answer>,
    random: fastrand::Rng,
    /// For the success rate, and for whether those in use suffice.
    rates: Rates,
    relief: Rates,
    /// Those in use do not suffice, and the log has said so.
    short: bool,
    /// All have failed: nobody is judged before this.
    quiet: Option<Instant>,
    /// When that was last logged.
    warned: Option<Instant>,
    /// When calls are divided anew between near and far.
    regrow: Option<Instant>,
    /// Who stood at a limit at the last look, and had to stay.
    denied: HashSet<u32>,
    /// Sets that workers may still hold: they are dropped here, not there.
    old: Vec<Arc<Fleet>>,
}

impl Keepers {
    /// Serves until it is dropped, or until nobody can ask any more. Asks
    /// endpoints for their health by `ask`.
    pub async fn run(mut self, ask: Ask) {
        let asker = Asker::new(ask);
        let mut keepers = JoinSet::new();
        loop {
            tokio::select! {
                wanted = self.wanted.recv() => {
                    let Some(wanted) = wanted else { return };
                    keepers.spawn_local(Keeper::new(wanted, &self, &asker).run());
                }
                Some(ended) = keepers.join_next(), if !keepers.is_empty() => {
                    if let Err(error) = ended
                        && let Ok(panic) = error.try_into_panic()
                    {
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        }
    }
}

impl Keeper {
    fn new(wanted: Wanted, all: &Keepers, asker: &Asker) -> Self {
        let mut config = all.config.clone();
        let settings = Settings::of(&wanted.name, &config.borrow_and_update());
        let now = clock::now();
        let watch = Watch::new(now);
        settings.tell(&watch);
        let (mut checks, answers) = Checks::new(asker.clone());
        checks.set(settings.fitness.check.clone(), settings.protocol, settings.proxy_protocol);
        Self {
            name: wanted.name,
            board: all.board.clone(),
            resolution: wanted.resolution,
            sender: wanted.sender,
            config,
            metrics: all.metrics.clone(),
            slots: Slots::new(watch.clone()),
            watch,
            layout: Arc::default(),
            judge: Judge::new(settings.fitness.ejection.clone()),
            checks,
            answers,
            settings,
            missed: Ways::default(),
            random: fastrand::Rng::new(),
            rates: Rates::new(now),
            relief: Rates::new(now),
            short: false,
            quiet: None,
            warned: None,
            regrow: None,
            denied: HashSet::new(),
            old: Vec::new(),
        }
    }

    async fn run(mut self) {
        self.serve().await;
        let label = self.metrics.label(self.name.as_str());
        for gauge in [&names::ENDPOINTS_IN_USE, &names::PANIC] {
            self.metrics.gauge(gauge, &[&label]).set(0.0);
        }
    }

    async fn serve(&mut self) {
        self.resolution.mark_changed();
        let watch = self.watch.clone();
        let sender = self.sender.clone();
        loop {
            let wake = tokio::time::Instant::from_std(self.next_look());
            tokio::select! {
                biased;
                changed = self.resolution.changed() => match changed {
                    Ok(()) => self.take_over(),
                    // Discovery has ended with the process.
                    Err(_) => return,
                },
                changed = self.config.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.reload();
                }
                Some(answer) = self.answers.recv() => self.hear(answer),
                () = watch.bell.notified() => {
                    self.lay_out();
                    self.judge();
                }
                () = tokio::time::sleep_until(wake) => self.look(),
                () = sender.closed() => {
                    if self.board.forget(&self.name) {
                        return;
                    }
                }
            }
        }
    }

    /// When there is something to do though nothing is heard.
    fn next_look(&self) -> Instant {
        let rates = self.settings.fitness.ejection.as_ref().and_then(|rules| rules.success_rate.as_ref());
        let rates = rates.map(|rule| self.rates.since + rule.interval);
        let relief = (self.judge.count() > 0).then(|| self.relief.since + RELIEF);
        let idle = clock::now() + Duration::from_secs(60);
        [self.judge.next(), rates, relief, self.quiet, self.regrow]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(idle)
    }

    fn take_over(&mut self) {
        let resolution = self.resolution.borrow_and_update().clone();
        let known = match &resolution {
            Resolution::Found(set) => {
                self.place(set);
                Known::Found(set.source)
            }
            Resolution::Pending => Known::Pending,
            _ => {
                self.place(&EndpointSet::new(Vec::new(), "", UNIX_EPOCH));
                Known::Not(resolution.clone())
            }
        };
        self.publish(Some(known));
    }

    /// Follows the endpoints of `set`, and nobody else.
    fn place(&mut self, set: &EndpointSet) {
        let now = clock::now();
        let (members, gone) = self.slots.place(set, now);
        for slot in gone {
            self.judge.forget(slot);
            self.denied.remove(&slot);
            self.rates.forget(slot);
            self.relief.forget(slot);
        }
        self.layout = Arc::new(Layout::new(members, &self.settings.near));
        self.pardon_unused(now);
        let back = self.judge.fit(self.layout.usable().count(), now);
        self.let_in(&back, true, now);
        self.checks.follow(&self.layout);
    }

    /// Nobody is out who takes no calls in any case: the cap is for the others.
    fn pardon_unused(&mut self, now: Instant) {
        if self.judge.count() == 0 {
            return;
        }
        let usable: HashSet<u32> = self.layout.usable().map(|(slot, _)| slot).collect();
        for (slot, member) in self.layout.present().filter(|(slot, _)| !usable.contains(slot)) {
            if self.judge.pardon(slot, now) {
                member.vitals.let_in(true, now);
            }
        }
    }

    fn reload(&mut self) {
        let settings = Settings::of(&self.name, &self.config.borrow_and_update());
        if settings == self.settings {
            return;
        }
        self.settings = settings;
        self.settings.tell(&self.watch);
        let Settings { fitness, protocol, proxy_protocol, .. } = &self.settings;
        self.checks.set(fitness.check.clone(), *protocol, *proxy_protocol);
        if !self.checks.is_on() {
            let now = clock::now();
            self.layout.present().for_each(|(_, member)| _ = member.vitals.set_sick(false, now));
        }
        let back = self.judge.set(self.settings.fitness.ejection.clone());
        self.let_in(&back, false, clock::now());
        self.rates.look(&self.layout, clock::now());
        self.resolution.mark_changed();
    }

    /// Takes in what an endpoint said of its health.
    fn hear(&mut self, answer: checks::Answer) {
        let Some(change) = self.checks.take(answer) else { return };
        let now = clock::now();
        let address = self.layout.member(change.slot).map(|member| member.facts.address.to_string());
        let address = address.unwrap_or_default();
        let mut news = change.vitals.set_sick(change.why.is_some(), now);
        match change.why {
            Some(why) => tracing::warn!(upstream = %self.name, address, why, "an endpoint is not healthy"),
            None => {
                if news {
                    tracing::info!(upstream = %self.name, address, "an endpoint is healthy again");
                }
                // Its own word is better than what was seen before.
                if news && self.judge.pardon(change.slot, now) {
                    change.vitals.let_in(true, now);
                    news = true;
                }
            }
        }
        if news {
            self.publish(None);
        }
    }

    fn ways(&self) -> Ways {
        self.settings.ways.and(self.missed)
    }

    /// Prepares what workers miss that have a newer policy than this keeper.
    fn lay_out(&mut self) {
        let fleet = self.sender.borrow().fleet.clone();
        if let Some(fleet) = fleet {
            self.missed = self.missed.and(fleet.wanted());
            fleet.lay_out(self.ways());
        }
    }

    /// Hears those who have reached a limit.
    fn judge(&mut self) {
        // When this is over, `look` hears them.
        if self.quiet.is_some_and(|quiet| clock::now() < quiet) {
            return;
        }
        let layout = self.layout.clone();
        let accused = layout.usable().filter(|(_, member)| !member.vitals.is_ejected());
        let accused: Vec<_> =
            accused.filter_map(|(slot, member)| Some((slot, member.vitals.cause()?))).collect();
        let before = std::mem::take(&mut self.denied);
        self.denied = self.accuse(&accused, &before);
    }

    /// Who of them has to stay; those who had to `before` are not counted again.
    fn accuse(&mut self, accused: &[(u32, Cause)], before: &HashSet<u32>) -> HashSet<u32> {
        let now = clock::now();
        let layout = self.layout.clone();
        let total = layout.usable().count();
        let mut in_use = layout.usable().filter(|(_, member)| member.vitals.is_fit()).count();
        let mut denied = HashSet::new();
        let mut changed = false;
        if self.judge.count() == 0 {
            self.relief.look(&layout, now);
        }
        for (index, (slot, cause)) in accused.iter().enumerate() {
            let failing = self.judge.count() + accused.len() - index;
            let scene = Scene { total, in_use, failing };
            match self.judge.accuse(*slot, *cause, scene, now, &mut self.random) {
                Verdict::Out(out) => {
                    if let Some(member) = layout.member(*slot) {
                        in_use -= usize::from(member.vitals.is_fit());
                        let again = self.short && member.vitals.is_on_probation();
                        member.vitals.eject();
                        let (address, cause) = (member.facts.address, cause.as_str());
                        let time = out.until - now;
                        if !again {
                            tracing::warn!(upstream = %self.name, %address, cause, ?time, "an endpoint is ejected");
                        }
                    }
                    self.count(&names::EJECTIONS, cause.as_str());
                    changed = true;
                }
                Verdict::Stays => {
                    denied.insert(*slot);
                    if !before.contains(slot) {
                        self.count(&names::EJECTIONS_DENIED, cause.as_str());
                    }
                }
                Verdict::AllFail(back) => {
                    changed |= !back.is_empty();
                    self.let_in(&back, false, now);
                    layout.usable().for_each(|(_, member)| member.vitals.let_in(false, now));
                    self.quiet = Some(now + QUIET);
                    if self.warned.is_none_or(|warned| now >= warned + WARN_EVERY) {
                        self.warned = Some(now);
                        tracing::warn!(upstream = %self.name, "all endpoints fail, so none is ejected");
                    }
                    break;
                }
            }
        }
        if changed {
            self.publish(None);
        }
        denied
    }

    /// What is due by now.
    fn look(&mut self) {
        let now = clock::now();
        self.old.retain(|fleet| Arc::strong_count(fleet) > 1);
        let back = self.judge.returns(now);
        if !back.is_empty() {
            self.let_in(&back, true, now);
            self.publish(None);
        }
        if self.quiet.take_if(|quiet| *quiet <= now).is_some() {
            self.judge();
        }
        if self.regrow.take_if(|at| *at <= now).is_some() {
            self.publish(None);
        }
        let rule = self.settings.fitness.ejection.as_ref().and_then(|rules| rules.success_rate.clone());
        if let Some(rule) = rule.filter(|rule| now >= self.rates.since + rule.interval) {
            let accused = outliers(&rule, &self.rates.look(&self.layout, now));
            let accused: Vec<_> = accused.into_iter().map(|slot| (slot, Cause::SuccessRate)).collect();
            self.accuse(&accused, &HashSet::new());
        }
        if self.judge.count() > 0 && now >= self.relief.since + RELIEF {
            let seen = self.relief.look(&self.layout, now);
            if falls_short(&seen) {
                self.relieve(now);
            } else {
                self.short = false;
            }
        }
    }

    /// Tries one that is out; the log says so once as long as it lasts.
    fn relieve(&mut self, now: Instant) {
        let Some(slot) = self.judge.relieve(now - RELIEF, now) else { return };
        if !std::mem::replace(&mut self.short, true) {
            tracing::info!(upstream = %self.name, "those in use do not suffice: each second one is tried again");
        }
        if let Some(member) = self.layout.member(slot) {
            member.vitals.let_in(true, now);
        }
        self.publish(None);
    }

    /// Why those are out that are.
    fn notes(&self) -> HashMap<u32, String> {
        let out = self.layout.usable().filter(|(_, member)| !member.vitals.is_fit());
        let note = |slot: u32, sick: bool| match self.judge.out(slot) {
            _ if sick => format!("health_check: {}", self.checks.why(slot)),
            Some(Out { cause, times, .. }) => format!("{}, {times} in a row", cause.as_str()),
            None => String::new(),
        };
        out.map(|(slot, member)| (slot, note(slot, member.vitals.is_sick()))).collect()
    }

    fn let_in(&self, slots: &[u32], probation: bool, now: Instant) {
        for member in slots.iter().filter_map(|slot| self.layout.member(*slot)) {
            member.vitals.let_in(probation, now);
            tracing::info!(upstream = %self.name, address = %member.facts.address, "an endpoint is used again");
        }
    }

    fn count(&self, name: &names::Name, cause: &str) {
        let label = self.metrics.label(self.name.as_str());
        self.metrics.counter(name, &[&label, cause]).increment(1);
    }

    /// Builds the set anew and hands it out; `known` where discovery has news.
    fn publish(&mut self, known: Option<Known>) {
        let now = clock::now();
        let fleet = Arc::new(Fleet::new(self.layout.clone(), self.settings.fitness.panic, self.ways(), now));
        let step = self.settings.fitness.slow_start.unwrap_or_default() / STEPS;
        self.regrow = fleet.grows.then(|| now + step.max(STEP));
        let label = self.metrics.label(self.name.as_str());
        let in_use = if fleet.panic { fleet.counts.0 } else { fleet.counts.1 };
        self.metrics.gauge(&names::ENDPOINTS_IN_USE, &[&label]).set(in_use as f64);
        let was = self.sender.borrow().fleet.as_ref().map(|fleet| fleet.panic);
        if Some(fleet.panic) != was {
            self.metrics.gauge(&names::PANIC, &[&label]).set(f64::from(u8::from(fleet.panic)));
            let (all, fit) = fleet.counts;
            if fleet.panic {
                tracing::warn!(upstream = %self.name, fit, all, "too few endpoints can be used: all are used");
            } else if was.is_some() && all > 0 {
                tracing::info!(upstream = %self.name, fit, all, "enough endpoints can be used again");
            }
        }
        self.old.retain(|fleet| Arc::strong_count(fleet) > 1);
        let notes = self.notes();
        self.sender.send_modify(|news| {
            news.notes = Arc::new(notes);
            if let Some(known) = known {
                news.resolution = known;
            }
            self.old.extend(news.fleet.replace(fleet));
        });
    }
}

#[cfg(test)]
mod tests;
