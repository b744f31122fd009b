//! Picks an endpoint, by the upstream's policy.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::Endpoint;
use super::connect::Connects;
use super::fuse::Panel;
use crate::config::model::Balance;
use crate::policy::balance::{PeakEwma, hash, mix, two_choices, unit};
use crate::policy::fleet::{Fleet, Member, Tier, hash_of};

/// What a consistent hash looks at; empty where the request has none.
pub type Key<'a> = Option<&'a [u8]>;

/// How often a turn is passed on that fell on an endpoint whose share grows:
/// often enough that one in use gets its part beside many that warm up.
const REDRAWS: usize = 16;
/// Endpoints that are looked at in search of one that can be used.
const LOOKS: usize = 256;
/// The same on a ring, where an endpoint has many places.
const RING_LOOKS: usize = 2048;

/// The endpoints of one moment. Most of it is shared with all workers; to make
/// one costs next to nothing.
pub struct Picker {
    fleet: Arc<Fleet>,
    crew: Rc<Crew>,
    version: u32,
    turn: Cell<usize>,
}

/// What one worker knows of the endpoints that it has used, by their slot.
pub struct Crew {
    known: RefCell<Vec<Option<Rc<Endpoint>>>>,
    connects: Rc<Connects>,
    version: Cell<u32>,
}

impl Crew {
    /// Nobody is known.
    pub fn new(connects: Rc<Connects>) -> Rc<Self> {
        Rc::new(Self { known: RefCell::default(), connects, version: Cell::new(0) })
    }

    /// Those that are known.
    pub fn for_each(&self, mut each: impl FnMut(&Rc<Endpoint>)) {
        self.known.borrow().iter().flatten().for_each(&mut each);
    }

    /// Lets go of those that `fleet` does not have any more.
    fn follow(&self, fleet: &Fleet) {
        let mut known = self.known.borrow_mut();
        known.resize(fleet.layout.members.len(), None);
        for (slot, held) in (0..).zip(known.iter_mut()) {
            let stays =
                |endpoint: &Rc<Endpoint>| fleet.layout.member(slot).is_some_and(|member| endpoint.is(member));
            if held.as_ref().is_some_and(|endpoint| !stays(endpoint))
                && let Some(gone) = held.take()
            {
                gone.retire();
            }
        }
    }
}

impl Picker {
    /// A picker over `fleet`, in place of `old`.
    pub fn new(fleet: Arc<Fleet>, crew: &Rc<Crew>, old: Option<&Picker>) -> Rc<Self> {
        if old.is_none_or(|old| !Arc::ptr_eq(&old.fleet.layout, &fleet.layout)) {
            crew.follow(&fleet);
            crew.version.set(crew.version.get() + 1);
        }
        // From a random place on, so that workers do not walk in step.
        let turn = old.map_or_else(|| fastrand::usize(..1 << 20), |old| old.turn.get());
        Rc::new(Self { fleet, crew: crew.clone(), version: crew.version.get(), turn: Cell::new(turn) })
    }

    /// The endpoints.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// How many may be called.
    pub fn count(&self) -> usize {
        self.fleet.counts.0
    }

