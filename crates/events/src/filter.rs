//! Which events a subscription wants: a CEL expression over the attributes, by their names, and `data`. Pure. What the
//! expression may cost is bounded by its form, as the interpreter has no bound of its own: it recurses over the
//! expression, and a macro runs over a list. Never a panic.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::{Context, ExecutionError, Program, Value};

use crate::event::Event;
use crate::key::Parsed;

/// Limit: bytes of an expression; as the manifest's.
const BYTES_MAX: usize = 1_000;
/// Limit: brackets in brackets.
const DEPTH_MAX: usize = 24;
/// Limit: operators; each may be a level of the tree, and of the stack 30 KiB where nothing is optimised.
const OPERATORS_MAX: usize = 48;
/// Limit: macros, none of which may be inside another one: each runs over a list of an event.
const MACROS_MAX: usize = 4;
const MACROS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];
/// The parser recurses many times for each level.
const STACK_BYTES: usize = 32 << 20;
/// Bytes of an error that are passed on: some of them quote the event.
const ERROR_BYTES_MAX: usize = 300;

/// A compiled filter.
pub(crate) struct Filter {
    program: Program,
    needs_data: bool,
    needs_all: bool,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl Filter {
    /// # Errors
    /// Why it is no expression, or is too large a one.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        check_form(text)?;
        let source = text.to_owned();
        let parser = std::thread::Builder::new().name("filter".to_owned()).stack_size(STACK_BYTES);
        let parse = move || catch_unwind(|| Program::compile(&source).map_err(|error| shorten(&error.to_string())));
        let parsed = parser.spawn(parse).map_err(|error| format!("cannot start its parser: {error}"))?.join();
        let program = parsed.ok().and_then(Result::ok).ok_or("it cannot be parsed")??;
        let references = program.references();
        let (needs_data, needs_all) = (references.has_variable("data"), references.has_variable("attributes"));
        let unknown = references.functions().into_iter().find(|name| is_unknown(name)).map(str::to_owned);
        let is_constant = references.variables().is_empty();
        drop(references);
        if let Some(name) = unknown {
            return Err(format!("there is no function `{name}`"));
        }
        let filter = Self { program, needs_data, needs_all };
        if is_constant {
            filter.is_wanted(&Parsed::new(&Event::default()))?;
        }
        Ok(filter)
    }

    /// Whether the event is wanted.
    ///
    /// # Errors
    /// Why it has no value, or none of true and false: an attribute that is not there, for one.
    pub(crate) fn is_wanted(&self, parsed: &Parsed<'_>) -> Result<bool, String> {
        let value = catch_unwind(AssertUnwindSafe(|| self.value(parsed)));
        match value.map_err(|_| "it cannot be evaluated")?? {
            Value::Bool(is_wanted) => Ok(is_wanted),
            other => Err(format!("it is {} and not true or false", other.type_of())),
        }
    }

    fn value(&self, parsed: &Parsed<'_>) -> Result<Value, String> {
        let mut context = Context::default();
        for (name, value) in &parsed.event.attributes {
            context.add_variable_from_value(name.clone(), value.clone());
        }
        if let Some(content_type) = &parsed.event.content_type {
            context.add_variable_from_value("datacontenttype", content_type.clone());
        }
        if self.needs_all {
            let all: HashMap<String, String> = parsed.event.attributes.clone().into_iter().collect();
            context.add_variable_from_value("attributes", all);
        }
        if self.needs_data {
            context.add_variable_from_value("data", data(parsed)?);
        }
        self.program.execute(&context).map_err(|error| shorten(&error.to_string()))
    }
}

/// Whether nothing has this name, as a function or as one of a value. Operators are named otherwise.
fn is_unknown(name: &str) -> bool {
    let is_undeclared = |call: String| {
        let executed = catch_unwind(|| Program::compile(&call).ok()?.execute(&Context::default()).err());
        matches!(executed, Ok(Some(ExecutionError::UndeclaredReference(missing))) if *missing == name)
    };
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && ["", "1", "1, 1"].into_iter().all(|values| is_undeclared(format!("{name}({values})")))
        && ["", "1"].into_iter().all(|values| is_undeclared(format!("''.{name}({values})")))
}

