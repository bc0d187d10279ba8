//! Small pure readers of values: durations, names, commands, `${…}`, dotenv files, paths; and what messages say with them.

pub(crate) mod cel;
mod command;
mod dotenv;
mod duration;
mod expand;
mod nearest;
mod path;
mod quantity;
pub(crate) mod subject;
pub(crate) mod url;

pub(crate) use command::{Shell, shell_syntax, split};
pub(crate) use dotenv::parse_dotenv;
pub use duration::{format_duration, parse_duration};
pub(crate) use duration::{serialize as duration, serialize_all as durations, serialize_optional as duration_optional};
pub(crate) use expand::{Lookup, Problem, expand};
pub use nearest::nearest;
pub(crate) use path::normal_path;
pub(crate) use quantity::{format_cpu, parse_cpu, serialize_size as size};
pub use quantity::{format_size, parse_size};

/// Longest name of a thing: a DNS label, RFC 1123 §2.1.
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// Whether it is a lower-case DNS label that begins with a letter.
pub(crate) fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(inside)
}

/// The nearest valid name, for a hint.
pub(crate) fn as_name(text: &str) -> Option<String> {
    let fitting = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(fitting).take(NAME_BYTES_MAX).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).trim_end_matches('-').to_owned();
    is_name(&name).then_some(name)
}

/// Whether it can name an environment variable: letters, digits, `_`, no digit first.
pub(crate) fn is_variable(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !text.is_empty() && !text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(inside)
}

/// Whether a process can be given a variable of this name. Dots and dashes are allowed: some programs ask for them.
pub(crate) fn is_environment_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control())
}

/// Limit: bytes of the name of a header or a cookie.
const TOKEN_BYTES_MAX: usize = 100;

/// Whether it can name a header or a cookie: a token of RFC 9110 §5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && text.bytes().all(inside)
}

/// The prefix of a thing's variables: upper case, `-` as `_`.
pub(crate) fn as_variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// With its article: there is one manifest and one gateway.
pub(crate) fn article(noun: &str) -> String {
    if matches!(
        noun,
        "manifest"
            | "gateway"
            | "gateway limits"
            | "dashboard"
            | "broker"
            | "broker limits"
            | "store"
            | "batch"
            | "probes"
            | "resources"
            | "limits"
            | "load balancing"
    ) {
        return format!("the {noun}");
    }
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']) && !noun.starts_with("url");
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// Limit: characters of a line that quotes the manifest.
const LINE_CHARS_MAX: usize = 400;

/// Text from a manifest must neither steer the terminal nor fill it: control characters are escaped, bidirectional ones
/// too, and what is too long is cut.
pub(crate) fn one_line(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line = String::with_capacity(text.len().min(LINE_CHARS_MAX));
    for character in text.chars().take(LINE_CHARS_MAX) {
        if steers(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    if text.chars().nth(LINE_CHARS_MAX).is_some() {
        line.push('…');
    }
    line
}

/// `` `a`, `b` or `c` ``.
pub(crate) fn quoted_list<T: AsRef<str>>(words: &[T]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "cart", "user-2", &"a".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "2a", "-a", "a-", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(as_name("User_Service").as_deref(), Some("user-service"));
        assert_eq!(as_name("123"), None);
    }

    #[test]
    fn lists_are_spoken() {
        assert_eq!(quoted_list(&["a", "b", "c"]), "`a`, `b` or `c`");
        assert_eq!(quoted_list::<&str>(&[]), "");
        assert_eq!(article("edge"), "an edge");
    }
}
