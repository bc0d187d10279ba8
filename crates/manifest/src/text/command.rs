//! Commands: words as a POSIX shell would split them, without a shell, and what in them only a shell would understand.

use std::ops::Range;

/// Splits, and takes quotes away. `#` begins a comment where a word could begin, as in a shell. `None` when a quote is
/// never closed or a backslash ends the text.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    shlex::split(text)
}

/// Something that a shell acts on and a program is merely given as text. First what cannot be said without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shell {
    /// `&&`, `|`, `>` and their like.
    Operator,
    /// `$(…)` or backticks.
    Substitution,
    /// `NAME=value` in front of the program.
    Assignment,
    /// `~` or `~/…`.
    Home,
    /// `$NAME`: only `${NAME}` expands.
    Variable,
}

const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish"];

/// Finds what in a command only a shell would understand, the first of what weighs most, and where in the text it stands.
/// What is quoted or escaped means itself, and the word after `sh -c` is that shell's affair.
pub(crate) fn shell_syntax(text: &str) -> Option<(Shell, Range<usize>)> {
    let marks = marks(text);
    let mut before = "";
    let mut is_script = false;
    let mut found: Vec<(Shell, Range<usize>)> = Vec::new();
    for word in marks.split(is_blank) {
        let (Some(first), Some(last)) = (word.first(), word.last()) else { continue };
        let span = first.at..last.at + last.character.len_utf8();
        let written = &text[span.clone()];
        if std::mem::take(&mut is_script) {
            before = written;
            continue;
        }
        is_script = is_shell(before) && written.starts_with('-') && !written.starts_with("--") && written.contains('c');
        let whole = whole_word(written, before.is_empty()).map(|what| (what, span));
        found.extend(whole.or_else(|| within_word(word)));
        before = written;
    }
    found.into_iter().min_by_key(|(what, _)| *what)
}

fn is_shell(word: &str) -> bool {
    word.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name))
}

/// What a word says as a whole. With quotes or escapes it would read otherwise.
fn whole_word(word: &str, first: bool) -> Option<Shell> {
    let after_digits = word.trim_start_matches(|c: char| c.is_ascii_digit());
    if matches!(word, "&&" | "||" | "|" | "|&" | "&" | ";") || after_digits.starts_with(['<', '>']) || word == "&>" {
        return Some(Shell::Operator);
    }
    if word == "~" || word.starts_with("~/") {
        return Some(Shell::Home);
    }
    let name = word.split_once('=').map_or("", |(name, _)| name);
    (first && super::is_variable(name)).then_some(Shell::Assignment)
}

/// What stands somewhere in a word: a substitution, a variable, `&&`, `||`, or a `;` at its end.
fn within_word(word: &[Mark]) -> Option<(Shell, Range<usize>)> {
    for (index, mark) in word.iter().enumerate().filter(|(_, mark)| mark.quote != Quote::Literal) {
        let next = word.get(index + 1).filter(|next| next.quote != Quote::Literal).map(|next| next.character);
        match (mark.character, next) {
            ('`', _) => return Some((Shell::Substitution, mark.at..mark.at + 1)),
            ('$', Some('(')) => return Some((Shell::Substitution, mark.at..mark.at + 2)),
            ('$', Some(letter)) if letter.is_ascii_alphabetic() || letter == '_' => {
                let inside = |mark: &&Mark| mark.character.is_ascii_alphanumeric() || mark.character == '_';
                let length = word[index + 1..].iter().take_while(inside).count();
                return Some((Shell::Variable, mark.at..mark.at + 1 + length));
            }
            (';', _) if mark.quote == Quote::Bare && index + 1 == word.len() => {
                return Some((Shell::Operator, mark.at..mark.at + 1));
            }
            ('&' | '|', Some(again)) if mark.quote == Quote::Bare && again == mark.character => {
                return Some((Shell::Operator, mark.at..mark.at + 2));
            }
            _ => {}
        }
    }
    None
}

/// How a shell would see a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quote {
    Bare,
    /// Between double quotes, where substitutions still happen.
    Double,
    /// Means itself, or is a quote.
    Literal,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: usize,
    character: char,
    quote: Quote,
}

fn is_blank(mark: &Mark) -> bool {
    mark.quote == Quote::Bare && matches!(mark.character, ' ' | '\t' | '\n')
}

