//! `hedge`: another attempt beside one that is slow to be answered.

use std::time::Duration;

/// `hedge`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hedge {
    /// How long an answer may take before; default p95.
    pub after: After,
    /// The least that a percentile comes to; default 10 ms.
    pub min: Duration,
    /// Attempts beside the first; default 1.
    pub max: u32,
    /// Which calls; default those that only read.
    pub only_if: HedgeIf,
}

/// `hedge.after`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    /// What this share (0 to 1) of the route's calls took at most lately.
    Percentile(f64),
    /// A time.
    Time(Duration),
}

/// `hedge.only_if`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HedgeIf {
    /// GET, HEAD, OPTIONS and TRACE, and what the `.proto` says to have no side
    /// effects; the default.
    #[default]
    Safe,
    /// Any call.
    Always,
}

impl Default for Hedge {
    fn default() -> Self {
        let min = Duration::from_millis(10);
        Self { after: After::Percentile(0.95), min, max: 1, only_if: HedgeIf::Safe }
    }
}

impl After {
    /// As the file writes it.
    pub fn show(self) -> String {
        match self {
            Self::Percentile(share) => format!("p{}", (share * 1e4).round() / 1e2),
            Self::Time(time) => crate::config::units::show(time),
        }
    }
}

impl HedgeIf {
    /// As the file writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Always => "always",
        }
    }
}
