//! Holds a parsed document against its shape: unknown keys, missing keys, keys that exclude each other, wrong types.
//! What a value means is not looked at. Recursion is as deep as the shape, not as deep as the input.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Kind, Need, OneOf, TOPIC, Table};
use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::text::{article, nearest, quoted_list};

/// Reports everything in `entries` that is not of `shape`. `place` is the table's.
pub(crate) fn check(cx: &Context<'_>, shape: &'static Table, entries: &DeTable<'_>, place: &Place<'_>) {
    for (key, value) in entries {
        let at = Place { file: place.file, span: key.span() };
        match shape.key(key.get_ref()) {
            Some(known) => check_value(cx, &format!("`{}`", known.name), &known.kind, value, place),
            None if shape.name == TOPIC.name && value.get_ref().is_table() => cx.report(unquoted(key.get_ref(), &at)),
            None => cx.report(unknown(shape, key.get_ref(), &at)),
        }
    }
    let has = |name: &&str| entries.contains_key(*name);
    for key in shape.keys.iter().filter(|key| key.need == Need::Required && !has(&key.name)) {
        let message = format!("{} lacks `{}`", article(shape.name), key.name);
        let hint = format!("add `{} = {}`", key.name, example(&key.kind));
        cx.report(
            Diagnostic::new(Code::MissingKey, place, message).label(format!("`{}` is missing", key.name)).hint(hint),
        );
    }
    check_one_of(cx, shape, entries, place);
}

fn check_one_of(cx: &Context<'_>, shape: &'static Table, entries: &DeTable<'_>, place: &Place<'_>) {
    let keys = shape.one_of.keys();
    let mut written = entries.iter().filter(|(key, _)| keys.contains(&key.get_ref().as_ref()));
    let name = article(shape.name);
    match (written.next(), written.next()) {
        (Some((first, _)), Some((second, _))) => {
            let at = |key: &Spanned<_>| Place { file: place.file, span: key.span() };
            let message = format!("{name} has both `{}` and `{}`", first.get_ref(), second.get_ref());
            let diagnostic = Diagnostic::new(Code::Exclusive, &at(second), message)
                .label("excludes the other one")
                .hint("keep only one of them")
                .related(&at(first), "the other one");
            cx.report(diagnostic);
        }
        (None, _) if matches!(shape.one_of, OneOf::Exactly(_)) && !later_is_written(shape, entries) => {
            let message = format!("{name} says nothing: it needs one of {}", quoted_list(keys));
            let hint = keys.first().and_then(|first| shape.key(first));
            let hint = hint.map_or_else(String::new, |key| format!("add `{} = {}`", key.name, example(&key.kind)));
            cx.report(Diagnostic::new(Code::MissingKey, place, message).hint(hint));
        }
        _ => {}
    }
}

/// A table that has a key of a later version is already refused for that.
fn later_is_written(shape: &Table, entries: &DeTable<'_>) -> bool {
    shape.later.iter().any(|later| entries.contains_key(*later))
}

fn check_value(cx: &Context<'_>, name: &str, kind: &'static Kind, value: &Spanned<DeValue<'_>>, parent: &Place<'_>) {
    let place = Place { file: parent.file, span: value.span() };
    match (kind, value.get_ref()) {
        (Kind::Either(one, other), found) if fits(kind, found) => {
            check_value(cx, name, if fits(one, found) { one } else { other }, value, parent);
        }
        (_, found) if !fits(kind, found) => cx.report(wrong_type(name, kind, value, &place)),
        (Kind::List(kind, max), DeValue::Array(items)) => {
            check_length(cx, name, items.len(), *max, &place);
            let entry = format!("an entry of {name}");
            items.iter().take(*max).for_each(|item| check_value(cx, &entry, kind, item, parent));
        }
        (Kind::Table(shape), DeValue::Table(entries)) => check(cx, shape, entries, &place),
        (Kind::Map(map), DeValue::Table(entries)) => {
            check_length(cx, name, entries.len(), map.max, &place);
            for (key, item) in entries.iter().take(map.max) {
                check_value(cx, &format!("the {} `{}`", map.key, key.get_ref()), &map.value, item, parent);
            }
        }
        _ => {}
    }
}

/// Whether the outermost type is right.
pub(crate) fn fits(kind: &Kind, value: &DeValue<'_>) -> bool {
    match kind {
        Kind::Text
        | Kind::Command
        | Kind::Duration { .. }
        | Kind::Size { .. }
        | Kind::Choice { .. }
        | Kind::Key { .. } => value.is_str(),
        Kind::Share { .. } => value.is_integer() || value.is_float(),
        Kind::Integer { .. } | Kind::Number(_) => value.is_integer(),
        Kind::Cpu { .. } => value.is_str() || value.is_integer() || value.is_float(),
        Kind::Boolean => value.is_bool(),
        Kind::True => value.as_bool() == Some(true),
        Kind::List(..) => value.is_array(),
        Kind::Table(_) | Kind::Map(_) => value.is_table(),
        Kind::Either(one, other) => fits(one, value) || fits(other, value),
    }
}

fn check_length(cx: &Context<'_>, name: &str, length: usize, max: usize, place: &Place<'_>) {
    if length > max {
        let message = format!("{name} has {length} entries; the limit is {max}");
        cx.report(Diagnostic::new(Code::Limit, place, message).hint("divide it, or leave some out"));
    }
}

