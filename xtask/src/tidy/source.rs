//! One Rust file with its comments and literals blanked out, and the parts of it that are tests.
//! A scanner, not a parser: it knows what a token is and how brackets match, which is all that the rules need.

use std::ops::Range;

/// A file, ready for rules.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    /// As long as the file, byte for byte; comments and the insides of literals are spaces, line ends are kept.
    pub(super) code: String,
    /// Byte ranges of items under `#[cfg(test)]`; the whole file when it lies in a folder of tests.
    tests: Vec<Range<usize>>,
}

impl<'a> Source<'a> {
    pub(super) fn parse(path: &'a str, text: &'a str) -> Self {
        let code = mask(text);
        let tests = if is_test_path(path) { std::iter::once(0..code.len()).collect() } else { find_tests(&code) };
        Self { path, code, tests }
    }

    pub(super) fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&offset))
    }

    /// Number of the line, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.code[..offset].matches('\n').count()
    }

    /// Lines within `range` that hold code: no blank ones, no comments, nothing inside a literal.
    pub(super) fn code_lines(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut start = range.start;
        let lines = self.code[range].split_inclusive('\n').map(move |line| {
            start += line.len();
            (start - line.len()..start, line)
        });
        lines.filter(|(_, line)| !line.trim().is_empty()).map(|(at, _)| at)
    }

    /// Where `word` stands in the code, not as a part of a longer name.
    pub(super) fn find_all(&self, word: &str) -> impl Iterator<Item = usize> {
        let bounded = word.starts_with(is_name);
        let matches = self.code.match_indices(word).map(|(at, _)| at);
        matches.filter(move |at| !(bounded && self.code[..*at].ends_with(is_name)))
    }
}

/// The offset just behind the bracket that closes the one at `open`; the end of the code if there is none.
pub(super) fn close_of(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// The offset of the `{` or `;` that ends the head of the item at `from`, past its parameters.
pub(super) fn head_end(code: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'{' | b';' => return Some(at),
            b'(' | b'[' => at = close_of(code, at),
            _ => at += 1,
        }
    }
    None
}

pub(super) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_test_path(path: &str) -> bool {
    path.starts_with("crates/testkit/")
        || path.ends_with("/tests.rs")
        || path.split('/').any(|folder| matches!(folder, "tests" | "benches" | "fuzz"))
}

fn find_tests(code: &str) -> Vec<Range<usize>> {
    let attributes = ["#[cfg(test)]", "#[cfg(all(test"];
    let starts = attributes.iter().flat_map(|attribute| code.match_indices(attribute)).map(|(at, _)| at);
    starts.map(|start| start..item_end(code, start)).collect()
}

/// Behind the item whose first attribute is at `start`.
fn item_end(code: &str, start: usize) -> usize {
    let mut at = start;
    while code[at..].trim_start().starts_with("#[") {
        at += code[at..].find('[').expect("found above");
        at = close_of(code, at);
    }
    match head_end(code, at) {
        Some(end) if code.as_bytes()[end] == b'{' => close_of(code, end),
        Some(end) => end + 1,
        None => code.len(),
    }
}

/// Blanks comments and the insides of literals.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (inside, next) = literal(text, at);
        for byte in &mut code[inside] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(code).expect("only whole characters were replaced")
}

/// What is to be blanked at this place, and where to go on.
fn literal(text: &str, at: usize) -> (Range<usize>, usize) {
    let rest = &text.as_bytes()[at..];
    let nothing = (at..at, at + 1);
    match rest {
        [b'/', b'/', ..] => {
            let end = at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            (at..end, end)
        }
        [b'/', b'*', ..] => {
            let end = at + comment_length(rest);
            (at..end, end)
        }
        [b'r', b'"' | b'#', ..] => match raw_string(&text[at + 1..]) {
            Some((open, length)) if is_prefix(text, at) => (at + 1 + open..at + 1 + length - open, at + 1 + length),
            _ => nothing,
        },
        [b'"', ..] => match closing_quote(rest) {
            Some(length) => (at + 1..at + length, at + length + 1),
            None => (at + 1..text.len(), text.len()),
        },
        [b'\'', ..] => match char_length(&text[at..]) {
            Some(length) => (at + 1..at + length - 1, at + length),
            None => nothing,
        },
        _ => nothing,
    }
}

/// Whether the `r` at this place begins a literal, alone or as `br` and `cr`, rather than ending a name.
fn is_prefix(text: &str, at: usize) -> bool {
    let before = &text[..at];
    let before = before.strip_suffix(['b', 'c']).filter(|before| !before.ends_with(is_name)).unwrap_or(before);
    !before.ends_with(is_name)
}

/// Comments nest.
fn comment_length(rest: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// Lengths of the opening `#"` and of the whole, both without the `r`.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
    let inside = rest[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    Some((hashes + 1, 2 * (hashes + 1) + inside.find(&close)?))
}

/// Where the quote that closes the first one stands.
fn closing_quote(rest: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match rest.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at),
            _ => at += 1,
        }
    }
}

/// Length of a character literal; `None` for a lifetime or a label.
fn char_length(rest: &str) -> Option<usize> {
    let mut inside = rest[1..].chars();
    let first = inside.next()?;
    if first == '\\' {
        // Behind the escaped character, which may itself be a quote.
        let escaped = 2 + inside.next()?.len_utf8();
        return rest[escaped..].find('\'').map(|at| escaped + at + 1);
    }
    (inside.next()? == '\'').then(|| 2 + first.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mask(text: &str, expected: &str) {
        assert_eq!(Source::parse("src/a.rs", text).code, expected, "{text}");
    }

    #[test]
    fn comments_and_literals_are_blank_and_code_is_not() {
        check_mask("a // b\nc", "a     \nc");
        check_mask("a /* b /* c */ d\n*/ e", "a               \n   e");
        check_mask(r#"f("a // \" b", 'c')"#, r#"f("         ", ' ')"#);
        check_mask(r##"r#"a "b" {"# {"##, r##"r#"       "# {"##);
        check_mask(r#"br"a\" + bar"c""#, r#"br"  " + bar" ""#);
        check_mask(r"'\'' '\\' b'x' '\u{1F}' 'ä' }", r"'  ' '  ' b' ' '      ' '  ' }");
        check_mask("fn f<'a>(x: &'a str) -> r#type { 'l: loop {} }", "fn f<'a>(x: &'a str) -> r#type { 'l: loop {} }");
        check_mask("for \"open ä", "for \"       ");
        check_mask("/* open", "       ");
    }

    #[test]
    fn tests_are_found_with_their_whole_body() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn b() { \"}\" } // }\n}\nfn c() {}\n";
        let source = Source::parse("src/a.rs", text);
        let in_tests = |word| source.is_test(text.find(word).expect("there"));
        assert!(!in_tests("fn a") && in_tests("#[cfg") && in_tests("fn b") && !in_tests("fn c"));
        let import = Source::parse("src/a.rs", "#[cfg(test)]\nuse a::{b, c};\nfn d() {}");
        assert!(!import.is_test(import.code.find("fn d").expect("there")));
        assert!(Source::parse("crates/x/tests/it/a.rs", "fn a() {}").is_test(0));
    }

    #[test]
    fn words_are_not_found_inside_names() {
        let source = Source::parse("src/a.rs", "todo!() mytodo!() // todo!()");
        assert_eq!(source.find_all("todo!").collect::<Vec<_>>(), [0]);
    }
}
