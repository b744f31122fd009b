//! Which endpoints take calls, and which do not.

mod checks;
mod drain;
mod ejection;
pub mod faulty;
mod grpc;
