//! What is wrong with the files, said so that it can be mended: the place, the
//! line with a caret under it, and a proposal. All problems of all files come
//! in one report.
//!
//! A message never holds the outcome of an expansion: it may be a secret.

use std::fmt;
use std::sync::Arc;

use crate::base::Origin;

/// More than this many are counted but not shown.
const SHOWN: usize = 200;

/// Longest part of a line that is shown.
const LINE: usize = 160;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub origin: Origin,
    /// How many characters the caret underlines; at least 1.
    pub width: u32,
    /// What it is, on one line.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The offending line; `None` where there is no such line.
    pub line: Option<Arc<str>>,
    /// Does not keep the configuration from being used.
    pub warning: bool,
}

/// Everything that is wrong, in the order of the files and their lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problem {
    /// A problem with a file as a whole, such as that it can't be read.
    pub fn of_file(file: &str, message: impl Into<String>) -> Self {
        Self {
            origin: Origin { file: file.into(), line: 1, column: 1 },
            width: 1,
            message: message.into(),
            help: None,
            line: None,
            warning: false,
        }
    }

    /// Adds what to do about it.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Makes a warning of it.
    pub fn warn(mut self) -> Self {
        self.warning = true;
        self
    }

    /// `file:line:column: message`.
    pub fn headline(&self) -> String {
        let warning = if self.warning { "warning: " } else { "" };
        format!("{}: {warning}{}", self.origin, printable(&self.message))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        if let Some(line) = &self.line {
            let number = self.origin.line.to_string();
            let (text, before, width) = excerpt(line, self.origin.column, self.width);
            writeln!(f, " {number} | {text}")?;
            writeln!(f, " {:1$} | {2:3$}{4}", "", number.len(), "", before, "^".repeat(width))?;
        }
        match &self.help {
            Some(help) => writeln!(f, "   = {}", printable(help)),
            None => Ok(()),
        }
    }
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        self.list.extend(other.list);
    }

    /// Adds one, if there is one.
    pub(super) fn extend_from(&mut self, problem: Option<Problem>) {
        self.list.extend(problem);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One after another.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Keeps one of problems that are the same.
    pub(super) fn once(&mut self) {
        let mut seen = std::collections::HashSet::new();
        self.list.retain(|problem| seen.insert(problem.headline()));
    }

    /// Makes errors of all warnings, each with what to do about it.
    pub(super) fn as_errors(&mut self, help: &str) {
        for problem in &mut self.list {
            problem.warning = false;
            problem.help = Some(help.to_owned());
        }
    }

    /// Parts the errors from the warnings.
    pub(super) fn split(self) -> (Self, Self) {
        let (warnings, errors) = self.list.into_iter().partition(|problem| problem.warning);
        (Self { list: errors }, Self { list: warnings })
    }

    /// Puts them in order: by file as the files were read, then by place.
    pub(super) fn sort(&mut self, files: &[Arc<str>]) {
        let rank = |file: &Arc<str>| files.iter().position(|known| known == file).unwrap_or(files.len());
        self.list.sort_by_cached_key(|p| (rank(&p.origin.file), p.origin.line, p.origin.column));
        self.list.dedup();
    }
}

/// The full report, one block for each problem and a line with their number.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.list.iter().take(SHOWN) {
            write!(f, "{problem}")?;
        }
        if self.list.len() > SHOWN {
            writeln!(f, "… and {} more", self.list.len() - SHOWN)?;
        }
        let mut files: Vec<_> = self.list.iter().map(|problem| &problem.origin.file).collect();
        files.sort();
        files.dedup();
        let warnings = self.list.iter().filter(|problem| problem.warning).count();
        let counts = [(self.list.len() - warnings, "problem"), (warnings, "warning")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| plural(*count, word))
            .collect::<Vec<_>>();
        match counts.as_slice() {
            [] => Ok(()),
            counts => write!(f, "{} in {}", counts.join(" and "), plural(files.len(), "file")),
        }
    }
}

impl std::error::Error for Problems {}

/// `1 route`, `2 routes`.
pub(super) fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// A terminal must not be steered by what a file holds.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The part of `line` around `column`, the number of characters before the
/// caret, and the width of the caret.
fn excerpt(line: &str, column: u32, width: u32) -> (String, usize, usize) {
    let chars: Vec<char> = line.chars().collect();
    let column = (column.max(1) as usize - 1).min(chars.len());
    let start = if column + 40 > LINE { column - (LINE - 60).min(column) } else { 0 };
    let end = chars.len().min(start + LINE);
    let text: String = chars[start..end].iter().map(|c| if c.is_control() { ' ' } else { *c }).collect();
    let width = (width.max(1) as usize).min((end - column.min(end)).max(1));
    (text.trim_end().to_owned(), column - start, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_with_a_caret() {
        let problem = Problem {
            origin: Origin { file: "a.yaml".into(), line: 12, column: 3 },
            width: 4,
            message: "unknown key `prot`".into(),
            help: Some("did you mean `port`?".into()),
            line: Some("  prot: 80\u{1b}".into()),
            warning: false,
        };
        assert_eq!(
            problem.to_string(),
            "a.yaml:12:3: unknown key `prot`\n 12 |   prot: 80\n    |   ^^^^\n   = did you mean `port`?\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let (text, before, width) = excerpt(&line, 501, 9999);
        assert!(text.chars().count() <= LINE && text.chars().nth(before) == Some('x'), "{text} {before}");
        assert!(before + width <= LINE);
        assert_eq!(excerpt("", 7, 3), (String::new(), 0, 1));
    }
}