/// JSON as it is, else text, else bytes.
fn data(parsed: &Parsed<'_>) -> Result<Value, String> {
    let Event { data, .. } = parsed.event;
    match parsed.json() {
        Some(json) => cel::to_value(json).map_err(|error| shorten(&error.to_string())),
        None => Ok(match std::str::from_utf8(data) {
            Ok(text) => Value::String(text.to_owned().into()),
            Err(_) => Value::Bytes(data.to_vec().into()),
        }),
    }
}

fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(ERROR_BYTES_MAX)].to_owned()
}

/// Looks at the form alone, before the parser recurses over it.
fn check_form(text: &str) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        return Err(format!("it is longer than {BYTES_MAX} bytes"));
    }
    let (mut operators, mut macros) = (0, 0);
    let mut before = ' ';
    // Whether each open bracket is that of a macro.
    let mut open: Vec<bool> = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut is_escaped = false;
    for c in text.chars() {
        if let Some(end) = quote {
            if is_escaped {
                is_escaped = false;
            } else if c == '\\' {
                is_escaped = true;
            } else if c == end {
                quote = None;
            }
            continue;
        }
        match c {
            '"' | '\'' => quote = Some(c),
            '(' | '[' | '{' => {
                let is_macro = c == '(' && MACROS.contains(&word.as_str());
                if is_macro && open.contains(&true) {
                    return Err(format!("`{word}` is inside another macro"));
                }
                macros += usize::from(is_macro);
                open.push(is_macro);
            }
            ')' | ']' | '}' => drop(open.pop()),
            // The second half of one.
            '&' | '|' if before == c => {}
            '=' if "=!<>".contains(before) => {}
            '+' | '-' | '*' | '/' | '%' | '!' | '<' | '>' | '=' | '&' | '|' | '?' | ':' | '.' | ',' => operators += 1,
            _ => {}
        }
        before = c;
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
        } else if !c.is_whitespace() || word == "in" {
            operators += usize::from(word == "in");
            word.clear();
        }
        if open.len() > DEPTH_MAX {
            return Err(format!("brackets are nested deeper than {DEPTH_MAX}"));
        }
    }
    if operators > OPERATORS_MAX {
        return Err(format!("it has more than {OPERATORS_MAX} operators"));
    }
    if macros > MACROS_MAX {
        return Err(format!("it has more than {MACROS_MAX} macros"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wanted(filter: &str, data: &str) -> Result<bool, String> {
        let attributes = [("id", "1"), ("source", "/a"), ("type", "orders.placed"), ("region", "eu")];
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let event = Event { attributes, content_type: None, data: data.to_owned().into() };
        Filter::compile(filter)?.is_wanted(&Parsed::new(&event))
    }

    #[test]
    fn what_can_never_be_true_or_false_is_refused() {
        for (text, why) in [
            ("foo(data)", "there is no function `foo`"),
            ("data.a.b.isThere()", "there is no function `isThere`"),
            ("1 + 1", "it is int and not true or false"),
            ("'a'", "it is string and not true or false"),
        ] {
            assert_eq!(Filter::compile(text).unwrap_err(), why, "{text}");
        }
        for text in [
            "true",
            "size(data.a) > 1 && data.b.startsWith('x') && has(data.c) && [1, 2].exists(x, x > 1)",
            "data.a.endsWith('x') || data.a.contains('x') || data.a.matches('x') || matches(type, 'x')",
            "timestamp(time) > timestamp('2024-01-01T00:00:00Z') && duration('1s') < duration('2s')",
            "int(subject) > 1 && uint(1) == 1u && double(1) == 1.0 && string(1) == '1' && bytes('a') == b'a'",
            "timestamp(time).getFullYear() > 2000",
            "data.x in ['a'] && data.m['k'] == 1 && (data.z ? true : false) && !data.y && -data.n < 0",
        ] {
            assert!(Filter::compile(text).is_ok(), "{text}: {:?}", Filter::compile(text));
        }
    }

    #[test]
    fn filters_see_attributes_and_data() {
        let data = r#"{"total": 12, "ratio": 0.5, "lines": [{"sku": "a"}, {"sku": "b"}], "customer": {"vip": true}}"#;
        for (filter, expected) in [
            ("type == 'orders.placed'", true),
            ("type.startsWith('orders.') && region == \"eu\"", true),
            ("data.total > 10", true),
            ("data.total > 12", false),
            ("data.ratio < 1.0", true),
            ("data.customer.vip", true),
            ("data.lines.exists(line, line.sku == 'b')", true),
            ("has(data.coupon)", false),
            ("has(attributes.region)", true),
            ("size(data.lines) == 2", true),
            ("type.matches('^orders[.]')", true),
        ] {
            assert_eq!(is_wanted(filter, data), Ok(expected), "{filter}");
        }
        assert_eq!(is_wanted("data == 'text'", "text"), Ok(true));
    }

    #[test]
    fn what_has_no_value_is_an_error() {
        for filter in ["data.missing == 1", "subject == 'x'", "1 / 0 == 1", "'text'", "data.total > 'a'"] {
            assert!(is_wanted(filter, r#"{"total": 1}"#).is_err(), "{filter}");
        }
    }

    #[test]
    fn expressions_that_cost_too_much_are_refused() {
        let nested = "data.all(a, data.all(b, data.all(c, a == b)))";
        let sum = "1+".repeat(1000) + "1";
        let not = "!".repeat(4000) + "true";
        let deep = "(".repeat(100) + "1" + &")".repeat(100);
        let lists = "[".repeat(2000);
        let spaced = "data.map (a, data.map (b, b))";
        let many = "1".repeat(5000);
        let ternary = "true?1:".repeat(500) + "1";
        for filter in ["", "(", "1 +", "\"", "'", "\\", nested, &sum, &not, &deep, &lists, spaced, &many, &ternary] {
            assert!(Filter::compile(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn the_largest_expression_fits_the_stack_of_a_worker() {
        let sum = "1+".repeat(47) + "1 == 48";
        let not = "!".repeat(48) + "true";
        let worker = std::thread::Builder::new().stack_size(2 << 20);
        let run = move || {
            (
                is_wanted(&sum, "{}"),
                is_wanted(&not, "{}"),
                is_wanted("data == data", &("[".repeat(120) + &"]".repeat(120))),
            )
        };
        let (sum, not, data) = worker.spawn(run).unwrap().join().unwrap();
        assert_eq!((sum, not, data), (Ok(true), Ok(true), Ok(true)));
    }

    #[test]
    fn an_expression_has_a_thousand_bytes_at_most() {
        let of = |count: usize| format!("'{}' == ''", "e".repeat(count - "'' == ''".len()));
        assert!(Filter::compile(&of(1_000)).is_ok());
        assert!(Filter::compile(&of(1_001)).unwrap_err().contains("1000 bytes"));
    }

    #[test]
    fn whatever_is_given_there_is_no_panic() {
        let mut random = fastrand::Rng::with_seed(7);
        let parts = [
            "data", ".", "(", ")", "[", "]", "{", "}", "'", "\"", "1", "in", " ", "all", "!", "-", "a", "?", ":", "==",
            "\u{0}", "€", "\\", "b'",
        ];
        for _ in 0..300 {
            let text: String = (0..random.usize(1..30)).map(|_| parts[random.usize(..parts.len())]).collect();
            let _ = is_wanted(&text, r#"{"a":[1,2]}"#);
        }
    }
}
