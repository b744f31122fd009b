//! The JSON Schema of the files, generated from the types that read them: for
//! editors, and for the check of a file's shape.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{dev, form};

/// Which kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `pillion.yaml`.
    Main,
    /// A policy file.
    Policy,
    /// `pillion.dev.yaml`.
    Dev,
}

/// The schema (draft 2020-12) of this kind of file, as editors want it: also an
/// expansion (`${VAR}`) may stand where a number or a word is wanted.
pub fn schema(which: Which) -> &'static Value {
    static MAIN: LazyLock<Value> = LazyLock::new(|| with_expansions(shape(Which::Main)));
    static POLICY: LazyLock<Value> = LazyLock::new(|| with_expansions(shape(Which::Policy)));
    static DEV: LazyLock<Value> = LazyLock::new(|| with_expansions(shape(Which::Dev)));
    match which {
        Which::Dev => &DEV,
        Which::Main => &MAIN,
        Which::Policy => &POLICY,
    }
}

/// The schema of what comes out of expansion.
pub(super) fn shape(which: Which) -> &'static Value {
    static MAIN: LazyLock<Value> = LazyLock::new(|| generate::<form::Main>("pillion.yaml"));
    static POLICY: LazyLock<Value> = LazyLock::new(|| generate::<form::Policy>("Pillion policy"));
    static DEV: LazyLock<Value> = LazyLock::new(|| generate::<dev::Dev>("pillion.dev.yaml"));
    match which {
        Which::Dev => &DEV,
        Which::Main => &MAIN,
        Which::Policy => &POLICY,
    }
}

fn with_expansions(schema: &Value) -> Value {
    let mut schema = schema.clone();
    allow_expansion(&mut schema);
    schema
}

fn allow_expansion(schema: &mut Value) {
    const EXPANSION: &str = r"\$\{";
    match schema {
        Value::Array(items) => items.iter_mut().for_each(allow_expansion),
        Value::Object(object) => {
            let words = object
                .get("oneOf")
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().all(|word| word.get("const").is_some()));
            if words {
                if let Some(Value::Array(list)) = object.get_mut("oneOf") {
                    list.push(json!({"type": "string", "pattern": EXPANSION}));
                }
                object.remove("type");
                return;
            }
            let kind = object.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            if matches!(kind.as_str(), "integer" | "boolean") && !object.contains_key("const") {
                object.insert("type".into(), json!([kind, "string"]));
                object.insert("pattern".into(), json!(EXPANSION));
            }
            for key in ["properties", "items", "anyOf", "additionalProperties"] {
                match object.get_mut(key) {
                    Some(Value::Object(map)) if key == "properties" => {
                        map.values_mut().for_each(allow_expansion);
                    }
                    Some(value) => allow_expansion(value),
                    None => {}
                }
            }
        }
        _ => {}
    }
}

fn generate<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = Value::from(settings.into_generator().into_root_schema_for::<T>());
    tidy(&mut schema);
    schema["title"] = json!(title);
    schema
}

/// Takes out what serde's `Option` brings in: a file leaves a key out, it never
/// writes `null`.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.remove("nullable");
            if let Some(format) = object.get("format").and_then(Value::as_str)
                && !format.starts_with("pillion-")
            {
                object.remove("format");
            }
            without_null(object);
            object.iter_mut().for_each(|(key, value)| {
                if key != "default" {
                    tidy(value);
                }
            });
        }
        _ => {}
    }
}

fn without_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|word| word != "null");
        if types.len() == 1 {
            let only = types.remove(0);
            object.insert("type".into(), only);
        }
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| choice.get("type").is_none_or(|word| word != "null"));
    if choices.len() == 1
        && let Value::Object(only) = choices.remove(0)
    {
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
        without_null(object);
    }
}
