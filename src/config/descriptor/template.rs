//! The grammar of paths in HTTP rules
//! (<https://github.com/googleapis/googleapis/blob/master/google/api/http.proto>):
//!
//! ```text
//! "/" segments [":" verb];  segments = segment {"/" segment}
//! segment = "*" | "**" | literal | "{" field.path ["=" segments] "}"
//! ```

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::config::model::{Part, Template, Variable};

/// Parts of one path.
const LONGEST: usize = 64;

/// Reads the path of a rule for `message`.
pub(super) fn parse(text: &str, message: &MessageDescriptor) -> Result<Template, String> {
    let rest = text.strip_prefix('/').ok_or("a path begins with `/`")?;
    let close = rest.rfind('}').map_or(0, |at| at + 1);
    let (body, suffix) = match rest[close..].rfind(':') {
        Some(at) => (&rest[..close + at], Some(&rest[close + at + 1..])),
        None => (rest, None),
    };
    if suffix.is_some_and(|suffix| suffix.is_empty() || !suffix.bytes().all(is_literal)) {
        return Err("what follows `:` is not one word".into());
    }
    let mut template = Template { parts: Vec::new(), suffix: suffix.map(Into::into), variables: Vec::new() };
    let mut left = body;
    loop {
        left = match left.strip_prefix('{') {
            Some(inner) => {
                let (variable, after) = inner.split_once('}').ok_or("a `{` without its `}`")?;
                self::variable(variable, message, &mut template)?;
                after
            }
            None => {
                let end = left.find('/').unwrap_or(left.len());
                part(&left[..end], &mut template.parts)?;
                &left[end..]
            }
        };
        match left.strip_prefix('/') {
            Some(after) => left = after,
            None if left.is_empty() => break,
            None => return Err(format!("`{left}` where a `/` or the end was expected")),
        }
    }
    if template.parts.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} parts"));
    }
    match template.parts.iter().position(|part| *part == Part::Rest) {
        Some(at) if at + 1 < template.parts.len() => Err("`**` stands only at the end".into()),
        _ => Ok(template),
    }
}

fn part(text: &str, parts: &mut Vec<Part>) -> Result<(), String> {
    parts.push(match text {
        "" => return Err("a part of the path is empty".into()),
        "*" => Part::One,
        "**" => Part::Rest,
        literal if literal.bytes().all(is_literal) => Part::Literal(literal.into()),
        other => return Err(format!("`{other}` is no part of a path")),
    });
    Ok(())
}

/// RFC 3986: `unreserved`, `sub-delims`, `@` and `:`; escapes are written plain.
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=@:".contains(&byte)
}

fn variable(text: &str, message: &MessageDescriptor, template: &mut Template) -> Result<(), String> {
    let (path, segments) = text.split_once('=').unwrap_or((text, "*"));
    let start = template.parts.len();
    for segment in segments.split('/') {
        part(segment, &mut template.parts)?;
    }
    let field = fields(path, message)?;
    if template.variables.iter().any(|other| other.field == field) {
        return Err(format!("the field `{path}` stands in it twice"));
    }
    template.variables.push(Variable { field, start, end: template.parts.len() });
    Ok(())
}

/// The fields from `message` to the one that `path` names, which must hold one
/// value that can be written as text.
fn fields(path: &str, message: &MessageDescriptor) -> Result<Vec<FieldDescriptor>, String> {
    let (mut fields, mut within) = (Vec::new(), Some(message.clone()));
    for name in path.split('.') {
        let holder = within.take().ok_or_else(|| format!("`{name}` of `{path}` is within no message"))?;
        let field = holder
            .get_field_by_name(name)
            .ok_or_else(|| format!("`{}` has no field `{name}`", holder.full_name()))?;
        if field.is_list() || field.is_map() {
            return Err(format!("the field `{path}` is repeated"));
        }
        if let Kind::Message(inner) = field.kind() {
            within = Some(inner);
        }
        fields.push(field);
    }
    match within {
        Some(message) if !is_text(&message) => Err(format!("the field `{path}` is a whole message")),
        _ => Ok(fields),
    }
}

/// Whether JSON writes this message as one value.
fn is_text(message: &MessageDescriptor) -> bool {
    let name = message.full_name();
    name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(name, "Timestamp" | "Duration" | "FieldMask")
            || name.ends_with("Value") && name != "ListValue"
    }) && name != "google.protobuf.Value"
}
