//! Policies under hostile schedules: a virtual clock, a seed that is printed,
//! and invariants that are looked at after every step. One module a policy.
#![allow(missing_docs)]
// A test fails by a panic.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "sim/adaptive.rs"]
mod adaptive;
#[path = "sim/breaker.rs"]
mod breaker;
#[path = "sim/budget.rs"]
mod budget;
#[path = "sim/ejection.rs"]
mod ejection;
#[path = "sim/limiter.rs"]
mod limiter;

/// Runs `each` with seeds from 0 on, `SIM_SEEDS` of them or 1,500. A seed that
/// fails is printed: `SIM_SEED=17 cargo test --test sim` runs it alone.
pub fn seeds(each: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(1_500),
    };
    for seed in range {
        if let Err(panic) = std::panic::catch_unwind(|| each(seed)) {
            eprintln!("failed with SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
