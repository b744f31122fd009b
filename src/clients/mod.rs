//! Clients of the servers that Pillion asks: each is the one place that knows
//! its server's API, and knows nothing of what is done with the answers.

pub mod consul;
pub mod health;
pub mod jwks;
pub mod kubernetes;
pub mod ratelimit;
pub mod redis;

/// An error with what caused it, each cause once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
