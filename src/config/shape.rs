//! Checks a tree against the schema: keys, types, words, units. Every problem
//! is reported; what is wrong is taken out of the tree, so that the rest of the
//! file can still be checked for what it means.
//!
//! Only the parts of JSON Schema that our own types give rise to are known here.

use serde_json::Value;

use super::problem::{Problem, Problems};
use super::text;
use super::tree::{Entry, File, Kind, Map, Node, Scalar, Span, Style};

/// Checks `node`. False where it can't be used.
pub fn check(file: &File, node: &mut Node, schema: &Value, problems: &mut Problems) -> bool {
    Shape { file, problems }.node(node, schema, None)
}

/// The nearest of `known` words, if it is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let word = folded(&word.chars().take(64).collect::<String>());
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &folded(known)), known))
        .filter(|(distance, known)| {
            let longest = word.chars().count().max(known.chars().count());
            *distance <= longest.div_ceil(3) && *distance < longest
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

struct Shape<'a> {
    file: &'a File,
    problems: &'a mut Problems,
}

impl Shape<'_> {
    fn node(&mut self, node: &mut Node, schema: &Value, key: Option<&str>) -> bool {
        if matches!(&node.kind, Kind::Scalar(scalar) if scalar.style == Style::Failed) {
            return false;
        }
        if is_null(node) {
            let message = match key {
                Some(key) => format!("`{key}` has no value"),
                None => "an entry has no value".into(),
            };
            let help = match schema["type"].as_str() {
                Some("object") => "write `{}` for the defaults, or take the key out".to_owned(),
                _ => format!("write {}, or take it out", expected(schema)),
            };
            self.problems.push(self.file.problem(node.span, message).help(help));
            return false;
        }
        if let Some(choices) = choices(schema) {
            return self.choice(node, schema, &choices);
        }
        match (schema["type"].as_str(), &mut node.kind) {
            (Some("object"), Kind::Map(map)) => self.map(node.span, map, schema),
            (Some("array"), Kind::List(items)) => {
                let mut good = true;
                for item in items.iter_mut() {
                    good &= self.node(item, &schema["items"], None);
                }
                good && self.length(node, schema)
            }
            (Some("object" | "array"), _) | (_, Kind::List(_) | Kind::Map(_)) => self.mismatch(node, schema),
            (_, Kind::Scalar(scalar)) => match scalar_of(scalar, schema) {
                Ok(()) => true,
                Err((message, help)) => {
                    let problem = self.file.problem(node.span, message);
                    self.problems.push(Problem { help, ..problem });
                    false
                }
            },
        }
    }

    fn length(&mut self, node: &Node, schema: &Value) -> bool {
        let Kind::List(items) = &node.kind else { return true };
        let least = schema["minItems"].as_u64().unwrap_or(0);
        if items.len() as u64 >= least {
            return true;
        }
        self.problems.push(self.file.problem(node.span, "the list is empty"));
        false
    }

    fn mismatch(&mut self, node: &Node, schema: &Value) -> bool {
        let message = format!("expected {}, found {}", expected(schema), found(node));
        let mut problem = self.file.problem(node.span, message);
        if schema["type"] == "array" && matches!(node.kind, Kind::Scalar(_) | Kind::Map(_)) {
            problem = problem.help("a list is written as `[a, b]`, or as lines that begin with `- `");
        }
        self.problems.push(problem);
        false
    }

    /// One of several shapes: the one whose kind fits is the one that is meant.
    fn choice(&mut self, node: &mut Node, schema: &Value, choices: &[&Value]) -> bool {
        let wanted = match node.kind {
            Kind::Map(_) => "object",
            Kind::List(_) => "array",
            Kind::Scalar(_) => {
                return match self.scalar_choice(node, choices) {
                    Some(good) => good,
                    None => self.mismatch(node, schema),
                };
            }
        };
        match choices.iter().find(|choice| choice["type"] == wanted) {
            Some(choice) => self.node(node, choice, None),
            None => self.mismatch(node, schema),
        }
    }

    /// `None` where no choice takes a scalar.
    fn scalar_choice(&mut self, node: &mut Node, choices: &[&Value]) -> Option<bool> {
        let Kind::Scalar(scalar) = &mut node.kind else { return None };
        let plain: Vec<&Value> = choices
            .iter()
            .copied()
            .filter(|c| !matches!(c["type"].as_str(), Some("object" | "array")))
            .collect();
        let mut errors = Vec::new();
        for choice in &plain {
            match scalar_of(scalar, choice) {
                Ok(()) => return Some(true),
                Err(error) => errors.push(error),
            }
        }
        let (message, help) = match errors.len() {
            0 => return None,
            1 => errors.remove(0),
            // The words come before the numbers; for a number its range is the better message.
            _ => {
                let number = scalar.text.parse::<f64>().is_ok();
                errors.swap_remove(if number { errors.len() - 1 } else { 0 })
            }
        };
        let problem = self.file.problem(node.span, message);
        self.problems.push(Problem { help, ..problem });
        Some(false)
    }

    fn map(&mut self, span: Span, map: &mut Map, schema: &Value) -> bool {
        let written = map.entries.len() as u64;
        let entries = std::mem::take(&mut map.entries);
        let known = schema["properties"].as_object();
        for mut entry in entries {
            let sub = match known.and_then(|known| known.get(&entry.key)) {
                Some(sub) => sub,
                None => match schema.get("additionalProperties") {
                    Some(sub @ Value::Object(_)) => sub,
                    _ => {
                        self.unknown(&entry, schema);
                        continue;
                    }
                },
            };
            if self.node(&mut entry.value, sub, Some(&entry.key)) {
                map.entries.push(entry);
            } else {
                map.lost.push(entry.key);
            }
        }
        let known = |key: &str| map.lost.iter().any(|k| k == key) || map.entries.iter().any(|e| e.key == key);
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !known(key) {
                self.problems.push(self.file.problem(span, format!("the key `{key}` is missing")));
            }
        }
        self.number_of_keys(span, written, schema)
    }

    fn number_of_keys(&mut self, span: Span, written: u64, schema: &Value) -> bool {
        let (Some(1), Some(1)) = (schema["minProperties"].as_u64(), schema["maxProperties"].as_u64()) else {
            return true;
        };
        if written == 1 {
            return true;
        }
        let keys = words(schema["properties"].as_object().into_iter().flat_map(|map| map.keys()));
        let message = match written {
            0 => format!("one of {keys} is missing"),
            _ => format!("only one of {keys} can stand here"),
        };
        self.problems.push(self.file.problem(span, message));
        false
    }

    fn unknown(&mut self, entry: &Entry, schema: &Value) {
        let mut problem = self.file.problem(entry.span, format!("unknown key `{}`", entry.key));
        if let Some(properties) = schema["properties"].as_object() {
            let near = nearest(&entry.key, properties.keys().map(String::as_str));
            problem = problem.help(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", words(properties.keys())),
            });
        }
        self.problems.push(problem);
    }
}

