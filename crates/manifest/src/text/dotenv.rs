//! Files of variables: `NAME=value`, comments, `export`, quotes as in the dotenv files of Compose. Nothing expands in them.

use super::is_environment_name;

/// A line that cannot be read: its number from 1, and why. The line itself may hold a secret and is not repeated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub line: usize,
    pub why: &'static str,
}

/// Reads all variables in order, and all lines that are none. A later one of the same name wins.
pub(crate) fn parse_dotenv(text: &str) -> (Vec<(String, String)>, Vec<Malformed>) {
    let (mut variables, mut problems) = (Vec::new(), Vec::new());
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (found, consumed) = parse_entry(rest);
        match found {
            Ok(Some(variable)) => variables.push(variable),
            Ok(None) => {}
            Err(why) => problems.push(Malformed { line, why }),
        }
        line += rest[..consumed].bytes().filter(|byte| *byte == b'\n').count();
        rest = &rest[consumed..];
    }
    (variables, problems)
}

type Entry = Result<Option<(String, String)>, &'static str>;

/// Reads one entry, which a quoted value may stretch over lines, and says how many bytes it took: at least one.
fn parse_entry(text: &str) -> (Entry, usize) {
    let line_end = text.find('\n').map_or(text.len(), |newline| newline + 1);
    let line = &text[..line_end];
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') {
        return (Ok(None), line_end);
    }
    let Some(equals) = line.find('=') else {
        return (Err("has no `=`"), line_end);
    };
    let name = line[..equals].trim();
    let name = name.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(name, str::trim);
    if !is_environment_name(name) {
        return (Err("has a malformed name"), line_end);
    }
    let value_start =
        equals + 1 + (line[equals + 1..].len() - line[equals + 1..].trim_start_matches([' ', '\t']).len());
    let value = &text[value_start..];
    let (value, consumed) = match value.as_bytes().first() {
        Some(quote @ (b'"' | b'\'')) => match quoted(&value[1..], char::from(*quote)) {
            Some((value, length)) => (value, value_start + 1 + length),
            None => return (Err("has a quote that is never closed"), line_end),
        },
        _ => return (Ok(Some((name.to_owned(), unquoted(&text[value_start..line_end])))), line_end),
    };
    let line_end = text[consumed..].find('\n').map_or(text.len(), |newline| consumed + newline + 1);
    let after = text[consumed..line_end].trim();
    if !after.is_empty() && !after.starts_with('#') {
        return (Err("has text after the closing quote"), line_end);
    }
    (Ok(Some((name.to_owned(), value))), line_end)
}

/// Up to a comment, which a blank must precede.
fn unquoted(text: &str) -> String {
    let comment = text.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || text[..*at].ends_with([' ', '\t'])));
    text[..comment.map_or(text.len(), |(at, _)| at)].trim().to_owned()
}

/// Reads up to the closing quote, and says how many bytes that took. Only double quotes know escapes.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Some((value, at + 1)),
            '\\' if quote == '"' => match characters.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                escaped @ ('"' | '\\' | '$') => value.push(escaped),
                other => value.extend(['\\', other]),
            },
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_and_without_quotes() {
        let text = "\u{feff}# comment\n\nA=1\r\nexport B = two words # comment\nC='si#ngle $X \\n'\nD=\"dou\\nble \\\"q\\\"\" # c\n\
                    E=\nF=a#b\nG=\"over\nlines\"\nexport=5\nH=\"\"";
        let (variables, problems) = parse_dotenv(text);
        let read: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "si#ngle $X \\n"),
            ("D", "dou\nble \"q\""),
            ("E", ""),
            ("F", "a#b"),
            ("G", "over\nlines"),
            ("export", "5"),
            ("H", ""),
        ];
        assert_eq!(read, expected);
        assert_eq!(problems, []);
    }

    #[test]
    fn malformed_lines_are_numbered_and_the_rest_is_read() {
        let (variables, problems) = parse_dotenv("nothing\nA B=x\nOK=\"a\nb\"\nB='x' y\nC=\"open\nD=1");
        assert_eq!(variables.len(), 2);
        let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 5, 6]);
    }
}
