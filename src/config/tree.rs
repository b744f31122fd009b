//! A file as a tree in which each value knows its place. serde_yaml gives typed
//! values but no places; this tree is read from the events of a YAML parser and
//! is what everything else is made of.
//!
//! Must hold: the depth, the number of values and the size of a tree are
//! bounded, whatever aliases a file uses; no input panics.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_yaml::Value;

use super::problem::{Problem, Problems};
use crate::base::Origin;

/// Largest file that is read.
pub const LARGEST: usize = 1 << 20;

const DEPTH: usize = 32;

/// What all values of a file may weigh once aliases are followed.
const WEIGHT: usize = 64 << 20;

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
        let mut builder = Builder {
            file: self,
            problems,
            stack: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            weight: 0,
        };
        if let Err(problem) = builder.run(text) {
            builder.problems.push(problem);
            return None;
        }
        let root = builder.root;
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

struct Builder<'a> {
    file: &'a File,
    problems: &'a mut Problems,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    root: Option<Node>,
    weight: usize,
}

struct Frame {
    span: Span,
    anchor: usize,
    holds: Holds,
}

enum Holds {
    List(Vec<Node>),
    Map { map: Map, keys: HashSet<String>, key: Option<Key> },
}

/// A key that waits for its value. `None` where the key itself is wrong.
struct Key {
    name: Option<String>,
    span: Span,
}

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Result<(), Problem> {
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| self.syntax(&error))?;
            let span = self.span(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.file.problem(span, "a second document: a file holds one"));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.tag(tag.is_some(), span)?;
                    let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Text };
                    let scalar = Scalar { text: text.into_owned(), written: None, style };
                    self.add(Node { span, kind: Kind::Scalar(scalar) }, anchor)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.tag(tag.is_some(), span)?;
                    self.open(Frame { span, anchor, holds: Holds::List(Vec::new()) })?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.tag(tag.is_some(), span)?;
                    let holds = Holds::Map { map: Map::default(), keys: HashSet::new(), key: None };
                    self.open(Frame { span, anchor, holds })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close()?,
                Event::Alias(anchor) => {
                    let Some(node) = self.anchors.get(&anchor) else {
                        return Err(self.file.problem(span, "an alias within the value that it names"));
                    };
                    let (weight, depth) = node.measure();
                    self.weigh(weight, depth, span)?;
                    let node = self.anchors[&anchor].clone();
                    self.add(node, 0)?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let span = Span {
            line: narrow(error.marker().line().max(1)),
            column: narrow(error.marker().col() + 1),
            width: 1,
        };
        self.file.problem(span, format!("this is not YAML: {}", error.info()))
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        let width = if span.end.line() == span.start.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            let line = span.start.line().checked_sub(1).and_then(|index| self.file.lines.get(index));
            line.map_or(1, |line| line.trim_end().chars().count().saturating_sub(span.start.col()))
        };
        Span {
            line: narrow(span.start.line()),
            column: narrow(span.start.col() + 1),
            width: narrow(width.max(1)),
        }
    }

    fn tag(&self, tagged: bool, span: Span) -> Result<(), Problem> {
        if tagged { Err(self.file.problem(span, "tags (`!word`) have no meaning here")) } else { Ok(()) }
    }

    fn weigh(&mut self, weight: usize, depth: usize, span: Span) -> Result<(), Problem> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > WEIGHT {
            return Err(self.file.problem(span, "too much: aliases make more of this file than is read"));
        }
        if self.stack.len() + depth > DEPTH {
            return Err(self.file.problem(span, format!("values nest more than {DEPTH} deep")));
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame) -> Result<(), Problem> {
        self.weigh(size_of::<Node>(), 1, frame.span)?;
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let kind = match frame.holds {
            Holds::List(items) => Kind::List(items),
            Holds::Map { map, .. } => Kind::Map(map),
        };
        self.add(Node { span: frame.span, kind }, frame.anchor)
    }

    /// Gives a finished value to what holds it.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor > 0 {
            self.weigh(node.measure().0, 0, node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        self.weigh(size_of::<Node>(), 0, node.span)?;
        let file = self.file;
        match self.stack.last_mut().map(|frame| &mut frame.holds) {
            None => self.root = Some(node),
            Some(Holds::List(items)) => items.push(node),
            Some(Holds::Map { map, keys, key }) => match key.take() {
                None => *key = Some(as_key(file, node, self.problems)),
                Some(Key { name: None, .. }) => {}
                Some(Key { name: Some(name), span }) => {
                    if keys.insert(name.clone()) {
                        map.entries.push(Entry { key: name, span, value: beside(node, span) });
                    } else {
                        let first = map.entries.iter().find(|entry| entry.key == name);
                        let line = first.map_or(0, |entry| entry.span.line);
                        let message = format!("the key `{name}` stands here again; first on line {line}");
                        self.problems.push(file.problem(span, message));
                    }
                }
            },
        }
        Ok(())
    }
}

fn as_key(file: &File, node: Node, problems: &mut Problems) -> Key {
    let span = node.span;
    let name = match node.kind {
        Kind::Scalar(scalar) if scalar.text == "<<" && scalar.style == Style::Plain => {
            let problem = file.problem(span, "merge keys (`<<`) are not read");
            problems.push(
                problem.help("what several routes share goes into the upstream's entry without `route`"),
            );
            None
        }
        Kind::Scalar(scalar) => Some(scalar.text),
        _ => {
            problems.push(file.problem(span, "a key must be a word"));
            None
        }
    };
    Key { name, span }
}

/// A value that is not there is reported at its key.
fn beside(mut node: Node, key: Span) -> Node {
    if matches!(&node.kind, Kind::Scalar(scalar) if scalar.text.is_empty() && scalar.style == Style::Plain) {
        node.span = key;
    }
    node
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