fn wrong_type(name: &str, kind: &Kind, value: &Spanned<DeValue<'_>>, place: &Place<'_>) -> Diagnostic {
    let found = value.get_ref().type_str();
    let message = format!("{name} must be {}", kind.name());
    let hint = as_wanted(kind, value.get_ref()).unwrap_or_else(|| match kind {
        Kind::List(Kind::Table(_), _) => "write its header in double brackets, `[[…]]`".to_owned(),
        Kind::Table(_) if value.get_ref().is_array() => "write its header in single brackets, `[…]`".to_owned(),
        Kind::Map(map) if matches!(map.value, Kind::Table(_)) => {
            format!("write a header for each {}, `[….NAME]`", map.key)
        }
        Kind::True if value.get_ref().is_bool() => "leave the key out".to_owned(),
        _ => format!("write `{}`", example(kind)),
    });
    Diagnostic::new(Code::WrongType, place, message).label(format!("this is {}", article(found))).hint(hint)
}

/// The value itself in the form that is wanted, where it has one.
fn as_wanted(kind: &Kind, value: &DeValue<'_>) -> Option<String> {
    let written = match (kind, value) {
        (Kind::Duration { .. }, DeValue::Integer(seconds)) => format!("write `\"{seconds}s\"` for seconds"),
        (Kind::Size { .. }, DeValue::Integer(bytes)) => format!("write `\"{bytes}B\"` for bytes"),
        (Kind::Boolean, DeValue::String(text)) if matches!(&**text, "true" | "false") => {
            format!("write `{text}`, without quotes")
        }
        (Kind::Text, DeValue::Integer(integer)) => format!("write `\"{integer}\"`"),
        (Kind::Text, DeValue::Float(float)) => format!("write `\"{}\"`", float.as_str()),
        (Kind::Text, DeValue::Boolean(boolean)) => format!("write `\"{boolean}\"`"),
        (Kind::Text, DeValue::Datetime(datetime)) => format!("write `\"{datetime}\"`"),
        (Kind::Text | Kind::Command, DeValue::Array(items)) if items.iter().all(|item| item.get_ref().is_str()) => {
            let words: Vec<&str> = items.iter().filter_map(|item| item.get_ref().as_str()).collect();
            format!("write it as one string: `\"{}\"`", words.join(" "))
        }
        (Kind::List(Kind::Text | Kind::Duration { .. }, _), DeValue::String(text)) => format!("write `[\"{text}\"]`"),
        (Kind::List(Kind::Integer { .. }, _), DeValue::Integer(number)) => format!("write `[{number}]`"),
        (Kind::Share { .. }, DeValue::String(text)) if text.parse::<f64>().is_ok() => {
            format!("write `{text}`, without quotes")
        }
        (Kind::Integer { .. } | Kind::Number(_), DeValue::String(text)) if text.parse::<i64>().is_ok() => {
            format!("write `{text}`, without quotes")
        }
        _ => return None,
    };
    // A long value would only be repeated.
    (written.len() < 100 && !written.contains('\n')).then_some(written)
}

fn unknown(shape: &Table, key: &str, place: &Place<'_>) -> Diagnostic {
    let name = article(shape.name);
    if shape.later.contains(&key) {
        return Diagnostic::new(Code::NotYet, place, format!("`{key}` of {name} is not supported by this version"))
            .label("known, but not built yet")
            .hint("leave the key out");
    }
    let known: Vec<&str> = shape.keys.iter().map(|key| key.name).collect();
    let message = format!("{name} has no key `{key}`");
    let diagnostic = Diagnostic::new(Code::UnknownKey, place, message).label("unknown key");
    match nearest(key, known.iter().chain(shape.later).copied()) {
        Some(near) => diagnostic.hint(format!("did you mean `{near}`?")),
        None => diagnostic.hint(format!("it may have {}", quoted_list(&known))),
    }
}

/// What `[topics.orders.placed]` means to TOML: a key `placed` of the topic `orders`.
fn unquoted(key: &str, place: &Place<'_>) -> Diagnostic {
    let message = format!("a topic has no key `{key}`");
    let hint = "a name with dots in it stands in quotes, as in `[topics.\"orders.placed\"]`";
    Diagnostic::new(Code::UnknownKey, place, message).label("unknown key").hint(hint)
}

/// A value that could stand there.
fn example(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Command => "\"…\"".to_owned(),
        Kind::Duration { .. } => "\"5s\"".to_owned(),
        Kind::Choice { known, .. } => format!("\"{}\"", known.first().unwrap_or(&"…")),
        Kind::Integer { min, .. } => (*min).max(1).to_string(),
        Kind::Number(numbers) => numbers.first().unwrap_or(&1).to_string(),
        Kind::True | Kind::Boolean => "true".to_owned(),
        Kind::Size { .. } => "\"128MiB\"".to_owned(),
        Kind::Cpu { .. } => "\"500m\"".to_owned(),
        Kind::Share { .. } => "0.5".to_owned(),
        Kind::Key { words, .. } => format!("\"{}\"", words.first().unwrap_or(&"…")),
        Kind::List(kind, _) => format!("[{}]", example(kind)),
        Kind::Table(shape) => {
            let required = shape.keys.iter().find(|key| key.need == Need::Required);
            let key = shape.one_of.keys().first().and_then(|name| shape.key(name)).or(required).or(shape.keys.first());
            key.map_or_else(|| "{}".to_owned(), |key| format!("{{ {} = {} }}", key.name, example(&key.kind)))
        }
        Kind::Map(_) => "{ … }".to_owned(),
        Kind::Either(one, _) => example(one),
    }
}
