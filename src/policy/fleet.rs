//! The endpoints of an upstream, made ready for picking: an immutable set that
//! the control thread builds and all workers share.
//!
//! Each endpoint has a number (its slot) that it keeps for its life, so that a
//! worker's own state finds its place again without a search.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::balance::{self, Ring, Turns};
use super::locality::{Weights, shares};
use super::vitals::{Vitals, Watch};
use crate::base::{Endpoint, EndpointSet, Protocol, Standing};
use crate::config::model::Locality;

/// One endpoint of a set.
#[derive(Clone, Debug)]
pub struct Member {
    /// What discovery says of it.
    pub facts: Endpoint,
    /// How it fares; the same for as long as it stays.
    pub vitals: Arc<Vitals>,
}

/// The slots of an upstream's endpoints.
#[derive(Debug)]
pub struct Slots {
    watch: Arc<Watch>,
    taken: HashMap<(SocketAddr, Protocol), (u32, Arc<Vitals>)>,
    free: Vec<u32>,
    next: u32,
}

/// What changes with discovery.
#[derive(Debug, Default)]
pub struct Layout {
    /// By slot.
    pub members: Box<[Option<Member>]>,
    /// What all of them speak, if that is one.
    pub speaks: Protocol,
    /// From near to far.
    groups: Vec<Group>,
    zones: usize,
    regions: usize,
}

/// The endpoints at one distance that new calls may go to.
#[derive(Debug, Default)]
struct Group {
    /// Slots with their weights.
    slots: Vec<(u32, u32)>,
    ring: OnceLock<Ring>,
}

/// What also changes with the health of endpoints.
#[derive(Debug, Default)]
pub struct Fleet {
    /// What changes with discovery only.
    pub layout: Arc<Layout>,
    /// So few are in use that all are used.
    pub panic: bool,
    /// How calls are divided by distance changes with time: somebody warms up.
    pub grows: bool,
    /// Endpoints that may take calls, and those of them that do.
    pub counts: (usize, usize),
    tiers: Vec<Tier>,
    wants_turns: AtomicBool,
    wants_ring: AtomicBool,
}

/// The endpoints at one distance that take calls.
#[derive(Debug)]
pub struct Tier {
    /// Slots with their weights.
    pub live: Vec<(u32, u32)>,
    /// Its part of the calls ends here, 0 to 1.
    until: f64,
    turns: OnceLock<Turns>,
    group: usize,
}

/// What is laid out for picking. With many endpoints that takes milliseconds, so
/// the control thread does it, and only for those ways that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Round robin.
    pub turns: bool,
    /// A consistent hash.
    pub ring: bool,
}

impl Ways {
    /// All.
    pub const ALL: Self = Self { turns: true, ring: true };

    /// These and `others`.
    pub fn and(self, others: Self) -> Self {
        Self { turns: self.turns | others.turns, ring: self.ring | others.ring }
    }
}

impl Slots {
    /// None is taken.
    pub fn new(watch: Arc<Watch>) -> Self {
        Self { watch, taken: HashMap::new(), free: Vec::new(), next: 0 }
    }

    /// Gives each endpoint of `set` a slot. Also tells the slots of those that
    /// are gone. One that is new beside others begins with a small share.
    pub fn place(&mut self, set: &EndpointSet, now: Instant) -> (Box<[Option<Member>]>, Vec<u32>) {
        let first = self.taken.is_empty();
        let mut old = std::mem::take(&mut self.taken);
        self.taken.reserve(set.endpoints.len());
        let mut fresh = Vec::new();
        for facts in set.endpoints.iter() {
            let key = (facts.address, facts.protocol);
            match old.remove(&key) {
                Some(known) => drop(self.taken.insert(key, known)),
                None => fresh.push(key),
            }
        }
        let gone: Vec<u32> = old.into_values().map(|(slot, _)| slot).collect();
        self.free.extend(&gone);
        for key in fresh {
            let vitals = Vitals::new(&self.watch);
            if !first {
                vitals.warm(now);
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            self.taken.insert(key, (slot, vitals));
        }
        let mut members: Vec<Option<Member>> = vec![None; self.next as usize];
        for facts in set.endpoints.iter() {
            if let Some((slot, vitals)) = self.taken.get(&(facts.address, facts.protocol)) {
                members[*slot as usize] = Some(Member { facts: facts.clone(), vitals: vitals.clone() });
            }
        }
        (members.into(), gone)
    }
}

impl Layout {
    /// Sorts the members by how far they are from `own`.
    pub fn new(members: Box<[Option<Member>]>, own: &Locality) -> Self {
        let present = || members.iter().flatten().map(|member| &member.facts);
        let ready = present().any(|facts| facts.standing == Standing::Ready);
        let told = |facts: &Endpoint| facts.protocol.or(Protocol::of_port(facts.address.port()));
        let mut speak = present().map(told);
        let first = speak.next().unwrap_or_default();
        let speaks = if speak.all(|other| other == first) { first } else { Protocol::Auto };
        let (mut zones, mut regions) = (BTreeSet::new(), BTreeSet::new());
        let mut groups: Vec<Group> = (0..3).map(|_| Group::default()).collect();
        for (slot, member) in (0u32..).zip(&members) {
            let Some(Member { facts, .. }) = member else { continue };
            if ready && facts.standing != Standing::Ready {
                continue;
            }
            zones.insert((&facts.region, &facts.zone));
            regions.insert(&facts.region);
            let same_region = own.region.is_some() && facts.region == own.region;
            let other_region = own.region.is_some() && facts.region.is_some() && !same_region;
            let same_zone = own.zone.is_some() && facts.zone == own.zone && !other_region;
            let distance = if same_zone { 0 } else { if same_region { 1 } else { 2 } };
            groups[distance].slots.push((slot, facts.weight.max(1)));
        }
        let (zones, regions) = (zones.len(), regions.len());
        Self { members, speaks, groups, zones, regions }
    }

