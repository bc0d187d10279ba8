//! One reading of a request's path for router and service alike. Two programs that read a path differently are how
//! `/public/..%2fadmin` gets past a rule for `/admin`, so what has two readings is refused rather than repaired:
//!
//! refused: dot segments (also as `%2e`, also before `;`), encoded `/` and `\`, a bare `\`, control characters, broken
//! or overlong escapes; rewritten: escapes of unreserved characters are decoded, hex digits upper-cased, bytes beyond
//! ASCII escaped (RFC 3986 §6.2.2), repeated slashes merged. Services differ in whether `//admin` is `/admin`, clients
//! join base and path carelessly, so neither keeping nor refusing serves; merged before matching, and sent that way.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use crate::reason::{Reason, Refusal};

/// Gives the normal form of an absolute path, which is what routes match and what is sent upstream.
pub(crate) fn normalise(path: &str) -> Result<Cow<'_, str>, Refusal> {
    if !path.starts_with('/') {
        return Err(refusal("The path does not begin with a slash."));
    }
    if is_normal(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%' && byte != b'\\');
    let mut normal = if plain { Cow::Borrowed(path) } else { Cow::Owned(decode(path)?) };
    if normal.contains("//") {
        normal = Cow::Owned(merge_slashes(&normal));
    }
    if normal.split('/').any(is_dot_segment) {
        return Err(refusal("The path contains a `.` or `..` segment."));
    }
    Ok(normal)
}

/// Whether there is nothing to change or to refuse, at one look. `false` says nothing.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let is_open = before == b'/' && matches!(byte, b'/' | b'.');
        before = *byte;
        !is_open && byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\')
    })
}

/// Checks a path that requests are to be compared with, or that is to be sent: it must be what [`normalise`] makes of it.
///
/// # Errors
/// Why no request has this path.
pub fn check_pattern(path: &str) -> Result<(), &'static str> {
    let normal = normalise(path).map_err(|refusal| refusal.detail)?;
    if normal != path {
        return Err("The path is not in its normal form.");
    }
    // What no target can hold at all, and what would end the path.
    match path.parse::<PathAndQuery>() {
        Ok(target) if target.as_str() == path && target.query().is_none() => Ok(()),
        _ => Err("The path contains a character that must be encoded."),
    }
}

fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

fn decode(path: &str) -> Result<String, Refusal> {
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let escaped = bytes.next().and_then(hex).zip(bytes.next().and_then(hex));
                let Some((high, low)) = escaped else {
                    return Err(refusal("The path contains a broken escape."));
                };
                push_escaped(&mut normal, high << 4 | low)?;
            }
            b'\\' => return Err(refusal("The path contains a backslash.")),
            0..=0x20 | 0x7f => return Err(refusal("The path contains a control character.")),
            0x80.. => push_hex(&mut normal, byte),
            byte => normal.push(char::from(byte)),
        }
    }
    Ok(normal)
}

fn push_escaped(normal: &mut String, byte: u8) -> Result<(), Refusal> {
    match byte {
        b'/' | b'\\' => return Err(refusal("The path contains an encoded slash or backslash.")),
        0..0x20 | 0x7f => return Err(refusal("The path contains an encoded control character.")),
        // No UTF-8 text has these bytes, but lenient decoders read an overlong `/` or `.` out of them.
        0xc0 | 0xc1 => return Err(refusal("The path contains an overlong escape.")),
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => normal.push(char::from(byte)),
        byte => push_hex(normal, byte),
    }
    Ok(())
}

