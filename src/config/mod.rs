//! From files to a checked model, and from one model to the next.
//!
//! The way of a file: bytes → [`tree`], in which each value knows its place →
//! [`expand`] → [`shape`], by the [`schema`] of the types in [`form`] → typed by
//! serde_yaml → [`resolve`] → [`Model`]. Each step reports all that is wrong and
//! lets the next one see what is left.

mod authorize;
mod call;
mod certificate;
pub mod check;
mod descriptor;
pub mod dev;
mod expand;
mod form;
mod jwks;
mod load;
pub mod model;
mod problem;
pub mod reload;
mod resolve;
pub mod route;
pub mod schema;
mod shape;
mod text;
mod tree;
pub mod units;
pub mod values;

pub use call::Call;
pub use expand::Environment;
pub use load::{Loaded, defaults, draft, load, load_policy, load_str};
pub use model::Model;
pub use problem::{Problem, Problems};
pub use reload::Reload;
pub use values::Values;

/// The exit code of a program that was given a bad configuration (`EX_CONFIG`
/// of sysexits.h).
pub const EXIT_CODE: u8 = 78;

/// What is wrong with `name` as the name of a service.
pub fn check_name(name: &str) -> Result<(), String> {
    text::check("pillion-service", name)
}

#[cfg(test)]
mod tests;
