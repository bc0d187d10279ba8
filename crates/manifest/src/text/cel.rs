//! Expressions of CEL: whether one can be read. What its names mean shows when events are held against it.

/// Limit: bytes of an expression.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 1_000;
/// Limit: brackets within each other. The parser recurses, with some KiB of stack for each.
pub(crate) const DEPTH_MAX: usize = 16;

/// Why an expression cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Long,
    Deep,
    /// In the parser's words, with the byte where it is.
    Syntax(String, usize),
}

/// What is wrong with an expression, if anything is.
pub(crate) fn flaw(text: &str) -> Option<Flaw> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Some(Flaw::Long);
    }
    // Also of brackets in strings, which are the parser's to tell apart.
    let mut depth = 0usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Some(Flaw::Deep);
        }
    }
    let errors = cel::Program::compile(text).err()?.errors;
    let Some(first) = errors.into_iter().next() else { return Some(Flaw::Syntax("it cannot be read".to_owned(), 0)) };
    Some(Flaw::Syntax(plainly(&first.msg), offset(text, first.pos)))
}

/// The parser's words without its own, and without the list of everything else that could have stood there.
fn plainly(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.split(" expecting ").next().unwrap_or(message);
    let unexpected = ["mismatched input ", "extraneous input ", "no viable alternative at input "];
    let unread = "token recognition error at: ";
    match unexpected.iter().find_map(|words| message.strip_prefix(words)) {
        Some(found) if found.contains("<EOF>") => "it ends too early".to_owned(),
        Some(found) => format!("{found} is not expected here"),
        None => message.strip_prefix(unread).map_or_else(|| message.to_owned(), |found| format!("{found} means nothing")),
    }
}

/// The byte at a line and a character of it, both from 1.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let back = |number: isize| usize::try_from(number - 1).unwrap_or_default();
    let before: usize = text.split_inclusive('\n').take(back(line)).map(str::len).sum();
    let rest = text.get(before..).unwrap_or_default();
    before + rest.char_indices().nth(back(column)).map_or(rest.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_are_read_and_mistakes_are_found_where_they_are() {
        for good in [
            "data.total > 100 && type == 'orders.placed'",
            "true",
            "has(data.region) && data.region in ['eu', 'us']",
            "data.lines.exists(line, line.quantity > 3.5)",
            "subject.startsWith('ä') || data[\"odd key\"] != null",
        ] {
            assert_eq!(flaw(good), None, "{good}");
        }
        for (bad, at) in [("", 0), ("data.total >", 12), ("a == 'ä' &&& b", 12), ("a\n  && ]", 7), ("99999999999999999999", 0)] {
            let Some(Flaw::Syntax(message, found)) = flaw(bad) else { panic!("{bad}") };
            assert_eq!(found, at, "{bad}: {message}");
        }
        assert_eq!(flaw(&"a".repeat(1_001)), Some(Flaw::Long));
        let nested = |depth| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!((flaw(&nested(16)), flaw(&nested(17))), (None, Some(Flaw::Deep)));
    }

    #[test]
    fn what_makes_the_parser_recurse_leaves_stack() {
        let deep = ["(", "[", "f(", "{1:", "a[", "a.exists(x, ", "!([-a ? b : "].map(|open| open.repeat(12));
        let wide = ["1+", "!", "-", "a.", "a && ", "a == ", "a ? b : ", "f().", "a[0]"].map(|part| part.repeat(990 / part.len()));
        for text in deep.into_iter().chain(wide) {
            flaw(&text);
            flaw(&format!("{text}a"));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "([a-c.,:?+!<>='\"\\\\ \\n`0-9x-]|&&|\\|\\||[()\\[\\]{}]|all\\(|in|b'|r\"|'''|//|\\PC){0,60}") {
            if let Some(Flaw::Syntax(_, at)) = flaw(&text) {
                prop_assert!(text.is_char_boundary(at));
            }
        }
    }
}