    /// An endpoint that is not among `tried`; one that could not be reached a
    /// moment ago only where there is no other.
    pub fn pick(
        &self,
        balance: &Balance,
        key: Key<'_>,
        tried: &[Rc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Rc<Endpoint>> {
        self.pick_by(None, (balance, key), tried, now, random)
    }

    /// The same among those whose breaker lets calls through.
    pub fn pick_by(
        &self,
        panel: Option<&Panel>,
        (balance, key): (&Balance, Key<'_>),
        tried: &[Rc<Endpoint>],
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Option<Rc<Endpoint>> {
        let tiers = self.fleet.tiers();
        let key = key.filter(|_| matches!(balance, Balance::Hash(_))).map(hash);
        let first = match tiers {
            [] => return None,
            [only] => {
                if let &[(slot, _)] = &only.live[..] {
                    let can = !self.is_among(tried, slot) && self.is_let(panel, slot, now);
                    return can.then(|| self.endpoint(slot)).flatten();
                }
                0
            }
            _ => self.fleet.tier(key.map_or_else(|| random.f64(), |key| unit(mix(key)))),
        };
        let look = Look { picker: self, panel, tried, now, key };
        let near_first = || (first..tiers.len()).chain(0..first);
        let mut good = near_first().filter_map(|tier| look.good(balance, &tiers[tier], random));
        let slot = good.next();
        drop(good);
        let slot = slot.or_else(|| near_first().find_map(|tier| look.any(&tiers[tier], random)));
        self.endpoint(slot?)
    }

    /// The endpoint at `slot`, which becomes known if it was not.
    fn endpoint(&self, slot: u32) -> Option<Rc<Endpoint>> {
        let member = self.fleet.layout.member(slot)?;
        let mut known = self.crew.known.borrow_mut();
        let held = known.get_mut(slot as usize)?;
        match held {
            Some(endpoint) if endpoint.is(member) => Some(endpoint.clone()),
            // A picker that others have replaced leaves no trace.
            _ if self.version != self.crew.version.get() => Some(self.fresh(slot, member)),
            _ => Some(held.insert(self.fresh(slot, member)).clone()),
        }
    }

    fn fresh(&self, slot: u32, member: &Member) -> Rc<Endpoint> {
        let life = (slot, member.vitals.clone());
        Endpoint::new(member.facts.clone(), life, self.crew.connects.clone())
    }

    /// Whether its breaker, if it has one, lets a call through.
    fn is_let(&self, panel: Option<&Panel>, slot: u32, now: Instant) -> bool {
        let Some(panel) = panel else { return true };
        self.fleet.layout.member(slot).is_some_and(|member| panel.allows(slot, member, now))
    }

    fn is_among(&self, tried: &[Rc<Endpoint>], slot: u32) -> bool {
        !tried.is_empty()
            && self.fleet.layout.member(slot).is_some_and(|member| tried.iter().any(|one| one.is(member)))
    }
}

/// One pick.
struct Look<'a> {
    picker: &'a Picker,
    panel: Option<&'a Panel>,
    tried: &'a [Rc<Endpoint>],
    now: Instant,
    key: Option<u64>,
}

impl Look<'_> {
    /// One that can be used and was not tried.
    fn good(&self, balance: &Balance, tier: &Tier, random: &mut fastrand::Rng) -> Option<u32> {
        let first = match (balance, self.key) {
            (Balance::Hash(_), Some(key)) => {
                if let Some(ring) = self.picker.fleet.ring(tier) {
                    let places = || ring.find(key).take(RING_LOOKS);
                    // Where the shares of all grow, a key still has one place.
                    return places()
                        .find(|slot| self.takes_key(*slot, key))
                        .or_else(|| places().find(|slot| self.can(*slot)));
                }
                // The ring is not there yet: a key stays where it is as long as
                // nobody comes or goes.
                let at = usize::try_from(key % (tier.live.len() as u64).max(1));
                tier.live.get(at.unwrap_or_default()).map(|(slot, _)| *slot)
            }
            (Balance::Ewma | Balance::Hash(_), _) => self.better(tier, random, |endpoint, weight| {
                endpoint.map_or_else(
                    || PeakEwma::default().load(self.now, 0, weight),
                    |e| e.load(self.now, weight),
                )
            }),
            (Balance::LeastRequest, _) => self.better(tier, random, |endpoint, weight| {
                endpoint.map_or(0.0, |endpoint| endpoint.pressure(weight))
            }),
            (Balance::RoundRobin, _) => self.next(tier, random),
        };
        if first.is_some_and(|slot| self.can(slot)) {
            return first;
        }
        // From a random place on, so that one neighbour does not get it all.
        self.around(tier, random).find(|slot| self.can(*slot))
    }

    /// One that was not tried.
    fn any(&self, tier: &Tier, random: &mut fastrand::Rng) -> Option<u32> {
        let can = |slot: &u32| {
            !self.picker.is_among(self.tried, *slot) && self.picker.is_let(self.panel, *slot, self.now)
        };
        self.around(tier, random).find(can)
    }

    fn around(&self, tier: &Tier, random: &mut fastrand::Rng) -> impl Iterator<Item = u32> {
        let start = random.usize(..tier.live.len().max(1));
        tier.live[start..].iter().chain(&tier.live[..start]).take(LOOKS).map(|(slot, _)| *slot)
    }

    /// Whether it is worth a call: fit, not tried, and reachable a moment ago.
    fn can(&self, slot: u32) -> bool {
        let fleet = &self.picker.fleet;
        let fit = fleet.panic || fleet.layout.member(slot).is_some_and(|member| member.vitals.is_fit());
        fit && !self.is_away(slot)
            && !self.picker.is_among(self.tried, slot)
            && self.picker.is_let(self.panel, slot, self.now)
    }

    fn is_away(&self, slot: u32) -> bool {
        self.known(slot, |endpoint| endpoint.is_some_and(|endpoint| endpoint.is_away(self.now)))
    }

    fn known<T>(&self, slot: u32, look: impl FnOnce(Option<&Endpoint>) -> T) -> T {
        let known = self.picker.crew.known.borrow();
        look(known.get(slot as usize).and_then(|endpoint| endpoint.as_deref()))
    }

    fn share(&self, slot: u32) -> f64 {
        self.picker.fleet.layout.member(slot).map_or(0.0, |member| member.vitals.share(self.now))
    }

    /// The same for one key: as the share of an endpoint grows, keys come to it
    /// and none leaves.
    fn takes_key(&self, slot: u32, key: u64) -> bool {
        let share = self.share(slot);
        let takes = share >= 1.0
            || self
                .picker
                .fleet
                .layout
                .member(slot)
                .is_some_and(|member| unit(mix(key ^ hash_of(member.facts.address))) < share);
        takes && self.can(slot)
    }

    /// The better of two (Mitzenmacher); the other one where the share of the
    /// better grows and chance is against it.
    fn better(
        &self,
        tier: &Tier,
        random: &mut fastrand::Rng,
        cost: impl Fn(Option<&Endpoint>, u32) -> f64,
    ) -> Option<u32> {
        let (a, b) = two_choices(tier.live.len(), random);
        let (a, b) = (*tier.live.get(a)?, *tier.live.get(b)?);
        let cost = |(slot, weight): (u32, u32)| self.known(slot, |endpoint| cost(endpoint, weight));
        let (winner, other) = match (self.is_away(a.0), self.is_away(b.0)) {
            (true, false) => (b.0, a.0),
            (false, true) => (a.0, b.0),
            _ if cost(b) < cost(a) => (b.0, a.0),
            _ => (a.0, b.0),
        };
        let share = self.share(winner);
        let yields = share < 1.0 && random.f64() >= share && self.share(other) > share && self.can(other);
        Some(if yields { other } else { winner })
    }

    fn next(&self, tier: &Tier, random: &mut fastrand::Rng) -> Option<u32> {
        let turns = self.picker.fleet.turns(tier);
        let turn = &self.picker.turn;
        let following = || {
            let at = turn.get();
            turn.set(at.wrapping_add(1));
            match turns {
                Some(turns) => turns.at(at),
                // Not there yet: in turn without weights.
                None => tier.live.get(at % tier.live.len().max(1)).map(|(slot, _)| *slot),
            }
        };
        let mut held = following()?;
        for _ in 0..REDRAWS {
            let share = self.share(held);
            if share >= 1.0 || random.f64() < share {
                break;
            }
            held = following()?;
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests;
