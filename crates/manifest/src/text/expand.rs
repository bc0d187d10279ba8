//! `${NAME}`, `${NAME:-default}` and `$$`. Any other `$` stands for itself, so that regular expressions need no care.

/// What a string became.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub text: String,
    /// Whether something of the environment is in it.
    pub changed: bool,
    pub problems: Vec<Problem>,
}

/// What could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No value and no default.
    Undefined(String),
    /// From this `${` on.
    Malformed(String),
}

/// What a name stands for.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    Value(&'a str),
    /// Known, but not yet: `${NAME}` stays.
    Later,
    Unknown,
}

/// Expands once, from left to right; what a value contains is not expanded again.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Lookup<'a>) -> Expanded {
    let mut out = Expanded { text: String::with_capacity(text.len()), changed: false, problems: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.text.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            match reference(after) {
                Some((name, default, after)) => {
                    substitute(&mut out, name, default, lookup(name));
                    after
                }
                None => {
                    out.problems.push(Problem::Malformed(rest[at..].chars().take(20).collect()));
                    ""
                }
            }
        } else {
            out.text.push('$');
            after
        };
    }
    out.text.push_str(rest);
    out
}

fn substitute(out: &mut Expanded, name: &str, default: Option<&str>, found: Lookup<'_>) {
    match (found, default) {
        // As in a shell, an empty value takes the default of `:-`.
        (Lookup::Value(""), Some(default)) | (Lookup::Unknown, Some(default)) => out.text.push_str(default),
        (Lookup::Value(value), _) => {
            out.text.push_str(value);
            out.changed = true;
        }
        (Lookup::Later, _) => out.text.push_str(&format!("${{{name}}}")),
        (Lookup::Unknown, None) => out.problems.push(Problem::Undefined(name.to_owned())),
    }
}

/// Reads `NAME}` or `NAME:-default}`. A default ends at the first `}`.
fn reference(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let (inside, after) = text.split_once('}')?;
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    super::is_variable(name).then_some((name, default, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str, problems: &[Problem]) {
        let expanded = expand(text, |name| match name {
            "USER" => Lookup::Value("ada"),
            "EMPTY" => Lookup::Value(""),
            "NESTED" => Lookup::Value("${USER}"),
            "PORT" => Lookup::Later,
            _ => Lookup::Unknown,
        });
        assert_eq!(expanded.text, expected, "{text}");
        assert_eq!(expanded.problems, problems, "{text}");
    }

    #[test]
    fn references_expand_once_and_other_dollars_stay() {
        check("", "", &[]);
        check("a ${USER}-${USER}", "a ada-ada", &[]);
        check("${NONE:-x:-y}${EMPTY:-z}${EMPTY}", "x:-yz", &[]);
        check("${NESTED}", "${USER}", &[]);
        check("$$ $${USER} ^a+$ $1 $", "$ ${USER} ^a+$ $1 $", &[]);
        check("http.server ${PORT} ${PORT:-80}", "http.server ${PORT} ${PORT}", &[]);
    }

    #[test]
    fn what_cannot_expand_is_named() {
        check("a${NONE}b", "ab", &[Problem::Undefined("NONE".to_owned())]);
        check("a${USER", "a", &[Problem::Malformed("${USER".to_owned())]);
        check("${a b}", "", &[Problem::Malformed("${a b}".to_owned())]);
        check("${}", "", &[Problem::Malformed("${}".to_owned())]);
    }
}
