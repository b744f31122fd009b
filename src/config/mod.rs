//! From files to a checked model, and from one model to the next.

pub mod model;

pub use model::Model;
