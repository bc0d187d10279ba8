//! Addresses of other services in the texts of a service: `http://users:3000`, `db:5432`, `redis://cache`. Pure.

use std::ops::Range;

/// A name of a service within a text, where an address can stand.
#[derive(Debug, PartialEq, Eq)]
pub struct Link<'t> {
    pub name: &'t str,
    pub port: Option<u16>,
    /// Whether `http://` stands before it.
    pub http: bool,
    /// What the address takes of the text: with the scheme if that is `http`.
    pub span: Range<usize>,
}

/// Finds the names that `is_peer` knows, where a port follows or a scheme, or a user, comes before.
pub fn find<'t>(text: &'t str, is_peer: impl Fn(&str) -> bool) -> Vec<Link<'t>> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| inside(**byte)).count();
        if length == 0 {
            at += 1;
            continue;
        }
        let (start, end) = (at, at + length);
        at = end;
        // Both ends lie beside ASCII, so that they are boundaries of characters.
        let (Some(name), Some(before), Some(after)) = (text.get(start..end), text.get(..start), text.get(end..)) else {
            continue;
        };
        // `postgres://users:secret@db`: a name of somebody, not of a service.
        let is_user = || {
            before.ends_with("://")
                && after.split(['/', '?', '#', ' ', ',']).next().is_some_and(|host| host.contains('@'))
        };
        if !is_peer(name) || is_user() {
            continue;
        }
        let digits = after.strip_prefix(':').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        let port = after.get(1..1 + digits).and_then(|digits| digits.parse::<u16>().ok());
        let http = before.ends_with("http://");
        if port.is_none() && !before.ends_with("://") && !before.ends_with('@') {
            continue;
        }
        let start = if http { start - "http://".len() } else { start };
        let end = if port.is_some() { end + 1 + digits } else { end };
        found.push(Link { name, port, http, span: start..end });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_and_words_are_not() {
        let find = |text| find(text, |name| ["users", "db", "web"].contains(&name));
        let short =
            |text| find(text).iter().map(|l| (l.name, l.port, l.http, &text[l.span.clone()])).collect::<Vec<_>>();
        assert_eq!(short("http://users:3000/v1"), [("users", Some(3000), true, "http://users:3000")]);
        assert_eq!(short("postgres://a:b@db/x"), [("db", None, false, "db")]);
        assert_eq!(short("postgres://users:${A}@db:1/x"), [("db", Some(1), false, "db:1")]);
        assert_eq!(short("db:5432,web:80"), [("db", Some(5432), false, "db:5432"), ("web", Some(80), false, "web:80")]);
        assert_eq!(short("the web users http://web.example:80 ünusers:1"), []);
    }
}
