//! What happens to a connection and to a request, in the order it happens.
//! Read `request.rs` first.

mod ahead;
mod announced;
mod answer;
mod authorize;
mod breaker;
mod bulkheads;
mod captured;
mod concurrency;
mod connection;
mod deadline;
mod detect;
mod egress;
mod ending;
mod gateway;
mod hedges;
mod keyrings;
mod ledger;
mod listener;
mod mirror;
mod notice;
mod original;
mod prepare;
mod rate;
mod rates;
mod relay;
mod reply;
mod request;
mod retries;
mod router;
mod secure;
mod shaping;
mod sizes;
mod split;
mod stack;
mod steer;
mod transcode;
mod tunnel;
mod umpire;
mod waits;
mod websocket;
mod worker;

pub use answer::Answer;
pub use bulkheads::Bulkheads;
pub use connection::{Door, Gate, detected as serve_on};
pub use gateway::Entry;
pub use keyrings::{Keyrings, Ring};
pub use ledger::{Ledger, Ledgers, Lost, Taking};
pub use listener::{accept, bind, bind_ipv6};
pub use rates::Rates;
pub use router::Router;
pub use stack::{Attempt, BoxedStack, Call, Layer};
pub use umpire::{Descriptor, Judging, Rule, Ruling, Umpire, Umpires};
pub use worker::{Instance, Worker};

#[cfg(test)]
mod tests {
    use super::*;

    fn of_connection<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    fn of_request<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// What each open connection and each request at hand costs, beside what
    /// they allocate. A step over the bound is a decision, not an accident.
    #[test]
    fn futures_stay_small() {
        let connection = of_connection(connection::serve);
        let request = of_request(request::serve);
        println!("a connection: {connection} bytes, a request: {request} bytes");
        assert!(connection <= 2816, "a connection takes {connection} bytes");
        assert!(request <= 3584, "a request takes {request} bytes");
    }
}
