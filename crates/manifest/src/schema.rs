//! The JSON Schema of the manifest, made from its shape, for editors. It fits included files as well as the root, which is
//! why it does not demand a `name`.

use serde_json::{Map as Object, Value, json};

use crate::shape::{Key, Kind, Need, OneOf, ROOT, Table};

/// A string that something expands in may become anything.
const EXPANSION: &str = r"\$\{[^}]*\}";

/// Makes the schema, of draft 2020-12. Tables are definitions under their names.
#[must_use]
pub fn schema() -> Value {
    let mut definitions = Object::new();
    let root = table(&ROOT, &mut definitions);
    let mut schema = Object::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Atoll manifest"));
    if let Value::Object(root) = root {
        schema.extend(root);
    }
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(schema)
}

fn table(shape: &'static Table, definitions: &mut Object<String, Value>) -> Value {
    let properties: Object<String, Value> =
        shape.keys.iter().map(|key| (key.name.to_owned(), property(key, definitions))).collect();
    let required: Vec<&str> = shape.keys.iter().filter(|key| key.need == Need::Required).map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": shape.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let alone = |key: &&str| json!({ "required": [key] });
    match shape.one_of {
        OneOf::Nothing => {}
        OneOf::Exactly(keys) => schema["oneOf"] = keys.iter().map(alone).collect(),
        OneOf::AtMost(keys) => {
            let none = json!({ "not": { "anyOf": keys.iter().map(alone).collect::<Vec<_>>() } });
            schema["oneOf"] = keys.iter().map(alone).chain([none]).collect();
        }
    }
    schema
}

fn property(key: &'static Key, definitions: &mut Object<String, Value>) -> Value {
    let mut schema = value(&key.kind, definitions);
    schema["description"] = json!(key.doc);
    if let Need::Default(text) = key.need {
        schema["default"] = match key.kind {
            Kind::Integer { .. } | Kind::Number(_) => json!(text.parse::<i64>().ok()),
            Kind::Share { .. } => json!(text.parse::<f64>().ok()),
            Kind::Boolean => json!(text == "true"),
            _ => json!(text),
        };
    }
    schema
}

fn value(kind: &'static Kind, definitions: &mut Object<String, Value>) -> Value {
    match kind {
        Kind::Text | Kind::Command => json!({ "type": "string" }),
        Kind::Duration { .. } => json!({ "type": "string", "pattern": format!("^([0-9]+(d|h|m|s|ms))+$|{EXPANSION}") }),
        Kind::Choice { known, .. } => {
            json!({ "anyOf": [{ "enum": known }, { "type": "string", "pattern": EXPANSION }] })
        }
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number(known) => json!({ "enum": known }),
        Kind::True => json!({ "const": true }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Size { .. } => json!({ "type": "string", "pattern": format!("^[0-9]+([KMGT]i?B|kB|B)$|{EXPANSION}") }),
        Kind::Cpu { min, max } => {
            let cores = |millis: &u32| f64::from(*millis) / 1_000.0;
            let text = format!(r"^([0-9]+m|[0-9]+(\.[0-9]{{1,3}})?)$|{EXPANSION}");
            json!({ "anyOf": [
                { "type": "number", "minimum": cores(min), "maximum": cores(max) },
                { "type": "string", "pattern": text },
            ] })
        }
        Kind::Share { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Key { words, prefixes, .. } => {
            let named = format!(r"^({})\..+$|{EXPANSION}", prefixes.join("|"));
            json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": named }] })
        }
        Kind::List(kind, max) => json!({ "type": "array", "items": value(kind, definitions), "maxItems": max }),
        Kind::Map(map) => {
            let names = json!({ "description": format!("The name of the {}.", map.key) });
            let values = value(&map.value, definitions);
            json!({ "type": "object", "propertyNames": names, "additionalProperties": values, "maxProperties": map.max })
        }
        Kind::Either(one, other) => json!({ "anyOf": [value(one, definitions), value(other, definitions)] }),
        Kind::Table(shape) => {
            let name = shape.name.replace(' ', "_");
            if !definitions.contains_key(&name) {
                let definition = table(shape, definitions);
                definitions.insert(name.clone(), definition);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
    }
}
