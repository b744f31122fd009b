//! What happens to a connection and to a request, in the order it happens.
//! Read `request.rs` first.

mod answer;
mod connection;
mod deadline;
mod detect;
mod listener;
mod prepare;
mod relay;
mod reply;
mod request;
mod retries;
mod router;
mod stack;
mod tunnel;
mod worker;

pub use answer::Answer;
pub use connection::{Door, Gate};
pub use listener::{accept, bind};
pub use router::Router;
pub use stack::{BoxedStack, Call, Layer};
pub use worker::{Instance, Worker};
