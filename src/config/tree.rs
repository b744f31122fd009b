//! A file as a tree in which each value knows its place. serde_yaml gives typed
//! values but no places; this tree is read from the events of a YAML parser and
//! is what everything else is made of.
//!
//! Must hold: the depth, the number of values and the size of a tree are
//! bounded, whatever aliases a file uses; no input panics.

mod build;

use std::sync::Arc;

use serde_yaml::Value;

use super::problem::{Problem, Problems};
use crate::base::Origin;

/// Largest file that is read.
pub const LARGEST: usize = 1 << 20;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct File {
    /// As the user named it.
    pub name: Arc<str>,
    lines: Arc<[Arc<str>]>,
}

/// A place within a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// In characters.
    pub width: u32,
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub span: Span,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Text, a number, a boolean or nothing.
    Scalar(Scalar),
    /// `[…]` or lines that begin with `-`.
    List(Vec<Node>),
    /// `{…}` or lines of `key: value`.
    Map(Map),
}

/// A single value.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Its text, after expansion.
    pub text: String,
    /// As the file has it, where expansion changed it: what messages show.
    pub written: Option<String>,
    /// What it may be read as.
    pub style: Style,
}

/// What a scalar may be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A number, a boolean or nothing, if it looks like one.
    Plain,
    /// Only text.
    Text,
    /// The outcome of one expansion: text, or what is wanted.
    Expanded,
    /// An expansion that failed, which was reported.
    Failed,
}

/// Keys and their values, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Map {
    /// What is left of the entries.
    pub entries: Vec<Entry>,
    /// Keys whose value was found wrong and taken out.
    pub lost: Vec<String>,
}

/// One line of a map.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Never expanded.
    pub key: String,
    /// The place of the key.
    pub span: Span,
    /// Its value.
    pub value: Node,
}

impl File {
    /// Keeps the lines of `text` for reports.
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), lines: text.lines().map(Arc::from).collect() }
    }

    /// The place in the form in which the model keeps it.
    pub fn origin(&self, span: Span) -> Origin {
        Origin { file: self.name.clone(), line: span.line.max(1), column: span.column.max(1) }
    }

    /// A problem at a place of this file.
    pub fn problem(&self, span: Span, message: impl Into<String>) -> Problem {
        let line = (span.line as usize).checked_sub(1).and_then(|index| self.lines.get(index)).cloned();
        Problem {
            origin: self.origin(span),
            width: span.width.max(1),
            message: message.into(),
            help: None,
            line,
            warning: false,
        }
    }

    /// Reads `text`. What could be read of a broken file is not returned.
    pub fn parse(&self, text: &str, problems: &mut Problems) -> Option<Node> {
        let before = problems.count();
        let root = match build::build(self, text, problems) {
            Ok(root) => root,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        match root {
            Some(root) => Some(root),
            None if problems.count() == before => {
                Some(Node { span: Span { line: 1, column: 1, width: 1 }, kind: Kind::Map(Map::default()) })
            }
            None => None,
        }
    }
}

impl Node {
    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The line of `key`, if this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map(map) => map.entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The element at `index`, if this is a list that has it.
    pub fn item(&self, index: usize) -> Option<&Self> {
        match &self.kind {
            Kind::List(items) => items.get(index),
            _ => None,
        }
    }

    /// Whether `key` was written and found wrong.
    pub fn lost(&self, key: &str) -> bool {
        matches!(&self.kind, Kind::Map(map) if map.lost.iter().any(|lost| lost == key))
    }

    /// The same value for serde.
    pub fn to_value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.to_value(),
            Kind::List(items) => Value::Sequence(items.iter().map(Self::to_value).collect()),
            Kind::Map(map) => Value::Mapping(
                map.entries
                    .iter()
                    .map(|entry| (Value::String(entry.key.clone()), entry.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// What its place and its parts weigh, and how deep it is.
    fn measure(&self) -> (usize, usize) {
        let (mut weight, mut depth) = (size_of::<Self>(), 0);
        let mut add = |(w, d): (usize, usize)| {
            weight += w;
            depth = depth.max(d);
        };
        match &self.kind {
            Kind::Scalar(scalar) => add((scalar.text.len(), 0)),
            Kind::List(items) => items.iter().for_each(|item| add(item.measure())),
            Kind::Map(map) => map.entries.iter().for_each(|entry| {
                let (weight, depth) = entry.value.measure();
                add((weight + entry.key.len() + size_of::<Entry>(), depth));
            }),
        }
        (weight, depth + 1)
    }
}

impl Scalar {
    /// How a message shows it: never the outcome of an expansion.
    pub fn shown(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.text)
    }

    /// The value by YAML 1.2's core schema.
    pub fn to_value(&self) -> Value {
        if self.style != Style::Plain {
            return Value::String(self.text.clone());
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            text => match number(text) {
                Some(number) => Value::Number(number),
                None => Value::String(text.to_owned()),
            },
        }
    }
}

fn number(text: &str) -> Option<serde_yaml::Number> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let looks = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && text.bytes().any(|b| b.is_ascii_digit());
    looks.then(|| text.parse::<f64>().ok()).flatten().map(Into::into)
}
