//! `concurrency`: how many calls there may be at one time.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{Mode, Place};
use crate::base::Origin;

/// One limit of calls at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Concurrency {
    /// What it goes by. As long as this stays the same, a reload changes nothing
    /// for the callers.
    pub rules: Occupancy,
    /// Whether calls are refused; default enforce.
    pub mode: Mode,
    /// Whose calls it counts.
    pub place: Arc<Place>,
    /// Where it is written.
    pub origin: Origin,
}

/// How many calls there may be at one time, who may wait and who goes first.
#[derive(Clone, Debug, PartialEq)]
pub struct Occupancy {
    /// How many.
    pub limit: Ceiling,
    /// How many more may wait; default none.
    pub pending: usize,
    /// How long they may wait; default 100 ms.
    pub wait: Duration,
    /// Who is refused first; default all alike.
    pub priority: Option<Priority>,
}

/// How many calls there may be at one time.
#[derive(Clone, Debug, PartialEq)]
pub enum Ceiling {
    /// So many.
    Fixed(usize),
    /// As many as the measured latency allows.
    Adaptive(Bounds),
}

/// Between what a limit moves that goes by the latency.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Never less; default 5.
    pub min: usize,
    /// Where it begins; default 50.
    pub start: usize,
    /// Never more; default 1,000.
    pub max: usize,
    /// So many times what it is without a queue the latency may be; default 2.
    pub tolerance: f64,
}

/// `priority`: what part of the limit calls may use, by a header.
#[derive(Clone, Debug, PartialEq)]
pub struct Priority {
    /// The field whose value is the level of a call.
    pub header: HeaderName,
    /// Each level and the part of the limit that it may use, 0 to 1; the
    /// greatest part first. Default `high` the whole, `normal` 80 %, `low` 50 %.
    pub levels: Vec<(Arc<str>, f64)>,
    /// The same for calls with another value or none; default 80 %.
    pub others: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min: 5, start: 50, max: 1000, tolerance: 2.0 }
    }
}

impl Priority {
    /// The default levels of the field `header`.
    pub fn of(header: HeaderName) -> Self {
        let levels = [("high", 1.0), ("normal", 0.8), ("low", 0.5)];
        Self { header, levels: levels.map(|(name, share)| (name.into(), share)).into(), others: 0.8 }
    }
}
