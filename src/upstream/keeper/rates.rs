//! How the calls of a stretch of time went, endpoint by endpoint.

use std::time::Instant;

use crate::policy::fleet::Layout;
use crate::policy::vitals::Tally;

/// What was counted until the last look.
pub struct Rates {
    /// By slot.
    before: Vec<Tally>,
    /// When the last look was.
    pub since: Instant,
}

impl Rates {
    /// From now on, of nobody yet.
    pub fn new(now: Instant) -> Self {
        Self { before: Vec::new(), since: now }
    }

    /// Another endpoint has this slot: it begins with nothing.
    pub fn forget(&mut self, slot: u32) {
        if let Some(before) = self.before.get_mut(slot as usize) {
            *before = Tally::default();
        }
    }

    /// The slots and tallies of those that take calls, since the last look, which
    /// this becomes.
    pub fn look(&mut self, layout: &Layout, now: Instant) -> Vec<(u32, Tally)> {
        self.since = now;
        self.before.resize(layout.members.len(), Tally::default());
        let mut fresh = vec![Tally::default(); layout.members.len()];
        for (slot, member) in layout.present() {
            let (slot, tally) = (slot as usize, member.vitals.tally());
            fresh[slot] = tally.since(std::mem::replace(&mut self.before[slot], tally));
        }
        let fit = layout.usable().filter(|(_, member)| member.vitals.is_fit());
        fit.map(|(slot, _)| (slot, fresh[slot as usize])).collect()
    }
}
