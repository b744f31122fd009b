//! The files with what Consul says for `${consul:…}` in them, at a start.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::config::{self, Environment, Loaded, Problems};
use crate::discovery::values;

/// How long a start waits for Consul. What has a default goes on without.
const FIRST: Duration = Duration::from_secs(5);

/// Why there is no configuration.
#[derive(Debug)]
pub enum Refused {
    /// The files are wrong.
    Problems(Problems),
    /// The system gives no means to ask.
    System(io::Error),
}

/// Reads `file`, with what Consul has for the keys that it names.
pub fn load(file: &Path, environment: &Environment) -> Result<Loaded, Refused> {
    let loaded = config::draft(file, environment).map_err(Refused::Problems)?;
    if let Some(known) = environment.values().filter(|_| !loaded.holes.is_empty()) {
        known.want(loaded.wants());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(Refused::System)?.block_on(values::first(known, FIRST));
    }
    config::load(file, environment).map_err(Refused::Problems)
}