type Wrong = (String, Option<String>);

/// Checks a scalar against one schema, and settles how it is read.
fn scalar_of(scalar: &mut Scalar, schema: &Value) -> Result<(), Wrong> {
    let shown = scalar.shown().to_owned();
    let fail =
        |message: String| if scalar.written.is_some() { hidden(&shown, schema) } else { (message, None) };
    let (text, style) = (scalar.text.as_str(), scalar.style);
    match schema["type"].as_str() {
        Some("integer") => {
            let whole = text.parse::<i64>().ok().filter(|_| style != Style::Text);
            let Some(whole) = whole else {
                let quoted = style == Style::Text && scalar.written.is_none() && text.parse::<i64>().is_ok();
                let help = quoted.then(|| format!("take the quotes off: {text}"));
                let (message, _) = fail(wrong(scalar, "a whole number"));
                return Err((message, help));
            };
            if let Some(only) = schema["const"].as_i64()
                && only != whole
            {
                return Err(fail(format!("expected {only}, found {whole}")));
            }
            let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
            if least.is_some_and(|least| whole < least) || most.is_some_and(|most| whole > most) {
                let range = match (least, most) {
                    (Some(least), Some(most)) => format!("from {least} to {most}"),
                    (least, _) => format!("at least {}", least.unwrap_or(0)),
                };
                return Err(fail(format!("{whole} is out of range: it must be {range}")));
            }
            scalar.style = Style::Plain;
        }
        Some("boolean") => {
            let value = matches!(text, "true" | "false") && style != Style::Text;
            if !value {
                return Err(fail(wrong(scalar, "`true` or `false`")));
            }
            if schema["const"] == Value::Bool(true) && text == "false" {
                return Err(fail("only `true` has a meaning here".into()));
            }
            scalar.style = Style::Plain;
        }
        Some("string") | None => {
            if let Some(known) = constants(schema) {
                if !known.contains(&text) {
                    let message = format!("`{text}` is none of {}", words(known.iter()));
                    let near =
                        nearest(text, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
                    let (message, _) = fail(message);
                    return Err((message, near.filter(|_| scalar.written.is_none())));
                }
            } else if let Some(format) = schema["format"].as_str() {
                text::check(format, text).map_err(fail)?;
            } else if style == Style::Plain && !matches!(scalar.to_value(), serde_yaml::Value::String(_)) {
                let (message, _) = fail(wrong(scalar, "text"));
                return Err((message, Some(format!("put it in quotes: \"{shown}\""))));
            }
            scalar.style = Style::Text;
        }
        Some(other) => return Err(fail(wrong(scalar, other))),
    }
    Ok(())
}

/// What is said of an expanded value, which may be a secret.
fn hidden(shown: &str, schema: &Value) -> Wrong {
    (format!("`{shown}` does not expand to {}", expected(schema)), None)
}

fn wrong(scalar: &Scalar, expected: &str) -> String {
    format!("expected {expected}, found {}", found_scalar(scalar))
}

fn is_null(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar(scalar) if matches!(scalar.to_value(), serde_yaml::Value::Null))
}

