//! What no compiler checks: which part may know which, that the docs say what
//! the code does, that every link leads somewhere, and what must not be in the
//! tree. A failure names the file, the line and the remedy.

#![allow(missing_docs, clippy::unwrap_used)]

mod dependencies;
mod examples;
mod files;
mod imports;
mod links;
mod source;
mod words;
