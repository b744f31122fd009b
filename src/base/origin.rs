//! Where a value of the configuration was written.

use std::fmt;
use std::sync::Arc;

/// A place in a file, as `file:line:column`; or an option of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// From 1; 0 where `file` is an option of the command line.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Origin {
    /// A value that was given by `option`, such as `--port`.
    pub fn option(option: &str) -> Self {
        Self { file: option.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}
