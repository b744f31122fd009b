//! From the events of the YAML parser to a tree.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::{Entry, File, Kind, Map, Node, Scalar, Span, Style};
use crate::config::problem::{Problem, Problems};

const DEPTH: usize = 32;

/// What all values of a file may weigh once aliases are followed.
const WEIGHT: usize = 64 << 20;

/// Reads `text`; `None` for one without a value.
pub(super) fn build(file: &File, text: &str, problems: &mut Problems) -> Result<Option<Node>, Problem> {
    let mut builder =
        Builder { file, problems, stack: Vec::new(), anchors: HashMap::new(), root: None, weight: 0 };
    builder.run(text)?;
    Ok(builder.root)
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
        let problem = self.file.problem(span, format!("this is not YAML: {}", error.info()));
        match problem.line.as_ref().is_some_and(|line| line.contains("${")) {
            true => problem.help("within `{…}` and `[…]` an expansion needs quotes: \"${NAME}\""),
            false => problem,
        }
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
