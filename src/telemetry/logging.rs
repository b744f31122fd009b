//! What Pillion says of itself, on standard error: readable lines for a person,
//! JSON for a machine. The level can be changed while the process runs.
//!
//! Logs are one per process, as standard error is: several sidecars of one
//! process (`pillion dev`) share them.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// The longest level that is accepted, in bytes.
const MAX_LEVEL: usize = 1024;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What to log, how and where to.
pub struct Options {
    /// How a line looks.
    pub format: Format,
    /// A level (`info`), or levels by module (`pillion=debug,h2=warn`).
    pub level: String,
    /// Whether human lines are coloured.
    pub color: bool,
    /// Where lines go; standard error unless told otherwise.
    pub writer: Option<BoxMakeWriter>,
}

/// Why a level was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum LevelError {
    /// The text is not a level.
    Malformed(String),
    /// Somebody else owns this process's logs.
    NotOurs,
}

struct Control {
    filter: reload::Handle<EnvFilter, Registry>,
    level: Mutex<String>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Starts logging. Called once, by the program and not by the library; a later
/// call changes the level only.
pub fn init(options: Options) -> Result<(), LevelError> {
    let filter = parse(&options.level)?;
    if CONTROL.get().is_some() {
        return set_level(&options.level);
    }
    let (filter, handle) = reload::Layer::new(filter);
    let writer = options.writer.unwrap_or_else(|| BoxMakeWriter::new(std::io::stderr));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match options.format {
        Format::Human => lines.with_ansi(options.color).with_target(false).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let set = tracing_subscriber::registry().with(filter).with(lines).try_init();
    if set.is_err() {
        return Err(LevelError::NotOurs);
    }
    // Two callers at once: the subscriber of the first is in force, and so is its handle.
    let _ = CONTROL.set(Control { filter: handle, level: Mutex::new(options.level) });
    Ok(())
}

/// The level in force; `None` where Pillion is a library in somebody's program.
pub fn level() -> Option<String> {
    let control = CONTROL.get()?;
    Some(control.level.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Puts another level in force at once.
pub fn set_level(text: &str) -> Result<(), LevelError> {
    let filter = parse(text)?;
    let control = CONTROL.get().ok_or(LevelError::NotOurs)?;
    let mut level = control.level.lock().unwrap_or_else(PoisonError::into_inner);
    control.filter.reload(filter).map_err(|_| LevelError::NotOurs)?;
    text.clone_into(&mut level);
    Ok(())
}

/// `EnvFilter` takes any word for the name of a module; a bare word that is no
/// level is a slip of the pen here.
fn parse(text: &str) -> Result<EnvFilter, LevelError> {
    let malformed = |why: String| LevelError::Malformed(why);
    if text.is_empty() || text.len() > MAX_LEVEL {
        return Err(malformed(format!("a level has 1 to {MAX_LEVEL} characters")));
    }
    for part in text.split(',') {
        let word = part.rsplit('=').next().unwrap_or(part).trim();
        if word.parse::<tracing::Level>().is_err() && !word.eq_ignore_ascii_case("off") {
            return Err(malformed(format!("`{word}` is not one of off, error, warn, info, debug, trace")));
        }
    }
    // These two tell of each request of theirs as an event, and of each that
    // fails as an error. Who asks for them by name has them.
    let quiet: String = ["consulrs", "rustify"]
        .iter()
        .filter(|name| !text.contains(*name))
        .map(|name| format!(",{name}=off"))
        .collect();
    EnvFilter::builder().parse(format!("{text}{quiet}")).map_err(|error| malformed(error.to_string()))
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "log level: {why}"),
            Self::NotOurs => f.write_str("this process has its own logging, which Pillion does not change"),
        }
    }
}

impl std::error::Error for LevelError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_words_by_module() {
        for text in ["info", "DEBUG", "off", "pillion=debug,h2=warn", "warn,pillion::proxy=trace"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_slip_is_told() {
        for text in ["", "inof", "pillion=loud", "info,", "=", "5x", &"a".repeat(MAX_LEVEL + 1)] {
            assert!(matches!(parse(text), Err(LevelError::Malformed(_))), "{text:?}");
        }
    }
}
