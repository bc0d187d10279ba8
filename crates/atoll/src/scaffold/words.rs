//! Commands and values in the manifest's form: quoting of words, and `$` as Atoll understands it instead of a shell or
//! Compose. Pure text.

/// Characters that need no quotes in a command.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_@%+:,./-".contains(character)
}

/// Joins words into a command that splits into the same words. `None` when one holds a NUL.
pub fn join(words: &[String]) -> Option<String> {
    let quoted: Option<Vec<String>> = words.iter().map(|word| quote(word)).collect();
    Some(quoted?.join(" "))
}

fn quote(word: &str) -> Option<String> {
    // What only refers to variables is left readable; anything else goes between quotes, in which it expands all the same.
    let mut rest = word;
    while let Some(at) = rest.find("${") {
        let Some((name, after)) = rest[at + 2..].split_once('}') else { break };
        if !rest[..at].chars().all(|c| is_plain(c) || c == '=') || !is_variable(name) {
            break;
        }
        rest = after;
    }
    if !word.is_empty() && rest.chars().all(|c| is_plain(c) || c == '=') {
        return Some(word.to_owned());
    }
    shlex::try_quote(word).ok().map(Into::into)
}

/// Letters, digits and `_`, no digit first.
pub fn is_variable(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && !text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(inside)
}

/// Whether the first word of a command is something even where a variable that may be unset is not.
pub fn names_program(words: &[String]) -> bool {
    let unset = |reference: Option<(&str, &str)>| match reference {
        Some((_, ":-")) => String::new(),
        _ => "x".to_owned(),
    };
    words.first().is_some_and(|program| !references(program, unset).is_empty())
}

/// Replaces `text` by what replaces each `$…` that a shell or Compose knows. The callback is given the name and what
/// follows it between the braces; `None` stands for `$$`.
pub fn references(text: &str, mut replace: impl FnMut(Option<(&str, &str)>) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push_str(&replace(None));
            after
        } else if let Some((inside, after)) = after.strip_prefix('{').and_then(braced) {
            let length = name_length(inside);
            out.push_str(&replace(Some(inside.split_at(length))));
            after
        } else if name_length(after) > 0 {
            let (name, after) = after.split_at(name_length(after));
            out.push_str(&replace(Some((name, ""))));
            after
        } else {
            // Before a `{` that is never closed it would be a malformed reference.
            out.push_str(if after.starts_with('{') { "$$" } else { "$" });
            after
        };
    }
    out.push_str(rest);
    out
}

/// Up to the brace that closes, others within counted.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 1usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&text[..at], &text[at + 1..]));
        }
    }
    None
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return 0;
    }
    text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count()
}

/// A line that a shell was to run, as a command of the manifest: without the shell where none is needed.
/// `None` when it names no program.
pub fn from_shell(line: &str) -> Option<String> {
    let line = line.trim();
    let needs_shell = line.contains(['|', '&', ';', '<', '>', '`', '*', '?', '~', '\n', '(', ')', '#'])
        || line.split_whitespace().next().is_none_or(|word| word.contains('='));
    let mut foreign = needs_shell;
    let own = references(line, |reference| match reference {
        Some((name @ ("PORT" | "HOST"), rest))
            if rest.is_empty() || rest.starts_with(":-") || rest.starts_with('-') =>
        {
            format!("${{{name}}}")
        }
        _ => {
            foreign = true;
            String::new()
        }
    });
    let words = shlex::split(&own.replace("0.0.0.0", "${HOST}")).filter(|_| !foreign);
    if let Some(words) = words {
        return join(&words).filter(|_| names_program(&words));
    }
    // Each `$` is doubled, so that it reaches the shell.
    let shell = line.replace("0.0.0.0", "$HOST").replace('$', "$$");
    join(&["sh".to_owned(), "-c".to_owned(), shell]).filter(|_| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_kept_only_where_one_is_needed() {
        for (line, expected) in [
            ("gunicorn app:app -b 0.0.0.0:$PORT", Some("gunicorn app:app -b ${HOST}:${PORT}")),
            ("web ${PORT:-5000}", Some("web ${PORT}")),
            ("node a.js && node b.js", Some("sh -c 'node a.js && node b.js'")),
            ("X=1 node a.js", Some("sh -c 'X=1 node a.js'")),
            ("serve --dir $HOME", Some("sh -c 'serve --dir $$HOME'")),
            ("java $JAVA_OPTS -jar \"a b.jar\"", Some("sh -c 'java $$JAVA_OPTS -jar \"a b.jar\"'")),
            ("echo 'open", Some(r#"sh -c "echo 'open""#)),
            ("", None),
            ("''", None),
        ] {
            assert_eq!(from_shell(line).as_deref(), expected, "{line}");
        }
    }
}
