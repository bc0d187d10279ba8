//! Commands: words as a POSIX shell would split them, without a shell.

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Split {
    Words(Vec<String>),
    /// Nothing to run.
    Empty,
    /// A quote that is never closed, or a backslash at the end.
    Unbalanced,
}

/// Splits, and takes quotes away. `#` begins a comment where a word could begin, as in a shell.
pub(crate) fn split(text: &str) -> Split {
    match shlex::split(text) {
        None => Split::Unbalanced,
        Some(words) if words.first().is_none_or(String::is_empty) => Split::Empty,
        Some(words) => Split::Words(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let words = |text: &[&str]| Split::Words(text.iter().map(ToString::to_string).collect());
        assert_eq!(split("python3 -m http.server ${PORT}"), words(&["python3", "-m", "http.server", "${PORT}"]));
        assert_eq!(split(r#"sh -c 'exec x "$1"' '' a\ b"#), words(&["sh", "-c", "exec x \"$1\"", "", "a b"]));
        for empty in ["", "  ", "# nothing", "''"] {
            assert_eq!(split(empty), Split::Empty, "{empty}");
        }
        for unbalanced in ["'", "a \"b", "a\\"] {
            assert_eq!(split(unbalanced), Split::Unbalanced, "{unbalanced}");
        }
    }
}