/// All characters but those of comments.
fn marks(text: &str) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::with_capacity(text.len());
    let (mut open, mut escaped, mut comment) = (None, false, false);
    for (at, character) in text.char_indices() {
        let begins = open.is_none() && !escaped && marks.last().is_none_or(is_blank);
        comment = character != '\n' && (comment || begins && character == '#');
        if comment {
            continue;
        }
        if escaped && character == '\n' {
            // The line goes on.
            escaped = false;
            marks.pop();
            continue;
        }
        let quote = match (open, character) {
            _ if escaped => {
                escaped = false;
                Quote::Literal
            }
            (Some('\''), _) if character != '\'' => Quote::Literal,
            (_, '\\') => {
                escaped = true;
                Quote::Literal
            }
            // `$$` is a dollar sign, which a shell never sees.
            (_, '$') if text[at + 1..].starts_with('$') => {
                escaped = true;
                Quote::Literal
            }
            (None, '\'' | '"') => {
                open = Some(character);
                Quote::Literal
            }
            (Some(closing), _) if closing == character => {
                open = None;
                Quote::Literal
            }
            (Some(_), _) => Quote::Double,
            (None, _) => Quote::Bare,
        };
        marks.push(Mark { at, character, quote });
    }
    marks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn what_only_a_shell_understands_is_found_where_it_stands() {
        for (text, what, found) in [
            ("npm ci && npm run build", Shell::Operator, "&&"),
            ("a || b", Shell::Operator, "||"),
            ("a ; b", Shell::Operator, ";"),
            ("cd a; b", Shell::Operator, ";"),
            ("ps | grep '|'", Shell::Operator, "|"),
            ("serve > out.log", Shell::Operator, ">"),
            ("serve >> out.log", Shell::Operator, ">>"),
            ("serve >out.log", Shell::Operator, ">out.log"),
            ("serve 2>&1", Shell::Operator, "2>&1"),
            ("serve < in", Shell::Operator, "<"),
            ("serve '&' &", Shell::Operator, "&"),
            ("serve --at $(date)", Shell::Substitution, "$("),
            ("serve \"at $(date)\"", Shell::Substitution, "$("),
            ("serve `date`", Shell::Substitution, "`"),
            ("LEVEL=debug serve", Shell::Assignment, "LEVEL=debug"),
            ("# first\nLEVEL=debug serve", Shell::Assignment, "LEVEL=debug"),
            ("~/bin/serve", Shell::Home, "~/bin/serve"),
            ("serve ~", Shell::Home, "~"),
            ("serve --port $PORT", Shell::Variable, "$PORT"),
            ("serve \"ä $PORT_2-x\"", Shell::Variable, "$PORT_2"),
            ("make && sh -c 'a'", Shell::Operator, "&&"),
            ("LEVEL=debug serve $PORT > out && b", Shell::Operator, ">"),
            ("sh serve.sh && b", Shell::Operator, "&&"),
            ("sh -c 'a && b' && c", Shell::Operator, "&&"),
            ("make&& make install", Shell::Operator, "&&"),
            ("a||b", Shell::Operator, "||"),
        ] {
            let (kind, span) = shell_syntax(text).expect(text);
            assert_eq!((kind, &text[span]), (what, found), "{text}");
        }
    }

    #[test]
    fn what_a_program_is_meant_to_be_given_is_left_alone() {
        for text in [
            "",
            "serve --port ${PORT} --name ${NAME:-x}",
            "sh -c 'a && b > c' $0",
            "/bin/bash -ec \"a && $(b)\" c",
            "env A=1 sh -c \"echo $HOME\"",
            "serve '&&' \"||\" \\; '>' \\> '$(a)' \\`a\\` '`a`' \"<\" '~/a' \\~/a",
            "serve http://x/?a=1&b=2;c a|b x->y --a=<b> 'a;' a~b --to=~/x",
            "serve $$(date) $$HOME \"$$HOME\" ^a$ $1 $",
            "serve # && b",
            "serve A=1 --set B=2",
            "./A=1 serve",
        ] {
            assert_eq!(shell_syntax(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_looked_through(text in "([ \\t\\n'\"\\\\$`#;|&<>~=(){}a_1é]|\\PC){0,40}") {
            if let Some((_, span)) = shell_syntax(&text) {
                prop_assert!(text.get(span).is_some_and(|found| !found.is_empty()));
            }
        }

        #[test]
        fn words_are_seen_as_the_splitter_sees_them(text in "[ \\n'\"\\\\#a]{0,24}") {
            // The splitter makes a word of a continued line that has nothing else.
            prop_assume!(!text.contains("\\\n"));
            let marks = marks(&text);
            let words = marks.split(is_blank).filter(|word| !word.is_empty()).count();
            if let Some(split) = split(&text) {
                prop_assert_eq!(words, split.len());
            }
        }
    }
}