/// The schemas of which one must hold; not those that are one list of words.
fn choices(schema: &Value) -> Option<Vec<&Value>> {
    let list = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())?;
    match constants(schema) {
        Some(_) => None,
        None => Some(list.iter().collect()),
    }
}

/// The words that a schema allows, if it is a list of words.
fn constants(schema: &Value) -> Option<Vec<&str>> {
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(Value::as_str).collect();
    }
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    let list = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array())?;
    let lists: Option<Vec<_>> = list.iter().map(constants).collect();
    lists.map(|lists| lists.concat())
}

/// What a schema asks for, in words.
fn expected(schema: &Value) -> String {
    if let Some(known) = constants(schema) {
        return format!("one of {}", words(known.iter()));
    }
    if let Some(choices) = choices(schema) {
        let parts: Vec<String> = choices.iter().map(|choice| expected(choice)).collect();
        return parts.join(", or ");
    }
    match schema["type"].as_str() {
        Some("object") => "keys with values".into(),
        Some("array") => "a list".into(),
        Some("integer") => "a whole number".into(),
        Some("boolean") => "`true` or `false`".into(),
        _ => schema["format"].as_str().map_or("text", text::label).into(),
    }
}

fn found(node: &Node) -> String {
    match &node.kind {
        Kind::List(_) => "a list".into(),
        Kind::Map(_) => "keys with values".into(),
        Kind::Scalar(scalar) => found_scalar(scalar),
    }
}

fn found_scalar(scalar: &Scalar) -> String {
    let shown = scalar.shown();
    match (scalar.style, scalar.to_value()) {
        (Style::Plain, serde_yaml::Value::Number(_)) => format!("the number {shown}"),
        (Style::Plain, serde_yaml::Value::Bool(_)) => format!("`{shown}`"),
        _ => format!("the text \"{}\"", shown.chars().take(60).collect::<String>()),
    }
}

fn words<T: std::fmt::Display>(list: impl Iterator<Item = T>) -> String {
    list.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