fn push_hex(normal: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    normal.push('%');
    normal.push(char::from(DIGITS[usize::from(byte >> 4)]));
    normal.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Servlet containers cut `;parameters` off a segment before they resolve it.
fn is_dot_segment(segment: &str) -> bool {
    let bare = segment.split_once(';').map_or(segment, |(bare, _)| bare);
    let bare = bare.split_once("%3B").map_or(bare, |(bare, _)| bare);
    bare == "." || bare == ".."
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

const fn refusal(detail: &'static str) -> Refusal {
    Refusal::new(Reason::BadPath, detail)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(paths: &[&str], expect: &Expect) {
        let mut table = String::new();
        for path in paths {
            let seen = normalise(path).map_or_else(|refusal| format!("refused: {}", refusal.detail), Cow::into_owned);
            writeln!(table, "{path:24} {seen}").unwrap();
        }
        expect.assert_eq(&table);
    }

    #[test]
    fn paths_with_one_reading_are_normalised() {
        check(
            &[
                "/",
                "/api/orders",
                "/a//b/",
                "//admin",
                "///",
                "//%61//;x//",
                "/%61dmin",
                "/caf%c3%a9",
                "/café",
                "/a%20b",
                "/a;v=1/b",
                "/...",
                "/.well-known/x",
                "/%252e%252e/",
                "/a:b@c!$&'()*+,=",
            ],
            &expect![[r#"
                /                        /
                /api/orders              /api/orders
                /a//b/                   /a/b/
                //admin                  /admin
                ///                      /
                //%61//;x//              /a/;x/
                /%61dmin                 /admin
                /caf%c3%a9               /caf%C3%A9
                /café                    /caf%C3%A9
                /a%20b                   /a%20b
                /a;v=1/b                 /a;v=1/b
                /...                     /...
                /.well-known/x           /.well-known/x
                /%252e%252e/             /%252e%252e/
                /a:b@c!$&'()*+,=         /a:b@c!$&'()*+,=
            "#]],
        );
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        check(
            &[
                "",
                "api",
                "/..",
                "/a/../b",
                "/a/.",
                "/%2e%2E/b",
                "/.%2e",
                "/..;x/b",
                "/..%3bx/b",
                "/a%2fb",
                "/a%5Cb",
                "/a\\b",
                "/a%00",
                "/a%0d%0aX: y",
                "/a%7f",
                "/a%",
                "/a%2",
                "/a%zz",
                "/%c0%af",
                "/a b",
            ],
            &expect![[r#"
                                         refused: The path does not begin with a slash.
                api                      refused: The path does not begin with a slash.
                /..                      refused: The path contains a `.` or `..` segment.
                /a/../b                  refused: The path contains a `.` or `..` segment.
                /a/.                     refused: The path contains a `.` or `..` segment.
                /%2e%2E/b                refused: The path contains a `.` or `..` segment.
                /.%2e                    refused: The path contains a `.` or `..` segment.
                /..;x/b                  refused: The path contains a `.` or `..` segment.
                /..%3bx/b                refused: The path contains a `.` or `..` segment.
                /a%2fb                   refused: The path contains an encoded slash or backslash.
                /a%5Cb                   refused: The path contains an encoded slash or backslash.
                /a\b                     refused: The path contains a backslash.
                /a%00                    refused: The path contains an encoded control character.
                /a%0d%0aX: y             refused: The path contains an encoded control character.
                /a%7f                    refused: The path contains an encoded control character.
                /a%                      refused: The path contains a broken escape.
                /a%2                     refused: The path contains a broken escape.
                /a%zz                    refused: The path contains a broken escape.
                /%c0%af                  refused: The path contains an overlong escape.
                /a b                     refused: The path contains a control character.
            "#]],
        );
    }

    #[test]
    fn a_pattern_is_a_path_that_a_request_can_have() {
        for path in ["/", "/api/", "/caf%C3%A9", "/a%20b", "/a;v=1/b", "/%252e/", "/a:b@c!$&'()*+,="] {
            assert_eq!(check_pattern(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "api",
            "//",
            "//a",
            "/a//b",
            "/a?b",
            "/a#b",
            "/<a>",
            "/a`",
            "/a b",
            "/café",
            "/caf%c3%a9",
            "/%61",
            "/50%",
            "/a%2",
            "/a%zz",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a/../b",
            "/%2e%2E/b",
            "/.;x",
            "/a%00",
            "/%c0%af",
        ] {
            assert!(check_pattern(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_form(path in "/(\\PC|%[0-9a-fA-F]{2}|[./;%\\\\]){0,24}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.is_ascii() && !normal.contains("//"));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
                let again = normalise(&normal).expect("a normal path is accepted");
                prop_assert_eq!(again.as_ref(), normal.as_ref());
            }
        }
    }
}
