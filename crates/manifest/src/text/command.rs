//! Commands: words as a POSIX shell would split them, without a shell.

/// Splits, and takes quotes away. `#` begins a comment where a word could begin, as in a shell. `None` when a quote is
/// never closed or a backslash ends the text.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, expected) in [
            ("python3 -m http.server ${PORT}", &["python3", "-m", "http.server", "${PORT}"][..]),
            (r#"sh -c 'exec x "$1"' '' a\ b"#, &["sh", "-c", "exec x \"$1\"", "", "a b"]),
            ("", &[]),
            ("# nothing", &[]),
        ] {
            assert_eq!(split(text).expect(text), expected, "{text}");
        }
        for unbalanced in ["'", "a \"b", "a\\"] {
            assert_eq!(split(unbalanced), None, "{unbalanced}");
        }
    }
}
