//! The real servers and clients that the tests put around a sidecar.

pub mod backend;
pub mod bulk;
pub mod client;
pub mod dns;
pub mod frames;
pub mod h2peer;
pub mod hello;
pub mod load;
pub mod process;
pub mod request;
pub mod scripts;
pub mod server;
pub mod sidecar;
pub mod tokens;
pub mod wire;

pub use backend::Recorder;
pub use client::{Client, Response, call, get};
pub use load::Load;
pub use process::{Process, process};
pub use request::Request;
pub use server::{Deaf, PATIENCE, Server, until};
pub use sidecar::{Sidecar, alone, beside_others, resident, sidecar};