    /// The member at `slot`.
    pub fn member(&self, slot: u32) -> Option<&Member> {
        self.members.get(slot as usize)?.as_ref()
    }

    /// Those that are there.
    pub fn present(&self) -> impl Iterator<Item = (u32, &Member)> {
        (0u32..).zip(&self.members).filter_map(|(slot, member)| Some((slot, member.as_ref()?)))
    }

    fn ring(&self, group: &Group) -> Ring {
        Ring::new(group.slots.iter().map(|(slot, weight)| {
            let address = self.member(*slot).map(|member| member.facts.address);
            (*slot, address.map_or(0, hash_of), *weight)
        }))
    }

    /// Those that new calls may go to.
    pub fn usable(&self) -> impl Iterator<Item = (u32, &Member)> {
        let slots = self.groups.iter().flat_map(|group| &group.slots);
        slots.filter_map(|(slot, _)| Some((*slot, self.member(*slot)?)))
    }
}

impl Fleet {
    /// Those of `layout` that can be used `now`; all of them where these are a
    /// smaller share than `panic`.
    pub fn new(layout: Arc<Layout>, panic: f64, ways: Ways, now: Instant) -> Self {
        let fit = |slot: &u32| layout.member(*slot).is_some_and(|member| member.vitals.is_fit());
        let slots = || layout.groups.iter().flat_map(|group| &group.slots);
        let counts = (slots().count(), slots().filter(|(slot, _)| fit(slot)).count());
        let panic = counts.1 < counts.0 && (counts.1 as f64) < panic * counts.0 as f64;
        let live = |group: &Group| -> Vec<(u32, u32)> {
            group.slots.iter().filter(|(slot, _)| panic || fit(slot)).copied().collect()
        };
        let mut tiers: Vec<Tier> = (0..)
            .zip(&layout.groups)
            .map(|(group, all)| Tier { live: live(all), until: 0.0, turns: OnceLock::new(), group })
            .collect();
        // One that warms up counts by its share, so that a zone grows with those in it.
        let counts_for = |(slot, weight): &(u32, u32)| {
            let share = layout.member(*slot).map_or(0.0, |member| member.vitals.share(now));
            u64::from(*weight) * thousandths(share)
        };
        let weight = |tier: usize| tiers.get(tier).map_or(0, |tier| tier.live.iter().map(counts_for).sum());
        let (zone, region, far) = (weight(0), weight(1), weight(2));
        let (zones, regions) = (layout.zones, layout.regions);
        let shares = shares(Weights { zone, region, far, zones, regions });
        let mut until = 0.0;
        for (tier, share) in tiers.iter_mut().zip(shares) {
            until += share;
            tier.until = until;
        }
        tiers.retain(|tier| !tier.live.is_empty());
        let grows = tiers.len() > 1
            && tiers
                .iter()
                .flat_map(|tier| &tier.live)
                .any(|live| counts_for(live) < u64::from(live.1) * 1000);
        let (wants_turns, wants_ring) = (AtomicBool::new(false), AtomicBool::new(false));
        let fleet = Self { layout, panic, grows, counts, tiers, wants_turns, wants_ring };
        fleet.lay_out(ways);
        fleet
    }

    /// Prepares `ways` as far as that was not done: long work, not for a worker.
    pub fn lay_out(&self, ways: Ways) {
        for tier in &self.tiers {
            if ways.turns {
                tier.turns.get_or_init(|| Turns::new(&tier.live));
            }
            if ways.ring
                && let Some(group) = self.layout.groups.get(tier.group)
            {
                group.ring.get_or_init(|| self.layout.ring(group));
            }
        }
    }

    /// What workers have missed.
    pub fn wanted(&self) -> Ways {
        Ways { turns: self.wants_turns.load(Relaxed), ring: self.wants_ring.load(Relaxed) }
    }

    /// Tells the control thread, once, that something is missed.
    fn want(&self, wanted: &AtomicBool) {
        if !wanted.load(Relaxed)
            && !wanted.swap(true, Relaxed)
            && let Some((_, member)) = self.layout.present().next()
        {
            member.vitals.ring();
        }
    }

    /// The distances that have endpoints in use, near to far.
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The distance for a call, by a number from 0 to 1.
    pub fn tier(&self, draw: f64) -> usize {
        let found = self.tiers.iter().position(|tier| draw < tier.until);
        found.unwrap_or(self.tiers.len().saturating_sub(1))
    }

    /// The ring of a tier: of all that may take calls there, so that a key finds
    /// its way back. `None` as long as it is not laid out; that is asked for then.
    pub fn ring(&self, tier: &Tier) -> Option<&Ring> {
        let ring = self.layout.groups.get(tier.group)?.ring.get();
        if ring.is_none() {
            self.want(&self.wants_ring);
        }
        ring
    }

    /// The round robin of a tier; `None` as above.
    pub fn turns<'a>(&self, tier: &'a Tier) -> Option<&'a Turns> {
        let turns = tier.turns.get();
        if turns.is_none() {
            self.want(&self.wants_turns);
        }
        turns
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1000")]
fn thousandths(share: f64) -> u64 {
    (share * 1000.0).round() as u64
}

/// The same in every process.
pub fn hash_of(address: SocketAddr) -> u64 {
    let port = u64::from(address.port());
    let ip = match address.ip() {
        IpAddr::V4(ip) => balance::hash(&ip.octets()),
        IpAddr::V6(ip) => balance::hash(&ip.octets()),
    };
    balance::mix(ip ^ balance::mix(port))
}
